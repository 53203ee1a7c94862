//! Files on the host that hold frames of packs: one sparse file per segment, laid out like a staged one.
//!
//! What they hold is trusted by nobody, since whoever reads a block checks it; so they are never synced, and all go when
//! the volume is opened. Those used longest ago go when there are more than the budget allows. A file that is gone stays
//! readable to whoever has it open.

use super::fetch::{PackAt, Table};
use crate::host::{HostDisk, HostFile};
use crate::pack::{self, FRAME_BLOCKS};
use crate::sealing;
use crate::segment::{file_name, offset_of};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Files held open at most.
const HANDLES: usize = 128;
/// Files at most: bounds the memory that they take.
const FILES: usize = 8192;
/// Bytes between two looks at what the host's disk has free.
const LOOK_EVERY: u64 = 32 << 20;
/// What the cache leaves free for whoever writes.
const LEAVE_FREE: u64 = 256 << 20;

/// Frames of a pack, one bit each, and who fetches them.
#[derive(Debug, Default)]
struct Presence {
    here: Vec<u64>,
    coming: Vec<u64>,
    table: Option<Table>,
    file: Option<Arc<dyn HostFile>>,
    made: bool,
    /// What the file is sealed as: one of the same name, made later, holds other bytes at the same places.
    sealed_as: [u8; 16],
    bytes: u64,
    gone: bool,
}

fn has(bits: &[u64], n: u32) -> bool {
    bits.get(n as usize / 64).is_some_and(|w| w >> (n % 64) & 1 == 1)
}

fn set(bits: &mut Vec<u64>, n: u32, on: bool) {
    let word = n as usize / 64;
    if bits.len() <= word {
        bits.resize(word + 1, 0);
    }
    match on {
        true => bits[word] |= 1 << (n % 64),
        false => bits[word] &= !(1 << (n % 64)),
    }
}

impl Presence {
    /// Neither here nor fetched by anybody.
    fn is_free(&self, n: u32) -> bool {
        !has(&self.here, n) && !has(&self.coming, n)
    }

    /// Something of these is missing, and all that is has somebody who fetches it.
    fn is_coming(&self, mut frames: Range<u32>) -> bool {
        frames.clone().any(|n| !has(&self.here, n)) && !frames.any(|n| self.is_free(n))
    }
}

/// What is cached of one segment.
#[derive(Debug)]
pub(crate) struct Cached {
    pub(crate) at: PackAt,
    presence: Mutex<Presence>,
    arrived: Notify,
    used: AtomicU64,
    /// One at a time fetches the table.
    pub(crate) table_turn: tokio::sync::Mutex<()>,
}

/// Frames that somebody has begun to fetch; they are free to others when it is dropped.
#[derive(Debug)]
pub(crate) struct Fetching {
    cached: Arc<Cached>,
    pub(crate) frames: Range<u32>,
}

impl Drop for Fetching {
    fn drop(&mut self) {
        let mut p = self.cached.presence.lock();
        for n in self.frames.clone() {
            set(&mut p.coming, n, false);
        }
        drop(p);
        self.cached.arrived.notify_waiters();
    }
}

/// What is missing of some frames.
pub(crate) enum Missing {
    Nothing,
    /// Somebody else fetches what is missing.
    Coming,
    /// Ours to fetch: the first frames that follow each other and nobody has.
    Ours(Fetching),
}

impl Cached {
    /// What is missing of these frames; at most `most` of them are handed out at once.
    pub(crate) fn missing(self: &Arc<Self>, frames: Range<u32>, most: u32) -> Missing {
        let mut p = self.presence.lock();
        let Some(first) = frames.clone().find(|n| p.is_free(*n)) else {
            return if p.is_coming(frames) { Missing::Coming } else { Missing::Nothing };
        };
        let last = frames.end.min(first.saturating_add(most));
        let end = (first..last).find(|n| !p.is_free(*n)).unwrap_or(last);
        for n in first..end {
            set(&mut p.coming, n, true);
        }
        Missing::Ours(Fetching { cached: self.clone(), frames: first..end })
    }

    /// Returns when something of the segment has come or somebody's fetch has ended; at once if nothing of these is missing by
    /// now, or something that nobody fetches.
    pub(crate) async fn others(&self, frames: Range<u32>) {
        let arrived = self.arrived.notified();
        tokio::pin!(arrived);
        arrived.as_mut().enable();
        let waits = self.presence.lock().is_coming(frames);
        if waits {
            arrived.await;
        }
    }

