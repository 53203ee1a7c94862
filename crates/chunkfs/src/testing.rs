//! A volume on a local store, for the tests within this crate.

use crate::fs::FileSystem;
use crate::host::HostDisk;
use crate::open::{OpenConfig, format_volume};
use crate::sealing::KeyedDisk;
use crate::types::Caller;
use orlop_model::VolumeId;
use orlop_store::keys::{HostKeys, KeyId, Secret};
use std::path::Path;
use std::sync::Arc;

pub(crate) const CX: Caller = Caller { uid: 0, gid: 0, request: 0, keeps_times: false };

pub(crate) async fn volume(dir: &Path) -> Arc<FileSystem> {
    let id = VolumeId::random();
    let store = orlop_store::open(&format!("file://{}", dir.join("store").display())).expect("a store");
    let config = OpenConfig::new(id, store, format!("volumes/{id}"), dir.join("state"));
    format_volume(&config.store, &config.prefix, id).await.expect("formatted");
    FileSystem::open(config).await.expect("opened")
}

/// A disk with the keys of a new ring.
pub(crate) fn keyed(disk: Arc<dyn HostDisk>) -> Arc<dyn HostDisk> {
    let (id, secret) = (KeyId::random(), Secret::random());
    KeyedDisk::over(disk, Some(Arc::new(HostKeys::new(id, [(id, &secret)]).expect("it is there"))))
}
