//! Every flipped byte, one at a time, of everything that a small volume is made of: either the volume is refused and the
//! damaged thing is named, or whatever can be read is right, the rest is an error, and the check names the thing.
//!
//! `ORLOP_FLIP=all` flips every byte; without it a stride of prime length is taken over what is long.

use orlop_chunkfs::rescue::{self, Opened, Rescue};
use orlop_chunkfs::{Caller, FileKind, FileSystem, FsError, OpenConfig, ROOT_INO, Remote, XattrMode, examine_closed, format_volume};
use orlop_model::{CheckReport, Durability, ErrorKind, VolumeId};
use orlop_store::VolumeStore;
use orlop_store::keys::HostKeys;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const CX: Caller = Caller { uid: 0, gid: 0, request: 0, keeps_times: false };
/// Files up to this length are flipped at every byte.
const SHORT: usize = 300;
const STRIDE: usize = 977;

/// What the volume holds: contents, attributes, targets, by path.
pub(crate) type Expected = BTreeMap<String, Vec<u8>>;

#[derive(Clone)]
struct Volume {
    id: VolumeId,
    dir: PathBuf,
    /// Its home is the store, and this host has acknowledged what it did not send.
    remote: bool,
    /// Its files on the host are sealed.
    sealed: bool,
}

impl Volume {
    fn config(&self) -> OpenConfig {
        let url = format!("file://{}", self.dir.join("store").display());
        let store = orlop_store::open(&url).expect("a local store");
        let remote = self.remote.then(|| Remote {
            durability: Durability::Local,
            lease: Duration::from_millis(60),
            // Never while a test runs.
            ship_every: Duration::from_secs(3600),
            holder: "a host".to_owned(),
            ..Remote::default()
        });
        let config = OpenConfig { remote, ..OpenConfig::new(self.id, store, format!("volumes/{}", self.id), self.dir.join("state")) };
        config.sealed(self.keys())
    }

    fn keys(&self) -> Option<Arc<HostKeys>> {
        self.sealed.then(|| Arc::new(HostKeys::fixed()))
    }

    /// The same in another folder.
    fn at(&self, dir: &Path) -> Volume {
        Volume { dir: dir.to_owned(), ..self.clone() }
    }
}

pub(crate) fn bytes(n: usize, salt: u8) -> Vec<u8> {
    (0..n).map(|i| (i / 3) as u8 ^ salt).collect()
}

/// Two lives: one that ended well and is folded, one that was killed after a sync and is in the journal.
/// Gives a volume that has a file `small` an attribute, a folder and a link.
pub(crate) async fn dress(fs: &FileSystem, expected: &mut Expected) {
    let f = fs.lookup(ROOT_INO, b"small").await.expect("there");
    fs.setxattr(&CX, f.ino, b"user.colour", b"a quiet blue", XattrMode::Any).await.expect("set");
    expected.insert("small user.colour".to_owned(), b"a quiet blue".to_vec());
    let dir = fs.mkdir(&CX, ROOT_INO, b"dir", 0o755).await.expect("made");
    fs.symlink(&CX, dir.ino, b"link", b"../small").await.expect("made");
    expected.insert("dir/link".to_owned(), b"../small".to_vec());
}

