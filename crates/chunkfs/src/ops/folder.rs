//! Reading folders, also while they change: entries come in the order of their positions.

use crate::fs::{FileSystem, after};
use crate::key::{Key, SLOTS};
use crate::row::Row;
use crate::tx::Tx;
use crate::types::{DirEntry, FsResult, Ino};

/// Below every position; a reading starts here.
const START: u64 = SLOTS - 1;

impl FileSystem {
    /// Entries of a folder behind a cookie, at most `max`; none at the end. `.` and `..` are not among them.
    ///
    /// An entry that stands during the whole reading comes exactly once; one that is made, removed or renamed
    /// meanwhile comes at most once under each of its names.
    pub async fn readdir(&self, ino: Ino, cookie: u64, max: usize) -> FsResult<Vec<DirEntry>> {
        let folder = self.run(|st| Tx::new(st).inode(ino)).await?;
        if !folder.is_dir() {
            return Err(crate::types::FsError::NotDirectory);
        }
        let from = after(Key::Dirent(ino, cookie.max(START)));
        let rows = self.scan(from, Key::Dirent(ino + 1, 0), max).await?;
        let entries = rows.into_iter().filter_map(|(key, row)| match (key, row) {
            (Key::Dirent(_, pos), Row::Dirent(d)) => Some(DirEntry { ino: d.ino, kind: d.kind, name: d.name, cookie: pos }),
            _ => None,
        });
        Ok(entries.collect())
    }

    /// The folder above a folder; of the root the root itself.
    pub async fn parent_of(&self, ino: Ino) -> FsResult<Ino> {
        let inode = self.run(|st| Tx::new(st).inode(ino)).await?;
        if !inode.is_dir() {
            return Err(crate::types::FsError::NotDirectory);
        }
        Ok(inode.parent)
    }
}
