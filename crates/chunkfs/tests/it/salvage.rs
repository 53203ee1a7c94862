//! Damage to the tables of a namespace: all that does not lie in the damaged part is read out, and nothing ever reads wrong.

use futures::TryStreamExt;
use orlop_chunkfs::rescue::{self, Opened, Rescue};
use orlop_chunkfs::{Caller, FileKind, FileSystem, FsError, Ino, OpenConfig, ROOT_INO, Remote, SetAttr, format_volume};
use orlop_model::{OutagePolicy, VolumeId};
use orlop_store::VolumeStore;
use orlop_store::keys::{MasterKeys, create_ring, sealed_volume};
use orlop_store::object_store::memory::InMemory;
use orlop_store::object_store::path::Path as StorePath;
use orlop_store::object_store::{ObjectStore, ObjectStoreExt};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const CX: Caller = Caller { uid: 0, gid: 0, request: 0, keeps_times: false };
const FOLDERS: usize = 40;
const FILES: usize = 5000;
/// Bytes of a frame that is damaged as a whole, and of it and its tag as they lie in the store, behind a header.
const FRAME: usize = 65_536;
const SEALED: usize = FRAME + 16;
const HEADER: usize = 40;
/// More bytes than this a row takes in a table.
const ROW: usize = 32;
/// Blocks that a damage cuts in two are lost with it.
const BLOCK: usize = 4096;

struct Volume {
    id: VolumeId,
    dir: tempfile::TempDir,
    keys: Option<tempfile::TempDir>,
}

impl Volume {
    async fn new(sealed: bool) -> Volume {
        let keys = sealed.then(|| tempfile::tempdir().expect("a temporary folder"));
        let v = Volume { id: VolumeId::random(), dir: tempfile::tempdir().expect("a temporary folder"), keys };
        if let Some(keys) = &v.keys {
            MasterKeys::ensure(keys.path()).expect("a key");
            create_ring(&*v.store(), &v.prefix(), &MasterKeys::load(keys.path()).expect("keys")).await.expect("a ring");
        }
        format_volume(&v.view().await.store, &v.prefix(), v.id).await.expect("formatted");
        v
    }

    fn prefix(&self) -> String {
        format!("volumes/{}", self.id)
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        orlop_store::open(&format!("file://{}", self.dir.path().join("store").display())).expect("a local store")
    }

    async fn view(&self) -> VolumeStore {
        match &self.keys {
            Some(keys) => sealed_volume(self.store(), &self.prefix(), &MasterKeys::load(keys.path()).expect("keys")).await.expect("a view"),
            None => VolumeStore { store: self.store(), keys: None },
        }
    }

    async fn open(&self) -> Arc<FileSystem> {
        let VolumeStore { store, keys } = self.view().await;
        FileSystem::open(OpenConfig::new(self.id, store, self.prefix(), self.state()).sealed(keys)).await.expect("opens")
    }

    /// In so many lives, each of which leaves a table.
    async fn fill(&self, lives: usize) {
        let mut folders: Vec<Ino> = Vec::new();
        for life in 0..lives {
            let fs = self.open().await;
            for n in folders.len()..FOLDERS {
                folders.push(fs.mkdir(&CX, ROOT_INO, format!("folder-{n}").as_bytes(), 0o755).await.expect("made").ino);
            }
            for n in (life..FILES).step_by(lives) {
                let name = format!("file-{n:05}");
                let f = fs.mknod(&CX, folders[n % FOLDERS], name.as_bytes(), FileKind::File, 0o640, 0).await.expect("made");
                fs.write(&CX, f.ino, 0, &content(n)).await.expect("written");
            }
            fs.close().await.expect("closed");
        }
    }

