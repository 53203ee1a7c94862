//! The keeper's answers, one conversation a thread.

use super::Keeper;
use crate::kernel::table;
use crate::protocol::{AttachedVolume, KeeperRequest, WorkerRequest, WorkerState};
use crate::wire::Connection;
use orlop_model::{ByteSize, CacheMode, Error, ErrorKind, Result, Usage, VolumeId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// How long a worker may take to answer a question; to make everything durable has no such limit.
const QUESTION: Duration = Duration::from_secs(30);

fn value<T: Serialize>(t: T) -> Result<Value> {
    serde_json::to_value(t).map_err(|e| Error::internal(format!("encoding an answer: {e}")))
}

impl Keeper {
    pub(super) fn converse(self: &Arc<Self>, connection: &Connection) {
        // Ends when the other side has nothing more to ask.
        while let Ok((request, _)) = connection.receive::<KeeperRequest>() {
            let stop = matches!(request, KeeperRequest::Shutdown);
            let answer = self.answer(request);
            if let Err(e) = &answer {
                tracing::info!("answering process {}: {e}", connection.peer());
            }
            let stopping = stop && answer.is_ok();
            if let Err(e) = connection.answer(&answer, &[]) {
                tracing::debug!("{e}");
            }
            if stopping {
                // Held open by this thread until the process has ended, which is what the other side waits for.
                let _ = self.stop.send(());
                std::thread::sleep(Duration::from_secs(60));
            }
        }
    }

    fn answer(self: &Arc<Self>, request: KeeperRequest) -> Result<Value> {
        match request {
            KeeperRequest::Attach { plan } => value(self.attach(*plan)?),
            KeeperRequest::Detach { volume, force } => value(self.detach(volume, force)?),
            KeeperRequest::Bind { volume, dir, read_only } => value(self.bind(volume, &dir, read_only)?),
            KeeperRequest::Unbind { dir } => value(self.unbind(&dir)?),
            KeeperRequest::List => value(self.list()?),
            KeeperRequest::Usage { volume } => value(self.usage(volume)?),
            KeeperRequest::SetQuota { volume, bytes } => {
                // What the kernel has taken already counts before anything is refused.
                let fast = self.slot(volume).look(|v| (v.plan.options.cache == Some(CacheMode::Fast)).then(|| v.mountpoint())).flatten();
                if let (Some(point), true) = (fast, bytes.is_some())
                    && let Err(e) = self.write_pages(volume, &point)
                {
                    tracing::warn!(%volume, "a size is set before what the kernel had taken was written: {e}");
                }
                self.ask_worker::<()>(volume, &WorkerRequest::SetQuota { bytes }, Some(QUESTION))?;
                // The next worker has to keep to it as well.
                self.slot(volume).change(|v| v.plan.options.size = bytes.map(ByteSize));
                self.save();
                value(())
            }
            KeeperRequest::SetStore { volume, store } => {
                let slot = self.slot(volume);
                let before = slot.look(|v| (v.plan.store.clone(), v.state.clone()));
                // First, so that a worker that is started meanwhile goes by it.
                slot.change(|v| v.plan.store = (*store).clone());
                if let Some((old, WorkerState::Serving)) = before
                    && let Err(e) = self.ask_worker::<()>(volume, &WorkerRequest::SetStore { store }, Some(QUESTION))
                {
                    slot.change(|v| v.plan.store = old);
                    return Err(e);
                }
                self.save();
                value(())
            }
            KeeperRequest::Sync { volume } => value(self.settle(volume)?),
            // Reading everything takes what it takes.
            KeeperRequest::Check { volume, repair } => self.ask_worker(volume, &WorkerRequest::Check { repair }, None),
            KeeperRequest::CheckProgress { volume } => self.ask_worker(volume, &WorkerRequest::CheckProgress, Some(QUESTION)),
            KeeperRequest::Space { volume } => self.ask_worker(volume, &WorkerRequest::Space, None),
            KeeperRequest::Collect { volume, dry_run } => self.ask_worker(volume, &WorkerRequest::Collect { dry_run }, None),
            KeeperRequest::Renew { volume } => value(self.renew(volume)?),
            KeeperRequest::Shutdown => value(self.may_stop()?),
        }
    }

    /// What a volume takes. Of one that no worker serves any more only that is known.
    fn usage(&self, volume: VolumeId) -> Result<Usage> {
        let lost = self.slot(volume).look(|v| match &v.state {
            WorkerState::Lost { reason } => Some(reason.clone()),
            _ => None,
        });
        match lost.flatten() {
            Some(why) => Ok(Usage { stopped: Some(why), ..Usage::default() }),
            None => self.ask_worker::<Usage>(volume, &WorkerRequest::Usage, Some(QUESTION)),
        }
    }

    pub(super) fn ask_worker<A: DeserializeOwned>(&self, id: VolumeId, request: &WorkerRequest, limit: Option<Duration>) -> Result<A> {
        let Some((name, state)) = self.slot(id).look(|v| (v.plan.name.clone(), v.state.clone())) else {
            return Err(Error::not_found(format!("volume {id} is not attached")));
        };
        match state {
            WorkerState::Serving => {}
            WorkerState::Restarting { reason, .. } => {
                return Err(Error::unavailable(format!("the worker of volume {name} is being replaced: {reason}")));
            }
            WorkerState::Lost { reason } => {
                return Err(Error::new(ErrorKind::Busy, format!("volume {name}: {reason}, and nothing counts that this one still does"))
                    .with_remedy("unmount it here with orlop unmount; docs/howto/two-hosts.md says how it comes back"));
            }
            WorkerState::Finishing => return Err(Error::unavailable(format!("volume {name} is being unmounted"))),
        }
        let connection = Connection::connect(&self.layout.worker_socket(id))?;
        connection.limit(limit);
        connection.ask(request, &[]).map(|(a, _)| a).map_err(|e| e.during(format_args!("volume {name}")))
    }

    fn list(&self) -> Result<Vec<AttachedVolume>> {
        let own = table::own().map_err(|e| Error::io("reading the mount table", &e))?;
        let others = table::others().ok();
        let mut all: Vec<AttachedVolume> = self
            .all()
            .iter()
            .filter_map(|slot| {
                let (plan, pid, worker, binds, mounted, points) =
                    slot.look(|v| (v.plan.clone(), v.worker.pid, v.state.clone(), v.binds.clone(), v.mounted, v.points()))?;
                // When in doubt, it is.
                let in_use_elsewhere = others.as_ref().is_none_or(|others| !table::elsewhere(mounted, &points, &own, others).is_empty());
                let worker_pid = if matches!(worker, WorkerState::Restarting { .. } | WorkerState::Lost { .. }) { 0 } else { pid };
                Some(AttachedVolume { plan, worker_pid, worker, binds, in_use_elsewhere })
            })
            .collect();
        all.sort_by(|a, b| a.plan.name.cmp(&b.plan.name));
        Ok(all)
    }

    fn may_stop(&self) -> Result<()> {
        let attached: Vec<String> = self.all().iter().filter_map(|s| s.look(|v| v.plan.name.to_string())).collect();
        if attached.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Busy, format!("volumes are attached: {}", attached.join(", "))).with_remedy("detach them first"))
    }
}
