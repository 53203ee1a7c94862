//! A volume's own view of its store: as it is, or sealed with the keys of its ring.

use super::host::HostKeys;
use super::master::MasterKeys;
use super::ring::{create_ring, open_ring, read_ring};
use crate::wrap::Seal;
use object_store::ObjectStore;
use orlop_model::{Error, ErrorKind, Result, StoreSpec};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// What a volume is opened with.
#[derive(Debug, Clone)]
pub struct VolumeStore {
    /// Its store, as who reads the volume sees it.
    pub store: Arc<dyn ObjectStore>,
    /// What its files on a host are sealed with, if it is encrypted.
    pub keys: Option<Arc<HostKeys>>,
}

/// The store of a volume that exists: what worker and daemon call. `keys_dir` is read only for an encrypted one.
pub async fn volume_store(spec: &StoreSpec, prefix: &str, keys_dir: &Path, encrypt: bool) -> Result<VolumeStore> {
    let store = opened(spec).await?;
    if !encrypt {
        return Ok(VolumeStore { store, keys: None });
    }
    let masters = match MasterKeys::load(keys_dir) {
        // Which of several backups is the right one, the ring says.
        Err(e) if e.kind == ErrorKind::NotFound => return Err(naming_the_key(e, &*store, prefix).await),
        loaded => loaded?,
    };
    match sealed_volume(store.clone(), prefix, &masters).await {
        // A rotation may have wrapped the ring anew after the keys were read.
        Err(e) if e.kind == ErrorKind::Denied => sealed_volume(store, prefix, &MasterKeys::load(keys_dir)?).await,
        other => other,
    }
}

async fn naming_the_key(e: Error, store: &dyn ObjectStore, prefix: &str) -> Error {
    let Ok((ring, _)) = read_ring(store, prefix).await else { return e };
    let needed: BTreeSet<String> = ring.keys.iter().map(|key| key.master.to_string()).collect();
    let named = needed.into_iter().collect::<Vec<_>>().join(" and ");
    Error { message: format!("{}; the volume is sealed under master key {named}", e.message), ..e }
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

/// An encrypted volume opened with keys at hand, from wherever they are.
pub async fn sealed_volume(store: Arc<dyn ObjectStore>, prefix: &str, masters: &MasterKeys) -> Result<VolumeStore> {
    let (ring, _) = open_ring(&*store, prefix, masters).await?;
    Ok(VolumeStore { store: Seal::wrap(store, prefix, ring.seal_keys()), keys: Some(Arc::new(ring.host_keys())) })
}

/// Its store alone.
pub async fn sealed_store(store: Arc<dyn ObjectStore>, prefix: &str, masters: &MasterKeys) -> Result<Arc<dyn ObjectStore>> {
    Ok(sealed_volume(store, prefix, masters).await?.store)
}

/// A credentials command may take a while: not on a thread that others wait for.
async fn opened(spec: &StoreSpec) -> Result<Arc<dyn ObjectStore>> {
    let spec = spec.clone();
    tokio::task::spawn_blocking(move || crate::open_spec(&spec))
        .await
        .unwrap_or_else(|e| Err(Error::internal(format!("opening the store ended early: {e}"))))
}
