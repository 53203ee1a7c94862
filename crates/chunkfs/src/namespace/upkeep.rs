//! The namespace's upkeep: merging what folds wrote, and removing what nothing names any more.
//!
//! SlateDB's own compactor and collector ask the store every few seconds for as long as a database is open. Here they
//! are called when a fold has given them something to do, so that an idle volume asks its store for nothing. A
//! merged database is looked at anew at once: what was merged away may be collected only when nobody reads it.
//!
//! On a disk of this host that is short of room no merge begins that would not find any, and what was merged away goes within
//! seconds instead of minutes.

use super::weight::{self, Disk, Everything, WhatFits};
use crate::ticks::Ticks;
use object_store::ObjectStore;
use slatedb::admin::AdminBuilder;
use slatedb::config::{CompactionWorkerOptions, CompactorOptions, GarbageCollectorDirectoryOptions, GarbageCollectorOptions};
use slatedb::{CloseReason, CompactorBuilder, Db, ErrorKind, GarbageCollectorBuilder};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Unmerged tables from which on they are merged. A lookup may have to ask each of them.
const CROWDED: usize = 4;
/// How long what nothing names is kept, for a reader that has not heard of it yet.
const KEEP: Duration = Duration::from_secs(300);
/// The same on a disk that is short of room, as long as nobody reads for long.
const KEEP_SHORTLY: Duration = Duration::from_secs(20);
/// A disk with less free than this, or than all tables four times, is short of room.
const PLENTY: u64 = 1 << 30;
/// Rows that were removed after which it is looked whether most of all rows are gone.
const MANY: u64 = 1024;
/// How long after that was found, and no room for what is left, it is looked again.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// The largest table that a merge writes: it is put together beside its place.
const TABLE: u64 = 16 << 20;
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
/// Looks at unmerged tables that nobody merges, after which nobody will.
const LOOKS_IN_VAIN: usize = 4;
/// How often it is looked whether a merge still finds room.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(100);
/// How long the end of a merge is waited for.
const ENDING: Duration = Duration::from_secs(5);
/// Bounds of the wait after a failed merge.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// The task that does it, for one open database.
pub(super) struct Upkeep {
    task: JoinHandle<()>,
    folded: Arc<Notify>,
    removed: Arc<AtomicU64>,
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
    pub(super) fn start(db: Db, store: Arc<dyn ObjectStore>, path: String, clock: Arc<Ticks>, disk: Disk, readers: Arc<()>) -> Upkeep {
        let (stop, stopped) = watch::channel(Stop::Not);
        let (folded, removed) = (Arc::new(Notify::new()), Arc::new(AtomicU64::new(0)));
        let keeper = Keeper { db, store, path, clock, disk, readers, folded: folded.clone(), removed: removed.clone(), stopped };
        Upkeep { task: tokio::spawn(keeper.run()), folded, removed, stop }
    }

