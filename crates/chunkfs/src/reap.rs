//! Finishing what an operation began: deleting unlinked inodes that the kernel forgot, and cutting off the
//! blocks of files that were shortened by more than one record can hold.

use crate::fs::FileSystem;
use crate::key::CHUNK_BLOCKS;
use crate::key::Key;
use crate::ops::attr::{CUT_CHUNKS, cut};
use crate::row::{Orphan, Row};
use crate::tx::Tx;
use crate::types::{FsError, FsResult, Ino};
use std::time::Duration;

impl FileSystem {
    /// Hands an inode without names to the background.
    pub(crate) fn queue_reap(&self, ino: Ino) {
        self.wake.reap_queue.lock().push(ino);
        self.wake.reap.notify_one();
    }

    /// Deletes what was handed over.
    pub(crate) async fn reap_queued(&self) {
        loop {
            let Some(ino) = self.wake.reap_queue.lock().pop() else { return };
            if let Err(e) = self.reap(ino).await {
                tracing::warn!(ino, error = %e, "an unlinked inode could not be deleted; it is tried again at the next opening");
            }
        }
    }

    /// Deletes an inode that has no name and that the kernel does not know.
    async fn reap(&self, ino: Ino) -> FsResult<()> {
        let _turn = self.data_lock(ino).await;
        let doomed = self
            .run(|st| {
                if st.lookups.contains_key(&ino) {
                    return Ok(None);
                }
                let mut tx = Tx::new(st);
                match tx.row(Key::Inode(ino))? {
                    Some(Row::Inode(i)) if i.nlink == 0 => Ok(Some(i)),
                    _ => Ok(None),
                }
            })
            .await?;
        let Some(inode) = doomed else { return Ok(()) };
        let small = inode.extent_end / CHUNK_BLOCKS < CUT_CHUNKS;
        if !small {
            self.unmap_range(ino, 0, inode.extent_end).await?;
        }
        self.run(|st| {
            let mut tx = Tx::new(st);
            if small {
                cut(&mut tx, ino, 0, inode.extent_end)?;
            }
            if inode.has_xattrs {
                tx.delete(Key::Xattrs(ino));
            }
            tx.delete(Key::Inode(ino));
            tx.delete(Key::Orphan(ino));
            tx.inode_gone();
            tx.unbounded();
            tx.commit()?;
            Ok(())
        })
        .await
    }

    /// Cuts off what a shortened file had behind its end. The file's data is locked by the caller.
    ///
    /// The row that says so stands where an unlinked file's does: a file without a name gets that one back.
    pub(crate) async fn finish_cut(&self, ino: Ino) -> FsResult<()> {
        let found = self
            .run(|st| {
                let mut tx = Tx::new(st);
                let Some(Row::Orphan(Orphan::Cut { from })) = tx.row(Key::Orphan(ino))? else { return Ok(None) };
                Ok(Some((from, tx.inode(ino)?.extent_end)))
            })
            .await?;
        let Some((from, end)) = found else { return Ok(()) };
        if from < end {
            self.unmap_range(ino, from, end).await?;
        }
        self.run(|st| {
            let mut tx = Tx::new(st);
            if tx.inode(ino)?.nlink == 0 {
                tx.put(Key::Orphan(ino), Row::Orphan(Orphan::Unlinked));
            } else {
                tx.delete(Key::Orphan(ino));
            }
            tx.change_inode(ino, |i| i.extent_end = i.extent_end.min(from))?;
            tx.unbounded();
            tx.commit()?;
            Ok(())
        })
        .await
    }

    /// At the opening: cuts are finished; unlinked inodes go unless a kernel may still hold them.
    pub(crate) async fn reap_at_start(&self, fresh_kernel: bool) -> FsResult<()> {
        let mut from = Key::Orphan(0);
        loop {
            let rows = self.scan(from, Key::Orphan(u64::MAX), 256).await?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            from = crate::fs::after(*last);
            for (key, row) in rows {
                match (key, row) {
                    (Key::Orphan(ino), Row::Orphan(Orphan::Cut { .. })) => {
                        let turn = self.data_lock(ino).await;
                        self.finish_cut(ino).await?;
                        drop(turn);
                        if fresh_kernel {
                            self.reap(ino).await?;
                        }
                    }
                    (Key::Orphan(ino), Row::Orphan(Orphan::Unlinked)) => {
                        self.lock().orphans.insert(ino);
                        if fresh_kernel {
                            self.reap(ino).await?;
                        }
                    }
                    _ => return Err(FsError::Corrupt(format!("row {key:?}"))),
                }
            }
        }
    }

    /// When space is short: waits a moment for unlinked files to go. Tells whether any went.
    ///
    /// The kernel forgets a removed file a little after it removed it, and a person who frees space expects it.
    pub(crate) async fn free_orphans(&self) -> bool {
        let (before, any) = {
            let st = self.lock();
            (st.sb.used_blocks, !st.orphans.is_empty())
        };
        if !any {
            return false;
        }
        for _ in 0..10 {
            if self.lock().sb.used_blocks < before {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.lock().sb.used_blocks < before
    }
}
