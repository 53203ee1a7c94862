//! The log that SlateDB would keep, which is none: the volume's journal is the only one.
//!
//! With its log switched off SlateDB still looks for one at each opening and fences it with an object that nobody ever
//! removes: three round trips. What fences an older writer of a database without a log is the manifest's epoch alone.

use async_trait::async_trait;
use slatedb::wal::{
    WalError, WalFlushResult, WalIterator, WalObserver, WalRows, WalStatus, WalStatusListener, WalWriter, WriterInit, WriterInitResult,
    WriterManifest,
};

/// Opens a database that has no log.
pub(super) struct Unlogged;

#[async_trait]
impl WriterInit for Unlogged {
    async fn fence_and_init(&self, manifest: &mut WriterManifest) -> Result<WriterInitResult, WalError> {
        // The number stays where earlier versions left it, who fenced a log at each opening: it may not go back.
        let now = manifest.manifest();
        let log = NoLog { last: now.replay_after_wal_id().max(now.next_wal_sst_id().saturating_sub(1)) };
        Ok(WriterInitResult { replay_iterator: Box::new(log), wal_writer: Box::new(log) })
    }
}

/// Its reader, writer and observer: nothing was written, and nothing can be.
#[derive(Clone, Copy)]
struct NoLog {
    last: u64,
}

impl NoLog {
    fn closed(self) -> WalStatus {
        WalStatus {
            closed_reason: Some(WalError::Closed),
            estimated_bytes: 0,
            last_flushed_wal_id: self.last,
            last_flushed_seq: None,
            buffered_wal_entries_count: 0,
        }
    }
}

#[async_trait]
impl WalIterator for NoLog {
    async fn next(&mut self) -> Result<Option<WalRows>, WalError> {
        Ok(None)
    }
}

#[async_trait]
impl WalWriter for NoLog {
    async fn append(&mut self, _: &[slatedb::RowEntry]) -> Result<(), WalError> {
        Err(WalError::Closed)
    }

    async fn flush(&mut self) -> Result<WalFlushResult, WalError> {
        Err(WalError::Closed)
    }

    fn observer(&self) -> Box<dyn WalObserver> {
        Box::new(*self)
    }

    fn status(&self) -> Result<WalStatus, WalStatus> {
        Err(self.closed())
    }

    async fn close(&mut self) -> Result<(), WalError> {
        Ok(())
    }
}

impl WalObserver for NoLog {
    fn status(&self) -> Result<WalStatus, WalStatus> {
        Err(self.closed())
    }

    fn subscribe(&self, _: WalStatusListener) -> Result<(), WalError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Namespace, guarded, settings};
    use crate::key::Key;
    use crate::row::Row;
    use object_store::memory::InMemory;
    use slatedb::Db;
    use slatedb::config::{FlushOptions, FlushType};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    /// As earlier versions opened a namespace: with SlateDB's own log, of which nothing but fences was written.
    async fn open_as_before(store: &Arc<InMemory>) -> Db {
        Db::builder("v/meta", guarded(store.clone(), "v")).with_settings(settings()).build().await.expect("opens")
    }

    async fn fold_and_look(store: &Arc<InMemory>, applied: u64) {
        let ns = Namespace::open(store.clone(), "v/meta".to_owned(), Arc::new(|| None)).await.expect("opens");
        ns.fold(&BTreeMap::new(), &[], applied).await.expect("folds");
        ns.close().await.expect("closes");
        let ns = Namespace::open(store.clone(), "v/meta".to_owned(), Arc::new(|| None)).await.expect("opens");
        assert_eq!(ns.get(Key::Applied).await.expect("reads"), Some(Row::Applied(applied)));
        ns.abandon().await;
    }

    #[tokio::test]
    async fn a_namespace_of_an_earlier_version_goes_on_here_and_there() {
        let store = Arc::new(InMemory::new());
        for life in 0..3u64 {
            // Opened and closed, with nothing to fold; then with something.
            open_as_before(&store).await.close().await.expect("closes");
            fold_and_look(&store, 10 * life + 1).await;
            let db = open_as_before(&store).await;
            db.put(Key::Applied.encode(), Row::Applied(10 * life + 2).encode()).await.expect("put");
            db.flush_with_options(FlushOptions { flush_type: FlushType::MemTable }).await.expect("flushes");
            db.close().await.expect("closes");
            fold_and_look(&store, 10 * life + 3).await;
        }
    }
}
