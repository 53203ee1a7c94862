//! `VOLUME:/path` read below a mountpoint, on a thread that may block.

use orlop_api::wire::{EntryKind, FileEntry, Listing};
use orlop_model::{Error, Result};
use orlop_mount::inside;
use std::fs::File;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("a reading died: {e}")))?
}

/// The entries of a folder, or the one entry of a file.
pub(crate) async fn list(mountpoint: String, path: PathBuf) -> Result<Listing> {
    blocking(move || {
        let entries = inside::list(Path::new(&mountpoint), path)?.into_iter().map(shown).collect();
        Ok(Listing { entries })
    })
    .await
}

/// A file, open for reading.
pub(crate) async fn open(mountpoint: String, path: PathBuf) -> Result<File> {
    blocking(move || inside::open(Path::new(&mountpoint), path)).await
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::io::Read;
    use std::os::unix::ffi::OsStrExt;

    #[tokio::test]
    async fn a_path_that_is_no_text_is_followed_and_leads_nowhere_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let volume = dir.path().join("volume");
        let name = |bytes| Path::new(OsStr::from_bytes(bytes)).to_owned();
        let folder = volume.join(name(b"d\xff"));
        std::fs::create_dir_all(&folder).expect("folders");
        std::fs::write(folder.join(name(b"f\xfe")), "inside").expect("file");
        std::fs::write(dir.path().join(name(b"f\xfe")), "outside").expect("file");
        std::os::unix::fs::symlink(dir.path(), volume.join(name(b"up\xff"))).expect("link");
        let at = volume.display().to_string();
        let read = async |path| {
            let mut text = String::new();
            open(at.clone(), name(path)).await.map(|mut f| f.read_to_string(&mut text).map(|_| text).expect("reads"))
        };
        assert_eq!(read(b"/d\xff/f\xfe").await.expect("opens"), "inside");
        assert_eq!(read(b"/d\xff/../../d\xff/f\xfe").await.expect("opens"), "inside");
        for (path, kind) in [
            (&b"/../f\xfe"[..], orlop_model::ErrorKind::NotFound),
            (b"/up\xff/f\xfe", orlop_model::ErrorKind::NotFound),
            (b"/d\xff", orlop_model::ErrorKind::InvalidArgument),
        ] {
            assert_eq!(read(path).await.expect_err("refused").kind, kind, "{path:?}");
        }
        for path in [&b"/d\xff"[..], b"/d\xff/f\xfe"] {
            let entries = list(at.clone(), name(path)).await.expect("lists").entries;
            assert_eq!(entries.iter().map(|e| (e.name.as_str(), e.size)).collect::<Vec<_>>(), [("f\u{fffd}", 6)], "{path:?}");
        }
    }
}
