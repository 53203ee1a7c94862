//! A volume whose home is the store: what an fsync promises there, who may write, and what another host finds.

use orlop_chunkfs::{Caller, FileKind, FileSystem, FsError, OpenConfig, ROOT_INO, Remote, format_volume};
use orlop_model::{Durability, ErrorKind, OutagePolicy, VolumeId};
use orlop_store::ObjectStore;
use orlop_store::object_store::memory::InMemory;
use orlop_store::object_store::throttle::{ThrottleConfig, ThrottledStore};
use orlop_store::wrap::{Fault, Hooked, Meter, Plan};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CX: Caller = Caller { uid: 0, gid: 0, request: 0, keeps_times: false };
const LEASE: Duration = Duration::from_millis(600);

/// A store, and hosts that mount a volume of it.
struct Cloud {
    store: Arc<dyn ObjectStore>,
    volume: VolumeId,
    hosts: tempfile::TempDir,
}

impl Cloud {
    async fn new(store: Arc<dyn ObjectStore>) -> Cloud {
        let volume = VolumeId::random();
        format_volume(&store, "v", volume).await.expect("formats");
        Cloud { store, volume, hosts: tempfile::tempdir().expect("temp folder") }
    }

    fn config(&self, host: &str) -> OpenConfig {
        self.config_on(host, self.store.clone())
    }

    fn config_on(&self, host: &str, store: Arc<dyn ObjectStore>) -> OpenConfig {
        let dir = self.hosts.path().join(host);
        std::fs::create_dir_all(&dir).expect("folder");
        let remote = Remote { lease: LEASE, holder: host.to_owned(), ..Remote::default() };
        OpenConfig { remote: Some(remote), ..OpenConfig::new(self.volume, store, "v", dir) }
    }

    async fn open(&self, host: &str) -> Arc<FileSystem> {
        FileSystem::open(self.config(host)).await.expect("opens")
    }

    fn dir(&self, host: &str) -> std::path::PathBuf {
        self.hosts.path().join(host)
    }
}

async fn put(fs: &FileSystem, name: &str, data: &[u8]) -> u64 {
    let ino = match fs.lookup(ROOT_INO, name.as_bytes()).await {
        Ok(a) => a.ino,
        Err(_) => fs.mknod(&CX, ROOT_INO, name.as_bytes(), FileKind::File, 0o644, 0).await.expect("creates").ino,
    };
    for (i, part) in data.chunks(1 << 20).enumerate() {
        fs.write(&CX, ino, (i as u64) << 20, part).await.expect("writes");
    }
    ino
}

async fn get(fs: &FileSystem, name: &str) -> Option<Vec<u8>> {
    let attr = fs.lookup(ROOT_INO, name.as_bytes()).await.ok()?;
    let mut out = Vec::new();
    while (out.len() as u64) < attr.size {
        let part = fs.read(attr.ino, out.len() as u64, 1 << 20).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!part.is_empty());
        out.extend_from_slice(&part);
    }
    Some(out)
}

fn pattern(n: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect()
}

async fn healthy(fs: &FileSystem) {
    let report = fs.check(true).await.expect("checks");
    assert_eq!(report.problems, Vec::<String>::new());
}

fn meter() -> (Arc<Hooked<Meter>>, Arc<dyn ObjectStore>) {
    let meter = Meter::wrap(Arc::new(InMemory::new()));
    (meter.clone(), meter)
}

