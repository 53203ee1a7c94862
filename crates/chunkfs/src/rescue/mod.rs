//! Reading a volume out without touching it: no daemon, no registry, and nothing written where it is kept.
//!
//! The volume is opened as ever, by the same code, but over a store and a disk that keep every change in a scratch
//! folder of their own. So recovery runs, the log is replayed and its end is fenced, for this reader alone: a living
//! writer is neither kept out nor fenced, and what is read is what the store held when it was opened. Where a log is
//! damaged and recovery refuses, it runs once more and takes the damage for the log's end. Where the namespace is, an earlier
//! manifest of it may still be whole.

mod disk;
mod store;

use crate::fs::FileSystem;
use crate::log::holder::{self, HOLDER};
use crate::log::lease::{self, Look, Owner};
use crate::open::{OpenConfig, Remote};
use disk::ScratchDisk;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use orlop_model::{Durability, Error, ErrorKind, OutagePolicy, Result, VolumeId};
use orlop_store::VolumeStore;
use std::path::PathBuf;
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
    /// Of a volume whose home is the store: that folder counts though nothing says that its host had the volume last.
    pub trust_state: bool,
    /// A folder for changes that nobody wants to keep; removed by whoever made it.
    pub scratch: PathBuf,
}

/// A volume that is open for reading it out.
#[derive(Debug)]
pub struct Opened {
    /// As it was when its last record was made, or the last one before the damage.
    pub fs: Arc<FileSystem>,
    /// The damage to what was not folded yet, or to what says whose it is, if there is any: what was changed behind it is not there.
    pub lost: Option<String>,
    /// What is elsewhere, as far as the store tells.
    pub elsewhere: Option<String>,
}

/// How many manifests of the namespace are done without, one after the other, to find one that can be read. Each opening writes two, a
/// refused one too.
const OLDER: usize = 64;

/// Opens a volume for reading it out, as far as its logs can be read.
pub async fn open(rescue: &Rescue) -> Result<Opened> {
    let whose = match rescue.remote {
        true => Whose::find(rescue).await?,
        false => Whose::default(),
    };
    let elsewhere = whose.elsewhere.clone();
    let opened = |fs, lost| Opened { fs, lost, elsewhere };
    let why = match attempt(rescue, &whose, "all", false, &[]).await {
        Ok(fs) => return Ok(opened(fs, whose.doubt)),
        Err(e) if matches!(e.kind, ErrorKind::Corrupt | ErrorKind::NotFound) => e,
        Err(e) => return Err(e),
    };
    if let Ok(fs) = attempt(rescue, &whose, "rest", true, &[]).await {
        return Ok(opened(fs, Some(why.message)));
    }
    // Then it is not a log that is damaged, and what was said first says what is.
    let Ok(manifests) = manifests(rescue).await else { return Err(why) };
    for n in 1..manifests.len().min(OLDER + 1) {
        let (older, newer) = manifests.split_at(manifests.len() - n);
        if let Ok(fs) = attempt(rescue, &whose, &format!("older-{n}"), true, newer).await {
            let last = older.last().map(Path::to_string).unwrap_or_default();
            return Ok(opened(fs, Some(format!("{}; what {last} and the logs say was read, and nothing newer", why.message))));
        }
    }
    Err(why)
}

/// The manifests of the namespace, oldest first.
async fn manifests(rescue: &Rescue) -> object_store::Result<Vec<Path>> {
    let below = Path::from(format!("{}/meta/manifest", rescue.prefix));
    let mut all: Vec<Path> = rescue.of.store.list(Some(&below)).map_ok(|m| m.location).try_collect().await?;
    all.sort();
    Ok(all)
}

/// Who had a volume last, and whether the host's folder is his: what another one did not send contradicts what was written since.
#[derive(Debug, Default)]
struct Whose {
    /// What stands in the scratch for the owner record; `None` leaves none.
    owner: Option<Owner>,
    /// The name that the folder goes by in the scratch, if it has none of its own that can be read.
    holder: Option<String>,
    /// Why the folder does not count, though it may hold what was acknowledged.
    doubt: Option<String>,
    elsewhere: Option<String>,
}

