//! What the kernel asks, read from its bytes: the header that all requests have, and what each kind says.
//!
//! Layouts are those of the kernel's public interface (`linux/fuse.h`, protocol 7.40), in the machine's byte order.

use crate::kernel::abi::{IN_HEADER, RESENT};
use orlop_chunkfs::{Caller, Ino, SetAttr, SetTime, Time};

mod opcode {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const READLINK: u32 = 5;
    pub(super) const SYMLINK: u32 = 6;
    pub(super) const MKNOD: u32 = 8;
    pub(super) const MKDIR: u32 = 9;
    pub(super) const UNLINK: u32 = 10;
    pub(super) const RMDIR: u32 = 11;
    pub(super) const RENAME: u32 = 12;
    pub(super) const LINK: u32 = 13;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const SETXATTR: u32 = 21;
    pub(super) const GETXATTR: u32 = 22;
    pub(super) const LISTXATTR: u32 = 23;
    pub(super) const REMOVEXATTR: u32 = 24;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const READDIR: u32 = 28;
    pub(super) const RELEASEDIR: u32 = 29;
    pub(super) const FSYNCDIR: u32 = 30;
    pub(super) const CREATE: u32 = 35;
    pub(super) const DESTROY: u32 = 38;
    pub(super) const BATCH_FORGET: u32 = 42;
    pub(super) const FALLOCATE: u32 = 43;
    pub(super) const READDIRPLUS: u32 = 44;
    pub(super) const RENAME2: u32 = 45;
    pub(super) const LSEEK: u32 = 46;
}

/// Where the bytes of a write begin: behind the header and the fixed part.
pub(super) const WRITE_DATA: usize = IN_HEADER + 40;

/// What comes before every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    opcode: u32,
    /// The request's number, which its answer carries.
    pub(super) unique: u64,
    /// The inode that it is about.
    pub(super) node: Ino,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The thread that waits; 0 for the kernel itself.
    pub(super) pid: u32,
}

/// How long a request may keep the thread that has read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// Some microseconds.
    Light,
    /// It may read from or write to the disk.
    Disk,
    /// It moves many bytes.
    Bulk,
    /// It waits for the disk.
    Sync,
}

/// Bytes from which on a reading or writing is bulk.
const BULK: u32 = 32 << 10;

/// In the flags of a question for attributes: the file is open.
const GETATTR_FH: u32 = 1;

/// A writing, without its bytes: those stay where they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) offset: u64,
    pub(super) size: u32,
    /// Whether set-id bits are to be taken off.
    pub(super) kill_set_id: bool,
    /// `O_SYNC` and the like, as the file was opened.
    pub(super) flags: i32,
    /// Whether the kernel has gathered them, and told who wrote them that it was done.
    pub(super) gathered: bool,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation<'a> {
    Lookup {
        name: &'a [u8],
    },
    Forget {
        inodes: Vec<(Ino, u64)>,
    },
    GetAttr {
        /// Of a file that is open. Of a kernel that gathers writes only who is about to write asks so, see the module `scarce`.
        open: bool,
    },
    SetAttr(SetAttr),
    ReadLink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    MkNod {
        name: &'a [u8],
        mode: u32,
        rdev: u32,
    },
    MkDir {
        name: &'a [u8],
        mode: u32,
    },
    Unlink {
        name: &'a [u8],
    },
    RmDir {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        parent: Ino,
        new: &'a [u8],
        flags: u32,
    },
    Link {
        ino: Ino,
        name: &'a [u8],
    },
    Open,
    OpenDir,
    Release,
    Read {
        offset: u64,
        size: u32,
    },
    Write(Write),
    StatFs,
    Fsync {
        datasync: bool,
    },
    SetXattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: i32,
    },
    GetXattr {
        name: &'a [u8],
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    RemoveXattr {
        name: &'a [u8],
    },
    Flush,
    ReadDir {
        offset: u64,
        size: u32,
        plus: bool,
    },
    Create {
        name: &'a [u8],
        mode: u32,
        flags: i32,
    },
    Fallocate {
        offset: u64,
        length: u64,
        mode: i32,
    },
    Lseek {
        offset: i64,
        whence: i32,
    },
    /// The end of the connection.
    Destroy,
    /// What is not spoken here. Signals do not interrupt what is under way, as on every disk.
    Other,
}

