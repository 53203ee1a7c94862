//! What the kernel is answered, as bytes: one answer for each request, in one write.
//!
//! Layouts are those of the kernel's public interface (`linux/fuse.h`, protocol 7.40), in the machine's byte order.

use crate::kernel::abi::{OUT_HEADER, error_reply, out_header};
use orlop_chunkfs::{Attr, BLOCK, FileKind, Ino, NAME_MAX, Statfs};
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// A number of the kernel's, such as `libc::ENOENT`.
pub(super) type Errno = i32;

/// All changes of a file's data go through this kernel, so its pages stay right from one open to the next.
pub(super) const KEEP_CACHE: u32 = 1 << 1;

const ATTR: usize = 88;
const ENTRY: usize = 40 + ATTR;
const DIRENT: usize = 24;

/// The answer that a request is owed.
#[derive(Debug)]
pub(super) struct Reply {
    device: Arc<OwnedFd>,
    unique: u64,
    sent: bool,
}

/// An answer in the making: room for the header, then its fields.
struct Out(Vec<u8>);

impl Out {
    fn new(body: usize) -> Out {
        let mut bytes = Vec::with_capacity(OUT_HEADER + body);
        bytes.resize(OUT_HEADER, 0);
        Out(bytes)
    }

    fn u32(&mut self, n: u32) -> &mut Self {
        self.0.extend_from_slice(&n.to_ne_bytes());
        self
    }

    fn u64(&mut self, n: u64) -> &mut Self {
        self.0.extend_from_slice(&n.to_ne_bytes());
        self
    }

    fn attr(&mut self, a: &Attr) -> &mut Self {
        self.u64(a.ino).u64(a.size).u64(a.blocks);
        for t in [a.atime, a.mtime, a.ctime] {
            self.u64(t.sec as u64);
        }
        for t in [a.atime, a.mtime, a.ctime] {
            self.u32(t.nsec);
        }
        self.u32(type_bits(a.kind) | (a.perm & 0o7777)).u32(a.nlink).u32(a.uid).u32(a.gid).u32(a.rdev).u32(BLOCK as u32).u32(0)
    }

    /// An inode that the kernel is told of. Inode numbers are never used again, so one generation is enough.
    fn entry(&mut self, known: Known, a: &Attr) -> &mut Self {
        let Known { name, attributes } = known;
        self.u64(a.ino).u64(0).u64(name.as_secs()).u64(attributes.as_secs());
        self.u32(name.subsec_nanos()).u32(attributes.subsec_nanos()).attr(a)
    }
}

/// How long the kernel may keep what it is told of an inode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// That the name is its.
    pub(super) name: Duration,
    pub(super) attributes: Duration,
}

impl Known {
    pub(super) fn both(ttl: Duration) -> Known {
        Known { name: ttl, attributes: ttl }
    }
}

/// The kind of an inode as a mode has it.
pub(super) fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::File => libc::S_IFREG,
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::Fifo => libc::S_IFIFO,
        FileKind::Socket => libc::S_IFSOCK,
        FileKind::CharDevice => libc::S_IFCHR,
        FileKind::BlockDevice => libc::S_IFBLK,
    }
}

impl Reply {
    /// What request `unique` is owed.
    pub(super) fn new(device: Arc<OwnedFd>, unique: u64) -> Reply {
        Reply { device, unique, sent: false }
    }

    /// Fills in the header and sends.
    fn send(mut self, mut out: Out, payload: &[u8]) {
        self.sent = true;
        let header = out_header(out.0.len() + payload.len(), 0, self.unique);
        out.0[..OUT_HEADER].copy_from_slice(&header);
        self.write(&out.0, payload);
    }

    fn write(&self, head: &[u8], payload: &[u8]) {
        let sent = if payload.is_empty() {
            nix::unistd::write(&self.device, head)
        } else {
            nix::sys::uio::writev(&self.device, &[IoSlice::new(head), IoSlice::new(payload)])
        };
        // Nobody waits for it any more: the file system was unmounted, or the connection ended by force.
        if let Err(e) = sent {
            tracing::debug!(unique = self.unique, "an answer that is not taken: {e}");
        }
    }

    /// Refuses.
    pub(super) fn error(mut self, errno: Errno) {
        self.sent = true;
        self.write(&error_reply(self.unique, errno), &[]);
    }

    /// Done, and nothing to say.
    pub(super) fn ok(self) {
        self.send(Out::new(0), &[]);
    }

    /// Bytes as they are.
    pub(super) fn data(self, bytes: &[u8]) {
        self.send(Out::new(0), bytes);
    }

    /// Tells the kernel of an inode.
    pub(super) fn entry(self, known: Known, a: &Attr) {
        let mut out = Out::new(ENTRY);
        out.entry(known, a);
        self.send(out, &[]);
    }

