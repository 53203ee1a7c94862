//! A running FUSE session over a descriptor whose INIT the keeper has done, and the in-process mount that tests,
//! benchmarks and conformance runs use.
//!
//! The library insists on an INIT of its own. It is given a socket that carries one, made from what was agreed with
//! the kernel; afterwards the real descriptor is put in the socket's place.

use super::adapter::{Adapter, Idle};
use crate::kernel::init::{Negotiated, Wishes, negotiate};
use crate::kernel::mount;
use crate::os;
use fuser::{Config, SessionACL};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use orlop_chunkfs::FileSystem;
use orlop_model::{CacheMode, Error, Result};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;

/// Threads that read requests. Those that wait go on elsewhere, so a few are enough.
const THREADS: usize = 4;

/// How long requests may go on after their connection has ended.
const GIVE_UP: Duration = Duration::from_secs(10);

/// A volume that answers a FUSE connection.
#[derive(Debug)]
pub(crate) struct Session {
    thread: JoinHandle<io::Result<()>>,
    idle: IdleCell,
}

struct IdleCell(Idle);

impl std::fmt::Debug for IdleCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Idle")
    }
}

impl Session {
    /// Starts to answer. Returns when requests are being read.
    pub(crate) fn start(fs: Arc<FileSystem>, device: BorrowedFd<'_>, negotiated: &Negotiated, runtime: Handle) -> Result<Self> {
        let failed = |what: &str, e: io::Error| Error::internal(format!("starting a FUSE session: {what}: {e}"));
        let (theirs, ours) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|e| failed("making a socket", e.into()))?;
        nix::unistd::write(&ours, &negotiated.synthetic_init()).map_err(|e| failed("writing INIT", e.into()))?;
        runtime.spawn(crate::process::rest_when_quiet(Arc::downgrade(&fs)));
        let (adapter, idle) = Adapter::new(fs, negotiated.cache(), runtime);
        let notifier = adapter.notifier.clone();
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(THREADS);
        let session =
            fuser::Session::from_fd(adapter, theirs, SessionACL::All, config).map_err(|e| failed("the library's handshake", e))?;
        os::replace_descriptor(session.as_fd(), device).map_err(|e| failed("taking over the device", e))?;
        drop(ours);
        // Set once: this session is the adapter's only one.
        let _ = notifier.set(session.notifier());
        let thread = std::thread::Builder::new()
            .name("fuse".to_owned())
            .spawn(move || session.run())
            .map_err(|e| failed("starting its thread", e))?;
        Ok(Session { thread, idle: IdleCell(idle) })
    }

    /// Waits until the connection has ended, by unmounting or by force, and all its requests are answered. Nobody waits
    /// for an answer then, so those that wait for a store that is away are given up after a while.
    pub(crate) fn wait(self, runtime: &Handle) -> io::Result<()> {
        let ended = self.thread.join().map_err(|_| io::Error::other("the FUSE session's thread panicked"))?;
        if runtime.block_on(async { tokio::time::timeout(GIVE_UP, self.idle.0.wait()).await }).is_err() {
            tracing::warn!("requests of a connection that has ended still wait; they are left");
        }
        ended
    }
}

/// A volume mounted by this process itself, without keeper and worker. Dropping it unmounts, used or not.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
    session: Option<Session>,
    runtime: Handle,
}

/// Mounts an open volume on a folder, served by this process. The caller closes the file system after unmounting.
/// The runtime must be multi-threaded, and its threads must not wait for the mount.
pub fn mount(fs: Arc<FileSystem>, point: &Path, cache: CacheMode, runtime: Handle) -> Result<Mounted> {
    let device = mount::open_device()?;
    mount::mount_fuse(&device, "orlop", point)?;
    let started = negotiate(device.as_fd(), Wishes { resend: true, cache })
        .and_then(|negotiated| Session::start(fs, device.as_fd(), &negotiated, runtime.clone()));
    match started {
        Ok(session) => Ok(Mounted { point: point.to_owned(), session: Some(session), runtime }),
        Err(e) => {
            let _ = mount::unmount_lazily(point);
            Err(e)
        }
    }
}

impl Mounted {
    /// Where it is mounted.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Unmounts and waits until all requests are answered; an error if somebody uses it. Not from within the runtime.
    pub fn unmount(mut self) -> Result<()> {
        if mount::unmount(&self.point)? == mount::Unmounted::Busy {
            return Err(Error::new(orlop_model::ErrorKind::Busy, format!("{} is in use", self.point.display())));
        }
        match self.session.take() {
            Some(session) => session.wait(&self.runtime).map_err(|e| Error::io("the FUSE session", &e)),
            None => Ok(()),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.session.is_some() {
            let _ = mount::unmount_by_force(&self.point);
        }
    }
}
