//! Who may write a volume: the owner record in its store, replaced only by who knows the one before.
//!
//! A writer shows that it lives by replacing its record now and then. Who wants the volume watches the record for as
//! long as it says it may stand still, by its own clock: no two clocks are compared. A new owner has a new epoch.
//! Epochs order writers; what keeps a writer of an older epoch from doing harm is the fence in the log's chain and
//! SlateDB's own, not this record: it only says when to try.

use crate::open::Remote;
use crate::types::{FsError, FsResult};
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};
use orlop_model::{Durability, Error, ErrorKind, Result};
use orlop_store::wrap::BrokenSeal;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const VERSION: u32 = 2;
/// How long taking the record waits for a store that does not answer.
const STORE_PATIENCE: Duration = Duration::from_secs(30);
/// How often a record is read before it counts as damaged.
const ATTEMPTS: u32 = 3;

/// The object `owner.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Owner {
    version: u32,
    /// Raised by every opening.
    pub(crate) epoch: u64,
    /// The folder on a host that holds the volume's local state, by a random id.
    pub(crate) holder: String,
    /// The host's name, for messages.
    pub(crate) name: String,
    /// Raised by every sign of life.
    renewed: u64,
    /// How long after one this writer counts as alive.
    lease_ms: u64,
    /// Let go of in an orderly way.
    pub(crate) released: bool,
    /// What its fsyncs promised.
    durability: Durability,
    /// Whether its host may hold acknowledged changes that are not in the store.
    pub(crate) unsent: bool,
    /// Tells this record from another attempt.
    nonce: String,
    /// Every place of the log below this number had arrived. Version 1 did not say.
    #[serde(default)]
    arrived: u64,
    /// Digest of the record, this field empty. Version 1 had none.
    #[serde(default)]
    check: String,
}

/// What stands where the owner record should be.
#[derive(Debug)]
pub(crate) enum Look {
    Nothing,
    Record(Owner, UpdateVersion),
    /// Something that no writer wrote, and why it is not a record.
    Damaged(String),
}

impl Owner {
    /// Every place of the log below this number had arrived.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// The same, as if its writer had let go with everything sent.
    pub(crate) fn let_go(self) -> Owner {
        Owner { released: true, unsent: false, ..self }
    }
}

/// A record for who reads a volume out whose record is lost: this holder had it, and let go of it. The log knows the epoch.
pub(crate) fn assumed(holder: &str) -> Owner {
    Owner {
        version: VERSION,
        epoch: 1,
        holder: holder.to_owned(),
        name: String::new(),
        renewed: 0,
        lease_ms: 0,
        released: true,
        durability: Durability::Local,
        unsent: false,
        nonce: nonce(),
        arrived: 0,
        check: String::new(),
    }
}

/// The bytes of a record.
pub(crate) fn encode(owner: &Owner) -> Vec<u8> {
    let bare = Owner { version: VERSION, check: String::new(), ..owner.clone() };
    let digest = blake3::hash(&serde_json::to_vec(&bare).expect("a plain struct is JSON")).to_hex();
    serde_json::to_vec(&Owner { check: digest[..32].to_owned(), ..bare }).expect("a plain struct is JSON")
}

/// Reads a record, or says why it is none.
pub(crate) fn decode(bytes: &[u8]) -> std::result::Result<Owner, String> {
    // The version is read first and alone: a newer record may hold anything else.
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| format!("it is not JSON: {e}"))?;
    let version = value.get("version").and_then(serde_json::Value::as_u64).ok_or("it has no version")?;
    if version > u64::from(VERSION) {
        return Err(format!("it is of version {version}; this version of Orlop reads {VERSION}"));
    }
    let owner: Owner = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let whole = match owner.version {
        VERSION => encode(&owner) == bytes,
        _ => owner.check.is_empty() && owner.arrived == 0,
    };
    if whole { Ok(owner) } else { Err("it is not as it was written".to_owned()) }
}

/// The error of who finds it so.
pub(crate) fn damaged(path: &StorePath, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the owner record {path} is damaged: {why}")).with_remedy(REGAIN)
}

const REGAIN: &str = "make sure that no other host uses the volume or holds changes of it that were not sent; then give up whatever those \
     may have been, and take it with: orlop mount --abandon-unsynced";

