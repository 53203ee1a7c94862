//! The namespace's rows at rest: SlateDB on the volume's own store, without a log of its own.
//!
//! The journal is the one log. A fold writes its rows in one batch together with the number of the last
//! record in them, and is durable when `fold` returns; SlateDB's epoch fences an older writer.

mod anew;
mod blocks;
mod missing;
mod unlogged;
mod upkeep;
mod warm;
mod weight;

pub(crate) use self::anew::Anew;
use self::blocks::Blocks;
pub(crate) use self::missing::{Missing, NOWHERE};
use self::unlogged::Unlogged;
use self::upkeep::{Upkeep, lacks_room};
use self::warm::Warming;
pub(crate) use self::weight::{Disk, Room};
use crate::key::Key;
use crate::row::Row;
use crate::ticks::Ticks;
use crate::types::{FsError, FsResult};
use object_store::ObjectStore;
use slatedb::config::{CloseOptions, FlushOptions, FlushType, PutOptions, ScanOptions, Settings, WriteOptions};
use slatedb::{CloseReason, Db, ErrorKind, WriteBatch};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct Namespace {
    /// Replaced by a fresh one when it has stopped at an error of the store.
    db: parking_lot::RwLock<Db>,
    /// Absent while the database is closed or being replaced.
    upkeep: parking_lot::Mutex<Option<Upkeep>>,
    warming: parking_lot::Mutex<Option<Warming>>,
    /// Guarded: what its objects do not check themselves is checked around them.
    store: Arc<dyn ObjectStore>,
    blocks: Arc<Blocks>,
    raw: Arc<dyn ObjectStore>,
    path: String,
    /// What merges find room on.
    disk: Disk,
    /// Whoever reads for long has a copy.
    readers: Arc<()>,
    missing: Missing,
}

/// Unmerged tables at which a fold waits for a merge, unless merges wait for room: a lookup may have to ask each of them.
const TABLES: usize = 16;
/// Unmerged tables that there may be while merges wait for room.
const MOST_TABLES: usize = 256;
/// How often a fold that waits for a merge looks, and how many times.
const LOOKS: (Duration, usize) = (Duration::from_millis(50), 600);

fn settings() -> Settings {
    Settings {
        // Only folds flush; nothing is written in between.
        flush_interval: None,
        wal_enabled: false,
        // Upkeep looks when there is something to see, and a write that waits for a merge looks by itself. What is
        // left is to notice a foreign writer, which a write would notice too.
        manifest_poll_interval: Duration::from_secs(3600),
        l0_sst_size_bytes: 64 << 20,
        max_unflushed_bytes: 256 << 20,
        // A fold waits for merges before that, unless they wait for room.
        l0_max_ssts: MOST_TABLES,
        l0_max_ssts_per_key: MOST_TABLES,
        // Upkeep calls them when a fold was made.
        compactor_options: None,
        garbage_collector_options: None,
        // A store that is away is asked until it is back: no state is final. Who waits is bounded by the caller.
        object_store_max_retries: None,
        ..Settings::default()
    }
}

fn fs_error(e: &slatedb::Error) -> FsError {
    if let Some(broken) = orlop_store::wrap::BrokenSeal::find(e) {
        return FsError::Corrupt(format!("{}: {}", broken.path, broken.why));
    }
    match e.kind() {
        ErrorKind::Closed(CloseReason::Fenced) => {
            FsError::Fenced("a later opening of the volume, as of another host that takes it, has shut this one out".to_owned())
        }
        ErrorKind::Data => FsError::Corrupt(format!("namespace: {e}")),
        // Bytes that are whole and no manifest: it is read by its verifier, which is called back.
        ErrorKind::Internal if e.to_string().contains("CallbackError") => FsError::Corrupt(format!("namespace: {e}")),
        _ => FsError::Io(format!("namespace: {e}")),
    }
}

impl Namespace {
    pub(crate) async fn open(store: Arc<dyn ObjectStore>, path: String, disk: Disk) -> FsResult<Namespace> {
        let (raw, store) = (store.clone(), guarded(store, prefix_of(&path)));
        let blocks = Arc::new(Blocks::default());
        let readers = Arc::new(());
        let (db, upkeep) = connect(&store, &path, &blocks, &disk, &readers).await?;
        let (db, upkeep) = (parking_lot::RwLock::new(db), parking_lot::Mutex::new(Some(upkeep)));
        let (warming, missing) = (parking_lot::Mutex::default(), Missing::default());
        Ok(Namespace { db, upkeep, warming, store, blocks, raw, path, disk, readers, missing })
    }

    /// The same, of which some rows may have been lost.
    pub(crate) fn lacking(self, missing: Missing) -> Namespace {
        Namespace { missing, ..self }
    }

    pub(crate) fn missing(&self) -> &Missing {
        &self.missing
    }

    /// Bytes of all tables: so much a merge of them may take for a while.
    pub(crate) fn weight(&self) -> u64 {
        weight::of_all(&self.db().manifest())
    }

