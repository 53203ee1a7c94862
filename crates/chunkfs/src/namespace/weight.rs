//! What the namespace's tables weigh: how much a merge of them writes, how much of them is gone, and how they are merged as a whole.
//!
//! A merge leaves what it merged beside what it wrote, until that is collected, so it needs as much room as it reads. Size by size,
//! as SlateDB merges, the rows of what was removed stay in the large old tables while the removals are in small new ones: where most
//! is gone, everything is merged at once.

use object_store::ObjectStore;
use slatedb::compactor::{
    Compaction, CompactionScheduler, CompactionSchedulerSupplier, CompactionSpec, CompactorStateView,
    SizeTieredCompactionSchedulerSupplier, SourceId,
};
use slatedb::config::{CompactorOptions, ScanOptions};
use slatedb::manifest::{SortedRun, SsTableView};
use slatedb::{Db, SstReader, VersionedManifest};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is free on the host's disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) free: u64,
    /// What no data takes of it.
    pub(crate) floor: u64,
}

/// Tells it; `None` if the namespace is not on a disk of this host, or the disk cannot be asked.
pub(crate) type Disk = Arc<dyn Fn() -> Option<Room> + Send + Sync>;

/// Tables lighter than this together are not worth a look.
const WORTH: u64 = 8 << 20;

/// Bytes of all tables.
pub(super) fn of_all(manifest: &VersionedManifest) -> u64 {
    manifest.all_sst_views().map(SsTableView::estimate_size).sum()
}

/// Bytes of the unmerged tables: so much the smallest merge may write.
pub(super) fn of_unmerged(manifest: &VersionedManifest) -> u64 {
    manifest.l0().iter().map(SsTableView::estimate_size).sum()
}

/// The unmerged tables, as a merge takes them.
fn unmerged(manifest: &VersionedManifest) -> Vec<SourceId> {
    manifest.l0().iter().map(|view| SourceId::SstView(view.id)).collect()
}

/// Merges that have begun and are not in the manifest yet.
pub(super) fn under_way(state: &CompactorStateView) -> impl Iterator<Item = &Compaction> {
    state.compactions().into_iter().flat_map(|c| c.recent_compactions()).filter(|c| c.active())
}

/// Bytes that a merge of these may write.
fn of_sources(manifest: &VersionedManifest, sources: &[SourceId]) -> u64 {
    let tables = manifest.l0().iter().filter(|view| sources.contains(&SourceId::SstView(view.id))).map(SsTableView::estimate_size);
    let runs = manifest.compacted().iter().filter(|run| sources.contains(&SourceId::SortedRun(run.id))).map(SortedRun::estimate_size);
    tables.chain(runs).sum()
}

/// Whether at least half of the rows are gone.
pub(super) async fn is_mostly_gone(manifest: &VersionedManifest, store: &Arc<dyn ObjectStore>, path: &str) -> Result<bool, slatedb::Error> {
    if of_all(manifest) < WORTH {
        return Ok(false);
    }
    let reader = SstReader::new(path.to_owned(), store.clone(), None, None);
    let (mut puts, mut deletes) = (0u64, 0u64);
    for view in manifest.all_sst_views() {
        // Of a table without any nothing is known, and it counts for nothing.
        if let Some(stats) = reader.open_with_handle(view.sst.clone())?.stats().await? {
            puts += stats.num_puts;
            deletes += stats.num_deletes;
        }
    }
    Ok(deletes > 0 && deletes >= puts / 2)
}

/// Whether all rows that are left have no more bytes than this, by reading them.
pub(super) async fn is_at_most(db: &Db, most: u64) -> Result<bool, slatedb::Error> {
    // Of what is kept beside a row in a table: its number, its stamp, its place in index and filter.
    const BESIDE: u64 = 40;
    let options = ScanOptions::default().with_read_ahead_bytes(1 << 20).with_cache_blocks(false);
    let (mut rows, mut sum) = (db.scan_with_options(.., &options).await?, 0);
    while let Some(row) = rows.next().await? {
        sum += row.key.len() as u64 + row.value.len() as u64 + BESIDE;
        if sum > most {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Merges size by size, as SlateDB does, what finds room; of what does not, the unmerged tables alone.
pub(super) struct WhatFits(pub(super) Disk);

impl CompactionSchedulerSupplier for WhatFits {
    fn compaction_scheduler(&self, options: &CompactorOptions) -> Box<dyn CompactionScheduler + Send + Sync> {
        Box::new(Fitting { disk: self.0.clone(), by_size: SizeTieredCompactionSchedulerSupplier::new().compaction_scheduler(options) })
    }
}

struct Fitting {
    disk: Disk,
    by_size: Box<dyn CompactionScheduler + Send + Sync>,
}

impl CompactionScheduler for Fitting {
    fn propose(&self, state: &CompactorStateView) -> Vec<CompactionSpec> {
        let proposed = self.by_size.propose(state);
        let Some(room) = (self.disk)() else { return proposed };
        let manifest = state.manifest();
        // What is under way takes its room too.
        let taken: u64 = under_way(state).map(|c| of_sources(manifest, c.spec().sources())).sum();
        let mut left = room.free.saturating_sub(room.floor + taken);
        let mut fitting = Vec::new();
        for spec in proposed {
            let fitting_one = Some(spec).filter(|spec| of_sources(manifest, spec.sources()) <= left).or_else(|| {
                let tables = unmerged(manifest);
                // Into a run of its own, above all others.
                let ids = manifest.compacted().iter().map(|run| run.id).chain(under_way(state).filter_map(|c| c.spec().destination()));
                let into = ids.max().map_or(0, |id| id + 1);
                let alone = under_way(state).next().is_none() && fitting.is_empty() && !tables.is_empty();
                (alone && of_unmerged(manifest) <= left).then(|| CompactionSpec::new(tables, into))
            });
            if let Some(spec) = fitting_one {
                left -= of_sources(manifest, spec.sources());
                fitting.push(spec);
            }
        }
        fitting
    }

    fn validate(&self, state: &CompactorStateView, spec: &CompactionSpec) -> Result<(), slatedb::Error> {
        self.by_size.validate(state, spec)
    }
}

/// Merges everything there is, once, into one run.
#[derive(Debug, Default)]
pub(super) struct Everything;

impl CompactionSchedulerSupplier for Everything {
    fn compaction_scheduler(&self, _options: &CompactorOptions) -> Box<dyn CompactionScheduler + Send + Sync> {
        Box::new(Once(AtomicBool::new(false)))
    }
}

struct Once(AtomicBool);

impl CompactionScheduler for Once {
    fn propose(&self, state: &CompactorStateView) -> Vec<CompactionSpec> {
        // What an earlier opening began goes on first; it may have taken some of the tables.
        if under_way(state).next().is_some() || self.0.swap(true, Ordering::Relaxed) {
            return Vec::new();
        }
        let manifest = state.manifest();
        let mut sources = unmerged(manifest);
        sources.extend(manifest.compacted().iter().map(|run| SourceId::SortedRun(run.id)));
        // The last run, below which nothing is: there removals themselves go.
        let into = manifest.compacted().iter().map(|run| run.id).min().unwrap_or(0);
        if sources.is_empty() { Vec::new() } else { vec![CompactionSpec::new(sources, into)] }
    }
}
