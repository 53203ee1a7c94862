//! Reading a folder: as many entries as the kernel has room for, and what it was told of with them.

use super::reply::{Known, Listing};
use orlop_chunkfs::{FileKind, FileSystem, FsError, FsResult, Ino};
use std::sync::Arc;

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

    /// Another one, if it found room; of one that did not the kernel is not told. Returns whether it did.
    fn add(&mut self, found_room: bool, ino: Ino) -> bool {
        if found_room {
            self.inodes.push(ino);
        } else {
            self.fs.forget(ino, 1);
        }
        found_room
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

/// Entries from `offset` on, with their attributes if the kernel is to know them. For "." and ".." it takes no
/// reference, whatever it is told.
pub(super) async fn fill(told: &mut Told, ino: Ino, offset: u64, known: Option<Known>, listing: &mut Listing) -> FsResult<()> {
    let fs = told.fs.clone();
    for (cookie, name) in [(1, &b"."[..]), (DOTS, b"..")].into_iter().filter(|(cookie, _)| *cookie > offset) {
        let dot = if cookie == DOTS { fs.parent_of(ino).await? } else { ino };
        let found_room = match known {
            Some(known) => listing.add_with(known, &fs.getattr(dot).await?, cookie, name),
            None => listing.add(dot, cookie, FileKind::Directory, name),
        };
        if !found_room {
            return Ok(());
        }
    }
    let mut cookie = offset.saturating_sub(DOTS);
    loop {
        let entries = fs.readdir(ino, cookie, ENTRIES).await?;
        let last = entries.len() < ENTRIES;
        for e in entries {
            cookie = e.cookie;
            let found_room = match known {
                Some(known) => match fs.lookup(ino, &e.name).await {
                    Ok(a) => told.add(listing.add_with(known, &a, e.cookie + DOTS, &e.name), a.ino),
                    // Removed between the reading and the lookup.
                    Err(FsError::NotFound) => continue,
                    Err(e) => return Err(e),
                },
                None => listing.add(e.ino, e.cookie + DOTS, e.kind, &e.name),
            };
            if !found_room {
                return Ok(());
            }
        }
        if last {
            return Ok(());
        }
    }
}
