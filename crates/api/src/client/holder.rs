//! Whether a daemon has a root at whose socket nobody answers: it starts or ends this moment, or somebody removed the socket.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The lock that a daemon holds as long as it lives.
fn lock(root: &Path) -> PathBuf {
    root.join("run/daemon.lock")
}

/// The lock of its audit journal, which lies where nobody clears up.
fn journal(root: &Path) -> PathBuf {
    root.join("audit/lock")
}

/// Whether a daemon lives on a root, also when its lock was removed. Who may not look into the root is told no.
pub fn is_there(root: &Path) -> bool {
    is_taken(&lock(root)) || journal_holder(root).is_some()
}

/// Whether a living process holds the lock; asks without taking it for longer than the question lasts. Who may not read it is told no.
pub fn is_taken(lock: &Path) -> bool {
    File::open(lock).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The daemon's process, if one holds the root.
pub(super) fn process(root: &Path) -> Option<u32> {
    noted(&lock(root)).or_else(|| journal_holder(root))
}

/// The process that has the audit journal of a root open.
pub fn journal_holder(root: &Path) -> Option<u32> {
    locked_by(&journal(root))
}

/// The number in the lock may be a former holder's, and another program's by now: it counts only for a process that has the lock open.
fn noted(lock: &Path) -> Option<u32> {
    let pid: u32 = std::fs::read_to_string(lock).ok()?.trim().parse().ok()?;
    has_open(pid, lock).then_some(pid)
}

fn has_open(pid: u32, file: &Path) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == file))
}

/// The process that holds a lock, as the kernel tells it. Unlike a try it gets in nobody's way who wants the lock this moment.
fn locked_by(lock: &Path) -> Option<u32> {
    let inode = std::fs::metadata(lock).ok()?.ino();
    let table = std::fs::read_to_string("/proc/locks").ok()?;
    // File systems number their files each for itself.
    table.lines().filter_map(held).filter(|(_, of)| *of == inode).map(|(pid, _)| pid).find(|pid| has_open(*pid, lock))
}

/// Whose lock a line of /proc/locks is, and of which inode: `1: FLOCK  ADVISORY  WRITE 708 00:13:1234 0 EOF`.
fn held(line: &str) -> Option<(u32, u64)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (kind, pid, file) = (fields.get(1)?, fields.get(4)?, fields.get(5)?);
    if *kind != "FLOCK" {
        return None;
    }
    Some((pid.parse().ok()?, file.rsplit(':').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_found_by_the_kernels_table_and_nobody_else_is() {
        assert_eq!(held("3: FLOCK  ADVISORY  WRITE 708 00:13:1234 0 EOF"), Some((708, 1234)));
        assert_eq!(held("3: -> FLOCK  ADVISORY  WRITE 709 00:13:1234 0 EOF"), None, "it only waits");
        assert_eq!(held("1: POSIX  ADVISORY  READ 5 fd:00:9 128 128"), None);
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().canonicalize().expect("there");
        std::fs::create_dir(root.join("audit")).expect("a folder");
        let file = File::create(journal(&root)).expect("made");
        assert_eq!((process(&root), is_there(&root)), (None, false));
        file.lock().expect("locked");
        assert_eq!((process(&root), is_there(&root)), (Some(std::process::id()), true));
        drop(file);
        assert_eq!((process(&root), is_there(&root)), (None, false));
    }
}
