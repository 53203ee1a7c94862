//! What a writer knows of its volume between two folds: changed rows, pending small writes, counters, pins.
//!
//! Everything here is behind one lock, is never held over an await, and changes only through `commit`, which
//! writes the journal first. An operation reads what it needs; a row that is not in memory stops it with
//! [`Stop::Miss`], the row is fetched without the lock, and the operation starts again from the beginning:
//! so operations are plain functions that decide everything before they change anything.

use crate::cache::RowCache;
use crate::change::{Change, Record};
use crate::chunk::Chunk;
use crate::host::{Clock, HostDisk, HostFile};
use crate::journal::Journal;
use crate::key::{CHUNK_BLOCKS, Key};
use crate::log::outbox::Outbox;
use crate::lookups::Lookups;
use crate::neighbours::Misses;
use crate::remote::copies::{Copies, became_pack};
use crate::row::{Orphan, Row, Segment, Super, weight};
use crate::segment::{SegmentFiles, write_blocks};
use crate::synced::Synced;
use crate::types::{BLOCK, FsError, FsResult, Ino, Time};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Contents of one block.
pub(crate) type Page = Arc<[u8]>;

/// Why an operation stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// This row is not in memory.
    Miss(Key),
    Fs(FsError),
}

impl From<FsError> for Stop {
    fn from(e: FsError) -> Self {
        Stop::Fs(e)
    }
}

pub(crate) type Step<T> = Result<T, Stop>;

/// What blocks held before the patches of a record, where they had none pending.
pub(crate) type Bases = HashMap<(Ino, u64), Page>;

/// Answers of requests that may come again, at most.
const ANSWERS: usize = 4096;

/// Small writes held in memory before they go to a segment.
const DIRTY_BLOCKS: usize = 2048;

/// The segment that is being filled.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) segment: u64,
    pub(crate) file: Arc<dyn HostFile>,
    pub(crate) next: u32,
}

/// Blocks of a segment that one write may fill. Must be given back to `unpin`.
#[derive(Debug, Clone)]
pub(crate) struct Reserved {
    pub(crate) segment: u64,
    pub(crate) at: u32,
    pub(crate) blocks: u32,
    pub(crate) file: Arc<dyn HostFile>,
}

/// A segment that lost its row, because nothing refers to it. Its file on the host, which may be gone already, and its pack go once
/// a fold has made that durable: until then a recovery reads what was there before it died, so that has to be durable like the records
/// that say it.
#[derive(Debug)]
pub(crate) struct Dead {
    pub(crate) number: u64,
    pub(crate) id: [u8; 16],
    pub(crate) packed: bool,
}

