//! The keeper: holds the FUSE descriptor of every attached volume of a root, and a worker for each.
//!
//! It decides when a worker starts, when one that died is replaced, and when a mount may go. It reads no request, but of volumes that
//! have no worker, and knows no file. Should it die, the workers serve on; the next keeper gets the descriptors back from them.

mod adopt;
mod attach;
mod binds;
mod detach;
mod door;
mod launch;
mod poison;
mod record;
mod renew;
mod requests;
mod stand_in;
mod unreached;
mod volume;
mod watch;

use crate::layout::Layout;
use crate::process;
use door::Door;
pub use door::make_folder;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal};
use orlop_model::{Error, ErrorKind, FileId, Result, VolumeId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use volume::Slot;

pub use adopt::has_workers;
pub(crate) use launch::start_keeper;
pub(crate) use record::reads as reads_record;
pub use renew::{change_over, may_change_over};
pub use unreached::{Unreached, still_mounted, take_away, unreached};

/// How long a keeper that was told to stop waits for workers that are being replaced; systemd kills it after 90 seconds.
const REPLACING: Duration = Duration::from_secs(10);
/// How often a lock is tried that somebody may only be looking at.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);
/// How often it is looked whether the socket's file is still there.
const LOOK: Duration = Duration::from_secs(1);

/// How a program is started: `program args... --root ROOT`, and for a worker `--volume ID` as well.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// What comes before the root.
    pub args: Vec<OsString>,
    /// Added to the environment.
    pub env: Vec<(OsString, OsString)>,
}

impl Launcher {
    /// This very program, with a subcommand. A process whose file on disk is another one by now, or gone, was started from an
    /// open file because the one on disk does not start: it goes on with what it runs itself.
    pub fn this_program(subcommand: &str) -> Result<Self> {
        let program = std::env::current_exe().map_err(|e| Error::io("finding this program's file", &e))?;
        let own = Path::new("/proc/self/exe");
        let file = |path: &Path| std::fs::metadata(path).map(|m| FileId::of(&m)).ok();
        // In a process that is being started this still is its starter's binary.
        let program = if file(&program) == file(own) { program } else { own.to_owned() };
        Ok(Launcher { program, args: vec![subcommand.into()], env: Vec::new() })
    }
}

/// What a keeper needs to know.
#[derive(Debug, Clone)]
pub struct KeeperConfig {
    /// The root folder.
    pub root: PathBuf,
    /// How a worker is started.
    pub worker: Launcher,
    /// Whether requests that a dead worker left unanswered are asked for again, where the kernel can; else they end
    /// in an error. Switched off only to test what older kernels do.
    pub resend: bool,
}

impl KeeperConfig {
    /// A keeper of this root, with this very program as its workers.
    pub fn new(root: &Path) -> Result<Self> {
        Ok(KeeperConfig { root: root.to_owned(), worker: Launcher::this_program("worker")?, resend: true })
    }
}

pub(crate) struct Keeper {
    config: KeeperConfig,
    layout: Layout,
    slots: Mutex<HashMap<VolumeId, Arc<Slot>>>,
    /// Volumes whose workers live and could not be taken over yet, with what the last keeper recorded of them.
    unadopted: Mutex<HashMap<VolumeId, Option<record::Entry>>>,
    record: Mutex<()>,
    stop: mpsc::Sender<()>,
}

impl Keeper {
    /// The place of a volume, mounted or not.
    fn slot(&self, volume: VolumeId) -> Arc<Slot> {
        self.slots.lock().entry(volume).or_insert_with(|| Arc::new(Slot::new(volume))).clone()
    }

    fn all(&self) -> Vec<Arc<Slot>> {
        self.slots.lock().values().cloned().collect()
    }