/// The rest of a request's bytes.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn u32(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_ne_bytes(*number))
    }

    fn u64(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_ne_bytes(*number))
    }

    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Up to the zero that ends it.
    fn name(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|b| *b == 0)?;
        let name = self.bytes(end)?;
        self.bytes(1)?;
        Some(name)
    }
}

impl Header {
    /// Reads a request's header; `None` if these bytes are no whole request.
    pub(super) fn read(bytes: &[u8]) -> Option<Header> {
        let mut body = Body(bytes);
        let length = body.u32()?;
        let opcode = body.u32()?;
        let (unique, node) = (body.u64()?, body.u64()?);
        let (uid, gid, pid) = (body.u32()?, body.u32()?, body.u32()?);
        body.u32()?;
        (length as usize == bytes.len()).then_some(Header { opcode, unique, node, uid, gid, pid })
    }

    /// Who asks. A request that is sent again has a mark in its number, which is no part of it.
    pub(super) fn caller(&self) -> Caller {
        Caller { uid: self.uid, gid: self.gid, request: self.unique & !RESENT, keeps_times: false }
    }

    /// How long it may take, by its kind and size.
    pub(super) fn weight(&self, bytes: &[u8]) -> Weight {
        let bulk = match self.opcode {
            opcode::FSYNC | opcode::FSYNCDIR => return Weight::Sync,
            opcode::WRITE => bytes.len() > BULK as usize,
            opcode::READ => matches!(Operation::read(self, bytes), Some(Operation::Read { size, .. }) if size > BULK),
            _ => return Weight::Light,
        };
        if bulk { Weight::Bulk } else { Weight::Disk }
    }
}

