//! Reading a volume whose blocks are in the store: what is fetched ahead, what is let go, and what a check finds.

use async_trait::async_trait;
use orlop_chunkfs::{Caller, FileKind, FileSystem, FsError, OpenConfig, ROOT_INO, Remote, format_volume};
use orlop_model::{Compression, VolumeId};
use orlop_store::object_store::memory::InMemory;
use orlop_store::object_store::path::Path;
use orlop_store::object_store::{ObjectStore, ObjectStoreExt, Result};
use orlop_store::wrap::{Hook, Hooked, Op};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

const CX: Caller = Caller { uid: 0, gid: 0, request: 0, keeps_times: false };

/// Counts reads of packs, and how many are under way at once.
#[derive(Debug, Default)]
struct Traffic {
    latency_ms: AtomicU64,
    now: AtomicU64,
    most: AtomicU64,
    reads: AtomicU64,
}

fn is_pack(op: &Op) -> bool {
    matches!(op, Op::Get { at, .. } if at.as_ref().contains("/packs/"))
}

#[async_trait]
impl Hook for Traffic {
    async fn before(&self, op: &Op) -> Result<()> {
        if is_pack(op) {
            self.reads.fetch_add(1, SeqCst);
            let now = self.now.fetch_add(1, SeqCst) + 1;
            self.most.fetch_max(now, SeqCst);
            tokio::time::sleep(Duration::from_millis(self.latency_ms.load(SeqCst))).await;
        }
        Ok(())
    }

    async fn after(&self, op: &Op, _bytes: u64, _ok: bool) -> Result<()> {
        if is_pack(op) {
            self.now.fetch_sub(1, SeqCst);
        }
        Ok(())
    }
}

struct Volume {
    inner: Arc<InMemory>,
    store: Arc<Hooked<Traffic>>,
    id: VolumeId,
    dir: tempfile::TempDir,
    remote: Remote,
}

impl Volume {
    async fn new(compression: Compression) -> Volume {
        let inner = Arc::new(InMemory::new());
        let store = Hooked::new(inner.clone(), Arc::new(Traffic::default()));
        let id = VolumeId::random();
        let dyn_store: Arc<dyn ObjectStore> = store.clone();
        format_volume(&dyn_store, "v", id).await.expect("formats");
        let remote = Remote { compression, lease: Duration::from_millis(600), ..Remote::default() };
        Volume { inner, store, id, dir: tempfile::tempdir().expect("a temporary folder"), remote }
    }

    fn state(&self, host: &str) -> PathBuf {
        self.dir.path().join(host)
    }

    async fn open(&self, host: &str) -> Arc<FileSystem> {
        std::fs::create_dir_all(self.state(host)).expect("a folder");
        let config = OpenConfig::new(self.id, self.store.clone(), "v", self.state(host));
        FileSystem::open(OpenConfig { remote: Some(Remote { holder: host.to_owned(), ..self.remote.clone() }), ..config })
            .await
            .expect("opens")
    }

    fn staged(&self, host: &str) -> Vec<PathBuf> {
        std::fs::read_dir(self.state(host).join("staged")).expect("a folder").map(|e| e.expect("an entry").path()).collect()
    }

    async fn packs(&self) -> Vec<Path> {
        let all = self.inner.list_with_delimiter(Some(&Path::from("v/packs"))).await.expect("lists");
        all.objects.into_iter().map(|o| o.location).collect()
    }
}

fn bytes(mib: usize, compressible: bool) -> Vec<u8> {
    let mut data = vec![0; mib << 20];
    let mut x = 88172645463325252u64;
    for (i, part) in data.chunks_mut(8).enumerate() {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let v = if compressible { (i / 4096) as u64 } else { x };
        part.copy_from_slice(&v.to_le_bytes()[..part.len()]);
    }
    data
}

async fn write(fs: &FileSystem, name: &str, data: &[u8]) -> u64 {
    let ino = fs.mknod(&CX, ROOT_INO, name.as_bytes(), FileKind::File, 0o644, 0).await.expect("made").ino;
    for (i, part) in data.chunks(1 << 20).enumerate() {
        fs.write(&CX, ino, (i as u64) << 20, part).await.expect("written");
    }
    ino
}

