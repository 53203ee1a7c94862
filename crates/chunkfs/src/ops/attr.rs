//! Attributes: looking up a name, reading and changing what an inode says of itself, totals of the volume.

use crate::chunk::Run;
use crate::fs::FileSystem;
use crate::key::CHUNK_BLOCKS;
use crate::row::{Inode, Orphan, Row};
use crate::state::{Page, Step};
use crate::tx::Tx;
use crate::types::{Attr, BLOCK, Caller, FileKind, FsError, FsResult, Ino, SetAttr, SetTime, Statfs};
use bytes::Bytes;

/// Largest file: what a signed 64-bit offset can address.
pub(crate) const MAX_FILE: u64 = i64::MAX as u64;

/// Chunk rows that one record may cut off; more are cut step by step.
pub(crate) const CUT_CHUNKS: u64 = 64;

/// Blocks that a store without bounds is said to have: 1 PiB.
const BOUNDLESS: u64 = (1 << 50) / BLOCK;

impl FileSystem {
    /// The inode that a name in a folder stands for. Counts as told to the kernel.
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> FsResult<Attr> {
        self.run(|st| {
            let mut tx = Tx::new(st);
            tx.folder(parent)?;
            let Ok((_, entry)) = tx.find(parent, name)? else { return Err(FsError::NotFound.into()) };
            let attr = tx.inode(entry.ino)?.attr(entry.ino);
            Ok(FileSystem::told(st, attr))
        })
        .await
    }

    /// The kernel forgets `n` of the times it was told of an inode.
    pub fn forget(&self, ino: Ino, n: u64) {
        let mut st = self.lock();
        let forgotten = st.lookups.forget(ino, n);
        match st.orphans.contains(&ino) {
            true if ino < st.inherited_below => self.wake.doubt.notify_one(),
            true if forgotten => self.queue_reap(ino),
            _ => {}
        }
    }

    /// Attributes of an inode.
    pub async fn getattr(&self, ino: Ino) -> FsResult<Attr> {
        self.run(|st| Ok(Tx::new(st).inode(ino)?.attr(ino))).await
    }

    /// Target of a symbolic link.
    pub async fn readlink(&self, ino: Ino) -> FsResult<Bytes> {
        self.run(|st| {
            let inode = Tx::new(st).inode(ino)?;
            if inode.kind != FileKind::Symlink {
                return Err(FsError::Invalid.into());
            }
            Ok(inode.target.clone())
        })
        .await
    }

    /// Changes attributes, the size among them, in one step.
    pub async fn setattr(&self, cx: &Caller, ino: Ino, set: &SetAttr) -> FsResult<Attr> {
        let Some(size) = set.size else {
            return self
                .change(|st| {
                    let mut tx = Tx::of(st, cx);
                    let mut inode = (*tx.inode(ino)?).clone();
                    if tx.answered().is_none() {
                        apply(&mut inode, cx, set, &tx);
                        tx.put_inode(ino, inode.clone());
                        tx.commit()?;
                    }
                    Ok(inode.attr(ino))
                })
                .await;
        };
        if size > MAX_FILE {
            return Err(FsError::TooBig);
        }
        self.admit().await?;
        let _turn = self.data_lock(ino).await;
        self.finish_half_cut(ino).await?;
        let tail = self.tail_to_clear(ino, size).await?;
        let (attr, more) = self.run(|st| set_size(Tx::of(st, cx), cx, ino, size, set, tail.as_ref())).await?;
        if more {
            self.half_cut.lock().insert(ino);
            self.finish_half_cut(ino).await?;
            return self.getattr(ino).await;
        }
        Ok(attr)
    }

    /// The block that a new end falls into, if bytes behind the end have to become zeros.
    async fn tail_to_clear(&self, ino: Ino, size: u64) -> FsResult<Option<Page>> {
        let inode = self.run(|st| Tx::new(st).inode(ino)).await?;
        match inode.kind {
            FileKind::File => {}
            FileKind::Directory => return Err(FsError::IsDirectory),
            _ => return Err(FsError::Invalid),
        }
        if size >= inode.size || size.is_multiple_of(BLOCK) {
            return Ok(None);
        }
        self.page(ino, size / BLOCK).await
    }

