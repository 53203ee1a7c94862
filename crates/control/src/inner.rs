//! What all the rules share: the registry, the journal, the ports with their deadlines, the locks, plans and lookups.

use crate::audit::AuditJournal;
use crate::config::ControlConfig;
use crate::locks::Locks;
use crate::ports::{AttachedVolume, Formatted, Mounted};
use crate::reconcile::Failed;
use crate::registry::{Phase, Registry, VolumeRow};
use crate::status::ReconcileReport;
use orlop_model::{
    CacheMode, Durability, Error, Examination, FoundVolume, MountPlan, Result, StoreSpec, VolumeId, VolumeKind, VolumeOptions, VolumeRef,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::OwnedMutexGuard;

/// How long a port may take before the caller is told that it does not answer. Every call can be repeated.
const FORMAT_DEADLINE: Duration = Duration::from_secs(60);
/// Unmounting makes accepted writes durable first, which takes what it takes.
const DETACH_DEADLINE: Duration = Duration::from_secs(600);
const QUICK_DEADLINE: Duration = Duration::from_secs(30);
/// A slow store sends a few megabytes for it.
const EXAMINE_DEADLINE: Duration = Duration::from_secs(120);

/// What fsync promises unless the volume says otherwise: that the place where its bytes live has them.
pub(crate) fn default_durability(store: &StoreSpec) -> Durability {
    if store.is_local() { Durability::Local } else { Durability::Remote }
}

/// How the kernel may cache unless the volume says otherwise: fast, unless somebody relies on what fast does not do.
///
/// Where another host can take the volume over, one that was cut off would go on showing what its kernel keeps, for as long as
/// it is mounted. And who set a size counts on `write` being refused, not `close`, whose error few programs look at.
pub(crate) fn default_cache(options: &VolumeOptions, store: &StoreSpec) -> CacheMode {
    if store.is_local() && options.size.is_none() { CacheMode::Fast } else { CacheMode::Strict }
}

pub(crate) struct Inner {
    pub(crate) config: ControlConfig,
    /// Who owns the root folder.
    pub(crate) owner: u32,
    pub(crate) started: OffsetDateTime,
    pub(crate) registry: Registry,
    pub(crate) audit: AuditJournal,
    pub(crate) locks: Locks,
    pub(crate) keys: crate::keys::KeyState,
    pub(crate) reconciling: tokio::sync::Mutex<()>,
    pub(crate) last_reconcile: Mutex<Option<ReconcileReport>>,
    /// What failed in a reconciliation, until when it is left alone, and how long it was left alone before.
    pub(crate) patience: Mutex<HashMap<String, Failed>>,
    /// Whether the start still owes the mark on what Docker may have forgotten.
    pub(crate) unmarked: AtomicBool,
}

impl Inner {
    pub(crate) fn now(&self) -> OffsetDateTime {
        crate::now(&*self.config.clock)
    }

    /// The plan by which a volume is mounted. What fsync promises and how the kernel caches is written out, since the default
    /// is the store's.
    pub(crate) async fn plan(&self, v: &VolumeRow) -> Result<MountPlan> {
        let store = self.registry.store(&v.store).await?.ok_or_else(|| {
            Error::not_found(format!("volume {} lives in store {}, which is not in the registry", v.name, v.store))
                .with_remedy(format!("add it again as it was: orlop store add {} URL", v.store))
        })?;
        let mut options = v.options.clone();
        if v.kind == VolumeKind::Chunked {
            options.durability.get_or_insert(default_durability(&store.spec));
            options.cache = Some(options.cache.unwrap_or_else(|| default_cache(&options, &store.spec)));
        }
        Ok(MountPlan {
            volume: v.id,
            name: v.name.clone(),
            store: store.spec,
            prefix: format!("volumes/{}", v.id),
            state_dir: self.config.root.join("state").join(v.id.to_string()).display().to_string(),
            mountpoint: self.mountpoint(v.id, v.folder.as_deref()),
            options,
            abandon_unsynced: false,
        })
    }

    /// Where a volume is, or would be, found: a plain one is its folder.
    pub(crate) fn mountpoint(&self, id: VolumeId, folder: Option<&str>) -> String {
        folder.map_or_else(|| self.config.root.join("mnt").join(id.to_string()).display().to_string(), str::to_owned)
    }

    /// An active volume; for one that is not there the error tells whether it can be had back.
    pub(crate) async fn find_active(&self, volume: &VolumeRef) -> Result<VolumeRow> {
        match volume {
            VolumeRef::Name(name) => {
                if let Some(v) = self.registry.volume_named(name).await?.filter(|v| v.phase == Phase::Active) {
                    return Ok(v);
                }
                let error = Error::not_found(format!("no volume is named {name}"));
                let removed = self.registry.removed_named(name).await?;
                Err(match removed.iter().any(|v| !self.is_over(v)) {
                    true => error.with_remedy(format!("it was removed; orlop volume restore {name} takes it back")),
                    false if !removed.is_empty() => {
                        error.with_remedy("it was removed and is being deleted for good; nothing brings it back")
                    }
                    false => error.with_remedy("orlop volume list shows the volumes"),
                })
            }
            VolumeRef::Id(id) => match self.registry.volume(*id).await? {
                Some(v) if v.phase == Phase::Active => Ok(v),
                Some(v) if v.phase == Phase::Purging || self.is_over(&v) => {
                    Err(Error::not_found(format!("volume {} ({id}) was removed and is being deleted for good", v.name))
                        .with_remedy("nothing brings it back; orlop volume list --all shows the volumes"))
                }
                Some(v) if v.phase == Phase::Removed => Err(Error::not_found(format!("volume {} ({id}) was removed", v.name))
                    .with_remedy(format!("orlop volume restore {id} takes it back"))),
                _ => Err(Error::not_found(format!("no volume has the id {id}")).with_remedy("orlop volume list shows the volumes")),
            },
        }
    }

    /// An active volume, locked: nobody else changes it while the guard lives.
    pub(crate) async fn lock_active(&self, volume: &VolumeRef) -> Result<(OwnedMutexGuard<()>, VolumeRow)> {
        loop {
            let found = self.find_active(volume).await?;
            let guard = self.locks.volume(found.id).await;
            // While waiting it may have been removed, and its name given to another.
            let again = self.find_active(volume).await?;
            if again.id == found.id {
                return Ok((guard, again));
            }
        }
    }

    // The ports, each with a deadline, and with a point before and after for the tests of crashes.

    pub(crate) async fn port_attach(&self, plan: &MountPlan) -> Result<Mounted> {
        self.port("mounter.attach", self.config.attach_deadline, self.config.mounter.attach(plan)).await
    }

    pub(crate) async fn port_detach(&self, volume: VolumeId) -> Result<()> {
        self.port("mounter.detach", DETACH_DEADLINE, self.config.mounter.detach(volume, false)).await
    }

    pub(crate) async fn port_cut_off(&self, volume: VolumeId) -> Result<()> {
        self.port("mounter.detach", DETACH_DEADLINE, self.config.mounter.detach(volume, true)).await
    }

    pub(crate) async fn port_settle(&self, volume: VolumeId) -> Result<()> {
        self.port("mounter.settle", DETACH_DEADLINE, self.config.mounter.settle(volume)).await
    }

    pub(crate) async fn port_bind(&self, volume: VolumeId, dir: &str, read_only: bool) -> Result<()> {
        self.port("mounter.bind", QUICK_DEADLINE, self.config.mounter.bind(volume, dir, read_only)).await
    }

    pub(crate) async fn port_unbind(&self, dir: &str) -> Result<()> {
        self.port("mounter.unbind", QUICK_DEADLINE, self.config.mounter.unbind(dir)).await
    }

    pub(crate) async fn port_attached(&self) -> Result<Vec<AttachedVolume>> {
        self.port("mounter.attached", QUICK_DEADLINE, self.config.mounter.attached()).await
    }

    pub(crate) async fn port_format(&self, plan: &MountPlan) -> Result<Formatted> {
        self.port("worker.format", FORMAT_DEADLINE, self.config.worker.format(plan)).await
    }

    /// Without a deadline: deleting much takes long, and nobody waits for the volume's lock.
    pub(crate) async fn port_destroy(&self, plan: &MountPlan) -> Result<()> {
        self.config.faults.at("worker.destroy").await?;
        self.config.worker.destroy(plan).await?;
        self.config.faults.at("worker.destroy.after").await
    }

    pub(crate) async fn port_may_destroy(&self, plan: &MountPlan) -> Result<()> {
        self.port("worker.may_destroy", EXAMINE_DEADLINE, self.config.worker.may_destroy(plan)).await
    }

    pub(crate) async fn port_set_quota(&self, volume: VolumeId, bytes: Option<u64>) -> Result<()> {
        self.port("worker.set_quota", QUICK_DEADLINE, self.config.worker.set_quota(volume, bytes)).await
    }

    pub(crate) async fn port_set_store(&self, volume: VolumeId, store: &StoreSpec) -> Result<()> {
        self.port("worker.set_store", EXAMINE_DEADLINE, self.config.worker.set_store(volume, store)).await
    }

    pub(crate) async fn port_discard(&self, plan: &MountPlan) -> Result<()> {
        self.port("worker.discard", QUICK_DEADLINE, self.config.worker.discard(plan)).await
    }

    pub(crate) async fn port_recover(&self, plan: &MountPlan) -> Result<()> {
        self.port("worker.recover", QUICK_DEADLINE, self.config.worker.recover(plan)).await
    }

    pub(crate) async fn port_examine(&self, store: &StoreSpec) -> Result<Examination> {
        self.port("worker.examine", EXAMINE_DEADLINE, self.config.worker.examine(store)).await
    }

    pub(crate) async fn port_same_place(&self, old: &StoreSpec, new: &StoreSpec) -> Result<Option<bool>> {
        self.port("worker.is_same_place", EXAMINE_DEADLINE, self.config.worker.is_same_place(old, new)).await
    }

    pub(crate) async fn port_find(&self, store: &StoreSpec) -> Result<Vec<FoundVolume>> {
        self.port("worker.find", EXAMINE_DEADLINE, self.config.worker.find(store)).await
    }

    pub(crate) async fn port_recognise(&self, plan: &MountPlan) -> Result<FoundVolume> {
        self.port("worker.recognise", EXAMINE_DEADLINE, self.config.worker.recognise(plan)).await
    }

    /// Without a deadline, as for destroying.
    pub(crate) async fn port_forget(&self, plan: &MountPlan) -> Result<()> {
        self.config.faults.at("worker.forget").await?;
        self.config.worker.forget(plan).await
    }

    async fn port<T>(&self, name: &str, deadline: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.config.faults.at(name).await?;
        let value = tokio::time::timeout(deadline, call).await.map_err(|_| {
            Error::unavailable(format!("{name} did not answer for {} seconds", deadline.as_secs()))
                .with_remedy("orlop doctor tells what hangs; the request can be repeated")
        })??;
        self.config.faults.at(&format!("{name}.after")).await?;
        Ok(value)
    }
}
