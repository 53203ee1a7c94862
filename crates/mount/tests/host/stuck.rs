//! A store that does not answer. Whoever waits for it can be killed at once, what he began ends by itself when the
//! store is back, and nobody else notices as long as what he wants is at hand.

use crate::harness::{InProcess, World, alive, need_fuse, until};
use async_trait::async_trait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orlop_chunkfs::{FileSystem, OpenConfig, Remote};
use orlop_model::{CacheMode, MountPlan};
use orlop_store::wrap::{Hook, Hooked, Op};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Lets calls through while it is open, and keeps them waiting while it is shut.
#[derive(Debug)]
struct Gate {
    open: watch::Sender<bool>,
    waiting: AtomicU64,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Gate { open: watch::Sender::new(true), waiting: AtomicU64::new(0) })
    }

    fn set(&self, open: bool) {
        self.open.send_replace(open);
    }

    fn waiting(&self) -> u64 {
        self.waiting.load(SeqCst)
    }
}

#[async_trait]
impl Hook for Gate {
    async fn before(&self, _: &Op) -> object_store::Result<()> {
        self.waiting.fetch_add(1, SeqCst);
        self.open.subscribe().wait_for(|open| *open).await.expect("the gate is held by its hook");
        self.waiting.fetch_sub(1, SeqCst);
        Ok(())
    }
}

/// A volume whose names and rows are in the store alone: every first look at something asks it.
struct Cold {
    world: World,
    plan: MountPlan,
    gate: Arc<Gate>,
}

impl Cold {
    /// `fill` makes what is in the volume.
    fn new(fill: impl FnOnce(&Path)) -> Self {
        let world = World::new();
        let plan = world.volume("v");
        let cold = Cold { world, plan, gate: Gate::new() };
        let warm = cold.mount();
        fill(&warm.point);
        warm.end();
        cold
    }

    fn mount(&self) -> InProcess {
        self.mount_as(None)
    }

    /// With `remote`, the store is the volume's home, and an fsync waits for it.
    fn mount_as(&self, remote: Option<Remote>) -> InProcess {
        let store = orlop_store::open(&self.plan.store.url).expect("a store");
        let store = Hooked::new(store, self.gate.clone());
        let config = OpenConfig::new(self.plan.volume, store, &self.plan.prefix, &self.plan.state_dir);
        let config = OpenConfig { remote, ..config };
        let fs = self.world.runtime.block_on(FileSystem::open(config)).expect("opens");
        self.world.serve(self.plan.name.as_ref(), CacheMode::Strict, fs)
    }
}

impl Drop for Cold {
    fn drop(&mut self) {
        // Else a failed test would leave its requests, and with them its mount, waiting for ever.
        self.gate.set(true);
    }
}

fn start(program: &str, args: &[&Path]) -> Child {
    Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts")
}

/// Kills a process that waits, and tells how long it took to go.
fn kill_stuck(mut child: Child) -> Duration {
    let pid = Pid::from_raw(child.id() as i32);
    assert!(alive(child.id()), "it went by itself");
    let since = Instant::now();
    kill(pid, Signal::SIGKILL).expect("killed");
    until("the killed process is gone", || !alive(child.id()));
    let took = since.elapsed();
    child.wait().expect("reaped");
    took
}

#[test]
fn whoever_waits_for_the_store_can_be_killed_and_nothing_is_lost() {
    need_fuse!();
    const ALL: [&str; 6] = ["looked", "listed", "read", "made", "changed", "cut"];
    let cold = Cold::new(|point| {
        for dir in ALL {
            fs::create_dir(point.join(dir)).expect("made");
            fs::write(point.join(dir).join("f"), dir.repeat(5000)).expect("written");
        }
    });
    let block = cold.world.folder("own").join("block");
    fs::write(&block, [b'x'; 4096]).expect("written");
    let volume = cold.mount();
    let at = |path: &str| volume.point.join(path);
    // Names up to where each of them gets stuck are known, so that no two wait for the same folder.
    for dir in ALL {
        fs::metadata(at(dir)).expect("there");
    }
    for file in ["read/f", "changed/f", "cut/f"] {
        fs::metadata(at(file)).expect("there");
    }
    let inodes = volume.fs.usage().inodes;

    volume.fs.forget_blocks();
    cold.gate.set(false);
    let argument = |name: &str, path: &Path| PathBuf::from(format!("{name}={}", path.display()));
    let (input, output) = (argument("if", &block), argument("of", &at("changed/f")));
    let stuck = vec![
        ("a look at a name", start("stat", &[&at("looked/f")])),
        ("a listing", start("ls", &[Path::new("-l"), &at("listed")])),
        ("a reading", start("cat", &[&at("read/f")])),
        ("a new folder", start("mkdir", &[&at("made/d")])),
        ("a writing", start("dd", &[&input, &output, Path::new("bs=4096"), Path::new("conv=notrunc")])),
        ("a shortening", start("truncate", &[Path::new("--size=5"), &at("cut/f")])),
    ];
    until("all of them wait for the store", || cold.gate.waiting() >= ALL.len() as u64);
    std::thread::sleep(Duration::from_millis(600));
    for (what, child) in stuck {
        let took = kill_stuck(child);
        assert!(took < Duration::from_secs(2), "{what} took {took:?} to be killed");
    }

    cold.gate.set(true);
    // The kernel trusts its own pages and sizes, so the volume itself is asked.
    let lookup = |dir, name: &str| cold.world.runtime.block_on(volume.fs.lookup(dir, name.as_bytes())).expect("there");
    let (changed, cut) = (lookup(lookup(1, "changed").ino, "f").ino, lookup(lookup(1, "cut").ino, "f").ino);
    let read = |ino, length| cold.world.runtime.block_on(volume.fs.read(ino, 0, length)).expect("reads");
    until("what was written arrives although its writer is gone", || read(changed, 4096)[..] == [b'x'; 4096]);
    until("the file is cut although its cutter is gone", || read(cut, 4096)[..] == *b"cutcu");
    for dir in ["looked", "listed", "read"] {
        assert_eq!(fs::read_to_string(at(dir).join("f")).expect("reads"), dir.repeat(5000));
        fs::remove_file(at(dir).join("f")).expect("removed");
    }
    // What a killed process was never told of counts as forgotten, or it would stay for ever.
    until("removed files are gone for good", || volume.fs.usage().inodes == inodes - 3);
    volume.end();
    let again = cold.mount();
    let content = fs::read(again.point.join("changed/f")).expect("reads");
    assert!(content[..4096] == [b'x'; 4096] && content.len() == 35_000, "it is there for good");
    again.end();
}