    /// Waits until every mount has a worker that can give it to the next keeper; it would end with this one else.
    fn await_workers(&self) {
        let until = Instant::now() + REPLACING;
        loop {
            let lost = |s: &Arc<Slot>| s.look(|v| v.hangs_on_keeper().then(|| v.plan.name.to_string())).flatten();
            let names: Vec<String> = self.all().iter().filter_map(lost).collect();
            if names.is_empty() {
                return;
            }
            if Instant::now() > until {
                return tracing::error!("stopping although these volumes have no worker and lose their mounts: {}", names.join(", "));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn open_lock(layout: &Layout) -> Result<File> {
    let path = layout.keeper_lock();
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|e| Error::io(format_args!("opening {}", path.display()), &e))
}

fn lock_root(layout: &Layout) -> Result<Flock<File>> {
    let mut tries = 0;
    loop {
        match Flock::lock(open_lock(layout)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            // Whoever asks whether it is held has it for an instant.
            Err((_, Errno::EWOULDBLOCK)) if tries < TRIES => {
                tries += 1;
                std::thread::sleep(PAUSE);
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(Error::new(ErrorKind::Busy, format!("another keeper serves {}", layout.root().display())));
            }
            Err((_, e)) => return Err(Error::internal(format!("locking {}: {e}", layout.keeper_lock().display()))),
        }
    }
}

/// Whether a living keeper has a root, listening or not yet. Makes nothing.
fn is_locked(layout: &Layout) -> bool {
    let asked = File::open(layout.keeper_lock()).map(|file| Flock::lock(file, FlockArg::LockSharedNonblock));
    matches!(asked, Ok(Err((_, Errno::EWOULDBLOCK))))
}

/// Whether a living keeper has a root, whether it answers or not.
pub fn is_alive(root: &Path) -> bool {
    is_locked(&Layout::new(root))
}

/// Refuses where something is in the place of the keeper's socket that no socket can take the place of.
pub fn may_listen(root: &Path) -> Result<()> {
    door::refuse_obstacle(&Layout::new(root).keeper_socket())
}

/// Serves a root until it is told to stop, or by SIGTERM. Volumes that are still attached then stay mounted and
/// served by their workers, and the next keeper takes them over.
pub fn serve(config: KeeperConfig) -> Result<()> {
    process::become_server(-1000);
    let root = std::path::absolute(&config.root).map_err(|e| Error::io("finding the root folder", &e))?;
    let layout = Layout::new(&root);
    layout.prepare()?;
    let mut lock = lock_root(&layout)?;
    let socket = layout.keeper_socket();
    door::refuse_obstacle(&socket)?;
    // Of a keeper that was killed. Who waits for this one to answer must not take it for its own.
    let _ = std::fs::remove_file(&socket);

    // Before any thread starts, so that all of them leave these signals to the one that waits for them. A
    // worker that is started takes its signals back itself.
    let mut signals = SigSet::empty();
    for s in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(s);
    }
    signals.thread_block().map_err(|e| Error::internal(format!("blocking signals: {e}")))?;
    let (stop, stopped) = mpsc::channel();
    let by_signal = stop.clone();
    spawn("signals", move || {
        loop {
            match signals.wait() {
                Ok(Signal::SIGHUP) | Err(_) => {}
                Ok(signal) => {
                    tracing::info!("stopping by {signal}");
                    let _ = by_signal.send(());
                }
            }
        }
    })?;

    let keeper = Arc::new(Keeper {
        config,
        layout: layout.clone(),
        slots: Mutex::default(),
        unadopted: Mutex::default(),
        record: Mutex::new(()),
        stop,
    });
    keeper.take_over();
    let mut door = Door::open(&keeper)?;
    tracing::info!(root = %root.display(), "keeping");
    // The sender lives in `keeper`, so this ends by a message and not by its loss.
    while stopped.recv_timeout(LOOK) == Err(mpsc::RecvTimeoutError::Timeout) {
        door.look_after(&mut lock);
    }
    keeper.await_workers();
    let _ = std::fs::remove_file(&socket);
    drop(lock);
    tracing::info!("stopped");
    Ok(())
}

fn spawn(name: &str, f: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(512 << 10)
        .spawn(f)
        .map(drop)
        .map_err(|e| Error::io(format_args!("starting thread {name}"), &e))
}
