//! A running FUSE session over a descriptor whose INIT the keeper has done, and the in-process mount that tests,
//! benchmarks and conformance runs use.

use super::adapter::{Adapter, Idle};
use super::buffer::Pool;
use super::reader::{Desk, Thread};
use super::scarce::Scarcity;
use crate::kernel::init::{Negotiated, Wishes, negotiate};
use crate::kernel::mount;
use orlop_chunkfs::FileSystem;
use orlop_model::{CacheMode, Error, Result};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How long requests may go on after their connection has ended.
const GIVE_UP: Duration = Duration::from_secs(10);

/// A volume that answers a FUSE connection.
pub(crate) struct Session {
    threads: Vec<Thread>,
    idle: Idle,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl Session {
    /// Starts to answer for what is mounted on `point`. Returns when requests are being read.
    pub(crate) fn start(
        fs: Arc<FileSystem>,
        device: BorrowedFd<'_>,
        point: &Path,
        negotiated: &Negotiated,
        runtime: Handle,
    ) -> Result<Self> {
        let failed = |what: &str, e: io::Error| Error::internal(format!("starting a FUSE session: {what}: {e}"));
        let device = Arc::new(device.try_clone_to_owned().map_err(|e| failed("copying the device's descriptor", e))?);
        let pool = Arc::new(Pool::default());
        let spare = pool.clone();
        runtime.spawn(crate::process::rest_when_quiet(Arc::downgrade(&fs), move || spare.clear()));
        let scarcity = Scarcity::start(&fs, &device, point, negotiated.cache(), &runtime);
        let (adapter, idle) = Adapter::new(fs, device.clone(), scarcity, negotiated.cache(), runtime);
        let desk = Arc::new(Desk::new(device, pool).map_err(|e| failed("setting up the device", e))?);
        let threads = desk.start(move |received| adapter.carry_out(received)).map_err(|e| failed("starting its threads", e))?;
        Ok(Session { threads, idle })
    }

    /// Waits until the connection has ended, by unmounting or by force, and all its requests are answered. Nobody waits
    /// for an answer then, so those that wait for a store that is away are given up after a while.
    pub(crate) fn wait(self, runtime: &Handle) -> io::Result<()> {
        let mut ended = Ok(());
        for thread in self.threads {
            let one = thread.join().map_err(|_| io::Error::other("a thread of the FUSE session panicked"))?;
            ended = ended.and(one);
        }
        if runtime.block_on(async { tokio::time::timeout(GIVE_UP, self.idle.wait()).await }).is_err() {
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
        .and_then(|negotiated| Session::start(fs, device.as_fd(), point, &negotiated, runtime.clone()));
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
