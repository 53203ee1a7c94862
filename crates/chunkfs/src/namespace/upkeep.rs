//! The namespace's upkeep: merging what folds wrote, and removing what nothing names any more.
//!
//! SlateDB's own compactor and collector ask the store every few seconds for as long as a database is open. Here they
//! are called when a fold has given them something to do, so that an idle volume asks its store for nothing. A
//! merged database is looked at anew at once: what was merged away may be collected only when nobody reads it.

use crate::ticks::Ticks;
use object_store::ObjectStore;
use slatedb::admin::AdminBuilder;
use slatedb::config::{CompactionWorkerOptions, CompactorOptions, GarbageCollectorDirectoryOptions, GarbageCollectorOptions};
use slatedb::{CloseReason, CompactorBuilder, Db, ErrorKind, GarbageCollectorBuilder};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Unmerged tables from which on they are merged. A lookup may have to ask each of them.
const CROWDED: usize = 4;
/// How long what nothing names is kept, for a reader that has not heard of it yet.
const KEEP: Duration = Duration::from_secs(300);
/// Unmerged tables from which on a fold may soon have to wait for a merge.
const FULL: usize = 12;
/// The same while merges wait for room: a merge that finds too little takes all that is left, and is tried again and again.
const FULL_HELD: usize = 192;
/// How long after an opening the first merge may begin: the requests of whoever opened the volume come first.
const SETTLED: Duration = Duration::from_secs(1);
/// How long after a change the collector is called.
const COLLECT_AFTER: Duration = Duration::from_secs(360);
/// An opening that does not last so long collects at its end if the namespace's manifest has come to one of the first few of so many numbers:
/// otherwise what jobs of seconds leave, two manifests each, would stay for ever.
const SHORT: (u64, u64) = (8, 64);
/// How often a merge under way is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(1500);
/// How often it is looked whether merges are to wait.
const LOOK_WHETHER_HELD: Duration = Duration::from_millis(100);
/// How long the end of a merge is waited for.
const ENDING: Duration = Duration::from_secs(5);
/// Bounds of the wait after a failed merge.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// The task that does it, for one open database.
pub(super) struct Upkeep {
    task: JoinHandle<()>,
    folded: Arc<Notify>,
    stop: watch::Sender<Stop>,
}

/// Whether the task goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Not,
    AtOnce,
    Tidied,
}

impl Upkeep {
    pub(super) fn start(db: Db, store: Arc<dyn ObjectStore>, path: String, clock: Arc<Ticks>, held: Arc<AtomicBool>) -> Upkeep {
        let (stop, stopped) = watch::channel(Stop::Not);
        let folded = Arc::new(Notify::new());
        let keeper = Keeper { db, store, path, clock, held, folded: folded.clone(), stopped };
        Upkeep { task: tokio::spawn(keeper.run()), folded, stop }
    }

    /// A fold was made.
    pub(super) fn folded(&self) {
        self.folded.notify_one();
    }

