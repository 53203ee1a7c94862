//! Formatting and opening a volume: the header object, the host's folders, and recovery from the journal.
//!
//! Recovery applies the records above the namespace's number, in order. Records that no marker covers and that
//! a power failure may have torn are checked, with the data they name, and the log is cut before the first
//! that fails: nothing after it was ever acknowledged as durable. A break below a marker is damage: refused.

use crate::cache::RowCache;
use crate::change::{Change, Record};
use crate::fs::{FileSystem, Parts};
use crate::host::{Clock, HostDisk, HostFile, RealDisk, SystemClock};
use crate::journal::{Found, FoundFile, Journal, Scan, ScanError, encode_frame, scan};
use crate::key::{CHUNK_BLOCKS, Key};
use crate::log::Place;
use crate::log::chain::{self, Chain};
use crate::log::lease::Lease;
use crate::log::object::Extent;
use crate::log::outbox::Outbox;
use crate::log::patience::Patience;
use crate::log::ship::{LogEnd, Shipping};
use crate::namespace::Namespace;
use crate::remote::Packs;
use crate::remote::copies::{Copies, read_source};
use crate::row::{Inode, Pack, Row, Segment, Super};
use crate::segment::{PACK_BLOCKS, SEGMENT_BLOCKS, SegmentFiles, parse_name, write_blocks};
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

/// What is wrong with the bytes of the header, if anything.
pub(crate) fn inspect_header(bytes: &[u8], volume: VolumeId) -> Result<()> {
    let corrupt = |why: String| {
        Error::new(ErrorKind::Corrupt, why).with_remedy("the folder of the volume was damaged or is not Orlop's; restore it from a copy")
    };
    // The format's number is read first and alone: a newer header may hold anything else.
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))?;
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
    // There is one way to write it, so that no other byte goes unnoticed.
    if serde_json::to_vec(&header).expect("a plain struct is JSON") != bytes || header.format != FORMAT {
        return Err(corrupt("it is not as it was written".to_owned()));
    }
    Ok(())
}

