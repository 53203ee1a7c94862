//! Reading a folder: as many entries as the kernel has room for, and what it was told of with them.

use super::reply::Listing;
use orlop_chunkfs::{FileKind, FileSystem, FsError, FsResult, Ino};
use std::sync::Arc;
use std::time::Duration;

/// "." and ".." come before the entries of a folder, whose own cookies are shifted by as much.
const DOTS: u64 = 2;
/// Entries asked for at a time; the kernel rarely has room for more.
const ENTRIES: usize = 256;

/// Inodes that an answer tells the kernel of. Whatever is still in it when it goes was not told.
pub(super) struct Told {
    fs: Arc<FileSystem>,
    inodes: Vec<Ino>,
}

impl Told {
    pub(super) fn nothing(fs: Arc<FileSystem>) -> Told {
        Told { fs, inodes: Vec::new() }
    }

    /// The kernel knows them now.
    pub(super) fn all_told(mut self) {
        self.inodes.clear();
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        for ino in self.inodes.drain(..) {
            self.fs.forget(ino, 1);
        }
    }
}

/// Entries from `offset` on.
pub(super) async fn fill(fs: &FileSystem, ino: Ino, offset: u64, listing: &mut Listing) -> FsResult<()> {
    if offset == 0 && !listing.add(ino, 1, FileKind::Directory, b".") {
        return Ok(());
    }
    if offset <= 1 {
        let parent = fs.parent_of(ino).await?;
        if !listing.add(parent, DOTS, FileKind::Directory, b"..") {
            return Ok(());
        }
    }
    let mut cookie = offset.saturating_sub(DOTS);
    loop {
        let entries = fs.readdir(ino, cookie, ENTRIES).await?;
        let last = entries.len() < ENTRIES;
        for e in entries {
            cookie = e.cookie;
            if !listing.add(e.ino, e.cookie + DOTS, e.kind, &e.name) {
                return Ok(());
            }
        }
        if last {
            return Ok(());
        }
    }
}

/// Entries with their attributes. For "." and ".." the kernel takes no reference, whatever it is told.
pub(super) async fn fill_plus(told: &mut Told, ino: Ino, offset: u64, ttl: Duration, listing: &mut Listing) -> FsResult<()> {
    let fs = told.fs.clone();
    if offset == 0 {
        let own = fs.getattr(ino).await?;
        if !listing.add_with(ttl, &own, 1, b".") {
            return Ok(());
        }
    }
    if offset <= 1 {
        let parent = fs.getattr(fs.parent_of(ino).await?).await?;
        if !listing.add_with(ttl, &parent, DOTS, b"..") {
            return Ok(());
        }
    }
    let mut cookie = offset.saturating_sub(DOTS);
    loop {
        let entries = fs.readdir(ino, cookie, ENTRIES).await?;
        let last = entries.len() < ENTRIES;
        for e in entries {
            cookie = e.cookie;
            let a = match fs.lookup(ino, &e.name).await {
                Ok(a) => a,
                // Removed between the reading and the lookup.
                Err(FsError::NotFound) => continue,
                Err(e) => return Err(e),
            };
            if !listing.add_with(ttl, &a, e.cookie + DOTS, &e.name) {
                // No room: the kernel is not told of this one.
                fs.forget(a.ino, 1);
                return Ok(());
            }
            told.inodes.push(a.ino);
        }
        if last {
            return Ok(());
        }
    }
}
