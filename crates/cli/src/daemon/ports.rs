//! What control asks of the host, done by the keeper (mounts) and by chunkfs and the store (a volume's bytes).

use super::adopt;
use super::keeper::Keeper;
use super::plain::{self, Plain};
use super::speed;
use crate::found::Keys;
use async_trait::async_trait;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use orlop_control::{AttachedVolume, BoundDirectory, Formatted, Mounted, Mounter, VolumeWorker, plain_folder};
use orlop_model::{
    CheckProgress, CheckReport, Error, ErrorKind, Examination, FoundVolume, GcReport, MountPlan, Result, Space, StoreSpec, Usage, VolumeId,
};
use orlop_mount::WorkerState;
use std::path::{Path, PathBuf};

/// Both ports of control.
pub(crate) struct Ports {
    root: PathBuf,
    pub(crate) keeper: Keeper,
    pub(crate) plain: Plain,
}

impl Ports {
    pub(crate) fn new(root: &Path) -> Ports {
        Ports { root: root.to_owned(), keeper: Keeper::new(root), plain: Plain::new(root) }
    }

    /// Where the keys of encrypted volumes are.
    fn keys(&self) -> Keys {
        Keys::Host(self.root.join("keys"))
    }

    /// Refuses new mounts until what is returned is dropped: when going down failed, or nobody waits for it any more.
    pub(crate) fn close(&self) -> Closing<'_> {
        self.keeper.set_closing(true);
        Closing { keeper: &self.keeper, kept: false }
    }
}

/// While this lives nothing is mounted.
pub(crate) struct Closing<'a> {
    keeper: &'a Keeper,
    kept: bool,
}

impl Closing<'_> {
    /// For good: the daemon ends.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.keeper.set_closing(false);
        }
    }
}

#[async_trait]
impl Mounter for Ports {
    async fn attach(&self, plan: &MountPlan) -> Result<Mounted> {
        self.keeper.goes_on()?;
        if plan.store.is_plain() {
            let plan = plan.clone();
            return self.plain.run(move |p| p.attach(&plan)).await;
        }
        let attached = self.keeper.client().await?.attach(plan).await?;
        Ok(Mounted { mountpoint: attached.mountpoint, worker_pid: attached.worker_pid })
    }

    async fn detach(&self, volume: VolumeId, force: bool) -> Result<()> {
        if self.plain.has(volume) {
            return self.plain.run(move |p| p.detach(volume, force)).await;
        }
        self.keeper.client().await?.detach(volume, force).await
    }

    async fn settle(&self, volume: VolumeId) -> Result<()> {
        if self.plain.has(volume) {
            return Ok(());
        }
        match self.keeper.client().await?.sync(volume).await {
            // What is not mounted has nothing to settle.
            Err(e) if e.kind == ErrorKind::NotFound => Ok(()),
            settled => settled,
        }
    }

    async fn bind(&self, volume: VolumeId, dir: &str, read_only: bool) -> Result<()> {
        self.keeper.goes_on()?;
        if self.plain.has(volume) {
            let dir = dir.to_owned();
            return self.plain.run(move |p| p.bind(volume, &dir, read_only)).await;
        }
        self.keeper.client().await?.bind(volume, dir, read_only).await
    }

    async fn unbind(&self, dir: &str) -> Result<()> {
        let plain = dir.to_owned();
        if self.plain.run(move |p| p.unbind(&plain)).await? {
            return Ok(());
        }
        self.keeper.client().await?.unbind(dir).await
    }

    async fn attached(&self) -> Result<Vec<AttachedVolume>> {
        let list = self.keeper.client().await?.list().await?;
        let mut attached: Vec<AttachedVolume> = list
            .into_iter()
            .map(|v| AttachedVolume {
                serving: matches!(v.worker, WorkerState::Serving | WorkerState::Lost { .. }),
                binds: v.binds.into_iter().map(|b| BoundDirectory { path: b.dir, read_only: b.read_only }).collect(),
                plan: v.plan,
                worker_pid: v.worker_pid,
                in_use_elsewhere: v.in_use_elsewhere,
            })
            .collect();
        attached.extend(self.plain.run(Plain::attached).await?);
        Ok(attached)
    }
}

