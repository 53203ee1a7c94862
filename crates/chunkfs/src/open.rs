//! Formatting and opening a volume: the header object, the host's folders, and recovery from the journal.
//!
//! Recovery applies the records above the namespace's number, in order. Records that no marker covers and that
//! a power failure may have torn are checked, with the data they name, and the log is cut before the first
//! that fails: nothing after it was ever acknowledged as durable. A break below a marker is damage: refused.

use crate::cache::RowCache;
use crate::change::Change;
use crate::fs::{FileSystem, Parts};
use crate::host::{Clock, HostDisk, HostFile, RealDisk, SystemClock};
use crate::journal::{Found, FoundFile, Journal, Scan, ScanError, scan};
use crate::key::{CHUNK_BLOCKS, Key};
use crate::namespace::Namespace;
use crate::row::{Inode, Row, Segment, Super};
use crate::segment::{SegmentFiles, open_error, parse_name, read_run};
use crate::state::{Bases, Page, State, Stop};
use crate::types::{BLOCK, FileKind, FsError, FsResult, ROOT_INO};
use bytes::Bytes;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use orlop_model::{Compression, Durability, Error, ErrorKind, OutagePolicy, Result, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The format that this version writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// How a volume is opened.
#[derive(Debug, Clone)]
pub struct OpenConfig {
    /// Which volume.
    pub volume: VolumeId,
    /// Where its objects are.
    pub store: Arc<dyn ObjectStore>,
    /// Its path below the store's root.
    pub prefix: String,
    /// The host's folder for its journal and staged segments.
    pub state_dir: PathBuf,
    /// Most bytes that its files may take.
    pub quota_bytes: Option<u64>,
    /// Owner of a fresh root folder.
    pub root_uid: u32,
    /// Group of a fresh root folder.
    pub root_gid: u32,
    /// Permission bits of a fresh root folder.
    pub root_mode: u32,
    /// No kernel holds inodes from an earlier worker: unlinked files can go.
    pub fresh_kernel: bool,
    /// The host's disk.
    pub host: Arc<dyn HostDisk>,
    /// The host's clock.
    pub clock: Arc<dyn Clock>,
    /// Bytes of memory for rows read from the namespace.
    pub cache_bytes: usize,
    /// Set for a volume whose home is the store and not this host: its log and its data are sent there.
    pub remote: Option<Remote>,
}

/// How a volume whose home is the store is kept there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// What an fsync waits for.
    pub durability: Durability,
    /// What a request does while the store is away.
    pub outage: OutagePolicy,
    /// How long it does nothing but wait, under the policies `fail` and `readonly`.
    pub outage_deadline: Duration,
    /// How long after its last sign of life a writer still counts as alive.
    pub lease: Duration,
    /// Under durability `local`: how old an unsent change may get.
    pub ship_every: Duration,
    /// Who this writer is, for the messages of those whom it keeps out.
    pub holder: String,
    /// Bytes of the host's disk for copies of what the store has.
    pub cache_bytes: u64,
    /// Bytes of the host's disk for what the store does not have yet; writers wait above it.
    pub staged_bytes: u64,
    /// How packs are compressed.
    pub compression: Compression,
    /// Gives up what another host acknowledged under durability `local` and never sent.
    pub abandon_unsynced: bool,
}

impl Default for Remote {
    fn default() -> Self {
        Remote {
            durability: Durability::Remote,
            outage: OutagePolicy::Wait,
            outage_deadline: Duration::from_secs(30),
            lease: Duration::from_secs(30),
            ship_every: Duration::from_secs(10),
            holder: String::new(),
            cache_bytes: 4 << 30,
            staged_bytes: 4 << 30,
            compression: Compression::None,
            abandon_unsynced: false,
        }
    }
}

impl OpenConfig {
    /// A volume on the host's real disk, with defaults.
    pub fn new(volume: VolumeId, store: Arc<dyn ObjectStore>, prefix: impl Into<String>, state_dir: impl Into<PathBuf>) -> Self {
        OpenConfig {
            volume,
            store,
            prefix: prefix.into(),
            state_dir: state_dir.into(),
            quota_bytes: None,
            root_uid: 0,
            root_gid: 0,
            root_mode: 0o755,
            fresh_kernel: true,
            host: Arc::new(RealDisk),
            clock: Arc::new(SystemClock),
            cache_bytes: 48 << 20,
            remote: None,
        }
    }
}