impl Dead {
    pub(crate) fn new(number: u64, row: &Segment) -> Dead {
        Dead { number, id: row.id, packed: row.pack.is_some() }
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) journal: Journal,
    pub(crate) files: SegmentFiles,
    /// Rows changed since the last fold began.
    pub(crate) overlay: BTreeMap<Key, Option<Row>>,
    pub(crate) overlay_weight: usize,
    /// Rows of the fold that is under way.
    pub(crate) folding: Option<Arc<BTreeMap<Key, Option<Row>>>>,
    /// The namespace at rest has no row of an inode from this number on: all that there is of those is in memory.
    pub(crate) stored_below: Ino,
    /// The last record that the namespace at rest has.
    pub(crate) folded_upto: u64,
    /// Counts finished folds: a row fetched before one ended may be older than what it folded.
    pub(crate) folds: u64,
    pub(crate) clean: RowCache,
    pub(crate) misses: Misses,
    pub(crate) sb: Super,
    /// Every segment's row, always in memory.
    pub(crate) segments: HashMap<u64, Segment>,
    /// How many of them are no pack.
    pub(crate) unpacked: u64,
    /// Segments that lost their rows, until the fold that follows has come to its end.
    pub(crate) dead: Vec<Dead>,
    /// What of the segments is on this host.
    pub(crate) copies: Copies,
    pub(crate) current: Option<Current>,
    /// Segments with reservations in flight.
    pub(crate) pins: HashMap<u64, u32>,
    /// Segments with blocks that no sync has covered.
    pub(crate) unsynced: HashSet<u64>,
    pub(crate) segment_dir_unsynced: bool,
    /// Blocks whose newest bytes are in the journal only.
    pub(crate) dirty: BTreeMap<(Ino, u64), Page>,
    /// They are being moved to a segment.
    pub(crate) flushing: bool,
    /// Files that were synced of late.
    pub(crate) synced: Synced,
    pub(crate) lookups: Lookups,
    /// Inodes that have no name any more and are still there.
    pub(crate) orphans: HashSet<Ino>,
    /// Inodes that an earlier worker told the kernel of are below this number; their counts are not known.
    pub(crate) inherited_below: Ino,
    pub(crate) answers: HashMap<u64, u64>,
    pub(crate) answer_order: VecDeque<u64>,
    /// What the store's log does not have yet, on a volume that has one.
    pub(crate) outbox: Option<Outbox>,
    /// Told when a segment is full, if somebody wants to know.
    pub(crate) full: Option<Arc<tokio::sync::Notify>>,
    /// Whether a change counts as safe only once the store has it.
    pub(crate) safe_in_store: bool,
    /// Blocks after which a segment is full.
    pub(crate) segment_blocks: u32,
    pub(crate) quota_blocks: Option<u64>,
    /// Data bytes written since the host's free space was looked at, and what was free then.
    pub(crate) written_since_look: u64,
    pub(crate) host_free: u64,
    pub(crate) host_total: u64,
    /// Bytes of the namespace's tables, where they are on the host's disk.
    pub(crate) weight: u64,
    /// When it was looked at.
    pub(crate) looked: Option<Instant>,
    /// The host's file system gives nothing back of a part of a file.
    pub(crate) makes_no_holes: bool,
    /// When the background looks for garbage again.
    pub(crate) trim_later: Option<Instant>,
    /// Blocks that became garbage since the volume was opened, and how many there were when trimming gained nothing.
    pub(crate) died: u64,
    pub(crate) trimmed_in_vain: Option<u64>,
    /// Blocks of the disk that a segment took after it was trimmed, beside those that something referred to.
    pub(crate) trimmed: HashMap<u64, u64>,
    /// Power failed since some of what was recovered was written, so that it was checked, and is not known to be durable.
    pub(crate) may_be_torn: bool,
    /// Bytes not yet covered by a sync.
    pub(crate) unsynced_bytes: u64,
    /// Why nothing can be changed any more, until the volume is opened again.
    pub(crate) broken: Option<String>,
    pub(crate) closed: bool,
    pub(crate) hash_key: [u8; 32],
    pub(crate) disk: Arc<dyn HostDisk>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Maps an error of the host's disk.
pub(crate) fn host_error(what: &str, e: &std::io::Error) -> FsError {
    match e.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => FsError::NoSpace,
        _ => FsError::Io(format!("{what}: {e}")),
    }
}

impl State {
    /// The row, if memory knows whether it exists.
    pub(crate) fn row(&mut self, key: Key) -> Step<Option<Row>> {
        if let Some(row) = self.overlay.get(&key) {
            return Ok(row.clone());
        }
        if let Some(row) = self.folding.as_ref().and_then(|f| f.get(&key)) {
            return Ok(row.clone());
        }
        if self.is_new(key) {
            return Ok(None);
        }
        self.clean.get(&key).ok_or(Stop::Miss(key))
    }

    /// Whether a row is of an inode that was made since the last fold began, so that the namespace at rest cannot have it:
    /// numbers only grow and none is given twice.
    pub(crate) fn is_new(&self, key: Key) -> bool {
        key.ino().is_some_and(|ino| ino >= self.stored_below)
    }

    pub(crate) fn chunk(&mut self, ino: Ino, chunk: u64) -> Step<Arc<Chunk>> {
        match self.row(Key::Chunk(ino, chunk))? {
            Some(Row::Chunk(c)) => Ok(c),
            None => Ok(Arc::default()),
            Some(_) => Err(FsError::Corrupt(format!("row of chunk {chunk} of inode {ino}")).into()),
        }
    }

    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    /// Fails if an error has ended all changes: what was acknowledged before may not be durable any more.
    pub(crate) fn unbroken(&self) -> FsResult<()> {
        self.broken.as_ref().map_or(Ok(()), |why| Err(FsError::Io(why.clone())))
    }

    /// Fails if nothing may be changed.
    pub(crate) fn writable(&self) -> FsResult<()> {
        if let Some(why) = &self.broken {
            return Err(FsError::Io(format!("the volume was closed for writing after an error: {why}")));
        }
        if self.closed {
            return Err(FsError::Io("the volume is closed".to_owned()));
        }
        Ok(())
    }

