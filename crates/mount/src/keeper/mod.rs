//! The keeper: holds the FUSE descriptor of every attached volume of a root, and a worker for each.
//!
//! It decides when a worker starts, when one that died is replaced, and when a mount may go. It reads no request and
//! knows no file. Should it die, the workers serve on; the next keeper gets the descriptors back from them.

mod adopt;
mod attach;
mod binds;
mod detach;
mod launch;
mod poison;
mod record;
mod renew;
mod requests;
mod volume;
mod watch;

use crate::layout::Layout;
use crate::{process, wire};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal};
use orlop_model::{Error, ErrorKind, Result, VolumeId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use volume::Slot;

pub(crate) use launch::start_keeper;
pub(crate) use record::reads as reads_record;
pub use renew::change_over;

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
    /// This very program, with a subcommand.
    pub fn this_program(subcommand: &str) -> Result<Self> {
        let program = std::env::current_exe().map_err(|e| Error::io("finding this program's file", &e))?;
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
}

fn lock_root(layout: &Layout) -> Result<Flock<File>> {
    let path = layout.keeper_lock();
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|e| Error::io(format_args!("opening {}", path.display()), &e))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
        nix::errno::Errno::EWOULDBLOCK => Error::new(ErrorKind::Busy, format!("another keeper serves {}", layout.root().display())),
        e => Error::internal(format!("locking {}: {e}", path.display())),
    })
}

/// Serves a root until it is told to stop, or by SIGTERM. Volumes that are still attached then stay mounted and
/// served by their workers, and the next keeper takes them over.
pub fn serve(config: KeeperConfig) -> Result<()> {
    process::become_server(-1000);
    let root = std::path::absolute(&config.root).map_err(|e| Error::io("finding the root folder", &e))?;
    let layout = Layout::new(&root);
    layout.prepare()?;
    let lock = lock_root(&layout)?;

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

    let keeper = Arc::new(Keeper { config, layout: layout.clone(), slots: Mutex::new(HashMap::new()), record: Mutex::new(()), stop });
    keeper.take_over();
    let socket = layout.keeper_socket();
    let listener = wire::listen(&socket).map_err(|e| Error::io(format_args!("listening on {}", socket.display()), &e))?;
    tracing::info!(root = %root.display(), "keeping");
    let served = keeper.clone();
    spawn("accept", move || {
        wire::accept_all(&listener, "request", move |connection| served.converse(&connection));
    })?;
    // The sender lives in `keeper`, so this ends by a message and not by its loss.
    let _ = stopped.recv();
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