/// The owner record, as this process holds it.
#[derive(Debug)]
pub(crate) struct Lease {
    store: Arc<dyn ObjectStore>,
    path: StorePath,
    epoch: AtomicU64,
    pub(crate) duration: Duration,
    held: tokio::sync::Mutex<Held>,
    /// Until when nobody else can have taken the volume, in milliseconds of the host's running time, sleep included.
    valid_until: AtomicU64,
    /// Whether the record in the store says for sure that there is something unsent.
    unsent: AtomicBool,
    /// Every place of the log below this number has arrived: the next record says so.
    arrived: AtomicU64,
}

#[derive(Debug)]
struct Held {
    owner: Owner,
    at: UpdateVersion,
}

/// Milliseconds since the host's boot, time asleep included: a suspended host's lease runs out too.
pub(crate) fn uptime_ms() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000
}

pub(crate) fn path(prefix: &str) -> StorePath {
    StorePath::from(format!("{prefix}/owner.json"))
}

/// A record as it stands in the store, for the fuzz targets.
pub(crate) fn sample_records() -> Vec<Vec<u8>> {
    let owner = Owner {
        version: VERSION,
        epoch: 7,
        holder: "05".repeat(16),
        name: "host".to_owned(),
        renewed: 3,
        lease_ms: 30_000,
        released: false,
        durability: Durability::Remote,
        unsent: true,
        nonce: "07".repeat(8),
        arrived: 5,
        check: String::new(),
    };
    vec![encode(&owner)]
}

