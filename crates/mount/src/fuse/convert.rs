//! Between the words of the kernel and those of the file system.

use super::reply::Errno;
use orlop_chunkfs::{FileKind, FsError};
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// What mknod is to make; `None` for what it may not.
pub(super) fn kind_of_mode(mode: u32) -> Option<FileKind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(FileKind::File),
        libc::S_IFIFO => Some(FileKind::Fifo),
        libc::S_IFSOCK => Some(FileKind::Socket),
        libc::S_IFCHR => Some(FileKind::CharDevice),
        libc::S_IFBLK => Some(FileKind::BlockDevice),
        _ => None,
    }
}

/// How often it is said that there is no room, or that nothing may be changed: each write meets it, and the log lies on that disk.
const NEWS_EVERY: Duration = Duration::from_secs(10);

/// Whether that was not said of late.
fn is_news() -> bool {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock();
    let is_news = last.is_none_or(|at| at.elapsed() >= NEWS_EVERY);
    if is_news {
        *last = Some(Instant::now());
    }
    is_news
}

/// The number that the kernel is told. What nobody can react to is said in the log, with its cause.
pub(super) fn errno(what: &'static str, ino: u64, error: &FsError) -> Errno {
    match error {
        FsError::Corrupt(_) | FsError::Fenced(_) | FsError::Io(_) | FsError::Unavailable(_) => {
            tracing::error!("{what} on inode {ino}: {error}")
        }
        FsError::ReadOnly(_) | FsError::NoSpace if is_news() => {
            tracing::warn!("{what} on inode {ino}: {error} (said at most every {} s)", NEWS_EVERY.as_secs());
        }
        _ => tracing::trace!("{what} on inode {ino}: {error}"),
    }
    error.errno()
}

/// A name that a folder may hold.
pub(super) fn name(name: &[u8]) -> Result<Vec<u8>, Errno> {
    if name.len() > orlop_chunkfs::NAME_MAX { Err(libc::ENAMETOOLONG) } else { Ok(name.to_vec()) }
}

/// An extended attribute that a volume may hold. The kernel would not enforce access lists here (they are not
/// negotiated), so to store one would be to promise what nobody keeps.
pub(super) fn attribute_name(name: &[u8]) -> Result<Vec<u8>, Errno> {
    if name.len() > orlop_chunkfs::NAME_MAX {
        return Err(libc::ERANGE);
    }
    let known = [&b"user."[..], b"trusted.", b"security."];
    if known.iter().any(|k| name.starts_with(k) && name.len() > k.len()) { Ok(name.to_vec()) } else { Err(libc::EOPNOTSUPP) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_lists_are_refused_and_ordinary_attributes_are_not() {
        for good in ["user.a", "trusted.overlay.opaque", "security.capability"] {
            assert!(attribute_name(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["system.posix_acl_access", "user.", "a", "com.apple.x"] {
            assert!(attribute_name(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
