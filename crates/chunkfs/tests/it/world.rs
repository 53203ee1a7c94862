//! A volume in a temporary folder that can be closed, killed and opened again.

use orlop_chunkfs::{FileSystem, OpenConfig, format_volume};
use orlop_model::VolumeId;
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) struct World {
    dir: tempfile::TempDir,
    volume: VolumeId,
}

impl World {
    pub(crate) async fn new() -> (World, Arc<FileSystem>) {
        let world = World { dir: tempfile::tempdir().expect("a temporary folder"), volume: VolumeId::random() };
        let config = world.config();
        format_volume(&config.store, &config.prefix, world.volume).await.expect("formatted");
        let fs = FileSystem::open(config).await.expect("opened");
        (world, fs)
    }

    pub(crate) fn config(&self) -> OpenConfig {
        let url = format!("file://{}", self.dir.path().join("store").display());
        let store = orlop_store::open(&url).expect("a local store");
        OpenConfig::new(self.volume, store, format!("volumes/{}", self.volume), self.state_dir())
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) async fn open(&self) -> Arc<FileSystem> {
        FileSystem::open(self.config()).await.expect("opened again")
    }
}