pub(crate) async fn check_header(store: &Arc<dyn ObjectStore>, prefix: &str, volume: VolumeId) -> Result<()> {
    let path = header_path(prefix);
    let bytes = match store.get(&path).await {
        Ok(r) => r.bytes().await.map_err(|e| Error::unavailable(format!("{path}: {e}")))?,
        Err(object_store::Error::NotFound { .. }) => {
            return Err(Error::not_found(format!("the store holds no volume at {prefix}"))
                .with_remedy("see whether the store is the one it was made on, and mounted"));
        }
        Err(e) => return Err(Error::unavailable(format!("{path}: {e}"))),
    };
    inspect_header(&bytes, volume).map_err(|e| e.during(&path))
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
        let lease = match &config.remote {
            Some(remote) => Some(take_volume(&config, remote, &journal_dir).await?),
            None => None,
        };
        match Self::open_taken(&config, host_lock, lease.clone(), journal_dir, segment_dir).await {
            Ok(fs) => Ok(fs),
            Err(e) => {
                // Whoever tries next need not wait for a writer that never began.
                if let Some(lease) = lease
                    && let Err(e) = lease.give_back().await
                {
                    tracing::warn!(error = %e, "the volume could not be given back");
                }
                Err(e)
            }
        }
    }

    async fn open_taken(
        config: &OpenConfig,
        host_lock: Box<dyn Send + Sync>,
        lease: Option<Arc<Lease>>,
        journal_dir: PathBuf,
        segment_dir: PathBuf,
    ) -> Result<Arc<FileSystem>> {
        let disk = config.host.clone();
        let ns = Namespace::open(config.store.clone(), format!("{}/meta", config.prefix))
            .await
            .map_err(|e| model_error("opening the namespace", e))?;
        match Recovery::run(config, ns, lease.as_deref(), journal_dir, segment_dir).await {
            Ok((ns, state, log)) => {
                let state_dir = config.state_dir.clone();
                let shipping = match (&config.remote, lease, log) {
                    (Some(remote), Some(lease), Some(log)) => {
                        let patience = state.copies.packs.as_ref().map(|p| p.patience().clone());
                        Some(Shipping::new(config, remote.clone(), lease, log, patience))
                    }
                    _ => None,
                };
                let parts = Parts { volume: config.volume, ns, state, disk, state_dir, host_lock, shipping };
                let fs = Arc::new(FileSystem::new(parts));
                fs.start_shipping();
                fs.first_start(config).await.map_err(|e| model_error("opening the volume", e))?;
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

/// Takes a volume whose home is the store: its owner record first, so that nobody else is writing. What an earlier
/// writer of this host left is set aside if somebody else had the volume since.
async fn take_volume(config: &OpenConfig, remote: &Remote, journal_dir: &Path) -> Result<Arc<Lease>> {
    let disk = &*config.host;
    let holder = holder_id(disk, &config.state_dir).map_err(|e| Error::io(config.state_dir.display(), &e))?;
    let lease = Lease::acquire(config.store.clone(), &config.prefix, &holder, remote, |owner| {
        supersede(disk, journal_dir, owner.epoch).map_err(|e| Error::io(journal_dir.display(), &e))
    });
    Ok(Arc::new(lease.await?))
}

pub(crate) const HOLDER: &str = "holder";

/// The random id of a volume's folder on this host: who holds what lies in it.
fn holder_id(disk: &dyn HostDisk, state_dir: &Path) -> std::io::Result<String> {
    let path = state_dir.join(HOLDER);
    if disk.list(state_dir)?.iter().any(|n| n == HOLDER) {
        let mut bytes = [0u8; 64];
        let n = disk.open(&path)?.read_at(&mut bytes, 0)?;
        if let Ok(id) = std::str::from_utf8(&bytes[..n])
            && id.len() == 32
        {
            return Ok(id.to_owned());
        }
        // Torn at its creation: nothing was taken under it.
        disk.remove(&path)?;
    }
    let id = uuid::Uuid::new_v4().simple().to_string();
    let file = disk.create(&path)?;
    file.write_at(id.as_bytes(), 0)?;
    file.sync_data()?;
    disk.sync_dir(state_dir)?;
    Ok(id)
}

/// Sets the journal of an earlier writer aside: another host has written since, and its records would contradict.
fn supersede(disk: &dyn HostDisk, journal_dir: &Path, epoch: u64) -> std::io::Result<()> {
    for name in disk.list(journal_dir)? {
        if name.ends_with(".journal") {
            tracing::warn!(%name, "another host has written since: this journal no longer counts and is set aside");
            disk.rename(&journal_dir.join(&name), &journal_dir.join(format!("{name}.superseded-{epoch}")))?;
        }
    }
    disk.sync_dir(journal_dir)
}

struct Recovery;

type Failed = (Namespace, Error);

impl Recovery {
    async fn run(
        config: &OpenConfig,
        ns: Namespace,
        lease: Option<&Lease>,
        journal_dir: PathBuf,
        segment_dir: PathBuf,
    ) -> Result<(Namespace, State, Option<LogEnd>), Failed> {
        match Self::try_run(config, &ns, lease, journal_dir, segment_dir).await {
            Ok((state, log)) => Ok((ns, state, log)),
            Err(e) => Err((ns, e)),
        }
    }

    async fn try_run(
        config: &OpenConfig,
        ns: &Namespace,
        lease: Option<&Lease>,
        journal_dir: PathBuf,
        segment_dir: PathBuf,
    ) -> Result<(State, Option<LogEnd>)> {
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
        // The database is open, so no older writer folds any more: what is read here stays the truth.
        let chain = match lease {
            None => None,
            Some(lease) => {
                let from = match ns.get(Key::LogStart).await.map_err(read)? {
                    Some(Row::LogStart(place)) => place,
                    _ => Place::FIRST,
                };
                let taken = chain::take_over(&config.store, &config.prefix, volume, from, lease.epoch).await;
                Some(taken.map_err(|e| model_error("reading the log on the store", e))?)
            }
        };
        let sent = chain.as_ref().and_then(|(c, _)| c.records.last()).map_or(applied, |(seq, _)| (*seq).max(applied));
        let found = scan(&*config.host, &journal_dir, volume).map_err(|e| scan_error(&e))?;
        let plan = Plan::make(&found, sent, &journal_dir)?;
        let (replay, finished, old_files) = plan.settle(&*config.host, found).map_err(|e| Error::io(journal_dir.display(), &e))?;
        let last_found = replay.iter().flat_map(|(_, r)| r).map(|r| r.seq).max().unwrap_or(0).max(sent);
        // The state needs a journal to be; the file it starts is for the record after the last good one.
        let hash_key = *blake3::hash(&volume).as_bytes();
        let mut shell = Shell { config, ns, volume, segment_dir, hash_key, sb, segments };
        let (chain, next) = match chain {
            None => (None, None),
            Some((chain, next)) => (Some(chain), Some(next)),
        };
        let places = chain.as_ref().map(|c| c.places.clone()).unwrap_or_default();
        let state = shell.replay(replay, finished, old_files, journal_dir, (applied, sent), last_found, chain).await?;
        Ok((state, next.map(|next| LogEnd { next, places, sent })))
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
        if let Some(f) = found.files.iter().find(|f| f.same_boot && f.damaged && f.first <= last + 1) {
            let (path, end) = (f.path.display(), f.end);
            return Err(Error::new(ErrorKind::Corrupt, format!("{path}: the record at byte {end} is damaged"))
                .with_remedy("restore the file from a copy; nothing was changed"));
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
            let FoundFile { path, file, first, records, same_boot, end, size, .. } = f;
            if first > self.last + 1 || (first == self.last + 1 && !records.is_empty()) {
                aside(disk, &path)?;
                continue;
            }
            let last = records.last().map_or(first - 1, |r| r.seq);
            if records.is_empty() {
                if size > end {
                    aside(disk, &path)?;
                    continue;
                }
                // It holds no record; its name is wanted for the next file.
                disk.remove(&path)?;
                continue;
            }
            if size > end {
                keep_tail(disk, &path, &*file, last + 1, end..size)?;
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

/// Where a record was found.
enum Origin {
    /// In the store's log: whole, and arrived.
    Store,
    /// In the host's journal. Unless it is sure, a power failure may have taken the data that it names.
    Host { sure: bool, offset: u64, path: PathBuf, file: Arc<dyn HostFile> },
}

/// What a record says of a segment before it became a pack holds no longer once a later record says that it did: the
/// file on the host may be gone since. Returns those that did.
fn know_packs(log: &mut [(u64, Record, Origin)]) -> HashMap<u64, Pack> {
    let mut packs = HashMap::new();
    for (_, record, _) in log.iter_mut().rev() {
        for change in record.changes.iter_mut().rev() {
            if let Change::Put(Key::Segment(n), Row::Segment(s)) = change {
                match s.pack {
                    Some(pack) => drop(packs.insert(*n, pack)),
                    None => s.pack = packs.get(n).copied(),
                }
            }
        }
    }
    packs
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
fn keep_tail(disk: &dyn HostDisk, path: &Path, file: &dyn HostFile, at: u64, tail: std::ops::Range<u64>) -> std::io::Result<()> {
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
        (applied, sent): (u64, u64),
        last_found: u64,
        chain: Option<Chain>,
    ) -> Result<State> {
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
        let packed = know_packs(&mut log);
        for (extent, data) in extents.iter().filter(|(e, _)| !packed.contains_key(&e.segment) && !self.is_packed(e.segment)) {
            stage(&mut segment_files, extent, data).map_err(|e| Error::io(self.segment_dir.display(), &e))?;
        }
        drop(extents);
        // A journal that starts where nothing was found cannot collide with a file that is there.
        let journal = Journal::start(disk.clone(), journal_dir.clone(), self.volume, last_found, Vec::new())
            .map_err(|e| Error::io(journal_dir.display(), &e))?;
        let mut st = self.state(journal, segment_files);
        st.copies = self.copies()?;
        let mut outbox = Outbox::new(sent + 1);
        let mut frame = Vec::new();
        for (number, record, origin) in log {
            if number > sent {
                frame.clear();
                encode_frame(&mut frame, number, &record);
                outbox.push(number, &frame, &record);
            }
            let sure = matches!(&origin, Origin::Store | Origin::Host { sure: true, .. });
            match (self.apply_one(&mut st, record, sure).await, origin) {
                (Ok(()), _) => seq = number,
                (Err(FsError::Corrupt(why)), Origin::Host { sure: false, offset, path, file }) => {
                    tracing::warn!(record = number, %why, "the log ends here: what follows was never made durable");
                    outbox.cut(number);
                    cut = Some((number, offset, path, file));
                    break;
                }
                (Err(e), Origin::Host { path, .. }) => return Err(model_error(&format!("record {number} of {}", path.display()), e)),
                (Err(e), Origin::Store) => return Err(model_error(&format!("record {number} of the log on the store"), e)),
            }
        }
        st.outbox = remote.then_some(outbox);
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
            folds: 0,
            clean: RowCache::new(self.config.cache_bytes),
            sb: self.sb.clone(),
            segments: self.segments.clone(),
            copies: Copies::default(),
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
            outbox: None,
            full: None,
            segment_blocks: if self.config.remote.is_some() { PACK_BLOCKS } else { SEGMENT_BLOCKS },
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
                    if !st.dirty.contains_key(&(*ino, *block)) {
                        bases.insert((*ino, *block), self.base(st, *ino, *block).await?);
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

    /// Removes staged files that no row names: made just before a crash and never referred to.
    fn stray_segments(&self, st: &State) -> std::io::Result<()> {
        let disk = &*self.config.host;
        for name in disk.list(&self.segment_dir)? {
            let Some((number, id)) = parse_name(&name) else { continue };
            let is_here = |segments: &HashMap<u64, Segment>| segments.get(&number).is_some_and(|s| s.id == id);
            // Of a pack that the namespace knows only a whole copy is of use.
            let stale = self.is_packed(number) && !st.copies.is_staged(number);
            if stale || !is_here(&st.segments) && !is_here(&self.segments) {
                tracing::info!(%name, "removing a staged segment that nothing refers to");
                disk.remove(&self.segment_dir.join(name))?;
            }
        }
        Ok(())
    }
}