/// The object `volume.json`: written once, tells what the prefix holds before anything else is read.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    volume: VolumeId,
}

fn header_path(prefix: &str) -> StorePath {
    StorePath::from(format!("{prefix}/volume.json"))
}

/// Lays a new volume in the store; succeeds if it is there already.
pub async fn format_volume(store: &Arc<dyn ObjectStore>, prefix: &str, volume: VolumeId) -> Result<()> {
    let bytes = serde_json::to_vec(&Header { format: FORMAT, volume }).expect("a plain struct is JSON");
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(&header_path(prefix), bytes.into(), options).await {
        Ok(_) => Ok(()),
        Err(object_store::Error::AlreadyExists { .. }) => check_header(store, prefix, volume).await,
        Err(e) => Err(Error::unavailable(format!("the store does not take the header of volume {volume}: {e}"))
            .with_remedy("see whether the store's folder is writable and not full")),
    }
}

async fn check_header(store: &Arc<dyn ObjectStore>, prefix: &str, volume: VolumeId) -> Result<()> {
    let path = header_path(prefix);
    let corrupt = |why: String| {
        Error::new(ErrorKind::Corrupt, format!("{path}: {why}"))
            .with_remedy("the folder of the volume was damaged or is not Orlop's; restore it from a copy")
    };
    let bytes = match store.get(&path).await {
        Ok(r) => r.bytes().await.map_err(|e| Error::unavailable(format!("{path}: {e}")))?,
        Err(object_store::Error::NotFound { .. }) => {
            return Err(Error::not_found(format!("the store holds no volume at {prefix}"))
                .with_remedy("see whether the store is the one it was made on, and mounted"));
        }
        Err(e) => return Err(Error::unavailable(format!("{path}: {e}"))),
    };
    // The format's number is read first and alone: a newer header may hold anything else.
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| corrupt(e.to_string()))?;
    let format = value.get("format").and_then(serde_json::Value::as_u64).ok_or_else(|| corrupt("no format number".to_owned()))?;
    if format > u64::from(FORMAT) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("volume {volume} is of format {format}; this version reads up to {FORMAT}"),
        )
        .with_remedy("open it with a newer version of Orlop; nothing was changed"));
    }
    let header: Header = serde_json::from_value(value).map_err(|e| corrupt(e.to_string()))?;
    if header.volume != volume {
        return Err(corrupt(format!("it is the header of volume {}, not of {volume}", header.volume)));
    }
    Ok(())
}

