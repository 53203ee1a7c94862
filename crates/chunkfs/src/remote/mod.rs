//! Reading packs: frames come from the store once, lie in cache files on the host, and are checked by every reader.
//!
//! A run is read from a staged file if this host has one, else from the cache, else from the store. Whatever differs from
//! the checksums in the run is fetched anew from the store before it counts as damage, so what a disk of this host
//! corrupts mends itself.

mod cache;
pub(crate) mod copies;
mod fetch;

pub(crate) use fetch::PackAt;

use crate::chunk::Run;
use crate::host::{HostDisk, HostFile};
use crate::log::patience::Patience;
use crate::pack::{self, FRAME_BLOCKS};
use crate::segment::read_run;
use crate::types::{BLOCK, FsError, FsResult};
use bytes::Bytes;
use cache::{Cache, Cached, Missing, frames_of};
use fetch::{Fetcher, Table, damaged};
use futures::StreamExt;
use object_store::ObjectStore;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

const B: usize = BLOCK as usize;
/// Requests ahead of readers at once.
const AHEAD: usize = 16;
/// Frames that one of them fetches: 8 MiB.
const AHEAD_FRAMES: u32 = 32;
/// The same of a pack with a table, whose frames are there for readers only when the last of these has come: 2 MiB.
const AHEAD_PACKED: u32 = 8;
/// How long something may be fetched that nobody waits for.
const AHEAD_WITHIN: Duration = Duration::from_secs(30);
/// How often blocks that differ from their checksums are fetched anew.
const ATTEMPTS: u32 = 3;

/// Where a run of blocks is read from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A file of this host, and the pack of which it is a copy if it is one.
    Staged(Arc<dyn HostFile>, Option<PackAt>),
    Pack(PackAt),
}

/// The packs of a volume, and what of them is on this host.
#[derive(Debug)]
pub(crate) struct Packs {
    fetcher: Fetcher,
    cache: Cache,
    /// Bytes that copies may take on the host, staged files included.
    budget: u64,
    /// Bytes of staged files that are copies of packs.
    staged_bytes: AtomicU64,
    /// When a staged copy was read last.
    staged_used: Mutex<HashMap<u64, u64>>,
    /// Segments whose staged copy was found damaged.
    distrusted: Mutex<HashSet<u64>>,
    permits: Semaphore,
    /// When it makes sense again to look for copies that may go.
    look_at: Mutex<Option<Instant>>,
}

impl Packs {
    /// The packs below `prefix`; the folder is for this cache alone.
    pub(crate) fn open(
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        disk: Arc<dyn HostDisk>,
        dir: PathBuf,
        budget: u64,
        patience: Arc<Patience>,
    ) -> io::Result<Arc<Packs>> {
        Ok(Arc::new(Packs {
            fetcher: Fetcher { store, prefix: prefix.to_owned(), patience },
            cache: Cache::open(disk, dir)?,
            budget,
            staged_bytes: AtomicU64::new(0),
            staged_used: Mutex::default(),
            distrusted: Mutex::default(),
            permits: Semaphore::new(AHEAD),
            look_at: Mutex::default(),
        }))
    }

    /// What decides how long readers wait for the store.
    pub(crate) fn patience(&self) -> &Arc<Patience> {
        &self.fetcher.patience
    }

    /// Bytes in cache files.
    pub(crate) fn cached_bytes(&self) -> u64 {
        self.cache.bytes()
    }

    /// Whether copies take more than they may.
    pub(crate) fn over_budget(&self) -> bool {
        self.cache.bytes() + self.staged_bytes.load(Ordering::Acquire) > self.budget
    }

    pub(crate) fn may_look(&self) -> bool {
        self.look_at.lock().is_none_or(|at| at <= Instant::now())
    }

    pub(crate) fn look_later(&self) {
        *self.look_at.lock() = Some(Instant::now() + Duration::from_millis(500));
    }

    pub(crate) fn budget(&self) -> u64 {
        self.budget
    }

    pub(crate) fn count_staged(&self, bytes: u64) {
        self.staged_bytes.store(bytes, Ordering::Release);
    }

