//! The file system of one volume, open for writing by this process alone.
//!
//! Holds the shared state, the namespace at rest and the locks, and runs operations: a plain function on the
//! state, started again after each row that had to be fetched. Operations themselves are in ops/.

use crate::background::Wake;
use crate::buffers::Buffers;
use crate::host::{HostDisk, taken};
use crate::key::Key;
use crate::log::outbox::Outbox;
use crate::log::ship::Shipping;
use crate::namespace::Namespace;
use crate::ops::Sequences;
use crate::row::Row;
use crate::state::{State, Step, Stop};
use crate::types::{Attr, FsError, FsResult, Ino};
use orlop_model::{OutagePolicy, Usage, VolumeId};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

/// Stripes of the locks that keep two changes of one file's data apart.
const STRIPES: usize = 1024;
/// How often whoever waits for the namespace looks at the outage policy.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// An open volume. Operations are methods on it, see the modules below ops.
pub struct FileSystem {
    pub(crate) volume: VolumeId,
    pub(crate) ns: Namespace,
    pub(crate) state: Mutex<State>,
    /// One at a time changes the data of a file; stripes by inode, held over awaits.
    data: Vec<tokio::sync::Mutex<()>>,
    /// What long reads are put together in.
    pub(crate) buffers: Arc<Buffers>,
    /// Reads that follow each other.
    pub(crate) sequences: Mutex<Sequences>,
    /// One sync at a time; those that wait find their work done.
    pub(crate) sync_turn: tokio::sync::Mutex<()>,
    /// Every record up to this number is durable.
    pub(crate) durable: AtomicU64,
    /// What the host's disk holds is not to be vouched for: a sync had failed and its remains are written anew.
    pub(crate) doubtful: AtomicBool,
    pub(crate) state_dir: PathBuf,
    /// One fold at a time.
    pub(crate) fold_turn: tokio::sync::Mutex<()>,
    /// One at a time moves data to make room: several would take each other the room that each needs to come to its end.
    pub(crate) room_turn: tokio::sync::Mutex<()>,
    pub(crate) wake: Arc<Wake>,
    pub(crate) disk: Arc<dyn HostDisk>,
    pub(crate) background: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    /// What sends to the store, of a volume whose home is there.
    pub(crate) shipping: Option<Arc<Shipping>>,
    /// Files whose cut an error stopped half way: behind their end lie old bytes, which nobody may grow over.
    pub(crate) half_cut: Mutex<HashSet<Ino>>,
    /// How far a check is, and that there is one at a time.
    pub(crate) care: crate::check::Care,
    /// Keeps a second process of this host out; given up when the volume is closed.
    pub(crate) host_lock: Mutex<Option<Box<dyn Send + Sync>>>,
}

impl std::fmt::Debug for FileSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSystem").field("volume", &self.volume).finish_non_exhaustive()
    }
}

/// Which of the locks is an inode's.
pub(crate) fn stripe(ino: Ino) -> usize {
    (ino as usize) % STRIPES
}

pub(crate) fn stripes() -> Vec<tokio::sync::Mutex<()>> {
    (0..STRIPES).map(|_| tokio::sync::Mutex::new(())).collect()
}

pub(crate) struct Parts {
    pub(crate) volume: VolumeId,
    pub(crate) ns: Namespace,
    pub(crate) state: State,
    pub(crate) disk: Arc<dyn HostDisk>,
    pub(crate) state_dir: PathBuf,
    pub(crate) host_lock: Box<dyn Send + Sync>,
    pub(crate) shipping: Option<Arc<Shipping>>,
}

impl FileSystem {
    pub(crate) fn new(parts: Parts) -> FileSystem {
        FileSystem {
            volume: parts.volume,
            ns: parts.ns,
            state: Mutex::new(parts.state),
            data: stripes(),
            buffers: Arc::default(),
            sequences: Mutex::default(),
            sync_turn: tokio::sync::Mutex::new(()),
            durable: AtomicU64::new(0),
            doubtful: AtomicBool::new(false),
            state_dir: parts.state_dir,
            fold_turn: tokio::sync::Mutex::new(()),
            room_turn: tokio::sync::Mutex::default(),
            wake: Arc::new(Wake::default()),
            disk: parts.disk,
            background: Mutex::new(Vec::new()),
            shipping: parts.shipping,
            half_cut: Mutex::default(),
            care: crate::check::Care::default(),
            host_lock: Mutex::new(Some(parts.host_lock)),
        }
    }

