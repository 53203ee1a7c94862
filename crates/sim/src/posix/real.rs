//! Runs an operation on chunkfs, the way a kernel would: a path is looked up name by name, what was told is forgotten.

use super::Out;
use super::model::xattr;
use super::op::{At, Op, Path, contents, name, value};
use super::tree::{facts, list};
use orlop_chunkfs::{Attr, Caller, FileKind, FileSystem, FsError, FsResult, Ino, ROOT_INO, SetAttr, SetTime, Time};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An open file system and what is held of it.
#[derive(Debug)]
pub struct Real {
    /// The file system.
    pub fs: Arc<FileSystem>,
    /// Held inodes.
    pub slots: BTreeMap<u8, Ino>,
    requests: u64,
}

type Answer = Result<Out, i32>;

fn errno(e: FsError) -> i32 {
    e.errno()
}

impl Real {
    /// Nothing is held yet. `first` is the number of the first request; a kernel never uses one twice.
    pub fn new(fs: Arc<FileSystem>, first: u64) -> Self {
        Real { fs, slots: BTreeMap::new(), requests: first }
    }

    /// The number that the next request gets.
    pub fn next_request(&self) -> u64 {
        self.requests
    }

    /// Runs one operation. Every third change is sent twice, with one number: its second answer must be its first.
    pub async fn apply(&mut self, op: &Op) -> Out {
        let out = self.answer(op).await;
        match out {
            Ok(out) => out,
            Err(e) => Out::Errno(e),
        }
    }

    async fn walk(&self, path: &Path) -> Result<(Ino, FileKind), i32> {
        let mut at = (ROOT_INO, FileKind::Directory);
        for part in path {
            let attr = self.fs.lookup(at.0, &name(*part)).await.map_err(errno)?;
            // The name holds it; nothing else changes meanwhile.
            self.fs.forget(attr.ino, 1);
            at = (attr.ino, attr.kind);
        }
        Ok(at)
    }

    async fn split(&self, path: &Path, root: i32) -> Result<(Ino, Vec<u8>), i32> {
        let (last, dirs) = path.split_last().ok_or(root)?;
        let (parent, kind) = self.walk(&dirs.to_vec()).await?;
        // The kernel itself refuses to look below anything else.
        if kind == FileKind::Directory { Ok((parent, name(*last))) } else { Err(libc::ENOTDIR) }
    }

    async fn at(&self, at: &At) -> Result<Ino, i32> {
        match at {
            At::Path(p) => Ok(self.walk(p).await?.0),
            At::Slot(s) => self.slots.get(s).copied().ok_or(libc::EBADF),
        }
    }

    /// Data operations reach the file system for files only: the kernel refuses the rest.
    async fn file(&self, at: &At) -> Result<Ino, i32> {
        let ino = self.at(at).await?;
        match self.fs.getattr(ino).await.map_err(errno)?.kind {
            FileKind::File => Ok(ino),
            FileKind::Directory => Err(libc::EISDIR),
            _ => Err(libc::EINVAL),
        }
    }

    fn caller(&mut self) -> Caller {
        self.requests += 1;
        Caller { uid: 0, gid: 0, request: self.requests, keeps_times: false }
    }

    fn told(&self, attr: Attr) -> Out {
        self.fs.forget(attr.ino, 1);
        Out::Attr(facts(&attr))
    }

    /// Sends a change, and every third one twice.
    async fn send<T, F>(&mut self, what: impl Fn(Arc<FileSystem>, Caller) -> F) -> Result<(T, Option<T>), i32>
    where
        F: Future<Output = FsResult<T>>,
    {
        let cx = self.caller();
        let first = what(Arc::clone(&self.fs), cx).await.map_err(errno)?;
        let again = if cx.request.is_multiple_of(3) { Some(what(Arc::clone(&self.fs), cx).await.map_err(errno)?) } else { None };
        Ok((first, again))
    }

