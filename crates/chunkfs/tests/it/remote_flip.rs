//! Damage to everything that a volume in the cloud is made of, sealed and not: bytes flipped, objects cut, emptied, swapped,
//! removed and put back from before. Whatever is read is right, or an error; the volume is refused or goes on, and in both
//! cases what was damaged is named.
//!
//! `ORLOP_FLIP=all` flips every byte of a smaller volume; without it a few of each object, other ones at each run
//! (`ORLOP_SEED` repeats one).

use crate::flip::{Expected, bytes, dress, read_all, read_as_of_some_time};
use orlop_chunkfs::rescue::{self, Opened, Rescue};
use orlop_chunkfs::{Caller, FileKind, FileSystem, OpenConfig, ROOT_INO, Remote, examine_closed, format_volume, note_name};
use orlop_model::{ErrorKind, OutagePolicy, VolumeId};
use orlop_store::VolumeStore;
use orlop_store::keys::{MasterKeys, create_ring, sealed_volume};
use orlop_store::object_store::memory::InMemory;
use orlop_store::object_store::path::Path as StorePath;
use orlop_store::object_store::{ObjectStore, ObjectStoreExt};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CX: Caller = Caller { uid: 0, gid: 0, request: 0, keeps_times: false };
/// No damage may make anybody wait as for a store that is away.
const AT_MOST: Duration = Duration::from_secs(15);

/// Damages between two lines of how far it is.
const REPORT_EVERY: usize = 1000;

/// All objects of a store.
type Image = BTreeMap<String, Vec<u8>>;

struct Volume {
    id: VolumeId,
    prefix: String,
    /// Where its keys are, if it is sealed.
    keys: Option<tempfile::TempDir>,
}

impl Volume {
    async fn view(&self, store: &Arc<dyn ObjectStore>) -> orlop_model::Result<VolumeStore> {
        match &self.keys {
            Some(dir) => sealed_volume(store.clone(), &self.prefix, &MasterKeys::load(dir.path())?).await,
            None => Ok(VolumeStore { store: store.clone(), keys: None }),
        }
    }

    fn config(&self, of: VolumeStore, host: &Path) -> OpenConfig {
        let remote = Remote {
            lease: Duration::from_millis(60),
            outage: OutagePolicy::Fail,
            outage_deadline: Duration::from_secs(2),
            holder: "a host".to_owned(),
            ..Remote::default()
        };
        OpenConfig { remote: Some(remote), ..OpenConfig::new(self.id, of.store, &self.prefix, host) }.sealed(of.keys)
    }

    async fn open(&self, store: &Arc<dyn ObjectStore>, host: &Path) -> Arc<FileSystem> {
        let view = self.view(store).await.expect("a view");
        FileSystem::open(self.config(view, host)).await.expect("opens")
    }
}

async fn image_of(store: &Arc<dyn ObjectStore>) -> Image {
    use futures::TryStreamExt;
    let listed: Vec<_> = store.list(None).try_collect().await.expect("lists");
    let mut image = Image::new();
    for meta in listed {
        let bytes = store.get(&meta.location).await.expect("there").bytes().await.expect("bytes");
        image.insert(meta.location.to_string(), bytes.to_vec());
    }
    image
}

async fn store_of(image: &Image) -> Arc<dyn ObjectStore> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    for (at, bytes) in image {
        store.put(&StorePath::from(at.as_str()), bytes.clone().into()).await.expect("put");
    }
    store
}

async fn put(fs: &FileSystem, expected: &mut Expected, name: &str, data: Vec<u8>) {
    let f = match fs.lookup(ROOT_INO, name.as_bytes()).await {
        Ok(f) => f,
        Err(_) => fs.mknod(&CX, ROOT_INO, name.as_bytes(), FileKind::File, 0o640, 0).await.expect("made"),
    };
    fs.write(&CX, f.ino, 0, &data).await.expect("written");
    expected.insert(name.to_owned(), data);
    fs.sync_all().await.expect("synced");
}

/// Lengths of the files: of all kinds, and of those few bytes that each kind must have when every one is flipped.
struct Sizes {
    large: usize,
    second: usize,
    late: usize,
}

const SIZES: Sizes = Sizes { large: 400_000, second: 70_000, late: 3000 };
const FEW: Sizes = Sizes { large: 13_000, second: 5000, late: 300 };

