//! What a volume does by itself while it is open, and its end.

use crate::fs::FileSystem;
use crate::types::{FsError, FsResult, Ino};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Changes that lie longer than this are synced in the background, which bounds what a power failure takes.
const SYNC_EVERY: Duration = Duration::from_secs(5);
/// A quiet volume is folded after this time.
const FOLD_EVERY: Duration = Duration::from_secs(60);

/// Removed files are gathered for so long before they are deleted.
const GATHER: Duration = Duration::from_millis(5);

/// How long closing a volume waits for its store.
const CLOSE_WITHIN: Duration = Duration::from_secs(60);
/// The same on this host's disk, which takes it at once unless it is full.
const FOLD_WITHIN: Duration = Duration::from_secs(20);

/// Wakes the background task and those who wait for it.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    pub(crate) fold: Notify,
    pub(crate) folded: Notify,
    pub(crate) reap: Notify,
    /// Something lost its last name that an earlier worker may have told the kernel of.
    pub(crate) doubt: Notify,
    pub(crate) compact: Notify,
    /// The volume is being closed: nothing is moved any more.
    pub(crate) ending: AtomicBool,
    pub(crate) stop: AtomicBool,
    pub(crate) stopped: Notify,
    pub(crate) reap_queue: parking_lot::Mutex<Vec<Ino>>,
}

