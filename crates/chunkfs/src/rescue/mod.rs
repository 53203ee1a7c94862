//! Reading a volume out without touching it: no daemon, no registry, and nothing written where it is kept.
//!
//! The volume is opened as ever, by the same code, but over a store and a disk that keep every change in a scratch
//! folder of their own. So recovery runs, the log is replayed and its end is fenced, for this reader alone: a living
//! writer is neither kept out nor fenced, and what is read is what the store held when it was opened. Where a log is
//! damaged and recovery refuses, it runs once more and takes the damage for the log's end. Where the namespace's newest manifest is, an
//! earlier one may still be whole. Where its tables are, it is made anew, in the scratch, of what of them can be read.

pub(crate) mod blocks;
mod disk;
mod ends;
mod merge;
mod rebuild;
mod segments;
mod spans;
mod store;
mod tables;

use crate::fs::{FileSystem, after};
use crate::key::Key;
use crate::log::holder::{self, HOLDER};
use crate::log::lease::{self, Look, Owner};
use crate::namespace::Missing;
use crate::open::{OpenConfig, Remote};
use crate::row::Row;
use crate::types::{Attr, FsResult, Ino};
use disk::ScratchDisk;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use orlop_model::{Durability, Error, ErrorKind, OutagePolicy, Result, VolumeId};
use orlop_store::VolumeStore;
use rebuild::Rebuilt;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::Scratch;
use tables::{Damaged, Looks};

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
    /// The damage to what was not folded yet, or to what says whose it is, if there is any: what was changed behind it is not there. Or
    /// to tables of its namespace: names and attributes of these are not there.
    pub lost: Option<String>,
    /// Tables of its namespace are damaged, and it is made of what of them can be read. Inodes may have lost the names that led to them:
    /// see [`inodes`].
    pub rebuilt: bool,
    /// What is elsewhere, as far as the store tells.
    pub elsewhere: Option<String>,
}

/// How many manifests of the namespace are done without, one after the other, to find one that can be read. Each opening writes two, a
/// refused one too.
const OLDER: usize = 64;

/// Opens a volume for reading it out, as far as its namespace and its logs can be read.
pub async fn open(rescue: &Rescue) -> Result<Opened> {
    let whose = match rescue.remote {
        true => Whose::find(rescue).await?,
        false => Whose::default(),
    };
    let opened = |fs, lost: Vec<String>, rebuilt| {
        let lost: Vec<String> = lost.into_iter().chain(whose.doubt.clone()).collect();
        Opened { fs, lost: (!lost.is_empty()).then(|| lost.join("; ")), rebuilt, elsewhere: whose.elsewhere.clone() }
    };
    let mut looks = Looks::default();
    let why = match tables::look(rescue, &[], &mut looks).await? {
        Some(damaged) => match anew(rescue, &whose, "tables", &damaged).await {
            Ok(Some((fs, lost))) => return Ok(opened(fs, vec![lost], true)),
            Ok(None) => None,
            Err(e) if is_damage(&e) => Some(e),
            Err(e) => return Err(e),
        },
        None => None,
    };
    let why = match why {
        Some(why) => why,
        None => match attempt(rescue, &whose, "all", false, &[], None).await {
            Ok(fs) => return Ok(opened(fs, Vec::new(), false)),
            Err(e) if is_damage(&e) => {
                if let Ok(fs) = attempt(rescue, &whose, "rest", true, &[], None).await {
                    return Ok(opened(fs, vec![e.message], false));
                }
                e
            }
            Err(e) => return Err(e),
        },
    };
    // Then it is not a log that is damaged, and what was said first says what is.
    let Ok(manifests) = manifests(rescue).await else { return Err(why) };
    let said = |older: &[Path]| {
        let last = older.last().map(Path::to_string).unwrap_or_default();
        format!("{}; what {last} and the logs say was read, and nothing newer", why.message)
    };
    let mut damaged = Vec::new();
    for n in 1..manifests.len().min(OLDER + 1) {
        let (older, newer) = manifests.split_at(manifests.len() - n);
        match tables::look(rescue, newer, &mut looks).await {
            Ok(Some(found)) => damaged.push((n, older, found)),
            Ok(None) => {
                if let Ok(fs) = attempt(rescue, &whose, &format!("older-{n}"), true, newer, None).await {
                    return Ok(opened(fs, vec![said(older)], false));
                }
            }
            Err(_) => return Err(why),
        }
    }
    for (n, older, found) in damaged {
        if let Ok(Some((fs, lost))) = anew(rescue, &whose, &format!("older-tables-{n}"), &found).await {
            return Ok(opened(fs, vec![said(older), lost], true));
        }
    }
    Err(why)
}