    /// The tables in the store, the oldest first.
    fn tables(&self) -> Vec<PathBuf> {
        let dir = self.dir.path().join("store").join(self.prefix()).join("meta/compacted");
        let mut all: Vec<PathBuf> = std::fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path()).collect();
        all.retain(|p| p.extension().is_some_and(|e| e == "sst"));
        all.sort();
        all
    }

    async fn read_out(&self) -> (Opened, tempfile::TempDir) {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let rescue = Rescue {
            volume: self.id,
            of: self.view().await,
            prefix: self.prefix(),
            remote: false,
            state_dir: Some(self.state()),
            trust_state: false,
            scratch: scratch.path().to_owned(),
        };
        (rescue::open(&rescue).await.expect("can be read out"), scratch)
    }
}

/// Told from all others by its first bytes.
fn content(n: usize) -> Vec<u8> {
    let mut bytes = (n as u32).to_le_bytes().to_vec();
    bytes.extend((0..40 + n * 37 % 6000).map(|i| (i * (n + 3)) as u8));
    bytes
}

fn path_of(n: usize) -> String {
    format!("/folder-{}/file-{n:05}", n % FOLDERS)
}

/// Whose content it is, every byte of it.
fn number_of(bytes: &[u8]) -> usize {
    let n = bytes.first_chunk().map_or(FILES, |head| u32::from_le_bytes(*head) as usize);
    assert!(n < FILES && content(n) == bytes, "{} bytes that nobody wrote, as of file {n}", bytes.len());
    n
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("read");
    bytes[at] ^= 0x20;
    std::fs::write(path, bytes).expect("written");
}

/// Files that could be read whole: below their names, and without.
#[derive(Default)]
struct Found {
    named: BTreeSet<usize>,
    strays: BTreeSet<usize>,
}

