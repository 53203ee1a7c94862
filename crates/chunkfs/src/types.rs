//! What the file system speaks in: attributes, entries, callers, errors. Protocol-free; errno only as a number.

use bytes::Bytes;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Number of an inode; never reused within a volume. The root is [`ROOT_INO`].
pub type Ino = u64;

/// The root folder's inode, as FUSE has it.
pub const ROOT_INO: Ino = 1;

/// Granularity of data: checksums, mapping, quota and holes are per block of this many bytes.
pub const BLOCK: u64 = 4096;

/// Longest file name in bytes.
pub const NAME_MAX: usize = 255;

/// A point in time, nanoseconds exact, before or after 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Time {
    /// Seconds since 1970, rounded towards minus infinity.
    pub sec: i64,
    /// Nanoseconds after `sec`, below 1,000,000,000.
    pub nsec: u32,
}

impl From<Time> for SystemTime {
    fn from(t: Time) -> Self {
        if t.sec >= 0 {
            UNIX_EPOCH + Duration::new(t.sec as u64, t.nsec)
        } else {
            UNIX_EPOCH - Duration::from_secs(t.sec.unsigned_abs()) + Duration::from_nanos(u64::from(t.nsec))
        }
    }
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Folder.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// Attributes of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Which inode.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, set-id and sticky bits included: 0o7777 at most.
    pub perm: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, of device nodes.
    pub rdev: u32,
    /// Bytes up to the end.
    pub size: u64,
    /// 512-byte units that it takes; whole 4 KiB blocks.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of contents.
    pub mtime: Time,
    /// Last change of attributes.
    pub ctime: Time,
    /// Creation.
    pub crtime: Time,
}

impl Attr {
    /// A file of which nothing is known.
    pub const BLANK: Attr = {
        let never = Time { sec: 0, nsec: 0 };
        Attr {
            ino: 0,
            kind: FileKind::File,
            perm: 0,
            nlink: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            atime: never,
            mtime: never,
            ctime: never,
            crtime: never,
        }
    };
}

/// Who asks, as the kernel says. Permission was checked by the kernel (`default_permissions`);
/// the ids only decide ownership of what is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caller {
    /// File system user. Of any but 0, writing, truncating and allocating take the set-id bits of a file off.
    pub uid: u32,
    /// File system group.
    pub gid: u32,
    /// The kernel's number of the request, 0 if there is none. A request that is sent again carries the
    /// same number; a change with a number already seen is answered as before and not done twice.
    pub request: u64,
    /// Whether the times of files are the kernel's own, which tells them when it likes: writing, allocating and truncating
    /// leave them as they are.
    pub keeps_times: bool,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The time at which the change is made.
    Now,
    /// This one.
    At(Time),
}

/// Attributes to change; absent ones stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub perm: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// New end of a file.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of contents.
    pub mtime: Option<SetTime>,
    /// Last change of attributes; set to now by any change if absent.
    pub ctime: Option<Time>,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its inode.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Its name.
    pub name: Bytes,
    /// Where a reading goes on after this entry; stable while the entry exists. Below 2^63.
    pub cookie: u64,
}

/// Flags of rename, exclusive of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RenameMode {
    /// Replaces what is there.
    #[default]
    Replace,
    /// Refuses if something is there.
    NoReplace,
    /// Exchanges the two, atomically.
    Exchange,
}

/// What fallocate does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// Reserves space, growing the file unless `keep_size`.
    Reserve {
        /// Leave the size as it is.
        keep_size: bool,
    },
    /// Makes a hole, keeping the size.
    PunchHole,
    /// Makes zeros, reserved.
    ZeroRange {
        /// Leave the size as it is.
        keep_size: bool,
    },
}

/// What lseek looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that is not in a hole.
    Data,
    /// The next hole; the end of the file counts as one.
    Hole,
}

/// How setxattr treats what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum XattrMode {
    /// Creates or replaces.
    #[default]
    Any,
    /// Refuses if there.
    Create,
    /// Refuses if absent.
    Replace,
}

/// Totals of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statfs {
    /// Blocks of 4 KiB in all: the quota, or what the host's disk could hold.
    pub blocks: u64,
    /// Blocks that can still be written.
    pub free: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Inodes that could still be made.
    pub inodes_free: u64,
}

/// Why an operation failed. Each maps to one errno.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum FsError {
    #[error("no such file or folder")]
    NotFound,
    #[error("the name exists")]
    Exists,
    #[error("not a folder")]
    NotDirectory,
    #[error("is a folder")]
    IsDirectory,
    #[error("folder not empty")]
    NotEmpty,
    #[error("invalid argument")]
    Invalid,
    #[error("name too long")]
    NameTooLong,
    #[error("file too large")]
    TooBig,
    #[error("too many links")]
    TooManyLinks,
    #[error("no data there")]
    NoData,
    #[error("no such position")]
    NoSuchPosition,
    #[error("buffer too small")]
    Range,
    #[error("operation not permitted")]
    NotPermitted,
    #[error("operation not supported")]
    NotSupported,
    #[error("quota exceeded")]
    Quota,
    #[error("no space left on the host or store")]
    NoSpace,
    #[error("read-only: {0}")]
    ReadOnly(String),
    /// Stored bytes are not what was written; names the object.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// Another writer holds a newer epoch.
    #[error("fenced: {0}")]
    Fenced(String),
    #[error("input/output error: {0}")]
    Io(String),
    /// The store does not answer now.
    #[error("{0}")]
    Unavailable(String),
}

impl FsError {
    /// The errno that the kernel is told.
    pub fn errno(&self) -> i32 {
        match self {
            FsError::NotFound => libc::ENOENT,
            FsError::Exists => libc::EEXIST,
            FsError::NotDirectory => libc::ENOTDIR,
            FsError::IsDirectory => libc::EISDIR,
            FsError::NotEmpty => libc::ENOTEMPTY,
            FsError::Invalid => libc::EINVAL,
            FsError::NameTooLong => libc::ENAMETOOLONG,
            FsError::TooBig => libc::EFBIG,
            FsError::TooManyLinks => libc::EMLINK,
            FsError::NoData => libc::ENODATA,
            FsError::NoSuchPosition => libc::ENXIO,
            FsError::Range => libc::ERANGE,
            FsError::NotPermitted => libc::EPERM,
            FsError::NotSupported => libc::EOPNOTSUPP,
            FsError::Quota => libc::EDQUOT,
            FsError::NoSpace => libc::ENOSPC,
            FsError::ReadOnly(_) => libc::EROFS,
            FsError::Corrupt(_) | FsError::Fenced(_) | FsError::Io(_) | FsError::Unavailable(_) => libc::EIO,
        }
    }
}

/// Result of a file system operation.
pub type FsResult<T> = Result<T, FsError>;
