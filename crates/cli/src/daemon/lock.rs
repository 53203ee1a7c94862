//! One daemon a root: a lock on `run/daemon.lock` that ends with the process, however it ends.

use orlop_model::{Error, FileId, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a lock is tried that somebody may only be looking at, and the pause between.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// The lock; held as long as this lives.
pub(crate) struct Lock {
    file: Mutex<File>,
    path: PathBuf,
}

/// Takes the lock; `None` if another process holds it.
pub(crate) fn take(path: &Path) -> Result<Option<Lock>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::io(path.display(), &e))?;
    let mut tries = 0;
    loop {
        match file.try_lock() {
            Ok(()) if is_at(&file, path) => return Ok(Some(Lock { file: Mutex::new(file), path: path.to_owned() })),
            // Its holder removed it while this one opened it: what is locked now is a file without a name.
            Ok(()) => return take(path),
            // Whoever asks whether it is held has it for an instant.
            Err(TryLockError::WouldBlock) if tries < TRIES => {
                tries += 1;
                std::thread::sleep(PAUSE);
            }
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(Error::io(format_args!("locking {}", path.display()), &e)),
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    matches!((file.metadata(), std::fs::metadata(path)), (Ok(own), Ok(there)) if FileId::of(&own) == FileId::of(&there))
}

impl Lock {
    fn file(&self) -> MutexGuard<'_, File> {
        // Whoever panicked with it left a file as good as before.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go, and takes the file away: nothing is left of a holder that ends in good order.
    pub(crate) fn remove(self) {
        self.clear();
    }

    /// Takes the file away before its holder ends: one that did not come up must not displace another, which lives and whose file was
    /// removed.
    pub(crate) fn clear(&self) {
        if is_at(&self.file(), &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Holds another file of the name if that was removed. Returns whether it did.
    pub(crate) fn renew(&self) -> Result<bool> {
        if self.path.exists() {
            return Ok(false);
        }
        let Some(Lock { file, .. }) = take(&self.path)? else { return Ok(false) };
        *self.file() = file.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(true)
    }

    /// Whether another file is in its place: then another process may hold that one, and with it what this one stood for.
    pub(crate) fn is_displaced(&self) -> bool {
        self.path.exists() && !is_at(&self.file(), &self.path)
    }

    /// Writes something about the holder into the file, for people and for [`holder`].
    pub(crate) fn note(&self, text: &str) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let mut file = self.file();
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(text.as_bytes())
        };
        write().map_err(|e| Error::io("noting the holder of a lock", &e))
    }
}

/// What the holder of a lock noted.
pub(crate) fn holder(path: &Path) -> String {
    let mut text = String::new();
    if let Ok(file) = File::open(path) {
        // A note is a path; a file that is not ours may be any size.
        let _ = file.take(4096).read_to_string(&mut text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_api::client::is_taken;

    #[test]
    fn only_one_holds_it_and_it_ends_with_its_holder() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("lock");
        assert!(!is_taken(&path));
        let held = take(&path).expect("opens").expect("free");
        held.note("me").expect("writes");
        assert_eq!(holder(&path), "me");
        assert!(take(&path).expect("opens").is_none());
        assert!(is_taken(&path));
        drop(held);
        assert!(!is_taken(&path));
        let held = take(&path).expect("opens").expect("free again");
        held.remove();
        assert!(!path.exists());
        let removed = take(&path).expect("opens").expect("free");
        assert!(!removed.is_displaced());
        std::fs::remove_file(&path).expect("removed");
        assert!(!removed.is_displaced(), "nobody else can hold it");
        assert!(removed.renew().expect("opens") && is_taken(&path) && !removed.renew().expect("opens"));
        std::fs::remove_file(&path).expect("removed");
        let other = take(&path).expect("opens").expect("a file of its own");
        assert!(removed.is_displaced());
        removed.clear();
        assert!(path.exists(), "it is the other one's");
        other.clear();
        assert!(!path.exists() && removed.renew().expect("opens") && !removed.is_displaced());
    }
}