async fn make(v: &Volume) -> Expected {
    let config = v.config();
    format_volume(&config.store, &config.prefix, v.id).await.expect("formatted");
    let mut expected = Expected::new();
    let fs = FileSystem::open(config).await.expect("opened");
    for (name, data) in [("small", bytes(10, 1)), ("whole", bytes(8192, 2)), ("large", bytes(40_000, 3)), ("empty", Vec::new())] {
        let f = fs.mknod(&CX, ROOT_INO, name.as_bytes(), FileKind::File, 0o640, 0).await.expect("made");
        fs.write(&CX, f.ino, 0, &data).await.expect("written");
        expected.insert(name.to_owned(), data);
    }
    dress(&fs, &mut expected).await;
    fs.close().await.expect("closed");

    let fs = FileSystem::open(v.config()).await.expect("opened");
    let f = fs.mknod(&CX, ROOT_INO, b"late", FileKind::File, 0o600, 0).await.expect("made");
    fs.write(&CX, f.ino, 0, &bytes(5000, 4)).await.expect("written");
    fs.write(&CX, f.ino, 700, b"in the journal").await.expect("written");
    let mut late = bytes(5000, 4);
    late[700..714].copy_from_slice(b"in the journal");
    expected.insert("late".to_owned(), late);
    let f = fs.lookup(ROOT_INO, b"whole").await.expect("there");
    fs.write(&CX, f.ino, 100, b"changed").await.expect("written");
    expected.get_mut("whole").expect("there")[100..107].copy_from_slice(b"changed");
    fs.sync_all().await.expect("synced");
    fs.abandon().await;
    expected
}

fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { todo.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in tree(from) {
        let target = to.join(file.strip_prefix(from).expect("below"));
        std::fs::create_dir_all(target.parent().expect("a parent")).expect("folders");
        std::fs::copy(&file, target).expect("copied");
    }
}

/// Anything but bytes that differ: an error is as good as the truth.
fn right<T: PartialEq + std::fmt::Debug>(what: &str, got: Result<T, FsError>, want: &T) -> Result<bool, String> {
    match got {
        Ok(got) if got == *want => Ok(true),
        Ok(_) => Err(format!("{what} reads wrong and nobody says so")),
        Err(FsError::NotFound | FsError::NoData | FsError::NotDirectory | FsError::Invalid) => Err(format!("{what} is denied to exist")),
        Err(_) => Ok(false),
    }
}

/// A file's contents, a link's target or, after a space, the value of an attribute.
async fn read_one(fs: &FileSystem, path: &str) -> Result<Vec<u8>, FsError> {
    let (path, xattr) = path.split_once(' ').map_or((path, None), |(p, x)| (p, Some(x)));
    let (mut ino, mut kind) = (ROOT_INO, FileKind::Directory);
    for name in path.split('/') {
        let found = fs.lookup(ino, name.as_bytes()).await?;
        (ino, kind) = (found.ino, found.kind);
    }
    match (xattr, kind) {
        (Some(name), _) => fs.getxattr(ino, name.as_bytes()).await.map(|b| b.to_vec()),
        (None, FileKind::Symlink) => fs.readlink(ino).await.map(|b| b.to_vec()),
        (None, _) => fs.read(ino, 0, 1 << 20).await.map(|b| b.to_vec()),
    }
}

/// What is read out up to a damage: everything is as it is expected, or as it `was` at some time; `None` stands for not there.
pub(crate) async fn read_as_of_some_time(
    fs: &FileSystem,
    expected: &Expected,
    was: impl Fn(&str) -> Vec<Option<Vec<u8>>>,
) -> Result<(), String> {
    for (path, want) in expected {
        let got = match read_one(fs, path).await {
            Ok(got) => Some(got),
            Err(FsError::NotFound | FsError::NoData) => None,
            Err(e) => return Err(format!("{path} cannot be read out: {e}")),
        };
        if got.as_ref() != Some(want) && !was(path).contains(&got) {
            return Err(format!("{path} never was what is read out of it: {:?}", got.map(|bytes| bytes.len())));
        }
    }
    Ok(())
}

/// Reads everything. Tells whether all of it could be read.
pub(crate) async fn read_all(fs: &FileSystem, expected: &Expected) -> Result<bool, String> {
    let mut whole = true;
    for (path, want) in expected {
        whole &= right(path, read_one(fs, path).await, want)?;
    }
    let mut names = BTreeSet::new();
    match fs.readdir(ROOT_INO, 0, 100).await {
        Ok(entries) => names.extend(entries.into_iter().map(|e| String::from_utf8_lossy(&e.name).into_owned())),
        Err(_) => return Ok(false),
    }
    let want: BTreeSet<String> = expected.keys().filter(|k| !k.contains(['/', ' '])).cloned().chain(["dir".to_owned()]).collect();
    if names != want {
        return Err(format!("the folder reads as {names:?}"));
    }
    Ok(whole)
}

