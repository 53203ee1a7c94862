//! Recovery, second half: the records that count are applied, and the volume's state is what comes out.

use super::{FileInfo, aside, refused};
use crate::cache::RowCache;
use crate::change::{Change, Record};
use crate::host::{HostDisk, HostFile};
use crate::journal::{Found, Journal, encode_frame};
use crate::key::{CHUNK_BLOCKS, Key};
use crate::log::chain::Chain;
use crate::log::object::Extent;
use crate::log::outbox::{Outbox, named};
use crate::log::patience::Patience;
use crate::lookups::Lookups;
use crate::namespace::Namespace;
use crate::neighbours::Misses;
use crate::open::OpenConfig;
use crate::remote::copies::{Copies, read_source};
use crate::remote::{Packs, Source};
use crate::row::{Pack, Row, Segment, Super};
use crate::segment::{PACK_BLOCKS, SEGMENT_BLOCKS, SegmentFiles, parse_name, write_blocks};
use crate::state::{Bases, Dead, Page, State, Stop};
use crate::synced::Synced;
use crate::types::{BLOCK, FsError, FsResult};
use orlop_model::{Durability, Error, Result};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a record was found.
enum Origin {
    /// In the store's log: whole, and arrived.
    Store,
    /// In the host's journal. Unless it is sure, a power failure may have taken the data that it names.
    Host { sure: bool, offset: u64, path: PathBuf, file: Arc<dyn HostFile> },
}

/// What a record says of a segment before it became a pack holds no longer once a later record says that it did: the
/// file on the host may be gone since. Nor does it once the namespace says so: a fold writes that beside its rows, while records that follow its
/// cut were made before the pack was, and the one that tells of it may never have left this host. Returns those of which a record says it.
fn know_packs(log: &mut [(u64, Record, Origin)], at_rest: &HashMap<u64, Segment>) -> HashMap<u64, Pack> {
    let mut packs = HashMap::new();
    for (_, record, _) in log.iter_mut().rev() {
        for change in record.changes.iter_mut().rev() {
            if let Change::Put(Key::Segment(n), Row::Segment(s)) = change {
                match s.pack {
                    Some(pack) => drop(packs.insert(*n, pack)),
                    None => {
                        let folded = at_rest.get(n).filter(|row| row.id == s.id).and_then(|row| row.pack);
                        s.pack = packs.get(n).copied().or(folded);
                    }
                }
            }
        }
    }
    packs
}

/// The segment that a change takes away.
fn dies(change: &Change) -> Option<u64> {
    match change {
        Change::Delete(Key::Segment(n)) => Some(*n),
        _ => None,
    }
}

/// Puts data that travelled in the log where the records that name it expect it on the host.
fn stage(files: &mut SegmentFiles, extent: &Extent, data: &[u8]) -> std::io::Result<()> {
    let file = match files.get(extent.segment, &extent.id) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => files.create(extent.segment, &extent.id)?,
        found => found?,
    };
    write_blocks(&*file, extent.at, data).map(|_| ())
}

/// Keeps what stands behind the last record of a file beside it, and cuts it off.
pub(super) fn keep_tail(disk: &dyn HostDisk, path: &Path, file: &dyn HostFile, at: u64, tail: std::ops::Range<u64>) -> std::io::Result<()> {
    let Some(dir) = path.parent() else { return Ok(()) };
    let mut bytes = vec![0; (tail.end - tail.start) as usize];
    let got = file.read_at(&mut bytes, tail.start)?;
    tracing::warn!(path = %path.display(), bytes = got, "what stands behind the last record is no record; set aside as .tail");
    let name = dir.join(format!("{}.{at:016x}.tail", path.file_name().unwrap_or_default().to_string_lossy()));
    if let Err(e) = disk.remove(&name)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        return Err(e);
    }
    let copy = disk.create(&name)?;
    copy.write_at(&bytes[..got], 0)?;
    copy.sync_data()?;
    disk.sync_dir(dir)?;
    file.set_size(tail.start)
}