#[async_trait]
impl VolumeWorker for Ports {
    async fn format(&self, plan: &MountPlan) -> Result<Formatted> {
        if plan.store.is_plain() {
            let plan = plan.clone();
            return self.plain.run(move |p| p.format(&plan)).await;
        }
        let encrypt = plan.options.encrypt == Some(true);
        let store = orlop_store::create_volume_store(&plan.store, &plan.prefix, &self.root.join("keys"), encrypt).await?;
        orlop_chunkfs::format_volume(&store, &plan.prefix, plan.volume).await?;
        // The volume is there; its next mount notes what this could not.
        if let Err(e) = orlop_chunkfs::note_name(&*store, &plan.prefix, plan.volume, &plan.name).await {
            tracing::warn!(volume = %plan.name, "its name is not noted in its store: {e}");
        }
        Ok(Formatted::Fresh)
    }

    async fn may_destroy(&self, plan: &MountPlan) -> Result<()> {
        if plan.store.is_plain() { Ok(()) } else { adopt::refuse_if_used_elsewhere(plan, &self.keys()).await }
    }

    async fn destroy(&self, plan: &MountPlan) -> Result<()> {
        if plan.store.is_plain() {
            let plan = plan.clone();
            return self.plain.run(move |p| p.destroy(&plan)).await;
        }
        let name = &plan.name;
        // A plan that points elsewhere would delete what is not this volume's.
        let id = plan.volume.to_string();
        let (state, mountpoint) = (Path::new(&plan.state_dir), Path::new(&plan.mountpoint));
        if !plan.prefix.contains(&id) || state != self.root.join("state").join(&id) || mountpoint != self.root.join("mnt").join(&id) {
            return Err(Error::internal(format!("the plan to delete volume {name} names folders that are not its own")));
        }
        adopt::refuse_if_used_elsewhere(plan, &self.keys()).await?;
        let store = orlop_store::open_spec(&plan.store)?;
        // First, so that whatever is left of a sealed volume, here or in a copy, cannot be read any more.
        orlop_store::keys::shred(&*store, &plan.prefix).await.map_err(|e| e.during(format_args!("deleting volume {name}")))?;
        delete_below(&*store, &plan.prefix).await.map_err(|e| e.during(format_args!("deleting volume {name}")))?;
        if let Some(folder) = plan.store.url.strip_prefix("file://") {
            // Object stores have no folders; a local one is left with empty ones.
            remove_tree(&Path::new(folder).join(&plan.prefix)).await?;
        }
        remove_tree(state).await?;
        // Best effort: a log tells nothing any more about a volume that is gone.
        let _ = tokio::fs::remove_file(self.root.join(format!("log/worker-{id}.log"))).await;
        match tokio::fs::remove_dir(mountpoint).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(format_args!("removing {}", mountpoint.display()), &e)),
            _ => Ok(()),
        }
    }

    async fn usage(&self, volume: VolumeId) -> Result<Usage> {
        if self.plain.has(volume) {
            return Err(Error::new(ErrorKind::Unsupported, "what a plain folder takes is not counted").with_remedy("du tells it"));
        }
        self.keeper.answering().await?.usage(volume).await
    }

    async fn usage_at_rest(&self, volume: VolumeId) -> Option<Usage> {
        orlop_mount::worker::usage_at_rest(&self.root.join("state").join(volume.to_string()))
    }

    async fn set_quota(&self, volume: VolumeId, bytes: Option<u64>) -> Result<()> {
        self.keeper.client().await?.set_quota(volume, bytes).await
    }

    async fn set_store(&self, volume: VolumeId, store: &StoreSpec) -> Result<()> {
        self.keeper.client().await?.set_store(volume, store).await
    }

    async fn discard(&self, plan: &MountPlan) -> Result<()> {
        let plan = plan.clone();
        self.plain.run(move |p| p.discard(&plan)).await
    }

    async fn recover(&self, plan: &MountPlan) -> Result<()> {
        let plan = plan.clone();
        self.plain.run(move |p| p.recover(&plan)).await
    }

    async fn find(&self, store: &StoreSpec) -> Result<Vec<FoundVolume>> {
        adopt::find(store, &self.keys()).await
    }

    async fn recognise(&self, plan: &MountPlan) -> Result<FoundVolume> {
        adopt::recognise(plan, &self.keys()).await
    }

    async fn forget(&self, plan: &MountPlan) -> Result<()> {
        adopt::forget(plan, &self.root).await
    }

    async fn examine(&self, spec: &StoreSpec) -> Result<Examination> {
        if spec.is_plain() {
            let folder = plain_folder(spec)?;
            self.plain.run(move |_| plain::examine(&folder)).await?;
            return Ok(Examination::default());
        }
        if spec.url.starts_with("mem:") {
            return Err(Error::new(ErrorKind::Unsupported, "the memory of the daemon holds no volume: it is mounted by another process")
                .with_remedy("use file:///folder"));
        }
        let spec = spec.clone();
        // A credentials command may take a while.
        let store = self.plain.run(move |_| orlop_store::open_spec(&spec)).await?;
        let capabilities = Some(orlop_store::probe(&*store).await?);
        let (put_micros, get_micros) = speed::measure(&*store).await?;
        Ok(Examination { capabilities, put_micros: Some(put_micros), get_micros: Some(get_micros) })
    }

    async fn is_same_place(&self, old: &StoreSpec, new: &StoreSpec) -> Result<Option<bool>> {
        let (old, new) = (old.clone(), new.clone());
        let (old, new) = self.plain.run(move |_| Ok((orlop_store::open_spec(&old), orlop_store::open_spec(&new)?))).await?;
        // Its credentials may be gone.
        let Ok(old) = old else { return Ok(None) };
        orlop_store::is_same_place(&*new, &*old).await
    }

    async fn check(&self, volume: VolumeId, repair: bool) -> Result<CheckReport> {
        self.keeper.answering().await?.check(volume, repair).await
    }

    async fn check_progress(&self, volume: VolumeId) -> Option<CheckProgress> {
        self.keeper.answering().await.ok()?.check_progress(volume).await.ok()
    }

    async fn look_closed(&self, plan: &MountPlan) -> Result<CheckReport> {
        let encrypt = plan.options.encrypt == Some(true);
        let of = orlop_store::volume_store(&plan.store, &plan.prefix, &self.root.join("keys"), encrypt).await?;
        orlop_chunkfs::examine_closed(&of, &plan.prefix, plan.volume, Path::new(&plan.state_dir)).await
    }

    async fn space(&self, volume: VolumeId) -> Result<Space> {
        self.keeper.answering().await?.space(volume).await
    }

    async fn collect(&self, volume: VolumeId, dry_run: bool) -> Result<GcReport> {
        self.keeper.answering().await?.collect(volume, dry_run).await
    }
}

async fn delete_below(store: &dyn ObjectStore, prefix: &str) -> Result<()> {
    let failed = |e: object_store::Error| orlop_store::error(format_args!("what is below {prefix}"), &e);
    let below = object_store::path::Path::from(prefix);
    store
        .list(Some(&below))
        .map_err(failed)
        .try_for_each_concurrent(8, async |object| match store.delete(&object.location).await {
            // Gone already: an earlier attempt, or a file that a late collection took.
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(failed(e)),
        })
        .await
}

pub(super) async fn remove_tree(path: &Path) -> Result<()> {
    match tokio::fs::remove_dir_all(path).await {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(format_args!("removing {}", path.display()), &e)),
        _ => Ok(()),
    }
}
