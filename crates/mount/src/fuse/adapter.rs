//! How requests run: tried at once on the thread that read them, and carried on by the runtime if they must wait,
//! so that one slow request never keeps others from being read.
//!
//! A request whose caller is killed while it waits is answered at once, or the caller could not go; its work runs
//! on to its end, and what it did for the caller alone is taken back.

use super::killed::Watch;
use super::reply::Reply;
use super::request::Header;
use super::scarce::Scarcity;
use orlop_chunkfs::FileSystem;
use orlop_model::CacheMode;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::sync::Arc;
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

/// An open volume as the kernel's requests see it.
#[derive(Clone)]
pub(crate) struct Adapter {
    pub(super) fs: Arc<FileSystem>,
    pub(super) device: Arc<OwnedFd>,
    runtime: Handle,
    /// Every request that is carried on holds a copy; when all are gone, none is left.
    running: mpsc::Sender<()>,
    watch: Arc<Watch>,
    /// What was agreed with the kernel.
    pub(super) cache: CacheMode,
    pub(super) ttl: Duration,
    pub(super) scarcity: Arc<Scarcity>,
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

/// A request that is being carried out.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) header: Header,
    pub(super) reply: Reply,
    /// Whether this thread may wait for the disk.
    pub(super) may_wait: bool,
    /// Whether it is answered with what comes of it even if its caller is killed.
    pub(super) to_its_end: bool,
}

impl Adapter {
    pub(crate) fn new(
        fs: Arc<FileSystem>,
        device: Arc<OwnedFd>,
        scarcity: Arc<Scarcity>,
        cache: CacheMode,
        runtime: Handle,
    ) -> (Self, Idle) {
        let (running, idle) = mpsc::channel(1);
        (Adapter { fs, device, runtime, running, watch: Arc::default(), cache, ttl: time_to_live(cache), scarcity }, Idle(idle))
    }

    /// Runs a request's work, and answers with what comes of it. If the caller is killed before, what comes of it
    /// goes to `take_back` instead.
    pub(super) fn run<T: Send + 'static>(
        &self,
        asked: Asked,
        work: impl Future<Output = T> + Send + 'static,
        answer: impl FnOnce(Reply, T) + Send + 'static,
        take_back: impl FnOnce(T) + Send + 'static,
    ) {
        let Asked { header, reply, may_wait, to_its_end } = asked;
        let mut work = Box::pin(work);
        let _runtime = self.runtime.enter();
        let mut first = || work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        // A wake-up between this poll and the runtime's first one is not lost: the runtime polls in any case.
        let polled = if may_wait { orlop_chunkfs::waiting_in_place(first) } else { first() };
        if let Poll::Ready(out) = polled {
            return answer(reply, out);
        }
        let (running, killed) = (self.running.clone(), self.watch.clone().killed(header.pid));
        self.runtime.spawn(async move {
            let done = tokio::select! {
                biased;
                out = &mut work => Some(out),
                () = killed, if !to_its_end => None,
            };
            match done {
                Some(out) => answer(reply, out),
                None => {
                    reply.error(libc::EINTR);
                    take_back(work.await);
                }
            }
            drop(running);
        });
    }
}
