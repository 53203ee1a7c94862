//! A root folder of its own, a keeper in it, and a guard that clears everything away by process number and mount
//! point, also when a test fails.

use orlop_chunkfs::{FileSystem, OpenConfig, format_volume};
use orlop_model::{CacheMode, MountPlan, StoreSpec, VolumeId, VolumeOptions};
use orlop_mount::keeper::{KeeperConfig, Launcher};
use orlop_mount::worker::WorkerConfig;
use orlop_mount::{KeeperClient, WorkerState, fuse};
use orlop_store::VolumeStore;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Why these tests cannot run here, if they cannot.
pub(crate) fn obstacle() -> Option<&'static str> {
    if !std::fs::metadata("/dev/fuse").is_ok_and(|m| m.file_type().is_char_device()) {
        return Some("/dev/fuse is absent");
    }
    if !nix::unistd::geteuid().is_root() {
        return Some("mounting needs root");
    }
    None
}

macro_rules! need_fuse {
    () => {
        if let Some(why) = crate::harness::obstacle() {
            eprintln!("skipped: {why}");
            return;
        }
    };
}
pub(crate) use need_fuse;

/// Two tests of one: under either way of the kernel's caching.
macro_rules! in_both_modes {
    ($test:ident) => {
        mod $test {
            #[test]
            fn strict() {
                super::$test(orlop_model::CacheMode::Strict);
            }
            #[test]
            fn fast() {
                super::$test(orlop_model::CacheMode::Fast);
            }
        }
    };
}
pub(crate) use in_both_modes;

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

pub(crate) fn launcher(entry: &str) -> Launcher {
    // The test runner takes no arguments that it does not know, so they go through the environment.
    let script = format!("ORLOP_TEST_ROOT=\"$2\" ORLOP_TEST_VOLUME=\"$4\" exec \"$0\" --exact {entry} --ignored --nocapture");
    let program = std::env::current_exe().expect("this program");
    Launcher { program: "/bin/sh".into(), args: vec!["-c".into(), script.into(), program.into()], env: Vec::new() }
}

fn from_environment(name: &str) -> String {
    std::env::var(name).expect("started by a test")
}

fn log() {
    let level = tracing_subscriber_level();
    let _ = tracing::subscriber::set_global_default(Stderr(level));
}

fn tracing_subscriber_level() -> tracing::Level {
    if std::env::var_os("ORLOP_TEST_TRACE").is_some() { tracing::Level::TRACE } else { tracing::Level::INFO }
}

/// Log lines as they come, into the log file that is this process's standard error.
struct Stderr(tracing::Level);

impl tracing::Subscriber for Stderr {
    fn enabled(&self, m: &tracing::Metadata<'_>) -> bool {
        *m.level() <= self.0
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!(" {}={value:?}", field.name()));
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        eprintln!("{} {}{}", event.metadata().level(), event.metadata().target(), text.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

pub(crate) fn be_keeper() {
    log();
    let root = PathBuf::from(from_environment("ORLOP_TEST_ROOT"));
    let resend = !root.join("no-resend").exists();
    let ended = orlop_mount::keeper::serve(KeeperConfig { root, worker: launcher("worker_process"), resend });
    if let Err(e) = &ended {
        eprintln!("keeper: {e}");
    }
    std::process::exit(i32::from(ended.is_err()));
}

pub(crate) fn be_worker() {
    log();
    let root = PathBuf::from(from_environment("ORLOP_TEST_ROOT"));
    let volume = from_environment("ORLOP_TEST_VOLUME").parse().expect("an id");
    let ended = orlop_mount::worker::serve(WorkerConfig {
        root,
        volume,
        open_store: |plan, _| Box::pin(async { Ok(VolumeStore { store: orlop_store::open_spec(&plan.store)?, keys: None }) }),
    });
    if let Err(e) = &ended {
        eprintln!("worker: {e}");
    }
    std::process::exit(i32::from(ended.is_err()));
}

/// A root folder with everything that was started in it.
pub(crate) struct World {
    dir: TempDir,
    pub(crate) runtime: Runtime,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("orlop-mount-").tempdir().expect("a folder");
        World { dir, runtime: runtime() }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// A folder beside the root.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        path
    }

    pub(crate) fn keeper(&self) -> KeeperClient {
        self.runtime.block_on(KeeperClient::connect_or_start(&self.root(), &launcher("keeper_process"))).expect("a keeper")
    }

    /// A plan of a volume that is not laid in the store yet.
    pub(crate) fn plan(&self, name: &str) -> MountPlan {
        let id = VolumeId::random();
        let at = |part: &str| self.root().join(part).join(id.to_string()).to_string_lossy().into_owned();
        MountPlan {
            volume: id,
            name: name.parse().expect("a name"),
            store: StoreSpec::new(format!("file://{}", self.root().join("stores/default").display())),
            prefix: format!("volumes/{id}"),
            state_dir: at("state"),
            mountpoint: at("mnt"),
            options: VolumeOptions::default(),
            abandon_unsynced: false,
        }
    }

    /// A plan of an empty volume.
    pub(crate) fn volume(&self, name: &str) -> MountPlan {
        let plan = self.plan(name);
        let store = orlop_store::open(&plan.store.url).expect("a store");
        self.runtime.block_on(format_volume(&store, &plan.prefix, plan.volume)).expect("formatted");
        plan
    }

    /// An empty volume, mounted by this process itself.
    pub(crate) fn mounted(&self, name: &str, cache: CacheMode) -> InProcess {
        let plan = self.volume(name);
        let store = orlop_store::open(&plan.store.url).expect("a store");
        let config = OpenConfig::new(plan.volume, store, &plan.prefix, &plan.state_dir);
        let fs = self.runtime.block_on(FileSystem::open(config)).expect("opens");
        self.serve(name, cache, fs)
    }

    /// Mounts an open volume by this process itself.
    pub(crate) fn serve(&self, name: &str, cache: CacheMode, fs: Arc<FileSystem>) -> InProcess {
        let point = self.folder(name);
        let mounted = fuse::mount(fs.clone(), &point, cache, self.runtime.handle().clone()).expect("mounts");
        InProcess { mounted: Some(mounted), fs, point, runtime: self.runtime.handle().clone() }
    }

    /// The keeper's process, as its record has it.
    /// The worker of the first volume, if one serves it.
    pub(crate) fn serving_pid(&self, keeper: &KeeperClient) -> Option<u32> {
        let list = self.runtime.block_on(keeper.list()).expect("listed");
        (list[0].worker == WorkerState::Serving).then_some(list[0].worker_pid)
    }

    /// Waits until another worker than this one serves the first volume, and returns it.
    pub(crate) fn await_successor(&self, keeper: &KeeperClient, old: u32) -> u32 {
        let mut new = None;
        until("another worker serves", || {
            new = self.serving_pid(keeper).filter(|pid| *pid != old);
            new.is_some()
        });
        new.expect("waited for")
    }

    pub(crate) fn keeper_pid(&self) -> u32 {
        let record = std::fs::read(self.root().join("run/keeper.json")).expect("a record");
        let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
        record["keeper_pid"].as_u64().expect("a number") as u32
    }

    pub(crate) fn log(&self, plan: &MountPlan) -> String {
        std::fs::read_to_string(self.root().join(format!("log/worker-{}.log", plan.volume))).unwrap_or_default()
    }

    /// Processes that were started with this root.
    fn processes(&self) -> Vec<i32> {
        let mark = format!("ORLOP_TEST_ROOT={}", self.root().display());
        let Ok(dir) = std::fs::read_dir("/proc") else { return Vec::new() };
        dir.flatten()
            .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| {
                let env = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                *pid != std::process::id() as i32 && env.split(|b| *b == 0).any(|v| v == mark.as_bytes())
            })
            .collect()
    }

