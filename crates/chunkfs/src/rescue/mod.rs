//! Reading a volume out without touching it: no daemon, no registry, and nothing written where it is kept.
//!
//! The volume is opened as ever, by the same code, but over a store and a disk that keep every change in a scratch
//! folder of their own. So recovery runs, the log is replayed and its end is fenced, for this reader alone: a living
//! writer is neither kept out nor fenced, and what is read is what the store held when it was opened.

mod disk;
mod store;

use crate::fs::FileSystem;
use crate::log::lease::{self, Look};
use crate::open::{OpenConfig, Remote};
use disk::ScratchDisk;
use object_store::{ObjectStore, ObjectStoreExt};
use orlop_model::{Durability, Error, OutagePolicy, Result, VolumeId};
use orlop_store::VolumeStore;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::Scratch;

/// Where a volume's bytes are that is to be read out.
#[derive(Debug)]
pub struct Rescue {
    /// Which volume.
    pub volume: VolumeId,
    /// Its store, with the seal taken off if it has one, and the keys for its files on the host.
    pub of: VolumeStore,
    /// Its path below the store's root.
    pub prefix: String,
    /// Whether the store is its home; else the host's folder holds what is not folded, and all data.
    pub remote: bool,
    /// The host's folder for its journal and staged segments, if that is at hand.
    pub state_dir: Option<PathBuf>,
    /// A folder for changes that nobody wants to keep; removed by whoever made it.
    pub scratch: PathBuf,
}

/// Opens a volume for reading it out.
pub async fn open(rescue: &Rescue) -> Result<Arc<FileSystem>> {
    let scratch_failed = |e: std::io::Error| Error::io(rescue.scratch.display(), &e);
    let (objects, state) = (rescue.scratch.join("objects"), rescue.scratch.join("state"));
    for dir in [&objects, &state] {
        std::fs::create_dir_all(dir).map_err(scratch_failed)?;
    }
    let store: Arc<dyn ObjectStore> = Arc::new(Scratch::over(rescue.of.store.clone(), &objects)?);
    let mut config = OpenConfig::new(rescue.volume, store.clone(), &rescue.prefix, &state);
    config.host = Arc::new(ScratchDisk::over(rescue.state_dir.clone(), &state).map_err(scratch_failed)?);
    config = config.sealed(rescue.of.keys.clone());
    if rescue.remote {
        release(&*store, &rescue.prefix).await?;
        config.remote = Some(Remote {
            durability: Durability::Remote,
            outage: OutagePolicy::Fail,
            outage_deadline: Duration::from_secs(60),
            holder: "a reader that keeps nobody out".to_owned(),
            // What others may still have to send is theirs as before: nothing of this reaches the store.
            abandon_unsynced: true,
            ..Remote::default()
        });
    }
    FileSystem::open(config).await
}

/// In the scratch, the writer that holds the volume has let go of it.
async fn release(store: &dyn ObjectStore, prefix: &str) -> Result<()> {
    let path = lease::path(prefix);
    let bytes = match lease::look(store, &path).await {
        Ok(Look::Record(owner, _)) => lease::encode(&owner.let_go()),
        Ok(Look::Nothing) => return Ok(()),
        // One that cannot be read says nothing about whom to keep out; who reads only needs no turn.
        Ok(Look::Damaged(why)) => {
            tracing::warn!(%path, %why, "the owner record is damaged");
            return store.delete(&path).await.map_err(|e| Error::unavailable(format!("{path}: {e}")));
        }
        Err(e) => return Err(orlop_store::error(path, &e)),
    };
    store.put(&path, bytes.into()).await.map(drop).map_err(|e| Error::io(path, &std::io::Error::other(e)))
}

/// Whether a folder looks like a volume's on a host.
pub fn looks_like_state(dir: &Path) -> bool {
    dir.join("journal").is_dir() && dir.join("staged").is_dir()
}
