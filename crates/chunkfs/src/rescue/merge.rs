//! The rows of all tables in the order of their keys, each with every version of it that could be read.

use super::blocks::Entry;
use super::tables::{Level, Table};
use crate::key::Key;
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;

/// What tables have under a key.
pub(super) struct Versions {
    pub(super) key: Key,
    /// The newest first, one of each level at most: the level, and the row unless it was removed there.
    all: Vec<(usize, Option<Bytes>)>,
}

impl Versions {
    pub(super) fn newest(&self) -> (usize, Option<&Bytes>) {
        let (level, row) = self.all.first().expect("it was made of one at least");
        (*level, row.as_ref())
    }

    /// Whether a level has one.
    pub(super) fn is_of(&self, level: usize) -> bool {
        self.all.iter().any(|(l, _)| *l == level)
    }

    /// The newest of those below a level.
    pub(super) fn below(&self, level: usize) -> Option<&Bytes> {
        self.all.iter().find(|(l, _)| *l < level)?.1.as_ref()
    }
}

/// Where the reading of a table stands.
struct Cursor<'a> {
    level: usize,
    table: &'a Table,
    /// The next block.
    block: usize,
    rows: std::vec::IntoIter<Entry>,
    ahead: Option<Entry>,
}

impl Cursor<'_> {
    fn step(&mut self) -> io::Result<()> {
        self.ahead = self.rows.next();
        while self.ahead.is_none() && self.block < self.table.blocks.len() {
            self.rows = self.table.rows(self.block)?.into_iter();
            self.ahead = self.rows.next();
            self.block += 1;
        }
        Ok(())
    }
}

/// The least key first; of one key the highest level, and of one level the newest.
type Head = Reverse<(Key, Reverse<usize>, Reverse<u64>, usize)>;

pub(super) struct Merge<'a> {
    cursors: Vec<Cursor<'a>>,
    heads: BinaryHeap<Head>,
    end: Key,
}

impl<'a> Merge<'a> {
    /// Of keys from one up to and excluding another.
    pub(super) fn over(levels: &'a [Level], from: Key, end: Key) -> io::Result<Merge<'a>> {
        let mut merge = Merge { cursors: Vec::new(), heads: BinaryHeap::new(), end };
        for (level, tables) in levels.iter().enumerate() {
            for table in &tables.tables {
                let block = table.blocks.partition_point(|b| b.last < from);
                let mut cursor = Cursor { level, table, block, rows: Vec::new().into_iter(), ahead: None };
                cursor.step()?;
                while cursor.ahead.as_ref().is_some_and(|row| row.key < from) {
                    cursor.step()?;
                }
                let n = merge.cursors.len();
                merge.cursors.push(cursor);
                merge.line_up(n);
            }
        }
        Ok(merge)
    }

    fn line_up(&mut self, n: usize) {
        let cursor = &self.cursors[n];
        if let Some(row) = cursor.ahead.as_ref().filter(|row| row.key < self.end) {
            self.heads.push(Reverse((row.key, Reverse(cursor.level), Reverse(row.seq), n)));
        }
    }

    /// The next key.
    pub(super) fn ahead(&self) -> Option<Key> {
        self.heads.peek().map(|Reverse((key, ..))| *key)
    }

    /// What there is of the next key.
    pub(super) fn take(&mut self) -> io::Result<Option<Versions>> {
        let Some(key) = self.ahead() else { return Ok(None) };
        let mut all: Vec<(usize, Option<Bytes>)> = Vec::new();
        while self.ahead() == Some(key) {
            let Some(Reverse((_, Reverse(level), _, n))) = self.heads.pop() else { break };
            let row = self.cursors[n].ahead.take();
            self.cursors[n].step()?;
            self.line_up(n);
            if let Some(row) = row
                && all.last().is_none_or(|(before, _)| *before != level)
            {
                all.push((level, row.value));
            }
        }
        Ok(Some(Versions { key, all }))
    }

    /// The same if the next key is of an inode.
    pub(super) fn take_of(&mut self, ino: u64) -> io::Result<Option<Versions>> {
        if self.ahead().and_then(Key::ino) == Some(ino) { self.take() } else { Ok(None) }
    }
}