impl<'a> Operation<'a> {
    /// Reads what is asked; `None` if the bytes are not what such a request has.
    pub(super) fn read(header: &Header, bytes: &'a [u8]) -> Option<Operation<'a>> {
        let mut body = Body(bytes.get(IN_HEADER..)?);
        Some(match header.opcode {
            opcode::LOOKUP => Operation::Lookup { name: body.name()? },
            opcode::FORGET => Operation::Forget { inodes: vec![(header.node, body.u64()?)] },
            opcode::BATCH_FORGET => {
                let count = body.u32()?;
                body.u32()?;
                let inodes = (0..count).map(|_| Some((body.u64()?, body.u64()?))).collect::<Option<_>>()?;
                Operation::Forget { inodes }
            }
            opcode::GETATTR => Operation::GetAttr { open: body.u32().unwrap_or(0) & GETATTR_FH != 0 },
            opcode::SETATTR => Operation::SetAttr(set_attr(&mut body)?),
            opcode::READLINK => Operation::ReadLink,
            opcode::SYMLINK => Operation::Symlink { name: body.name()?, target: body.name()? },
            opcode::MKNOD => {
                let (mode, rdev) = (body.u32()?, body.u32()?);
                body.u64()?;
                Operation::MkNod { name: body.name()?, mode, rdev }
            }
            opcode::MKDIR => {
                let mode = body.u32()?;
                body.u32()?;
                Operation::MkDir { name: body.name()?, mode }
            }
            opcode::UNLINK => Operation::Unlink { name: body.name()? },
            opcode::RMDIR => Operation::RmDir { name: body.name()? },
            opcode::RENAME => {
                let parent = body.u64()?;
                Operation::Rename { parent, name: body.name()?, new: body.name()?, flags: 0 }
            }
            opcode::RENAME2 => {
                let (parent, flags) = (body.u64()?, body.u32()?);
                body.u32()?;
                Operation::Rename { parent, name: body.name()?, new: body.name()?, flags }
            }
            opcode::LINK => Operation::Link { ino: body.u64()?, name: body.name()? },
            opcode::OPEN => Operation::Open,
            opcode::OPENDIR => Operation::OpenDir,
            opcode::RELEASE | opcode::RELEASEDIR => Operation::Release,
            opcode::READ => {
                body.u64()?;
                Operation::Read { offset: body.u64()?, size: body.u32()? }
            }
            opcode::WRITE => write(&mut body)?,
            opcode::STATFS => Operation::StatFs,
            opcode::FSYNC | opcode::FSYNCDIR => {
                body.u64()?;
                Operation::Fsync { datasync: body.u32()? & 1 != 0 }
            }
            opcode::SETXATTR => {
                let (size, flags) = (body.u32()?, body.u32()? as i32);
                Operation::SetXattr { name: body.name()?, value: body.bytes(size as usize)?, flags }
            }
            opcode::GETXATTR => {
                let size = body.u32()?;
                body.u32()?;
                Operation::GetXattr { name: body.name()?, size }
            }
            opcode::LISTXATTR => Operation::ListXattr { size: body.u32()? },
            opcode::REMOVEXATTR => Operation::RemoveXattr { name: body.name()? },
            opcode::FLUSH => Operation::Flush,
            opcode::READDIR | opcode::READDIRPLUS => {
                body.u64()?;
                Operation::ReadDir { offset: body.u64()?, size: body.u32()?, plus: header.opcode == opcode::READDIRPLUS }
            }
            opcode::CREATE => {
                let (flags, mode) = (body.u32()? as i32, body.u32()?);
                body.u64()?;
                Operation::Create { name: body.name()?, mode, flags }
            }
            opcode::FALLOCATE => {
                body.u64()?;
                Operation::Fallocate { offset: body.u64()?, length: body.u64()?, mode: body.u32()? as i32 }
            }
            opcode::LSEEK => {
                body.u64()?;
                Operation::Lseek { offset: body.u64()? as i64, whence: body.u32()? as i32 }
            }
            opcode::DESTROY => Operation::Destroy,
            _ => Operation::Other,
        })
    }
}

fn write<'a>(body: &mut Body<'a>) -> Option<Operation<'a>> {
    const GATHERED: u32 = 1;
    const KILL_SET_ID: u32 = 1 << 2;
    body.u64()?;
    let (offset, size, how) = (body.u64()?, body.u32()?, body.u32()?);
    body.u64()?;
    let flags = body.u32()? as i32;
    body.u32()?;
    body.bytes(size as usize)?;
    Some(Operation::Write(Write { offset, size, kill_set_id: how & KILL_SET_ID != 0, flags, gathered: how & GATHERED != 0 }))
}

fn set_attr(body: &mut Body<'_>) -> Option<SetAttr> {
    const MODE: u32 = 1;
    const UID: u32 = 1 << 1;
    const GID: u32 = 1 << 2;
    const SIZE: u32 = 1 << 3;
    const ATIME: u32 = 1 << 4;
    const MTIME: u32 = 1 << 5;
    const ATIME_NOW: u32 = 1 << 7;
    const MTIME_NOW: u32 = 1 << 8;
    const CTIME: u32 = 1 << 10;
    let valid = body.u32()?;
    body.u32()?;
    body.u64()?;
    let size = body.u64()?;
    body.u64()?;
    let secs = [body.u64()? as i64, body.u64()? as i64, body.u64()? as i64];
    let nsecs = [body.u32()?, body.u32()?, body.u32()?];
    let mode = body.u32()?;
    body.u32()?;
    let (uid, gid) = (body.u32()?, body.u32()?);
    let has = |bit: u32| valid & bit != 0;
    let at = |n: usize| Time { sec: secs[n], nsec: nsecs[n].min(999_999_999) };
    let time = |n: usize, set: u32, now: u32| match (has(now), has(set)) {
        (true, _) => Some(SetTime::Now),
        (false, true) => Some(SetTime::At(at(n))),
        (false, false) => None,
    };
    Some(SetAttr {
        perm: has(MODE).then_some(mode & 0o7777),
        uid: has(UID).then_some(uid),
        gid: has(GID).then_some(gid),
        size: has(SIZE).then_some(size),
        atime: time(0, ATIME, ATIME_NOW),
        mtime: time(1, MTIME, MTIME_NOW),
        ctime: has(CTIME).then_some(at(2)),
    })
}

