//! The operations, one by one: unpack, call, answer. Nothing is decided here but what the protocol itself asks for.

use super::adapter::{Adapter, Asked};
use super::convert::{attribute_name, errno, kind_of_mode, name};
use super::listing::{Told, fill};
use super::pages::invalidate;
use super::reader::Received;
use super::reply::{KEEP_CACHE, Known, Listing, Reply};
use super::request::{Operation, WRITE_DATA, Write};
use bytes::Bytes;
use orlop_chunkfs::{Allocate, Attr, Caller, FileKind, FileSystem, FsError, FsResult, Ino, RenameMode, Seek, SetAttr, XattrMode};
use orlop_model::CacheMode;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The longest value of an extended attribute.
const VALUE_MAX: usize = 64 << 10;

macro_rules! or_refuse {
    ($check:expr, $asked:expr) => {
        match $check {
            Ok(it) => it,
            Err(errno) => return $asked.reply.error(errno),
        }
    };
}

impl Adapter {
    /// Answers a request, now or later.
    pub(super) fn carry_out(&self, received: Received) {
        let Received { header, message, may_wait } = received;
        let operation = Operation::read(&header, message.bytes());
        if let Some(Operation::Forget { inodes }) = operation {
            // Nobody waits for an answer to this.
            return inodes.into_iter().for_each(|(ino, count)| self.fs.forget(ino, count));
        }
        let asked = Asked { header, reply: Reply::new(self.device.clone(), header.unique), may_wait, to_its_end: false };
        let Some(operation) = operation else {
            tracing::error!(?header, "a request that is cut short");
            return asked.reply.error(libc::EIO);
        };
        match operation {
            Operation::Lookup { name } => self.lookup(asked, name),
            Operation::GetAttr { open } if open && self.is_fast() => self.getattr_of_open(asked),
            Operation::GetAttr { .. } => self.getattr(asked),
            Operation::SetAttr(set) => self.setattr(asked, set),
            Operation::ReadLink => self.readlink(asked),
            Operation::Symlink { name, target } => self.symlink(asked, name, target),
            Operation::MkNod { name, mode, rdev } => self.mknod(asked, name, mode, rdev),
            Operation::MkDir { name, mode } => self.mkdir(asked, name, mode),
            Operation::Unlink { name } => self.unlink(asked, name),
            Operation::RmDir { name } => self.rmdir(asked, name),
            Operation::Rename { name, parent, new, flags } => self.rename(asked, name, parent, new, flags),
            Operation::Link { ino, name } => self.link(asked, ino, name),
            // The kernel has checked permissions, and the volume keeps no state per open file: it need not ask at all.
            Operation::Open | Operation::OpenDir if self.is_fast() => asked.reply.error(libc::ENOSYS),
            Operation::Open => asked.reply.opened(KEEP_CACHE),
            Operation::OpenDir => asked.reply.opened(0),
            Operation::Release | Operation::Destroy => asked.reply.ok(),
            Operation::Read { offset, size } => self.read(asked, offset, size),
            Operation::Write(write) => {
                let data = message.keep(WRITE_DATA..WRITE_DATA + write.size as usize);
                self.write(asked, write, data);
            }
            Operation::StatFs => self.statfs(asked),
            Operation::Fsync { datasync } => self.fsync(asked, datasync),
            Operation::SetXattr { name, value, flags } => self.setxattr(asked, name, value, flags),
            Operation::GetXattr { name, size } => self.getxattr(asked, name, size),
            Operation::ListXattr { size } => self.listxattr(asked, size),
            Operation::RemoveXattr { name } => self.removexattr(asked, name),
            Operation::ReadDir { offset, size, plus } => self.readdir(asked, offset, size, plus),
            Operation::Create { name, mode, flags } => self.create(asked, name, mode, flags),
            Operation::Fallocate { offset, length, mode } => self.fallocate(asked, offset, length, mode),
            Operation::Lseek { offset, whence } => self.lseek(asked, offset, whence),
            // Flush: every write was answered with its own error already, and of pages that it writes back the kernel keeps the
            // errors for whoever closes. It need not ask again on this mount.
            Operation::Flush | Operation::Other | Operation::Forget { .. } => asked.reply.error(libc::ENOSYS),
        }
    }