fn model_error(what: &str, e: FsError) -> Error {
    let kind = match e {
        FsError::Corrupt(_) => ErrorKind::Corrupt,
        FsError::NoSpace | FsError::Quota => ErrorKind::NoSpace,
        FsError::Fenced(_) => ErrorKind::Busy,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{what}: {e}"))
}

impl FileSystem {
    /// Opens a volume for writing, recovering what a crash left.
    pub async fn open(config: OpenConfig) -> Result<Arc<FileSystem>> {
        check_header(&config.store, &config.prefix, config.volume).await?;
        let disk = config.host.clone();
        let (journal_dir, segment_dir) = (config.state_dir.join("journal"), config.state_dir.join("staged"));
        for dir in [&journal_dir, &segment_dir] {
            disk.create_dir_all(dir).map_err(|e| Error::io(dir.display(), &e))?;
        }
        disk.sync_dir(&config.state_dir).map_err(|e| Error::io(config.state_dir.display(), &e))?;
        let host_lock = disk.lock(&config.state_dir.join("lock")).map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => {
                Error::new(ErrorKind::Busy, format!("volume {} is open in another process of this host", config.volume))
                    .with_remedy("orlop status")
            }
            _ => Error::io(config.state_dir.join("lock").display(), &e),
        })?;
        let ns = Namespace::open(config.store.clone(), format!("{}/meta", config.prefix))
            .await
            .map_err(|e| model_error("opening the namespace", e))?;
        match Recovery::run(&config, ns, journal_dir, segment_dir).await {
            Ok((ns, state)) => {
                let state_dir = config.state_dir.clone();
                let parts = Parts { volume: config.volume, ns, state, disk, state_dir, host_lock };
                let fs = Arc::new(FileSystem::new(parts));
                fs.first_start(&config).await.map_err(|e| model_error("opening the volume", e))?;
                fs.start_background();
                Ok(fs)
            }
            Err((ns, e)) => {
                ns.abandon().await;
                Err(e)
            }
        }
    }

    /// Makes the root folder of a fresh volume, and finishes what was left half-way.
    async fn first_start(self: &Arc<Self>, config: &OpenConfig) -> FsResult<()> {
        self.run(|st| {
            let mut tx = crate::tx::Tx::new(st);
            if tx.row(Key::Inode(ROOT_INO))?.is_some() {
                return Ok(());
            }
            let (now, root) = (tx.now, tx.new_ino());
            debug_assert_eq!(root, ROOT_INO);
            tx.put_inode(
                root,
                Inode {
                    kind: FileKind::Directory,
                    perm: config.root_mode & 0o7777,
                    nlink: 2,
                    uid: config.root_uid,
                    gid: config.root_gid,
                    rdev: 0,
                    size: 0,
                    blocks: 0,
                    extent_end: 0,
                    atime: now,
                    mtime: now,
                    ctime: now,
                    crtime: now,
                    parent: root,
                    has_xattrs: false,
                    target: Bytes::new(),
                },
            );
            tx.commit()?;
            Ok(())
        })
        .await?;
        self.write_anew().await?;
        self.reap_at_start(config.fresh_kernel).await?;
        // What was recovered is made durable before anything new depends on it.
        self.sync_all().await
    }
}

struct Recovery;

type Failed = (Namespace, Error);

impl Recovery {
    async fn run(config: &OpenConfig, ns: Namespace, journal_dir: PathBuf, segment_dir: PathBuf) -> Result<(Namespace, State), Failed> {
        match Self::try_run(config, &ns, journal_dir, segment_dir).await {
            Ok(state) => Ok((ns, state)),
            Err(e) => Err((ns, e)),
        }
    }

    async fn try_run(config: &OpenConfig, ns: &Namespace, journal_dir: PathBuf, segment_dir: PathBuf) -> Result<State> {
        let read = |e| model_error("reading the namespace", e);
        let applied = match ns.get(Key::Applied).await.map_err(read)? {
            Some(Row::Applied(seq)) => seq,
            _ => 0,
        };
        let sb = match ns.get(Key::Super).await.map_err(read)? {
            Some(Row::Super(s)) => s,
            _ => Super { next_ino: ROOT_INO, next_segment: 1, used_blocks: 0, inodes: 0 },
        };
        let mut segments: HashMap<u64, Segment> = HashMap::new();
        let mut from = Key::Segment(0);
        loop {
            let rows = ns.scan(from, Key::Orphan(0), 1024).await.map_err(read)?;
            let Some((last, _)) = rows.last() else { break };
            from = crate::fs::after(*last);
            for (key, row) in rows {
                if let (Key::Segment(n), Row::Segment(s)) = (key, row) {
                    segments.insert(n, s);
                }
            }
        }
        let volume = *config.volume.as_bytes();
        let found = scan(&*config.host, &journal_dir, volume).map_err(|e| scan_error(&e))?;
        let plan = Plan::make(&found, applied, &journal_dir)?;
        let (replay, finished, old_files) = plan.settle(&*config.host, found).map_err(|e| Error::io(journal_dir.display(), &e))?;
        let last_found = replay.iter().flat_map(|(_, r)| r).map(|r| r.seq).max().unwrap_or(0).max(applied);
        // The state needs a journal to be; the file it starts is for the record after the last good one.
        let hash_key = *blake3::hash(&volume).as_bytes();
        let mut shell = Shell { config, ns, volume, segment_dir, hash_key, sb, segments };
        shell.replay(replay, finished, old_files, journal_dir, applied, last_found).await
    }
}