/// Whether these bytes are a request, for the fuzz targets.
pub(crate) fn reads(bytes: &[u8]) -> bool {
    Header::read(bytes).is_some_and(|h| {
        let _ = h.weight(bytes);
        Operation::read(&h, bytes).is_some()
    })
}

/// Requests as the kernel writes them, for the fuzz targets and the tests.
pub(crate) fn examples() -> Vec<Vec<u8>> {
    let u32s = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<u8>>();
    let u64s = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<u8>>();
    let set_attr = [u32s(&[0x7f, 0]), u64s(&[0, 4096, 0, 1, 2, 3]), u32s(&[4, 5, 6, 0o644, 0, 7, 8, 0])].concat();
    let read = [u64s(&[0, 8192]), u32s(&[65536, 0]), u64s(&[0]), u32s(&[0, 0])].concat();
    let write = [u64s(&[0, 8192]), u32s(&[5, 4]), u64s(&[0]), u32s(&[2, 0]), b"hello".to_vec()].concat();
    let bodies: Vec<(u32, Vec<u8>)> = vec![
        (opcode::LOOKUP, b"name\0".to_vec()),
        (opcode::FORGET, u64s(&[3])),
        (opcode::BATCH_FORGET, [u32s(&[2, 0]), u64s(&[5, 1, 6, 2])].concat()),
        (opcode::GETATTR, u64s(&[0, 0])),
        (opcode::SETATTR, set_attr),
        (opcode::READLINK, Vec::new()),
        (opcode::SYMLINK, b"name\0target\0".to_vec()),
        (opcode::MKNOD, [u32s(&[0o100_644, 0, 0o22, 0]), b"name\0".to_vec()].concat()),
        (opcode::MKDIR, [u32s(&[0o755, 0o22]), b"name\0".to_vec()].concat()),
        (opcode::UNLINK, b"name\0".to_vec()),
        (opcode::RENAME, [u64s(&[9]), b"name\0new\0".to_vec()].concat()),
        (opcode::RENAME2, [u64s(&[9]), u32s(&[1, 0]), b"name\0new\0".to_vec()].concat()),
        (opcode::LINK, [u64s(&[9]), b"name\0".to_vec()].concat()),
        (opcode::READ, read),
        (opcode::WRITE, write),
        (opcode::FSYNC, [u64s(&[0]), u32s(&[1, 0])].concat()),
        (opcode::SETXATTR, [u32s(&[5, 1]), b"user.a\0value".to_vec()].concat()),
        (opcode::GETXATTR, [u32s(&[64, 0]), b"user.a\0".to_vec()].concat()),
        (opcode::LISTXATTR, u32s(&[64, 0])),
        (opcode::READDIRPLUS, [u64s(&[0, 7]), u32s(&[4096, 0]), u64s(&[0]), u32s(&[0, 0])].concat()),
        (opcode::CREATE, [u32s(&[0o102, 0o100_600, 0o22, 0]), b"name\0".to_vec()].concat()),
        (opcode::FALLOCATE, [u64s(&[0, 4096, 8192]), u32s(&[3, 0])].concat()),
        (opcode::LSEEK, [u64s(&[0, 4096]), u32s(&[4, 0])].concat()),
    ];
    let framed = |(opcode, body): (u32, Vec<u8>)| {
        let length = (IN_HEADER + body.len()) as u32;
        [u32s(&[length, opcode]), u64s(&[RESENT | 42, 11]), u32s(&[1000, 100, 77, 0]), body].concat()
    };
    bodies.into_iter().map(framed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Option<Operation<'_>> {
        Operation::read(&Header::read(bytes)?, bytes)
    }

    #[test]
    fn every_kind_is_read_as_the_kernel_meant_it() {
        let all = examples();
        let header = Header::read(&all[0]).expect("a header");
        assert_eq!(header, Header { opcode: 1, unique: RESENT | 42, node: 11, uid: 1000, gid: 100, pid: 77 });
        assert_eq!(
            header.caller(),
            Caller { uid: 1000, gid: 100, request: 42, keeps_times: false },
            "the mark of a request sent again is no part of it"
        );
        let name = &b"name"[..];
        let set = SetAttr {
            perm: Some(0o644),
            uid: Some(7),
            gid: Some(8),
            size: Some(4096),
            atime: Some(SetTime::At(Time { sec: 1, nsec: 4 })),
            mtime: Some(SetTime::At(Time { sec: 2, nsec: 5 })),
            ctime: None,
        };
        let expected = vec![
            Operation::Lookup { name },
            Operation::Forget { inodes: vec![(11, 3)] },
            Operation::Forget { inodes: vec![(5, 1), (6, 2)] },
            Operation::GetAttr { open: false },
            Operation::SetAttr(set),
            Operation::ReadLink,
            Operation::Symlink { name, target: b"target" },
            Operation::MkNod { name, mode: 0o100_644, rdev: 0 },
            Operation::MkDir { name, mode: 0o755 },
            Operation::Unlink { name },
            Operation::Rename { name, parent: 9, new: b"new", flags: 0 },
            Operation::Rename { name, parent: 9, new: b"new", flags: 1 },
            Operation::Link { ino: 9, name },
            Operation::Read { offset: 8192, size: 65536 },
            Operation::Write(Write { offset: 8192, size: 5, kill_set_id: true, flags: 2, gathered: false }),
            Operation::Fsync { datasync: true },
            Operation::SetXattr { name: b"user.a", value: b"value", flags: 1 },
            Operation::GetXattr { name: b"user.a", size: 64 },
            Operation::ListXattr { size: 64 },
            Operation::ReadDir { offset: 7, size: 4096, plus: true },
            Operation::Create { name, mode: 0o100_600, flags: 0o102 },
            Operation::Fallocate { offset: 4096, length: 8192, mode: 3 },
            Operation::Lseek { offset: 4096, whence: 4 },
        ];
        for (bytes, expected) in all.iter().zip(&expected) {
            assert_eq!(read(bytes).as_ref(), Some(expected));
        }
        assert_eq!(all.len(), expected.len());
        assert_eq!(&all[14][WRITE_DATA..], b"hello");
    }

    #[test]
    fn what_is_cut_short_is_refused_and_what_is_unknown_is_not_spoken() {
        for whole in examples().iter().filter(|b| b.len() > IN_HEADER && !matches!(read(b), Some(Operation::GetAttr { .. }))) {
            for end in 0..whole.len() {
                assert_eq!(Header::read(&whole[..end]), None, "the length is part of the header");
                let mut cut = whole[..end].to_vec();
                if end < IN_HEADER {
                    continue;
                }
                cut[..4].copy_from_slice(&(end as u32).to_ne_bytes());
                let is_padding = cut[IN_HEADER..] == whole[IN_HEADER..end] && read(&cut) == read(whole);
                assert!(read(&cut).is_none() || is_padding, "{whole:?} up to {end}");
            }
        }
        let mut unknown = examples().remove(5);
        unknown[4..8].copy_from_slice(&4096u32.to_ne_bytes());
        assert_eq!(read(&unknown), Some(Operation::Other));
    }

    #[test]
    fn times_before_1970_and_the_present_are_what_the_kernel_sent() {
        let mut bytes = examples().remove(4);
        let at = IN_HEADER + 32;
        bytes[at..at + 8].copy_from_slice(&(-2i64).to_ne_bytes());
        bytes[IN_HEADER..IN_HEADER + 4].copy_from_slice(&(1u32 << 4 | 1 << 5 | 1 << 8 | 1 << 10).to_ne_bytes());
        let Some(Operation::SetAttr(set)) = read(&bytes) else { panic!("set attributes") };
        assert_eq!(set.atime, Some(SetTime::At(Time { sec: -2, nsec: 4 })));
        assert_eq!(set.mtime, Some(SetTime::Now));
        assert_eq!((set.ctime, set.size), (Some(Time { sec: 3, nsec: 6 }), None));
    }
}
