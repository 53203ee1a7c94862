//! The kernel's requests, each answered at once on the thread that read it. The answers that a real file system must
//! give are given (no attribute is there, flush need not be asked again), so that the kernel sends the same messages.

use crate::Mode;
use crate::memory::{Body, Folder, New, Node, Pieces, Tree};
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const GENERATION: Generation = Generation(0);
const KEPT: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE;
const MAX_IO: u32 = 1 << 20;

/// The whole file system.
#[derive(Debug)]
pub(crate) struct NullFs {
    tree: Tree,
    mode: Mode,
    ttl: Duration,
}

fn kind(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        libc::S_IFSOCK => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

fn new(request: &Request, kind: FileType, mode: u32, rdev: u32, body: Body) -> New {
    New { kind, perm: (mode & 0o7777) as u16, uid: request.uid(), gid: request.gid(), rdev, body }
}

fn time(t: TimeOrNow) -> SystemTime {
    match t {
        TimeOrNow::SpecificTime(t) => t,
        TimeOrNow::Now => SystemTime::now(),
    }
}

impl NullFs {
    pub(crate) fn new(mode: Mode) -> Self {
        NullFs { tree: Tree::new(), mode, ttl: mode.ttl() }
    }

    fn node(&self, ino: INodeNo) -> Result<Arc<Node>, Errno> {
        self.tree.get(ino.0).ok_or(Errno::ENOENT)
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Result<Arc<Node>, Errno> {
        let parent = self.node(parent)?;
        let ino = parent.read().folder().ok_or(Errno::ENOTDIR)?.get(name).ok_or(Errno::ENOENT)?;
        self.tree.get(ino).ok_or(Errno::ENOENT)
    }

    fn make(&self, parent: INodeNo, name: &OsStr, mut new: New) -> Result<FileAttr, Errno> {
        let folder = self.node(parent)?;
        let mut state = folder.write();
        let (inherit, inherited) = (u32::from(state.attr.perm) & libc::S_ISGID != 0, state.attr.gid);
        if state.attr.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        let entries = state.folder_mut().ok_or(Errno::ENOTDIR)?;
        if entries.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        let is_folder = new.kind == FileType::Directory;
        if inherit {
            new.gid = inherited;
            new.perm |= if is_folder { libc::S_ISGID as u16 } else { 0 };
        }
        let (node, attr) = self.tree.make(new);
        node.known();
        entries.insert(name, attr.ino.0);
        state.attr.nlink += u32::from(is_folder);
        state.touch();
        Ok(attr)
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, folder: bool) -> Result<(), Errno> {
        let _order = folder.then(|| self.tree.order());
        let child = self.child(parent, name)?;
        let above = self.node(parent)?;
        {
            let mut state = above.write();
            let entries = state.folder_mut().ok_or(Errno::ENOTDIR)?;
            let mut own = child.write();
            if entries.get(name) != Some(own.attr.ino.0) {
                return Err(Errno::ENOENT);
            }
            match (folder, own.folder().map(Folder::is_empty)) {
                (true, None) => return Err(Errno::ENOTDIR),
                (true, Some(false)) => return Err(Errno::ENOTEMPTY),
                (false, Some(_)) => return Err(Errno::EISDIR),
                _ => {}
            }
            entries.remove(name);
            own.attr.nlink = if folder { 0 } else { own.attr.nlink - 1 };
            own.attr.ctime = SystemTime::now();
            state.attr.nlink -= u32::from(folder);
            state.touch();
        }
        self.tree.sweep(&child);
        Ok(())
    }

    fn move_entry(&self, from: INodeNo, name: &OsStr, to: INodeNo, new: &OsStr, flags: RenameFlags) -> Result<(), Errno> {
        if flags.bits() & !libc::RENAME_NOREPLACE != 0 {
            return Err(Errno::EINVAL);
        }
        let _order = self.tree.order();
        let moved = self.child(from, name)?;
        let (source, target) = (self.node(from)?, self.node(to)?);
        let replaced = match self.child(to, new) {
            Ok(_) if flags.bits() != 0 => return Err(Errno::EEXIST),
            Ok(node) if Arc::ptr_eq(&node, &moved) => return Ok(()),
            Ok(node) => Some(node),
            Err(_) => None,
        };
        let attr = moved.read().attr;
        let is_folder = attr.kind == FileType::Directory;
        if let Some(replaced) = &replaced {
            let mut state = replaced.write();
            match (is_folder, state.folder().map(Folder::is_empty)) {
                (true, None) => return Err(Errno::ENOTDIR),
                (true, Some(false)) => return Err(Errno::ENOTEMPTY),
                (false, Some(_)) => return Err(Errno::EISDIR),
                _ => {}
            }
            state.attr.nlink = if is_folder { 0 } else { state.attr.nlink - 1 };
        }
        // The order is held: nobody else takes one of these after the other.
        let mut state = source.write();
        state.folder_mut().ok_or(Errno::ENOTDIR)?.remove(name);
        state.attr.nlink -= u32::from(is_folder);
        state.touch();
        drop(state);
        let mut state = target.write();
        let entries = state.folder_mut().ok_or(Errno::ENOTDIR)?;
        entries.remove(new);
        entries.insert(new, attr.ino.0);
        state.attr.nlink += u32::from(is_folder && replaced.is_none());
        state.touch();
        drop(state);
        let mut state = moved.write();
        state.attr.ctime = SystemTime::now();
        if let Some(folder) = state.folder_mut() {
            folder.parent = to.0;
        }
        drop(state);
        if let Some(replaced) = replaced {
            self.tree.sweep(&replaced);
        }
        Ok(())
    }

    /// Calls with each entry from an offset on, until it says that there is no room. The folder's lock is held
    /// meanwhile: to take it a second time, for ".", could wait for ever behind a writer.
    fn list(&self, ino: INodeNo, offset: u64, mut add: impl FnMut(u64, u64, &OsStr) -> bool) -> Result<(), Errno> {
        let folder = self.node(ino)?;
        let state = folder.read();
        let entries = state.folder().ok_or(Errno::ENOTDIR)?;
        for (at, (name, ino)) in [(1, (".", ino.0)), (2, ("..", entries.parent))] {
            if offset < at && add(ino, at, OsStr::new(name)) {
                return Ok(());
            }
        }
        let after = (Bound::Excluded(offset.saturating_sub(2)), Bound::Unbounded);
        for (cookie, (name, ino)) in entries.listing.range(after) {
            if add(*ino, cookie + 2, name) {
                break;
            }
        }
        Ok(())
    }

    fn entry(&self, reply: ReplyEntry, made: Result<FileAttr, Errno>) {
        match made {
            Ok(attr) => reply.entry(&self.ttl, &attr, GENERATION),
            Err(e) => reply.error(e),
        }
    }

    fn kind_of(&self, ino: u64) -> FileType {
        self.tree.get(ino).map_or(FileType::RegularFile, |n| n.read().attr.kind)
    }
}

fn empty(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

impl fuser::Filesystem for NullFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // A capability that this kernel lacks is one that Orlop goes without too.
        for flag in self.mode.wanted().iter() {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(MAX_IO);
        let _ = config.set_max_background(64);
        let _ = config.set_congestion_threshold(48);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.child(parent, name).map(|node| {
            node.known();
            node.read().attr
        });
        self.entry(reply, found);
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.tree.forget(ino.0, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(ino) {
            Ok(node) => reply.attr(&self.ttl, &node.read().attr),
            Err(e) => reply.error(e),
        }
    }

    fn setattr(
        &self,
        _: &Request,
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
        let node = match self.node(ino) {
            Ok(node) => node,
            Err(e) => return reply.error(e),
        };
        let mut state = node.write();
        if let Some(size) = size {
            if let Body::File(pieces) = &mut state.body {
                pieces.truncate(size);
            }
            state.resize(size);
            state.touch();
        }
        let attr = &mut state.attr;
        attr.perm = mode.map_or(attr.perm, |m| (m & 0o7777) as u16);
        attr.uid = uid.unwrap_or(attr.uid);
        attr.gid = gid.unwrap_or(attr.gid);
        attr.atime = atime.map_or(attr.atime, time);
        attr.mtime = mtime.map_or(attr.mtime, time);
        attr.ctime = ctime.unwrap_or_else(SystemTime::now);
        reply.attr(&self.ttl, attr);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.node(ino) {
            Ok(node) => match &node.read().body {
                Body::Link(target) => reply.data(target.as_bytes()),
                _ => reply.error(Errno::EINVAL),
            },
            Err(e) => reply.error(e),
        }
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, rdev: u32, reply: ReplyEntry) {
        let kind = kind(mode);
        let body = if kind == FileType::RegularFile { Body::File(Pieces::default()) } else { Body::Other };
        self.entry(reply, self.make(parent, name, new(request, kind, mode, rdev, body)));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let body = Body::Folder(Folder::within(parent.0));
        self.entry(reply, self.make(parent, name, new(request, FileType::Directory, mode, 0, body)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.remove(parent, name, false));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.remove(parent, name, true));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let body = Body::Link(target.as_os_str().to_owned());
        self.entry(reply, self.make(parent, name, new(request, FileType::Symlink, 0o777, 0, body)));
    }

    fn rename(&self, _: &Request, parent: INodeNo, name: &OsStr, to: INodeNo, new: &OsStr, flags: RenameFlags, reply: ReplyEmpty) {
        empty(reply, self.move_entry(parent, name, to, new, flags));
    }

    fn link(&self, _: &Request, ino: INodeNo, to: INodeNo, new: &OsStr, reply: ReplyEntry) {
        let linked = || {
            let (node, folder) = (self.node(ino)?, self.node(to)?);
            let mut state = folder.write();
            let entries = state.folder_mut().ok_or(Errno::ENOTDIR)?;
            if entries.get(new).is_some() {
                return Err(Errno::EEXIST);
            }
            entries.insert(new, ino.0);
            state.touch();
            let mut own = node.write();
            own.attr.nlink += 1;
            own.attr.ctime = SystemTime::now();
            node.known();
            Ok(own.attr)
        };
        self.entry(reply, linked());
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.mode.fast { reply.error(Errno::ENOSYS) } else { reply.opened(FileHandle(0), KEPT) }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.mode.fast { reply.error(Errno::ENOSYS) } else { reply.opened(FileHandle(0), FopenFlags::empty()) }
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        if self.mode.fast {
            return reply.error(Errno::ENOSYS);
        }
        match self.make(parent, name, new(request, FileType::RegularFile, mode, 0, Body::File(Pieces::default()))) {
            Ok(attr) => reply.created(&self.ttl, &attr, GENERATION, FileHandle(0), KEPT),
            Err(e) => reply.error(e),
        }
    }

    fn read(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, size: u32, _: OpenFlags, _: Option<LockOwner>, reply: ReplyData) {
        let node = match self.node(ino) {
            Ok(node) => node,
            Err(e) => return reply.error(e),
        };
        let state = node.read();
        let length = state.attr.size.saturating_sub(offset).min(u64::from(size)) as usize;
        match &state.body {
            Body::File(pieces) => pieces.read(offset, length, |data| reply.data(data)),
            _ => reply.error(Errno::EISDIR),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let node = match self.node(ino) {
            Ok(node) => node,
            Err(e) => return reply.error(e),
        };
        let mut state = node.write();
        let Body::File(pieces) = &mut state.body else { return reply.error(Errno::EISDIR) };
        pieces.write(offset, data);
        let end = offset + data.len() as u64;
        if end > state.attr.size {
            state.resize(end);
        }
        state.touch();
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let kind = |child, at| if at <= 2 { FileType::Directory } else { self.kind_of(child) };
        match self.list(ino, offset, |child, at, name| reply.add(INodeNo(child), at, kind(child, at), name)) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let listed = self.list(ino, offset, |child, at, name| {
            // For "." and ".." the kernel takes no attributes and no reference.
            if at <= 2 {
                return reply.add(INodeNo(child), at, name, &Duration::ZERO, &dot(child), GENERATION);
            }
            let Some(node) = self.tree.get(child) else { return false };
            let full = reply.add(INodeNo(child), at, name, &self.ttl, &node.read().attr, GENERATION);
            if !full {
                node.known();
            }
            full
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (blocks, files) = (1 << 28, 1 << 30);
        reply.statfs(blocks, blocks, blocks, files, files - self.tree.count(), 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        // Not ENOSYS, after which the kernel would never ask again: a file system with attributes cannot say that.
        reply.error(Errno::ENODATA);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, size: u32, reply: ReplyXattr) {
        if size == 0 { reply.size(0) } else { reply.data(&[]) }
    }
}

fn dot(ino: u64) -> FileAttr {
    let then = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: then,
        mtime: then,
        ctime: then,
        crtime: then,
        kind: FileType::Directory,
        perm: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}
