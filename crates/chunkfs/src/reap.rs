//! Finishing what an operation began: deleting unlinked inodes that the kernel forgot, and cutting off the
//! blocks of files that were shortened by more than one record can hold.

use crate::fs::{FileSystem, stripe};
use crate::key::CHUNK_BLOCKS;
use crate::key::Key;
use crate::ops::attr::{CUT_CHUNKS, cut};
use crate::row::{Inode, Orphan, Row};
use crate::state::Step;
use crate::tx::Tx;
use crate::types::{FsError, FsResult, Ino};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

/// Inodes that one record deletes, at most.
const TOGETHER: usize = 32;

impl FileSystem {
    /// Ends when there may be something new in [`FileSystem::doubted`].
    pub fn doubt(&self) -> impl Future<Output = ()> + Send + use<> {
        let wake = self.wake.clone();
        async move { wake.doubt.notified().await }
    }

    /// Inodes without a name that a kernel may hold since an earlier process told it of them, which this one cannot know.
    pub fn doubted(&self) -> Vec<Ino> {
        let st = self.lock();
        st.orphans.iter().copied().filter(|ino| *ino < st.inherited_below).collect()
    }

    /// The kernel says that it does not hold an inode without a name: it goes. Tells whether it does; if not, the kernel was told of it by
    /// this process too, and its word that it has forgotten it is still to come.
    pub fn not_held(&self, ino: Ino) -> bool {
        let st = self.lock();
        let goes = st.orphans.contains(&ino) && !st.lookups.holds(ino);
        if goes {
            self.queue_reap(ino);
        }
        goes
    }

    /// Hands an inode without names to the background.
    pub(crate) fn queue_reap(&self, ino: Ino) {
        self.wake.reap_queue.lock().push(ino);
        self.wake.reap.notify_one();
    }

    /// Deletes what was handed over, many small files in one record.
    pub(crate) async fn reap_queued(&self) {
        let mut later = Vec::new();
        loop {
            let some = {
                let mut queue = self.wake.reap_queue.lock();
                let from = queue.len().saturating_sub(TOGETHER);
                queue.split_off(from)
            };
            if some.is_empty() {
                self.wake.reap_queue.lock().append(&mut later);
                return;
            }
            let alone = match self.reap_together(&some).await {
                Ok(rest) => rest,
                Err(e) => {
                    tracing::debug!(inodes = some.len(), error = %e, "not deleted together: one after the other");
                    some
                }
            };
            for ino in alone {
                let Err(e) = self.reap(ino).await else { continue };
                // It is asked for again by the background's next turn.
                if self.is_store_away() || matches!(e, FsError::NoSpace) {
                    later.push(ino);
                } else {
                    tracing::warn!(ino, error = %e, "an unlinked inode could not be deleted; it is tried again at the next opening");
                }
            }
        }
    }

    /// Deletes small inodes as `reap` does, in one record. Returns those that have to go alone: somebody is at work on their
    /// data, or they are large.
    async fn reap_together(&self, inos: &[Ino]) -> FsResult<Vec<Ino>> {
        let mut alone = Vec::new();
        let mut turns = HashMap::new();
        let mut mine = Vec::with_capacity(inos.len());
        for ino in inos {
            // Only tried: whoever waited for one while holding others would wait for a waiting one.
            if let Entry::Vacant(place) = turns.entry(stripe(*ino)) {
                let Some(turn) = self.try_data_lock(*ino) else {
                    alone.push(*ino);
                    continue;
                };
                place.insert(turn);
            }
            mine.push(*ino);
        }
        let large = self
            .run(|st| {
                let mut tx = Tx::new(st);
                let mut large = Vec::new();
                for ino in &mine {
                    let Some(inode) = doomed(&mut tx, *ino)? else { continue };
                    if is_small(&inode) {
                        delete(&mut tx, *ino, &inode)?;
                    } else {
                        large.push(*ino);
                    }
                }
                tx.unbounded();
                tx.commit()?;
                Ok(large)
            })
            .await?;
        alone.extend(large);
        Ok(alone)
    }

    /// Deletes an inode that has no name and that the kernel does not know.
    async fn reap(&self, ino: Ino) -> FsResult<()> {
        let _turn = self.data_lock(ino).await;
        let Some(inode) = self.run(|st| doomed(&mut Tx::new(st), ino)).await? else { return Ok(()) };
        if !is_small(&inode) {
            self.unmap_range(ino, 0, inode.extent_end).await?;
        }
        self.run(|st| {
            let mut tx = Tx::new(st);
            delete(&mut tx, ino, &inode)?;
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

    /// Before a file may grow, with its data lock held: a cut that an error stopped half way comes to its end.
    pub(crate) async fn finish_half_cut(&self, ino: Ino) -> FsResult<()> {
        if !self.half_cut.lock().contains(&ino) {
            return Ok(());
        }
        self.finish_cut(ino).await?;
        self.half_cut.lock().remove(&ino);
        Ok(())
    }

    /// At the opening: cuts are finished; unlinked inodes go unless a kernel may still hold them.
    pub(crate) async fn reap_at_start(&self, fresh_kernel: bool) -> FsResult<()> {
        let mut from = Key::Orphan(0);
        loop {
            // Many at a time: what is in memory are mostly marks of removed files that are gone, and each part of them costs another look
            // at the namespace.
            let rows = self.scan(from, Key::Orphan(u64::MAX), 1 << 16).await?;
            let Some((last, _)) = rows.last() else {
                self.wake.doubt.notify_one();
                return Ok(());
            };
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

    /// When space is short: waits a moment for the files to go that have no name by now. Tells whether any went.
    ///
    /// The kernel forgets a removed file a little after it removed it, and a person who frees space expects it. One that somebody has
    /// open stays; a large one goes in several steps, and its segments only with the last.
    pub(crate) async fn free_orphans(&self) -> bool {
        let (before, mut waited_for) = {
            let st = self.lock();
            (st.sb.used_blocks, st.orphans.clone())
        };
        let all = waited_for.len();
        self.wake.doubt.notify_one();
        for _ in 0..10 {
            {
                let st = self.lock();
                waited_for.retain(|ino| st.orphans.contains(ino));
            }
            if waited_for.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        waited_for.len() < all || self.lock().sb.used_blocks < before
    }
}

/// The inode, if it is to be deleted: it has no name, and the kernel does not know it.
fn doomed(tx: &mut Tx<'_>, ino: Ino) -> Step<Option<Arc<Inode>>> {
    if tx.st.lookups.holds(ino) {
        return Ok(None);
    }
    match tx.row(Key::Inode(ino))? {
        Some(Row::Inode(i)) if i.nlink == 0 => Ok(Some(i)),
        _ => Ok(None),
    }
}

/// Whether one record can hold what is to be done with its blocks.
fn is_small(inode: &Inode) -> bool {
    inode.extent_end / CHUNK_BLOCKS < CUT_CHUNKS
}

/// Deletes an inode's rows, and the blocks of a small one.
fn delete(tx: &mut Tx<'_>, ino: Ino, inode: &Inode) -> Step<()> {
    if is_small(inode) {
        cut(tx, ino, 0, inode.extent_end)?;
    }
    if inode.has_xattrs {
        tx.delete(Key::Xattrs(ino));
    }
    tx.delete(Key::Inode(ino));
    tx.delete(Key::Orphan(ino));
    tx.inode_gone();
    Ok(())
}