fn is_damage(e: &Error) -> bool {
    matches!(e.kind, ErrorKind::Corrupt | ErrorKind::NotFound)
}

/// Opens the volume over a namespace that is made of what can be read of these tables, and says what is damaged. `None` if they are not
/// as tables are known to be.
async fn anew(rescue: &Rescue, whose: &Whose, name: &str, damaged: &Damaged) -> Result<Option<(Arc<FileSystem>, String)>> {
    let Some(tables) = tables::take(rescue, damaged, &rescue.scratch.join(name)).await? else { return Ok(None) };
    let (mut logged, mut pass) = (BTreeSet::new(), 0);
    loop {
        pass += 1;
        let name = format!("{name}-{pass}");
        let rebuilt = rebuild::write(rescue, whose, &tables, &rescue.scratch.join(&name), &logged).await?;
        let over = Some(&rebuilt);
        let (fs, why) = match attempt(rescue, whose, &format!("{name}-all"), false, &[], over).await {
            Ok(fs) => (fs, None),
            Err(e) if is_damage(&e) => (attempt(rescue, whose, &format!("{name}-rest"), true, &[], over).await?, Some(e.message)),
            Err(e) => return Err(e),
        };
        let found = logged_of(&fs);
        // What a log goes on with is newer than what is lost: of the same file nothing may come that is older.
        if found.iter().any(|ino| !logged.contains(ino) && tables.may_lack(Key::Inode(*ino))) {
            fs.abandon().await;
            logged.extend(found);
            continue;
        }
        let mut lost = vec![tables.sentence()];
        for (n, what) in [(rebuilt.bare_folders, "attributes of folders"), (rebuilt.without_xattrs, "extended attributes")] {
            if n > 0 {
                lost.push(format!("{what} are missing in {n} cases"));
            }
        }
        lost.extend(why);
        return Ok(Some((fs, lost.join("; "))));
    }
}

/// Inodes that a log says something of which is not folded.
fn logged_of(fs: &FileSystem) -> BTreeSet<Ino> {
    let st = fs.lock();
    let rows = st.overlay.keys().chain(st.folding.iter().flat_map(|rows| rows.keys()));
    rows.filter(|key| matches!(key, Key::Inode(_) | Key::Chunk(..) | Key::Xattrs(_))).filter_map(|key| key.ino()).collect()
}

/// Inodes from a number on, in their order and some at a time, whether a name leads to them or not, but none that was removed; and with
/// which number to go on, if there are more.
pub async fn inodes(fs: &FileSystem, from: Ino) -> FsResult<(Vec<Attr>, Option<Ino>)> {
    const SOME: usize = 1024;
    let rows = fs.scan(Key::Inode(from), Key::Dirent(0, 0), SOME).await?;
    let next = rows.last().filter(|_| rows.len() == SOME).and_then(|(key, _)| after(*key).ino());
    let attrs = rows.into_iter().filter_map(|(key, row)| match (key, row) {
        (Key::Inode(ino), Row::Inode(inode)) if inode.nlink > 0 => Some(inode.attr(ino)),
        _ => None,
    });
    Ok((attrs.collect(), next))
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
    /// Why the folder does not count, though it may hold what was acknowledged; or why nobody knows whether another one does.
    doubt: Option<String>,
    elsewhere: Option<String>,
}

