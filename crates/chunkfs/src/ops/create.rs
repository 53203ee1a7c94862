//! Making inodes and names: files, device nodes, folders, symbolic links, hard links.

use crate::fs::FileSystem;
use crate::row::Inode;
use crate::state::Step;
use crate::tx::Tx;
use crate::types::{Attr, Caller, FileKind, FsError, FsResult, Ino, Time};
use bytes::Bytes;

/// Names that one inode can have, and folders within one folder.
const LINK_MAX: u32 = 65_000;
/// Longest target of a symbolic link, as the kernel's page of a path.
const TARGET_MAX: usize = 4095;

impl FileSystem {
    /// Makes a file, pipe, socket or device node. Counts as told to the kernel.
    pub async fn mknod(&self, cx: &Caller, parent: Ino, name: &[u8], kind: FileKind, perm: u32, rdev: u32) -> FsResult<Attr> {
        if matches!(kind, FileKind::Directory | FileKind::Symlink) {
            return Err(FsError::Invalid);
        }
        self.make(cx, parent, name, &New { kind, perm, rdev, target: Bytes::new() }).await
    }

    /// Makes a folder. Counts as told to the kernel.
    pub async fn mkdir(&self, cx: &Caller, parent: Ino, name: &[u8], perm: u32) -> FsResult<Attr> {
        self.make(cx, parent, name, &New { kind: FileKind::Directory, perm, rdev: 0, target: Bytes::new() }).await
    }

    /// Makes a symbolic link. Counts as told to the kernel.
    pub async fn symlink(&self, cx: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> FsResult<Attr> {
        if target.is_empty() {
            return Err(FsError::NotFound);
        }
        if target.len() > TARGET_MAX {
            return Err(FsError::NameTooLong);
        }
        let target = Bytes::copy_from_slice(target);
        self.make(cx, parent, name, &New { kind: FileKind::Symlink, perm: 0o777, rdev: 0, target }).await
    }

    async fn make(&self, cx: &Caller, parent: Ino, name: &[u8], new: &New) -> FsResult<Attr> {
        self.grow(cx, name.len() + new.target.len(), |st| {
            let attr = make(Tx::of(st, cx), cx, parent, name, new)?;
            Ok(FileSystem::told(st, attr))
        })
        .await
    }

    /// Gives an inode one more name. Counts as told to the kernel.
    pub async fn link(&self, cx: &Caller, ino: Ino, parent: Ino, name: &[u8]) -> FsResult<Attr> {
        self.grow(cx, name.len(), |st| {
            let mut tx = Tx::of(st, cx);
            if tx.answered().is_some() {
                let attr = tx.inode(ino)?.attr(ino);
                return Ok(FileSystem::told(st, attr));
            }
            let mut folder = tx.folder(parent)?;
            let Err(pos) = tx.find(parent, name)? else { return Err(FsError::Exists.into()) };
            let mut inode = (*tx.inode(ino)?).clone();
            if inode.is_dir() {
                return Err(FsError::NotPermitted.into());
            }
            if inode.nlink == 0 {
                // What lost its last name does not come back: it may be going already.
                return Err(FsError::NotFound.into());
            }
            if inode.nlink >= LINK_MAX {
                return Err(FsError::TooManyLinks.into());
            }
            inode.nlink += 1;
            inode.ctime = tx.now;
            tx.put_name(parent, pos, ino, inode.kind, name)?;
            added(&mut folder, tx.now);
            tx.put_inode(parent, folder);
            tx.put_inode(ino, inode.clone());
            tx.answer(ino);
            tx.commit()?;
            Ok(FileSystem::told(st, inode.attr(ino)))
        })
        .await
    }
}

struct New {
    kind: FileKind,
    perm: u32,
    rdev: u32,
    target: Bytes,
}

/// A folder gained a name.
pub(crate) fn added(folder: &mut Inode, now: Time) {
    folder.size += 1;
    folder.mtime = now;
    folder.ctime = now;
}

fn make(mut tx: Tx<'_>, cx: &Caller, parent: Ino, name: &[u8], new: &New) -> Step<Attr> {
    if let Some(ino) = tx.answered() {
        return Ok(tx.inode(ino)?.attr(ino));
    }
    let mut folder = tx.folder(parent)?;
    let Err(pos) = tx.find(parent, name)? else { return Err(FsError::Exists.into()) };
    let is_dir = new.kind == FileKind::Directory;
    if is_dir && folder.nlink >= LINK_MAX {
        return Err(FsError::TooManyLinks.into());
    }
    // In a folder with the set-group-id bit, what is made belongs to its group, and folders inherit the bit.
    let inherits = folder.perm & 0o2000 != 0;
    let now = tx.now;
    let ino = tx.new_ino();
    let inode = Inode {
        kind: new.kind,
        perm: (new.perm & 0o7777) | if inherits && is_dir { 0o2000 } else { 0 },
        nlink: if is_dir { 2 } else { 1 },
        uid: cx.uid,
        gid: if inherits { folder.gid } else { cx.gid },
        rdev: if matches!(new.kind, FileKind::CharDevice | FileKind::BlockDevice) { new.rdev } else { 0 },
        size: new.target.len() as u64,
        blocks: 0,
        extent_end: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        parent: if is_dir { parent } else { 0 },
        has_xattrs: false,
        target: new.target.clone(),
    };
    added(&mut folder, now);
    if is_dir {
        folder.nlink += 1;
    }
    tx.put_name(parent, pos, ino, new.kind, name)?;
    tx.put_inode(parent, folder);
    let attr = inode.attr(ino);
    tx.put_inode(ino, inode);
    tx.answer(ino);
    tx.commit()?;
    Ok(attr)
}
