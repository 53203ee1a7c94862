//! How requests run: tried at once on the thread that read them, and carried on by the runtime if they must wait,
//! so that one slow request never keeps others from being read.
//!
//! A request whose caller is killed while it waits is answered at once, or the caller could not go; its work runs
//! on to its end, and what it did for the caller alone is taken back.

use super::killed::Watch;
use fuser::{
    Errno, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyWrite,
    ReplyXattr, WriteFlags,
};
use orlop_chunkfs::{Caller, FileSystem};
use orlop_model::CacheMode;
use parking_lot::Mutex;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// How long the kernel may keep names and attributes. A writable attachment is the only writer and all its changes
/// go through this one kernel, so any time is right; under cache=strict a short one bounds what a defect could do.
fn time_to_live(cache: CacheMode) -> Duration {
    match cache {
        CacheMode::Strict => Duration::from_secs(1),
        // Longer than an attachment lives, and far from what the kernel's arithmetic would wrap at.
        CacheMode::Fast => Duration::from_secs(365 * 24 * 3600),
    }
}

/// The FUSE library's view of an open volume.
pub(crate) struct Adapter {
    pub(super) fs: Arc<FileSystem>,
    runtime: Handle,
    /// Every request that is carried on holds a copy; when all are gone, none is left.
    running: mpsc::Sender<()>,
    watch: Arc<Watch>,
    /// What was agreed with the kernel.
    pub(super) cache: CacheMode,
    pub(super) ttl: Duration,
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

/// An answer that can be a refusal.
pub(super) trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}
refuse!(ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyWrite, ReplyXattr);

/// An answer that is filled by the work itself, for as long as it is wanted.
pub(super) struct Sheet<R>(Arc<Mutex<Option<R>>>);

impl<R> Clone for Sheet<R> {
    fn clone(&self) -> Self {
        Sheet(self.0.clone())
    }
}

impl<R> Sheet<R> {
    pub(super) fn new(reply: R) -> Self {
        Sheet(Arc::new(Mutex::new(Some(reply))))
    }

    /// Writes to it; `None` if it was refused meanwhile.
    pub(super) fn fill<T>(&self, f: impl FnOnce(&mut R) -> T) -> Option<T> {
        self.0.lock().as_mut().map(f)
    }

    pub(super) fn take(&self) -> Option<R> {
        self.0.lock().take()
    }
}

impl<R: Refuse> Refuse for Sheet<R> {
    fn refuse(self, errno: Errno) {
        if let Some(reply) = self.take() {
            reply.refuse(errno);
        }
    }
}

impl Adapter {
    pub(crate) fn new(fs: Arc<FileSystem>, cache: CacheMode, runtime: Handle) -> (Self, Idle) {
        let (running, idle) = mpsc::channel(1);
        let (watch, notifier) = (Arc::default(), Arc::new(OnceLock::new()));
        (Adapter { fs, runtime, running, watch, cache, ttl: time_to_live(cache), notifier }, Idle(idle))
    }

    /// Runs a request's work, and answers with what comes of it. If the caller is killed before, what comes of it
    /// goes to `take_back` instead.
    pub(super) fn run<R: Refuse, T: Send + 'static>(
        &self,
        request: &fuser::Request,
        reply: R,
        work: impl Future<Output = T> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
        take_back: impl FnOnce(T) + Send + 'static,
    ) {
        let mut work = Box::pin(work);
        let _runtime = self.runtime.enter();
        // A wake-up between this poll and the runtime's first one is not lost: the runtime polls in any case.
        if let Poll::Ready(out) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return answer(reply, out);
        }
        let (running, killed) = (self.running.clone(), self.watch.clone().killed(request.pid()));
        self.runtime.spawn(async move {
            let done = tokio::select! {
                biased;
                out = &mut work => Some(out),
                () = killed => None,
            };
            match done {
                Some(out) => answer(reply, out),
                None => {
                    reply.refuse(Errno::EINTR);
                    take_back(work.await);
                }
            }
            drop(running);
        });
    }
}

/// Who writes, for whom set-id bits are taken off: whether they are is the kernel's decision, which knows capabilities.
pub(super) fn writer(request: &fuser::Request, flags: WriteFlags) -> Caller {
    const NOBODY: u32 = 65534;
    let cx = caller(request);
    let uid = match (flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID), cx.uid) {
        (false, _) => 0,
        (true, 0) => NOBODY,
        (true, uid) => uid,
    };
    Caller { uid, ..cx }
}

/// Who asks. A request that is sent again has a mark in its number, which is no part of it.
pub(super) fn caller(request: &fuser::Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), request: request.unique().0 & !crate::kernel::abi::RESENT }
}
