//! Which segments this host has a file of, where a segment is read from, and which copies go when there are too many.
//!
//! A staged file may go once the store's log or the namespace says that its segment is a pack: a recovery then looks for
//! the blocks there. Until then the file is what a recovery reads, whatever the store already holds.

use super::{PackAt, Packs, Source};
use crate::chunk::Run;
use crate::fs::FileSystem;
use crate::namespace::NOWHERE;
use crate::row::{Pack, Row, Segment};
use crate::segment::{open_error, parse_name, read_run};
use crate::state::State;
use crate::types::{BLOCK, FsError, FsResult};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// Bytes of the staged file of a segment that became a pack.
fn staged_len(pack: &Pack) -> u64 {
    (u64::from(pack.blocks) + 1) * BLOCK
}

/// What of a volume's segments is on this host.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// Segments that have a staged file here.
    staged: HashSet<u64>,
    /// In which record a segment was said to be a pack, while that may be in this host's journal alone.
    packed_at: HashMap<u64, u64>,
    /// How packs are read, on a volume whose home is the store.
    pub(crate) packs: Option<Arc<Packs>>,
}

impl Copies {
    /// Looks at which files there are. One that is not all of its pack is no copy of it; it goes when it is stale.
    pub(crate) fn find(
        packs: Option<Arc<Packs>>,
        disk: &dyn crate::host::HostDisk,
        dir: &Path,
        segments: &HashMap<u64, Segment>,
    ) -> std::io::Result<Copies> {
        let mut copies = Copies { packs, ..Copies::default() };
        for name in disk.list(dir)? {
            let Some((number, id)) = parse_name(&name) else { continue };
            let whole = match segments.get(&number) {
                Some(s) if s.id != id => false,
                Some(Segment { pack: Some(pack), .. }) => disk.open(&dir.join(&name))?.size()? >= staged_len(pack),
                // A record that is replayed may tell of it.
                _ => true,
            };
            if whole {
                copies.staged.insert(number);
                copies.count(segments.get(&number).and_then(|s| s.pack.as_ref()));
            }
        }
        Ok(copies)
    }

    fn count(&self, pack: Option<&Pack>) {
        if let (Some(packs), Some(pack)) = (&self.packs, pack) {
            packs.one_more_staged(staged_len(pack));
        }
    }

    pub(crate) fn is_staged(&self, segment: u64) -> bool {
        self.staged.contains(&segment)
    }

    /// A staged file was made.
    pub(crate) fn made(&mut self, segment: u64) {
        self.staged.insert(segment);
    }

    /// A record says that a segment is a pack.
    pub(crate) fn packed(&mut self, segment: u64, seq: u64, pack: &Pack) {
        self.packed_at.insert(segment, seq);
        if self.staged.contains(&segment) {
            self.count(Some(pack));
        }
    }

    /// A segment lost its row: nothing of it will be read.
    pub(crate) fn dropped(&mut self, segment: u64) {
        self.staged.remove(&segment);
        self.packed_at.remove(&segment);
        if let Some(packs) = &self.packs {
            packs.forget(segment);
        }
    }
}

impl State {
    /// Where the blocks of a segment are read from. That it has no row, or neither file nor pack, is damage.
    pub(crate) fn source(&mut self, number: u64) -> FsResult<Source> {
        let row = self.segments.get(&number);
        let row = row.ok_or_else(|| no_row(number))?;
        let id = row.id;
        self.source_of(number, id)
    }

    /// The same for a segment whose row is not in memory yet.
    pub(crate) fn source_of(&mut self, number: u64, id: [u8; 16]) -> FsResult<Source> {
        let distrusted = self.copies.packs.as_ref().is_some_and(|p| p.is_distrusted(number));
        self.find(number, id, !distrusted)
    }

    /// Where a segment is looked at by a check: also in a copy that a reader found damaged.
    pub(crate) fn source_to_check(&mut self, number: u64) -> FsResult<Source> {
        let id = self.segments.get(&number).map(|s| s.id);
        let id = id.ok_or_else(|| no_row(number))?;
        self.find(number, id, true)
    }

    fn find(&mut self, number: u64, id: [u8; 16], staged: bool) -> FsResult<Source> {
        let pack = self.segments.get(&number).filter(|s| s.id == id).and_then(|s| s.pack);
        let (Some(pack), Some(packs)) = (pack, &self.copies.packs) else {
            return self.files.get(number, &id).map(|f| Source::Staged(f, None)).map_err(|e| open_error(number, &e));
        };
        let at = PackAt { segment: number, id, pack };
        if !staged || !self.copies.staged.contains(&number) {
            return Ok(Source::Pack(at));
        }
        match self.files.get(number, &id) {
            Ok(file) => {
                packs.touch_staged(number);
                Ok(Source::Staged(file, Some(at)))
            }
            Err(e) => {
                tracing::warn!(error = %open_error(number, &e), "the copy of a segment on this host cannot be read");
                self.copies.staged.remove(&number);
                Ok(Source::Pack(at))
            }
        }
    }
}