impl FileSystem {
    /// Starts the work that goes on by itself. Ends when the volume is closed or dropped.
    pub(crate) fn start_background(self: &Arc<Self>) {
        let mut tasks = self.background.lock();
        let (fs, wake) = (Arc::downgrade(self), self.wake.clone());
        tasks.push(tokio::spawn(async move {
            let mut quiet = Duration::ZERO;
            while !wake.stop.load(Ordering::Acquire) {
                let asked = tokio::select! {
                    () = wake.fold.notified() => true,
                    () = wake.stopped.notified() => break,
                    () = tokio::time::sleep(SYNC_EVERY) => false,
                };
                let Some(fs) = fs.upgrade() else { break };
                quiet += SYNC_EVERY;
                if !wake.reap_queue.lock().is_empty() {
                    // What could not be deleted while the store was away, or the disk full.
                    wake.reap.notify_one();
                }
                // Of what was packed the copies may go once the store knows of it, which may be long after anybody looked.
                fs.keep_to_budget().await;
                fs.note_weight();
                if !(asked || fs.has_dead() || (quiet >= FOLD_EVERY && !fs.lock().overlay.is_empty())) {
                    continue;
                }
                let done = fs.fold().await;
                quiet = Duration::ZERO;
                match done {
                    Ok(()) => wake.compact.notify_one(),
                    Err(e) => {
                        tracing::warn!(error = %e, "background work failed");
                        // Those who wait must learn of it.
                        wake.folded.notify_waiters();
                        drop(fs);
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        }));
        // Beside it, so that a store or a disk that is slow to take a fold holds up no sync.
        let (fs, wake) = (Arc::downgrade(self), self.wake.clone());
        tasks.push(tokio::spawn(async move {
            while !wake.stop.load(Ordering::Acquire) {
                tokio::select! {
                    () = wake.stopped.notified() => break,
                    () = tokio::time::sleep(SYNC_EVERY) => {}
                }
                let Some(fs) = fs.upgrade() else { break };
                if let Err(e) = fs.sync_all().await {
                    tracing::warn!(error = %e, "what was written could not be made durable");
                    // Those who wait for a fold must learn of it.
                    wake.folded.notify_waiters();
                }
            }
        }));
        let (fs, wake) = (Arc::downgrade(self), self.wake.clone());
        tasks.push(tokio::spawn(async move {
            while !wake.stop.load(Ordering::Acquire) {
                tokio::select! {
                    () = wake.compact.notified() => {}
                    () = wake.stopped.notified() => break,
                }
                let Some(fs) = fs.upgrade() else { break };
                if let Err(e) = fs.compact().await {
                    tracing::warn!(error = %e, "compaction stopped");
                }
            }
        }));
        let (fs, wake) = (Arc::downgrade(self), self.wake.clone());
        tasks.push(tokio::spawn(async move {
            while !wake.stop.load(Ordering::Acquire) {
                tokio::select! {
                    () = wake.reap.notified() => {}
                    () = wake.stopped.notified() => break,
                }
                // Whoever removes a tree is not held up by a waking for each file.
                tokio::time::sleep(GATHER).await;
                let Some(fs) = fs.upgrade() else { break };
                fs.reap_queued().await;
            }
        }));
    }

    /// Makes everything durable, moves it into the namespace and lets go of the volume. Later calls fail.
    ///
    /// When the store is away this ends after a while all the same: what was not sent stays in the journal on this host,
    /// and the owner record goes on to say whose the volume is. So it does on a disk that has no room to fold anything: all is in the
    /// journal, and durable there.
    pub async fn close(&self) -> FsResult<()> {
        self.reap_queued().await;
        // What is moved after the last fold would be in the journal alone.
        self.wake.ending.store(true, Ordering::Release);
        let _turn = tokio::time::timeout(FOLD_WITHIN, self.room_turn.lock()).await;
        let broken = self.lock().broken.clone();
        let mut unfolded = false;
        let result = match (broken, &self.shipping) {
            (None, None) => {
                let fold = self.fold();
                tokio::pin!(fold);
                match tokio::time::timeout(FOLD_WITHIN, &mut fold).await {
                    Ok(done) => done,
                    Err(_) => {
                        tracing::warn!("the store's disk did not take what was to be folded in time; the journal keeps it");
                        // It goes on meanwhile: a sync of its own that was dropped half-way would be nobody's to hear of.
                        tokio::select! {
                            done = &mut fold => done,
                            synced = self.sync_all() => {
                                unfolded = true;
                                synced
                            }
                        }
                    }
                }
            }
            (None, Some(_)) => {
                let fold = self.fold();
                tokio::pin!(fold);
                match tokio::time::timeout(CLOSE_WITHIN, &mut fold).await {
                    Ok(done) => done,
                    Err(_) => {
                        tokio::select! {
                            _ = &mut fold => {}
                            () = self.no_sync_under_way() => {}
                        }
                        Err(FsError::Io(format!("the store did not take {} bytes in time; they stay on this host", self.unsent_bytes())))
                    }
                }
            }
            // What was acknowledged before is in the journal, but nobody may take it for durable.
            (Some(why), _) => Err(FsError::Io(format!("the volume was closed for writing after an error: {why}"))),
        };
        self.no_sync_under_way().await;
        self.stop().await;
        let closed = match (&result, &self.shipping) {
            // A database that cannot reach its store would wait for it.
            (Err(_), Some(_)) => Ok(()),
            _ if unfolded => Ok(()),
            _ => self.ns.close().await,
        };
        let released = match (&result, &closed, &self.shipping) {
            (Ok(()), Ok(()), Some(shipping)) => shipping.lease.release().await,
            _ => Ok(()),
        };
        if let Err(e) = released {
            // All is in the store; the next host only has to wait for the lease.
            tracing::warn!(error = %e, "the volume is closed, and its owner record does not say so");
        }
        self.host_lock.lock().take();
        result.and(closed)
    }

    /// Waits a while for the end of a sync of this host's disk, which nobody would hear of if it were dropped and failed.
    async fn no_sync_under_way(&self) {
        let _ = tokio::time::timeout(FOLD_WITHIN, self.sync_turn.lock()).await;
    }

    /// Stops at once, as a killed process would: nothing is synced or folded. For tests.
    pub async fn abandon(&self) {
        self.stop().await;
        self.host_lock.lock().take();
        self.ns.abandon().await;
    }

    async fn stop(&self) {
        self.lock().closed = true;
        self.wake.stop.store(true, Ordering::Release);
        self.wake.stopped.notify_waiters();
        let tasks = std::mem::take(&mut *self.background.lock());
        for t in tasks {
            t.abort();
            let _ = t.await;
        }
    }
}