    /// Whether the kernel gathers writes. It also notes when they came then, and tells the files' times and sizes itself.
    pub(super) fn is_fast(&self) -> bool {
        self.cache == CacheMode::Fast
    }

    /// How long what is told of an inode may be kept.
    fn known(&self, kind: FileKind) -> Known {
        Known { name: self.ttl, attributes: self.attributes_for(kind) }
    }

    /// A request that may change a size. A kernel that keeps sizes itself takes one that was given up for not done, for good.
    fn whose_end_counts(&self, asked: Asked) -> Asked {
        Asked { to_its_end: self.is_fast(), ..asked }
    }

    /// Work whose outcome `send` answers with, an error with its number.
    fn answer<T: Send + 'static>(
        &self,
        asked: Asked,
        what: &'static str,
        work: impl Future<Output = FsResult<T>> + Send + 'static,
        send: impl FnOnce(Reply, T) + Send + 'static,
    ) {
        self.answer_or_take_back(asked, what, work, send, drop);
    }

    /// Work that tells the kernel of an inode; what it is not told of counts as forgotten.
    fn tell(
        &self,
        asked: Asked,
        what: &'static str,
        work: impl Future<Output = FsResult<Attr>> + Send + 'static,
        send: impl FnOnce(Reply, Attr) + Send + 'static,
    ) {
        self.answer_or_take_back(asked, what, work, send, self.forgotten());
    }

    fn answer_or_take_back<T: Send + 'static>(
        &self,
        asked: Asked,
        what: &'static str,
        work: impl Future<Output = FsResult<T>> + Send + 'static,
        send: impl FnOnce(Reply, T) + Send + 'static,
        take_back: impl FnOnce(FsResult<T>) + Send + 'static,
    ) {
        let ino = asked.header.node;
        let answer = move |reply: Reply, result: FsResult<T>| match result {
            Ok(it) => send(reply, it),
            Err(e) => reply.error(errno(what, ino, &e)),
        };
        self.run(asked, work, answer, take_back);
    }

    /// Takes back that the kernel was told of an inode.
    fn forgotten(&self) -> impl FnOnce(FsResult<Attr>) + Send + 'static {
        let fs = self.fs.clone();
        move |result| {
            if let Ok(a) = result {
                fs.forget(a.ino, 1);
            }
        }
    }

    fn entry(&self, asked: Asked, what: &'static str, work: impl Future<Output = FsResult<Attr>> + Send + 'static) {
        let this = self.clone();
        self.tell(asked, what, work, move |reply, a| reply.entry(this.known(a.kind), &a));
    }

    fn empty(&self, asked: Asked, what: &'static str, work: impl Future<Output = FsResult<()>> + Send + 'static) {
        self.answer(asked, what, work, |reply, ()| reply.ok());
    }

    pub(super) fn attr(&self, asked: Asked, what: &'static str, work: impl Future<Output = FsResult<Attr>> + Send + 'static) {
        let this = self.clone();
        self.answer(asked, what, work, move |reply, a| reply.attr(this.attributes_for(a.kind), &a));
    }

    /// What every operation starts from: the file system, who asks, and the inode.
    pub(super) fn of(&self, asked: &Asked) -> (Arc<FileSystem>, Caller, Ino) {
        (self.fs.clone(), Caller { keeps_times: self.is_fast(), ..asked.header.caller() }, asked.header.node)
    }

    fn lookup(&self, asked: Asked, n: &[u8]) {
        let n = or_refuse!(name(n), asked);
        let (fs, _, parent) = self.of(&asked);
        let (ttl, is_fast, this) = (self.ttl, self.is_fast(), self.clone());
        let answer = move |reply: Reply, result: FsResult<Attr>| match result {
            Ok(a) => reply.entry(this.known(a.kind), &a),
            // That a name is not there may be kept like any other answer.
            Err(FsError::NotFound) if is_fast => reply.no_entry(ttl),
            Err(e) => reply.error(errno("lookup", parent, &e)),
        };
        self.run(asked, async move { fs.lookup(parent, &n).await }, answer, self.forgotten());
    }

    fn getattr(&self, asked: Asked) {
        let (fs, _, ino) = self.of(&asked);
        self.attr(asked, "getattr", async move { fs.getattr(ino).await });
    }

    fn setattr(&self, asked: Asked, set: SetAttr) {
        let asked = self.whose_end_counts(asked);
        let (fs, cx, ino) = self.of(&asked);
        self.attr(asked, "setattr", async move { fs.setattr(&cx, ino, &set).await });
    }

    fn readlink(&self, asked: Asked) {
        let (fs, _, ino) = self.of(&asked);
        self.answer(asked, "readlink", async move { fs.readlink(ino).await }, |reply, target| reply.data(&target));
    }

    fn mknod(&self, asked: Asked, n: &[u8], mode: u32, rdev: u32) {
        let n = or_refuse!(name(n), asked);
        let kind = or_refuse!(kind_of_mode(mode).ok_or(libc::EINVAL), asked);
        let (fs, cx, parent) = self.of(&asked);
        self.entry(asked, "mknod", async move { fs.mknod(&cx, parent, &n, kind, mode & 0o7777, rdev).await });
    }

    fn mkdir(&self, asked: Asked, n: &[u8], mode: u32) {
        let n = or_refuse!(name(n), asked);
        let (fs, cx, parent) = self.of(&asked);
        self.entry(asked, "mkdir", async move { fs.mkdir(&cx, parent, &n, mode & 0o7777).await });
    }

    fn unlink(&self, asked: Asked, n: &[u8]) {
        let n = or_refuse!(name(n), asked);
        let (fs, cx, parent) = self.of(&asked);
        self.empty(asked, "unlink", async move { fs.unlink(&cx, parent, &n).await });
    }

    fn rmdir(&self, asked: Asked, n: &[u8]) {
        let n = or_refuse!(name(n), asked);
        let (fs, cx, parent) = self.of(&asked);
        self.empty(asked, "rmdir", async move { fs.rmdir(&cx, parent, &n).await });
    }

    fn symlink(&self, asked: Asked, n: &[u8], target: &[u8]) {
        let n = or_refuse!(name(n), asked);
        let target = target.to_vec();
        let (fs, cx, parent) = self.of(&asked);
        self.entry(asked, "symlink", async move { fs.symlink(&cx, parent, &n, &target).await });
    }

    fn rename(&self, asked: Asked, n: &[u8], new_parent: Ino, new: &[u8], flags: u32) {
        let (n, new) = (or_refuse!(name(n), asked), or_refuse!(name(new), asked));
        let mode = match flags {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            libc::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return asked.reply.error(libc::EINVAL),
        };
        let (fs, cx, parent) = self.of(&asked);
        self.empty(asked, "rename", async move { fs.rename(&cx, parent, &n, new_parent, &new, mode).await });
    }

    fn link(&self, asked: Asked, ino: Ino, n: &[u8]) {
        let n = or_refuse!(name(n), asked);
        let (fs, cx, new_parent) = self.of(&asked);
        self.entry(asked, "link", async move { fs.link(&cx, ino, new_parent, &n).await });
    }

    fn create(&self, asked: Asked, n: &[u8], mode: u32, flags: i32) {
        if self.is_fast() {
            // It asks for mknod from now on, and opens what that made without a message: no handle needs a release.
            return asked.reply.error(libc::ENOSYS);
        }
        let n = or_refuse!(name(n), asked);
        let kind = or_refuse!(kind_of_mode(mode).ok_or(libc::EINVAL), asked);
        let (fs, cx, parent) = self.of(&asked);
        let ttl = self.ttl;
        let work = async move {
            match fs.mknod(&cx, parent, &n, kind, mode & 0o7777, 0).await {
                // Without O_EXCL, a file that is there is opened.
                Err(FsError::Exists) if flags & libc::O_EXCL == 0 => fs.lookup(parent, &n).await,
                other => other,
            }
        };
        self.tell(asked, "create", work, move |reply, a| reply.created(ttl, &a));
    }

    fn read(&self, asked: Asked, offset: u64, size: u32) {
        let (fs, _, ino) = self.of(&asked);
        self.answer(asked, "read", async move { fs.read(ino, offset, size).await }, |reply, data| reply.data(&data));
    }

    fn write(&self, asked: Asked, write: Write, data: Bytes) {
        let (fs, cx, ino) = self.of(&asked);
        let cx = writer(cx, &write);
        let this = self.clone();
        let work = async move {
            let n = if write.gathered {
                let n = fs.write_gathered(&cx, ino, write.offset, &data).await;
                this.gathered_came(ino);
                n?
            } else {
                fs.write(&cx, ino, write.offset, &data).await?
            };
            drop(data);
            // O_SYNC includes the bit of O_DSYNC.
            if write.flags & libc::O_DSYNC != 0 {
                fs.fsync(ino, write.flags & libc::O_SYNC != libc::O_SYNC).await?;
            }
            Ok(n)
        };
        self.answer(asked, "write", work, |reply, n| reply.written(n as u32));
    }

    fn fsync(&self, asked: Asked, datasync: bool) {
        let (fs, _, ino) = self.of(&asked);
        self.empty(asked, "fsync", async move { fs.fsync(ino, datasync).await });
    }

    fn readdir(&self, asked: Asked, offset: u64, size: u32, plus: bool) {
        let (fs, _, ino) = self.of(&asked);
        let (what, known) = if plus { ("readdirplus", Some(self.known(FileKind::File))) } else { ("readdir", None) };
        let work = async move {
            let (mut told, mut listing) = (Told::nothing(fs), Listing::new(size));
            let filled = fill(&mut told, ino, offset, known, &mut listing).await;
            filled.map(|()| (told, listing))
        };
        self.answer(asked, what, work, |reply, (told, listing)| {
            told.all_told();
            reply.data(listing.bytes());
        });
    }

    fn statfs(&self, asked: Asked) {
        match self.fs.statfs(self.is_fast()) {
            Ok(s) => asked.reply.statfs(&s),
            Err(e) => asked.reply.error(errno("statfs", asked.header.node, &e)),
        }
    }

    fn setxattr(&self, asked: Asked, n: &[u8], value: &[u8], flags: i32) {
        let n = or_refuse!(attribute_name(n), asked);
        let mode = match flags {
            0 => XattrMode::Any,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return asked.reply.error(libc::EINVAL),
        };
        if value.len() > VALUE_MAX {
            return asked.reply.error(libc::E2BIG);
        }
        let value = value.to_vec();
        let (fs, cx, ino) = self.of(&asked);
        self.empty(asked, "setxattr", async move { fs.setxattr(&cx, ino, &n, &value, mode).await });
    }

    fn getxattr(&self, asked: Asked, n: &[u8], size: u32) {
        let n = or_refuse!(attribute_name(n), asked);
        let (fs, _, ino) = self.of(&asked);
        self.answer(asked, "getxattr", async move { fs.getxattr(ino, &n).await }, move |reply, value| reply.attribute(size, &value));
    }

    fn listxattr(&self, asked: Asked, size: u32) {
        // Trusted attributes are shown to the administrator alone.
        let privileged = asked.header.uid == 0;
        let (fs, _, ino) = self.of(&asked);
        let work = async move {
            let names = fs.listxattr(ino).await?;
            let mut list = Vec::new();
            for n in names.iter().filter(|n| privileged || !n.starts_with(b"trusted.")) {
                list.extend_from_slice(n);
                list.push(0);
            }
            Ok(list)
        };
        self.answer(asked, "listxattr", work, move |reply, list| reply.attribute(size, &list));
    }

    fn removexattr(&self, asked: Asked, n: &[u8]) {
        let n = or_refuse!(attribute_name(n), asked);
        let (fs, cx, ino) = self.of(&asked);
        self.empty(asked, "removexattr", async move { fs.removexattr(&cx, ino, &n).await });
    }

    fn fallocate(&self, asked: Asked, offset: u64, length: u64, mode: i32) {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let what = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => Allocate::Reserve { keep_size },
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => Allocate::PunchHole,
            libc::FALLOC_FL_ZERO_RANGE => Allocate::ZeroRange { keep_size },
            _ => return asked.reply.error(libc::EOPNOTSUPP),
        };
        let asked = self.whose_end_counts(asked);
        let (fs, cx, ino) = self.of(&asked);
        self.empty(asked, "fallocate", async move { fs.fallocate(&cx, ino, offset, length, what).await });
    }

    fn lseek(&self, asked: Asked, offset: i64, whence: i32) {
        if self.is_fast() {
            // What the kernel has not written back yet is not known here, the end of a growing file included: it takes
            // all of the file for data instead of asking.
            return asked.reply.error(libc::ENOSYS);
        }
        let seek = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return asked.reply.error(libc::EINVAL),
        };
        let from = or_refuse!(u64::try_from(offset).map_err(|_| libc::ENXIO), asked);
        let (fs, _, ino) = self.of(&asked);
        let device = self.device.clone();
        let work = async move {
            if let Some((start, end)) = hole_in_the_way(&fs, ino, from, seek).await? {
                write_mapped_pages(device, ino, start, end).await;
            }
            fs.seek(ino, from, seek).await
        };
        self.answer(asked, "lseek", work, |reply, at| reply.offset(at));
    }
}