/// Lives of which one ended well and two were lost with their host: namespace, packs, log objects with data, a fence. Returns
/// what must be read, what the store held after the first of them, and what it holds.
async fn make(sealed: bool, sizes: Sizes) -> (Volume, Expected, Image, Image) {
    let id = VolumeId::random();
    let keys = sealed.then(|| tempfile::tempdir().expect("a temporary folder"));
    let v = Volume { id, prefix: format!("volumes/{id}"), keys };
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    if let Some(dir) = &v.keys {
        MasterKeys::ensure(dir.path()).expect("a key");
        create_ring(&*store, &v.prefix, &MasterKeys::load(dir.path()).expect("keys")).await.expect("a ring");
    }
    let view = v.view(&store).await.expect("a view").store;
    format_volume(&view, &v.prefix, id).await.expect("formatted");
    note_name(&*view, &v.prefix, id, &"orders".parse().expect("a name")).await.expect("noted");
    let mut expected = Expected::new();
    let hosts = tempfile::tempdir().expect("a temporary folder");

    let fs = v.open(&store, &hosts.path().join("a")).await;
    for (name, n) in [("small", 10), ("whole", 8192), ("large", sizes.large), ("empty", 0)] {
        put(&fs, &mut expected, name, bytes(n, n as u8 + 1)).await;
    }
    dress(&fs, &mut expected).await;
    fs.compact_all().await.expect("folded");
    put(&fs, &mut expected, "second", bytes(sizes.second, 9)).await;
    fs.close().await.expect("closed");
    let before = image_of(&store).await;

    for life in 0..2u8 {
        let fs = v.open(&store, &hosts.path().join(format!("lost-{life}"))).await;
        for n in 0..3u8 {
            put(&fs, &mut expected, &format!("late-{life}-{n}"), bytes(sizes.late * (1 + usize::from(n)), life * 8 + n)).await;
        }
        put(&fs, &mut expected, "small", bytes(10, 77 + life)).await;
        // A sign of life tells how far the log had come.
        tokio::time::sleep(Duration::from_millis(100)).await;
        fs.abandon().await;
    }
    let image = image_of(&store).await;
    (v, expected, before, image)
}

/// What is done to an object.
#[derive(Debug, Clone)]
enum Damage {
    Flip(usize),
    Cut(usize),
    /// It holds what another one should.
    Swapped(String),
    Removed,
    /// It holds what it did before.
    Older(Vec<u8>),
}

impl Damage {
    fn apply(&self, image: &mut Image, at: &str) {
        let new = match self {
            Damage::Flip(n) => {
                let mut bytes = image[at].clone();
                bytes[*n] ^= 0x20;
                bytes
            }
            Damage::Cut(n) => image[at][..*n].to_vec(),
            Damage::Swapped(with) => image[with].clone(),
            Damage::Older(bytes) => bytes.clone(),
            Damage::Removed => {
                image.remove(at);
                return;
            }
        };
        image.insert(at.to_owned(), new);
    }

    /// Whether the object by itself shows that it is not what it should be.
    fn shows(&self) -> bool {
        matches!(self, Damage::Flip(_) | Damage::Cut(_))
    }
}

/// What is wrong with how it was met, if anything.
async fn met(v: &Volume, image: &Image, expected: &Expected, at: &str, damage: &Damage) -> Result<(), String> {
    let mut image = image.clone();
    damage.apply(&mut image, at);
    let host = tempfile::tempdir().expect("a temporary folder");
    let store = store_of(&image).await;
    let name = at.rsplit('/').next().expect("a name");
    let began = Instant::now();
    let in_time = |what: &str| match began.elapsed() {
        took if took > AT_MOST => Err(format!("{what} took {took:?}")),
        _ => Ok(()),
    };
    let refused = |e: &orlop_model::Error| match e.kind {
        ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::Denied | ErrorKind::NotFound => Ok(()),
        kind => Err(format!("refused with {kind:?}: {e}")),
    };
    let view = match v.view(&store).await {
        Ok(view) => view,
        Err(e) => {
            refused(&e)?;
            return if e.message.contains(name) { Ok(()) } else { Err(format!("the keys are refused ({e}), and not by name")) };
        }
    };
    match FileSystem::open(v.config(view.clone(), host.path())).await {
        Err(e) => {
            in_time("the refusal")?;
            refused(&e)?;
            let report = examine_closed(&view, &v.prefix, v.id, host.path()).await.map_err(|e| e.to_string())?;
            let named = report.findings.iter().any(|f| f.at.contains(name))
                || (!damage.shows() && (e.message.contains(&v.prefix) || e.message.contains("namespace")));
            if !named {
                return Err(format!("refused ({e}), and the check does not name it: {:?}", report.findings));
            }
            if at.contains("/log/") || at.contains("/meta/manifest/") { read_out(v, view, expected, damage.shows()).await } else { Ok(()) }
        }
        Ok(fs) => {
            let read = read_all(&fs, expected).await;
            let report = fs.examine(false).await;
            fs.abandon().await;
            in_time("reading")?;
            let whole = read?;
            let report = report.map_err(|e| format!("the check fails: {e}"))?;
            if report.findings.iter().any(|f| f.at.contains(name)) {
                return Ok(());
            }
            match (damage.shows(), whole) {
                (true, _) => Err(format!("the check does not name it: {:?}", report.findings)),
                (false, false) if report.clean => Err("not all can be read, and the check is content".to_owned()),
                // Nothing needs it: what is superseded, or what says the same.
                _ => Ok(()),
            }
        }
    }
}

