//! Rename: replacing, refusing to replace, exchanging. One record, so that a crash sees all of it or nothing.

use crate::fs::FileSystem;
use crate::ops::create::added;
use crate::ops::remove::{drop_folder, drop_link, taken};
use crate::row::Dirent;
use crate::state::Step;
use crate::tx::Tx;
use crate::types::{Caller, FsError, FsResult, Ino, ROOT_INO, RenameMode};

/// The two ends of a rename.
#[derive(Clone, Copy)]
struct Ends<'a> {
    parent: Ino,
    name: &'a [u8],
    new_parent: Ino,
    new_name: &'a [u8],
}

impl FileSystem {
    /// Moves a name, within a folder or to another.
    pub async fn rename(&self, cx: &Caller, parent: Ino, name: &[u8], new_parent: Ino, new_name: &[u8], mode: RenameMode) -> FsResult<()> {
        let ends = Ends { parent, name, new_parent, new_name };
        let gone = self.change(|st| rename(Tx::of(st, cx), ends, mode)).await?;
        self.left(gone);
        Ok(())
    }
}

fn rename(mut tx: Tx<'_>, e: Ends<'_>, mode: RenameMode) -> Step<Option<Ino>> {
    if tx.answered().is_some() {
        return Ok(None);
    }
    tx.folder(e.parent)?;
    tx.folder(e.new_parent)?;
    let Ok((pos, from)) = tx.find(e.parent, e.name)? else { return Err(FsError::NotFound.into()) };
    let target = tx.find(e.new_parent, e.new_name)?;
    refuse_loop(&mut tx, from.ino, e.new_parent)?;
    match (mode, target) {
        (RenameMode::NoReplace, Ok(_)) => Err(FsError::Exists.into()),
        (RenameMode::Exchange, Err(_)) => Err(FsError::NotFound.into()),
        (RenameMode::Exchange, Ok((new_pos, to))) => {
            refuse_loop(&mut tx, to.ino, e.parent)?;
            exchange(tx, e, (pos, from), (new_pos, to))
        }
        // Two names of one inode: POSIX has nothing to do.
        (RenameMode::Replace, Ok((_, to))) if to.ino == from.ino => {
            tx.commit()?;
            Ok(None)
        }
        (_, target) => replace(tx, e, from, target.ok().map(|(_, d)| d)),
    }
}

/// A folder must not become its own descendant.
fn refuse_loop(tx: &mut Tx<'_>, moved: Ino, mut folder: Ino) -> Step<()> {
    if !tx.inode(moved)?.is_dir() {
        return Ok(());
    }
    while folder != ROOT_INO {
        if folder == moved {
            return Err(FsError::Invalid.into());
        }
        folder = tx.inode(folder)?.parent;
    }
    if moved == ROOT_INO { Err(FsError::Invalid.into()) } else { Ok(()) }
}

fn replace(mut tx: Tx<'_>, e: Ends<'_>, from: Dirent, to: Option<Dirent>) -> Step<Option<Ino>> {
    let now = tx.now;
    let is_dir = tx.inode(from.ino)?.is_dir();
    let mut gone = None;
    if let Some(to) = &to {
        let to_dir = tx.inode(to.ino)?.is_dir();
        match (is_dir, to_dir) {
            (true, false) => return Err(FsError::NotDirectory.into()),
            (false, true) => return Err(FsError::IsDirectory.into()),
            (true, true) => {
                gone = Some(drop_folder(&mut tx, to.ino)?);
                tx.change_inode(e.new_parent, |f| f.nlink = f.nlink.saturating_sub(1))?;
            }
            (false, false) => gone = drop_link(&mut tx, to.ino)?,
        }
        let Ok((new_pos, _)) = tx.find(e.new_parent, e.new_name)? else { return Err(FsError::NotFound.into()) };
        tx.delete_name(e.new_parent, new_pos)?;
        tx.change_inode(e.new_parent, |f| taken(f, now))?;
    }
    // Positions are asked for anew: taking a name out may have moved one of equal hash.
    let Ok((pos, _)) = tx.find(e.parent, e.name)? else { return Err(FsError::NotFound.into()) };
    tx.delete_name(e.parent, pos)?;
    tx.change_inode(e.parent, |f| taken(f, now))?;
    let Err(free) = tx.find(e.new_parent, e.new_name)? else { return Err(FsError::Exists.into()) };
    tx.put_name(e.new_parent, free, from.ino, from.kind, e.new_name)?;
    tx.change_inode(e.new_parent, |f| added(f, now))?;
    if is_dir && e.parent != e.new_parent {
        tx.change_inode(e.parent, |f| f.nlink = f.nlink.saturating_sub(1))?;
        tx.change_inode(e.new_parent, |f| f.nlink += 1)?;
    }
    tx.change_inode(from.ino, |i| {
        i.ctime = now;
        if is_dir {
            i.parent = e.new_parent;
        }
    })?;
    tx.unbounded();
    tx.commit()?;
    Ok(gone)
}

fn exchange(mut tx: Tx<'_>, e: Ends<'_>, (pos, from): (u64, Dirent), (new_pos, to): (u64, Dirent)) -> Step<Option<Ino>> {
    let now = tx.now;
    let from_dir = tx.inode(from.ino)?.is_dir();
    let to_dir = tx.inode(to.ino)?.is_dir();
    tx.put_name(e.parent, pos, to.ino, to.kind, e.name)?;
    tx.put_name(e.new_parent, new_pos, from.ino, from.kind, e.new_name)?;
    for folder in [e.parent, e.new_parent] {
        tx.change_inode(folder, |f| {
            f.mtime = now;
            f.ctime = now;
        })?;
    }
    if e.parent != e.new_parent && from_dir != to_dir {
        let (loses, gains) = if from_dir { (e.parent, e.new_parent) } else { (e.new_parent, e.parent) };
        tx.change_inode(loses, |f| f.nlink = f.nlink.saturating_sub(1))?;
        tx.change_inode(gains, |f| f.nlink += 1)?;
    }
    for (ino, dir, parent) in [(from.ino, from_dir, e.new_parent), (to.ino, to_dir, e.parent)] {
        tx.change_inode(ino, |i| {
            i.ctime = now;
            if dir {
                i.parent = parent;
            }
        })?;
    }
    tx.unbounded();
    tx.commit()?;
    Ok(None)
}