#[tokio::test(flavor = "multi_thread")]
async fn however_often_somebody_syncs_an_opening_has_few_log_objects_to_read() {
    let cloud = Cloud::new(Arc::new(InMemory::new())).await;
    let fs = cloud.open("a").await;
    let ino = put(&fs, "f", b"").await;
    for n in 0..900u64 {
        fs.write(&CX, ino, n * 10, &n.to_le_bytes()).await.expect("writes");
        fs.fsync(ino, false).await.expect("syncs");
    }
    let log_objects = async || {
        let list: Vec<_> = futures::TryStreamExt::try_collect(cloud.store.list(Some(&"v/log".into()))).await.expect("lists");
        list.len()
    };
    let mut objects = log_objects().await;
    for _ in 0..200 {
        if objects < 512 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        objects = log_objects().await;
    }
    assert!(objects < 512, "{objects} objects for 900 syncs");
    fs.abandon().await;
    let fs = cloud.open("a").await;
    let found = get(&fs, "f").await.expect("there");
    assert_eq!(found.len(), 8998);
    assert!((0..900u64).all(|n| found[n as usize * 10..][..8] == n.to_le_bytes()));
    fs.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_finds_what_was_synced_by_one_that_is_lost() {
    let (meter, store) = meter();
    let cloud = Cloud::new(store).await;
    let a = cloud.open("a").await;
    let small = pattern(10_000, 1);
    let big = pattern(40 << 20, 2);
    put(&a, "small", &small).await;
    let before = meter.hook().counts();
    a.sync_all().await.expect("syncs");
    assert_eq!(meter.hook().counts().writes - before.writes, 1, "a small fsync is one PUT");
    put(&a, "big", &big).await;
    a.sync_all().await.expect("syncs");
    // A small overwrite within the big file, and a name.
    let ino = a.lookup(ROOT_INO, b"big").await.expect("there").ino;
    a.write(&CX, ino, 12_345, b"changed").await.expect("writes");
    a.rename(&CX, ROOT_INO, b"small", ROOT_INO, b"renamed", orlop_chunkfs::RenameMode::Replace).await.expect("renames");
    a.sync_all().await.expect("syncs");
    put(&a, "never synced", b"x").await;
    a.abandon().await;
    // Its disk is lost with it.
    std::fs::remove_dir_all(cloud.dir("a")).expect("removed");

    let b = cloud.open("b").await;
    let mut expected = big.clone();
    expected[12_345..12_352].copy_from_slice(b"changed");
    assert_eq!(get(&b, "renamed").await.expect("there"), small);
    assert!(get(&b, "big").await.expect("there") == expected);
    assert_eq!(get(&b, "small").await, None);
    healthy(&b).await;
    // It goes on, folds, and a third one finds that too.
    put(&b, "more", &small).await;
    b.close().await.expect("closes");
    assert!(get(&*cloud.open("c").await, "big").await.expect("there") == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_nothing_on_its_own_host() {
    let cloud = Cloud::new(Arc::new(InMemory::new())).await;
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    for round in 0..6u64 {
        let fs = cloud.open("a").await;
        for (name, data) in &all {
            assert!(get(&fs, name).await.as_ref() == Some(data), "{name} in round {round}");
        }
        healthy(&fs).await;
        for i in 0..5u64 {
            let (name, data) = (format!("{round}-{i}"), pattern(3000 * (i as usize + 1) * (round as usize + 1), round * 10 + i));
            put(&fs, &name, &data).await;
            all.push((name, data));
            if i == 2 && round % 2 == 0 {
                fs.sync_all().await.expect("syncs");
            }
        }
        if round == 3 {
            fs.close().await.expect("closes");
        } else {
            fs.abandon().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_writers_share_commits() {
    let (meter, store) = meter();
    let slow = Fault::wrap(store, Plan { latency: Some(Duration::from_millis(40)), ..Plan::default() });
    let cloud = Cloud::new(slow).await;
    let fs = cloud.open("a").await;
    let before = meter.hook().counts();
    let writers: Vec<_> = (0..12u64)
        .map(|w| {
            let fs = fs.clone();
            tokio::spawn(async move {
                for i in 0..5 {
                    let ino = put(&fs, &format!("{w}-{i}"), &pattern(100 << 10, w * 100 + i)).await;
                    fs.fsync(ino, false).await.expect("syncs");
                }
            })
        })
        .collect();
    for w in writers {
        w.await.expect("writes");
    }
    let puts = meter.hook().counts().writes - before.writes;
    assert!(puts < 45, "{puts} PUTs for 60 fsyncs");
    fs.abandon().await;
    std::fs::remove_dir_all(cloud.dir("a")).expect("removed");
    let b = cloud.open("b").await;
    for w in 0..12u64 {
        for i in 0..5 {
            assert!(get(&b, &format!("{w}-{i}")).await == Some(pattern(100 << 10, w * 100 + i)));
        }
    }
    healthy(&b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_writer_is_refused_and_a_paused_one_is_fenced() {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let cloud = Cloud::new(inner.clone()).await;
    // Host a reaches the store through something that can be cut.
    let cable = Fault::wrap(inner, Plan::default());
    let a = FileSystem::open(cloud.config_on("a", cable.clone())).await.expect("opens");
    let ino = put(&a, "f", b"first").await;
    a.fsync(ino, false).await.expect("syncs");
    let refused = FileSystem::open(cloud.config("b")).await.expect_err("a lives");
    assert_eq!(refused.kind, ErrorKind::Busy, "{refused}");
    assert!(refused.message.contains('a') && refused.remedy.is_some());
    // To the others it looks dead: nothing of it arrives any more.
    cable.hook().set(Plan { outage_from: Some(0), ..Plan::default() });
    a.write(&CX, ino, 0, b"FIRST").await.expect("staged");
    let began = Instant::now();
    let b = cloud.open("b").await;
    assert!(began.elapsed() < LEASE * 3, "{:?}", began.elapsed());
    assert_eq!(get(&b, "f").await.expect("there"), b"first");
    let ino_b = put(&b, "f", b"second").await;
    b.fsync(ino_b, false).await.expect("syncs");
    // It can reach the store again, and must not do harm or tell old news.
    cable.hook().heal();
    let fenced = a.fsync(ino, false).await.expect_err("fenced");
    assert!(matches!(fenced, FsError::Fenced(_) | FsError::Io(_)), "{fenced}");
    let stale = a.read(ino, 0, 10).await.expect_err("no stale read");
    assert!(matches!(stale, FsError::Fenced(_)), "{stale}");
    assert!(a.write(&CX, ino, 0, b"x").await.is_err());
    a.abandon().await;
    assert_eq!(get(&b, "f").await.expect("there"), b"second");
    healthy(&b).await;
    b.close().await.expect("closes");
    // Host a comes back: what it never sent is set aside, what others wrote is there.
    let a = cloud.open("a").await;
    assert_eq!(get(&a, "f").await.expect("there"), b"second");
    healthy(&a).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn durability_local_keeps_others_out_while_something_is_unsent() {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let cloud = Cloud::new(inner.clone()).await;
    let local = |host: &str, store: Arc<dyn ObjectStore>| {
        let mut config = cloud.config_on(host, store);
        let remote = config.remote.as_mut().expect("remote");
        remote.durability = Durability::Local;
        remote.ship_every = Duration::from_millis(300);
        config
    };
    let cable = Fault::wrap(inner.clone(), Plan::default());
    let a = FileSystem::open(local("a", cable.clone())).await.expect("opens");
    let ino = put(&a, "f", b"sent").await;
    a.fsync(ino, false).await.expect("syncs");
    // Within its loss window it is sent.
    tokio::time::timeout(Duration::from_secs(5), async {
        while a.unsent_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("sent by itself");
    a.write(&CX, ino, 0, b"kept").await.expect("writes");
    a.fsync(ino, false).await.expect("the host's disk has it");
    cable.hook().set(Plan { outage_from: Some(0), ..Plan::default() });
    // All but the database stops at once; that waits for its store.
    let _ = tokio::time::timeout(Duration::from_millis(500), a.abandon()).await;
    let refused = FileSystem::open(local("b", inner.clone())).await.expect_err("unsent");
    assert_eq!(refused.kind, ErrorKind::Busy, "{refused}");
    assert!(refused.message.contains("acknowledged"), "{refused}");
    // On its own host it is all there, at once.
    let a = FileSystem::open(local("a", inner.clone())).await.expect("opens");
    assert_eq!(get(&a, "f").await.expect("there"), b"kept");
    a.close().await.expect("closes");
    let b = FileSystem::open(local("b", inner)).await.expect("nothing is unsent");
    assert_eq!(get(&b, "f").await.expect("there"), b"kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_ends_as_its_policy_says_and_heals() {
    for policy in [OutagePolicy::Wait, OutagePolicy::Fail, OutagePolicy::Readonly] {
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let cloud = Cloud::new(inner.clone()).await;
        let cable = Fault::wrap(inner, Plan::default());
        let mut config = cloud.config_on("a", cable.clone());
        let remote = config.remote.as_mut().expect("remote");
        remote.outage = policy;
        remote.outage_deadline = Duration::from_millis(500);
        remote.lease = Duration::from_secs(2);
        let fs = FileSystem::open(config).await.expect("opens");
        let ino = put(&fs, "f", b"before").await;
        fs.fsync(ino, false).await.expect("syncs");
        cable.hook().set(Plan { outage_from: Some(0), ..Plan::default() });
        fs.write(&CX, ino, 0, b"during").await.expect("staged");
        let waiting = tokio::spawn({
            let fs = fs.clone();
            async move { fs.fsync(ino, false).await }
        });
        let limit = tokio::time::timeout(Duration::from_secs(3), async {
            while !waiting.is_finished() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let ended = limit.await.is_ok();
        assert_eq!(ended, policy != OutagePolicy::Wait, "{policy}");
        // What is here is served without the store.
        let began = Instant::now();
        assert_eq!(fs.read(ino, 0, 100).await.expect("cached"), "during");
        fs.statfs(false).expect("statfs");
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        let written = fs.write(&CX, ino, 0, b"DURING").await;
        match policy {
            OutagePolicy::Readonly => assert!(matches!(written, Err(FsError::ReadOnly(_))), "{written:?}"),
            _ => assert_eq!(written, Ok(6)),
        }
        cable.hook().heal();
        let done = tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("ends").expect("no panic");
        assert_eq!(done.is_ok(), policy == OutagePolicy::Wait, "{policy}: {done:?}");
        tokio::time::timeout(Duration::from_secs(10), async {
            while fs.fsync(ino, false).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .expect("heals by itself");
        fs.write(&CX, ino, 0, b"after.").await.expect("writable again");
        fs.close().await.expect("closes");
        assert_eq!(get(&*cloud.open("b").await, "f").await.expect("there"), b"after.", "{policy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_of_the_store_holds_what_was_synced_by_then() {
    use orlop_store::wrap::Record;
    let record = Record::wrap(Arc::new(InMemory::new()));
    let cloud = Cloud::new(record.clone()).await;
    // What was acknowledged, with the number of mutations that the store had made by then.
    let mut acknowledged: Vec<(usize, String, Vec<u8>)> = Vec::new();
    for life in 0..3u64 {
        let fs = cloud.open("a").await;
        for i in 0..4u64 {
            let size = [100, 9000, 300_000, 6 << 20][i as usize];
            let (name, data) = (format!("{life}-{i}"), pattern(size, life * 7 + i));
            let ino = put(&fs, &name, &data).await;
            fs.fsync(ino, false).await.expect("syncs");
            acknowledged.push((record.hook().log().len(), name, data));
            if i == 2 {
                fs.compact_all().await.expect("folds");
            }
        }
        if life == 1 { fs.close().await.expect("closes") } else { fs.abandon().await }
    }
    let all = record.hook().log().len();
    let mut looked = 0;
    for n in 1..=all {
        let store: Arc<dyn ObjectStore> = record.hook().image(n).await.expect("an image");
        let host = format!("h{n}");
        let config = cloud.config_on(&host, store);
        let fs = match FileSystem::open(config).await {
            Ok(fs) => fs,
            Err(e) => panic!("after mutation {n} of {all}: {e}"),
        };
        for (at, name, data) in acknowledged.iter().filter(|(at, _, _)| *at <= n) {
            assert!(get(&fs, name).await.as_ref() == Some(data), "{name}, acknowledged at {at}, after mutation {n} of {all}");
            looked += 1;
        }
        healthy(&fs).await;
        fs.abandon().await;
        remove(&cloud.dir(&host));
    }
    assert!(looked > 100, "{looked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fold_of_nothing_takes_nothing_out_of_the_log() {
    let cloud = Cloud::new(Arc::new(InMemory::new())).await;
    cloud.open("a").await.close().await.expect("closes");
    // An opening begins with a fence in the log, and nothing is there to be folded.
    let a = cloud.open("a").await;
    a.compact_all().await.expect("folds");
    put(&a, "f", b"acknowledged").await;
    a.sync_all().await.expect("syncs");
    a.abandon().await;
    remove(&cloud.dir("a"));
    let b = cloud.open("b").await;
    assert_eq!(get(&b, "f").await.expect("there"), b"acknowledged");
    healthy(&b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openings_that_change_nothing_leave_no_log_that_grows() {
    let cloud = Cloud::new(Arc::new(InMemory::new())).await;
    let a = cloud.open("a").await;
    put(&a, "f", b"acknowledged").await;
    a.close().await.expect("closes");
    for _ in 0..40 {
        cloud.open("a").await.close().await.expect("closes");
    }
    let log: Vec<_> = futures::TryStreamExt::try_collect(cloud.store.list(Some(&"v/log".into()))).await.expect("lists");
    assert!(log.len() <= 16, "{} objects after 40 openings", log.len());
    remove(&cloud.dir("a"));
    let b = cloud.open("b").await;
    assert_eq!(get(&b, "f").await.expect("there"), b"acknowledged");
    healthy(&b).await;
    b.close().await.expect("closes");
}

fn remove(dir: &Path) {
    std::fs::remove_dir_all(dir).expect("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_does_not_wait_for_what_others_write_after_it() {
    let slow = ThrottleConfig { wait_put_per_call: Duration::from_millis(200), ..ThrottleConfig::default() };
    let cloud = Cloud::new(Arc::new(ThrottledStore::new(InMemory::new(), slow))).await;
    let mut config = cloud.config("a");
    config.remote.as_mut().expect("its home is the store").lease = Duration::from_secs(30);
    let fs = FileSystem::open(config).await.expect("opens");
    let ino = put(&fs, "bulk", b"").await;
    // In the time of one upload it writes more than what travels in a log object.
    let writer = {
        let fs = fs.clone();
        tokio::spawn(async move {
            let part = pattern(256 << 10, 1);
            for n in 0.. {
                fs.write(&CX, ino, (n % 256) * (256 << 10), &part).await.expect("writes");
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        })
    };
    let small = put(&fs, "small", b"wanted soon").await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let began = Instant::now();
        tokio::time::timeout(Duration::from_secs(30), fs.fsync(small, false)).await.expect("it comes to its end").expect("synced");
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    }
    assert!(!writer.is_finished(), "nothing failed");
    writer.abort();
    fs.abandon().await;
    let fs = cloud.open("a").await;
    assert_eq!(get(&fs, "small").await.expect("there"), b"wanted soon");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_lost_its_name_is_told_it_and_gives_nothing_up() {
    let cloud = Cloud::new(Arc::new(InMemory::new())).await;
    let config = || {
        let mut config = cloud.config("a");
        let remote = config.remote.as_mut().expect("remote");
        (remote.durability, remote.ship_every) = (Durability::Local, Duration::from_secs(3600));
        config
    };
    let fs = FileSystem::open(config()).await.expect("opens");
    put(&fs, "only-here", &pattern(30_000, 1)).await;
    fs.sync_all().await.expect("synced");
    fs.abandon().await;
    let file = cloud.dir("a").join("holder");
    let name = std::fs::read_to_string(&file).expect("reads")[..32].to_owned();
    for lost in [Some("nobody knows"), None] {
        match lost {
            Some(text) => std::fs::write(&file, text).expect("writes"),
            None => std::fs::remove_file(&file).expect("removes"),
        }
        let e = FileSystem::open(config()).await.expect_err("it is another host's now");
        let remedy = e.remedy.as_deref().expect("a remedy");
        assert!(e.kind == ErrorKind::Busy && e.message.contains("holder") && remedy.contains(&name), "{e}");
    }
    std::fs::write(&file, &name).expect("writes");
    let fs = FileSystem::open(config()).await.expect("opens");
    assert_eq!(get(&fs, "only-here").await, Some(pattern(30_000, 1)));
    fs.close().await.expect("closes");
}
