//! A transaction: gathers the rows that one operation changes and commits them as one journal record,
//! with every counter (quota, inodes, live blocks of segments) accounted in the same record.
//!
//! Two changes of one transaction must not concern the same block.

use crate::change::{Change, Record};
use crate::chunk::{Chunk, Run};
use crate::key::{Key, SLOTS, position};
use crate::row::{Dirent, Inode, Orphan, Row, Super};
use crate::state::{Bases, Page, State, Step, Stop};
use crate::types::{Caller, FileKind, FsError, FsResult, Ino, NAME_MAX, Time};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) struct Tx<'a> {
    pub(crate) st: &'a mut State,
    pub(crate) now: Time,
    rows: BTreeMap<Key, Option<Row>>,
    changes: Vec<Change>,
    bases: Bases,
    live: BTreeMap<u64, i64>,
    sb: Super,
    request: u64,
    answer: u64,
    /// Whether growing beyond the quota is allowed, for work that frees space or moves blocks.
    unbounded: bool,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(st: &'a mut State) -> Self {
        let now = st.now();
        let sb = st.sb.clone();
        Tx {
            st,
            now,
            rows: BTreeMap::new(),
            changes: Vec::new(),
            bases: Bases::new(),
            live: BTreeMap::new(),
            sb,
            request: 0,
            answer: 0,
            unbounded: false,
        }
    }

    /// For a request of the kernel, which may come again.
    pub(crate) fn of(st: &'a mut State, cx: &Caller) -> Self {
        let mut tx = Tx::new(st);
        tx.request = cx.request;
        tx
    }

    /// What the request was answered when it came before.
    pub(crate) fn answered(&self) -> Option<u64> {
        if self.request == 0 { None } else { self.st.answers.get(&self.request).copied() }
    }

    pub(crate) fn row(&mut self, key: Key) -> Step<Option<Row>> {
        match self.rows.get(&key) {
            Some(row) => Ok(row.clone()),
            None => self.st.row(key),
        }
    }

    pub(crate) fn put(&mut self, key: Key, row: Row) {
        self.rows.insert(key, Some(row));
    }

    pub(crate) fn delete(&mut self, key: Key) {
        self.rows.insert(key, None);
    }

    /// The inode, or `NotFound`.
    pub(crate) fn inode(&mut self, ino: Ino) -> Step<Arc<Inode>> {
        match self.row(Key::Inode(ino))? {
            Some(Row::Inode(i)) => Ok(i),
            Some(_) => Err(FsError::Corrupt(format!("row of inode {ino}")).into()),
            None => Err(FsError::NotFound.into()),
        }
    }

    /// The inode of a folder that has a name, or why not.
    pub(crate) fn folder(&mut self, ino: Ino) -> Step<Inode> {
        let inode = self.inode(ino)?;
        if !inode.is_dir() {
            return Err(FsError::NotDirectory.into());
        }
        if inode.nlink == 0 {
            return Err(FsError::NotFound.into());
        }
        Ok(Arc::unwrap_or_clone(inode))
    }

    pub(crate) fn put_inode(&mut self, ino: Ino, inode: Inode) {
        self.put(Key::Inode(ino), Row::Inode(Arc::new(inode)));
    }

    /// Changes an inode in place.
    pub(crate) fn change_inode<T>(&mut self, ino: Ino, f: impl FnOnce(&mut Inode) -> T) -> Step<T> {
        let mut inode = Arc::unwrap_or_clone(self.inode(ino)?);
        let out = f(&mut inode);
        self.put_inode(ino, inode);
        Ok(out)
    }

    /// Takes a new inode number.
    pub(crate) fn new_ino(&mut self) -> Ino {
        let ino = self.sb.next_ino;
        self.sb.next_ino += 1;
        self.sb.inodes += 1;
        ino
    }

    pub(crate) fn inode_gone(&mut self) {
        self.sb.inodes = self.sb.inodes.saturating_sub(1);
    }

    /// The name in a folder: its position and entry if it is there, else the position where it would stand.
    pub(crate) fn find(&mut self, parent: Ino, name: &[u8]) -> Step<Result<(u64, Dirent), u64>> {
        check_name(name)?;
        let first = position(&self.st.hash_key, name);
        for pos in first..first + SLOTS {
            match self.row(Key::Dirent(parent, pos))? {
                None => return Ok(Err(pos)),
                Some(Row::Dirent(d)) if d.name == name => return Ok(Ok((pos, d))),
                Some(Row::Dirent(_)) => {}
                Some(_) => return Err(FsError::Corrupt(format!("row of a name in folder {parent}")).into()),
            }
        }
        // Eight names with equal hashes of 60 bits under a secret-free but volume-bound key: refused, not lost.
        Ok(Err(first + SLOTS))
    }

    /// Puts a name at a position that `find` gave as free.
    pub(crate) fn put_name(&mut self, parent: Ino, pos: u64, ino: Ino, kind: FileKind, name: &[u8]) -> Step<()> {
        if pos.is_multiple_of(SLOTS) && pos != position(&self.st.hash_key, name) {
            return Err(FsError::NoSpace.into());
        }
        self.put(Key::Dirent(parent, pos), Row::Dirent(Dirent { ino, kind, name: Bytes::copy_from_slice(name) }));
        Ok(())
    }

    /// Takes the name at a position out. Names of equal hash stand without gaps, so the last one moves down.
    pub(crate) fn delete_name(&mut self, parent: Ino, pos: u64) -> Step<()> {
        let end = pos - pos % SLOTS + SLOTS;
        let mut last = pos;
        let mut moved = None;
        while last + 1 < end {
            match self.row(Key::Dirent(parent, last + 1))? {
                Some(row) => {
                    last += 1;
                    moved = Some(row);
                }
                None => break,
            }
        }
        if let Some(row) = moved {
            self.put(Key::Dirent(parent, pos), row);
        }
        self.delete(Key::Dirent(parent, last));
        Ok(())
    }

    /// The chunk as it was before this transaction.
    pub(crate) fn chunk(&mut self, ino: Ino, chunk: u64) -> Step<Arc<Chunk>> {
        self.st.chunk(ino, chunk)
    }

    fn account(&mut self, gone: impl Iterator<Item = Run>) -> u64 {
        let mut blocks = 0;
        for run in gone {
            blocks += u64::from(run.len);
            if run.segment != 0 {
                *self.live.entry(run.segment).or_default() -= i64::from(run.len);
            }
        }
        blocks
    }

    /// Puts a run in place; returns by how many blocks the file grew.
    pub(crate) fn map(&mut self, ino: Ino, chunk: u64, run: Run) -> Step<u64> {
        self.st.hold_chunk(ino, chunk)?;
        let before = self.st.chunk(ino, chunk)?;
        let (from, to) = (run.start, run.end());
        let replaced = self.account(before.overlapping(from, to).map(|r| r.part(from, to)));
        if run.segment != 0 {
            *self.live.entry(run.segment).or_default() += i64::from(run.len);
        }
        let grown = u64::from(run.len) - replaced;
        self.sb.used_blocks += grown;
        self.changes.push(Change::Map { ino, chunk, run });
        Ok(grown)
    }

    /// Makes a hole; returns by how many blocks the file shrank.
    pub(crate) fn unmap(&mut self, ino: Ino, chunk: u64, from: u16, to: u16) -> Step<u64> {
        let before = self.st.chunk(ino, chunk)?;
        let freed = self.account(before.overlapping(from, to).map(|r| r.part(from, to)));
        if freed > 0 {
            self.st.hold_chunk(ino, chunk)?;
            self.sb.used_blocks = self.sb.used_blocks.saturating_sub(freed);
            self.changes.push(Change::Unmap { ino, chunk, from, to });
        }
        Ok(freed)
    }

    /// Changes bytes within an allocated block. `base` is what the block held.
    pub(crate) fn patch(&mut self, ino: Ino, block: u64, offset: u16, bytes: Bytes, base: Page) {
        self.bases.insert((ino, block), base);
        self.changes.push(Change::Patch { ino, block, offset, bytes });
    }

    /// Marks an inode that lost its last name. It goes at once if the kernel does not know it. One that is being
    /// shortened keeps the mark that says so: what is behind its end must go first, and its end then marks it.
    pub(crate) fn orphan(&mut self, ino: Ino) -> Step<()> {
        if !matches!(self.row(Key::Orphan(ino))?, Some(Row::Orphan(Orphan::Cut { .. }))) {
            self.put(Key::Orphan(ino), Row::Orphan(Orphan::Unlinked));
        }
        Ok(())
    }

    /// Lets the transaction exceed the quota: it frees space, or moves what is accounted already.
    pub(crate) fn unbounded(&mut self) {
        self.unbounded = true;
    }

    /// What the request is answered, should it come again.
    pub(crate) fn answer(&mut self, ino: Ino) {
        self.answer = ino;
    }

    /// Writes and applies everything as one record.
    pub(crate) fn commit(mut self) -> FsResult<u64> {
        let before = &self.st.sb;
        if let Some(quota) = self.st.quota_blocks
            && self.sb.used_blocks > quota
            && self.sb.used_blocks > before.used_blocks
            && !self.unbounded
        {
            return Err(FsError::Quota);
        }
        let mut changes: Vec<Change> = Vec::with_capacity(self.rows.len() + self.changes.len() + 3);
        if self.sb != *before {
            changes.push(Change::Put(Key::Super, Row::Super(self.sb)));
        }
        for (number, delta) in self.live {
            if delta == 0 {
                continue;
            }
            let Some(segment) = self.st.segments.get(&number) else {
                return Err(FsError::Corrupt(format!("segment {number:016x} is referred to but has no row")));
            };
            let mut segment = segment.clone();
            segment.live = segment
                .live
                .checked_add_signed(delta)
                .ok_or_else(|| FsError::Corrupt(format!("segment {number:016x} would have fewer than no blocks")))?;
            changes.push(Change::Put(Key::Segment(number), Row::Segment(segment)));
        }
        for (key, row) in self.rows {
            changes.push(match row {
                Some(row) => Change::Put(key, row),
                None => Change::Delete(key),
            });
        }
        changes.append(&mut self.changes);
        if changes.is_empty() && self.request == 0 {
            return Ok(self.st.journal.seq());
        }
        self.st.commit(Record { request: self.request, answer: self.answer, changes }, &self.bases)
    }
}

/// Refuses names that no folder can hold.
pub(crate) fn check_name(name: &[u8]) -> Result<(), Stop> {
    if name.len() > NAME_MAX {
        return Err(FsError::NameTooLong.into());
    }
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(FsError::Invalid.into());
    }
    Ok(())
}