async fn found_in(fs: &FileSystem) -> Found {
    let (mut found, mut seen) = (Found::default(), BTreeSet::new());
    let mut todo = vec![(ROOT_INO, String::new())];
    while let Some((folder, above)) = todo.pop() {
        let mut cookie = 0;
        while let Ok(entries) = fs.readdir(folder, cookie, 512).await {
            let Some(last) = entries.last() else { break };
            cookie = last.cookie;
            for entry in entries {
                let path = format!("{above}/{}", String::from_utf8_lossy(&entry.name));
                if entry.kind == FileKind::Directory {
                    todo.push((entry.ino, path));
                    continue;
                }
                seen.insert(entry.ino);
                if let Ok(bytes) = fs.read(entry.ino, 0, 1 << 20).await {
                    let n = number_of(&bytes);
                    assert_eq!(path, path_of(n), "the content of another file");
                    found.named.insert(n);
                }
            }
        }
    }
    let mut next = Some(0);
    while let Some(from) = next {
        let (some, more) = rescue::inodes(fs, from).await.expect("lists");
        for attr in some.iter().filter(|attr| attr.kind == FileKind::File && !seen.contains(&attr.ino)) {
            if let Ok(bytes) = fs.read(attr.ino, 0, 1 << 20).await {
                found.strays.insert(number_of(&bytes));
            }
        }
        next = more;
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_frame_of_a_table_takes_the_rows_in_it_and_no_more() {
    for sealed in [false, true] {
        let v = Volume::new(sealed).await;
        v.fill(1).await;
        let (opened, _scratch) = v.read_out().await;
        assert_eq!((opened.lost, opened.rebuilt), (None, false), "nothing is damaged");
        let all = found_in(&opened.fs).await;
        opened.fs.abandon().await;
        assert_eq!((all.named.len(), all.strays.len()), (FILES, 0));

        let table = v.tables().into_iter().max_by_key(|p| p.metadata().expect("there").len()).expect("a table");
        let name = table.file_name().expect("a name").to_str().expect("plain").to_owned();
        let len = table.metadata().expect("there").len() as usize;
        let frames = (len - HEADER).div_ceil(SEALED);
        assert!(frames > 8, "{frames} frames");
        // A frame of the seal lies in two of the guard inside it.
        let layers = if sealed { 2 } else { 1 };
        let most = layers * (FRAME + 2 * BLOCK) / ROW;
        assert!(most < FILES);
        let (mut strays, mut fewer) = (0, 0);
        for frame in BTreeSet::from([0, 1, frames / 2, frames * 5 / 8, frames * 7 / 8, frames - 1]) {
            let at = (HEADER + frame * SEALED + 100).min(len - 5);
            flip(&table, at);
            let (opened, _scratch) = v.read_out().await;
            let lost = opened.lost.clone().expect("it says what is damaged");
            assert!(lost.contains(&name) && opened.rebuilt, "{lost}");
            let found = found_in(&opened.fs).await;
            opened.fs.abandon().await;
            flip(&table, at);
            let missing = FILES - found.named.union(&found.strays).count();
            println!("sealed {sealed}, frame {frame} of {frames}: {} named, {} strays: {lost}", found.named.len(), found.strays.len());
            // The seal's first frame has the guard's header, without which nothing of it opens.
            if !sealed || frame > 0 {
                assert!(missing <= most, "frame {frame}: {missing} are missing");
            }
            strays += found.strays.len();
            fewer += missing;
        }
        assert!(strays > 0 && fewer > 0, "names and contents were hit: {strays}, {fewer}");
        let (opened, _scratch) = v.read_out().await;
        assert_eq!(opened.lost, None, "what was damaged is set right");
        opened.fs.abandon().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_cannot_be_read_at_all_takes_its_own_rows_along() {
    let v = Volume::new(false).await;
    v.fill(2).await;
    let tables = v.tables();
    assert_eq!(tables.len(), 2, "one of each life: {tables:?}");
    let of_life = |life: usize| (life..FILES).step_by(2).collect::<BTreeSet<usize>>();
    for (table, left) in [(1, of_life(0)), (0, of_life(1))] {
        for gone in [false, true] {
            let aside = tables[table].with_extension("aside");
            if gone {
                std::fs::rename(&tables[table], &aside).expect("moved");
            } else {
                flip(&tables[table], 30);
            }
            let (opened, _scratch) = v.read_out().await;
            let lost = opened.lost.clone().expect("it says what is damaged");
            let found = found_in(&opened.fs).await;
            opened.fs.abandon().await;
            if gone {
                std::fs::rename(&aside, &tables[table]).expect("moved back");
            } else {
                flip(&tables[table], 30);
            }
            assert!(lost.contains("none of its rows"), "{lost}");
            let all: BTreeSet<usize> = found.named.union(&found.strays).copied().collect();
            assert!(left.is_subset(&all), "table {table}: {} of {} are there", left.intersection(&all).count(), left.len());
            // What older tables say of names stands.
            assert!(table == 0 || left.is_subset(&found.named), "table {table}");
        }
    }
}

const OLD: &[u8] = &[1; 12_000];
const NEW: &[u8] = &[2; 20_000];

/// What may be read of a file: one of these as a whole, or an error.
async fn reads_as(fs: &FileSystem, allowed: &[&[u8]]) -> Result<(), String> {
    let mut next = Some(0);
    while let Some(from) = next {
        let (some, more) = rescue::inodes(fs, from).await.expect("lists");
        for attr in some.iter().filter(|attr| attr.kind == FileKind::File) {
            match fs.read(attr.ino, 0, 1 << 20).await {
                Ok(bytes) if allowed.contains(&&bytes[..]) => {}
                Ok(bytes) => return Err(format!("{} bytes that it never held: {:?}...", bytes.len(), &bytes[..bytes.len().min(8)])),
                Err(FsError::Corrupt(_) | FsError::Io(_) | FsError::NotFound) => {}
                Err(e) => return Err(e.to_string()),
            }
        }
        next = more;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_never_of_two_times() {
    for goes_on in [false, true] {
        let v = Volume::new(false).await;
        let fs = v.open().await;
        let f = fs.mknod(&CX, ROOT_INO, b"f", FileKind::File, 0o640, 0).await.expect("made").ino;
        fs.write(&CX, f, 0, OLD).await.expect("written");
        fs.close().await.expect("closed");
        let fs = v.open().await;
        fs.write(&CX, f, 0, NEW).await.expect("written");
        fs.close().await.expect("closed");
        let mut late = NEW.to_vec();
        if goes_on {
            // What is not folded says of the inode all, and of its blocks what changed.
            let fs = v.open().await;
            fs.write(&CX, f, 100, b"late").await.expect("written");
            fs.setattr(&CX, f, &SetAttr { perm: Some(0o600), ..SetAttr::default() }).await.expect("set");
            late[100..104].copy_from_slice(b"late");
            fs.sync_all().await.expect("synced");
            fs.abandon().await;
        }
        let tables = v.tables();
        assert!(tables.len() >= 2, "{tables:?}");
        for (n, table) in tables.iter().enumerate() {
            let len = table.metadata().expect("there").len() as usize;
            for at in [3, 30, 60, len / 2, len - 1] {
                flip(table, at);
                let (opened, _scratch) = v.read_out().await;
                let allowed: Vec<&[u8]> = if goes_on { vec![&late[..]] } else { vec![OLD, NEW] };
                let read = reads_as(&opened.fs, &allowed).await;
                let lost = opened.lost.clone();
                opened.fs.abandon().await;
                flip(table, at);
                read.unwrap_or_else(|e| panic!("table {n}, byte {at}, {goes_on}: {e} ({lost:?})"));
                assert!(lost.is_some(), "table {n}, byte {at}");
            }
        }
        // In the end it is as it was.
        let fs = v.open().await;
        assert!(fs.read(f, 0, 1 << 20).await.expect("read") == late);
        fs.close().await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_comes_out_though_the_rows_are_lost_that_say_where_it_begins() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let id = VolumeId::random();
    format_volume(&store, "v", id).await.expect("formatted");
    let hosts = tempfile::tempdir().expect("a temporary folder");
    let config = |host: &str| {
        let remote = Remote {
            lease: Duration::from_millis(60),
            outage: OutagePolicy::Fail,
            outage_deadline: Duration::from_secs(5),
            holder: host.to_owned(),
            ..Remote::default()
        };
        OpenConfig { remote: Some(remote), ..OpenConfig::new(id, store.clone(), "v", hosts.path().join(host)) }
    };
    for (life, host) in ["a", "b"].into_iter().enumerate() {
        let fs = FileSystem::open(config(host)).await.expect("opens");
        for n in 10 * life..10 * life + 10 {
            let f = fs.mknod(&CX, ROOT_INO, format!("file-{n}").as_bytes(), FileKind::File, 0o640, 0).await.expect("made");
            fs.write(&CX, f.ino, 0, &content(n)).await.expect("written");
            fs.sync_all().await.expect("synced");
        }
        if host == "a" {
            fs.close().await.expect("closed");
        } else {
            // A sign of life tells how far the log has come.
            tokio::time::sleep(Duration::from_millis(100)).await;
            fs.abandon().await;
        }
    }
    let tables: Vec<_> = store.list(Some(&StorePath::from("v/meta/compacted"))).try_collect().await.expect("lists");
    assert!(!tables.is_empty());
    for table in tables {
        let mut bytes = store.get(&table.location).await.expect("there").bytes().await.expect("bytes").to_vec();
        bytes[60] ^= 1;
        store.put(&table.location, bytes.into()).await.expect("put");
    }
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let rescue = Rescue {
        volume: id,
        of: VolumeStore { store, keys: None },
        prefix: "v".to_owned(),
        remote: true,
        state_dir: None,
        trust_state: false,
        scratch: scratch.path().to_owned(),
    };
    let opened = rescue::open(&rescue).await.expect("can be read out");
    assert!(opened.rebuilt && opened.lost.is_some());
    for n in 0..20 {
        let read = match opened.fs.lookup(ROOT_INO, format!("file-{n}").as_bytes()).await {
            Ok(attr) => opened.fs.read(attr.ino, 0, 1 << 20).await,
            Err(e) => Err(e),
        };
        match read {
            Ok(bytes) => assert_eq!(number_of(&bytes), n),
            Err(e) => assert!(n < 10, "file {n} is in the log: {e}; {:?}", opened.lost),
        }
    }
    opened.fs.abandon().await;
}