    /// Takes in a row as it was read from the namespace at rest, unless memory has one: that is as new or newer. A reading may
    /// be so slow that the row was changed and folded meanwhile.
    pub(crate) fn learn(&mut self, key: Key, row: Option<Row>) {
        let is_newer_here = self.overlay.contains_key(&key) || self.folding.as_ref().is_some_and(|f| f.contains_key(&key));
        if !is_newer_here && self.clean.get(&key).is_none() {
            self.clean.put(key, row);
        }
    }

    /// Stops all changes: what follows on disk is not known any more.
    pub(crate) fn break_down(&mut self, why: String) {
        tracing::error!(%why, "the volume takes no more changes until it is opened again");
        self.broken.get_or_insert(why);
    }

    /// Writes a record to the journal, then applies it. `bases` are the contents, before the record's patches,
    /// of the blocks that are patched and were not pending yet.
    pub(crate) fn commit(&mut self, record: Record, bases: &Bases) -> FsResult<u64> {
        let seq = self.record(record, bases)?;
        if self.dirty.len() > DIRTY_BLOCKS
            && !self.flushing
            && let Err(e) = self.flush_dirty()
        {
            // The record itself is in the journal and counts; what is pending stays in memory meanwhile.
            tracing::warn!(error = %e, pending = self.dirty.len(), "small writes could not be moved to a segment yet");
        }
        Ok(seq)
    }

    /// The same, whatever is pending: that goes to a segment, and to open one takes a record itself.
    fn record(&mut self, record: Record, bases: &Bases) -> FsResult<u64> {
        self.writable()?;
        let outbox = &mut self.outbox;
        let sent = |seq: u64, frame: &[u8]| {
            if let Some(outbox) = outbox {
                outbox.push(seq, frame, &record);
            }
        };
        let before = self.journal.len();
        let seq = self.journal.append(&record, sent).map_err(|e| host_error("writing the journal", &e))?;
        self.written_since_look += self.journal.len() - before;
        if record.request != 0 {
            self.remember(record.request, record.answer);
        }
        for change in record.changes {
            self.apply(change, bases)?;
        }
        Ok(seq)
    }

    pub(crate) fn remember(&mut self, request: u64, answer: u64) {
        if self.answers.insert(request, answer).is_none() {
            self.answer_order.push_back(request);
        }
        while self.answers.len() > ANSWERS {
            if let Some(old) = self.answer_order.pop_front() {
                self.answers.remove(&old);
            }
        }
    }

    fn put_overlay(&mut self, key: Key, row: Option<Row>) {
        self.clean.remove(&key);
        self.overlay_weight += weight(row.as_ref());
        if let Some(before) = self.overlay.insert(key, row) {
            self.overlay_weight = self.overlay_weight.saturating_sub(weight(before.as_ref()));
        }
    }

    /// Applies one change to memory. Chunk rows that it maps must be in memory.
    pub(crate) fn apply(&mut self, change: Change, bases: &Bases) -> FsResult<()> {
        match change {
            Change::Put(key, row) => {
                match (&key, &row) {
                    (Key::Super, Row::Super(s)) => self.sb = s.clone(),
                    (Key::Segment(n), Row::Segment(s)) => {
                        if let Some(pack) = became_pack(self.segments.get(n), &row) {
                            self.copies.packed(*n, self.journal.seq(), &pack);
                        }
                        let before = self.segments.insert(*n, s.clone());
                        self.count_segment(before.as_ref(), Some(s));
                    }
                    (Key::Orphan(ino), Row::Orphan(Orphan::Unlinked)) => {
                        self.orphans.insert(*ino);
                    }
                    _ => {}
                }
                self.put_overlay(key, Some(row));
            }
            Change::Delete(key) => {
                match key {
                    Key::Segment(n) => {
                        let before = self.segments.remove(&n);
                        self.count_segment(before.as_ref(), None);
                        self.copies.dropped(n);
                    }
                    Key::Orphan(ino) => {
                        self.orphans.remove(&ino);
                    }
                    _ => {}
                }
                self.put_overlay(key, None);
            }
            Change::Map { ino, chunk, run } => {
                let first = chunk * CHUNK_BLOCKS + u64::from(run.start);
                self.drop_dirty(ino, first, first + u64::from(run.len));
                if run.segment != 0 {
                    self.unsynced.insert(run.segment);
                    self.unsynced_bytes += u64::from(run.len) * BLOCK;
                }
                self.change_chunk(ino, chunk, |c| {
                    c.set(run);
                })?;
            }
            Change::Unmap { ino, chunk, from, to } => {
                let base = chunk * CHUNK_BLOCKS;
                self.drop_dirty(ino, base + u64::from(from), base + u64::from(to));
                self.change_chunk(ino, chunk, |c| {
                    c.clear(from, to);
                })?;
            }
            Change::Patch { ino, block, offset, bytes } => {
                let at = (ino, block);
                if !self.dirty.contains_key(&at)
                    && let Some(base) = bases.get(&at)
                {
                    self.dirty.insert(at, base.clone());
                }
                let page = self
                    .dirty
                    .get_mut(&at)
                    .ok_or_else(|| FsError::Corrupt(format!("a small write to block {block} of inode {ino} has no base")))?;
                let mut whole = page.to_vec();
                let offset = usize::from(offset);
                whole[offset..offset + bytes.len()].copy_from_slice(&bytes);
                *page = whole.into();
                self.unsynced_bytes += bytes.len() as u64;
            }
        }
        Ok(())
    }

