//! `VOLUME:/path` read below a mountpoint, on a thread that may block.

use orlop_api::wire::{EntryKind, FileEntry, Listing};
use orlop_model::{Error, Result};
use orlop_mount::inside;
use std::fs::File;
use std::path::Path;
use time::OffsetDateTime;

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("a reading died: {e}")))?
}

/// The entries of a folder, or the one entry of a file.
pub(crate) async fn list(mountpoint: String, path: String) -> Result<Listing> {
    blocking(move || {
        let entries = inside::list(Path::new(&mountpoint), &path)?.into_iter().map(shown).collect();
        Ok(Listing { entries })
    })
    .await
}

/// A file, open for reading.
pub(crate) async fn open(mountpoint: String, path: String) -> Result<File> {
    blocking(move || inside::open(Path::new(&mountpoint), &path)).await
}

fn shown(found: inside::Entry) -> FileEntry {
    FileEntry {
        name: found.name.to_string_lossy().into_owned(),
        kind: match found.kind {
            inside::EntryKind::File => EntryKind::File,
            inside::EntryKind::Directory => EntryKind::Directory,
            inside::EntryKind::Symlink => EntryKind::Symlink,
            inside::EntryKind::Fifo => EntryKind::Fifo,
            inside::EntryKind::Socket => EntryKind::Socket,
            inside::EntryKind::CharDevice => EntryKind::Char,
            inside::EntryKind::BlockDevice => EntryKind::Block,
        },
        mode: found.mode,
        links: found.links,
        uid: found.uid,
        gid: found.gid,
        size: found.size,
        modified: OffsetDateTime::from_unix_timestamp(found.mtime).unwrap_or(OffsetDateTime::UNIX_EPOCH),
        target: found.target.map(|t| t.to_string_lossy().into_owned()),
    }
}