/// What stands before a damage to the log can be read out, and what does not depend on a damaged manifest.
/// One that does not show may leave only a manifest from before anything was written.
async fn read_out(v: &Volume, of: VolumeStore, expected: &Expected, shows: bool) -> Result<(), String> {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let scratch = scratch.path().to_owned();
    let rescue = Rescue { volume: v.id, of, prefix: v.prefix.clone(), remote: true, state_dir: None, trust_state: false, scratch };
    let Opened { fs, lost, .. } = rescue::open(&rescue).await.map_err(|e| format!("nothing can be read out: {e}"))?;
    let read = read_as_of_some_time(&fs, expected, |path| match path {
        "small" if shows => vec![Some(bytes(10, 11)), Some(bytes(10, 77))],
        "small" => vec![None, Some(Vec::new()), Some(bytes(10, 11)), Some(bytes(10, 77))],
        _ if path.starts_with("late-") || !shows => vec![None, Some(Vec::new())],
        _ => Vec::new(),
    });
    let read = read.await;
    fs.abandon().await;
    read?;
    lost.map(drop).ok_or_else(|| "what is read out is not all, and nobody says so".to_owned())
}

fn work(before: &Image, image: &Image, all: bool, seed: u64) -> Vec<(String, Damage)> {
    let mut work = Vec::new();
    let mut random = seed | 1;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below.max(1) as u64) as usize
    };
    let folder = |at: &str| at.rsplit_once('/').map(|(f, _)| f.to_owned()).unwrap_or_default();
    for (at, content) in image {
        let len = content.len();
        let flips: Vec<usize> =
            if all { (0..len).collect() } else { [0, len / 2, len.saturating_sub(1), next(len), next(len), next(len)].to_vec() };
        work.extend(flips.into_iter().filter(|n| *n < len).map(|n| (at.clone(), Damage::Flip(n))));
        work.extend([0, len / 2, len.saturating_sub(1)].into_iter().filter(|n| *n < len).map(|n| (at.clone(), Damage::Cut(n))));
        work.push((at.clone(), Damage::Removed));
        // With a neighbour of its kind, and with one of another.
        let neighbours = image.iter().filter(|(other, bytes)| *other != at && *bytes != content);
        let (kin, strangers): (Vec<_>, Vec<_>) = neighbours.map(|(other, _)| other).partition(|other| folder(other) == folder(at));
        for some in [kin, strangers] {
            if !some.is_empty() {
                work.push((at.clone(), Damage::Swapped(some[next(some.len())].clone())));
            }
        }
        if let Some(old) = before.get(at).filter(|old| *old != content) {
            work.push((at.clone(), Damage::Older(old.clone())));
        }
    }
    work
}

