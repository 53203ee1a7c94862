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
        // The number stays where earlier openings left it.
        let log = NoLog { last: manifest.replay_after_wal_id() };
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