/// Everything that was found.
pub(super) struct Log {
    pub(super) replay: Vec<(FileInfo, Vec<Found>)>,
    /// Journal files that go once they are folded: first record, last record, path.
    pub(super) finished: Vec<(u64, u64, PathBuf)>,
    pub(super) old_files: Vec<Arc<dyn HostFile>>,
    pub(super) journal_dir: PathBuf,
    /// The last record in the namespace, and the last that the store has.
    pub(super) applied: u64,
    pub(super) sent: u64,
    pub(super) last_found: u64,
    pub(super) chain: Option<Chain>,
}

pub(super) struct Shell<'a> {
    pub(super) config: &'a OpenConfig,
    pub(super) ns: &'a Namespace,
    pub(super) volume: [u8; 16],
    pub(super) segment_dir: PathBuf,
    pub(super) hash_key: [u8; 32],
    pub(super) sb: Super,
    pub(super) segments: HashMap<u64, Segment>,
    /// Blocks whose small writes have lost what they were made to.
    pub(super) baseless: HashSet<(u64, u64)>,
    /// Segments that a record in the store takes away: of their blocks nothing is left after it, and they may never have been sent.
    pub(super) dying: HashSet<u64>,
}

impl Shell<'_> {
    pub(super) async fn replay(&mut self, found: Log) -> Result<State> {
        let Log { replay, mut finished, old_files, journal_dir, applied, sent, last_found, chain } = found;
        let disk = self.config.host.clone();
        let mut log = Vec::new();
        let mut cut = None;
        let mut seq = sent;
        let remote = chain.is_some();
        let mut segment_files = SegmentFiles::new(disk.clone(), self.segment_dir.clone(), self.volume);
        // First the records are put in order and checked as far as they can be without the state.
        let mut extents = Vec::new();
        if let Some(chain) = chain {
            extents = chain.extents;
            let above = chain.records.into_iter().filter(|(seq, _)| *seq > applied);
            log.extend(above.map(|(seq, record)| (seq, record, Origin::Store)));
        }
        let may_be_torn = replay.iter().any(|(info, _)| !info.checked);
        for (info, records) in replay {
            for r in records {
                if r.seq <= sent {
                    continue;
                }
                let sure = info.checked || r.seq <= info.durable;
                let origin = Origin::Host { sure, offset: r.offset, path: info.path.clone(), file: info.file.clone() };
                log.push((r.seq, r.record, origin));
            }
        }
        let packed = know_packs(&mut log, &self.segments);
        for (extent, data) in extents.iter().filter(|(e, _)| !packed.contains_key(&e.segment) && !self.is_packed(e.segment)) {
            stage(&mut segment_files, extent, data).map_err(|e| Error::io(self.segment_dir.display(), &e))?;
        }
        drop(extents);
        // A journal that starts where nothing was found cannot collide with a file that is there.
        let journal = Journal::start(disk.clone(), journal_dir.clone(), self.volume, last_found, Vec::new())
            .map_err(|e| Error::io(journal_dir.display(), &e))?;
        let mut st = self.state(journal, segment_files);
        st.copies = self.copies()?;
        st.folded_upto = applied;
        st.may_be_torn = may_be_torn;
        let of_store = log.iter().filter(|(_, _, origin)| matches!(origin, Origin::Store));
        self.dying = of_store.flat_map(|(_, record, _)| &record.changes).filter_map(dies).collect();
        let mut outbox = Outbox::new(sent + 1);
        let mut frame = Vec::new();
        for (number, record, origin) in log {
            frame.clear();
            let unsent = (remote && number > sent).then(|| {
                encode_frame(&mut frame, number, &record);
                named(&record)
            });
            let sure = matches!(&origin, Origin::Store | Origin::Host { sure: true, .. });
            match (self.apply_one(&mut st, record, sure).await, origin) {
                (Ok(()), _) => {
                    seq = number;
                    // Not before it counts: what a record names that is cut off may be gone, and could never be sent.
                    if let Some(named) = unsent {
                        outbox.push_named(number, &frame, &named);
                    }
                }
                (Err(FsError::Corrupt(why)), Origin::Host { sure, offset, path, file }) if !sure || self.config.salvage => {
                    tracing::warn!(record = number, %why, "the log ends here: what follows was never made durable");
                    cut = Some((number, offset, path, file));
                    break;
                }
                (Err(e), Origin::Host { path, .. }) => return Err(refused(&format!("record {number} of {}", path.display()), e)),
                (Err(e), Origin::Store) => return Err(refused(&format!("record {number} of the log on the store"), e)),
            }
        }
        st.outbox = remote.then_some(outbox);
        if self.config.salvage {
            // Nothing of it is kept, and files may be missing that a sync would want.
            st.unsynced.clear();
        }
        if let Some((at, offset, path, file)) = cut {
            // The tail is kept in a copy, then cut; later files are set aside whole.
            self.cut(&journal_dir, at, offset, &path, &*file, &finished).map_err(|e| Error::io(path.display(), &e))?;
            finished.retain(|(first, _, _)| *first < at);
            if let Some(f) = finished.last_mut() {
                f.1 = f.1.min(at - 1);
            }
            finished.retain(|(first, last, _)| last >= first);
        }
        st.journal = self.restart_journal(journal_dir, seq, last_found, finished)?;
        st.journal.sync_too(old_files);
        self.tidy_segments(&mut st).map_err(|e| Error::io(self.segment_dir.display(), &e))?;
        if self.config.fresh_kernel {
            st.answers.clear();
            st.answer_order.clear();
        } else {
            st.inherited_below = st.sb.next_ino;
        }
        Ok(st)
    }

    /// Whether the namespace names a segment, which on a host's own store was synced before: without its head it is damaged, and what
    /// it was sealed with is not to be written over.
    fn is_at_rest(&self, segment: u64) -> bool {
        self.config.remote.is_none() && self.segments.contains_key(&segment)
    }

    fn is_packed(&self, segment: u64) -> bool {
        self.segments.get(&segment).is_some_and(|s| s.pack.is_some())
    }

    /// The journal that records go to: the one started before the replay, or another where the log was cut.
    fn restart_journal(&self, dir: PathBuf, seq: u64, started_at: u64, finished: Vec<(u64, u64, PathBuf)>) -> Result<Journal> {
        let disk = self.config.host.clone();
        let first = dir.join(format!("{:016x}.journal", started_at + 1));
        disk.remove(&first).map_err(|e| Error::io(first.display(), &e))?;
        Journal::start(disk, dir.clone(), self.volume, seq, finished).map_err(|e| Error::io(dir.display(), &e))
    }

    fn cut(
        &self,
        dir: &Path,
        at: u64,
        offset: u64,
        path: &Path,
        file: &dyn HostFile,
        finished: &[(u64, u64, PathBuf)],
    ) -> std::io::Result<()> {
        let disk = &*self.config.host;
        let size = file.size()?;
        let mut tail = vec![0; (size - offset) as usize];
        let got = file.read_at(&mut tail, offset)?;
        let name = dir.join(format!("{at:016x}.tail"));
        if let Err(e) = disk.remove(&name)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            return Err(e);
        }
        let copy = disk.create(&name)?;
        copy.write_at(&tail[..got], 0)?;
        copy.sync_data()?;
        for (first, _, later) in finished.iter().filter(|(first, _, _)| *first > at) {
            debug_assert!(*first > at);
            aside(disk, later)?;
        }
        if finished.iter().any(|(first, _, p)| p == path && *first == at) {
            // Nothing of this file counts; its name is wanted for the next one.
            aside(disk, path)?;
        } else {
            file.set_size(offset)?;
            file.sync_data()?;
        }
        disk.sync_dir(dir)
    }

    /// What of the segments is on this host, and how the others are read.
    fn copies(&self) -> Result<Copies> {
        let (config, disk) = (self.config, &self.config.host);
        let packs = match &config.remote {
            None => None,
            Some(remote) => {
                let dir = config.state_dir.join("cache");
                let patience = Arc::new(Patience::new(remote.outage, remote.outage_deadline));
                let packs = Packs::open(config.store.clone(), &config.prefix, disk.clone(), dir.clone(), remote.cache_bytes, patience);
                Some(packs.map_err(|e| Error::io(dir.display(), &e))?)
            }
        };
        Copies::find(packs, &**disk, &self.segment_dir, &self.segments).map_err(|e| Error::io(self.segment_dir.display(), &e))
    }

    fn state(&self, journal: Journal, files: SegmentFiles) -> State {
        State {
            journal,
            files,
            overlay: BTreeMap::new(),
            overlay_weight: 0,
            folding: None,
            stored_below: self.sb.next_ino,
            folded_upto: 0,
            folds: 0,
            clean: RowCache::new(self.config.cache_bytes),
            misses: Misses::default(),
            sb: self.sb.clone(),
            segments: self.segments.clone(),
            unpacked: self.segments.values().filter(|s| s.pack.is_none()).count() as u64,
            dead: Vec::new(),
            copies: Copies::default(),
            current: None,
            pins: HashMap::new(),
            unsynced: HashSet::new(),
            segment_dir_unsynced: true,
            dirty: BTreeMap::new(),
            flushing: false,
            synced: Synced::default(),
            lookups: Lookups::default(),
            orphans: HashSet::new(),
            inherited_below: 0,
            answers: HashMap::new(),
            answer_order: VecDeque::new(),
            outbox: None,
            full: None,
            safe_in_store: self.config.remote.as_ref().is_some_and(|r| r.durability == Durability::Remote),
            segment_blocks: if self.config.remote.is_some() { PACK_BLOCKS } else { SEGMENT_BLOCKS },
            quota_blocks: self.config.quota_bytes.map(|b| b / BLOCK),
            written_since_look: 0,
            host_free: 0,
            host_total: 0,
            weight: 0,
            looked: None,
            makes_no_holes: !self.config.host.makes_holes(&self.segment_dir),
            trim_later: None,
            died: 0,
            trimmed_in_vain: None,
            trimmed: HashMap::new(),
            may_be_torn: false,
            unsynced_bytes: 0,
            broken: None,
            closed: false,
            hash_key: self.hash_key,
            disk: self.config.host.clone(),
            clock: self.config.clock.clone(),
        }
    }

    /// Applies one record. Unless it is sure to be whole, the data that it names is read and checked first.
    async fn apply_one(&mut self, st: &mut State, record: Record, sure: bool) -> FsResult<()> {
        // Segments that the record itself introduces count for its own mappings.
        let mut introduced: HashMap<u64, [u8; 16]> = HashMap::new();
        for c in &record.changes {
            if let Change::Put(Key::Segment(n), Row::Segment(s)) = c {
                introduced.insert(*n, s.id);
            }
        }
        let mut bases = Bases::new();
        for c in &record.changes {
            match c {
                Change::Map { ino, chunk, run } => {
                    self.load_chunk(st, *ino, *chunk).await?;
                    if run.segment != 0 && !sure {
                        let id = introduced.get(&run.segment).copied().or_else(|| st.segments.get(&run.segment).map(|s| s.id));
                        let id = id.ok_or_else(|| FsError::Corrupt(format!("segment {:016x} has no row", run.segment)))?;
                        let source = st.source_of(run.segment, id)?;
                        let mut buffer = vec![0; usize::from(run.len) * BLOCK as usize];
                        read_source(st.copies.packs.clone().as_deref(), &source, run, &mut buffer).await?;
                    }
                }
                Change::Unmap { ino, chunk, .. } => self.load_chunk(st, *ino, *chunk).await?,
                Change::Patch { ino, block, .. } => {
                    self.load_chunk(st, *ino, block / CHUNK_BLOCKS).await?;
                    let at = (*ino, *block);
                    if !st.dirty.contains_key(&at) && !self.baseless.contains(&at) {
                        match self.base(st, *ino, *block).await {
                            Ok(page) => drop(bases.insert(at, page)),
                            Err(FsError::Corrupt(_)) if self.is_dying(st, *ino, *block) => {
                                bases.insert(at, vec![0; BLOCK as usize].into());
                            }
                            // It was there when the write was made, so it is damaged since, and one block of one file is
                            // lost: nobody may read it, and the rest of the volume goes on.
                            Err(FsError::Corrupt(why)) if sure && (self.config.salvage || is_there(st, *ino, *block)) => {
                                tracing::error!(ino, block, %why, "a small write was made to a block that is damaged; it reads as an error");
                                self.baseless.insert(at);
                                spoil(st, *ino, *block)?;
                            }
                            Err(e) => return Err(e),
                        }
                    }
                }
                Change::Put(..) | Change::Delete(_) => {}
            }
        }
        if record.request != 0 {
            st.remember(record.request, record.answer);
        }
        for c in record.changes {
            let replaced = match &c {
                Change::Map { ino, chunk, run } => Some((*ino, *chunk, run.start, run.end())),
                Change::Unmap { ino, chunk, from, to } => Some((*ino, *chunk, *from, *to)),
                _ => None,
            };
            if let Some((ino, chunk, from, to)) = replaced {
                let blocks = chunk * CHUNK_BLOCKS + u64::from(from)..chunk * CHUNK_BLOCKS + u64::from(to);
                self.baseless.retain(|(i, b)| *i != ino || !blocks.contains(b));
            }
            if let Change::Delete(Key::Segment(n)) = &c
                && let Some(row) = st.segments.get(n)
            {
                let dead = Dead::new(*n, row);
                st.dead.push(dead);
            }
            match &c {
                Change::Patch { ino, block, .. } if self.baseless.contains(&(*ino, *block)) => {}
                _ => st.apply(c, &bases)?,
            }
        }
        Ok(())
    }

    async fn load_chunk(&self, st: &mut State, ino: u64, chunk: u64) -> FsResult<()> {
        loop {
            match st.hold_chunk(ino, chunk) {
                Ok(()) => return Ok(()),
                Err(Stop::Fs(e)) => return Err(e),
                Err(Stop::Miss(key)) => {
                    let row = self.ns.get(key).await?;
                    st.clean.put(key, row);
                }
            }
        }
    }

    fn is_dying(&self, st: &mut State, ino: u64, block: u64) -> bool {
        let run = st.chunk(ino, block / CHUNK_BLOCKS).ok().and_then(|map| map.at((block % CHUNK_BLOCKS) as u16).map(|r| r.segment));
        run.is_some_and(|segment| self.dying.contains(&segment))
    }

    /// What a block held before a small write.
    async fn base(&self, st: &mut State, ino: u64, block: u64) -> FsResult<Page> {
        let chunk = match st.chunk(ino, block / CHUNK_BLOCKS) {
            Ok(c) => c,
            Err(_) => return Err(FsError::Io("a chunk left memory during recovery".to_owned())),
        };
        let within = (block % CHUNK_BLOCKS) as u16;
        let mut page = vec![0; BLOCK as usize];
        if let Some(run) = chunk.at(within).filter(|r| r.segment != 0) {
            let run = run.part(within, within + 1);
            let source = st.source(run.segment)?;
            read_source(st.copies.packs.clone().as_deref(), &source, &run, &mut page).await?;
        }
        Ok(page.into())
    }

    /// Removes staged files that no row ever named: made just before a crash and never referred to. Those that lost their rows in what
    /// was replayed stay: should this process die before its first fold, all of it is replayed again, and read from them. A head that a
    /// power failure took is written again.
    fn tidy_segments(&self, st: &mut State) -> std::io::Result<()> {
        let disk = &*self.config.host;
        for name in disk.list(&self.segment_dir)? {
            let Some((number, id)) = parse_name(&name) else { continue };
            let is_named = st.segments.get(&number).is_some_and(|s| s.id == id) || st.dead.iter().any(|d| d.id == id);
            // Of a pack that the namespace knows only a whole copy is of use.
            let stale = self.is_packed(number) && !st.copies.is_staged(number);
            if stale || !is_named {
                tracing::info!(%name, "removing a staged segment that nothing refers to");
                disk.remove(&self.segment_dir.join(name))?;
            } else if !self.is_at_rest(number) && st.files.write_lost_header(number, &id)? {
                st.unsynced.insert(number);
            }
        }
        Ok(())
    }
}

