//! Formatting and opening a volume: the header object, the host's folders, who may have it. Recovery is in recover/.

use crate::fs::{FileSystem, Parts};
use crate::host::{Clock, HostDisk, RealDisk, SystemClock};
use crate::key::Key;
use crate::log::facts::owner_of;
use crate::log::holder::{HOLDER, holder};
use crate::log::lease::Lease;
use crate::log::ship::Shipping;
use crate::namespace::{Disk, Missing, Namespace, Room};
use crate::recover::{Recovery, refused};
use crate::row::Inode;
use crate::sealing::KeyedDisk;
use crate::state::floor_of;
use crate::types::{FileKind, FsError, FsResult, ROOT_INO};
use bytes::Bytes;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use orlop_model::{CACHE_SIZE, Compression, Durability, Error, ErrorKind, LOSS_WINDOW, OutagePolicy, Result, STAGING_SIZE, VolumeId};
use orlop_store::keys::HostKeys;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The format that this version writes and reads. Format 1 was before the first release: its namespace was not guarded.
const FORMAT: u32 = 2;

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
    /// No kernel holds inodes from an earlier worker: unlinked files can go. Else the opening is refused if another host had the volume
    /// meanwhile ([`crate::lost`]).
    pub fresh_kernel: bool,
    /// How long after its beginning an opening still waits until what a killed process left is durable, on a host that ran on.
    /// With zero that is left to the syncs to come.
    pub first_rest: Duration,
    /// The host's disk.
    pub host: Arc<dyn HostDisk>,
    /// The host's clock.
    pub clock: Arc<dyn Clock>,
    /// Bytes of memory for rows read from the namespace.
    pub cache_bytes: usize,
    /// Set for a volume whose home is the store and not this host: its log and its data are sent there.
    pub remote: Option<Remote>,
    /// A damage to what is not folded ends it, instead of keeping the volume closed. For reading it out alone: who writes
    /// to such a volume has lost what stood behind.
    pub salvage: bool,
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
            ship_every: LOSS_WINDOW,
            holder: String::new(),
            cache_bytes: CACHE_SIZE.0,
            staged_bytes: STAGING_SIZE.0,
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
            first_rest: FIRST_REST,
            host: Arc::new(RealDisk),
            clock: Arc::new(SystemClock),
            cache_bytes: 32 << 20,
            remote: None,
            salvage: false,
        }
    }

    /// The same with the volume's files on the host sealed, if it has keys for that.
    pub fn sealed(self, keys: Option<Arc<HostKeys>>) -> Self {
        OpenConfig { host: KeyedDisk::over(self.host, keys), ..self }
    }
}

/// The object `volume.json`: written once, tells what the prefix holds before anything else is read.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    volume: VolumeId,
}

/// The header as it stands in the store.
pub(crate) fn header_of(volume: VolumeId) -> Vec<u8> {
    serde_json::to_vec(&Header { format: FORMAT, volume }).expect("a plain struct is JSON")
}

pub(crate) fn header_path(prefix: &str) -> StorePath {
    StorePath::from(format!("{prefix}/volume.json"))
}