#[test]
fn a_hundred_who_wait_stop_nobody_who_has_what_he_wants() {
    need_fuse!();
    const STUCK: usize = 100;
    let cold = Cold::new(|point| {
        fs::create_dir(point.join("cold")).expect("made");
        fs::create_dir(point.join("between")).expect("made");
        for n in 0..STUCK {
            fs::write(point.join(format!("cold/{n}")), vec![7; 300 << 10]).expect("written");
        }
        // Rows that lie beside those that were read come with them.
        for n in 0..300 {
            fs::write(point.join(format!("between/{n}")), "").expect("written");
        }
        fs::create_dir(point.join("warm")).expect("made");
        for n in 0..10 {
            fs::write(point.join(format!("warm/{n}")), vec![8; 300 << 10]).expect("written");
        }
    });
    let volume = cold.mount();
    let (cold_dir, warm_dir) = (volume.point.join("cold"), volume.point.join("warm"));
    for n in 0..STUCK {
        fs::metadata(cold_dir.join(n.to_string())).expect("there");
    }
    // The rows are in memory from here on; the pages are not, since another file is read below.
    for n in 0..10 {
        fs::read(warm_dir.join(n.to_string())).expect("reads");
    }
    fs::read_dir(&warm_dir).expect("lists").count();

    volume.fs.forget_blocks();
    cold.gate.set(false);
    let readers: Vec<_> = (0..STUCK)
        .map(|n| {
            let path = cold_dir.join(n.to_string());
            std::thread::spawn(move || fs::read(path).map(|bytes| bytes.len()))
        })
        .collect();
    until("all of them wait", || cold.gate.waiting() >= STUCK as u64);

    let since = Instant::now();
    nix::sys::statvfs::statvfs(&volume.point).expect("df");
    drop_pages(&warm_dir.join("3"));
    assert_eq!(fs::read(warm_dir.join("3")).expect("reads"), vec![8; 300 << 10]);
    for n in 0..10 {
        assert_eq!(fs::metadata(warm_dir.join(n.to_string())).expect("stat").len(), 300 << 10);
    }
    fs::write(warm_dir.join("3"), "new").expect("writes");
    let took = since.elapsed();
    assert!(took < Duration::from_secs(1), "df, a reading, ten stats and a writing took {took:?}");

    cold.gate.set(true);
    for reader in readers {
        assert_eq!(reader.join().expect("no panic").expect("reads"), 300 << 10);
    }
    volume.end();
}

#[test]
fn fsyncs_that_wait_for_the_store_can_be_killed_and_stop_nobody() {
    need_fuse!();
    const STUCK: usize = 64;
    let world = World::new();
    let plan = world.volume("v");
    let cold = Cold { world, plan, gate: Gate::new() };
    let volume = cold.mount_as(Some(Remote { holder: "this test".into(), ..Remote::default() }));
    let at = |name: &str| volume.point.join(name);
    fs::write(at("other"), "other").expect("written");
    let files: Vec<_> = (0..STUCK).map(|n| fs::File::create(at(&n.to_string())).expect("made")).collect();
    files[0].sync_all().expect("synced");

    cold.gate.set(false);
    let output = PathBuf::from(format!("of={}", at("killed").display()));
    let child = start("dd", &[Path::new("if=/dev/zero"), &output, Path::new("bs=4096"), Path::new("count=1"), Path::new("conv=fsync")]);
    let waiting: Vec<_> = files
        .into_iter()
        .map(|mut file| {
            std::thread::spawn(move || {
                std::io::Write::write_all(&mut file, b"kept")?;
                file.sync_all()
            })
        })
        .collect();
    until("the killed one has written", || fs::metadata(at("killed")).is_ok_and(|m| m.len() == 4096));
    std::thread::sleep(Duration::from_millis(700));
    assert!(waiting.iter().all(|w| !w.is_finished()), "an fsync returned although the store has nothing");
    let took = kill_stuck(child);
    assert!(took < Duration::from_secs(2), "it took {took:?} to be killed");

    let since = Instant::now();
    nix::sys::statvfs::statvfs(&volume.point).expect("df");
    assert_eq!(fs::read_dir(&volume.point).expect("lists").count(), STUCK + 2);
    assert_eq!(fs::read_to_string(at("other")).expect("reads"), "other");
    fs::write(at("another"), "another").expect("writes");
    let took = since.elapsed();
    assert!(took < Duration::from_secs(1), "df, a listing, a reading and a writing took {took:?}");

    cold.gate.set(true);
    for fsync in waiting {
        fsync.join().expect("no panic").expect("synced");
    }
    assert_eq!(fs::read(at("killed")).expect("reads"), vec![0; 4096]);
    volume.end();
}

/// Has the kernel forget a file's pages, so that the next reading asks the volume.
fn drop_pages(path: &Path) {
    let file = fs::File::open(path).expect("opens");
    nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("forgets");
}
