//! A volume's own view of its store: as it is, or sealed with the keys of its ring.

use super::master::MasterKeys;
use super::ring::{create_ring, open_ring};
use crate::wrap::Seal;
use object_store::ObjectStore;
use orlop_model::{Error, ErrorKind, Result, StoreSpec};
use std::path::Path;
use std::sync::Arc;

/// The store of a volume that exists: what worker and daemon call. `keys_dir` is read only for an encrypted one.
pub async fn volume_store(spec: &StoreSpec, prefix: &str, keys_dir: &Path, encrypt: bool) -> Result<Arc<dyn ObjectStore>> {
    let store = opened(spec).await?;
    if !encrypt {
        return Ok(store);
    }
    match sealed_store(store.clone(), prefix, &MasterKeys::load(keys_dir)?).await {
        // A rotation may have wrapped the ring anew after the keys were read.
        Err(e) if e.kind == ErrorKind::Denied => sealed_store(store, prefix, &MasterKeys::load(keys_dir)?).await,
        other => other,
    }
}

/// The same for a new volume, whose ring is made. Can be repeated.
pub async fn create_volume_store(spec: &StoreSpec, prefix: &str, keys_dir: &Path, encrypt: bool) -> Result<Arc<dyn ObjectStore>> {
    let store = opened(spec).await?;
    if !encrypt {
        return Ok(store);
    }
    let masters = MasterKeys::load(keys_dir)?;
    create_ring(&*store, prefix, &masters).await?;
    sealed_store(store, prefix, &masters).await
}

/// A volume's store opened with keys at hand, from wherever they are.
pub async fn sealed_store(store: Arc<dyn ObjectStore>, prefix: &str, masters: &MasterKeys) -> Result<Arc<dyn ObjectStore>> {
    let (ring, _) = open_ring(&*store, prefix, masters).await?;
    Ok(Seal::wrap(store, prefix, ring.seal_keys()))
}

/// A credentials command may take a while: not on a thread that others wait for.
async fn opened(spec: &StoreSpec) -> Result<Arc<dyn ObjectStore>> {
    let spec = spec.clone();
    tokio::task::spawn_blocking(move || crate::open_spec(&spec))
        .await
        .unwrap_or_else(|e| Err(Error::internal(format!("opening the store ended early: {e}"))))
}