/// Who writes, for whom set-id bits are taken off: whether they are is the kernel's decision, which knows capabilities.
fn writer(cx: Caller, write: &Write) -> Caller {
    const NOBODY: u32 = 65534;
    let uid = match (write.kill_set_id, cx.uid) {
        (false, _) => 0,
        (true, 0) => NOBODY,
        (true, uid) => uid,
    };
    Caller { uid, ..cx }
}

/// The hole, if any, on which the answer of a seek rests.
async fn hole_in_the_way(fs: &FileSystem, ino: Ino, from: u64, seek: Seek) -> FsResult<Option<(u64, u64)>> {
    let size = fs.getattr(ino).await?.size;
    if from >= size {
        return Ok(None);
    }
    let data_after = |at| async move {
        match fs.seek(ino, at, Seek::Data).await {
            Ok(data) => Ok(data),
            Err(FsError::NoSuchPosition) => Ok(size),
            Err(e) => Err(e),
        }
    };
    let start = match seek {
        Seek::Data => from,
        Seek::Hole => fs.seek(ino, from, Seek::Hole).await?,
    };
    if start >= size {
        return Ok(None);
    }
    let end = data_after(start).await?;
    Ok((end > start).then_some((start, end)))
}

/// Has the kernel write the pages of a hole that were changed through a mapping and that it alone knows of: to call
/// that range a hole would have `cp` leave them out.
async fn write_mapped_pages(device: Arc<OwnedFd>, ino: Ino, start: u64, end: u64) {
    // The kernel sends the pages as writes while this call waits, so it must not wait on a thread that reads requests.
    let told = tokio::task::spawn_blocking(move || invalidate(&device, ino, start, end - start)).await;
    if let Ok(Err(e)) = told {
        tracing::debug!("having pages of inode {ino} written: {e}");
    }
}
