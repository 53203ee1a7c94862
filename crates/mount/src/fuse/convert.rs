//! Between the words of the FUSE library and those of the file system.

use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};
use orlop_chunkfs::{Attr, FileKind, FsError, SetTime, Time};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

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

/// The attributes of a name that is not there.
pub(super) const NOBODY_THERE: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

pub(super) fn attributes(a: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(a.ino),
        size: a.size,
        blocks: a.blocks,
        atime: a.atime.into(),
        mtime: a.mtime.into(),
        ctime: a.ctime.into(),
        crtime: a.crtime.into(),
        kind: file_type(a.kind),
        perm: (a.perm & 0o7777) as u16,
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: a.rdev,
        blksize: orlop_chunkfs::BLOCK as u32,
        flags: 0,
    }
}

/// A time as the kernel sent it. The library takes seconds before 1970 for a distance to which the nanoseconds
/// add, while they count forward from the second: this takes its sum apart again.
fn sent_time(t: SystemTime) -> Time {
    match t.duration_since(UNIX_EPOCH) {
        Ok(after) => Time { sec: after.as_secs() as i64, nsec: after.subsec_nanos() },
        Err(before) => {
            let d = before.duration();
            Time { sec: 0i64.wrapping_sub_unsigned(d.as_secs()), nsec: d.subsec_nanos() }
        }
    }
}

pub(super) fn set_time(t: TimeOrNow) -> SetTime {
    match t {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(t) => SetTime::At(sent_time(t)),
    }
}

pub(super) fn set_ctime(t: SystemTime) -> Time {
    sent_time(t)
}

/// The number that the kernel is told. What nobody can react to is said in the log, with its cause.
pub(super) fn errno(what: &'static str, ino: u64, error: &FsError) -> Errno {
    match error {
        FsError::Corrupt(_) | FsError::Fenced(_) | FsError::Io(_) => tracing::error!("{what} on inode {ino}: {error}"),
        FsError::ReadOnly(_) | FsError::NoSpace => tracing::warn!("{what} on inode {ino}: {error}"),
        _ => tracing::trace!("{what} on inode {ino}: {error}"),
    }
    Errno::from_i32(error.errno())
}

/// A name that a folder may hold.
pub(super) fn name(name: &OsStr) -> Result<&[u8], Errno> {
    let bytes = name.as_bytes();
    if bytes.len() > orlop_chunkfs::NAME_MAX { Err(Errno::ENAMETOOLONG) } else { Ok(bytes) }
}

/// An extended attribute that a volume may hold. The kernel would not enforce access lists here (they are not
/// negotiated), so to store one would be to promise what nobody keeps.
pub(super) fn attribute_name(name: &OsStr) -> Result<&[u8], Errno> {
    let bytes = name.as_bytes();
    if bytes.len() > orlop_chunkfs::NAME_MAX {
        return Err(Errno::ERANGE);
    }
    let known = [&b"user."[..], b"trusted.", b"security."];
    if known.iter().any(|k| bytes.starts_with(k) && bytes.len() > k.len()) { Ok(bytes) } else { Err(Errno::EOPNOTSUPP) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_before_1970_are_what_the_kernel_sent() {
        // The kernel's (-2 s, 500 ms) is a second and a half before 1970; the library makes it two and a half.
        let library = UNIX_EPOCH - Duration::new(2, 500_000_000);
        assert_eq!(sent_time(library), Time { sec: -2, nsec: 500_000_000 });
        assert_eq!(sent_time(UNIX_EPOCH - Duration::new(7, 0)), Time { sec: -7, nsec: 0 });
        assert_eq!(sent_time(UNIX_EPOCH + Duration::new(7, 3)), Time { sec: 7, nsec: 3 });
        assert_eq!(sent_time(UNIX_EPOCH - Duration::new(1 << 63, 0)), Time { sec: i64::MIN, nsec: 0 });
    }

    #[test]
    fn access_lists_are_refused_and_ordinary_attributes_are_not() {
        for good in ["user.a", "trusted.overlay.opaque", "security.capability"] {
            assert!(attribute_name(OsStr::new(good)).is_ok(), "{good}");
        }
        for bad in ["system.posix_acl_access", "user.", "a", "com.apple.x"] {
            assert!(attribute_name(OsStr::new(bad)).is_err(), "{bad}");
        }
    }
}