/// Whether a block is on this host, whatever its bytes are. A file that is missing as a whole may come back.
fn is_there(st: &mut State, ino: u64, block: u64) -> bool {
    let Ok(map) = st.chunk(ino, block / CHUNK_BLOCKS) else { return false };
    let within = (block % CHUNK_BLOCKS) as u16;
    let Some(run) = map.at(within).filter(|r| r.segment != 0) else { return false };
    let end = (u64::from(run.at) + u64::from(within - run.start) + 2) * BLOCK;
    matches!(st.source(run.segment), Ok(Source::Staged(file, None)) if file.size().is_ok_and(|size| size >= end))
}

/// Makes a block unreadable for good: what comes back of its bytes would be without the small writes that followed.
fn spoil(st: &mut State, ino: u64, block: u64) -> FsResult<()> {
    let (chunk, within) = (block / CHUNK_BLOCKS, (block % CHUNK_BLOCKS) as u16);
    let Ok(map) = st.chunk(ino, chunk) else {
        return Err(FsError::Io("a chunk left memory during recovery".to_owned()));
    };
    if let Some(run) = map.at(within).filter(|r| r.segment != 0) {
        let mut run = run.part(within, within + 1);
        run.crcs.iter_mut().for_each(|crc| *crc = !*crc);
        st.apply(Change::Map { ino, chunk, run }, &Bases::new())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_that_became_a_pack_stays_one_whatever_an_older_record_says() {
        let pack = Pack { blocks: 8, bytes: 8 * BLOCK };
        let row = |id: u8, pack| Segment { id: [id; 16], live: 3, pack };
        let put = |n, row| Record { changes: vec![Change::Put(Key::Segment(n), Row::Segment(row))], ..Record::default() };
        let of = |record: &Record| match &record.changes[..] {
            [Change::Put(Key::Segment(_), Row::Segment(row))] => row.pack,
            _ => panic!("one segment"),
        };
        // The first became one in the log itself. Of the second only the namespace tells: its fold made the pack after this record was made,
        // and what said so was never sent. The third was another segment then.
        let mut log: Vec<_> = [put(1, row(1, None)), put(2, row(2, None)), put(3, row(3, None)), put(1, row(1, Some(pack)))]
            .into_iter()
            .enumerate()
            .map(|(n, record)| (n as u64, record, Origin::Store))
            .collect();
        let at_rest = HashMap::from([(2, row(2, Some(pack))), (3, row(9, Some(pack))), (4, row(4, None))]);
        let told = know_packs(&mut log, &at_rest);
        assert_eq!(told.keys().collect::<Vec<_>>(), [&1]);
        assert_eq!(log.iter().map(|(_, record, _)| of(record)).collect::<Vec<_>>(), [Some(pack), Some(pack), None, Some(pack)]);
    }
}