/// What the record says, if there is one.
pub(crate) async fn look(store: &dyn ObjectStore, path: &StorePath) -> object_store::Result<Look> {
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        let got = async {
            let got = store.get(path).await?;
            let at = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
            Ok((got.bytes().await?, at))
        };
        let why = match got.await {
            Ok((bytes, at)) => match decode(&bytes) {
                Ok(owner) => return Ok(Look::Record(owner, at)),
                Err(why) => why,
            },
            Err(object_store::Error::NotFound { .. }) => return Ok(Look::Nothing),
            Err(e) => match BrokenSeal::find(&e) {
                Some(broken) => broken.why.clone(),
                None => return Err(e),
            },
        };
        // Looked at again before it counts: an answer may be cut short or garbled on its way.
        if left == 0 {
            return Ok(Look::Damaged(why));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn look_patiently(store: &dyn ObjectStore, path: &StorePath) -> Result<Look> {
    patiently(path, || look(store, path)).await
}

/// The same for who cannot go on with a damaged one.
async fn look_at_whole(store: &dyn ObjectStore, path: &StorePath) -> Result<Option<(Owner, UpdateVersion)>> {
    match look_patiently(store, path).await? {
        Look::Nothing => Ok(None),
        Look::Record(owner, at) => Ok(Some((owner, at))),
        Look::Damaged(why) => Err(damaged(path, &why)),
    }
}

async fn patiently<T, F>(path: &StorePath, mut f: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = object_store::Result<T>>,
{
    let ask = async {
        let mut pause = Duration::from_millis(100);
        loop {
            match f().await {
                Ok(it) => return Ok(it),
                Err(e @ (object_store::Error::Precondition { .. } | object_store::Error::AlreadyExists { .. })) => return Err(e),
                Err(e) => tracing::warn!(%path, error = %e, "the owner record could not be reached; trying again"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    };
    match tokio::time::timeout(STORE_PATIENCE, ask).await {
        Ok(done) => done.map_err(|e| Error::new(ErrorKind::Busy, format!("{path}: {e}"))),
        Err(_) => Err(Error::unavailable(format!("the store does not answer for {path}"))
            .with_remedy("see whether the store can be reached: orlop store test NAME")),
    }
}

/// Of a mount whose volume another host had meanwhile.
fn lost(owner: &Owner) -> Error {
    Error::new(ErrorKind::Busy, lost_to(&owner.name)).with_remedy("unmount it here, and mount it again when that host does not have it")
}

/// Why a mount takes no changes any more whose volume that host took.
pub(crate) fn lost_to(host: &str) -> String {
    format!("host {host:?} has taken the volume")
}

impl Lease {
    /// Takes the volume for this holder: at once if nobody has it, after a full lease without a sign of life if
    /// somebody had, and not at all while he lives or while his host holds what was promised and never sent.
    ///
    /// `superseded` is called before the record is taken if somebody else had it last, or may have had. With `goes_on` that is refused, at
    /// once: what the kernel of this host was told of the volume is not true any more.
    pub(crate) async fn acquire(
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        holder: &str,
        goes_on: bool,
        config: &Remote,
        mut superseded: impl FnMut(u64) -> Result<()>,
    ) -> Result<Lease> {
        let path = path(prefix);
        let is_lost = |owner: &Owner| goes_on && owner.holder != holder;
        loop {
            let mut arrived = 0;
            let (epoch, mode) = match look_patiently(&*store, &path).await? {
                Look::Nothing => {
                    if config.abandon_unsynced {
                        superseded(0)?;
                    }
                    (1, PutMode::Create)
                }
                Look::Damaged(why) if config.abandon_unsynced => {
                    tracing::warn!(%path, %why, "the owner record is damaged, and given up by name");
                    patiently(&path, || store.delete(&path)).await?;
                    continue;
                }
                Look::Damaged(why) => return Err(damaged(&path, &why)),
                Look::Record(owner, _) if is_lost(&owner) => return Err(lost(&owner)),
                Look::Record(owner, at) => {
                    let at = wait_for_turn(&*store, &path, owner.clone(), at, holder, config).await?;
                    let Some((owner, at)) = at else { continue };
                    if is_lost(&owner) {
                        return Err(lost(&owner));
                    }
                    if owner.holder != holder {
                        superseded(owner.epoch)?;
                    }
                    arrived = owner.arrived;
                    (owner.epoch + 1, PutMode::Update(at))
                }
            };
            let owner = Owner {
                version: VERSION,
                epoch,
                holder: holder.to_owned(),
                name: config.holder.clone(),
                renewed: 0,
                lease_ms: config.lease.as_millis() as u64,
                released: false,
                durability: config.durability,
                // Nothing was acknowledged by this writer yet, but its journal may hold what an earlier one did.
                unsent: config.durability == Durability::Local,
                nonce: nonce(),
                arrived,
                check: String::new(),
            };
            let began = uptime_ms();
            match write(&*store, &path, &owner, mode).await {
                // A store may let two win who replace the same record at once: the one whose record stays has it.
                Ok(at) if stays(&*store, &path, &owner).await? => {
                    let lease = Lease {
                        store,
                        path,
                        epoch: AtomicU64::new(epoch),
                        arrived: AtomicU64::new(arrived),
                        unsent: AtomicBool::new(owner.unsent),
                        duration: config.lease,
                        held: tokio::sync::Mutex::new(Held { owner, at }),
                        valid_until: AtomicU64::new(0),
                    };
                    lease.extend(began);
                    return Ok(lease);
                }
                Ok(_) => {}
                // Somebody was faster; or the answer to our own attempt was lost, which the next look tells.
                Err(e) if is_lost_race(&e) => {}
                Err(e) => {
                    tracing::warn!(%path, error = %e, "the owner record could not be written; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Every place of the log below this number had arrived, by what the record says.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Acquire)
    }

    /// The log has arrived up to there: whoever opens the volume later misses what is gone of it.
    pub(crate) fn note_arrived(&self, below: u64) {
        self.arrived.fetch_max(below, Ordering::AcqRel);
    }

    /// Takes an epoch above one that the log already has, which no record that stayed where it was would allow: an older
    /// one was put back, or it was removed. What it said of unsent changes is not known any more, so only by name.
    pub(crate) async fn outrank(&self, epoch: u64, by_name: bool) -> Result<()> {
        if !by_name {
            let what = format!(
                "the owner record {} is missing or older than it was: it says epoch {}, and the log has epoch {epoch}",
                self.path,
                self.epoch()
            );
            return Err(Error::new(ErrorKind::Corrupt, what).with_remedy(REGAIN));
        }
        let mut held = self.held.lock().await;
        let owner = Owner { epoch: epoch + 1, renewed: held.owner.renewed + 1, nonce: nonce(), ..held.owner.clone() };
        self.replace(&mut held, owner).await.map_err(|e| crate::open::model_error("taking the volume", e))?;
        self.epoch.store(epoch + 1, Ordering::Release);
        Ok(())
    }

    fn extend(&self, began: u64) {
        // A fifth is kept back for what is done between looking at the clock and acting.
        self.valid_until.store(began + self.duration.as_millis() as u64 * 4 / 5, Ordering::Release);
    }

    /// It is somebody else's.
    pub(crate) fn run_out(&self) {
        self.valid_until.store(0, Ordering::Release);
    }

    /// Whether nobody else can have taken the volume yet.
    pub(crate) fn is_valid(&self) -> bool {
        uptime_ms() < self.valid_until.load(Ordering::Acquire)
    }

    /// Shows a sign of life, and whether this host holds acknowledged changes that are not in the store; as before if
    /// `None`. `Fenced` if somebody else has the volume.
    pub(crate) async fn renew(&self, unsent: Option<bool>) -> FsResult<()> {
        let mut held = self.held.lock().await;
        let mut owner = held.owner.clone();
        owner.renewed += 1;
        owner.arrived = self.arrived();
        owner.nonce = nonce();
        owner.unsent = unsent.unwrap_or(owner.unsent);
        if unsent == Some(false) {
            // From now on nobody may rely on it, whether the answer comes or not.
            self.unsent.store(false, Ordering::Release);
        }
        self.replace(&mut held, owner).await?;
        if unsent == Some(true) {
            self.unsent.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Whether the record says for sure that this host holds unsent changes.
    pub(crate) fn says_unsent(&self) -> bool {
        self.unsent.load(Ordering::Acquire)
    }

    /// Lets go in an orderly way, everything sent: the next one need not wait.
    pub(crate) async fn release(&self) -> FsResult<()> {
        self.let_go(Some(false)).await
    }

    /// Lets go of a volume that could not be opened; what may lie unsent on this host still does.
    pub(crate) async fn give_back(&self) -> FsResult<()> {
        self.let_go(None).await
    }

    async fn let_go(&self, unsent: Option<bool>) -> FsResult<()> {
        let mut held = self.held.lock().await;
        let unsent = unsent.unwrap_or(held.owner.unsent);
        let owner = Owner {
            released: true,
            unsent,
            nonce: nonce(),
            renewed: held.owner.renewed + 1,
            arrived: self.arrived(),
            ..held.owner.clone()
        };
        let mut done = self.replace(&mut held, owner.clone()).await;
        // Everything is in the store by now: one lost answer must not look as if that were in doubt.
        for pause in [50, 100, 200, 400, 800] {
            if !matches!(done, Err(FsError::Io(_))) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
            done = self.replace(&mut held, owner.clone()).await;
        }
        self.valid_until.store(0, Ordering::Release);
        done
    }

    async fn replace(&self, held: &mut Held, owner: Owner) -> FsResult<()> {
        let io = |e: object_store::Error| FsError::Io(format!("{}: {e}", self.path));
        loop {
            let began = uptime_ms();
            match write(&*self.store, &self.path, &owner, PutMode::Update(held.at.clone())).await {
                Ok(at) => {
                    *held = Held { owner, at };
                    self.extend(began);
                    return Ok(());
                }
                Err(e) if is_lost_race(&e) => match look(&*self.store, &self.path).await.map_err(io)? {
                    // An earlier attempt of ours arrived and its answer did not: nobody else has this epoch.
                    Look::Record(now, at) if now.epoch == self.epoch() && now.holder == owner.holder => held.at = at,
                    Look::Record(now, _) => {
                        return Err(FsError::Fenced(format!("{} (epoch {})", lost_to(&now.name), now.epoch)));
                    }
                    Look::Nothing => return Err(FsError::Fenced("the volume's owner record is gone: the volume was deleted".to_owned())),
                    Look::Damaged(why) => return Err(FsError::Io(format!("{} is damaged: {why}", self.path))),
                },
                Err(e) => return Err(io(e)),
            }
        }
    }
}

async fn stays(store: &dyn ObjectStore, path: &StorePath, owner: &Owner) -> Result<bool> {
    let seen = look_at_whole(store, path).await?;
    Ok(seen.is_some_and(|(now, _)| now.nonce == owner.nonce))
}

fn nonce() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn is_lost_race(e: &object_store::Error) -> bool {
    matches!(e, object_store::Error::Precondition { .. } | object_store::Error::AlreadyExists { .. } | object_store::Error::NotFound { .. })
}

async fn write(store: &dyn ObjectStore, path: &StorePath, owner: &Owner, mode: PutMode) -> object_store::Result<UpdateVersion> {
    let bytes = encode(owner);
    let done = store.put_opts(path, bytes.into(), PutOptions { mode, ..PutOptions::default() }).await?;
    Ok(UpdateVersion { e_tag: done.e_tag, version: done.version })
}

/// Returns once the volume may be taken from this owner; `None` if the record changed and is to be looked at anew.
async fn wait_for_turn(
    store: &dyn ObjectStore,
    path: &StorePath,
    owner: Owner,
    at: UpdateVersion,
    holder: &str,
    config: &Remote,
) -> Result<Option<(Owner, UpdateVersion)>> {
    if owner.holder == holder {
        // Our own, and the host's lock says that its process is gone.
        return Ok(Some((owner, at)));
    }
    if !owner.released {
        tracing::info!(owner = %owner.name, epoch = owner.epoch, "another host had the volume; watching for a sign of life");
        let lease = Duration::from_millis(owner.lease_ms);
        let until = uptime_ms() + owner.lease_ms;
        while uptime_ms() < until {
            tokio::time::sleep((lease / 10).max(Duration::from_millis(10))).await;
            match look_at_whole(store, path).await? {
                Some((now, _)) if now == owner => {}
                Some((now, _)) if now.released || now.epoch != owner.epoch => return Ok(None),
                Some((now, _)) => {
                    return Err(Error::new(ErrorKind::Busy, format!("the volume is in use on host {:?}", now.name))
                        .with_remedy("stop what uses it there, or wait: if that host is dead it can be taken after its lease ran out"));
                }
                None => return Ok(None),
            }
        }
    }
    if owner.unsent && !config.abandon_unsynced {
        // By the store's clock: whoever decides wants to know how old what he gives up is.
        let since = store.head(path).await.map_or_else(|_| String::new(), |m| format!(" since {}", m.last_modified.format("%F %T UTC")));
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "host {:?} acknowledged changes to the volume under durability local and may not have sent them all to the store; \
                 nothing was heard of it{since}",
                owner.name
            ),
        )
        .with_remedy(
            "bring that host back and unmount the volume there with orlop unmount; or give its unsent changes up for good with: orlop mount \
             --abandon-unsynced",
        ));
    }
    Ok(Some((owner, at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    fn config(name: &str, durability: Durability) -> Remote {
        Remote { durability, lease: Duration::from_millis(300), holder: name.to_owned(), ..Remote::default() }
    }

    async fn acquire(store: &Arc<dyn ObjectStore>, who: &str, c: &Remote) -> Result<Lease> {
        Lease::acquire(store.clone(), "v", who, false, c, |_| Ok(())).await
    }

    #[tokio::test]
    async fn a_living_owner_is_respected_and_a_dead_one_is_succeeded() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let remote = config("a", Durability::Remote);
        let first = Arc::new(acquire(&store, "a", &remote).await.expect("free"));
        assert!(first.is_valid());
        let alive = tokio::spawn({
            let first = first.clone();
            async move {
                for _ in 0..8 {
                    tokio::time::sleep(Duration::from_millis(60)).await;
                    first.renew(None).await.expect("still ours");
                }
            }
        });
        let e = acquire(&store, "b", &config("b", Durability::Remote)).await.expect_err("in use");
        assert_eq!(e.kind, ErrorKind::Busy, "{e}");
        alive.await.expect("renews");
        let second = acquire(&store, "b", &config("b", Durability::Remote)).await.expect("after the lease");
        assert_eq!(second.epoch(), 2);
        assert!(!first.is_valid(), "the first one's lease ran out by its own clock");
        assert!(matches!(first.renew(None).await, Err(FsError::Fenced(_))));
        second.release().await.expect("lets go");
        // No waiting after an orderly end: the time limit is far below the lease.
        let third = tokio::time::timeout(Duration::from_millis(100), acquire(&store, "c", &remote)).await.expect("at once").expect("free");
        assert_eq!(third.epoch(), 3);
    }

    #[tokio::test]
    async fn unsent_changes_are_given_up_only_by_name() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let first = acquire(&store, "a", &config("a", Durability::Local)).await.expect("free");
        drop(first);
        let e = acquire(&store, "b", &config("b", Durability::Local)).await.expect_err("unsent");
        assert!(e.message.contains("acknowledged") && e.remedy.is_some(), "{e}");
        // The same holder comes back at once, whatever is unsent: it is there that it lies.
        let again = acquire(&store, "a", &config("a", Durability::Local)).await.expect("its own");
        again.renew(Some(false)).await.expect("all was sent");
        drop(again);
        let mut told = 0;
        let lease = Lease::acquire(store.clone(), "v", "b", false, &config("b", Durability::Local), |epoch| {
            assert_eq!(epoch, 2);
            told += 1;
            Ok(())
        })
        .await
        .expect("nothing is lost");
        assert_eq!((lease.epoch(), told), (3, 1));
        let give_up = Remote { abandon_unsynced: true, ..config("c", Durability::Local) };
        acquire(&store, "c", &give_up).await.expect("given up by name");
    }

    #[tokio::test]
    async fn a_lost_answer_is_no_loss_of_the_volume() {
        use orlop_store::wrap::{Fault, Plan};
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        // The second mutation is made and its answer is lost.
        let fault = Fault::wrap(inner, Plan { lose_answer: Some(2), ..Plan::default() });
        let store: Arc<dyn ObjectStore> = fault;
        let lease = acquire(&store, "a", &config("a", Durability::Remote)).await.expect("free");
        assert!(lease.renew(None).await.is_err(), "nobody said that it arrived");
        // The next one finds its predecessor there.
        lease.renew(None).await.expect("still ours");
    }

    #[test]
    fn every_flipped_byte_of_a_record_is_found() {
        let owner = Owner {
            version: VERSION,
            epoch: 7,
            holder: "h".to_owned(),
            name: "a host".to_owned(),
            renewed: 3,
            lease_ms: 30_000,
            released: true,
            durability: Durability::Local,
            unsent: false,
            nonce: nonce(),
            arrived: 12,
            check: String::new(),
        };
        let bytes = encode(&owner);
        let read = decode(&bytes).expect("as it was written");
        assert_eq!(Owner { check: String::new(), ..read }, owner);
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[i] ^= 1 << bit;
                assert!(decode(&bad).is_err(), "byte {i}, bit {bit}");
            }
        }
        // A record from before there were digests is replaced by the first who takes the volume.
        let old = br#"{"version":1,"epoch":7,"holder":"h","name":"a","renewed":3,"lease_ms":30000,"released":true,"durability":"local","unsent":false,"nonce":"n"}"#;
        assert_eq!(decode(old).expect("version 1").epoch, 7);
    }

    #[tokio::test]
    async fn a_damaged_record_is_refused_at_once_and_given_up_by_name() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        acquire(&store, "a", &config("a", Durability::Remote)).await.expect("free").release().await.expect("lets go");
        store.put(&path("v"), "{}".into()).await.expect("put");
        let began = std::time::Instant::now();
        let e = acquire(&store, "a", &config("a", Durability::Remote)).await.expect_err("damaged");
        assert!(e.kind == ErrorKind::Corrupt && e.message.contains("owner.json") && e.remedy.is_some(), "{e}");
        assert!(began.elapsed() < Duration::from_secs(5));
        let by_name = Remote { abandon_unsynced: true, ..config("a", Durability::Remote) };
        let lease = acquire(&store, "a", &by_name).await.expect("given up by name");
        let e = lease.outrank(9, false).await.expect_err("the log knows better");
        assert_eq!(e.kind, ErrorKind::Corrupt);
        lease.outrank(9, true).await.expect("by name");
        assert_eq!(lease.epoch(), 10);
        lease.renew(None).await.expect("still ours");
    }
}