    /// A fold was made, which removed so many rows.
    pub(super) fn folded(&self, removed: u64) {
        self.removed.fetch_add(removed, Ordering::Relaxed);
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
    disk: Disk,
    /// Others have it while they read for long.
    readers: Arc<()>,
    folded: Arc<Notify>,
    /// Rows that were removed since it was looked how many are gone.
    removed: Arc<AtomicU64>,
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
        // What earlier openings removed nobody has counted; where a look costs nothing, it is looked.
        let mut look_at = (self.disk)().map(|_| changed);
        if self.is_short() {
            collect_at = Some(changed + KEEP_SHORTLY);
        }
        if self.db.manifest().l0().len() < FULL {
            tokio::select! {
                () = tokio::time::sleep(SETTLED) => {}
                () = self.ended() => return,
            }
        }
        while *self.stopped.borrow() == Stop::Not {
            let mut everything = false;
            if look_at.map_or(self.removed.load(Ordering::Relaxed) >= MANY, |at| at <= Instant::now()) {
                self.removed.store(0, Ordering::Relaxed);
                let gone = self.is_mostly_gone().await;
                everything = gone && self.has_room_for_all().await;
                look_at = (gone && !everything).then(|| Instant::now() + LOOK_AGAIN);
            }
            let most = if lacks_room(&self.db, &self.disk) { FULL_HELD } else { CROWDED };
            if everything || self.db.manifest().l0().len() >= most {
                let merged = self.merge(everything).await;
                changed = Instant::now();
                let keep = if self.is_short() { KEEP_SHORTLY } else { COLLECT_AFTER };
                collect_at = Some(collect_at.map_or(changed + keep, |at| at.min(changed + keep)));
                match merged {
                    Ok(()) => {
                        retry = RETRY.0;
                        if everything {
                            // It may have been ended for want of room.
                            look_at = Some(changed + LOOK_AGAIN);
                        }
                    }
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
            let until = async |at: Option<Instant>| match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            };
            let (due, again) = (until(collect_at), until(look_at));
            tokio::select! {
                () = self.ended() => return,
                () = self.folded.notified() => {
                    changed = Instant::now();
                    collect_at.get_or_insert(changed + COLLECT_AFTER);
                }
                () = again => {}
                () = due => {
                    tokio::select! {
                        () = self.collect() => {}
                        () = self.ended() => return,
                    }
                    // What was too young is collected another time.
                    let keep = if self.is_short() { KEEP_SHORTLY } else { COLLECT_AFTER };
                    collect_at = (changed.elapsed() < KEEP).then(|| Instant::now() + keep);
                }
            }
        }
    }

    /// Ends when this task is to end.
    async fn ended(&self) {
        // The sender goes only with the task's owner, which is an end as well.
        let _ = self.stopped.clone().wait_for(|stop| *stop != Stop::Not).await;
    }

    async fn is_mostly_gone(&self) -> bool {
        let gone = weight::is_mostly_gone(&self.db.manifest(), &self.store, &self.path).await;
        gone.inspect_err(|e| tracing::warn!(error = %e, "how much of the namespace is gone is not known")).unwrap_or(false)
    }

    /// Whether a merge of everything finds room for what it leaves. It gives back more than it takes, so it may have some of what is kept.
    /// One that ended half-way would keep what it had written.
    async fn has_room_for_all(&self) -> bool {
        let Some(room) = (self.disk)() else { return true };
        let most = room.free.saturating_sub(room.floor / 4 + TABLE);
        if weight::of_all(&self.db.manifest()) <= most {
            return true;
        }
        // Rows are not all of one size, and some of those that count as there were written anew: where it is close, they are read.
        weight::is_at_most(&self.db, most / 5 * 4).await.unwrap_or(false)
    }

    /// Whether what was merged away should be gone soon. Nobody may be reading for long then.
    fn is_short(&self) -> bool {
        // One is the namespace's own, one this one's.
        let is_read = Arc::strong_count(&self.readers) > 2;
        !is_read && (self.disk)().is_some_and(|room| room.free < PLENTY.max(4 * weight::of_all(&self.db.manifest())))
    }

    /// Merges until nothing is worth it any more, or everything.
    async fn merge(&self, everything: bool) -> Result<(), slatedb::Error> {
        let keep = if self.is_short() { KEEP_SHORTLY } else { KEEP };
        let mut compactor =
            CompactorBuilder::new(self.path.clone(), self.store.clone()).with_options(merging(keep)).with_system_clock(self.clock.clone());
        compactor = match everything {
            true => compactor.with_scheduler_supplier(Arc::new(Everything)),
            false => compactor.with_scheduler_supplier(Arc::new(WhatFits(self.disk.clone()))),
        };
        let compactor = compactor.build();
        let done = tokio::select! {
            ended = compactor.run() => ended,
            seen = self.until_merged(everything) => seen,
            // What it has written so far goes with it.
            () = self.until_full(everything) => Ok(()),
            () = self.ended() => Ok(()),
        };
        // It gives back what it has begun; if the store does not answer, its claim runs out by itself.
        let _ = tokio::time::timeout(ENDING, compactor.stop()).await;
        done?;
        // Writing goes on with it, and reading must not go on without it.
        self.db.refresh_manifest().await
    }

    /// Ends when nothing is merged any more. What is due then was not found worth it, or finds no room, or was not to be merged: it is
    /// looked at anew.
    async fn until_merged(&self, everything: bool) -> Result<(), slatedb::Error> {
        let admin = AdminBuilder::new(self.path.clone(), self.store.clone()).with_system_clock(self.clock.clone()).build();
        // Twice, with a turn of the compactor in between: one merge may make the next one worth it.
        let (mut calm, mut enough) = (0, 2);
        while calm < enough {
            tokio::time::sleep(LOOK_EVERY).await;
            let view = admin.read_compactor_state_view().await?;
            calm = if weight::under_way(&view).next().is_some() { 0 } else { calm + 1 };
            enough = if view.manifest().l0().len() >= CROWDED && !everything { LOOKS_IN_VAIN } else { 2 };
        }
        Ok(())
    }

    /// Ends when others have taken the room that there was for the merge.
    async fn until_full(&self, everything: bool) {
        let is_full = || (self.disk)().is_some_and(|room| room.free < TABLE / 2 + if everything { room.floor / 8 } else { room.floor / 2 });
        while !is_full() || self.db.manifest().l0().len() >= FULL_HELD {
            tokio::time::sleep(LOOK_FOR_ROOM).await;
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
            .with_options(collecting(if self.is_short() { Duration::ZERO } else { KEEP }))
            .with_system_clock(self.clock.clone())
            .build()
            .run_gc_once()
            .await;
    }
}

/// Whether a merge would not find the room that it needs, beside what is kept.
pub(super) fn lacks_room(db: &Db, disk: &Disk) -> bool {
    disk().is_some_and(|room| room.free < room.floor + weight::of_unmerged(&db.manifest()))
}

/// What a merge replaces is kept so long for those who read it.
fn merging(keep: Duration) -> CompactorOptions {
    CompactorOptions {
        poll_interval: Duration::from_secs(1),
        max_concurrent_compactions: 2,
        checkpoint_lifetime: keep,
        object_store_max_retries: Some(3),
        worker: Some(CompactionWorkerOptions {
            max_concurrent_compactions: 2,
            compactions_poll_interval: Duration::from_millis(500),
            max_sst_size: TABLE as usize,
            max_fetch_tasks: 2,
            bytes_to_fetch: 256 << 10,
            max_subcompactions: 1,
            ..CompactionWorkerOptions::default()
        }),
        ..CompactorOptions::default()
    }
}

/// Tables that nothing names are kept so long after they were made. Those that are about to be named are newer than any that is, and
/// those of a merge under way newer than its begin: the collector leaves them alone.
fn collecting(tables: Duration) -> GarbageCollectorOptions {
    let of = |min_age| Some(GarbageCollectorDirectoryOptions { interval: None, min_age, dry_run: false });
    GarbageCollectorOptions {
        manifest_options: of(KEEP),
        wal_options: None,
        wal_fence_options: None,
        compacted_options: of(tables),
        compactions_options: of(KEEP),
        detach_options: None,
        // Local folders have no conditional replace; the host's lock keeps a second process out.
        boundary_files_enabled: false,
        object_store_max_retries: Some(3),
        ..GarbageCollectorOptions::default()
    }
}