impl Whose {
    async fn find(rescue: &Rescue) -> Result<Whose> {
        let path = lease::path(&rescue.prefix);
        // Asked first: who opens the volume meanwhile leaves a record before anything else.
        let was_opened = was_opened(rescue).await?;
        let (owner, missing, is_damaged) = match lease::look(&*rescue.of.store, &path).await {
            Ok(Look::Record(owner, _)) => (Some(owner), String::new(), false),
            Ok(Look::Nothing) => (None, format!("the owner record {path} is missing"), false),
            Ok(Look::Damaged(why)) => (None, format!("the owner record {path} is damaged ({why})"), true),
            Err(e) => return Err(orlop_store::error(path, &e)),
        };
        // A volume that nobody opened yet has no record, and nobody has changes of it.
        let is_lost = owner.is_none() && (is_damaged || was_opened);
        let unknown = is_lost.then(|| format!("{missing}: whether a host has changes that it did not send is not known"));
        let Some(dir) = &rescue.state_dir else {
            let elsewhere = match &owner {
                Some(owner) => unsent(owner),
                None => is_lost.then(|| {
                    "if a host had the volume under durability local, give its folder of it with --state and --trust-state: it may hold \
                     changes that the store does not have"
                        .to_owned()
                }),
            };
            return Ok(Whose { owner: owner.map(Owner::let_go), doubt: unknown, elsewhere, ..Whose::default() });
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
                let elsewhere = (owner.holder != id).then(|| {
                    let left_out =
                        format!("{} is of a host that had the volume before host {}: it does not count", dir.display(), owner.name);
                    [Some(left_out), unsent(&owner)].into_iter().flatten().collect::<Vec<_>>().join("; ")
                });
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
            (None, _) => Whose { doubt: doubt(missing).or(unknown), ..Whose::default() },
        })
    }
}

/// What the store does not have, as far as its last owner says.
fn unsent(owner: &Owner) -> Option<String> {
    (owner.unsent && !owner.released).then(|| {
        format!("host {} may have acknowledged changes that it did not send: they are in its folder of the volume (--state)", owner.name)
    })
}

/// Whether anybody opened the volume yet, and so wrote an owner record, which stays.
async fn was_opened(rescue: &Rescue) -> Result<bool> {
    for folder in ["log", "meta"] {
        let below = Path::from(format!("{}/{folder}", rescue.prefix));
        let first = rescue.of.store.list(Some(&below)).try_next().await;
        if first.map_err(|e| orlop_store::error(format_args!("listing {below}"), &e))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Opens the volume as if some objects `without` which it is tried were not there; or over what was rebuilt of it.
async fn attempt(
    rescue: &Rescue,
    whose: &Whose,
    name: &str,
    salvage: bool,
    without: &[Path],
    over: Option<&Rebuilt>,
) -> Result<Arc<FileSystem>> {
    let scratch = rescue.scratch.join(name);
    let scratch_failed = |e: std::io::Error| Error::io(scratch.display(), &e);
    let (objects, state) = (scratch.join("objects"), scratch.join("state"));
    for dir in [&objects, &state] {
        std::fs::create_dir_all(dir).map_err(scratch_failed)?;
    }
    let below = over.map_or(&rescue.of.store, |rebuilt| &rebuilt.store);
    let store: Arc<dyn ObjectStore> = Arc::new(Scratch::over(below.clone(), &objects)?.without(without));
    let mut config = OpenConfig::new(rescue.volume, store.clone(), &rescue.prefix, &state);
    config.host = Arc::new(ScratchDisk::over(rescue.state_dir.clone(), &state).map_err(scratch_failed)?);
    config.salvage = salvage;
    // Nothing of this has to be durable.
    config.first_rest = Duration::ZERO;
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
    let missing = over.map_or_else(Missing::default, |rebuilt| rebuilt.missing.clone());
    FileSystem::open_lacking(config, missing).await.map_err(in_place)
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
