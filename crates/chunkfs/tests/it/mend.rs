//! What a repair mends from another copy, and what it must leave alone. The volume's home is a store; this host has staged
//! copies of its packs as well.

use orlop_chunkfs::{Caller, FileKind, FileSystem, FsError, OpenConfig, ROOT_INO, Remote, format_volume};
use orlop_model::{CheckReport, FindingState, VolumeId};
use orlop_store::object_store::memory::InMemory;
use orlop_store::object_store::path::Path as StorePath;
use orlop_store::object_store::{Error, ObjectStore, ObjectStoreExt, Result as Stored};
use orlop_store::wrap::{Hook, Hooked, Op};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

const CX: Caller = Caller { uid: 0, gid: 0, request: 0, keeps_times: false };
const BLOCK: usize = 4096;

struct Far {
    store: Arc<dyn ObjectStore>,
    volume: VolumeId,
    hosts: tempfile::TempDir,
    data: Vec<u8>,
}

impl Far {
    /// One file of 40 blocks that is a pack in the store and a staged file on host a.
    async fn new() -> Far {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let volume = VolumeId::random();
        format_volume(&store, "v", volume).await.expect("formatted");
        let data: Vec<u8> = (0..40 * BLOCK).map(|i| (i / 5 + i / BLOCK * 7) as u8).collect();
        let far = Far { store, volume, hosts: tempfile::tempdir().expect("a temporary folder"), data };
        let fs = far.open("a").await;
        let f = fs.mknod(&CX, ROOT_INO, b"f", FileKind::File, 0o644, 0).await.expect("made");
        fs.write(&CX, f.ino, 0, &far.data).await.expect("written");
        fs.close().await.expect("closed");
        assert_eq!((far.packs().await.len(), far.staged().len()), (1, 1));
        far
    }

    async fn open(&self, host: &str) -> Arc<FileSystem> {
        self.open_over(host, self.store.clone()).await
    }

    async fn open_over(&self, host: &str, store: Arc<dyn ObjectStore>) -> Arc<FileSystem> {
        let remote = Remote { lease: Duration::from_millis(300), holder: host.to_owned(), ..Remote::default() };
        let dir = self.hosts.path().join(host);
        let config = OpenConfig { remote: Some(remote), ..OpenConfig::new(self.volume, store, "v", dir) };
        FileSystem::open(config).await.expect("opens")
    }

    async fn packs(&self) -> Vec<StorePath> {
        use futures::TryStreamExt;
        let all: Vec<_> = self.store.list(Some(&StorePath::from("v/packs"))).try_collect().await.expect("lists");
        all.into_iter().map(|m| m.location).filter(|p| !p.as_ref().ends_with(".damaged")).collect()
    }

    async fn object(&self, at: &StorePath) -> Option<Vec<u8>> {
        Some(self.store.get(at).await.ok()?.bytes().await.expect("bytes").to_vec())
    }

    fn staged(&self) -> Vec<PathBuf> {
        let dir = self.hosts.path().join("a/staged");
        let mut all: Vec<PathBuf> = std::fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path()).collect();
        all.retain(|p| p.extension().is_some_and(|e| e == "segment") && p.metadata().is_ok_and(|m| m.len() > 40 * BLOCK as u64));
        all
    }

    fn damage_staged(&self, f: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let path = self.staged().pop().expect("one");
        let mut bytes = std::fs::read(&path).expect("read");
        f(&mut bytes);
        std::fs::write(&path, bytes).expect("written");
        path
    }

    async fn damage_pack(&self, f: impl FnOnce(&mut Vec<u8>)) -> (StorePath, Vec<u8>) {
        let at = self.packs().await.pop().expect("one");
        let mut bytes = self.object(&at).await.expect("there");
        f(&mut bytes);
        self.store.put(&at, bytes.clone().into()).await.expect("put");
        (at, bytes)
    }

    async fn reads(&self, fs: &FileSystem) -> Result<(), FsError> {
        let f = fs.lookup(ROOT_INO, b"f").await?;
        let got = fs.read(f.ino, 0, 1 << 20).await?;
        assert!(got == self.data, "other bytes than were written");
        Ok(())
    }

    /// A host that has nothing of it reads all of it.
    async fn reads_elsewhere(&self) {
        let fs = self.open("b").await;
        self.reads(&fs).await.expect("whole in the store");
        assert_eq!(fs.check(true).await.expect("checks").problems, Vec::<String>::new());
        fs.close().await.expect("closed");
    }
}

