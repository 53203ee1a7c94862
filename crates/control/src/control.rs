//! The door: everything that front doors call.

use crate::audit::AuditJournal;
use crate::config::ControlConfig;
use crate::status::{ControlStatus, ReconcileReport};
use orlop_model::{Actor, Intent, MountPlan, Outcome, Result, Volume, VolumeId, VolumeRef};
use std::sync::Arc;
use std::time::Duration;

/// Which volumes to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VolumeFilter {
    /// The removed ones too.
    pub include_removed: bool,
    /// Ask the workers of mounted volumes what they take; waits two seconds at most.
    pub with_usage: bool,
}

/// Desired state of one root.
pub struct Control {}

impl Control {
    /// Opens the registry and the journal, closes what a crash left open in the journal, and marks what a Docker
    /// may have lost meanwhile. Call [`reconcile`](Control::reconcile) next.
    pub async fn open(_config: ControlConfig) -> Result<Arc<Control>> {
        unimplemented!()
    }

    /// Does what is asked, if the actor may, and records it. The only way to change anything.
    /// Runs to its end even if the caller goes away.
    pub async fn apply(&self, _actor: &Actor, _intent: Intent) -> Result<Outcome> {
        unimplemented!()
    }

    /// The volumes, by name.
    pub async fn volumes(&self, _filter: VolumeFilter) -> Result<Vec<Volume>> {
        unimplemented!()
    }

    /// One volume with its usage: by name among the active ones, by id among all.
    pub async fn volume(&self, _volume: &VolumeRef) -> Result<Volume> {
        unimplemented!()
    }

    /// The same without usage: from the registry alone, never waits for a worker.
    pub async fn volume_brief(&self, _volume: &VolumeRef) -> Result<Volume> {
        unimplemented!()
    }

    /// The plan by which an active volume is, or would be, mounted.
    pub async fn mount_plan(&self, _volume: &VolumeRef) -> Result<MountPlan> {
        unimplemented!()
    }

    /// The folder where a volume is, or would be, mounted.
    pub fn mountpoint_of(&self, _volume: VolumeId) -> String {
        unimplemented!()
    }

    /// Whether the actor may look at volumes and the journal.
    pub fn authorise_read(&self, _actor: &Actor) -> Result<()> {
        unimplemented!()
    }

    /// The journal.
    pub fn audit(&self) -> &AuditJournal {
        unimplemented!()
    }

    /// To be called at every Plugin.Activate: a dockerd started, so attachments that an earlier one left without
    /// an Unmount are looked at, now and later. Returns at once; the work goes on in the background.
    pub async fn docker_activated(&self) -> Result<()> {
        unimplemented!()
    }

    /// Finishes or undoes whatever is not as it should be. Safe at any time; one at a time.
    pub async fn reconcile(&self) -> ReconcileReport {
        unimplemented!()
    }

    /// Reconciles now and every `period` until the handle is dropped or aborted, or the control is gone.
    pub fn spawn_reconciler(self: &Arc<Self>, _period: Duration) -> tokio::task::JoinHandle<()> {
        unimplemented!()
    }

    /// Counts and states.
    pub async fn status(&self) -> Result<ControlStatus> {
        unimplemented!()
    }
}
