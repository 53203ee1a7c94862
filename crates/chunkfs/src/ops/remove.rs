//! Taking names away: unlink and rmdir. What loses its last name lives until the kernel forgets it.

use crate::fold::is_fold_due;
use crate::fs::FileSystem;
use crate::row::Inode;
use crate::state::Step;
use crate::tx::Tx;
use crate::types::{Caller, FsError, FsResult, Ino, Time};
use std::time::{Duration, Instant};

/// Inodes without names for whose end nobody waits.
const NAMELESS: usize = 32;
/// How long it is waited for them at most: some may be open for good.
const FOR_NAMELESS: Duration = Duration::from_millis(100);
/// How long it is waited for a fold at most: it may be one that finds no room.
const FOR_FOLD: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl FileSystem {
    /// Takes a name of something that is not a folder away.
    pub async fn unlink(&self, cx: &Caller, parent: Ino, name: &[u8]) -> FsResult<()> {
        let gone = self.change(|st| unlink(Tx::of(st, cx), parent, name)).await?;
        self.left(gone);
        self.keep_pace().await;
        Ok(())
    }

    /// Takes an empty folder away.
    pub async fn rmdir(&self, cx: &Caller, parent: Ino, name: &[u8]) -> FsResult<()> {
        let gone = self.change(|st| rmdir(Tx::of(st, cx), parent, name)).await?;
        self.left(gone);
        self.keep_pace().await;
        Ok(())
    }

    /// Where room is scarce, waits a moment for what gives it back, since who removes much would fill the disk: with inodes without
    /// names, of which each that has not gone by the next fold has its row written once more; and with the journal, which grows while
    /// a fold is under way.
    async fn keep_pace(&self) {
        let began = Instant::now();
        loop {
            {
                let st = self.lock();
                if !st.is_scarce() {
                    return;
                }
                let (nameless, due, waited) = (st.orphans.len() > NAMELESS, is_fold_due(&st), began.elapsed());
                if !(nameless && waited < FOR_NAMELESS || due && waited < FOR_FOLD) {
                    return;
                }
                if due {
                    self.wake.fold.notify_one();
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// An inode lost its last name: if the kernel does not know it, it goes now. Of what earlier workers told it only itself can say.
    pub(crate) fn left(&self, gone: Option<Ino>) {
        if let Some(ino) = gone {
            let st = self.lock();
            if ino < st.inherited_below {
                self.wake.doubt.notify_one();
            } else if !st.lookups.holds(ino) {
                self.queue_reap(ino);
            }
        }
    }
}

/// A folder lost a name.
pub(crate) fn taken(folder: &mut Inode, now: Time) {
    folder.size = folder.size.saturating_sub(1);
    folder.mtime = now;
    folder.ctime = now;
}

/// Takes one name off an inode that is no folder; returns it if that was the last.
pub(crate) fn drop_link(tx: &mut Tx<'_>, ino: Ino) -> Step<Option<Ino>> {
    let mut inode = (*tx.inode(ino)?).clone();
    inode.nlink = inode.nlink.saturating_sub(1);
    inode.ctime = tx.now;
    let last = inode.nlink == 0;
    tx.put_inode(ino, inode);
    if last {
        tx.orphan(ino)?;
    }
    Ok(last.then_some(ino))
}

/// Takes an empty folder's only name off; its parent is changed by the caller.
pub(crate) fn drop_folder(tx: &mut Tx<'_>, ino: Ino) -> Step<Ino> {
    let mut inode = tx.folder(ino)?;
    if inode.size != 0 {
        return Err(FsError::NotEmpty.into());
    }
    inode.nlink = 0;
    inode.ctime = tx.now;
    tx.put_inode(ino, inode);
    tx.orphan(ino)?;
    Ok(ino)
}

fn unlink(mut tx: Tx<'_>, parent: Ino, name: &[u8]) -> Step<Option<Ino>> {
    if tx.answered().is_some() {
        return Ok(None);
    }
    let mut folder = tx.folder(parent)?;
    let Ok((pos, entry)) = tx.find(parent, name)? else { return Err(FsError::NotFound.into()) };
    if tx.inode(entry.ino)?.is_dir() {
        return Err(FsError::IsDirectory.into());
    }
    let gone = drop_link(&mut tx, entry.ino)?;
    tx.delete_name(parent, pos)?;
    taken(&mut folder, tx.now);
    tx.put_inode(parent, folder);
    tx.unbounded();
    tx.commit()?;
    Ok(gone)
}

fn rmdir(mut tx: Tx<'_>, parent: Ino, name: &[u8]) -> Step<Option<Ino>> {
    if tx.answered().is_some() {
        return Ok(None);
    }
    let mut folder = tx.folder(parent)?;
    let Ok((pos, entry)) = tx.find(parent, name)? else { return Err(FsError::NotFound.into()) };
    let gone = drop_folder(&mut tx, entry.ino)?;
    tx.delete_name(parent, pos)?;
    taken(&mut folder, tx.now);
    folder.nlink = folder.nlink.saturating_sub(1);
    tx.put_inode(parent, folder);
    tx.unbounded();
    tx.commit()?;
    Ok(Some(gone))
}