fn names(report: &CheckReport, file: &Path) -> bool {
    let name = file.file_name().expect("a name").to_string_lossy();
    report.findings.iter().any(|f| f.at.contains(&*name))
}

/// One flip: what is wrong with how it was met, if anything.
async fn one(image: &Volume, file: &Path, at: usize, expected: &Expected) -> Result<(), String> {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    copy(&image.dir, scratch.path());
    let v = image.at(scratch.path());
    let target = scratch.path().join(file);
    let mut content = std::fs::read(&target).expect("read");
    content[at] ^= 0x20;
    std::fs::write(&target, content).expect("written");
    let config = v.config();
    let (store, prefix) = (config.store.clone(), config.prefix.clone());
    match FileSystem::open(config).await {
        Err(e) => {
            if !matches!(e.kind, ErrorKind::Corrupt | ErrorKind::Unsupported) {
                return Err(format!("the opening fails with {:?}: {e}", e.kind));
            }
            let of = VolumeStore { store, keys: v.keys() };
            let report = examine_closed(&of, &prefix, v.id, &v.dir.join("state")).await.map_err(|e| e.to_string())?;
            if !names(&report, file) {
                return Err(format!("refused ({e}), and the check does not name it: {:?}", report.findings));
            }
            match file.extension().and_then(|e| e.to_str()) {
                // Of a damaged manifest the one before it says the same: the fold was not the last that was written.
                Some("journal" | "manifest") => read_out(&v, of, prefix, expected).await,
                _ => Ok(()),
            }
        }
        Ok(fs) => {
            let read = read_all(&fs, expected).await;
            let report = fs.examine(false).await;
            fs.abandon().await;
            let whole = read?;
            let report = report.map_err(|e| format!("the check fails: {e}"))?;
            // The opening has made that one whole, of its other half.
            if names(&report, file) || (whole && file.ends_with("holder")) {
                Ok(())
            } else {
                Err(format!("the check does not name it: {:?}", report.findings))
            }
        }
    }
}

/// What the files that were changed after the fold held before.
fn earlier(path: &str) -> Vec<Option<Vec<u8>>> {
    match path {
        "whole" => vec![Some(bytes(8192, 2))],
        "late" => vec![None, Some(Vec::new()), Some(bytes(5000, 4))],
        _ => Vec::new(),
    }
}

fn rescue_of(v: &Volume, of: VolumeStore, prefix: String, state_dir: Option<PathBuf>) -> Rescue {
    let scratch = v.dir.join(format!("scratch-{}", VolumeId::random()));
    Rescue { volume: v.id, of, prefix, remote: v.remote, state_dir, trust_state: false, scratch }
}

/// What stands before a damage to the journal can be read out, and what does not depend on a damaged manifest.
async fn read_out(v: &Volume, of: VolumeStore, prefix: String, expected: &Expected) -> Result<(), String> {
    let rescue = rescue_of(v, of, prefix, Some(v.dir.join("state")));
    let Opened { fs, lost, .. } = rescue::open(&rescue).await.map_err(|e| format!("nothing can be read out: {e}"))?;
    let read = read_as_of_some_time(&fs, expected, earlier).await;
    fs.abandon().await;
    read?;
    lost.map(drop).ok_or_else(|| "what is read out is not all, and nobody says so".to_owned())
}

/// Bytes of staged files that nothing refers to have no checksum, and nobody to whom they could be wrong.
fn is_garbage(file: &Path, at: usize, live: &BTreeSet<(PathBuf, usize)>) -> bool {
    file.extension().is_some_and(|e| e == "segment") && at >= 4096 && !live.contains(&(file.to_owned(), at / 4096))
}