    fn change_chunk(&mut self, ino: Ino, chunk: u64, f: impl FnOnce(&mut Chunk)) -> FsResult<()> {
        let key = Key::Chunk(ino, chunk);
        // Taken out of the overlay, so that it is changed in place and not copied.
        let before = match self.overlay.get_mut(&key) {
            Some(Some(Row::Chunk(c))) => {
                let c = Arc::make_mut(c);
                let weight = c.weight();
                f(c);
                let after = c.weight();
                let empty = c.is_empty();
                self.overlay_weight = (self.overlay_weight + after).saturating_sub(weight);
                if empty {
                    self.put_overlay(key, None);
                }
                return Ok(());
            }
            _ => self.chunk(ino, chunk),
        };
        let mut c = match before {
            Ok(c) => c,
            Err(Stop::Fs(e)) => return Err(e),
            Err(Stop::Miss(_)) => {
                self.break_down(format!("chunk {chunk} of inode {ino} was changed without being read"));
                return Err(FsError::Io("a chunk was changed without being read".to_owned()));
            }
        };
        f(Arc::make_mut(&mut c));
        let row = if c.is_empty() { None } else { Some(Row::Chunk(c)) };
        self.put_overlay(key, row);
        Ok(())
    }

    /// Forgets pending small writes in these blocks.
    fn drop_dirty(&mut self, ino: Ino, from: u64, to: u64) {
        let gone: Vec<_> = self.dirty.range((ino, from)..(ino, to)).map(|(k, _)| *k).collect();
        for k in gone {
            self.dirty.remove(&k);
        }
    }

    /// Makes sure that a chunk's row is in the overlay, so that it stays in memory until the next fold.
    pub(crate) fn hold_chunk(&mut self, ino: Ino, chunk: u64) -> Step<()> {
        let key = Key::Chunk(ino, chunk);
        if !self.overlay.contains_key(&key) {
            let row = self.row(key)?;
            self.put_overlay(key, row);
        }
        Ok(())
    }

    /// Sets blocks aside in the segment that is being filled, opening new ones as needed.
    pub(crate) fn reserve(&mut self, mut blocks: u32) -> FsResult<Vec<Reserved>> {
        self.writable()?;
        let mut out = Vec::with_capacity(1);
        while blocks > 0 {
            let full = self.current.as_ref().is_none_or(|c| c.next >= self.segment_blocks);
            if full && let Err(e) = self.new_segment() {
                self.unpin(&out);
                return Err(e);
            }
            let current = self.current.as_mut().expect("a segment was just opened if there was none");
            let n = blocks.min(self.segment_blocks - current.next);
            out.push(Reserved { segment: current.segment, at: current.next, blocks: n, file: current.file.clone() });
            current.next += n;
            *self.pins.entry(current.segment).or_default() += 1;
            blocks -= n;
        }
        Ok(out)
    }

    fn new_segment(&mut self) -> FsResult<()> {
        if let Some(full) = &self.full {
            full.notify_one();
        }
        let number = self.sb.next_segment;
        let id: [u8; 16] = rand::random();
        let file = self.files.create(number, &id).map_err(|e| host_error("creating a segment", &e))?;
        self.copies.made(number);
        self.segment_dir_unsynced = true;
        let sb = Super { next_segment: number + 1, ..self.sb.clone() };
        let changes = vec![
            Change::Put(Key::Super, Row::Super(sb)),
            Change::Put(Key::Segment(number), Row::Segment(Segment { id, live: 0, pack: None })),
        ];
        self.record(Record { changes, ..Record::default() }, &Bases::new())?;
        self.current = Some(Current { segment: number, file, next: 0 });
        Ok(())
    }