    /// There is no such name, which the kernel may remember.
    pub(super) fn no_entry(self, ttl: Duration) {
        self.entry(Known::both(ttl), &Attr::BLANK);
    }

    /// Attributes.
    pub(super) fn attr(self, ttl: Duration, a: &Attr) {
        let mut out = Out::new(16 + ATTR);
        out.u64(ttl.as_secs()).u32(ttl.subsec_nanos()).u32(0).attr(a);
        self.send(out, &[]);
    }

    /// An open file or folder; the volume keeps nothing for it.
    pub(super) fn opened(self, flags: u32) {
        let mut out = Out::new(16);
        out.u64(0).u32(flags).u32(0);
        self.send(out, &[]);
    }

    /// A file that was made and opened.
    pub(super) fn created(self, ttl: Duration, a: &Attr) {
        let mut out = Out::new(ENTRY + 16);
        out.entry(Known::both(ttl), a).u64(0).u32(KEEP_CACHE).u32(0);
        self.send(out, &[]);
    }

    /// So many bytes were taken.
    pub(super) fn written(self, n: u32) {
        let mut out = Out::new(8);
        out.u32(n).u32(0);
        self.send(out, &[]);
    }

    /// The room of the volume.
    pub(super) fn statfs(self, s: &Statfs) {
        let mut out = Out::new(80);
        out.u64(s.blocks).u64(s.free).u64(s.free).u64(s.inodes.saturating_add(s.inodes_free)).u64(s.inodes_free);
        out.u32(BLOCK as u32).u32(NAME_MAX as u32).u32(BLOCK as u32);
        for _ in 0..7 {
            out.u32(0);
        }
        self.send(out, &[]);
    }

    /// A position in a file.
    pub(super) fn offset(self, at: u64) {
        let mut out = Out::new(8);
        out.u64(at);
        self.send(out, &[]);
    }