fn state_of(report: &CheckReport, at: &str) -> Option<FindingState> {
    report.findings.iter().find(|f| f.at.contains(at) && !f.at.ends_with(".damaged")).map(|f| f.state)
}

fn name(path: &std::path::Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_staged_file_is_set_aside_and_its_pack_stands_in() {
    type Harm = fn(&mut Vec<u8>);
    let harms: [(&str, Harm); 4] = [
        ("one byte", |b| b[BLOCK * 7 + 3] ^= 1),
        ("the header", |b| b[9] ^= 1),
        ("all blocks", |b| b[BLOCK..].fill(0)),
        ("the end", |b| b.truncate(BLOCK * 20 + 5)),
    ];
    for (what, harm) in harms {
        let far = Far::new().await;
        let fs = far.open("a").await;
        let path = far.damage_staged(harm);
        let damaged = std::fs::read(&path).expect("read");
        let report = fs.examine(false).await.expect("checked");
        assert_eq!(state_of(&report, &name(&path)), Some(FindingState::Left), "{what}: {report:#?}");
        far.reads(&fs).await.unwrap_or_else(|e| panic!("{what}: the pack is whole: {e}"));
        let report = fs.examine(false).await.expect("checked");
        assert!(state_of(&report, &name(&path)).is_some(), "{what}: a reader that helped itself hides nothing: {report:#?}");
        let report = fs.examine(true).await.expect("repaired");
        assert!(report.clean && state_of(&report, &name(&path)) == Some(FindingState::Repaired), "{what}: {report:#?}");
        assert!(!path.exists(), "{what}");
        assert_eq!(std::fs::read(path.with_extension("segment.damaged")).expect("kept"), damaged, "{what}");
        far.reads(&fs).await.expect("read");
        assert_eq!(fs.check(true).await.expect("checks").problems, Vec::<String>::new(), "{what}");
        fs.close().await.expect("closed");
        let fs = far.open("a").await;
        far.reads(&fs).await.expect("read after an opening");
        fs.close().await.expect("closed");
        far.reads_elsewhere().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_is_made_anew_from_the_staged_file() {
    type Harm = fn(&mut Vec<u8>);
    let harms: [(&str, Harm); 6] = [
        ("a byte of a block", |b| b[64 + BLOCK * 3] ^= 1),
        ("the header", |b| b[30] ^= 1),
        ("the table", |b| {
            let n = b.len();
            b[n - 35] ^= 1;
        }),
        ("the end", |b| b.truncate(b.len() / 2)),
        ("everything", |b| b.clear()),
        ("more than there was", |b| b.push(0)),
    ];
    for (what, harm) in harms {
        let far = Far::new().await;
        let fs = far.open("a").await;
        let (at, damaged) = far.damage_pack(harm).await;
        let report = fs.examine(false).await.expect("checked");
        assert_eq!(state_of(&report, at.as_ref()), Some(FindingState::Left), "{what}: {report:#?}");
        far.reads(&fs).await.expect("the staged file is whole");
        let report = fs.examine(true).await.expect("repaired");
        assert!(report.clean && state_of(&report, at.as_ref()) == Some(FindingState::Repaired), "{what}: {report:#?}");
        let aside = StorePath::from(format!("{at}.damaged"));
        assert_eq!(far.object(&aside).await, Some(damaged), "{what}");
        assert_eq!(fs.check(true).await.expect("checks").problems, Vec::<String>::new(), "{what}");
        fs.close().await.expect("closed");
        far.reads_elsewhere().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_pack_and_one_of_another_segment_are_made_anew() {
    let far = Far::new().await;
    let fs = far.open("a").await;
    let at = far.packs().await.pop().expect("one");
    far.store.delete(&at).await.expect("removed");
    let report = fs.examine(true).await.expect("repaired");
    assert!(report.clean && state_of(&report, at.as_ref()) == Some(FindingState::Repaired), "{report:#?}");
    assert!(far.object(&StorePath::from(format!("{at}.damaged"))).await.is_none(), "nothing was there to be kept");
    fs.close().await.expect("closed");
    far.reads_elsewhere().await;

    let (far, other) = (Far::new().await, Far::new().await);
    let fs = far.open("a").await;
    let foreign = other.object(&other.packs().await.pop().expect("one")).await.expect("there");
    let (at, _) = far.damage_pack(|b| *b = foreign).await;
    let report = fs.examine(true).await.expect("repaired");
    assert!(report.clean && state_of(&report, at.as_ref()) == Some(FindingState::Repaired), "{report:#?}");
    fs.close().await.expect("closed");
    far.reads_elsewhere().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_both_copies_are_damaged_neither_is_touched() {
    let far = Far::new().await;
    let fs = far.open("a").await;
    let path = far.damage_staged(|b| b[BLOCK * 7] ^= 1);
    let (at, pack) = far.damage_pack(|b| b[64 + BLOCK * 3] ^= 1).await;
    let staged = std::fs::read(&path).expect("read");
    let report = fs.examine(true).await.expect("checked");
    assert!(!report.clean);
    for at in [name(&path), at.to_string()] {
        assert_eq!(state_of(&report, &at), Some(FindingState::Left), "{report:#?}");
    }
    assert!(report.findings.iter().any(|f| f.paths == ["/f"]), "{report:#?}");
    assert_eq!(std::fs::read(&path).expect("still there"), staged);
    assert_eq!(far.object(&at).await, Some(pack));
    // Other blocks, other copies: what either has whole is still read, and nothing wrong ever.
    let _ = far.reads(&fs).await;
    fs.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_without_another_copy_is_left_as_it_is_and_its_files_are_named() {
    let far = Far::new().await;
    let fs = far.open("b").await;
    let (at, damaged) = far.damage_pack(|b| b[64 + BLOCK * 3] ^= 1).await;
    let report = fs.examine(true).await.expect("checked");
    assert!(!report.clean && state_of(&report, at.as_ref()) == Some(FindingState::Left), "{report:#?}");
    assert!(report.findings.iter().any(|f| f.at == at.as_ref() && f.paths == ["/f"] && f.remedy.is_some()), "{report:#?}");
    assert_eq!(far.object(&at).await, Some(damaged));
    assert!(matches!(far.reads(&fs).await, Err(FsError::Corrupt(_) | FsError::Io(_))));
    // What cannot be mended can be got rid of, and the volume is well again.
    let f = fs.lookup(ROOT_INO, b"f").await.expect("there");
    fs.unlink(&CX, ROOT_INO, b"f").await.expect("removed");
    fs.forget(f.ino, 9);
    for _ in 0..500 {
        if fs.usage().used_bytes == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fs.compact_all().await.expect("folded");
    let report = fs.examine(false).await.expect("checked");
    assert!(report.findings.iter().all(|f| f.paths.is_empty()), "{report:#?}");
    fs.close().await.expect("closed");
}

/// What goes wrong with changes to packs, once it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// The n-th change is refused, and those after it are not.
    Fails(u64),
    /// The n-th change is made, and its answer is lost.
    AnswerLost(u64),
    /// From the n-th change on nothing answers.
    Outage(u64),
}

#[derive(Debug)]
struct OnPacks {
    wrong: Wrong,
    armed: AtomicBool,
    changes: AtomicU64,
    made: AtomicBool,
}

impl OnPacks {
    fn fail(&self) -> Stored<()> {
        self.made.store(true, SeqCst);
        Err(Error::Generic { store: "test", source: "connection lost".into() })
    }
}

#[async_trait::async_trait]
impl Hook for OnPacks {
    async fn before(&self, op: &Op) -> Stored<()> {
        if !self.armed.load(SeqCst) {
            return Ok(());
        }
        let ours = op.mutates() && op.path().contains("/packs/");
        let n = if ours { self.changes.fetch_add(1, SeqCst) + 1 } else { self.changes.load(SeqCst) };
        match self.wrong {
            Wrong::Fails(at) if ours && n == at => self.fail(),
            Wrong::Outage(from) if n >= from => self.fail(),
            _ => Ok(()),
        }
    }

    async fn after(&self, op: &Op, _bytes: u64, ok: bool) -> Stored<()> {
        let ours = ok && self.armed.load(SeqCst) && op.mutates() && op.path().contains("/packs/");
        if ours && self.wrong == Wrong::AnswerLost(self.changes.load(SeqCst)) { self.fail() } else { Ok(()) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_while_a_pack_is_mended_has_no_less_than_before() {
    let mut hits = 0;
    for wrong in (1..=3).flat_map(|n| [Wrong::Fails(n), Wrong::AnswerLost(n), Wrong::Outage(n)]) {
        let far = Far::new().await;
        let hook = OnPacks { wrong, armed: false.into(), changes: 0.into(), made: false.into() };
        let store = Hooked::new(far.store.clone(), Arc::new(hook));
        let fs = far.open_over("a", store.clone()).await;
        let whole = far.object(&far.packs().await.pop().expect("one")).await.expect("there");
        let (at, damaged) = far.damage_pack(|b| b[64 + BLOCK * 3] ^= 1).await;

        store.hook().armed.store(true, SeqCst);
        // With the store away for good it may well wait for it, as the volume's policy says; a host may die then.
        let repaired = tokio::time::timeout(Duration::from_secs(2), fs.examine(true)).await;
        store.hook().armed.store(false, SeqCst);
        hits += u64::from(store.hook().made.load(SeqCst));

        let now = far.object(&at).await.unwrap_or_else(|| panic!("{wrong:?}: neither the damaged pack nor another one is there"));
        assert!(now == damaged || now == whole, "{wrong:?}: something else is there");
        if let Ok(Ok(report)) = &repaired {
            assert_eq!(report.clean, now == whole, "{wrong:?}: {report:#?}");
            assert_eq!(state_of(report, at.as_ref()) == Some(FindingState::Repaired), now == whole, "{wrong:?}: {report:#?}");
        }
        far.reads(&fs).await.unwrap_or_else(|e| panic!("{wrong:?}: on its host it reads as before: {e}"));
        fs.abandon().await;

        // A host that has only the store reads every block that was whole.
        let elsewhere = far.open("b").await;
        let f = elsewhere.lookup(ROOT_INO, b"f").await.expect("there");
        for n in (0..40).filter(|n| *n != 3) {
            let got = elsewhere.read(f.ino, (n * BLOCK) as u64, BLOCK as u32).await;
            let got = got.unwrap_or_else(|e| panic!("{wrong:?}: block {n}: {e}"));
            assert!(got == far.data[n * BLOCK..(n + 1) * BLOCK], "{wrong:?}: block {n}");
        }
        elsewhere.close().await.expect("closed");

        let fs = far.open("a").await;
        let report = fs.examine(true).await.expect("repaired");
        assert!(report.clean, "{wrong:?}: {report:#?}");
        assert_eq!(far.object(&at).await, Some(whole), "{wrong:?}: the very bytes that were written first");
        fs.close().await.expect("closed");
        far.reads_elsewhere().await;
    }
    // A mending makes two changes: the copy aside, and the pack. A lost answer to the second one is seen through.
    assert_eq!(hits, 6);
}
