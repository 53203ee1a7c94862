//! Reading a volume out without touching it: no daemon, no registry, and nothing written where it is kept.
//!
//! The volume is opened as ever, by the same code, but over a store and a disk that keep every change in a scratch
//! folder of their own. So recovery runs, the log is replayed and its end is fenced, for this reader alone: a living
//! writer is neither kept out nor fenced, and what is read is what the store held when it was opened. Where a log is
//! damaged and recovery refuses, it runs once more and takes the damage for the log's end.

mod disk;
mod store;

use crate::fs::FileSystem;
use crate::log::lease::{self, Look};
use crate::open::{OpenConfig, Remote};
use disk::ScratchDisk;
use object_store::{ObjectStore, ObjectStoreExt};
use orlop_model::{Durability, Error, ErrorKind, OutagePolicy, Result, VolumeId};
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

/// A volume that is open for reading it out.
#[derive(Debug)]
pub struct Opened {
    /// As it was when its last record was made, or the last one before the damage.
    pub fs: Arc<FileSystem>,
    /// The damage to what was not folded yet, if there is any: what was changed behind it is not there.
    pub lost: Option<Error>,
}

/// Opens a volume for reading it out, as far as its logs can be read.
pub async fn open(rescue: &Rescue) -> Result<Opened> {
    let why = match attempt(rescue, "all", false).await {
        Ok(fs) => return Ok(Opened { fs, lost: None }),
        Err(e) if e.kind == ErrorKind::Corrupt => e,
        Err(e) => return Err(e),
    };
    match attempt(rescue, "rest", true).await {
        Ok(fs) => Ok(Opened { fs, lost: Some(why) }),
        // Then it is not a log that is damaged, and what was said first says what is.
        Err(_) => Err(why),
    }
}

async fn attempt(rescue: &Rescue, name: &str, salvage: bool) -> Result<Arc<FileSystem>> {
    let scratch = rescue.scratch.join(name);
    let scratch_failed = |e: std::io::Error| Error::io(scratch.display(), &e);
    let (objects, state) = (scratch.join("objects"), scratch.join("state"));
    for dir in [&objects, &state] {
        std::fs::create_dir_all(dir).map_err(scratch_failed)?;
    }
    let store: Arc<dyn ObjectStore> = Arc::new(Scratch::over(rescue.of.store.clone(), &objects)?);
    let mut config = OpenConfig::new(rescue.volume, store.clone(), &rescue.prefix, &state);
    config.host = Arc::new(ScratchDisk::over(rescue.state_dir.clone(), &state).map_err(scratch_failed)?);
    config.salvage = salvage;
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
    // Read from a copy, which is gone when somebody reads of it.
    let in_place = |e: Error| match &rescue.state_dir {
        Some(dir) => Error { message: e.message.replace(&state.display().to_string(), &dir.display().to_string()), ..e },
        None => e,
    };
    FileSystem::open(config).await.map_err(in_place)
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