    pub(crate) fn one_more_staged(&self, bytes: u64) {
        self.staged_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// A staged copy is read.
    pub(crate) fn touch_staged(&self, segment: u64) {
        let now = self.cache.tick();
        self.staged_used.lock().insert(segment, now);
    }

    pub(crate) fn staged_used(&self, segment: u64) -> u64 {
        self.staged_used.lock().get(&segment).copied().unwrap_or(0)
    }

    pub(crate) fn is_distrusted(&self, segment: u64) -> bool {
        self.distrusted.lock().contains(&segment)
    }

    /// Nothing of this segment is on the host any more.
    pub(crate) fn forget(&self, segment: u64) {
        self.forget_staged(segment);
        self.cache.forget(segment);
    }

    pub(crate) fn forget_staged(&self, segment: u64) {
        self.staged_used.lock().remove(&segment);
        self.distrusted.lock().remove(&segment);
    }

    pub(crate) fn forget_cached(&self, segment: u64) {
        self.cache.forget(segment);
    }

    /// When cached segments were used last, their numbers and bytes.
    pub(crate) fn ages(&self) -> Vec<(u64, u64, u64)> {
        self.cache.ages()
    }

    /// Reads a run from wherever it is and checks every block of it.
    pub(crate) async fn read_from(&self, source: &Source, run: &Run, out: &mut [u8]) -> FsResult<()> {
        match source {
            Source::Staged(file, None) => read_run(&**file, run, out),
            Source::Staged(file, Some(at)) => match read_run(&**file, run, out) {
                Ok(()) => Ok(()),
                Err(e) => {
                    tracing::warn!(error = %e, "the copy of a segment on this host is damaged; it is read from the store");
                    self.distrusted.lock().insert(at.segment);
                    self.read(at, run, out).await
                }
            },
            Source::Pack(at) => self.read(at, run, out).await,
        }
    }

    /// Reads a run from a pack and checks every block of it.
    pub(crate) async fn read(&self, at: &PackAt, run: &Run, out: &mut [u8]) -> FsResult<()> {
        debug_assert_eq!(out.len(), usize::from(run.len) * B);
        if run.at + u32::from(run.len) > at.pack.blocks {
            return Err(damaged(&self.fetcher.path(&at.id), &format!("block {} is named and not in it", run.at + u32::from(run.len) - 1)));
        }
        let cached = self.cache.get(at);
        let frames = frames_of(run.at, u32::from(run.len));
        loop {
            match cached.missing(frames.clone(), u32::MAX) {
                Missing::Nothing => break,
                Missing::Coming => cached.others(frames.clone()).await,
                Missing::Ours(fetching) => {
                    let table = self.table(&cached).await?;
                    let got = self.fetcher.frames(at, &table, fetching.frames.clone()).await?;
                    if let Err(e) = self.cache.keep(&cached, fetching.frames.start, &got) {
                        tracing::debug!(error = %e, "frames could not be kept on the host");
                        let got = (fetching.frames == frames).then_some(got);
                        return self.read_past_cache(&cached, run, out, got).await;
                    }
                    self.trim();
                }
            }
        }
        let file = self.cache.file(&cached).map_err(|e| FsError::Io(format!("a cache file: {e}")));
        match file.and_then(|f| read_run(&*f, run, out)) {
            Ok(()) => Ok(()),
            Err(e) => {
                tracing::debug!(error = %e, "cached blocks differ from what was written; they are fetched anew");
                self.read_past_cache(&cached, run, out, None).await
            }
        }
    }

    /// Reads a run from the store, and mends the cache with what is right.
    async fn read_past_cache(&self, cached: &Arc<Cached>, run: &Run, out: &mut [u8], mut have: Option<Vec<Bytes>>) -> FsResult<()> {
        let frames = frames_of(run.at, u32::from(run.len));
        let table = self.table(cached).await?;
        let mut wrong = 0;
        for _ in 0..ATTEMPTS {
            let got = match have.take() {
                Some(got) => got,
                None => self.fetcher.frames(&cached.at, &table, frames.clone()).await?,
            };
            match copy_run(&got, frames.start, run, out) {
                None => {
                    // That it cannot be kept only means that it is fetched again.
                    let _ = self.cache.keep(cached, frames.start, &got);
                    return Ok(());
                }
                Some(block) => wrong = block,
            }
        }
        Err(damaged(&self.fetcher.path(&cached.at.id), &format!("block {wrong}: checksum differs")))
    }

    async fn table(&self, cached: &Arc<Cached>) -> FsResult<Table> {
        if let Some(table) = cached.table() {
            return Ok(table);
        }
        let _turn = cached.table_turn.lock().await;
        if let Some(table) = cached.table() {
            return Ok(table);
        }
        let table = self.fetcher.table(&cached.at).await?;
        cached.know_table(table.clone());
        Ok(table)
    }

    /// Keeps the cache within its part of the budget. Staged copies are let go by whoever knows which of them may.
    fn trim(&self) {
        let staged = self.staged_bytes.load(Ordering::Acquire);
        self.cache.shrink(self.budget.saturating_sub(staged).max(self.budget / 8));
    }

    /// A whole pack from the store, every byte checked.
    pub(crate) async fn whole(&self, at: &PackAt) -> FsResult<crate::pack::Whole> {
        self.fetcher.whole(at).await
    }

    /// Fetches what these runs want into the cache, side by side, without anybody waiting.
    pub(crate) fn fetch_ahead(self: &Arc<Self>, runs: &[(PackAt, u32, u32)]) {
        let mut groups: Vec<(PackAt, Range<u32>)> = Vec::new();
        for (at, from, blocks) in runs {
            let frames = frames_of(*from, *blocks);
            match groups.last_mut() {
                Some((last, range)) if last.segment == at.segment && frames.start <= range.end && frames.start >= range.start => {
                    range.end = range.end.max(frames.end);
                }
                _ => groups.push((*at, frames)),
            }
        }
        for (at, range) in groups {
            for first in range.clone().step_by(AHEAD_FRAMES as usize) {
                let (packs, frames) = (self.clone(), first..range.end.min(first + AHEAD_FRAMES));
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(AHEAD_WITHIN, packs.fetch_one(at, frames)).await;
                });
            }
        }
    }

    async fn fetch_one(&self, at: PackAt, frames: Range<u32>) {
        let Ok(_permit) = self.permits.acquire().await else { return };
        let cached = self.cache.get(&at);
        let most = if pack::is_raw(&at.pack) { AHEAD_FRAMES } else { AHEAD_PACKED };
        while let Missing::Ours(fetching) = cached.missing(frames.clone(), most) {
            let all = self.fetch_these(&cached, &fetching.frames).await;
            self.trim();
            if all.is_none() {
                // Whoever waits for the rest asks for it himself.
                return;
            }
        }
    }

    async fn fetch_these(&self, cached: &Arc<Cached>, frames: &Range<u32>) -> Option<()> {
        let table = self.table(cached).await.ok()?;
        let mut pieces = self.fetcher.frames_if_easy(&cached.at, &table, frames).await?;
        let mut arriving = self.cache.arriving(cached, frames.clone()).ok()?;
        while let Some(piece) = pieces.next().await {
            arriving.keep(&piece.ok()?).ok()?;
        }
        arriving.is_whole().then_some(())
    }
}

/// Copies a run out of frames; returns the first block that differs from its checksum, if one does.
fn copy_run(frames: &[Bytes], first_frame: u32, run: &Run, out: &mut [u8]) -> Option<u32> {
    for (i, (block, crc)) in out.chunks_exact_mut(B).zip(&run.crcs).enumerate() {
        let at = run.at + i as u32;
        let (frame, within) = ((at / FRAME_BLOCKS - first_frame) as usize, (at % FRAME_BLOCKS) as usize * B);
        block.copy_from_slice(&frames[frame][within..within + B]);
        if crc32c::crc32c(block) != *crc {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests;