    /// Gives reservations back, whether they were used or not.
    pub(crate) fn unpin(&mut self, reserved: &[Reserved]) {
        for r in reserved {
            if let Some(n) = self.pins.get_mut(&r.segment) {
                *n -= 1;
                if *n == 0 {
                    self.pins.remove(&r.segment);
                }
            }
        }
    }

    /// Moves pending small writes to a segment: afterwards every block's newest bytes are in a segment.
    pub(crate) fn flush_dirty(&mut self) -> FsResult<()> {
        self.flushing = true;
        let done = self.flush_all();
        self.flushing = false;
        done
    }

    fn flush_all(&mut self) -> FsResult<()> {
        while !self.dirty.is_empty() {
            let pages: Vec<((Ino, u64), Page)> = self.dirty.iter().take(256).map(|(k, p)| (*k, p.clone())).collect();
            let reserved = self.reserve(pages.len() as u32)?;
            let done = self.flush_pages(&pages, &reserved);
            self.unpin(&reserved);
            done?;
        }
        Ok(())
    }

    fn flush_pages(&mut self, pages: &[((Ino, u64), Page)], reserved: &[Reserved]) -> FsResult<()> {
        let mut tx = crate::tx::Tx::new(self);
        let mut rest = pages;
        for r in reserved {
            let (mine, more) = rest.split_at(r.blocks as usize);
            rest = more;
            let bytes = mine.iter().map(|(_, page)| &**page).collect::<Vec<_>>().concat();
            let crcs = write_blocks(&*r.file, r.at, &bytes).map_err(|e| host_error("writing a segment", &e))?;
            for (i, ((ino, block), _)) in mine.iter().enumerate() {
                let run = crate::chunk::Run {
                    start: (block % CHUNK_BLOCKS) as u16,
                    len: 1,
                    segment: r.segment,
                    at: r.at + i as u32,
                    crcs: vec![crcs[i]],
                };
                match tx.map(*ino, block / CHUNK_BLOCKS, run) {
                    Ok(_) => {}
                    Err(Stop::Fs(e)) => return Err(e),
                    Err(Stop::Miss(key)) => return Err(FsError::Io(format!("{key:?} of a pending write left memory"))),
                }
            }
        }
        tx.commit().map(|_| ())
    }

    /// Refuses data when the host's disk is about to be full, so that names can still be changed and removed. Data that was
    /// `gathered` may use a half of what is kept for that: somebody was told already that it is written.
    pub(crate) fn room_for(&mut self, bytes: u64, gathered: bool) -> FsResult<()> {
        self.room_beside(bytes, |st| st.owed() + if gathered { st.floor() / 2 } else { st.kept() })
    }

    /// The same for names and attributes, which may use a little more than gathered data: the rest is for removing them, and for the folds
    /// that give room back then.
    pub(crate) fn room_for_names(&mut self, bytes: u64) -> FsResult<()> {
        self.room_beside(bytes, |st| st.owed() + st.floor() / 8 * 3 + st.merging())
    }

    /// Whether the host's disk has no more free than what is kept from data: by what it had when it was looked at, and what was written
    /// since, removals included.
    pub(crate) fn is_scarce(&self) -> bool {
        self.host_total > 0 && self.host_free < self.kept() + self.owed() + self.written_since_look
    }

    /// The same for data that moves: it gives back more than it takes, and is wanted most when room is short. But only a fold gives it
    /// back, which needs room itself.
    pub(crate) fn room_to_move(&mut self, bytes: u64) -> FsResult<()> {
        self.room_beside(bytes, State::last_room)
    }

    /// Counts bytes that are about to be written, and refuses them if less than what is kept would be left.
    fn room_beside(&mut self, bytes: u64, kept: impl Fn(&State) -> u64) -> FsResult<()> {
        const LOOK_EVERY: u64 = 8 << 20;
        self.written_since_look += bytes;
        if self.host_total == 0 || self.written_since_look > LOOK_EVERY || self.host_free < self.kept() + 4 * LOOK_EVERY {
            self.look()?;
            self.written_since_look = bytes;
        }
        if self.host_free < self.written_since_look + kept(self) { Err(FsError::NoSpace) } else { Ok(()) }
    }