async fn same(fs: &FileSystem, ino: u64, data: &[u8], step: usize) {
    for (i, part) in data.chunks(step).enumerate() {
        let got = fs.read(ino, (i * step) as u64, step as u32).await.expect("read");
        assert!(got == part, "bytes from {} differ", i * step);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_reading_runs_ahead_and_a_random_one_does_not() {
    for compression in [Compression::None, Compression::Zstd] {
        let v = Volume::new(compression).await;
        let data = bytes(64, compression == Compression::Zstd);
        let a = v.open("a").await;
        let ino = write(&a, "f", &data).await;
        a.close().await.expect("closes");
        assert!(v.packs().await.len() >= 4);
        let b = v.open("b").await;
        let traffic = v.store.hook();
        traffic.latency_ms.store(20, SeqCst);
        traffic.reads.store(0, SeqCst);
        for at in [40usize << 20, 3 << 20, 25 << 20, 60 << 20, 11 << 20] {
            assert!(b.read(ino, at as u64, 4096).await.expect("read") == data[at..at + 4096]);
        }
        let per_read = if compression == Compression::None { 1 } else { 2 };
        assert!(traffic.reads.load(SeqCst) <= 5 * per_read, "{}", traffic.reads.load(SeqCst));
        assert_eq!(traffic.most.load(SeqCst), 1);
        traffic.reads.store(0, SeqCst);
        same(&b, ino, &data, 128 << 10).await;
        let (reads, most) = (traffic.reads.load(SeqCst), traffic.most.load(SeqCst));
        assert!((8..=17).contains(&most), "{most} at once");
        assert!(reads <= 90, "{reads} requests for 64 MiB");
        traffic.latency_ms.store(0, SeqCst);
        same(&b, ino, &data, 1 << 20).await;
        assert_eq!(traffic.reads.load(SeqCst), reads, "what was read is here");
        b.close().await.expect("closes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_go_and_come_back_and_nothing_is_lost() {
    let mut v = Volume::new(Compression::None).await;
    let data = bytes(40, false);
    let a = v.open("a").await;
    let ino = write(&a, "f", &data).await;
    a.sync_all().await.expect("synced");
    let before = v.staged("a").len();
    assert!(before >= 3);
    assert!(a.evict(0).await >= 40 << 20);
    assert!(v.staged("a").len() < before, "{:?}", v.staged("a"));
    same(&a, ino, &data, 1 << 20).await;
    a.write(&CX, ino, 5000, b"a part of a block that is far away").await.expect("written");
    a.sync_all().await.expect("synced");
    assert_eq!(a.check(true).await.expect("checked").problems, Vec::<String>::new());
    a.evict(0).await;
    // A killed process: its journal names blocks whose files are gone.
    a.abandon().await;
    v.remote.cache_bytes = 20 << 20;
    let a = v.open("a").await;
    let mut expected = data.clone();
    expected[5000..5034].copy_from_slice(b"a part of a block that is far away");
    same(&a, ino, &expected, 1 << 20).await;
    let cached: u64 = ["cache", "staged"]
        .iter()
        .flat_map(|d| std::fs::read_dir(v.state("a").join(d)).expect("a folder"))
        .map(|e| {
            use std::os::unix::fs::MetadataExt;
            e.expect("an entry").metadata().expect("metadata").blocks() * 512
        })
        .sum();
    assert!(cached <= (20 << 20) + (2 << 20), "{cached} bytes on the host");
    a.compact_all().await.expect("compacted");
    same(&a, ino, &expected, 1 << 20).await;
    assert_eq!(a.check(true).await.expect("checked").problems, Vec::<String>::new());
    a.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_where_it_is_and_readers_get_what_is_whole() {
    let v = Volume::new(Compression::Zstd).await;
    let data = bytes(6, false);
    let a = v.open("a").await;
    let ino = write(&a, "f", &data).await;
    a.sync_all().await.expect("synced");
    let packs = v.packs().await;
    let file = v.staged("a").into_iter().max_by_key(|p| std::fs::metadata(p).expect("metadata").len()).expect("a file");
    // The copy on the host: readers are given the pack's bytes.
    let mut whole = std::fs::read(&file).expect("read");
    whole[100 * 4096 + 7] ^= 1;
    std::fs::write(&file, &whole).expect("written");
    let problems = a.check(true).await.expect("checked").problems;
    assert!(problems.len() == 1 && problems[0].contains("the copy on this host"), "{problems:?}");
    same(&a, ino, &data, 1 << 20).await;
    whole[100 * 4096 + 7] ^= 1;
    whole[77] ^= 1;
    std::fs::write(&file, &whole).expect("written");
    let problems = a.check(true).await.expect("checked").problems;
    assert!(problems.iter().any(|p| p.contains("header")), "{problems:?}");
    a.evict(0).await;
    assert_eq!(a.check(true).await.expect("checked").problems, Vec::<String>::new());
    // Every part of the pack, whether a reader needs it or not.
    let name = packs.iter().find(|p| !p.as_ref().is_empty()).expect("a pack").clone();
    let mut largest = (name, 0);
    for p in &packs {
        let size = v.inner.head(p).await.expect("is there").size;
        if size > largest.1 {
            largest = (p.clone(), size);
        }
    }
    let good = v.inner.get(&largest.0).await.expect("is there").bytes().await.expect("reads");
    for at in [0, 30, 63, 64, 1 << 20, good.len() - 40, good.len() - 1] {
        let mut bad = good.to_vec();
        bad[at] ^= 0x20;
        v.inner.put(&largest.0, bad.into()).await.expect("damaged");
        let problems = a.check(true).await.expect("checked").problems;
        assert!(problems.iter().any(|p| p.contains(largest.0.as_ref())), "byte {at}: {problems:?}");
    }
    let mut bad = good.to_vec();
    bad[1 << 20] ^= 0x20;
    v.inner.put(&largest.0, bad.into()).await.expect("damaged");
    a.evict(0).await;
    let mut refused = 0;
    for i in 0..6u64 {
        match a.read(ino, i << 20, 1 << 20).await {
            Ok(got) => assert!(got == data[(i as usize) << 20..(i as usize + 1) << 20]),
            Err(FsError::Corrupt(why)) => {
                assert!(why.contains(largest.0.as_ref()), "{why}");
                refused += 1;
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(refused == 1 || refused == 2, "{refused}");
    v.inner.delete(&largest.0).await.expect("deleted");
    let problems = a.check(true).await.expect("checked").problems;
    assert!(problems.iter().any(|p| p.contains("missing")), "{problems:?}");
    v.inner.put(&largest.0, good.into()).await.expect("mended");
    a.evict(0).await;
    assert_eq!(a.check(true).await.expect("checked").problems, Vec::<String>::new());
    same(&a, ino, &data, 1 << 20).await;
    a.close().await.expect("closes");
}
