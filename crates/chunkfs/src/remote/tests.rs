//! Reading packs: what it costs, what it survives, and what it refuses.

use super::*;
use crate::host::RealDisk;
use crate::pack::{self, Target, path};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use orlop_model::{Compression, OutagePolicy};
use orlop_store::wrap::{Counts, Damage, Fault, Hooked, Meter, Plan};
use std::time::Instant;

/// Packs of one volume, seen by a host that has none of their files.
struct Far {
    dir: tempfile::TempDir,
    inner: Arc<dyn ObjectStore>,
    meter: Arc<Hooked<Meter>>,
    fault: Arc<Hooked<Fault>>,
    packs: Arc<Packs>,
}

impl Far {
    fn new(budget: u64) -> Far {
        Far::with(budget, OutagePolicy::Wait, Duration::ZERO)
    }

    fn with(budget: u64, policy: OutagePolicy, deadline: Duration) -> Far {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let fault = Fault::wrap(inner.clone(), Plan::default());
        let meter = Meter::wrap(fault.clone());
        let patience = Arc::new(Patience::new(policy, deadline));
        let packs = Packs::open(meter.clone(), "v", Arc::new(RealDisk), dir.path().join("cache"), budget, patience).expect("opens");
        Far { dir, inner, meter, fault, packs }
    }

    /// A pack of random blocks, or of blocks that compress; returns it and its bytes.
    async fn pack(&self, segment: u64, blocks: u32, compression: Compression) -> (PackAt, Vec<u8>) {
        let id = [segment as u8; 16];
        let file = RealDisk.create(&self.dir.path().join(format!("staged-{segment}"))).expect("created");
        let mut data = vec![0; blocks as usize * B];
        match compression {
            Compression::None => rand::RngCore::fill_bytes(&mut rand::rng(), &mut data),
            Compression::Zstd => data.chunks_mut(B).enumerate().for_each(|(n, b)| b.fill(n as u8)),
        }
        file.write_at(&data, BLOCK).expect("written");
        let target = Target { store: &self.inner, prefix: "v", volume: [1; 16], buffers: &Arc::default() };
        let patience = Patience::new(OutagePolicy::Wait, Duration::ZERO);
        let pack = pack::upload(&patience, &target, segment, &id, file, blocks, compression).await.expect("uploaded");
        (PackAt { segment, id, pack }, data)
    }

    fn counts(&self) -> Counts {
        self.meter.hook().counts()
    }

    async fn reads(&self, at: &PackAt, data: &[u8], from: u32, blocks: u16) -> FsResult<()> {
        let run = run(at, data, from, blocks);
        let mut out = vec![0; usize::from(blocks) * B];
        self.packs.read(at, &run, &mut out).await?;
        assert!(out == data[from as usize * B..(from as usize + usize::from(blocks)) * B], "other bytes than were written");
        Ok(())
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("cache")).expect("a folder").count()
    }

    async fn object(&self, at: &PackAt) -> Vec<u8> {
        self.inner.get(&path("v", &at.id)).await.expect("is there").bytes().await.expect("reads").to_vec()
    }

    async fn replace(&self, at: &PackAt, bytes: Vec<u8>) {
        self.inner.put(&path("v", &at.id), bytes.into()).await.expect("puts");
    }
}

fn run(at: &PackAt, data: &[u8], from: u32, blocks: u16) -> Run {
    let bytes = &data[from as usize * B..(from as usize + usize::from(blocks)) * B];
    Run { start: 0, len: blocks, segment: at.segment, at: from, crcs: bytes.chunks(B).map(crc32c::crc32c).collect() }
}

