//! A namespace that is written from nothing, row by row, where none is: for a volume whose own is damaged.

use super::{database, fs_error, guarded, prefix_of};
use crate::key::Key;
use crate::types::FsResult;
use object_store::ObjectStore;
use slatedb::config::{FlushOptions, FlushType, WriteOptions};
use slatedb::{Db, WriteBatch};
use std::sync::Arc;

/// Bytes of rows that are written together, and of those in a table.
const BATCH: usize = 1 << 20;
const TABLE: usize = 48 << 20;

pub(crate) struct Anew {
    db: Db,
    batch: WriteBatch,
    /// Bytes in the batch, and written since the last table.
    waiting: usize,
    unflushed: usize,
}

impl Anew {
    pub(crate) async fn begin(store: Arc<dyn ObjectStore>, path: &str) -> FsResult<Anew> {
        let store = guarded(store, prefix_of(path));
        let db = database(&store, path, &Arc::default(), &Arc::default()).await?;
        Ok(Anew { db, batch: WriteBatch::new(), waiting: 0, unflushed: 0 })
    }

    /// Puts the bytes of a row; of one that was put before, in its place.
    pub(crate) async fn put(&mut self, key: Key, row: &[u8]) -> FsResult<()> {
        let key = key.encode();
        self.waiting += key.len() + row.len();
        self.batch.put(key, row);
        if self.waiting >= BATCH { self.write().await } else { Ok(()) }
    }

    async fn write(&mut self) -> FsResult<()> {
        let batch = std::mem::take(&mut self.batch);
        self.unflushed += std::mem::take(&mut self.waiting);
        if !batch.is_empty() {
            self.db.write_with_options(batch, &WriteOptions::default()).await.map_err(|e| fs_error(&e))?;
        }
        if self.unflushed >= TABLE { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> FsResult<()> {
        if std::mem::take(&mut self.unflushed) == 0 {
            return Ok(());
        }
        self.db.flush_with_options(FlushOptions { flush_type: FlushType::MemTable }).await.map_err(|e| fs_error(&e))
    }

    /// All rows were put: it can be opened from now on.
    pub(crate) async fn end(mut self) -> FsResult<()> {
        self.write().await?;
        self.flush().await?;
        self.db.close().await.map_err(|e| fs_error(&e))
    }
}
