//! How requests run: tried at once on the thread that read them, and carried on by the runtime if they must wait,
//! so that one slow request never keeps others from being read.

use orlop_chunkfs::{Caller, FileSystem};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// How long the kernel may keep names and attributes. A writable attachment is the only writer and all its changes
/// go through this one kernel, so any time is right; a short one bounds what a defect could do.
pub(super) const TTL: Duration = Duration::from_secs(1);

/// The FUSE library's view of an open volume.
pub(crate) struct Adapter {
    pub(super) fs: Arc<FileSystem>,
    runtime: Handle,
    /// Every request that is carried on holds a copy; when all are gone, none is left.
    running: mpsc::Sender<()>,
    pub(super) notifier: Arc<OnceLock<fuser::Notifier>>,
}

/// Ends when no request is carried on any more.
pub(crate) struct Idle(mpsc::Receiver<()>);

impl Idle {
    /// Waits for the requests that are still carried on. Only after the session has ended.
    pub(crate) async fn wait(mut self) {
        // Nobody ever sends: the channel just closes with its last sender.
        let _ = self.0.recv().await;
    }
}

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapter").field("fs", &self.fs).finish_non_exhaustive()
    }
}

impl Adapter {
    pub(crate) fn new(fs: Arc<FileSystem>, runtime: Handle) -> (Self, Idle) {
        let (running, idle) = mpsc::channel(1);
        (Adapter { fs, runtime, running, notifier: Arc::new(OnceLock::new()) }, Idle(idle))
    }

    /// Runs a request. The future owns its reply.
    pub(super) fn run(&self, request: impl Future<Output = ()> + Send + 'static) {
        let mut request: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(request);
        let _runtime = self.runtime.enter();
        // A wake-up between this poll and the runtime's first one is not lost: the runtime polls in any case.
        if request.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            let running = self.running.clone();
            self.runtime.spawn(async move {
                request.await;
                drop(running);
            });
        }
    }
}

/// Who asks. A request that is sent again has a mark in its number, which is no part of it.
pub(super) fn caller(request: &fuser::Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), request: request.unique().0 & !crate::kernel::abi::RESENT }
}