fn scan_error(e: &ScanError) -> Error {
    match e {
        ScanError::Io { .. } => Error::unavailable(e.to_string()),
        ScanError::Foreign(_) => {
            Error::new(ErrorKind::Corrupt, e.to_string()).with_remedy("move the file away; it was not written for this volume")
        }
        ScanError::Newer(_) => {
            Error::new(ErrorKind::Unsupported, e.to_string()).with_remedy("open it with a newer version of Orlop; nothing was changed")
        }
    }
}

/// What of the journal counts.
struct Plan {
    /// The last record that may count: the numbers run without a gap up to it.
    last: u64,
    durable: u64,
}

impl Plan {
    fn make(found: &Scan, applied: u64, dir: &Path) -> Result<Plan> {
        let mut last = applied;
        for f in &found.files {
            if f.first > last + 1 {
                break;
            }
            last = last.max(f.records.last().map_or(f.first.saturating_sub(1), |r| r.seq));
        }
        if last < found.durable {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "the journal in {} is damaged after record {last}: records up to {} were made durable",
                    dir.display(),
                    found.durable
                ),
            )
            .with_remedy("restore the folder from a copy; nothing was changed"));
        }
        Ok(Plan { last, durable: found.durable })
    }

    /// Moves aside what does not count and returns per file what does.
    #[allow(clippy::type_complexity)]
    fn settle(
        &self,
        disk: &dyn HostDisk,
        found: Scan,
    ) -> std::io::Result<(Vec<(FileInfo, Vec<Found>)>, Vec<(u64, u64, PathBuf)>, Vec<Arc<dyn HostFile>>)> {
        let mut replay = Vec::new();
        let mut finished = Vec::new();
        let mut files = Vec::new();
        for path in found.headless {
            aside(disk, &path)?;
        }
        let durable = self.durable;
        for f in found.files {
            let FoundFile { path, file, first, records, same_boot, .. } = f;
            if first > self.last + 1 || (first == self.last + 1 && !records.is_empty()) {
                aside(disk, &path)?;
                continue;
            }
            let last = records.last().map_or(first - 1, |r| r.seq);
            if records.is_empty() {
                // It holds no record; its name is wanted for the next file.
                disk.remove(&path)?;
                continue;
            }
            finished.push((first, last, path.clone()));
            files.push(file.clone());
            replay.push((FileInfo { path, file, checked: same_boot, durable }, records));
        }
        Ok((replay, finished, files))
    }
}

struct FileInfo {
    path: PathBuf,
    file: Arc<dyn HostFile>,
    /// Nothing in it can be torn.
    checked: bool,
    durable: u64,
}

/// Keeps a file that no longer counts, under a name that is not read.
fn aside(disk: &dyn HostDisk, path: &Path) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".cut");
    tracing::warn!(path = %path.display(), "journal file does not follow the log; set aside as .cut");
    disk.rename(path, Path::new(&name))
}

struct Shell<'a> {
    config: &'a OpenConfig,
    ns: &'a Namespace,
    volume: [u8; 16],
    segment_dir: PathBuf,
    hash_key: [u8; 32],
    sb: Super,
    segments: HashMap<u64, Segment>,
}

