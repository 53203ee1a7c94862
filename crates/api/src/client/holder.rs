//! Whether a daemon has a root at whose socket nobody answers: it starts or ends this moment, or somebody removed the socket.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// The lock that a daemon holds as long as it lives.
fn lock(root: &Path) -> PathBuf {
    root.join("run/daemon.lock")
}

/// Whether one lives.
pub(super) fn is_there(root: &Path) -> bool {
    is_taken(&lock(root))
}

/// Whether a living process holds the lock; asks without taking it for longer than the question lasts. Who may not read it is told no.
pub fn is_taken(lock: &Path) -> bool {
    File::open(lock).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Its process. The number in the lock may be a former holder's, and another program's by now: it counts only for a process that has the
/// lock open.
pub(super) fn process(root: &Path) -> Option<u32> {
    let lock = lock(root);
    let pid: u32 = std::fs::read_to_string(&lock).ok()?.trim().parse().ok()?;
    let mut open = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    open.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == lock)).then_some(pid)
}