#[tokio::test]
async fn a_cold_read_is_one_request_and_a_warm_one_is_none() {
    let far = Far::new(1 << 30);
    let (raw, data) = far.pack(1, 1000, Compression::None).await;
    far.reads(&raw, &data, 500, 1).await.expect("read");
    let counts = far.counts();
    assert_eq!((counts.reads, counts.heads, counts.bytes_read), (1, 0, 64 * BLOCK));
    far.reads(&raw, &data, 448, 64).await.expect("read");
    assert_eq!(far.counts(), counts);
    // Frames that follow each other come in one request, and only those that are missing.
    far.reads(&raw, &data, 400, 200).await.expect("read");
    assert_eq!(far.counts().reads, 3);
    far.reads(&raw, &data, 960, 40).await.expect("the last frame is short");
    assert_eq!(far.counts().reads, 4);
    // A compressed pack has a table, read once.
    let (small, data) = far.pack(2, 1000, Compression::Zstd).await;
    assert!(small.pack.bytes < 1000 * BLOCK / 2);
    let before = far.counts().reads;
    far.reads(&small, &data, 10, 1).await.expect("read");
    far.reads(&small, &data, 900, 100).await.expect("read");
    assert_eq!(far.counts().reads - before, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_want_the_same_frame_share_one_request() {
    let far = Far::new(1 << 30);
    let (at, data) = far.pack(1, 200, Compression::None).await;
    far.fault.hook().set(Plan { latency: Some(Duration::from_millis(50)), ..Plan::default() });
    let all = (0..30u32).map(|n| far.reads(&at, &data, 64 + n, 2));
    futures::future::try_join_all(all).await.expect("read");
    assert_eq!(far.counts().reads, 1);
    // One who gives up leaves it to the others.
    let impatient = tokio::time::timeout(Duration::from_micros(200), far.reads(&at, &data, 0, 1)).await;
    far.reads(&at, &data, 0, 1).await.expect("read");
    drop(impatient);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_is_held_and_what_goes_was_used_longest_ago() {
    let budget = 3 << 20;
    let far = Far::new(budget);
    let mut all = Vec::new();
    for segment in 1..=8 {
        all.push(far.pack(segment, 256, Compression::None).await);
    }
    for (at, data) in &all {
        far.reads(at, data, 0, 256).await.expect("read");
        far.reads(&all[0].0, &all[0].1, 0, 1).await.expect("read");
        assert!(far.packs.cached_bytes() <= budget && !far.packs.over_budget());
        assert!(far.files() <= 3, "{}", far.files());
    }
    let before = far.counts().reads;
    far.reads(&all[0].0, &all[0].1, 0, 256).await.expect("it was used all the time");
    assert_eq!(far.counts().reads, before);
    far.reads(&all[1].0, &all[1].1, 0, 256).await.expect("read anew");
    assert_eq!(far.counts().reads, before + 1);
    // Many readers at once, of more than there is room for.
    let reads = (0..400u32).map(|n| {
        let (at, data) = &all[n as usize % 8];
        far.reads(at, data, n * 7 % 200, 50)
    });
    futures::future::try_join_all(reads).await.expect("read");
    assert!(far.packs.cached_bytes() <= budget, "{}", far.packs.cached_bytes());
    // Nothing of an earlier process is kept.
    let patience = far.packs.patience().clone();
    Packs::open(far.meter.clone(), "v", Arc::new(RealDisk), far.dir.path().join("cache"), budget, patience).expect("opens");
    assert_eq!(far.files(), 0);
}

#[tokio::test]
async fn a_damaged_cache_mends_itself() {
    let far = Far::new(1 << 30);
    for (segment, compression) in [(1, Compression::None), (2, Compression::Zstd)] {
        let (at, data) = far.pack(segment, 128, compression).await;
        far.reads(&at, &data, 0, 128).await.expect("read");
        let name = crate::segment::file_name(segment, &at.id);
        let file = RealDisk.open(&far.dir.path().join("cache").join(name)).expect("a cache file");
        file.write_at(b"rotten", 9 * BLOCK + 77).expect("written");
        let before = far.counts().reads;
        far.reads(&at, &data, 0, 128).await.expect("mended");
        assert_eq!(far.counts().reads, before + 1);
        far.reads(&at, &data, 0, 128).await.expect("read");
        assert_eq!(far.counts().reads, before + 1, "it was mended on the disk too");
        file.set_size(5000).expect("cut");
        far.reads(&at, &data, 0, 128).await.expect("mended");
        std::fs::remove_file(far.dir.path().join("cache").join(crate::segment::file_name(segment, &at.id))).expect("removed");
        far.reads(&at, &data, 0, 128).await.expect("an open file stays readable");
    }
}

#[tokio::test]
async fn a_damaged_pack_is_named_and_never_waited_for() {
    for compression in [Compression::None, Compression::Zstd] {
        let far = Far::new(1 << 30);
        let (at, data) = far.pack(1, 200, compression).await;
        let good = far.object(&at).await;
        let expect = async |what: &str| {
            far.packs.forget(1);
            let done = tokio::time::timeout(Duration::from_secs(10), far.reads(&at, &data, 70, 3)).await.expect("it is not waited for");
            let Err(FsError::Corrupt(why)) = done else { panic!("{what}: {done:?}") };
            assert!(why.contains(&format!("v/packs/{}", "01".repeat(16))), "{what}: {why}");
            why
        };
        let mut bad = good.clone();
        // Within block 71, or within its compressed frame.
        let place =
            if compression == Compression::None { pack::raw_range(71..72).start as usize + 5 } else { 64 + (good.len() - 144) * 10 / 21 };
        bad[place] ^= 4;
        far.replace(&at, bad).await;
        let why = expect("flipped").await;
        if compression == Compression::None {
            assert!(why.contains("block 71"), "{why}");
            far.reads(&at, &data, 72, 64).await.expect("what is whole is read");
        }
        far.replace(&at, good[..300].to_vec()).await;
        expect("cut").await;
        far.inner.delete(&path("v", &at.id)).await.expect("deleted");
        assert!(expect("gone").await.contains("missing"));
        far.replace(&at, good).await;
        far.packs.forget(1);
        far.reads(&at, &data, 70, 3).await.expect("read");
        let whole = far.packs.whole(&at).await.expect("whole");
        assert_eq!(whole.of.segment, 1);
    }
}

#[tokio::test]
async fn answers_that_are_cut_or_wrong_now_and_then_are_asked_for_again() {
    for damage in [Damage::Truncate, Damage::Flip, Damage::Zero] {
        for compression in [Compression::None, Compression::Zstd] {
            let far = Far::new(1 << 30);
            let (at, data) = far.pack(1, 200, compression).await;
            far.fault.hook().set(Plan { seed: 5, damage_one_in: Some((4, damage)), ..Plan::default() });
            for n in 0..20 {
                far.packs.forget(1);
                far.reads(&at, &data, n * 9, 20).await.unwrap_or_else(|e| panic!("{damage:?} {compression:?}: {e}"));
            }
            assert!(far.fault.hook().injected() > 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_waited_for_as_the_policy_says() {
    let away = Plan { outage_from: Some(0), ..Plan::default() };
    for policy in [OutagePolicy::Fail, OutagePolicy::Readonly] {
        let far = Far::with(1 << 30, policy, Duration::from_millis(300));
        let (at, data) = far.pack(1, 200, Compression::None).await;
        far.reads(&at, &data, 0, 1).await.expect("read");
        far.fault.hook().set(away.clone());
        far.reads(&at, &data, 1, 10).await.expect("what is cached needs no store");
        let began = Instant::now();
        let done = far.reads(&at, &data, 100, 1).await;
        assert!(matches!(done, Err(FsError::Io(_))), "{done:?}");
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(5), "{took:?}");
        far.fault.hook().heal();
        far.reads(&at, &data, 100, 1).await.expect("healed");
    }
    let far = Far::with(1 << 30, OutagePolicy::Wait, Duration::from_millis(100));
    let (at, data) = far.pack(1, 200, Compression::Zstd).await;
    far.fault.hook().set(away);
    let heal = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        far.fault.hook().heal();
    };
    let began = Instant::now();
    let (done, ()) = tokio::join!(far.reads(&at, &data, 100, 1), heal);
    done.expect("healed");
    assert!(began.elapsed() >= Duration::from_millis(650));
}

#[tokio::test]
async fn a_damaged_copy_on_the_host_is_passed_over() {
    let far = Far::new(1 << 30);
    let (at, data) = far.pack(1, 100, Compression::None).await;
    let staged = RealDisk.open(&far.dir.path().join("staged-1")).expect("opens");
    let source = Source::Staged(staged.clone(), Some(at));
    let mut out = vec![0; 10 * B];
    far.packs.read_from(&source, &run(&at, &data, 5, 10), &mut out).await.expect("read");
    assert_eq!(far.counts().reads, 0);
    staged.write_at(b"rotten", 8 * BLOCK).expect("written");
    far.packs.read_from(&source, &run(&at, &data, 5, 10), &mut out).await.expect("read from the store");
    assert!(out == data[5 * B..15 * B] && far.packs.is_distrusted(1));
    // A file that is a copy of nothing has nowhere else to be read from.
    let only = Source::Staged(staged, None);
    assert!(matches!(far.packs.read_from(&only, &run(&at, &data, 5, 10), &mut out).await, Err(FsError::Corrupt(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fetched_ahead_is_there_before_it_is_read() {
    let far = Far::new(1 << 30);
    let (at, data) = far.pack(1, 4096, Compression::None).await;
    far.packs.fetch_ahead(&[(at, 0, 256), (at, 256, 256), (at, 512, 3584)]);
    let began = Instant::now();
    while far.packs.cached_bytes() < 4096 * BLOCK {
        assert!(began.elapsed() < Duration::from_secs(20), "{}", far.packs.cached_bytes());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(far.counts().reads, 2, "requests of 8 MiB");
    for n in 0..16 {
        far.reads(&at, &data, n * 256, 256).await.expect("read");
    }
    assert_eq!(far.counts().reads, 2, "requests of 8 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_frame_does_not_wait_for_those_behind_it() {
    const FRAME: usize = FRAME_BLOCKS as usize * B;
    let far = Far::new(1 << 30);
    // The last frame is a short one.
    let (at, data) = far.pack(1, 3 * FRAME_BLOCKS + 5, Compression::None).await;
    let cached = far.packs.cache.get(&at);
    let Missing::Ours(fetching) = cached.missing(0..4, u32::MAX) else { panic!("nobody has it") };
    let mut arriving = far.packs.cache.arriving(&cached, 0..4).expect("a file");
    let reader = {
        let (packs, run) = (far.packs.clone(), run(&at, &data, 10, 20));
        tokio::spawn(async move {
            let mut out = vec![0; 20 * B];
            packs.read(&at, &run, &mut out).await.map(|()| out)
        })
    };
    arriving.keep(&data[..FRAME - 1]).expect("kept");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!reader.is_finished() && far.packs.cached_bytes() == 0, "a byte is missing");
    arriving.keep(&data[FRAME - 1..FRAME + 1]).expect("kept");
    let out = tokio::time::timeout(Duration::from_secs(20), reader).await.expect("one whole frame is enough").expect("no panic");
    assert!(out.expect("read") == data[10 * B..30 * B]);
    assert_eq!((far.packs.cached_bytes(), far.counts().reads), (FRAME as u64, 0));
    assert!(!arriving.is_whole());
    arriving.keep(&data[FRAME + 1..]).expect("kept");
    assert!(arriving.is_whole() && far.packs.cached_bytes() == data.len() as u64);
    assert!(arriving.keep(b"more").is_err(), "nothing was to come");
    drop(fetching);
    far.reads(&at, &data, 0, at.pack.blocks as u16).await.expect("read");
    assert_eq!(far.counts().reads, 0);
}

#[tokio::test]
async fn what_has_come_is_not_waited_for_until_the_fetch_ends() {
    let far = Far::new(1 << 30);
    let (at, data) = far.pack(1, 4 * FRAME_BLOCKS, Compression::None).await;
    let cached = far.packs.cache.get(&at);
    let Missing::Ours(fetching) = cached.missing(0..2, u32::MAX) else { panic!("nobody has it") };
    assert!(matches!(cached.missing(0..1, u32::MAX), Missing::Coming));
    // It comes just before somebody begins to wait for it.
    far.packs.cache.arriving(&cached, 0..2).expect("a file").keep(&data[..FRAME_BLOCKS as usize * B]).expect("kept");
    let soon = |frames| tokio::time::timeout(Duration::from_secs(5), cached.others(frames));
    soon(0..1).await.expect("it is there");
    soon(1..3).await.expect("the third is fetched by nobody");
    assert!(tokio::time::timeout(Duration::from_millis(50), cached.others(0..2)).await.is_err(), "the second is on its way");
    drop(fetching);
    soon(0..2).await.expect("nobody fetches it any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_ahead_cut_or_wrong_is_read_right() {
    for damage in [Damage::Truncate, Damage::Flip, Damage::Zero] {
        for compression in [Compression::None, Compression::Zstd] {
            let far = Far::new(1 << 30);
            let (at, data) = far.pack(1, 4096, compression).await;
            // The table is known, so that what is damaged are frames.
            far.reads(&at, &data, 0, 1).await.expect("read");
            far.fault.hook().set(Plan { seed: 3, damage_one_in: Some((1, damage)), ..Plan::default() });
            let before = far.counts().reads;
            far.packs.fetch_ahead(&[(at, 0, 4096)]);
            let began = Instant::now();
            while far.counts().reads == before || far.packs.permits.available_permits() < AHEAD {
                assert!(began.elapsed() < Duration::from_secs(20), "it ends by itself");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(far.fault.hook().injected() > 0);
            far.fault.hook().heal();
            for n in 0..16 {
                let read = tokio::time::timeout(Duration::from_secs(20), far.reads(&at, &data, n * 256, 256)).await;
                read.expect("nobody fetches for ever").unwrap_or_else(|e| panic!("{damage:?} {compression:?}: {e}"));
            }
        }
    }
}

#[tokio::test]
async fn the_room_of_a_copy_that_was_let_go_comes_back() {
    let far = Far::new(u64::MAX);
    let (at, data) = far.pack(3, 256, Compression::None).await;
    far.reads(&at, &data, 0, 256).await.expect("reads");
    let dir = far.dir.path().join("cache");
    let held = || {
        let open = std::fs::read_dir("/proc/self/fd").expect("a folder").filter_map(|f| std::fs::read_link(f.ok()?.path()).ok());
        open.filter(|p| p.starts_with(&dir)).count()
    };
    assert_eq!(held(), 1, "its file is open");
    far.packs.cache.shrink(0);
    assert_eq!((held(), far.files(), far.packs.cached_bytes()), (0, 0, 0), "a file that is open takes room though it has no name");
    far.reads(&at, &data, 5, 200).await.expect("it comes anew");
}
