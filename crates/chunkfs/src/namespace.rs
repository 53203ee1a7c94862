//! The namespace's rows at rest: SlateDB on the volume's own store, without a log of its own.
//!
//! The journal is the one log. A fold writes its rows in one batch together with the number of the last
//! record in them, and is durable when `fold` returns; SlateDB's epoch fences an older writer.

use crate::key::Key;
use crate::row::Row;
use crate::ticks::Ticks;
use crate::types::{FsError, FsResult};
use object_store::ObjectStore;
use slatedb::config::{
    CloseOptions, CompactionWorkerOptions, CompactorOptions, FlushOptions, FlushType, GarbageCollectorDirectoryOptions,
    GarbageCollectorOptions, PutOptions, ScanOptions, Settings, WriteOptions,
};
use slatedb::{CloseReason, Db, ErrorKind, WriteBatch};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct Namespace {
    /// Replaced by a fresh one when it has stopped at an error of the store.
    db: parking_lot::RwLock<Db>,
    store: Arc<dyn ObjectStore>,
    path: String,
}

fn settings() -> Settings {
    let collect = Some(GarbageCollectorDirectoryOptions {
        interval: Some(Duration::from_secs(120)),
        min_age: Duration::from_secs(300),
        dry_run: false,
    });
    Settings {
        // Only folds flush; nothing is written in between.
        flush_interval: None,
        wal_enabled: false,
        manifest_poll_interval: Duration::from_secs(30),
        l0_sst_size_bytes: 64 << 20,
        max_unflushed_bytes: 256 << 20,
        l0_max_ssts: 16,
        l0_max_ssts_per_key: 16,
        compactor_options: Some(CompactorOptions {
            poll_interval: Duration::from_secs(5),
            max_concurrent_compactions: 2,
            worker: Some(CompactionWorkerOptions {
                max_concurrent_compactions: 2,
                max_sst_size: 16 << 20,
                max_fetch_tasks: 2,
                bytes_to_fetch: 256 << 10,
                max_subcompactions: 1,
                ..CompactionWorkerOptions::default()
            }),
            ..CompactorOptions::default()
        }),
        garbage_collector_options: Some(GarbageCollectorOptions {
            manifest_options: collect,
            wal_options: None,
            wal_fence_options: None,
            compacted_options: collect,
            compactions_options: collect,
            detach_options: None,
            // Local folders have no conditional replace; the host's lock keeps a second process out.
            boundary_files_enabled: false,
            ..GarbageCollectorOptions::default()
        }),
        // A store that is away is asked until it is back: no state is final. Who waits is bounded by the caller.
        object_store_max_retries: None,
        ..Settings::default()
    }
}

fn fs_error(e: &slatedb::Error) -> FsError {
    match e.kind() {
        ErrorKind::Closed(CloseReason::Fenced) => FsError::Fenced(e.to_string()),
        ErrorKind::Data => FsError::Corrupt(format!("namespace: {e}")),
        _ => FsError::Io(format!("namespace: {e}")),
    }
}

impl Namespace {
    pub(crate) async fn open(store: Arc<dyn ObjectStore>, path: String) -> FsResult<Namespace> {
        let db = connect(&store, &path).await?;
        Ok(Namespace { db: parking_lot::RwLock::new(db), store, path })
    }

    fn db(&self) -> Db {
        self.db.read().clone()
    }

    /// Puts a fresh database in the place of one that has stopped at an error: it does not recover by itself.
    /// What it had not made durable is in the journal and in the fold under way, which is written again.
    /// The host's lock on the volume is held, so no other writer of this host is fenced by it.
    pub(crate) async fn reopen(&self) -> FsResult<()> {
        self.abandon().await;
        let db = connect(&self.store, &self.path).await?;
        *self.db.write() = db;
        Ok(())
    }

    pub(crate) async fn get(&self, key: Key) -> FsResult<Option<Row>> {
        let bytes = self.db().get(key.encode()).await.map_err(|e| fs_error(&e))?;
        bytes.map(|b| decode(key, &b)).transpose()
    }

    /// Rows from `from` up to and excluding `to`, at most `limit`.
    pub(crate) async fn scan(&self, from: Key, to: Key, limit: usize) -> FsResult<Vec<(Key, Row)>> {
        let options = ScanOptions::default().with_max_fetch_tasks(2);
        let mut it = self.db().scan_with_options(from.encode()..to.encode(), &options).await.map_err(|e| fs_error(&e))?;
        let mut rows = Vec::new();
        while rows.len() < limit {
            let Some(kv) = it.next().await.map_err(|e| fs_error(&e))? else { break };
            let key = Key::decode(&kv.key).map_err(|e| FsError::Corrupt(format!("namespace: {e}")))?;
            rows.push((key, decode(key, &kv.value)?));
        }
        Ok(rows)
    }

    /// Makes these rows durable, and the number of the last record in them, in one step.
    pub(crate) async fn fold(&self, rows: &BTreeMap<Key, Option<Row>>, applied: u64) -> FsResult<()> {
        let mut batch = WriteBatch::new();
        for (key, row) in rows {
            match row {
                Some(row) => batch.put_with_options(key.encode(), row.encode(), &PutOptions::default()),
                None => batch.delete(key.encode()),
            }
        }
        batch.put(Key::Applied.encode(), Row::Applied(applied).encode());
        let db = self.db();
        db.write_with_options(batch, &WriteOptions::default()).await.map_err(|e| fs_error(&e))?;
        db.flush_with_options(FlushOptions { flush_type: FlushType::MemTable }).await.map_err(|e| fs_error(&e))
    }

    /// Lets go without writing anything.
    pub(crate) async fn abandon(&self) {
        let _ = self.db().close_with_options(CloseOptions { flush_type: None }).await;
    }

    pub(crate) async fn close(&self) -> FsResult<()> {
        self.db().close().await.map_err(|e| fs_error(&e))
    }
}

async fn connect(store: &Arc<dyn ObjectStore>, path: &str) -> FsResult<Db> {
    let ticks = Arc::new(Ticks::default());
    let db = loop {
        let build = Db::builder(path.to_owned(), store.clone()).with_settings(settings()).with_system_clock(ticks.clone()).build();
        match build.await {
            Ok(db) => break db,
            // Opening itself may write, before the last stamp can be asked for: the refusal tells it.
            Err(e) if ticks.refused(&e.to_string()) => {}
            Err(e) => return Err(fs_error(&e)),
        }
    };
    ticks.not_before(db.manifest().last_l0_clock_tick());
    Ok(db)
}

fn decode(key: Key, bytes: &[u8]) -> FsResult<Row> {
    Row::decode(key, bytes).map_err(|e| FsError::Corrupt(format!("namespace row {key:?}: {e}")))
}