/// Which blocks of staged files are referred to: those whose damage is found by a whole check, block by block.
async fn live_blocks(image: &Volume) -> BTreeSet<(PathBuf, usize)> {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    copy(&image.dir, scratch.path());
    let v = image.at(scratch.path());
    let fs = FileSystem::open(v.config()).await.expect("opens");
    let mut live = BTreeSet::new();
    for file in tree(scratch.path()).into_iter().filter(|f| f.extension().is_some_and(|e| e == "segment")) {
        let content = std::fs::read(&file).expect("read");
        for block in 1..content.len().div_ceil(4096) {
            let mut damaged = content.clone();
            damaged[block * 4096] ^= 1;
            std::fs::write(&file, &damaged).expect("written");
            if names(&fs.examine(false).await.expect("checked"), &file) {
                live.insert((file.strip_prefix(scratch.path()).expect("below").to_owned(), block));
            }
        }
        std::fs::write(&file, &content).expect("written");
    }
    fs.abandon().await;
    live
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flipped_byte_is_found_and_none_is_read() {
    everything(false, false, |_| true).await;
}

/// What the store has of such a volume is the matter of `remote_flip`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flipped_byte_of_what_a_host_has_of_a_volume_in_the_cloud_is_found() {
    everything(true, false, |file| file.starts_with("state")).await;
}

/// A block is found by the checksum of what its seal is taken off, and a record by its seal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flipped_byte_of_sealed_files_on_a_host_is_found() {
    everything(false, true, |file| file.starts_with("state")).await;
}

async fn everything(remote: bool, sealed: bool, struck: impl Fn(&Path) -> bool) {
    let all = std::env::var("ORLOP_FLIP").is_ok_and(|v| v == "all");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = Volume { id: VolumeId::random(), dir: folder.path().to_owned(), remote, sealed };
    let expected = make(&image).await;
    let live = live_blocks(&image).await;
    assert!(live.len() >= if remote { 4 } else { 14 }, "blocks that hold the files: {live:?}");
    let mut work = Vec::new();
    let files = tree(&image.dir).into_iter().map(|file| file.strip_prefix(&image.dir).expect("below").to_owned());
    let files: Vec<PathBuf> = files.filter(|file| struck(file)).collect();
    println!("{files:?}");
    for file in files {
        let len = std::fs::metadata(image.dir.join(&file)).expect("there").len() as usize;
        let step = if all || len <= SHORT { 1 } else { STRIDE.min(len / 8).max(1) };
        work.extend(
            (0..len)
                .step_by(step)
                .chain(len.saturating_sub(20)..len)
                .filter(|at| !is_garbage(&file, *at, &live))
                .map(|at| (file.clone(), at)),
        );
    }
    let (total, image, expected) = (work.len(), Arc::new(image), Arc::new(expected));
    let queue = Arc::new(parking_lot::Mutex::new(work));
    let failed = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let (queue, failed, image, expected) = (queue.clone(), failed.clone(), image.clone(), expected.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
                loop {
                    let Some((file, at)) = queue.lock().pop() else { return };
                    if let Err(why) = runtime.block_on(one(&image, &file, at, &expected)) {
                        failed.lock().push(format!("{} byte {at}: {why}", file.display()));
                    }
                }
            })
        })
        .collect();
    for w in workers {
        w.join().expect("no panic");
    }
    let failed = failed.lock();
    assert!(failed.is_empty(), "{} of {total} flips:\n{}", failed.len(), failed.iter().take(20).cloned().collect::<Vec<_>>().join("\n"));
}