    /// Everything but the disk's content goes at once, as in a reboot.
    pub(crate) fn kill_everything(&self) {
        for pid in self.processes() {
            kill(pid as u32);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in std::fs::read_dir(self.root().join("log")).into_iter().flatten().flatten() {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(40).collect();
                eprintln!("--- {}", entry.path().display());
                for line in tail.iter().rev() {
                    eprintln!("{line}");
                }
            }
        }
        // Mounts first, newest first: a process that has files of a dead mount open can hang in its end.
        for point in mount_points(self.dir.path()).iter().rev() {
            use nix::mount::{MntFlags, umount2};
            let _ = umount2(point, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
        }
        self.kill_everything();
        let left = mount_points(self.dir.path());
        assert!(left.is_empty() || std::thread::panicking(), "mounts left behind: {left:?}");
    }
}

/// What is mounted below a folder.
pub(crate) fn mount_points(below: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    table.lines().filter_map(|l| l.split(' ').nth(4)).map(PathBuf::from).filter(|p| p.starts_with(below)).collect()
}

/// Ends a process at once, and waits until it is gone.
pub(crate) fn kill(pid: u32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL);
    until("a killed process is gone", || !alive(pid));
}

/// Has a process stand still, or go on.
pub(crate) fn pause(pid: u32, still: bool) {
    use nix::sys::signal::Signal;
    let signal = if still { Signal::SIGSTOP } else { Signal::SIGCONT };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).expect("sent");
}

/// Whether a process runs. One that only waits to be reaped does not, unless other threads of it are still ending:
/// they hold its files open.
pub(crate) fn alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let ended = stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']);
    !ended || std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() > 1)
}

/// Waits for something to come true.
#[track_caller]
pub(crate) fn until(what: &str, mut f: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !f() {
        assert!(Instant::now() < end, "in half a minute it did not come true that {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A volume mounted by the test's own process.
pub(crate) struct InProcess {
    mounted: Option<fuse::Mounted>,
    pub(crate) fs: Arc<FileSystem>,
    pub(crate) point: PathBuf,
    runtime: tokio::runtime::Handle,
}

impl InProcess {
    /// The mode of a file in the volume's root, as the volume has it.
    pub(crate) fn attr(&self, name: &str) -> u32 {
        self.runtime.block_on(self.fs.lookup(1, name.as_bytes())).expect("it is there").perm
    }

    /// The last change of a file in the volume's root, as the volume has it.
    pub(crate) fn times(&self, name: &str) -> std::time::SystemTime {
        self.runtime.block_on(self.fs.lookup(1, name.as_bytes())).expect("it is there").mtime.into()
    }

    /// Unmounts, and closes the volume.
    pub(crate) fn end(mut self) {
        self.mounted.take().expect("mounted").unmount().expect("unmounts");
        self.runtime.block_on(self.fs.close()).expect("closes");
    }
}