    /// The store that the volume is on.
    pub(crate) fn raw(&self) -> &Arc<dyn ObjectStore> {
        &self.raw
    }

    /// The volume's path in the store.
    pub(crate) fn prefix(&self) -> &str {
        prefix_of(&self.path)
    }

    /// Everything as it is now, while it goes on changing.
    pub(crate) fn pin(&self) -> FsResult<Pinned> {
        let rows = self.db().snapshot().map_err(|e| fs_error(&e))?;
        Ok(Pinned { rows, _reader: self.readers.clone() })
    }

    fn db(&self) -> Db {
        self.db.read().clone()
    }

    /// Puts a fresh database in the place of one that has stopped at an error: it does not recover by itself.
    /// What it had not made durable is in the journal and in the fold under way, which is written again.
    /// The host's lock on the volume is held, so no other writer of this host is fenced by it.
    pub(crate) async fn reopen(&self) -> FsResult<()> {
        self.abandon().await;
        let (db, upkeep) = connect(&self.store, &self.path, &self.blocks, &self.disk, &self.readers).await?;
        *self.db.write() = db;
        *self.upkeep.lock() = Some(upkeep);
        Ok(())
    }

    pub(crate) async fn get(&self, key: Key) -> FsResult<Option<Row>> {
        let bytes = self.db().get(key.encode()).await.map_err(|e| fs_error(&e))?;
        bytes.map_or_else(|| Ok(self.missing.stand_in(key)), |b| decode(key, &b).map(Some))
    }

    /// Rows from `from` up to and excluding `to`, at most `limit`.
    pub(crate) async fn scan(&self, from: Key, to: Key, limit: usize) -> FsResult<Vec<(Key, Row)>> {
        self.scan_with(from, to, limit, near()).await
    }

    /// The same for whoever wants all of them, in few requests.
    pub(crate) async fn scan_far(&self, from: Key, to: Key, limit: usize) -> FsResult<Vec<(Key, Row)>> {
        let options = ScanOptions::default().with_max_fetch_tasks(4).with_read_ahead_bytes(128 << 10).with_cache_blocks(true);
        self.scan_with(from, to, limit, options).await
    }

    /// A few rows that lie side by side, until there are so many or they have so many bytes; and whether that is all of them.
    pub(crate) async fn side_by_side(
        &self,
        from: Key,
        to: Key,
        rows: usize,
        bytes: usize,
        is_far: bool,
    ) -> FsResult<(Vec<(Key, Row)>, bool)> {
        let options = if is_far { near().with_read_ahead_bytes(bytes) } else { near() }.with_cache_blocks(true);
        let mut it = self.db().scan_with_options(from.encode()..to.encode(), &options).await.map_err(|e| fs_error(&e))?;
        let (mut out, mut weight) = (Vec::new(), 0);
        while out.len() < rows && weight < bytes {
            let Some(kv) = it.next().await.map_err(|e| fs_error(&e))? else { return Ok((out, true)) };
            let key = Key::decode(&kv.key).map_err(|e| FsError::Corrupt(format!("namespace: {e}")))?;
            weight += kv.value.len();
            out.push((key, decode(key, &kv.value)?));
        }
        Ok((out, false))
    }

    async fn scan_with(&self, from: Key, to: Key, limit: usize, options: ScanOptions) -> FsResult<Vec<(Key, Row)>> {
        let it = self.db().scan_with_options(from.encode()..to.encode(), &options).await.map_err(|e| fs_error(&e))?;
        collect(it, limit).await
    }

    /// Makes these rows durable, and the number of the last record in them, in one step.
    /// `beside` are rows that stand in for those of the same key.
    pub(crate) async fn fold(&self, rows: &BTreeMap<Key, Option<Row>>, beside: &[(Key, Row)], applied: u64) -> FsResult<()> {
        let mut batch = WriteBatch::new();
        let replaced: HashSet<Key> = beside.iter().map(|(key, _)| *key).collect();
        for (key, row) in beside {
            batch.put(key.encode(), row.encode());
        }
        for (key, row) in rows.iter().filter(|(key, _)| !replaced.contains(key)) {
            match row {
                Some(row) => batch.put_with_options(key.encode(), row.encode(), &PutOptions::default()),
                None => batch.delete(key.encode()),
            }
        }
        batch.put(Key::Applied.encode(), Row::Applied(applied).encode());
        let db = self.db();
        self.until_merged(&db).await;
        db.write_with_options(batch, &WriteOptions::default()).await.map_err(|e| fs_error(&e))?;
        db.flush_with_options(FlushOptions { flush_type: FlushType::MemTable }).await.map_err(|e| fs_error(&e))?;
        let removed = rows.values().filter(|row| row.is_none()).count();
        if let Some(upkeep) = &*self.upkeep.lock() {
            upkeep.folded(removed as u64);
        }
        Ok(())
    }

