//! A worker's own socket: usage, quota, another way to the store, sync, check, collection, and the FUSE device for a keeper that lost it.

use super::{WorkerConfig, from_fs};
use crate::fuse::write_pages;
use crate::protocol::{Served, WorkerRequest};
use crate::wire::Connection;
use orlop_chunkfs::FileSystem;
use orlop_model::{Error, ErrorKind, MountPlan, Result};
use orlop_store::wrap::Swap;
use serde_json::Value;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Clone)]
pub(super) struct Control {
    pub(super) fs: Arc<FileSystem>,
    pub(super) served: Served,
    pub(super) store: Arc<Swap>,
    pub(super) config: WorkerConfig,
    pub(super) device: Arc<OwnedFd>,
    pub(super) runtime: Handle,
}

impl Control {
    pub(super) fn converse(&self, connection: &Connection) {
        while let Ok((request, _)) = connection.receive::<WorkerRequest>() {
            let adopt = matches!(request, WorkerRequest::Adopt);
            let answer = self.answer(request);
            let device = self.device.as_fd();
            let fds = if adopt { std::slice::from_ref(&device) } else { &[] };
            if let Err(e) = connection.answer(&answer, fds) {
                tracing::debug!("{e}");
                return;
            }
        }
    }

    /// Of a volume that has stopped nobody may hear that all is well: what is looked at is what this host had of it.
    fn takes_changes(&self) -> Result<()> {
        let Some(why) = self.fs.stopped() else { return Ok(()) };
        Err(Error::new(ErrorKind::Busy, format!("the volume takes no changes any more: {why}"))
            .with_remedy("unmount it here with orlop unmount, mount it again, and check it then; docs/howto/troubleshooting.md says more"))
    }

    fn answer(&self, request: WorkerRequest) -> Result<Value> {
        let value = |v: serde_json::Result<Value>| v.map_err(|e| Error::internal(format!("encoding an answer: {e}")));
        match request {
            WorkerRequest::Adopt => value(serde_json::to_value(&self.served)),
            WorkerRequest::Usage => value(serde_json::to_value(self.fs.usage())),
            WorkerRequest::SetQuota { bytes } => {
                self.fs.set_quota(bytes).map_err(|e| from_fs("setting the quota", &e))?;
                Ok(Value::Null)
            }
            WorkerRequest::SetStore { store } => {
                let plan = MountPlan { store: *store, ..self.served.plan.clone() };
                if plan.store.url != self.served.plan.store.url {
                    return Err(Error::invalid(format!("{} is another place than {}", plan.store.url, self.served.plan.store.url)));
                }
                self.store.set(self.runtime.block_on((self.config.open_store)(&plan, &self.config.root))?.store);
                tracing::info!("the store is reached another way now");
                Ok(Value::Null)
            }
            WorkerRequest::Sync => {
                self.runtime.block_on(self.fs.sync_all()).map_err(|e| from_fs("making everything durable", &e))?;
                Ok(Value::Null)
            }
            WorkerRequest::WritePages => {
                write_pages(&self.device, self.fs.maybe_held()).map_err(|e| Error::io("having the kernel write its pages", &e))?;
                Ok(Value::Null)
            }
            WorkerRequest::Check { repair } => {
                self.takes_changes()?;
                let report = self.runtime.block_on(self.fs.examine(repair)).map_err(|e| from_fs("checking", &e))?;
                value(serde_json::to_value(report))
            }
            WorkerRequest::CheckProgress => value(serde_json::to_value(self.fs.check_progress())),
            WorkerRequest::Space => {
                let space = self.runtime.block_on(self.fs.space()).map_err(|e| from_fs("looking where the bytes are", &e))?;
                value(serde_json::to_value(space))
            }
            WorkerRequest::Collect { dry_run } => {
                let report = self.runtime.block_on(self.fs.collect(dry_run)).map_err(|e| from_fs("collecting", &e))?;
                value(serde_json::to_value(report))
            }
            WorkerRequest::Open { .. } | WorkerRequest::Serve { .. } => Err(Error::invalid("this worker serves already")),
        }
    }
}

/// The signals that ask to end. They do not end a worker whose volume is mounted: it makes everything durable and
/// goes on, and ends when the volume is unmounted.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    /// From now on these signals end nothing. Within the runtime.
    pub(super) fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).map_err(|e| Error::io("catching signals", &e));
        Ok(Signals { term: catch(SignalKind::terminate())?, int: catch(SignalKind::interrupt())?, hup: catch(SignalKind::hangup())? })
    }

    /// Answers them, for as long as the process lives.
    pub(super) async fn outlive(mut self, fs: Arc<FileSystem>) {
        loop {
            let name = tokio::select! {
                _ = self.term.recv() => "SIGTERM",
                _ = self.int.recv() => "SIGINT",
                _ = self.hup.recv() => continue,
            };
            tracing::info!("{name}: the volume is mounted, making everything durable and serving on");
            if let Err(e) = fs.sync_all().await {
                tracing::error!("making everything durable: {e}");
            }
        }
    }
}
