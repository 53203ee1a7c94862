//! The worker: one process that has one volume open and answers its FUSE connection.
//!
//! It is started by the keeper over a socket that is its standard input, and ends when the volume is unmounted, or
//! when the keeper goes away before it was handed the mount. Signals never end it while it serves.

mod at_rest;
mod control;
mod door;
mod doubts;
mod open;
mod reserve;

pub use at_rest::usage_at_rest;
pub use open::{LEASE_VARIABLE, lease};

use crate::fuse::{Session, write_pages};
use crate::kernel::init::Negotiated;
use crate::layout::Layout;
use crate::process;
use crate::protocol::{Lost, Served, WorkerRequest};
use crate::wire::Connection;
use door::Door;
use futures::future::BoxFuture;
use open::Opened;
use orlop_chunkfs::FileSystem;
use orlop_model::{Error, ErrorKind, MountPlan, Result, VolumeId};
use orlop_store::VolumeStore;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// How a worker gets the store of its volume, sealed if the volume is: from the plan and the root folder.
pub type OpenStore = for<'a> fn(&'a MountPlan, &'a Path) -> BoxFuture<'a, Result<VolumeStore>>;

/// What a worker needs to know at its start; the rest comes over its standard input.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// The root folder.
    pub root: PathBuf,
    /// The volume.
    pub volume: VolumeId,
    /// How it opens its store.
    pub open_store: OpenStore,
}

/// Serves a volume until it is unmounted. Everything is at rest when this returns without an error.
pub fn serve(config: WorkerConfig) -> Result<()> {
    process::become_server(-900);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::io("starting the runtime", &e))?;
    let layout = Layout::new(&config.root);
    let keeper = keeper_connection()?;

    let (request, _) = keeper.receive::<WorkerRequest>()?;
    let WorkerRequest::Open { plan, fresh_kernel } = request else {
        return Err(Error::internal("the keeper's first word is not to open a volume"));
    };
    if plan.volume != config.volume {
        return Err(Error::internal(format!("started for volume {} and told to open {}", config.volume, plan.volume)));
    }
    let opened = match runtime.block_on(open::open(&plan, &config, fresh_kernel)) {
        Ok(Ok(opened)) => opened,
        Ok(Err(lost)) => {
            tracing::error!(volume = %plan.name, "this mount is not gone on with: {}", lost.why);
            return keeper.answer(&Ok(Some(lost)), &[]);
        }
        Err(e) => {
            keeper.answer(&Err::<(), _>(e.clone()), &[])?;
            return Err(e);
        }
    };
    keeper.answer(&Ok(None::<Lost>), &[])?;

    let served = serve_mount(&runtime, &layout, keeper, *plan, &opened, config);
    // Whatever happened: what was acknowledged is brought to rest. After an unclean end the journal has it anyway.
    let closed = runtime.block_on(opened.close()).map_err(|e| from_fs("closing the volume", &e));
    served.and(closed)
}

fn keeper_connection() -> Result<Connection> {
    let started_by_hand = || {
        Error::invalid("a worker is started by its keeper, over a socket")
            .with_remedy("use: orlop mount VOLUME DIR, or docker run -v VOLUME:DIR")
    };
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(|_| started_by_hand())?;
    Connection::new(UnixStream::from(input)).map_err(|_| started_by_hand())
}

fn serve_mount(
    runtime: &tokio::runtime::Runtime,
    layout: &Layout,
    keeper: Connection,
    plan: MountPlan,
    opened: &Opened,
    config: WorkerConfig,
) -> Result<()> {
    let (request, mut fds) = match keeper.receive::<WorkerRequest>() {
        Ok(it) => it,
        Err(e) => {
            tracing::info!("never handed a mount: {e}");
            return Ok(());
        }
    };
    let (WorkerRequest::Serve { negotiated }, Some(device)) = (request, fds.pop()) else {
        return Err(Error::internal("the keeper's second word is not to serve a mount"));
    };
    let started = start(runtime, layout, &plan, opened, config, device, negotiated);
    let session = match started {
        Ok(session) => session,
        Err(e) => {
            keeper.answer(&Err::<(), _>(e.clone()), &[])?;
            return Err(e);
        }
    };
    // A keeper that died since is no reason to stop: the mount is served.
    if let Err(e) = keeper.answer(&Ok(()), &[]) {
        tracing::warn!("{e}");
    }
    drop(keeper);
    tracing::info!(volume = %plan.name, id = %plan.volume, "serving");
    let ended = session.wait(runtime.handle()).map_err(|e| Error::io("answering FUSE requests", &e));
    tracing::info!("the connection has ended");
    ended
}

fn start(
    runtime: &tokio::runtime::Runtime,
    layout: &Layout,
    plan: &MountPlan,
    opened: &Opened,
    config: WorkerConfig,
    device: OwnedFd,
    negotiated: Negotiated,
) -> Result<Session> {
    let signals = {
        let _within = runtime.enter();
        control::Signals::catch()?
    };
    let fs = &opened.fs;
    runtime.spawn(signals.outlive(fs.clone()));
    let device = Arc::new(device);
    if let Some(fenced) = fs.fenced() {
        runtime.spawn(forget_when(fenced, Arc::downgrade(fs), device.clone()));
    }
    runtime.spawn(doubts::ask(Arc::downgrade(fs), device.clone()));
    let control = control::Control {
        fs: fs.clone(),
        served: Served { plan: plan.clone(), negotiated },
        store: opened.store.clone(),
        config,
        device,
        runtime: runtime.handle().clone(),
    };
    let device = control.device.clone();
    let door = Door::open(layout.worker_socket(plan.volume), control)?;
    let session = Session::start(fs.clone(), device.as_fd(), Path::new(&plan.mountpoint), &negotiated, runtime.handle().clone())?;
    runtime.spawn(door.look_after());
    Ok(session)
}

/// Once somebody else has the volume the kernel forgets what it has of it: files that were open before would be read from there, without
/// anybody being asked. What it was still to write is refused.
async fn forget_when(fenced: impl Future<Output = ()>, fs: Weak<FileSystem>, device: Arc<OwnedFd>) {
    fenced.await;
    let Some(fs) = fs.upgrade() else { return };
    let forgotten = tokio::task::spawn_blocking(move || write_pages(&device, fs.maybe_held())).await;
    if let Ok(Err(e)) = forgotten {
        tracing::warn!("having the kernel forget what another host has now: {e}");
    }
}

pub(crate) fn from_fs(what: &str, e: &orlop_chunkfs::FsError) -> Error {
    use orlop_chunkfs::FsError;
    let kind = match e {
        FsError::Corrupt(_) => ErrorKind::Corrupt,
        FsError::Fenced(why) => {
            let taken = format!("{what}: another host has taken the volume, and nothing counts that this one still does ({why})");
            return Error::new(ErrorKind::Busy, taken)
                .with_remedy("unmount it here with orlop unmount; docs/howto/two-hosts.md says how it comes back");
        }
        FsError::NoSpace | FsError::Quota => ErrorKind::NoSpace,
        FsError::NotFound => ErrorKind::NotFound,
        FsError::NotSupported => ErrorKind::Unsupported,
        FsError::Invalid => ErrorKind::InvalidArgument,
        FsError::NotPermitted | FsError::ReadOnly(_) => ErrorKind::Denied,
        FsError::Unavailable(_) => {
            return Error::unavailable(format!("{what}: {e}")).with_remedy("ask again when the store answers: orlop store test tells");
        }
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("{what}: {e}"))
}