/// One staged file is gone: what needs it is an error, and all the rest can be read, if need be by reading it out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_staged_file_that_is_missing_takes_nothing_else_along() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = Volume { id: VolumeId::random(), dir: folder.path().to_owned(), remote: false, sealed: false };
    let expected = make(&image).await;
    let segments: Vec<PathBuf> = tree(&image.dir).into_iter().filter(|f| f.extension().is_some_and(|e| e == "segment")).collect();
    assert!(segments.len() >= 2, "one of each life: {segments:?}");
    let mut refused = 0;
    for file in segments {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        copy(&image.dir, scratch.path());
        let v = image.at(scratch.path());
        std::fs::remove_file(scratch.path().join(file.strip_prefix(&image.dir).expect("below"))).expect("removed");
        let config = v.config();
        let (store, prefix) = (config.store.clone(), config.prefix.clone());
        let fs = match FileSystem::open(config).await {
            Ok(fs) => fs,
            Err(e) => {
                refused += 1;
                assert!(e.kind == ErrorKind::Corrupt && e.remedy.is_some_and(|r| r.contains("orlop export")), "{}", e.message);
                let rescue = rescue_of(&v, VolumeStore { store, keys: None }, prefix, Some(v.dir.join("state")));
                rescue::open(&rescue).await.expect("can be read out").fs
            }
        };
        let read = read_all(&fs, &expected).await;
        fs.abandon().await;
        assert_eq!(read, Ok(false), "{}", file.display());
    }
    assert!(refused > 0, "a small write was made to a block of one of them");
}

/// Without what says who had the volume last, or whose the folder is, it is not left out in silence what only the folder has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_which_nothing_says_whose_it_is_counts_if_it_is_trusted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = Volume { id: VolumeId::random(), dir: folder.path().to_owned(), remote: true, sealed: false };
    let expected = make(&image).await;
    let config = image.config();
    let (store, prefix) = (config.store.clone(), config.prefix.clone());
    let (owner, holder) = (image.dir.join("store").join(&prefix).join("owner.json"), image.dir.join("state/holder"));
    let [whole_owner, whole_holder] = [&owner, &holder].map(|path| std::fs::read(path).expect("there"));
    let open = async |with_state: bool, trust_state: bool| {
        let state = with_state.then(|| image.dir.join("state"));
        let rescue = rescue_of(&image, VolumeStore { store: store.clone(), keys: None }, prefix.clone(), state);
        let opened = rescue::open(&Rescue { trust_state, ..rescue }).await.expect("can be read out");
        let read = read_all(&opened.fs, &expected).await;
        let some = read_as_of_some_time(&opened.fs, &expected, earlier).await;
        opened.fs.abandon().await;
        some.expect("as it was at some time");
        (read == Ok(true), opened.lost, opened.elsewhere)
    };
    let (all, lost, elsewhere) = open(true, false).await;
    assert!(all && lost.is_none() && elsewhere.is_none(), "{lost:?} {elsewhere:?}");
    let (all, lost, elsewhere) = open(false, false).await;
    assert!(!all && lost.is_none() && elsewhere.is_some_and(|e| e.contains("--state")), "{lost:?}");
    let other = "7".repeat(32).into_bytes();
    for (damaged, with) in
        [(&owner, None), (&owner, Some(b"{}".to_vec())), (&holder, None), (&holder, Some(b"x".to_vec())), (&holder, Some(other))]
    {
        let foreign = with.as_ref().is_some_and(|bytes| bytes.len() == 32);
        match &with {
            None => std::fs::remove_file(damaged).expect("removed"),
            Some(bytes) => std::fs::write(damaged, bytes).expect("written"),
        }
        let (all, lost, elsewhere) = open(true, false).await;
        assert!(!all && lost.is_some() != foreign && elsewhere.is_some() == foreign, "{damaged:?} {with:?}: {lost:?} {elsewhere:?}");
        if *damaged == owner {
            let (all, lost, elsewhere) = open(false, false).await;
            assert!(!all && lost.is_some_and(|l| l.contains("owner.json")), "{with:?}: what the folder has may be missing");
            assert!(elsewhere.is_some_and(|e| e.contains("--state")), "{with:?}");
        }
        if !foreign {
            let (all, lost, _) = open(true, true).await;
            assert!(all && lost.is_none(), "{damaged:?} {with:?}: {lost:?}");
        }
        std::fs::write(&owner, &whole_owner).expect("put back");
        std::fs::write(&holder, &whole_holder).expect("put back");
    }
}