    /// An extended attribute, or only its length if no room was offered.
    pub(super) fn attribute(self, room: u32, value: &[u8]) {
        if room == 0 {
            let mut out = Out::new(8);
            out.u32(value.len() as u32).u32(0);
            self.send(out, &[]);
        } else if value.len() > room as usize {
            self.error(libc::ERANGE);
        } else {
            self.data(value);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.sent {
            tracing::error!(unique = self.unique, "a request was dropped without an answer");
            self.write(&error_reply(self.unique, libc::EIO), &[]);
        }
    }
}

/// Entries of a folder, as many as the kernel has room for.
#[derive(Debug)]
pub(super) struct Listing {
    out: Out,
    room: usize,
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Listing {
    pub(super) fn new(room: u32) -> Listing {
        Listing { out: Out(Vec::with_capacity((room as usize).min(64 << 10))), room: room as usize }
    }

    fn has_room(&self, fixed: usize, name: &[u8]) -> bool {
        self.out.0.len() + fixed + name.len().next_multiple_of(8) <= self.room
    }

    fn dirent(&mut self, ino: Ino, cookie: u64, kind: FileKind, name: &[u8]) {
        self.out.u64(ino).u64(cookie).u32(name.len() as u32).u32(type_bits(kind) >> 12);
        self.out.0.extend_from_slice(name);
        self.out.0.resize(self.out.0.len().next_multiple_of(8), 0);
    }

    /// Adds an entry, whose follower is found at `cookie`; whether it found room.
    pub(super) fn add(&mut self, ino: Ino, cookie: u64, kind: FileKind, name: &[u8]) -> bool {
        let fits = self.has_room(DIRENT, name);
        if fits {
            self.dirent(ino, cookie, kind, name);
        }
        fits
    }

    /// The same with its attributes; if it found room, the kernel is told of the inode.
    pub(super) fn add_with(&mut self, known: Known, a: &Attr, cookie: u64, name: &[u8]) -> bool {
        let fits = self.has_room(ENTRY + DIRENT, name);
        if fits {
            self.out.entry(known, a);
            self.dirent(a.ino, cookie, a.kind, name);
        }
        fits
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.out.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::abi::{u32_at, u64_at};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use orlop_chunkfs::Time;

    const A: Attr = Attr {
        ino: 7,
        kind: FileKind::Directory,
        perm: 0o1755,
        nlink: 3,
        uid: 8,
        gid: 9,
        rdev: 10,
        size: 11,
        blocks: 12,
        atime: Time { sec: -1, nsec: 1 },
        mtime: Time { sec: 2, nsec: 3 },
        ctime: Time { sec: 4, nsec: 5 },
        crtime: Time { sec: 6, nsec: 7 },
    };

    /// The bytes that an answer puts on the wire.
    fn sent(answer: impl FnOnce(Reply)) -> Vec<u8> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("socketpair");
        answer(Reply::new(Arc::new(ours), 42));
        let mut bytes = vec![0; 4096];
        let n = nix::unistd::read(&theirs, &mut bytes).expect("an answer");
        bytes.truncate(n);
        assert_eq!((u32_at(&bytes, 0) as usize, u64_at(&bytes, 8)), (n, 42));
        bytes
    }

    #[test]
    fn an_inode_has_its_fields_where_the_kernel_looks() {
        let ttl = Duration::new(5, 6);
        let bytes = sent(|r| r.entry(Known::both(ttl), &A));
        assert_eq!(bytes.len(), 16 + 128);
        let body = &bytes[16..];
        assert_eq!((u64_at(body, 0), u64_at(body, 8), u64_at(body, 16), u64_at(body, 24)), (7, 0, 5, 5));
        assert_eq!((u32_at(body, 32), u32_at(body, 36)), (6, 6));
        let attr = &body[40..];
        assert_eq!((u64_at(attr, 0), u64_at(attr, 8), u64_at(attr, 16)), (7, 11, 12));
        assert_eq!((u64_at(attr, 24) as i64, u64_at(attr, 32), u64_at(attr, 40)), (-1, 2, 4));
        assert_eq!((u32_at(attr, 48), u32_at(attr, 52), u32_at(attr, 56)), (1, 3, 5));
        let rest: Vec<u32> = (60..88).step_by(4).map(|at| u32_at(attr, at)).collect();
        assert_eq!(rest, [0o041_755, 3, 8, 9, 10, 4096, 0]);
        let nobody = sent(|r| r.no_entry(ttl));
        assert_eq!((nobody.len(), u64_at(&nobody, 16), u64_at(&nobody, 32)), (144, 0, 5));
        assert_eq!(sent(|r| r.attr(ttl, &A))[32..], *attr);
        let made = sent(|r| r.created(ttl, &A));
        assert_eq!((made.len(), u32_at(&made, 16 + 128 + 8)), (160, KEEP_CACHE));
    }

    #[test]
    fn the_short_answers_have_the_lengths_that_the_kernel_asks_for() {
        assert_eq!(sent(Reply::ok).len(), 16);
        assert_eq!(sent(|r| r.opened(KEEP_CACHE)).len(), 32);
        assert_eq!(u32_at(&sent(|r| r.written(4096)), 16), 4096);
        assert_eq!(u64_at(&sent(|r| r.offset(1 << 40)), 16), 1 << 40);
        let s = Statfs { blocks: 1, free: 2, inodes: 3, inodes_free: 4 };
        let bytes = sent(|r| r.statfs(&s));
        let numbers: Vec<u64> = (16..56).step_by(8).map(|at| u64_at(&bytes, at)).collect();
        assert_eq!((bytes.len(), numbers), (96, vec![1, 2, 2, 7, 4]));
        assert_eq!(sent(|r| r.data(b"bytes"))[16..], *b"bytes");
        assert_eq!(sent(|r| r.attribute(5, b"value"))[16..], *b"value");
        assert_eq!(u32_at(&sent(|r| r.attribute(0, b"value")), 16), 5);
        assert_eq!(u32_at(&sent(|r| r.attribute(4, b"value")), 4) as i32, -libc::ERANGE);
        assert_eq!(u32_at(&sent(|r| r.error(libc::ENOENT)), 4) as i32, -libc::ENOENT);
    }

    #[test]
    fn a_request_that_is_dropped_is_refused_and_not_left_waiting() {
        assert_eq!(u32_at(&sent(drop), 4) as i32, -libc::EIO);
    }

    #[test]
    fn entries_are_aligned_and_end_where_the_room_does() {
        let mut listing = Listing::new(64);
        assert!(listing.add(5, 9, FileKind::File, b"abc"));
        assert_eq!(listing.bytes().len(), 32);
        assert_eq!((u64_at(listing.bytes(), 0), u64_at(listing.bytes(), 8)), (5, 9));
        assert_eq!((u32_at(listing.bytes(), 16), u32_at(listing.bytes(), 20)), (3, 8));
        assert!(!listing.add(5, 9, FileKind::File, b"nine bytes"), "no room: nothing is added");
        assert!(listing.add(5, 9, FileKind::File, b"eight by"));
        assert_eq!(listing.bytes().len(), 64);
        let mut with = Listing::new(160);
        assert!(with.add_with(Known::both(Duration::ZERO), &A, 3, b"x"));
        assert!(!with.add_with(Known::both(Duration::ZERO), &A, 4, b"y"));
        assert_eq!((with.bytes().len(), u64_at(with.bytes(), 128), u32_at(with.bytes(), 148)), (160, 7, 4));
    }
}