    /// Ends it, in bounded time. A merge that is cut off is done again by whoever opens the database next. `tidied`: what openings as short
    /// as this one may have left for long is collected first, every now and then.
    pub(super) async fn stop(mut self, tidied: bool) {
        self.stop.send_replace(if tidied { Stop::Tidied } else { Stop::AtOnce });
        let _ = tokio::time::timeout(2 * ENDING, &mut self.task).await;
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keeper {
    db: Db,
    store: Arc<dyn ObjectStore>,
    path: String,
    clock: Arc<Ticks>,
    /// Merges wait until they cannot any more.
    held: Arc<AtomicBool>,
    folded: Arc<Notify>,
    stopped: watch::Receiver<Stop>,
}

impl Keeper {
    async fn run(self) {
        let opened = self.db.manifest().id();
        let long = Instant::now() + COLLECT_AFTER;
        self.keep().await;
        let due = opened >= SHORT.1 && opened % SHORT.1 < SHORT.0 && Instant::now() < long;
        if due && *self.stopped.borrow() == Stop::Tidied {
            let _ = tokio::time::timeout(ENDING, self.collect()).await;
        }
    }

    async fn keep(&self) {
        // What an earlier opening left is collected too, if this one lives long enough.
        let mut collect_at = Some(Instant::now() + COLLECT_AFTER);
        let mut changed = Instant::now();
        let mut retry = RETRY.0;
        if self.db.manifest().l0().len() < FULL {
            tokio::select! {
                () = tokio::time::sleep(SETTLED) => {}
                () = self.ended() => return,
            }
        }
        while *self.stopped.borrow() == Stop::Not {
            let most = if self.held.load(Ordering::Relaxed) { FULL_HELD } else { CROWDED };
            if self.db.manifest().l0().len() >= most {
                let merged = self.merge().await;
                changed = Instant::now();
                collect_at.get_or_insert(changed + COLLECT_AFTER);
                match merged {
                    Ok(()) => retry = RETRY.0,
                    Err(e) if matches!(e.kind(), ErrorKind::Closed(CloseReason::Fenced)) => {
                        tracing::warn!(error = %e, "somebody else merges this namespace");
                        return;
                    }
                    Err(e) => {
                        tracing::warn!(error = %e, "merging the namespace's tables failed; trying again");
                        tokio::select! {
                            () = tokio::time::sleep(retry) => {}
                            () = self.ended() => return,
                        }
                        retry = (retry * 2).min(RETRY.1);
                    }
                }
                continue;
            }
            let due = async {
                match collect_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.ended() => return,
                () = self.folded.notified() => {
                    changed = Instant::now();
                    collect_at.get_or_insert(changed + COLLECT_AFTER);
                }
                () = due => {
                    tokio::select! {
                        () = self.collect() => {}
                        () = self.ended() => return,
                    }
                    // What was too young is collected another time.
                    collect_at = (changed.elapsed() < KEEP).then(|| Instant::now() + COLLECT_AFTER);
                }
            }
        }
    }

    /// Ends when this task is to end.
    async fn ended(&self) {
        // The sender goes only with the task's owner, which is an end as well.
        let _ = self.stopped.clone().wait_for(|stop| *stop != Stop::Not).await;
    }

    /// Merges until nothing is worth it any more.
    async fn merge(&self) -> Result<(), slatedb::Error> {
        let compactor = CompactorBuilder::new(self.path.clone(), self.store.clone())
            .with_options(merging())
            .with_system_clock(self.clock.clone())
            .build();
        let done = tokio::select! {
            ended = compactor.run() => ended,
            seen = self.until_merged() => seen,
            // What it has written so far goes with it.
            () = self.until_held() => Ok(()),
            () = self.ended() => Ok(()),
        };
        // It gives back what it has begun; if the store does not answer, its claim runs out by itself.
        let _ = tokio::time::timeout(ENDING, compactor.stop()).await;
        done?;
        // Writing goes on with it, and reading must not go on without it.
        self.db.refresh_manifest().await
    }

    async fn until_merged(&self) -> Result<(), slatedb::Error> {
        let admin = AdminBuilder::new(self.path.clone(), self.store.clone()).with_system_clock(self.clock.clone()).build();
        let mut calm = 0;
        // Twice, with a turn of the compactor in between: one merge may make the next one worth it.
        while calm < 2 {
            tokio::time::sleep(LOOK_EVERY).await;
            let view = admin.read_compactor_state_view().await?;
            let busy = view.compactions().is_some_and(|c| c.recent_compactions().any(slatedb::compactor::Compaction::active));
            calm = if busy || view.manifest().l0().len() >= CROWDED { 0 } else { calm + 1 };
        }
        Ok(())
    }

    /// Ends when merges are to wait, and can: one that has begun while there was room takes all that is left.
    async fn until_held(&self) {
        while !self.held.load(Ordering::Relaxed) || self.db.manifest().l0().len() >= FULL_HELD {
            tokio::time::sleep(LOOK_WHETHER_HELD).await;
        }
    }

    /// Removes what nothing names any more. What fails is said in SlateDB's log and tried another time.
    async fn collect(&self) {
        // Its manifest must be one that the collector counts as in use.
        if let Err(e) = self.db.refresh_manifest().await {
            tracing::warn!(error = %e, "the namespace could not be looked at before collecting");
            return;
        }
        GarbageCollectorBuilder::new(self.path.clone(), self.store.clone())
            .with_options(collecting())
            .with_system_clock(self.clock.clone())
            .build()
            .run_gc_once()
            .await;
    }
}

fn merging() -> CompactorOptions {
    CompactorOptions {
        poll_interval: Duration::from_secs(1),
        max_concurrent_compactions: 2,
        checkpoint_lifetime: KEEP,
        object_store_max_retries: Some(3),
        worker: Some(CompactionWorkerOptions {
            max_concurrent_compactions: 2,
            compactions_poll_interval: Duration::from_millis(500),
            max_sst_size: 16 << 20,
            max_fetch_tasks: 2,
            bytes_to_fetch: 256 << 10,
            max_subcompactions: 1,
            ..CompactionWorkerOptions::default()
        }),
        ..CompactorOptions::default()
    }
}

fn collecting() -> GarbageCollectorOptions {
    let all = Some(GarbageCollectorDirectoryOptions { interval: None, min_age: KEEP, dry_run: false });
    GarbageCollectorOptions {
        manifest_options: all,
        wal_options: None,
        wal_fence_options: None,
        compacted_options: all,
        compactions_options: all,
        detach_options: None,
        // Local folders have no conditional replace; the host's lock keeps a second process out.
        boundary_files_enabled: false,
        object_store_max_retries: Some(3),
        ..GarbageCollectorOptions::default()
    }
}
