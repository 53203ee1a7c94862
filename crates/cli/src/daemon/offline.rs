//! The audit journal of a root whose daemon does not run, checked as a starting daemon would check it.

use super::lock;
use async_trait::async_trait;
use orlop_control::{AttachedVolume, Control, ControlConfig, Formatted, Mounted, Mounter, VerifyReport, VolumeWorker};
use orlop_model::{Error, ErrorKind, Examination, FoundVolume, MountPlan, Result, StoreSpec, Usage, VolumeId};
use std::path::Path;
use std::sync::Arc;

/// Checks the journal against the registry. No daemon may start meanwhile, so the root is locked.
pub(crate) async fn audit(root: &Path) -> Result<VerifyReport> {
    let folder = root.join("audit");
    if folder.is_dir() && !root.join("orlop.db").exists() {
        return Err(Error::not_found(format!(
            "{} has a journal, and {} does not have the registry orlop.db with its end",
            folder.display(),
            root.display()
        ))
        .with_remedy("give a whole root folder, or a copy of one with audit/, keys/ and orlop.db"));
    }
    if !folder.is_dir() {
        return Err(Error::not_found(format!("there is no audit journal in {}", folder.display()))
            .with_remedy("give the root folder of an Orlop with --root DIR"));
    }
    let _lock = match lock::take(&root.join("run/daemon.lock")) {
        Ok(None) => {
            return Err(Error::unavailable(format!("the daemon of {} is just starting or ending", root.display())).with_remedy("try again"));
        }
        // A copy without it, where none ever ran.
        Err(e) if e.kind == ErrorKind::NotFound => None,
        taken => taken?,
    };
    let control = Control::open(ControlConfig::new(root, Arc::new(Nobody), Arc::new(Nobody))).await?;
    control.audit().verify().await
}

/// Ports that mount nothing and touch no volume: a verification needs neither.
struct Nobody;

fn refused<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unavailable, "the daemon does not run").with_remedy("orlop up"))
}

#[async_trait]
impl Mounter for Nobody {
    async fn attach(&self, _plan: &MountPlan) -> Result<Mounted> {
        refused()
    }
    async fn detach(&self, _volume: VolumeId, _force: bool) -> Result<()> {
        refused()
    }
    async fn settle(&self, _volume: VolumeId) -> Result<()> {
        refused()
    }
    async fn bind(&self, _volume: VolumeId, _dir: &str, _read_only: bool) -> Result<()> {
        refused()
    }
    async fn unbind(&self, _dir: &str) -> Result<()> {
        refused()
    }
    async fn attached(&self) -> Result<Vec<AttachedVolume>> {
        refused()
    }
}

#[async_trait]
impl VolumeWorker for Nobody {
    async fn format(&self, _plan: &MountPlan) -> Result<Formatted> {
        refused()
    }
    async fn destroy(&self, _plan: &MountPlan) -> Result<()> {
        refused()
    }
    async fn usage(&self, _volume: VolumeId) -> Result<Usage> {
        refused()
    }
    async fn set_quota(&self, _volume: VolumeId, _bytes: Option<u64>) -> Result<()> {
        refused()
    }
    async fn discard(&self, _plan: &MountPlan) -> Result<()> {
        refused()
    }
    async fn recover(&self, _plan: &MountPlan) -> Result<()> {
        refused()
    }
    async fn examine(&self, _store: &StoreSpec) -> Result<Examination> {
        refused()
    }
    async fn find(&self, _store: &StoreSpec) -> Result<Vec<FoundVolume>> {
        refused()
    }
    async fn recognise(&self, _plan: &MountPlan) -> Result<FoundVolume> {
        refused()
    }
    async fn forget(&self, _plan: &MountPlan) -> Result<()> {
        refused()
    }
}