    pub(crate) fn table(&self) -> Option<Table> {
        self.presence.lock().table.clone()
    }

    pub(crate) fn know_table(&self, table: Table) {
        self.presence.lock().table = Some(table);
    }
}

/// The cache files of a volume.
#[derive(Debug)]
pub(crate) struct Cache {
    disk: Arc<dyn HostDisk>,
    dir: PathBuf,
    segments: Mutex<HashMap<u64, Arc<Cached>>>,
    /// Bytes of frames in all files.
    bytes: AtomicU64,
    clock: AtomicU64,
    open: Mutex<Vec<Arc<Cached>>>,
    /// Bytes still to be written before the host's free space is looked at again.
    until_look: AtomicU64,
}

impl Cache {
    /// An empty cache in this folder; what an earlier process left there goes.
    pub(crate) fn open(disk: Arc<dyn HostDisk>, dir: PathBuf) -> io::Result<Cache> {
        disk.create_dir_all(&dir)?;
        for name in disk.list(&dir)? {
            disk.remove(&dir.join(name))?;
        }
        Ok(Cache {
            disk,
            dir,
            segments: Mutex::default(),
            bytes: AtomicU64::new(0),
            clock: AtomicU64::new(1),
            open: Mutex::default(),
            until_look: AtomicU64::new(0),
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// A time that is later than all before, for what is used by its like.
    pub(crate) fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// What is cached of a segment, from now on used last.
    pub(crate) fn get(&self, at: &PackAt) -> Arc<Cached> {
        let mut segments = self.segments.lock();
        if segments.len() >= FILES && !segments.contains_key(&at.segment) {
            let oldest = segments.iter().min_by_key(|(_, c)| c.used.load(Ordering::Relaxed)).map(|(n, _)| *n);
            let oldest = oldest.and_then(|n| segments.remove(&n));
            if let Some(oldest) = oldest {
                self.remove_file(&oldest);
            }
        }
        // A pack that was made anew has its frames elsewhere.
        if let Some(other) = segments.get(&at.segment).filter(|c| c.at != *at).cloned() {
            segments.remove(&at.segment);
            self.remove_file(&other);
        }
        let fresh = || {
            Arc::new(Cached {
                at: *at,
                presence: Mutex::default(),
                arrived: Notify::new(),
                used: AtomicU64::new(0),
                table_turn: tokio::sync::Mutex::default(),
            })
        };
        let cached = segments.entry(at.segment).or_insert_with(fresh).clone();
        cached.used.store(self.tick(), Ordering::Relaxed);
        cached
    }

    /// The file that holds the frames which are here.
    pub(crate) fn file(&self, cached: &Arc<Cached>) -> io::Result<Arc<dyn HostFile>> {
        let path = self.dir.join(file_name(cached.at.segment, &cached.at.id));
        let file = {
            let mut p = cached.presence.lock();
            if let Some(file) = &p.file {
                return Ok(file.clone());
            }
            if p.gone {
                // Its name may be another's by now.
                return Err(io::ErrorKind::NotFound.into());
            }
            let file = match p.made {
                true => self.disk.open(&path)?,
                false => {
                    p.sealed_as = rand::random();
                    self.disk.create(&path)?
                }
            };
            // It has no head: the process that made it is the one that reads it.
            let file = sealing::created(&*self.disk, file, cached.at.segment, &p.sealed_as);
            p.made = true;
            p.file = Some(file.clone());
            file
        };
        let mut open = self.open.lock();
        if open.len() >= HANDLES {
            for c in open.drain(..) {
                c.presence.lock().file = None;
            }
        }
        open.push(cached.clone());
        Ok(file)
    }

    /// Keeps frames. Fails if the host's disk has no room for them, which is no harm to anybody.
    pub(crate) fn keep(&self, cached: &Arc<Cached>, first: u32, frames: &[Bytes]) -> io::Result<()> {
        let mut arriving = self.arriving(cached, first..first + frames.len() as u32)?;
        frames.iter().try_for_each(|frame| arriving.keep(frame))
    }

    /// Where the bytes of these frames are kept as they come.
    pub(crate) fn arriving<'a>(&'a self, cached: &'a Arc<Cached>, frames: Range<u32>) -> io::Result<Arriving<'a>> {
        Ok(Arriving { cache: self, cached, file: self.file(cached)?, frames, filled: 0 })
    }

    fn has_room(&self, len: u64) -> io::Result<bool> {
        let left = self.until_look.load(Ordering::Relaxed);
        if left > len {
            self.until_look.store(left - len, Ordering::Relaxed);
            return Ok(true);
        }
        let (total, free) = self.disk.space(&self.dir)?;
        let leave = LEAVE_FREE.min(total / 10);
        if free < leave + len {
            // Those who write need it more.
            self.shrink(self.bytes() / 2);
            return Ok(false);
        }
        // Looked at often while it is short.
        self.until_look.store(LOOK_EVERY.min((free - leave) / 2), Ordering::Relaxed);
        Ok(true)
    }

    /// When each segment was used last, and the bytes that are cached of it.
    pub(crate) fn ages(&self) -> Vec<(u64, u64, u64)> {
        let segments = self.segments.lock();
        segments.iter().map(|(n, c)| (c.used.load(Ordering::Relaxed), *n, c.presence.lock().bytes)).collect()
    }

    /// Lets those go that were used longest ago until at most this much is left.
    pub(crate) fn shrink(&self, budget: u64) {
        if self.bytes() <= budget {
            return;
        }
        let mut ages = self.ages();
        ages.sort_unstable();
        for (_, segment, _) in ages {
            if self.bytes() <= budget {
                return;
            }
            self.forget(segment);
        }
    }

    /// Lets the copy of a segment go.
    pub(crate) fn forget(&self, segment: u64) {
        let gone = self.segments.lock().remove(&segment);
        if let Some(cached) = gone {
            self.remove_file(&cached);
        }
    }

    fn remove_file(&self, cached: &Cached) {
        let (made, bytes) = {
            let mut p = cached.presence.lock();
            let was = std::mem::replace(&mut p.gone, true);
            // Its room comes back as soon as those who read it now are done.
            p.file = None;
            (p.made && !was, if was { 0 } else { p.bytes })
        };
        self.open.lock().retain(|c| !std::ptr::eq(&**c, cached));
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        let path = self.dir.join(file_name(cached.at.segment, &cached.at.id));
        if made && let Err(e) = self.disk.remove(&path) {
            tracing::warn!(path = %path.display(), error = %e, "a cache file could not be removed");
        }
    }
}

/// Frames that follow each other, on their way into a cache file. One is there for readers when its last byte is.
#[derive(Debug)]
pub(crate) struct Arriving<'a> {
    cache: &'a Cache,
    cached: &'a Arc<Cached>,
    file: Arc<dyn HostFile>,
    /// Those that are still to come, and how many bytes of the first have.
    frames: Range<u32>,
    filled: usize,
}

impl Arriving<'_> {
    /// Keeps the next bytes. Fails if the host's disk has no room for them, or if they are more than was to come.
    pub(crate) fn keep(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.frames.is_empty() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let len = pack::frame_bytes(self.cached.at.pack.blocks, self.frames.start);
            if self.filled == 0 && !self.cache.has_room(len as u64)? {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let (now, later) = bytes.split_at(bytes.len().min(len - self.filled));
            self.file.write_at(now, offset_of(self.frames.start * FRAME_BLOCKS) + self.filled as u64)?;
            (bytes, self.filled) = (later, self.filled + now.len());
            if self.filled == len {
                self.arrived(len as u64);
                (self.frames.start, self.filled) = (self.frames.start + 1, 0);
            }
        }
        Ok(())
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.frames.is_empty()
    }

    fn arrived(&self, len: u64) {
        let mut p = self.cached.presence.lock();
        if !has(&p.here, self.frames.start) {
            set(&mut p.here, self.frames.start, true);
            p.bytes += len;
            if !p.gone {
                self.cache.bytes.fetch_add(len, Ordering::AcqRel);
            }
        }
        drop(p);
        self.cached.arrived.notify_waiters();
    }
}

/// Frames that hold these blocks.
pub(crate) fn frames_of(at: u32, blocks: u32) -> Range<u32> {
    at / FRAME_BLOCKS..pack::frames(at + blocks)
}