/// Lays a new volume in the store; succeeds if it is there already.
pub async fn format_volume(store: &Arc<dyn ObjectStore>, prefix: &str, volume: VolumeId) -> Result<()> {
    let bytes = header_of(volume);
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(&header_path(prefix), bytes.into(), options).await {
        Ok(_) => Ok(()),
        Err(object_store::Error::AlreadyExists { .. }) => check_header(store, prefix, volume).await,
        Err(e) => Err(orlop_store::error(format_args!("the store does not take the header of volume {volume}"), &e)),
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
    if format == 1 {
        return Err(Error::new(ErrorKind::Unsupported, format!("volume {volume} is of format 1, from before the first release"))
            .with_remedy("copy its files out with the version that made it; nothing was changed"));
    }
    if format > u64::from(FORMAT) {
        return Err(Error::new(ErrorKind::Unsupported, format!("volume {volume} is of format {format}; this version reads {FORMAT}"))
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
        Ok(r) => r.bytes().await.map_err(|e| orlop_store::error(&path, &e))?,
        Err(object_store::Error::NotFound { .. }) => {
            return Err(Error::not_found(format!("the store holds no volume at {prefix}"))
                .with_remedy("see whether the store is the one it was made on, and mounted"));
        }
        Err(e) => return Err(orlop_store::error(&path, &e)),
    };
    inspect_header(&bytes, volume).map_err(|e| e.during(&path))
}

pub(crate) fn model_error(what: &str, e: FsError) -> Error {
    let kind = match e {
        FsError::Corrupt(_) => ErrorKind::Corrupt,
        FsError::NoSpace | FsError::Quota => ErrorKind::NoSpace,
        FsError::Fenced(_) => ErrorKind::Busy,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{what}: {e}"))
}

/// Records of a journal that are read in a fraction of a second.
const LONG_JOURNAL: u64 = 20_000;
/// When an opening waits no longer until what a killed process left is at rest.
const FIRST_REST: Duration = Duration::from_millis(1200);

impl FileSystem {
    /// Opens a volume for writing, recovering what a crash left.
    pub async fn open(config: OpenConfig) -> Result<Arc<FileSystem>> {
        Self::open_lacking(config, Missing::default()).await
    }

    /// The same over a namespace that has lost rows.
    pub(crate) async fn open_lacking(config: OpenConfig, missing: Missing) -> Result<Arc<FileSystem>> {
        match check_header(&config.store, &config.prefix, config.volume).await {
            Err(e) if config.salvage && matches!(e.kind, ErrorKind::Corrupt | ErrorKind::NotFound) => {
                tracing::warn!(error = %e, "read out without its header");
            }
            checked => checked?,
        }
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
        match Self::open_taken(&config, host_lock, lease.clone(), journal_dir, segment_dir, missing).await {
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
        missing: Missing,
    ) -> Result<Arc<FileSystem>> {
        let disk = config.host.clone();
        let began = Instant::now();
        let room: Disk = match config.remote {
            Some(_) => Arc::new(|| None),
            None => {
                let (disk, dir) = (disk.clone(), segment_dir.clone());
                Arc::new(move || disk.space(&dir).ok().map(|(total, free)| Room { free, floor: floor_of(total) }))
            }
        };
        let ns = Namespace::open(config.store.clone(), format!("{}/meta", config.prefix), room)
            .await
            .map_err(|e| refused("opening the namespace", e))?
            .lacking(missing);
        if config.remote.is_some() {
            ns.warm();
        }
        let of_namespace = began.elapsed();
        match Recovery::run(config, ns, lease.as_deref(), journal_dir, segment_dir).await {
            Ok((ns, state, log)) => {
                let of_recovery = began.elapsed() - of_namespace;
                let (records, segments) = (state.journal.older_records(), state.segments.len());
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
                fs.note_weight();
                fs.first_start(config, began).await.map_err(|e| model_error("opening the volume", e))?;
                fs.start_background();
                let in_all = began.elapsed();
                let rest = in_all - of_namespace - of_recovery;
                // What a pause was made of, for whoever finds it too long.
                tracing::info!(records, segments, namespace = ?of_namespace, recovery = ?of_recovery, ?rest, "opened in {in_all:?}");
                Ok(fs)
            }
            Err((ns, e)) => {
                ns.abandon().await;
                Err(e)
            }
        }
    }

    /// Makes the root folder of a fresh volume, and finishes what was left half-way.
    async fn first_start(self: &Arc<Self>, config: &OpenConfig, began: Instant) -> FsResult<()> {
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
        let of_all_before = began.elapsed();
        self.write_anew().await?;
        if !config.salvage {
            // Who only reads out reads nothing that has no name, and to take it away may need what is lost.
            self.reap_at_start(config.fresh_kernel).await?;
        }
        tracing::info!("what was left half-way took {:?}", began.elapsed() - of_all_before);
        if self.shipping.is_some() || self.lock().may_be_torn {
            // What was recovered is made durable before anything new depends on it.
            self.sync_all().await?;
        }
        if self.shipping.is_some() || config.first_rest.is_zero() {
            return Ok(());
        }
        self.come_to_rest(config.first_rest.saturating_sub(began.elapsed())).await
    }

    /// Makes durable what a process left that was killed, on a host that ran on; and folds it if it is long: a process that is killed
    /// again and again never comes to a fold, and each successor would take longer to read what all of them left. Both come before
    /// anything is served, but who waits for an answer is not held up by a disk or a store that is slow.
    async fn come_to_rest(self: &Arc<Self>, patience: Duration) -> FsResult<()> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let fs = self.clone();
        self.background.lock().push(tokio::spawn(async move {
            let synced = fs.sync_all().await;
            if synced.is_ok()
                && fs.lock().journal.older_records() >= LONG_JOURNAL
                && let Err(e) = fs.fold().await
            {
                tracing::warn!(error = %e, "the first fold failed");
            }
            // Nobody may wait for it any more.
            let _ = tell.send(synced);
        }));
        match tokio::time::timeout(patience, told).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(FsError::Io("what was recovered was not made durable".to_owned())),
            Err(_) => {
                tracing::info!("what was recovered is made durable while the volume is served");
                Ok(())
            }
        }
    }
}

/// Takes a volume whose home is the store: its owner record first, so that nobody else is writing. What an earlier
/// writer of this host left is set aside if somebody else had the volume since.
async fn take_volume(config: &OpenConfig, remote: &Remote, journal_dir: &Path) -> Result<Arc<Lease>> {
    let disk = &*config.host;
    let holder = holder(disk, &config.state_dir).map_err(|e| Error::io(config.state_dir.display(), &e))?;
    // A kernel that goes on holds inodes by number; what another host made meanwhile may have the same.
    let goes_on = !config.fresh_kernel;
    let lease = Lease::acquire(config.store.clone(), &config.prefix, &holder.id, goes_on, remote, |epoch| {
        supersede(disk, journal_dir, epoch).map_err(|e| Error::io(journal_dir.display(), &e))
    });
    match lease.await {
        Ok(lease) => Ok(Arc::new(lease)),
        Err(e) if holder.anew && e.kind == ErrorKind::Busy => Err(not_known_any_more(config, journal_dir, e).await),
        Err(e) => Err(e),
    }
}

/// A volume that is held under a name that this folder may have lost: then what it did not send is here.
async fn not_known_any_more(config: &OpenConfig, journal_dir: &Path, e: Error) -> Error {
    let writes = config.host.list(journal_dir).is_ok_and(|names| names.iter().any(|n| n.ends_with(".journal")));
    match owner_of(&config.store, &config.prefix, config.volume).await {
        Ok(Some(owner)) if writes => {
            let path = config.state_dir.join(HOLDER);
            let here =
                format!("this host has a journal of the volume too, and {} was damaged or is gone, by which it is known", path.display());
            Error::new(e.kind, format!("{}; {here}", e.message)).with_remedy(format!(
                "if no other host had the volume since, write {} into that file, and nothing is lost; else {}",
                owner.holder,
                e.remedy.unwrap_or_default()
            ))
        }
        _ => e,
    }
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