async fn everything(sealed: bool) {
    let all = std::env::var("ORLOP_FLIP").is_ok_and(|v| v == "all");
    let seed = std::env::var("ORLOP_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos() as u64);
    let (v, expected, before, image) = make(sealed, if all { FEW } else { SIZES }).await;
    for folder in ["/log/", "/packs/", "/meta/manifest/", "/meta/compacted/", "/owner.json", "/volume.json", "/name.json"] {
        assert!(image.keys().any(|at| at.contains(folder)), "there is a {folder}: {:?}", image.keys());
    }
    assert_eq!(image.keys().any(|at| at.ends_with("/keys.json")), sealed);
    // Undamaged it is all there.
    met(&v, &image, &expected, "nothing", &Damage::Removed).await.expect("the volume itself");
    let work = work(&before, &image, all, seed);
    let total = work.len();
    let began = Instant::now();
    let shared = Arc::new((v, expected, image, parking_lot::Mutex::new(work), parking_lot::Mutex::new(Vec::new())));
    // Each waits for the lease of a host that is lost.
    let workers: Vec<_> = (0..if all { 8 } else { 3 })
        .map(|_| {
            let shared = shared.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
                let (v, expected, image, queue, failed) = &*shared;
                loop {
                    let (next, left) = {
                        let mut queue = queue.lock();
                        (queue.pop(), queue.len())
                    };
                    let Some((at, damage)) = next else { return };
                    if left % REPORT_EVERY == 0 {
                        eprintln!("{left} of {total} left after {} s, {} failed", began.elapsed().as_secs(), failed.lock().len());
                    }
                    let one = async { tokio::time::timeout(AT_MOST * 3, met(v, image, expected, &at, &damage)).await };
                    match runtime.block_on(one) {
                        Ok(Ok(())) => {}
                        Ok(Err(why)) => failed.lock().push(format!("{at} {damage:?}: {why}")),
                        Err(_) => failed.lock().push(format!("{at} {damage:?}: it never ends")),
                    }
                }
            })
        })
        .collect();
    for w in workers {
        w.join().expect("no panic");
    }
    let failed: Vec<String> = shared.4.lock().iter().map(|f: &String| f.chars().take(900).collect()).collect();
    assert!(
        failed.is_empty(),
        "ORLOP_SEED={seed}, {} of {total}:\n{}",
        failed.len(),
        failed.iter().take(25).cloned().collect::<Vec<_>>().join("\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_damage_to_a_volume_in_the_cloud_is_read_and_all_is_named() {
    everything(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_damage_to_a_sealed_volume_is_read_and_all_is_named() {
    everything(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_owner_record_a_volume_is_refused_unharmed_and_taken_by_name() {
    let (v, expected, before, image) = make(false, SIZES).await;
    let at = format!("{}/owner.json", v.prefix);
    for (what, damage) in [("removed", Damage::Removed), ("older", Damage::Older(before[&at].clone())), ("cut", Damage::Cut(20))] {
        let mut damaged = image.clone();
        damage.apply(&mut damaged, &at);
        let store = store_of(&damaged).await;
        let host = tempfile::tempdir().expect("a temporary folder");
        let plain = |store: &Arc<dyn ObjectStore>| VolumeStore { store: store.clone(), keys: None };
        let e = FileSystem::open(v.config(plain(&store), host.path())).await.expect_err(what);
        assert!(e.kind == ErrorKind::Corrupt && e.message.contains("owner.json") && e.remedy.is_some(), "{what}: {e}");
        // Nothing was made worse: with its record the volume is what it was.
        store.put(&StorePath::from(at.as_str()), image[&at].clone().into()).await.expect("put back");
        let fs = FileSystem::open(v.config(plain(&store), host.path())).await.expect(what);
        assert_eq!(read_all(&fs, &expected).await, Ok(true), "{what}, put back");
        fs.abandon().await;

        let store = store_of(&damaged).await;
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let export = Rescue {
            volume: v.id,
            of: plain(&store),
            prefix: v.prefix.clone(),
            remote: true,
            state_dir: None,
            trust_state: false,
            scratch: scratch.path().to_owned(),
        };
        let Opened { fs, lost, elsewhere, .. } = rescue::open(&export).await.expect("can be read out");
        // One that is whole and from before is none that is lost.
        assert_eq!(lost.as_ref().is_some_and(|lost| lost.contains(&at)), what != "older", "{what}: {lost:?}");
        assert_eq!(elsewhere.is_some_and(|note| note.contains("--state")), what != "older", "{what}");
        assert_eq!(read_all(&fs, &expected).await, Ok(true), "{what}, read out");
        fs.abandon().await;
        assert_eq!(image_of(&store).await, damaged, "{what}: reading out changes nothing");

        let host = tempfile::tempdir().expect("a temporary folder");
        let mut config = v.config(plain(&store), host.path());
        config.remote.as_mut().expect("remote").abandon_unsynced = true;
        let fs = FileSystem::open(config).await.unwrap_or_else(|e| panic!("{what}, by name: {e}"));
        assert_eq!(read_all(&fs, &expected).await, Ok(true), "{what}, by name");
        let mut more = expected.clone();
        put(&fs, &mut more, "after", bytes(5000, 1)).await;
        fs.close().await.expect("closes");
        let host = tempfile::tempdir().expect("a temporary folder");
        let fs = v.open(&store, host.path()).await;
        assert_eq!(read_all(&fs, &more).await, Ok(true), "{what}, and after that as ever");
        assert_eq!(fs.check(true).await.expect("checks").problems, Vec::<String>::new());
        fs.close().await.expect("closes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_nobody_opened_yet_misses_no_owner_record() {
    let id = VolumeId::random();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    format_volume(&store, "v", id).await.expect("formatted");
    let open = async || {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let export = Rescue {
            volume: id,
            of: VolumeStore { store: store.clone(), keys: None },
            prefix: "v".to_owned(),
            remote: true,
            state_dir: None,
            trust_state: false,
            scratch: scratch.path().to_owned(),
        };
        let opened = rescue::open(&export).await.expect("can be read out");
        opened.fs.abandon().await;
        (opened.lost, opened.elsewhere)
    };
    assert_eq!(open().await, (None, None));
    let record = StorePath::from("v/owner.json");
    store.put(&record, b"{}".to_vec().into()).await.expect("put");
    assert!(open().await.0.is_some_and(|lost| lost.contains("owner.json is damaged")), "but a damaged one is named");
}