/// Why nothing can be read of a segment that is referred to.
fn no_row(number: u64) -> FsError {
    match number {
        NOWHERE => FsError::Corrupt("where its blocks are was lost with a damaged table of the namespace".to_owned()),
        _ => FsError::Corrupt(format!("segment {number:016x} has no row")),
    }
}

/// Reads a run from wherever it is and checks every block of it.
pub(crate) async fn read_source(packs: Option<&Packs>, source: &Source, run: &Run, out: &mut [u8]) -> FsResult<()> {
    match (source, packs) {
        (Source::Staged(file, None), _) => read_run(&**file, run, out),
        (_, Some(packs)) => packs.read_from(source, run, out).await,
        // Only a volume that can read packs is told of one.
        (_, None) => Err(FsError::Io(format!("segment {:016x} is a pack, and there is no store", run.segment))),
    }
}

impl FileSystem {
    pub(crate) fn packs(&self) -> Option<Arc<Packs>> {
        self.lock().copies.packs.clone()
    }

    /// Lets copies of packs go until no more than the budget is left.
    pub(crate) async fn keep_to_budget(&self) {
        let Some(packs) = self.packs().filter(|p| p.over_budget() && p.may_look()) else { return };
        // A little further than needed, so that not every read does it.
        if self.evict(packs.budget() - packs.budget() / 16).await == 0 {
            // All that is here has still to be sent.
            packs.look_later();
        }
    }

    /// Takes the staged copy of a pack out of use and returns its path; the file stays where it is. `None` if there is none, or
    /// if a recovery may still need it.
    pub(crate) fn disown_staged(&self, n: u64) -> Option<std::path::PathBuf> {
        let packs = self.packs()?;
        let arrived = self.shipping.as_ref().map_or(u64::MAX, |s| s.arrived());
        let mut st = self.lock();
        let st = &mut *st;
        st.copies.packed_at.retain(|_, seq| *seq > arrived);
        if st.copies.packed_at.contains_key(&n) || st.pins.contains_key(&n) || !st.copies.staged.contains(&n) {
            return None;
        }
        let id = st.segments.get(&n).filter(|s| s.pack.is_some())?.id;
        st.copies.staged.remove(&n);
        st.files.forget(n);
        // What a sync would have made durable is in the store.
        st.unsynced.remove(&n);
        packs.forget_staged(n);
        Some(st.files.path(n, &id))
    }

    /// Lets copies of packs on this host go, those used longest ago first, until at most this many bytes of them are left.
    /// Returns how many went.
    pub async fn evict(&self, keep: u64) -> u64 {
        let Some(packs) = self.packs() else { return 0 };
        let arrived = self.shipping.as_ref().map_or(u64::MAX, |s| s.arrived());
        let (paths, went) = {
            let mut st = self.lock();
            let st = &mut *st;
            st.copies.packed_at.retain(|_, seq| *seq > arrived);
            let mut all: Vec<(u64, u64, u64, bool)> = packs.ages().into_iter().map(|(used, n, bytes)| (used, n, bytes, false)).collect();
            let mut fixed = 0;
            let mut staged_bytes = 0;
            for n in &st.copies.staged {
                let Some(pack) = st.segments.get(n).and_then(|s| s.pack) else { continue };
                staged_bytes += staged_len(&pack);
                if st.copies.packed_at.contains_key(n) || st.pins.contains_key(n) {
                    fixed += staged_len(&pack);
                } else {
                    let used = if packs.is_distrusted(*n) { 0 } else { packs.staged_used(*n) };
                    all.push((used, *n, staged_len(&pack), true));
                }
            }
            all.sort_unstable();
            let mut total: u64 = fixed + all.iter().map(|(_, _, bytes, _)| bytes).sum::<u64>();
            let (mut paths, mut went) = (Vec::new(), 0);
            for (_, n, bytes, staged) in all {
                if total <= keep {
                    break;
                }
                total -= bytes;
                went += bytes;
                if !staged {
                    packs.forget_cached(n);
                    continue;
                }
                staged_bytes -= bytes;
                st.copies.staged.remove(&n);
                st.files.forget(n);
                // What a sync would have made durable is in the store.
                st.unsynced.remove(&n);
                packs.forget_staged(n);
                if let Some(row) = st.segments.get(&n) {
                    paths.push(st.files.path(n, &row.id));
                }
            }
            packs.count_staged(staged_bytes);
            (paths, went)
        };
        for path in paths {
            if let Err(e) = self.disk.remove(&path)
                && e.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), error = %e, "a copy of a pack could not be removed");
            }
        }
        went
    }
}

/// The pack of a row, if that says that it is one now and did not before.
pub(crate) fn became_pack(before: Option<&Segment>, now: &Row) -> Option<Pack> {
    match now {
        Row::Segment(s) if before.is_none_or(|b| b.pack.is_none()) => s.pack,
        _ => None,
    }
}