    /// Bytes that no data takes, not even to give back more: a fold of what there is needs them.
    pub(crate) fn last_room(&self) -> u64 {
        self.floor() / 4 + self.owed()
    }

    /// Bytes that will need room on the host's disk once more: what is only in the journal, and rows that are not folded.
    pub(crate) fn owed(&self) -> u64 {
        self.dirty.len() as u64 * BLOCK + self.overlay_weight as u64
    }

    /// Looks how much of the host's disk is free.
    pub(crate) fn look(&mut self) -> FsResult<()> {
        let (total, free) = self.disk.space(self.files.dir()).map_err(|e| host_error("asking for free space", &e))?;
        self.host_total = total;
        self.host_free = free;
        self.written_since_look = 0;
        self.looked = Some(Instant::now());
        Ok(())
    }

    /// The same, if it is a while since: others use the disk too.
    pub(crate) fn look_at_times(&mut self) -> FsResult<()> {
        const A_WHILE: Duration = Duration::from_secs(1);
        if self.looked.is_none_or(|at| at.elapsed() >= A_WHILE) { self.look() } else { Ok(()) }
    }

    /// The file of a segment that a row refers to. That it has none, or that it is gone, is damage.
    pub(crate) fn segment_file(&mut self, number: u64) -> FsResult<Arc<dyn HostFile>> {
        let id = self.segments.get(&number).map(|s| s.id);
        let id = id.ok_or_else(|| FsError::Corrupt(format!("segment {number:016x} has no row")))?;
        self.files.get(number, &id).map_err(|e| crate::segment::open_error(number, &e))
    }

    /// Blocks of segments that nothing refers to: the next fold gives them back to the host.
    pub(crate) fn dead_blocks(&self) -> u64 {
        let current = self.current.as_ref().filter(|c| c.next == 0).map(|c| c.segment);
        let dead = self.segments.iter().filter(|(n, s)| s.live == 0 && Some(**n) != current && !self.pins.contains_key(n));
        let filling = self.current.as_ref().map_or((0, 0), |c| (c.segment, u64::from(c.next)));
        let of = |n: u64| if n == filling.0 { filling.1 } else { u64::from(self.segment_blocks) };
        dead.map(|(n, _)| of(*n)).chain(self.dead.iter().map(|d| of(d.number))).sum()
    }

    /// Bytes acknowledged and not yet safe in the volume's durability class.
    pub(crate) fn not_yet_safe(&self) -> u64 {
        match &self.outbox {
            Some(outbox) if self.safe_in_store => outbox.unsent(),
            _ => self.unsynced_bytes,
        }
    }

    /// Blocks that a segment has or will have.
    pub(crate) fn blocks_of(&self, segment: &Segment) -> u64 {
        u64::from(segment.pack.map_or(self.segment_blocks, |p| p.blocks))
    }

    /// Bytes of segments that are only on this host, on a volume whose home is the store.
    pub(crate) fn unpacked_bytes(&self) -> u64 {
        self.unpacked * u64::from(self.segment_blocks) * BLOCK
    }

    fn count_segment(&mut self, before: Option<&Segment>, now: Option<&Segment>) {
        let live = |s: Option<&Segment>| s.map_or(0, |s| s.live);
        self.died += live(before).saturating_sub(live(now));
        let only_here = |s: Option<&Segment>| u64::from(s.is_some_and(|s| s.pack.is_none()));
        self.unpacked = self.unpacked + only_here(now) - only_here(before);
    }

    /// Free bytes of the host that are kept for removing and for folds: see [`floor_of`].
    pub(crate) fn floor(&self) -> u64 {
        floor_of(self.host_total)
    }

    /// Free bytes of the host that are kept for merges of the namespace, which give back what was removed: as much as all of it
    /// takes, up to an eighth of the disk.
    pub(crate) fn merging(&self) -> u64 {
        self.weight.min(self.host_total / 8)
    }

    /// Free bytes of the host that data may not take.
    pub(crate) fn kept(&self) -> u64 {
        self.floor() + self.merging()
    }

    /// Free bytes of the host that are kept for what a kernel which gathers writes has taken and not sent: 128 MiB, or a tenth of a
    /// small disk. A byte may take twice its room: in the journal first, then in a segment.
    pub(crate) fn gathered(&self) -> u64 {
        (128 << 20).min(self.host_total / 10)
    }
}

/// What is kept of a disk of this host: 64 MiB, or a twentieth of a small one.
pub(crate) fn floor_of(total: u64) -> u64 {
    (64 << 20).min(total / 20)
}