    /// Totals of the volume: the quota if there is one, else what the host's disk could hold, or for a volume whose home
    /// is the store what no store ever filled up. `gathered`: of what the host's disk has, without what is kept for a kernel that
    /// gathers writes. Never waits.
    pub fn statfs(&self, gathered: bool) -> FsResult<Statfs> {
        let mut st = self.lock();
        st.look()?;
        let (total, free) = (st.host_total, st.host_free);
        let used = st.sb.used_blocks;
        // What was removed counts as free although its files go a moment later.
        let dead = st.dead_blocks().min((total - free.min(total)) / BLOCK);
        let kept = st.kept() + if gathered { st.gathered() } else { 0 };
        let host_free = free.saturating_sub(kept) / BLOCK + dead;
        let (blocks, free) = match st.quota_blocks {
            quota if st.outbox.is_some() => {
                let all = quota.unwrap_or(BOUNDLESS).max(used);
                (all, all - used)
            }
            Some(quota) => (quota.max(used), quota.saturating_sub(used).min(host_free)),
            None => (used + host_free, host_free),
        };
        Ok(Statfs { blocks, free, inodes: st.sb.inodes, inodes_free: (1 << 40) - st.sb.inodes.min(1 << 39) })
    }
}

fn apply(inode: &mut Inode, cx: &Caller, set: &SetAttr, tx: &Tx<'_>) {
    let at = |t: SetTime| match t {
        SetTime::Now => tx.now,
        SetTime::At(t) => t,
    };
    if let Some(perm) = set.perm {
        inode.perm = perm & 0o7777;
    }
    if set.perm.is_none() && (set.uid.is_some() || set.gid.is_some()) {
        // Whoever changes the owner, root included.
        inode.take_off_set_id();
    }
    inode.uid = set.uid.unwrap_or(inode.uid);
    inode.gid = set.gid.unwrap_or(inode.gid);
    if let Some(t) = set.atime {
        inode.atime = at(t);
    }
    if let Some(t) = set.mtime {
        inode.mtime = at(t);
    }
    let is_kernels = cx.keeps_times && inode.kind == FileKind::File;
    inode.ctime = set.ctime.unwrap_or(if is_kernels { inode.ctime } else { tx.now });
}

/// Sets the size; tells whether blocks have still to be cut off.
pub(crate) fn set_size(mut tx: Tx<'_>, cx: &Caller, ino: Ino, size: u64, set: &SetAttr, tail: Option<&Page>) -> Step<(Attr, bool)> {
    let mut inode = (*tx.inode(ino)?).clone();
    if tx.answered().is_some() {
        return Ok((inode.attr(ino), false));
    }
    let mut more = false;
    let from = size.div_ceil(BLOCK);
    if size <= inode.size && from < inode.extent_end {
        if (inode.extent_end - from) / CHUNK_BLOCKS < CUT_CHUNKS {
            inode.blocks -= cut(&mut tx, ino, from, inode.extent_end)?.min(inode.blocks);
            inode.extent_end = from;
        } else {
            tx.put(crate::key::Key::Orphan(ino), Row::Orphan(Orphan::Cut { from }));
            more = true;
        }
    }
    if let Some(page) = tail {
        let within = (size % BLOCK) as u16;
        if page[usize::from(within)..].iter().any(|b| *b != 0) {
            let zeros = Bytes::from(vec![0; BLOCK as usize - usize::from(within)]);
            tx.st.hold_chunk(ino, size / BLOCK / CHUNK_BLOCKS)?;
            tx.patch(ino, size / BLOCK, within, zeros, page.clone());
        }
    }
    inode.size = size;
    if !cx.keeps_times {
        inode.mtime = tx.now;
    }
    if cx.uid != 0 {
        inode.take_off_set_id();
    }
    apply(&mut inode, cx, set, &tx);
    tx.put_inode(ino, inode.clone());
    tx.unbounded();
    tx.commit()?;
    Ok((inode.attr(ino), more))
}

/// Takes the blocks from `from` up to `end` out; returns how many there were.
pub(crate) fn cut(tx: &mut Tx<'_>, ino: Ino, from: u64, end: u64) -> Step<u64> {
    let mut freed = 0;
    let mut block = from;
    while block < end {
        let chunk = block / CHUNK_BLOCKS;
        let next = ((chunk + 1) * CHUNK_BLOCKS).min(end);
        let first = (block % CHUNK_BLOCKS) as u16;
        freed += tx.unmap(ino, chunk, first, first + (next - block) as u16)?;
        block = next;
    }
    Ok(freed)
}

/// Reserves one block if it is a hole; returns by how many blocks the file grew.
pub(crate) fn reserve_one(tx: &mut Tx<'_>, ino: Ino, block: u64) -> Step<u64> {
    let (chunk, within) = (block / CHUNK_BLOCKS, (block % CHUNK_BLOCKS) as u16);
    if tx.chunk(ino, chunk)?.at(within).is_some() {
        tx.st.hold_chunk(ino, chunk)?;
        return Ok(0);
    }
    tx.map(ino, chunk, Run::reserved(within, 1))
}