impl Whose {
    async fn find(rescue: &Rescue) -> Result<Whose> {
        let path = lease::path(&rescue.prefix);
        let (owner, missing) = match lease::look(&*rescue.of.store, &path).await {
            Ok(Look::Record(owner, _)) => (Some(owner), String::new()),
            Ok(Look::Nothing) => (None, format!("the owner record {path} is missing")),
            Ok(Look::Damaged(why)) => (None, format!("the owner record {path} is damaged ({why})")),
            Err(e) => return Err(orlop_store::error(path, &e)),
        };
        let Some(dir) = &rescue.state_dir else {
            let unsent = owner.as_ref().filter(|o| o.unsent && !o.released);
            let elsewhere = unsent.map(|o| {
                format!(
                    "host {} may have acknowledged changes that it did not send: they are in its folder of the volume (--state)",
                    o.name
                )
            });
            return Ok(Whose { owner: owner.map(Owner::let_go), elsewhere, ..Whose::default() });
        };
        let read = match std::fs::read(dir.join(HOLDER)) {
            Ok(bytes) => holder::parse(&bytes),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io(dir.join(HOLDER).display(), &e)),
        };
        let has_journal = std::fs::read_dir(dir.join("journal"))
            .is_ok_and(|names| names.flatten().any(|n| n.path().extension().is_some_and(|e| e == "journal")));
        let doubt = |why: String| {
            has_journal.then(|| {
                let left_out = format!("what {} has and the store has not was left out", dir.display());
                format!("{why}: {left_out}; if no other host had the volume since, --trust-state counts it")
            })
        };
        Ok(match (owner, read) {
            (Some(owner), Some(id)) => {
                let elsewhere = (owner.holder != id)
                    .then(|| format!("{} is of a host that had the volume before host {}: it does not count", dir.display(), owner.name));
                Whose { owner: Some(owner.let_go()), elsewhere, ..Whose::default() }
            }
            (Some(owner), None) if rescue.trust_state => {
                Whose { holder: Some(owner.holder.clone()), owner: Some(owner.let_go()), ..Whose::default() }
            }
            (Some(owner), None) => {
                let doubt = doubt(format!("{} is missing or damaged, by which the folder is known", dir.join(HOLDER).display()));
                Whose { owner: Some(owner.let_go()), doubt, ..Whose::default() }
            }
            (None, read) if rescue.trust_state => {
                let id = read.unwrap_or_else(|| "0".repeat(32));
                Whose { owner: Some(lease::assumed(&id)), holder: Some(id), ..Whose::default() }
            }
            (None, _) => Whose { doubt: doubt(missing), ..Whose::default() },
        })
    }
}

/// Opens the volume as if some objects `without` which it is tried were not there.
async fn attempt(rescue: &Rescue, whose: &Whose, name: &str, salvage: bool, without: &[Path]) -> Result<Arc<FileSystem>> {
    let scratch = rescue.scratch.join(name);
    let scratch_failed = |e: std::io::Error| Error::io(scratch.display(), &e);
    let (objects, state) = (scratch.join("objects"), scratch.join("state"));
    for dir in [&objects, &state] {
        std::fs::create_dir_all(dir).map_err(scratch_failed)?;
    }
    let store: Arc<dyn ObjectStore> = Arc::new(Scratch::over(rescue.of.store.clone(), &objects)?.without(without));
    let mut config = OpenConfig::new(rescue.volume, store.clone(), &rescue.prefix, &state);
    config.host = Arc::new(ScratchDisk::over(rescue.state_dir.clone(), &state).map_err(scratch_failed)?);
    config.salvage = salvage;
    config = config.sealed(rescue.of.keys.clone());
    if rescue.remote {
        stand_in(&*store, &rescue.prefix, whose.owner.as_ref()).await?;
        if let Some(holder) = &whose.holder {
            std::fs::write(state.join(HOLDER), holder).map_err(scratch_failed)?;
        }
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

/// In the scratch, whoever holds the volume has let go of it.
async fn stand_in(store: &dyn ObjectStore, prefix: &str, owner: Option<&Owner>) -> Result<()> {
    let path = lease::path(prefix);
    match owner {
        Some(owner) => {
            store.put(&path, lease::encode(owner).into()).await.map(drop).map_err(|e| Error::io(path, &std::io::Error::other(e)))
        }
        // One that cannot be read says nothing about whom to keep out; who reads only needs no turn.
        None => match store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(Error::unavailable(format!("{path}: {e}"))),
        },
    }
}

/// Whether a folder looks like a volume's on a host.
pub fn looks_like_state(dir: &std::path::Path) -> bool {
    dir.join("journal").is_dir() && dir.join("staged").is_dir()
}