impl Shell<'_> {
    async fn replay(
        &mut self,
        replay: Vec<(FileInfo, Vec<Found>)>,
        mut finished: Vec<(u64, u64, PathBuf)>,
        old_files: Vec<Arc<dyn HostFile>>,
        journal_dir: PathBuf,
        applied: u64,
        last_found: u64,
    ) -> Result<State> {
        let disk = self.config.host.clone();
        let mut log = Vec::new();
        let mut cut = None;
        let mut seq = applied;
        // First the records are put in order and checked as far as they can be without the state.
        for (info, records) in replay {
            for r in records {
                if r.seq <= applied {
                    continue;
                }
                log.push((r, info.checked, info.durable, info.path.clone(), info.file.clone()));
            }
        }
        let segment_files = SegmentFiles::new(disk.clone(), self.segment_dir.clone(), self.volume);
        // A journal that starts where nothing was found cannot collide with a file that is there.
        let journal = Journal::start(disk.clone(), journal_dir.clone(), self.volume, last_found, Vec::new())
            .map_err(|e| Error::io(journal_dir.display(), &e))?;
        let mut st = self.state(journal, segment_files);
        for (r, checked, durable, path, file) in log {
            let sure = checked || r.seq <= durable;
            match self.apply_one(&mut st, r.record, sure).await {
                Ok(()) => seq = r.seq,
                Err(FsError::Corrupt(why)) if !sure => {
                    tracing::warn!(record = r.seq, %why, "the log ends here: what follows was never made durable");
                    cut = Some((r.seq, r.offset, path, file));
                    break;
                }
                Err(e) => return Err(model_error(&format!("record {} of {}", r.seq, path.display()), e)),
            }
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
        self.stray_segments(&st).map_err(|e| Error::io(self.segment_dir.display(), &e))?;
        if self.config.fresh_kernel {
            st.answers.clear();
            st.answer_order.clear();
        } else {
            st.inherited_below = st.sb.next_ino;
        }
        Ok(st)
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

    fn state(&self, journal: Journal, files: SegmentFiles) -> State {
        State {
            journal,
            files,
            overlay: BTreeMap::new(),
            overlay_weight: 0,
            folding: None,
            folds: 0,
            clean: RowCache::new(self.config.cache_bytes),
            sb: self.sb.clone(),
            segments: self.segments.clone(),
            current: None,
            pins: HashMap::new(),
            unsynced: HashSet::new(),
            segment_dir_unsynced: true,
            dirty: BTreeMap::new(),
            lookups: HashMap::new(),
            orphans: HashSet::new(),
            inherited_below: 0,
            answers: HashMap::new(),
            answer_order: VecDeque::new(),
            quota_blocks: self.config.quota_bytes.map(|b| b / BLOCK),
            written_since_look: 0,
            host_free: 0,
            host_total: 0,
            unsynced_bytes: 0,
            broken: None,
            closed: false,
            hash_key: self.hash_key,
            disk: self.config.host.clone(),
            clock: self.config.clock.clone(),
        }
    }

    /// Applies one record. Unless it is sure to be whole, the data that it names is read and checked first.
    async fn apply_one(&mut self, st: &mut State, record: crate::change::Record, sure: bool) -> FsResult<()> {
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
                        let file = st.files.get(run.segment, &id).map_err(|e| open_error(run.segment, &e))?;
                        let mut buffer = vec![0; usize::from(run.len) * BLOCK as usize];
                        read_run(&*file, run, &mut buffer)?;
                    }
                }
                Change::Unmap { ino, chunk, .. } => self.load_chunk(st, *ino, *chunk).await?,
                Change::Patch { ino, block, .. } => {
                    self.load_chunk(st, *ino, block / CHUNK_BLOCKS).await?;
                    if !st.dirty.contains_key(&(*ino, *block)) {
                        bases.insert((*ino, *block), self.base(st, *ino, *block)?);
                    }
                }
                Change::Put(..) | Change::Delete(_) => {}
            }
        }
        if record.request != 0 {
            st.remember(record.request, record.answer);
        }
        for c in record.changes {
            st.apply(c, &bases)?;
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

    /// What a block held before a small write.
    fn base(&self, st: &mut State, ino: u64, block: u64) -> FsResult<Page> {
        let chunk = match st.chunk(ino, block / CHUNK_BLOCKS) {
            Ok(c) => c,
            Err(_) => return Err(FsError::Io("a chunk left memory during recovery".to_owned())),
        };
        let within = (block % CHUNK_BLOCKS) as u16;
        let mut page = vec![0; BLOCK as usize];
        if let Some(run) = chunk.at(within).filter(|r| r.segment != 0) {
            let run = run.part(within, within + 1);
            let file = st.segment_file(run.segment)?;
            read_run(&*file, &run, &mut page)?;
        }
        Ok(page.into())
    }

    /// Removes staged files that no row names: made just before a crash and never referred to.
    fn stray_segments(&self, st: &State) -> std::io::Result<()> {
        let disk = &*self.config.host;
        for name in disk.list(&self.segment_dir)? {
            let Some((number, id)) = parse_name(&name) else { continue };
            if st.segments.get(&number).is_none_or(|s| s.id != id) && self.segments.get(&number).is_none_or(|s| s.id != id) {
                tracing::info!(%name, "removing a staged segment that nothing refers to");
                disk.remove(&self.segment_dir.join(name))?;
            }
        }
        Ok(())
    }
}