    fn made(&self, (first, again): (Attr, Option<Attr>)) -> Answer {
        if let Some(again) = again {
            assert_eq!(again, first, "a request that came twice was answered twice differently");
            self.fs.forget(again.ino, 1);
        }
        Ok(self.told(first))
    }

    async fn set(&mut self, ino: Ino, set: SetAttr) -> Answer {
        let (first, again) = self.send(|fs, cx| async move { fs.setattr(&cx, ino, &set).await }).await?;
        assert!(again.is_none_or(|a| a == first), "a request that came twice was answered twice differently");
        Ok(Out::Attr(facts(&first)))
    }

    async fn answer(&mut self, op: &Op) -> Answer {
        match op {
            Op::Make { at, kind, perm } => {
                let (parent, name) = self.split(at, libc::EEXIST).await?;
                let (kind, perm) = (*kind, *perm);
                let name = &name;
                let both = self.send(|fs, cx| async move { fs.mknod(&cx, parent, name, kind, perm, 0x0103).await }).await?;
                self.made(both)
            }
            Op::MakeDir { at, perm } => {
                let (parent, name) = &self.split(at, libc::EEXIST).await?;
                let both = self.send(|fs, cx| async move { fs.mkdir(&cx, *parent, name, *perm).await }).await?;
                self.made(both)
            }
            Op::Symlink { at, target } => {
                let (parent, name) = &self.split(at, libc::EEXIST).await?;
                let both = self.send(|fs, cx| async move { fs.symlink(&cx, *parent, name, target).await }).await?;
                self.made(both)
            }
            Op::Link { of, at } => {
                let ino = self.at(of).await?;
                let (parent, name) = &self.split(at, libc::EEXIST).await?;
                let both = self.send(|fs, cx| async move { fs.link(&cx, ino, *parent, name).await }).await?;
                self.made(both)
            }
            Op::Unlink { at } => {
                let (parent, name) = &self.split(at, libc::EISDIR).await?;
                self.send(|fs, cx| async move { fs.unlink(&cx, *parent, name).await }).await?;
                Ok(Out::Unit)
            }
            Op::RemoveDir { at } => {
                let (parent, name) = &self.split(at, libc::EBUSY).await?;
                self.send(|fs, cx| async move { fs.rmdir(&cx, *parent, name).await }).await?;
                Ok(Out::Unit)
            }
            Op::Rename { from, to, mode } => {
                let (parent, name) = &self.split(from, libc::EBUSY).await?;
                let (new_parent, new_name) = &self.split(to, libc::EBUSY).await?;
                self.send(|fs, cx| async move { fs.rename(&cx, *parent, name, *new_parent, new_name, *mode).await }).await?;
                Ok(Out::Unit)
            }
            Op::Hold { at, slot } => {
                let (parent, name) = self.split(at, libc::EISDIR).await?;
                let attr = self.fs.lookup(parent, &name).await.map_err(errno)?;
                if let Some(before) = self.slots.insert(*slot, attr.ino) {
                    self.fs.forget(before, 1);
                }
                Ok(Out::Attr(facts(&attr)))
            }
            Op::Drop { slot } => {
                let ino = self.slots.remove(slot).ok_or(libc::EBADF)?;
                self.fs.forget(ino, 1);
                Ok(Out::Unit)
            }
            Op::Write { at, offset, len, fill } => {
                let ino = self.file(at).await?;
                let bytes = &contents(*offset, *len, *fill);
                let (n, again) = self.send(|fs, cx| async move { fs.write(&cx, ino, *offset, bytes).await }).await?;
                assert!(again.is_none_or(|a| a == n), "a write that came twice was answered twice differently");
                Ok(Out::Count(n))
            }
            Op::Read { at, offset, len } => {
                let ino = self.file(at).await?;
                Ok(Out::Bytes(self.fs.read(ino, *offset, *len as u32).await.map_err(errno)?.to_vec()))
            }
            Op::Truncate { at, size } => {
                let ino = self.file(at).await?;
                self.set(ino, SetAttr { size: Some(*size), ..SetAttr::default() }).await
            }
            Op::Chmod { at, perm } => {
                let ino = self.at(at).await?;
                self.set(ino, SetAttr { perm: Some(*perm), ..SetAttr::default() }).await
            }
            Op::Chown { at, uid, gid } => {
                let ino = self.at(at).await?;
                self.set(ino, SetAttr { uid: Some(*uid), gid: Some(*gid), ..SetAttr::default() }).await
            }
            Op::Touch { at, sec, nsec } => {
                let ino = self.at(at).await?;
                let mtime = Some(SetTime::At(Time { sec: *sec, nsec: *nsec }));
                self.set(ino, SetAttr { mtime, ..SetAttr::default() }).await
            }
            Op::Allocate { at, offset, len, how } => {
                let ino = self.file(at).await?;
                self.send(|fs, cx| async move { fs.fallocate(&cx, ino, *offset, *len, *how).await }).await?;
                Ok(Out::Unit)
            }
            Op::SeekTo { at, offset, what } => {
                let ino = self.file(at).await?;
                self.fs.seek(ino, *offset, *what).await.map(Out::Position).map_err(errno)
            }
            Op::SetXattr { at, name, len, mode } => {
                let ino = self.at(at).await?;
                let (key, value) = (&xattr(*name), &value(*name, *len));
                self.send(|fs, cx| async move { fs.setxattr(&cx, ino, key, value, *mode).await }).await?;
                Ok(Out::Unit)
            }
            Op::GetXattr { at, name } => {
                let ino = self.at(at).await?;
                Ok(Out::Bytes(self.fs.getxattr(ino, &xattr(*name)).await.map_err(errno)?.to_vec()))
            }
            Op::ListXattr { at } => {
                let ino = self.at(at).await?;
                let mut names: Vec<_> = self.fs.listxattr(ino).await.map_err(errno)?.into_iter().map(|n| (n.to_vec(), None)).collect();
                names.sort_by(|a, b| a.0.cmp(&b.0));
                Ok(Out::Names(names))
            }
            Op::RemoveXattr { at, name } => {
                let ino = self.at(at).await?;
                let key = &xattr(*name);
                self.send(|fs, cx| async move { fs.removexattr(&cx, ino, key).await }).await?;
                Ok(Out::Unit)
            }
            Op::ReadLink { at } => {
                let ino = self.at(at).await?;
                Ok(Out::Bytes(self.fs.readlink(ino).await.map_err(errno)?.to_vec()))
            }
            Op::Attr { at } => {
                let ino = self.at(at).await?;
                Ok(Out::Attr(facts(&self.fs.getattr(ino).await.map_err(errno)?)))
            }
            Op::List { at, page } => {
                let ino = self.at(at).await?;
                let all = list(&self.fs, ino, *page).await.map_err(errno)?;
                let mut names: Vec<_> = all.into_iter().map(|e| (e.name.to_vec(), Some(e.kind))).collect();
                names.sort_by(|a, b| a.0.cmp(&b.0));
                Ok(Out::Names(names))
            }
            Op::Fsync { at } => {
                let ino = self.at(at).await?;
                self.fs.fsync(ino, false).await.map(|()| Out::Unit).map_err(errno)
            }
            Op::SyncAll => self.fs.sync_all().await.map(|()| Out::Unit).map_err(errno),
            Op::Idle => {
                tokio::time::sleep(std::time::Duration::from_secs(61)).await;
                Ok(Out::Unit)
            }
            Op::Compact => self.fs.compact_all().await.map(|()| Out::Unit).map_err(errno),
            Op::Trim => self.fs.trim_all().await.map(|_| Out::Unit).map_err(errno),
            Op::Totals => {
                let usage = self.fs.usage();
                Ok(Out::Totals(usage.used_bytes / 4096, usage.inodes))
            }
            Op::Reopen | Op::Kill | Op::SyncAndCutPower => unreachable!("the driver ends lives"),
        }
    }
}