    /// Waits while there are many unmerged tables, and a merge can make them fewer.
    async fn until_merged(&self, db: &Db) {
        let is_crowded = || db.manifest().l0().len() >= TABLES && !lacks_room(db, &self.disk);
        for _ in 0..LOOKS.1 {
            if !is_crowded() {
                return;
            }
            if let Some(upkeep) = &*self.upkeep.lock() {
                upkeep.folded(0);
            }
            tokio::time::sleep(LOOKS.0).await;
        }
    }

    /// Reads in the background what finds rows, for a store that is far.
    pub(crate) fn warm(&self) {
        *self.warming.lock() = Some(Warming::start(self.db()));
    }

    /// Gives back the memory of what was read. It is read again when it is asked for.
    pub(crate) fn forget(&self) {
        self.blocks.clear();
    }

    async fn end_upkeep(&self, tidied: bool) {
        drop(self.warming.lock().take());
        let upkeep = self.upkeep.lock().take();
        if let Some(upkeep) = upkeep {
            upkeep.stop(tidied).await;
        }
    }

    /// Lets go without writing anything.
    pub(crate) async fn abandon(&self) {
        self.end_upkeep(false).await;
        let _ = self.db().close_with_options(CloseOptions { flush_type: None }).await;
    }

    pub(crate) async fn close(&self) -> FsResult<()> {
        self.end_upkeep(true).await;
        self.db().close().await.map_err(|e| fs_error(&e))
    }
}

/// The rows at rest at one instant.
pub(crate) struct Pinned {
    rows: Arc<slatedb::DbSnapshot>,
    _reader: Arc<()>,
}

impl Pinned {
    /// Rows from `from` up to and excluding `to`, at most `limit`.
    pub(crate) async fn scan(&self, from: Key, to: Key, limit: usize) -> FsResult<Vec<(Key, Row)>> {
        let it = self.rows.scan_with_options(from.encode()..to.encode(), &near()).await.map_err(|e| fs_error(&e))?;
        collect(it, limit).await
    }
}

/// How rows are read by whoever may stop soon.
fn near() -> ScanOptions {
    ScanOptions::default().with_max_fetch_tasks(2)
}

/// The rows of a scan, at most `limit`.
async fn collect(mut it: slatedb::DbIterator, limit: usize) -> FsResult<Vec<(Key, Row)>> {
    let mut rows = Vec::new();
    while rows.len() < limit {
        let Some(kv) = it.next().await.map_err(|e| fs_error(&e))? else { break };
        let key = Key::decode(&kv.key).map_err(|e| FsError::Corrupt(format!("namespace: {e}")))?;
        rows.push((key, decode(key, &kv.value)?));
    }
    Ok(rows)
}

/// The volume's path, of the namespace's.
fn prefix_of(path: &str) -> &str {
    path.strip_suffix("/meta").unwrap_or(path)
}

/// The store as the namespace sees it: what it reads is what it wrote, or an error that names the object.
pub(crate) fn guarded(store: Arc<dyn ObjectStore>, prefix: &str) -> Arc<dyn ObjectStore> {
    // Where SlateDB's collector would say how far it has come, were it told to. Asked for before and after each manifest.
    orlop_store::wrap::Absent::wrap(orlop_store::wrap::guard(store, prefix), |at| at.as_ref().ends_with(".boundary"))
}

/// The database of a namespace, without anybody who keeps it up.
async fn database(store: &Arc<dyn ObjectStore>, path: &str, blocks: &Arc<Blocks>, ticks: &Arc<Ticks>) -> FsResult<Db> {
    loop {
        let build = Db::builder(path.to_owned(), store.clone()).with_settings(settings()).with_system_clock(ticks.clone());
        // Objects are written once: what was read of one before a reopening is true after it.
        match build.with_db_cache(blocks.clone(), 0).with_wal_writer(Box::new(Unlogged)).build().await {
            Ok(db) => return Ok(db),
            // Opening itself may write, before the last stamp can be asked for: the refusal tells it.
            Err(e) if ticks.refused(&e.to_string()) => {}
            Err(e) => return Err(fs_error(&e)),
        }
    }
}

async fn connect(store: &Arc<dyn ObjectStore>, path: &str, blocks: &Arc<Blocks>, disk: &Disk, readers: &Arc<()>) -> FsResult<(Db, Upkeep)> {
    let ticks = Arc::new(Ticks::default());
    let db = database(store, path, blocks, &ticks).await?;
    ticks.not_before(db.manifest().last_l0_clock_tick());
    let upkeep = Upkeep::start(db.clone(), store.clone(), path.to_owned(), ticks, disk.clone(), readers.clone());
    Ok((db, upkeep))
}

fn decode(key: Key, bytes: &[u8]) -> FsResult<Row> {
    Row::decode(key, bytes).map_err(|e| FsError::Corrupt(format!("namespace row {key:?}: {e}")))
}
