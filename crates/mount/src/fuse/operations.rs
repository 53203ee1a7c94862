//! The operations, one by one: unpack, call, answer.

use super::adapter::{Adapter, Sheet, caller, writer};
use super::convert::{NOBODY_THERE, attribute_name, attributes, errno, file_type, kind_of_mode, name, set_ctime, set_time};
use bytes::Bytes;
use fuser::{
    BsdFileFlags, Errno, FileHandle, FileType, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use orlop_chunkfs::{Allocate, Attr, BLOCK, FileSystem, FsError, FsResult, Ino, NAME_MAX, RenameMode, Seek, SetAttr, XattrMode};
use orlop_model::CacheMode;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Inode numbers are never used again, so one generation is enough.
const GENERATION: Generation = Generation(0);
/// All changes of a file's data go through this kernel, so its pages stay right from one open to the next.
const OPENED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE;
/// "." and ".." come before the entries of a folder, whose own cookies are shifted by as much.
const DOTS: u64 = 2;
/// Entries asked for at a time; a reply buffer of the kernel rarely takes more.
const ENTRIES: usize = 256;

macro_rules! bytes_or_refuse {
    ($check:expr, $reply:expr) => {
        match $check {
            Ok(bytes) => bytes.to_vec(),
            Err(e) => return $reply.error(e),
        }
    };
}

impl Adapter {
    /// Work that tells the kernel of an inode; what it is not told of counts as forgotten.
    fn entry(
        &self,
        request: &Request,
        reply: ReplyEntry,
        what: &'static str,
        ino: Ino,
        work: impl Future<Output = FsResult<Attr>> + Send + 'static,
    ) {
        let ttl = self.ttl;
        let answer = move |reply: ReplyEntry, result: FsResult<Attr>| match result {
            Ok(a) => reply.entry(&ttl, &attributes(&a), GENERATION),
            Err(e) => reply.error(errno(what, ino, &e)),
        };
        self.run(request, reply, work, answer, self.forgotten());
    }

    fn is_fast(&self) -> bool {
        self.cache == CacheMode::Fast
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

    fn empty(
        &self,
        request: &Request,
        reply: ReplyEmpty,
        what: &'static str,
        ino: Ino,
        work: impl Future<Output = FsResult<()>> + Send + 'static,
    ) {
        let answer = move |reply: ReplyEmpty, result: FsResult<()>| match result {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(what, ino, &e)),
        };
        self.run(request, reply, work, answer, drop);
    }

    fn attr(
        &self,
        request: &Request,
        reply: ReplyAttr,
        what: &'static str,
        ino: Ino,
        work: impl Future<Output = FsResult<Attr>> + Send + 'static,
    ) {
        let ttl = self.ttl;
        let answer = move |reply: ReplyAttr, result: FsResult<Attr>| match result {
            Ok(a) => reply.attr(&ttl, &attributes(&a)),
            Err(e) => reply.error(errno(what, ino, &e)),
        };
        self.run(request, reply, work, answer, drop);
    }
}

fn answer_attribute(reply: ReplyXattr, size: u32, value: &[u8]) {
    if size == 0 {
        reply.size(value.len() as u32);
    } else if value.len() > size as usize {
        reply.error(Errno::ERANGE);
    } else {
        reply.data(value);
    }
}

impl fuser::Filesystem for Adapter {
    fn lookup(&self, request: &Request, parent: INodeNo, n: &OsStr, reply: ReplyEntry) {
        let n = bytes_or_refuse!(name(n), reply);
        let (fs, ttl, is_fast) = (self.fs.clone(), self.ttl, self.is_fast());
        let answer = move |reply: ReplyEntry, result: FsResult<Attr>| match result {
            Ok(a) => reply.entry(&ttl, &attributes(&a), GENERATION),
            // That a name is not there may be kept like any other answer.
            Err(FsError::NotFound) if is_fast => reply.entry(&ttl, &NOBODY_THERE, GENERATION),
            Err(e) => reply.error(errno("lookup", parent.0, &e)),
        };
        self.run(request, reply, async move { fs.lookup(parent.0, &n).await }, answer, self.forgotten());
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.fs.forget(ino.0, count);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let fs = self.fs.clone();
        self.attr(request, reply, "getattr", ino.0, async move { fs.getattr(ino.0).await });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (fs, cx) = (self.fs.clone(), caller(request));
        let set = SetAttr {
            perm: mode.map(|m| m & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            ctime: ctime.map(set_ctime),
        };
        self.attr(request, reply, "setattr", ino.0, async move { fs.setattr(&cx, ino.0, &set).await });
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let fs = self.fs.clone();
        let answer = move |reply: ReplyData, result: FsResult<Bytes>| match result {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno("readlink", ino.0, &e)),
        };
        self.run(request, reply, async move { fs.readlink(ino.0).await }, answer, drop);
    }

    fn mknod(&self, request: &Request, parent: INodeNo, n: &OsStr, mode: u32, _: u32, rdev: u32, reply: ReplyEntry) {
        let n = bytes_or_refuse!(name(n), reply);
        let Some(kind) = kind_of_mode(mode) else { return reply.error(Errno::EINVAL) };
        let (fs, cx) = (self.fs.clone(), caller(request));
        self.entry(request, reply, "mknod", parent.0, async move { fs.mknod(&cx, parent.0, &n, kind, mode & 0o7777, rdev).await });
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, n: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let n = bytes_or_refuse!(name(n), reply);
        let (fs, cx) = (self.fs.clone(), caller(request));
        self.entry(request, reply, "mkdir", parent.0, async move { fs.mkdir(&cx, parent.0, &n, mode & 0o7777).await });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, n: &OsStr, reply: ReplyEmpty) {
        let n = bytes_or_refuse!(name(n), reply);
        let (fs, cx) = (self.fs.clone(), caller(request));
        self.empty(request, reply, "unlink", parent.0, async move { fs.unlink(&cx, parent.0, &n).await });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, n: &OsStr, reply: ReplyEmpty) {
        let n = bytes_or_refuse!(name(n), reply);
        let (fs, cx) = (self.fs.clone(), caller(request));
        self.empty(request, reply, "rmdir", parent.0, async move { fs.rmdir(&cx, parent.0, &n).await });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, n: &OsStr, target: &Path, reply: ReplyEntry) {
        let n = bytes_or_refuse!(name(n), reply);
        let target = target.as_os_str().as_bytes().to_vec();
        let (fs, cx) = (self.fs.clone(), caller(request));
        self.entry(request, reply, "symlink", parent.0, async move { fs.symlink(&cx, parent.0, &n, &target).await });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        n: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let n = bytes_or_refuse!(name(n), reply);
        let newname = bytes_or_refuse!(name(newname), reply);
        let mode = match flags.bits() {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            libc::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        let (fs, cx) = (self.fs.clone(), caller(request));
        self.empty(request, reply, "rename", parent.0, async move { fs.rename(&cx, parent.0, &n, newparent.0, &newname, mode).await });
    }

    fn link(&self, request: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let n = bytes_or_refuse!(name(newname), reply);
        let (fs, cx) = (self.fs.clone(), caller(request));
        self.entry(request, reply, "link", ino.0, async move { fs.link(&cx, ino.0, newparent.0, &n).await });
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // The kernel has checked permissions, and the volume keeps no state per open file: it need not ask at all.
        if self.is_fast() { reply.error(Errno::ENOSYS) } else { reply.opened(FileHandle(0), OPENED) }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.is_fast() { reply.error(Errno::ENOSYS) } else { reply.opened(FileHandle(0), FopenFlags::empty()) }
    }

    fn create(&self, request: &Request, parent: INodeNo, n: &OsStr, mode: u32, _: u32, flags: i32, reply: ReplyCreate) {
        if self.is_fast() {
            // It asks for mknod from now on, and opens what that made without a message: no handle needs a release.
            return reply.error(Errno::ENOSYS);
        }
        let n = bytes_or_refuse!(name(n), reply);
        let Some(kind) = kind_of_mode(mode) else { return reply.error(Errno::EINVAL) };
        let (fs, cx, ttl) = (self.fs.clone(), caller(request), self.ttl);
        let work = async move {
            match fs.mknod(&cx, parent.0, &n, kind, mode & 0o7777, 0).await {
                // Without O_EXCL, a file that is there is opened.
                Err(FsError::Exists) if flags & libc::O_EXCL == 0 => fs.lookup(parent.0, &n).await,
                other => other,
            }
        };
        let answer = move |reply: ReplyCreate, made: FsResult<Attr>| match made {
            Ok(a) => reply.created(&ttl, &attributes(&a), GENERATION, FileHandle(0), OPENED),
            Err(e) => reply.error(errno("create", parent.0, &e)),
        };
        self.run(request, reply, work, answer, self.forgotten());
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let fs = self.fs.clone();
        let answer = move |reply: ReplyData, result: FsResult<Bytes>| match result {
            Ok(data) => reply.data(&data),
            Err(e) => reply.error(errno("read", ino.0, &e)),
        };
        self.run(request, reply, async move { fs.read(ino.0, offset, size).await }, answer, drop);
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        how: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (fs, cx, data) = (self.fs.clone(), writer(request, how), data.to_vec());
        let work = async move {
            let n = fs.write(&cx, ino.0, offset, &data).await?;
            drop(data);
            // O_SYNC includes the bit of O_DSYNC.
            if flags.0 & libc::O_DSYNC != 0 {
                fs.fsync(ino.0, flags.0 & libc::O_SYNC != libc::O_SYNC).await?;
            }
            Ok(n)
        };
        let answer = move |reply: ReplyWrite, written: FsResult<usize>| match written {
            Ok(n) => reply.written(n as u32),
            Err(e) => reply.error(errno("write", ino.0, &e)),
        };
        self.run(request, reply, work, answer, drop);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Every write was answered with its own error already. The kernel need not ask again on this mount, and
        // still writes pages that were changed through a mapping.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, request: &Request, ino: INodeNo, _: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        self.empty(request, reply, "fsync", ino.0, async move { fs.fsync(ino.0, datasync).await });
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, _: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        self.empty(request, reply, "fsyncdir", ino.0, async move { fs.fsync(ino.0, datasync).await });
    }

    fn readdir(&self, request: &Request, ino: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectory) {
        let (fs, sheet) = (self.fs.clone(), Sheet::new(reply));
        let filled = sheet.clone();
        let answer = move |sheet: Sheet<ReplyDirectory>, listed: FsResult<()>| match (sheet.take(), listed) {
            (Some(reply), Ok(())) => reply.ok(),
            (Some(reply), Err(e)) => reply.error(errno("readdir", ino.0, &e)),
            (None, _) => {}
        };
        self.run(request, sheet, async move { fill(&fs, ino, offset, &filled).await }, answer, drop);
    }

    fn readdirplus(&self, request: &Request, ino: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let (fs, ttl, sheet) = (self.fs.clone(), self.ttl, Sheet::new(reply));
        let filled = sheet.clone();
        let work = async move {
            let mut told = Told { fs, inodes: Vec::new() };
            let listed = fill_plus(&mut told, ino, offset, ttl, &filled).await;
            (told, listed)
        };
        let answer = move |sheet: Sheet<ReplyDirectoryPlus>, (mut told, listed): (Told, FsResult<()>)| match (sheet.take(), listed) {
            (Some(reply), Ok(())) => {
                told.inodes.clear();
                reply.ok();
            }
            (Some(reply), Err(e)) => reply.error(errno("readdirplus", ino.0, &e)),
            (None, _) => {}
        };
        self.run(request, sheet, work, answer, drop);
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.fs.statfs() {
            Ok(s) => {
                let (files, block) = (s.inodes.saturating_add(s.inodes_free), BLOCK as u32);
                reply.statfs(s.blocks, s.free, s.free, files, s.inodes_free, block, NAME_MAX as u32, block);
            }
            Err(e) => reply.error(errno("statfs", ino.0, &e)),
        }
    }

    fn setxattr(&self, request: &Request, ino: INodeNo, n: &OsStr, value: &[u8], flags: i32, _: u32, reply: ReplyEmpty) {
        let n = bytes_or_refuse!(attribute_name(n), reply);
        let mode = match flags {
            0 => XattrMode::Any,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        if value.len() > 64 << 10 {
            return reply.error(Errno::E2BIG);
        }
        let (fs, cx, value) = (self.fs.clone(), caller(request), value.to_vec());
        self.empty(request, reply, "setxattr", ino.0, async move { fs.setxattr(&cx, ino.0, &n, &value, mode).await });
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, n: &OsStr, size: u32, reply: ReplyXattr) {
        let n = bytes_or_refuse!(attribute_name(n), reply);
        let fs = self.fs.clone();
        let answer = move |reply: ReplyXattr, result: FsResult<Bytes>| match result {
            Ok(value) => answer_attribute(reply, size, &value),
            Err(e) => reply.error(errno("getxattr", ino.0, &e)),
        };
        self.run(request, reply, async move { fs.getxattr(ino.0, &n).await }, answer, drop);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        // Trusted attributes are shown to the administrator alone.
        let (fs, privileged) = (self.fs.clone(), request.uid() == 0);
        let answer = move |reply: ReplyXattr, result: FsResult<Vec<Bytes>>| match result {
            Ok(names) => {
                let mut list = Vec::new();
                for n in names.iter().filter(|n| privileged || !n.starts_with(b"trusted.")) {
                    list.extend_from_slice(n);
                    list.push(0);
                }
                answer_attribute(reply, size, &list);
            }
            Err(e) => reply.error(errno("listxattr", ino.0, &e)),
        };
        self.run(request, reply, async move { fs.listxattr(ino.0).await }, answer, drop);
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, n: &OsStr, reply: ReplyEmpty) {
        let n = bytes_or_refuse!(attribute_name(n), reply);
        let (fs, cx) = (self.fs.clone(), caller(request));
        self.empty(request, reply, "removexattr", ino.0, async move { fs.removexattr(&cx, ino.0, &n).await });
    }

    fn fallocate(&self, request: &Request, ino: INodeNo, _: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let what = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => Allocate::Reserve { keep_size },
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => Allocate::PunchHole,
            libc::FALLOC_FL_ZERO_RANGE => Allocate::ZeroRange { keep_size },
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        let (fs, cx) = (self.fs.clone(), caller(request));
        self.empty(request, reply, "fallocate", ino.0, async move { fs.fallocate(&cx, ino.0, offset, length, what).await });
    }

    fn lseek(&self, request: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        if self.is_fast() {
            // What the kernel has not written back yet is not known here, the end of a growing file included: it takes
            // all of the file for data instead of asking.
            return reply.error(Errno::ENOSYS);
        }
        let seek = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(from) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let (fs, notifier) = (self.fs.clone(), self.notifier.clone());
        let work = async move {
            if let Some((start, end)) = hole_in_the_way(&fs, ino.0, from, seek).await? {
                write_mapped_pages(&notifier, ino, start, end).await;
            }
            fs.seek(ino.0, from, seek).await
        };
        let answer = move |reply: ReplyLseek, found: FsResult<u64>| match found {
            Ok(at) => reply.offset(at as i64),
            Err(e) => reply.error(errno("lseek", ino.0, &e)),
        };
        self.run(request, reply, work, answer, drop);
    }
}

/// The hole, if any, on which the answer of a seek rests.
async fn hole_in_the_way(fs: &Arc<FileSystem>, ino: Ino, from: u64, seek: Seek) -> FsResult<Option<(u64, u64)>> {
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
async fn write_mapped_pages(notifier: &Arc<std::sync::OnceLock<fuser::Notifier>>, ino: INodeNo, start: u64, end: u64) {
    let Some(notifier) = notifier.get().cloned() else { return };
    // The kernel sends the pages as writes while this call waits, so it must not wait on a thread that reads requests.
    let told = tokio::task::spawn_blocking(move || notifier.inval_inode(ino, start as i64, (end - start) as i64)).await;
    if let Ok(Err(e)) = told {
        tracing::debug!("having pages of inode {} written: {e}", ino.0);
    }
}

/// Inodes that an answer tells the kernel of. Whatever is still in it when it goes was not told.
struct Told {
    fs: Arc<FileSystem>,
    inodes: Vec<Ino>,
}

impl Drop for Told {
    fn drop(&mut self) {
        for ino in self.inodes.drain(..) {
            self.fs.forget(ino, 1);
        }
    }
}

async fn fill(fs: &Arc<FileSystem>, ino: INodeNo, offset: u64, sheet: &Sheet<ReplyDirectory>) -> FsResult<()> {
    // A sheet that nobody wants any more counts as full.
    if offset == 0 && sheet.fill(|reply| reply.add(ino, 1, FileType::Directory, ".")) != Some(false) {
        return Ok(());
    }
    if offset <= 1 {
        let parent = INodeNo(fs.parent_of(ino.0).await?);
        if sheet.fill(|reply| reply.add(parent, DOTS, FileType::Directory, "..")) != Some(false) {
            return Ok(());
        }
    }
    let mut cookie = offset.saturating_sub(DOTS);
    loop {
        let entries = fs.readdir(ino.0, cookie, ENTRIES).await?;
        let last = entries.len() < ENTRIES;
        let full = sheet.fill(|reply| {
            entries.iter().any(|e| {
                cookie = e.cookie;
                reply.add(INodeNo(e.ino), e.cookie + DOTS, file_type(e.kind), OsStr::from_bytes(&e.name))
            })
        });
        if last || full != Some(false) {
            return Ok(());
        }
    }
}

async fn fill_plus(told: &mut Told, ino: INodeNo, offset: u64, ttl: Duration, sheet: &Sheet<ReplyDirectoryPlus>) -> FsResult<()> {
    let fs = told.fs.clone();
    // For "." and ".." the kernel takes no reference, whatever it is told.
    if offset == 0 {
        let own = fs.getattr(ino.0).await?;
        if sheet.fill(|reply| reply.add(ino, 1, ".", &ttl, &attributes(&own), GENERATION)) != Some(false) {
            return Ok(());
        }
    }
    if offset <= 1 {
        let parent = fs.getattr(fs.parent_of(ino.0).await?).await?;
        let full = sheet.fill(|reply| reply.add(INodeNo(parent.ino), DOTS, "..", &ttl, &attributes(&parent), GENERATION));
        if full != Some(false) {
            return Ok(());
        }
    }
    let mut cookie = offset.saturating_sub(DOTS);
    loop {
        let entries = fs.readdir(ino.0, cookie, ENTRIES).await?;
        let last = entries.len() < ENTRIES;
        for e in entries {
            cookie = e.cookie;
            let a = match fs.lookup(ino.0, &e.name).await {
                Ok(a) => a,
                // Removed between the reading and the lookup.
                Err(FsError::NotFound) => continue,
                Err(e) => return Err(e),
            };
            let name = OsStr::from_bytes(&e.name);
            let full = sheet.fill(|reply| reply.add(INodeNo(a.ino), e.cookie + DOTS, name, &ttl, &attributes(&a), GENERATION));
            if full != Some(false) {
                // No room: the kernel is not told of this one.
                fs.forget(a.ino, 1);
                return Ok(());
            }
            told.inodes.push(a.ino);
        }
        if last {
            return Ok(());
        }
    }
}