    /// Which volume this is.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Keeps other changes of this file's data out while it is held.
    pub(crate) async fn data_lock(&self, ino: Ino) -> tokio::sync::MutexGuard<'_, ()> {
        self.data[stripe(ino)].lock().await
    }

    /// The same if nobody has it.
    pub(crate) fn try_data_lock(&self, ino: Ino) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.data[stripe(ino)].try_lock().ok()
    }

    /// Runs an operation to its end, fetching what it misses.
    pub(crate) async fn run<T>(&self, mut f: impl FnMut(&mut State) -> Step<T>) -> FsResult<T> {
        self.may_answer().await?;
        loop {
            let (key, neighbours, folds) = {
                let mut st = self.lock();
                match f(&mut st) {
                    Ok(out) => return Ok(out),
                    Err(Stop::Fs(e)) => return Err(e),
                    Err(Stop::Miss(key)) => (key, st.missed(key), st.folds),
                }
            };
            match neighbours {
                // One of the others may be damaged: that is not this row's fault.
                Some(all) if self.fetch_all(all, folds).await.is_ok() => {}
                _ => self.fetch(key, folds).await?,
            }
        }
    }

    /// Like `run`, for operations that change something: waits while too much is waiting to be folded.
    pub(crate) async fn change<T>(&self, f: impl FnMut(&mut State) -> Step<T>) -> FsResult<T> {
        self.admit().await?;
        self.run(f).await
    }

    /// What the namespace at rest answers. It asks a store that is away again and again: here the outage policy ends that.
    pub(crate) async fn at_rest<T>(&self, answer: impl Future<Output = FsResult<T>>) -> FsResult<T> {
        let bounded = self.shipping.as_ref().filter(|s| s.config.outage != OutagePolicy::Wait);
        let Some(shipping) = bounded else { return answer.await.map_err(|e| self.heed(e)) };
        tokio::pin!(answer);
        loop {
            match tokio::time::timeout(LOOK_EVERY, &mut answer).await {
                Ok(done) => return done.map_err(|e| self.heed(e)),
                Err(_) => shipping.check_outage()?,
            }
        }
    }

    /// Whether the volume is on a store that does not answer.
    pub(crate) fn is_store_away(&self) -> bool {
        self.shipping.as_ref().is_some_and(|s| s.patience.is_away())
    }

    async fn fetch(&self, key: Key, folds: u64) -> FsResult<()> {
        let row = self.at_rest(self.ns.get(key)).await?;
        let mut st = self.lock();
        // A fold that ended meanwhile may have made this row newer than what was fetched.
        if st.folds == folds {
            st.learn(key, row);
        }
        Ok(())
    }

    /// Reads rows into memory that will be asked for one by one: a store that is far is asked once.
    pub(crate) async fn warm(&self, from: Key, to: Key) -> FsResult<()> {
        const ROWS_MAX: usize = 1024;
        let folds = self.lock().folds;
        let rows = self.at_rest(self.ns.scan_far(from, to, ROWS_MAX)).await?;
        let mut st = self.lock();
        if st.folds != folds {
            return Ok(());
        }
        for (key, row) in rows {
            st.learn(key, Some(row));
        }
        Ok(())
    }

    /// Rows from `from` up to and excluding `to`, memory over namespace, at most `limit`.
    ///
    /// A row that exists during the whole call is among them; one made or removed meanwhile may be or not.
    pub(crate) async fn scan(&self, mut from: Key, to: Key, limit: usize) -> FsResult<Vec<(Key, Row)>> {
        self.may_answer().await?;
        let batch = limit.max(64);
        let mut out = Vec::new();
        while out.len() < limit && from < to {
            // Memory first: what a fold moves in between is then seen twice, not missed.
            let (mut rows, memory_end, is_all) = self.scan_memory(from, to, batch);
            let stored = if is_all { Vec::new() } else { self.at_rest(self.ns.scan(from, to, batch)).await? };
            let stored_end = if stored.len() < batch { None } else { stored.last().map(|(k, _)| *k) };
            for (key, row) in stored {
                rows.entry(key).or_insert(Some(row));
            }
            let end = match (memory_end, stored_end) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            for (key, row) in rows {
                if end.is_some_and(|e| key > e) {
                    break;
                }
                if let Some(row) = row {
                    out.push((key, row));
                    if out.len() == limit {
                        return Ok(out);
                    }
                }
            }
            match end {
                Some(end) => from = after(end),
                None => break,
            }
        }
        Ok(out)
    }

    /// At most `batch` rows of memory, tombstones included, and the last key if there may be more; and whether the namespace at
    /// rest can have none.
    fn scan_memory(&self, from: Key, to: Key, batch: usize) -> (BTreeMap<Key, Option<Row>>, Option<Key>, bool) {
        let st = self.lock();
        // Between two keys of one kind are those of the inodes between.
        let is_all = std::mem::discriminant(&from) == std::mem::discriminant(&to) && st.is_new(from);
        let mut rows: BTreeMap<Key, Option<Row>> = BTreeMap::new();
        let mut end: Option<Key> = None;
        let layers = st.folding.iter().map(|f| &**f).chain(std::iter::once(&st.overlay));
        for layer in layers {
            let mut n = 0;
            for (key, row) in layer.range(from..to) {
                rows.insert(*key, row.clone());
                n += 1;
                if n == batch {
                    end = Some(end.map_or(*key, |e| e.min(*key)));
                    break;
                }
            }
        }
        if let Some(end) = end {
            rows.retain(|k, _| *k <= end);
        }
        (rows, end, is_all)
    }

    /// Notes that the kernel was told of an inode, which keeps it until it is forgotten.
    pub(crate) fn told(st: &mut State, attr: Attr) -> Attr {
        st.lookups.told(attr.ino);
        attr
    }

    /// Inodes that the kernel may hold: what it was told of since the volume was opened, and whatever was there before.
    pub fn maybe_held(&self) -> impl Iterator<Item = Ino> + Send + 'static {
        let st = self.lock();
        let inherited = st.inherited_below;
        st.lookups.from(inherited).into_iter().chain((1..inherited).rev())
    }

    /// What the volume takes. Asks the host's disk alone.
    pub fn usage(&self) -> Usage {
        let (mut usage, paths) = {
            let st = self.lock();
            let usage = Usage {
                used_bytes: st.sb.used_blocks * crate::types::BLOCK,
                inodes: st.sb.inodes,
                unsynced_bytes: st.not_yet_safe(),
                unsent_bytes: st.outbox.as_ref().map_or(0, Outbox::unsent),
                host_bytes: st.journal.len() + st.copies.packs.as_ref().map_or(0, |p| p.cached_bytes()),
                stopped: st.broken.clone(),
            };
            (usage, st.segments.iter().map(|(n, s)| st.files.path(*n, &s.id)).collect::<Vec<_>>())
        };
        // A segment that goes away meanwhile counts for nothing.
        usage.host_bytes += paths.iter().filter_map(|p| self.disk.open(p).and_then(|f| taken(&*f)).ok()).sum::<u64>();
        usage
    }

    /// Why the volume takes no changes any more, if so.
    pub fn stopped(&self) -> Option<String> {
        self.lock().broken.clone()
    }

    /// Bytes acknowledged that a power failure could still take.
    pub fn unsynced_bytes(&self) -> u64 {
        self.lock().not_yet_safe()
    }

    /// Sets the most bytes that files may take; fails with `Quota` below what they take now.
    pub fn set_quota(&self, bytes: Option<u64>) -> FsResult<()> {
        let mut st = self.lock();
        let blocks = bytes.map(|b| b / crate::types::BLOCK);
        if blocks.is_some_and(|b| b < st.sb.used_blocks) {
            return Err(FsError::Quota);
        }
        st.quota_blocks = blocks;
        Ok(())
    }
}

/// The least key above this one.
pub(crate) fn after(key: Key) -> Key {
    match key {
        Key::Applied => Key::LogStart,
        Key::LogStart => Key::Super,
        Key::Super => Key::Inode(0),
        Key::Inode(i) => Key::Inode(i + 1),
        Key::Dirent(p, pos) => Key::Dirent(p, pos + 1),
        Key::Chunk(i, c) => c.checked_add(1).map_or(Key::Chunk(i + 1, 0), |c| Key::Chunk(i, c)),
        Key::Xattrs(i) => Key::Xattrs(i + 1),
        Key::Segment(s) => Key::Segment(s + 1),
        Key::Orphan(i) => Key::Orphan(i + 1),
    }
}

#[cfg(test)]
mod tests;
