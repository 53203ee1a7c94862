//! Reading what finds rows before somebody looks for one.
//!
//! A row that is looked for in an object of which nothing was read yet costs the object's filter, its index and a block, one
//! after the other, and the rows of one path lie in several objects. On a far store that is most of what the first
//! `stat` after a mount waits for. Filters and indexes are a fortieth of the rows, and are read side by side.

use futures::StreamExt;
use slatedb::db_cache::CacheTarget;
use slatedb::{Db, DbCacheManagerOps};

/// Most bytes that are read ahead of any need: a namespace of some million files is found by less.
const MOST: u64 = 6 << 20;
/// Objects at once.
const TOGETHER: usize = 8;

/// The task that does it. It ends with its owner.
pub(super) struct Warming(tokio::task::JoinHandle<()>);

impl Warming {
    pub(super) fn start(db: Db) -> Warming {
        Warming(tokio::spawn(warm(db)))
    }
}

impl Drop for Warming {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads filters and indexes of the youngest objects, as many as there is room for. What fails is read when it is needed.
async fn warm(db: Db) {
    let manifest = db.manifest();
    let mut bytes = 0;
    let some: Vec<_> = manifest
        .all_sst_views()
        .map(|view| &view.sst)
        .take_while(|sst| {
            bytes += sst.info.index_len + sst.info.filter_len;
            bytes <= MOST
        })
        .map(|sst| sst.id)
        .collect();
    let db = &db;
    futures::stream::iter(some)
        .for_each_concurrent(TOGETHER, |id| async move {
            let read = async |what| {
                if let Err(e) = db.warm_sst(id, &[what]).await {
                    tracing::debug!(?id, error = %e, "could not be read ahead");
                }
            };
            futures::join!(read(CacheTarget::Filters), read(CacheTarget::Index));
        })
        .await;
}
