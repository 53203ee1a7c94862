//! What an open volume asks of its store when nobody uses it, and that upkeep keeps up when somebody does.

use crate::world::World;
use orlop_chunkfs::{Caller, FileKind, FileSystem, OpenConfig, ROOT_INO};
use orlop_store::wrap::{Hooked, Meter};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CX: Caller = Caller { uid: 0, gid: 0, request: 0, keeps_times: false };

struct Metered {
    _world: World,
    meter: Arc<Hooked<Meter>>,
    fs: Arc<FileSystem>,
}

impl Metered {
    async fn new() -> Metered {
        let (world, fs) = World::new().await;
        fs.close().await.expect("closes");
        let config = world.config();
        let meter = Meter::wrap(config.store.clone());
        let fs = FileSystem::open(OpenConfig { store: meter.clone(), ..config }).await.expect("opens");
        Metered { _world: world, meter, fs }
    }

    fn requests(&self) -> u64 {
        let c = self.meter.hook().counts();
        c.writes + c.reads + c.heads + c.lists + c.deletes
    }

    /// A change that is in the namespace when this returns.
    async fn fold(&self, name: &str) {
        self.fs.mknod(&CX, ROOT_INO, name.as_bytes(), FileKind::File, 0o644, 0).await.expect("made");
        self.fs.compact_all().await.expect("folded");
    }

    /// How many requests came in this time.
    async fn during(&self, time: Duration) -> u64 {
        let before = self.requests();
        tokio::time::sleep(time).await;
        self.requests() - before
    }

    /// Waits until what the last change set off has ended.
    async fn settled(&self) {
        for _ in 0..20 {
            if self.during(Duration::from_secs(3)).await == 0 {
                return;
            }
        }
        panic!("a minute after the last change the store is still asked");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_volume_asks_its_store_for_nothing() {
    let volume = Metered::new().await;
    for n in 0..6 {
        volume.fold(&format!("{n}")).await;
    }
    volume.settled().await;
    assert_eq!(volume.during(Duration::from_secs(20)).await, 0, "requests of an idle volume");
    // It is open all the same.
    volume.fold("more").await;
    volume.fs.lookup(ROOT_INO, b"more").await.expect("there");
    volume.fs.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes thirteen minutes"]
async fn after_its_last_change_a_volume_is_tidied_twice_at_most_and_then_left_alone() {
    let volume = Metered::new().await;
    for n in 0..6 {
        volume.fold(&format!("{n}")).await;
    }
    volume.settled().await;
    let tidying = volume.during(Duration::from_secs(12 * 60 + 30)).await;
    assert!(tidying > 0, "what was merged away is collected");
    eprintln!("{tidying} requests to tidy up");
    assert!(tidying < 200, "{tidying} requests");
    assert_eq!(volume.during(Duration::from_secs(30)).await, 0);
    volume.fs.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_volume_is_merged_in_time() {
    let volume = Metered::new().await;
    let mut longest = Duration::ZERO;
    // Sixteen unmerged tables stop all writing: many times as many must pass.
    for n in 0..120 {
        let since = Instant::now();
        let folded = tokio::time::timeout(Duration::from_secs(60), volume.fold(&format!("{n}"))).await;
        folded.unwrap_or_else(|_| panic!("change {n} waits for a merge that does not come"));
        longest = longest.max(since.elapsed());
    }
    assert!(longest < Duration::from_secs(20), "a change took {longest:?}");
    volume.settled().await;
    for n in [0, 60, 119] {
        volume.fs.lookup(ROOT_INO, format!("{n}").as_bytes()).await.expect("there");
    }
    volume.fs.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_were_given_back_are_found_again() {
    let volume = Metered::new().await;
    volume.fold("a").await;
    let before = volume.requests();
    let known = volume.fs.lookup(ROOT_INO, b"a").await.expect("there");
    assert_eq!(volume.requests(), before, "it is in memory");
    volume.fs.forget_rows();
    assert_eq!(volume.fs.lookup(ROOT_INO, b"a").await.expect("there").ino, known.ino);
    assert!(volume.requests() > before, "it is fetched");
    volume.fs.close().await.expect("closes");
}

/// Every opening writes manifests of the namespace. One that lasts seconds, as of a job that runs every minute, is over before the collector
/// comes by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_short_openings_leave_is_collected() {
    let (world, fs) = World::new().await;
    fs.close().await.expect("closes");
    let manifests = || {
        let mut found = Vec::new();
        let mut todo = vec![world.state_dir().parent().expect("the world's folder").to_owned()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(dir).expect("lists").flatten() {
                match entry.path() {
                    path if path.is_dir() => todo.push(path),
                    path if path.to_string_lossy().contains("/manifest/") => found.push(path),
                    _ => {}
                }
            }
        }
        found
    };
    let short = async |times: usize| {
        for _ in 0..times {
            FileSystem::open(world.config()).await.expect("opens").close().await.expect("closes");
        }
    };
    short(60).await;
    let before = manifests();
    assert!(before.len() > 100, "{}", before.len());
    // Nothing young is taken, since somebody may be reading it.
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    for path in &before {
        std::fs::File::options().write(true).open(path).and_then(|f| f.set_modified(long_ago)).expect("aged");
    }
    short(40).await;
    let old = before.iter().filter(|p| p.exists()).count();
    assert!(old < 5, "{old} of {} stay, and {} in all", before.len(), manifests().len());
    let fs = FileSystem::open(world.config()).await.expect("opens");
    assert!(fs.check(true).await.expect("checks").problems.is_empty());
    fs.close().await.expect("closes");
}
