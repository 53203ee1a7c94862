//! Counts requests and bytes, by what a provider's bill tells apart.

use super::{Hook, Hooked, Op};
use async_trait::async_trait;
use object_store::{ObjectStore, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What has been asked of a store so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Objects written, parts and ends of multipart uploads, copies.
    pub writes: u64,
    /// Objects or ranges read.
    pub reads: u64,
    /// Metadata only.
    pub heads: u64,
    /// Listings begun.
    pub lists: u64,
    /// Deletions.
    pub deletes: u64,
    /// Requests that ended in an error, or never reached the store.
    pub failed: u64,
    /// Bytes sent.
    pub bytes_written: u64,
    /// Bytes asked for.
    pub bytes_read: u64,
}

/// The hook that counts.
#[derive(Debug, Default)]
pub struct Meter {
    writes: AtomicU64,
    reads: AtomicU64,
    heads: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    failed: AtomicU64,
    bytes_written: AtomicU64,
    bytes_read: AtomicU64,
}

impl Meter {
    /// Puts a meter around a store.
    pub fn wrap(store: Arc<dyn ObjectStore>) -> Arc<Hooked<Meter>> {
        Hooked::new(store, Arc::new(Meter::default()))
    }

    /// What was counted so far. Requests under way are not in it.
    pub fn counts(&self) -> Counts {
        Counts {
            writes: self.writes.load(Relaxed),
            reads: self.reads.load(Relaxed),
            heads: self.heads.load(Relaxed),
            lists: self.lists.load(Relaxed),
            deletes: self.deletes.load(Relaxed),
            failed: self.failed.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
        }
    }
}

#[async_trait]
impl Hook for Meter {
    async fn after(&self, op: &Op, bytes: u64, ok: bool) -> Result<()> {
        let (requests, moved) = match op {
            Op::Put { .. } | Op::Begin { .. } | Op::Part { .. } | Op::Complete { .. } | Op::Copy { .. } | Op::Rename { .. } => {
                (&self.writes, Some(&self.bytes_written))
            }
            Op::Get { head: true, .. } => (&self.heads, None),
            Op::Get { head: false, .. } => (&self.reads, Some(&self.bytes_read)),
            Op::List { .. } => (&self.lists, None),
            Op::Delete { .. } => (&self.deletes, None),
        };
        requests.fetch_add(1, Relaxed);
        if !ok {
            self.failed.fetch_add(1, Relaxed);
        }
        if let Some(moved) = moved {
            moved.fetch_add(bytes, Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{GetOptions, ObjectStoreExt};

    #[tokio::test]
    async fn what_is_asked_is_counted() {
        let store = Meter::wrap(Arc::new(InMemory::new()));
        let at = Path::from("a");
        store.put(&at, vec![7; 100].into()).await.expect("puts");
        assert_eq!(store.get_range(&at, 10..40).await.expect("reads").len(), 30);
        store.head(&at).await.expect("is there");
        store.list_with_delimiter(None).await.expect("lists");
        store.delete(&at).await.expect("deletes");
        assert!(store.get_opts(&at, GetOptions::default()).await.is_err());
        let expected = Counts { writes: 1, reads: 2, heads: 1, lists: 1, deletes: 1, failed: 1, bytes_written: 100, bytes_read: 30 };
        assert_eq!(store.hook().counts(), expected);
    }
}
