//! The door: everything that front doors call. It decides nothing itself.

use crate::audit::{AuditJournal, has_records};
use crate::config::ControlConfig;
use crate::inner::Inner;
use crate::registry::{Registry, StoreRow};
use crate::status::{AuditStatus, ControlStatus, ReconcileReport, StoreStatus};
use crate::volumes::read;
use orlop_model::{
    Actor, CheckProgress, CheckReport, Error, ErrorKind, FoundVolume, GcReport, Intent, MountPlan, Outcome, Result, Space, Store,
    StoreName, Volume, VolumeId, VolumeRef,
};
use std::os::unix::fs::MetadataExt;
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
pub struct Control {
    inner: Arc<Inner>,
}

impl Control {
    /// Opens the registry and the journal, closes what a crash left open in the journal, and marks what a Docker
    /// may have lost meanwhile. Call [`reconcile`](Control::reconcile) next.
    pub async fn open(config: ControlConfig) -> Result<Arc<Control>> {
        let owner =
            std::fs::metadata(&config.root).map_err(|e| Error::io(format_args!("opening the root {}", config.root.display()), &e))?.uid();
        let (db, audit_dir) = (config.root.join("orlop.db"), config.root.join("audit"));
        // A new registry would show no volumes where there are some, and give their names away.
        if std::fs::metadata(&db).map_or(0, |m| m.len()) == 0 && has_records(&audit_dir)? {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the registry {} is missing, but the root has an audit journal", db.display()),
            )
            .with_remedy(format!(
                "restore it from a backup; to begin anew move {} away (the volumes' bytes stay where they are)",
                audit_dir.display()
            )));
        }
        let registry = Registry::open(&db, config.faults.clone()).await?;
        let audit =
            AuditJournal::open(&audit_dir, config.audit_segment_bytes, registry.clone(), config.clock.clone(), config.faults.clone())
                .await?;
        let started = crate::now(&*config.clock);
        registry
            .seed_store(&StoreRow {
                name: StoreName::default_store(),
                spec: config.default_store.clone(),
                capabilities: None,
                created_at: started,
                examined_at: None,
            })
            .await?;
        // Where volumes live, a folder that is not there is on a disk that is missing, and must not be made in its place.
        if !registry.volumes_by_store().await?.contains_key(StoreName::default_store().as_str())
            && let Err(e) = orlop_store::make_folder(&config.default_store)
        {
            tracing::warn!("the folder of the default store is not made: {e}");
        }
        // While nobody listened, Unmounts may have been lost. A registry that takes nothing now, on a full disk, keeps nobody
        // from starting: reconciling comes back to it.
        let marked = registry.suspect_docker(started).await;
        if let Err(e) = &marked {
            tracing::warn!("what Docker may have forgotten is looked at later: {e}");
        }
        let inner = Inner {
            config,
            owner,
            started,
            registry,
            audit,
            locks: Default::default(),
            keys: Default::default(),
            reconciling: Default::default(),
            last_reconcile: Default::default(),
            patience: Default::default(),
            unmarked: marked.is_err().into(),
        };
        Ok(Arc::new(Control { inner: Arc::new(inner) }))
    }

    /// Does what is asked, if the actor may, and records it. The only way to change anything.
    /// Runs to its end even if the caller goes away.
    pub async fn apply(&self, actor: &Actor, intent: Intent) -> Result<Outcome> {
        let (inner, actor) = (self.inner.clone(), actor.clone());
        tokio::spawn(async move { inner.apply(&actor, intent).await })
            .await
            .unwrap_or_else(|e| Err(Error::internal(format!("the request ended early: {e}"))))
    }

    /// The volumes, by name.
    pub async fn volumes(&self, filter: VolumeFilter) -> Result<Vec<Volume>> {
        read::list(&self.inner, filter).await
    }

    /// One volume with its usage: by name among the active ones, by id among all.
    pub async fn volume(&self, volume: &VolumeRef) -> Result<Volume> {
        read::one(&self.inner, volume, true).await
    }

    /// The same without usage: from the registry alone, never waits for a worker.
    pub async fn volume_brief(&self, volume: &VolumeRef) -> Result<Volume> {
        read::one(&self.inner, volume, false).await
    }

    /// Reads all of a mounted volume and tells what is not as it should be. Changes nothing.
    pub async fn check(&self, volume: &VolumeRef) -> Result<CheckReport> {
        let id = self.inner.find_chunked(volume).await?.id;
        self.inner.config.worker.check(id, false).await
    }

    /// How far a check of a mounted volume is, if one runs.
    pub async fn check_progress(&self, volume: VolumeId) -> Option<CheckProgress> {
        self.inner.config.worker.check_progress(volume).await
    }

    /// Looks at the objects and files of a volume that cannot be opened. Changes nothing.
    pub async fn examine(&self, volume: &VolumeRef) -> Result<CheckReport> {
        let v = self.inner.find_active(volume).await?;
        self.inner.config.worker.look_closed(&self.inner.plan(&v).await?).await
    }

    /// Where the bytes of a mounted volume are.
    pub async fn space(&self, volume: &VolumeRef) -> Result<Space> {
        let id = self.inner.find_chunked(volume).await?.id;
        self.inner.config.worker.space(id).await
    }

    /// What a collection of a mounted volume would do. Changes nothing.
    pub async fn rehearse_collection(&self, volume: &VolumeRef) -> Result<GcReport> {
        let id = self.inner.find_chunked(volume).await?.id;
        self.inner.config.worker.collect(id, true).await
    }

    /// The plan by which an active volume is, or would be, mounted.
    pub async fn mount_plan(&self, volume: &VolumeRef) -> Result<MountPlan> {
        let v = self.inner.find_active(volume).await?;
        self.inner.plan(&v).await
    }

    /// The stores, by name.
    pub async fn stores(&self) -> Result<Vec<Store>> {
        self.inner.list_stores().await
    }

    /// The volumes that lie in a store, whoever made them.
    pub async fn found_volumes(&self, store: &StoreName) -> Result<Vec<FoundVolume>> {
        self.inner.found_volumes(store).await
    }

    /// One store. The default one is examined the first time that somebody looks.
    pub async fn store(&self, name: &StoreName) -> Result<Store> {
        self.inner.one_store(name).await
    }

    /// The folder where a volume is, or would be, mounted.
    pub fn mountpoint_of(&self, volume: &Volume) -> String {
        self.inner.mountpoint(volume.id, volume.folder.as_deref())
    }

    /// The keys of sealed volumes, by their names.
    pub async fn keys(&self) -> Result<orlop_model::KeyReport> {
        self.inner.key_report().await
    }

    /// How far the rotation of the master key is; `None` if there was none since the start.
    pub fn key_rotation(&self) -> Option<orlop_model::KeyRotation> {
        self.inner.key_rotation()
    }

    /// Whether the actor may use the local API at all. A refusal is recorded, with the call and the volume that it names.
    pub async fn admit(&self, actor: &Actor, call: &str, volume: Option<&VolumeRef>) -> Result<()> {
        let Err(refused) = self.inner.authorise_read(actor) else { return Ok(()) };
        let (inner, actor, call, volume) = (self.inner.clone(), actor.clone(), call.to_owned(), volume.cloned());
        let message = refused.message.clone();
        // To its end even if the caller goes away, as every change of the journal.
        let recorded = tokio::spawn(async move { inner.audit.refused(&actor, &call, volume.as_ref(), &message).await });
        if let Err(e) = recorded.await {
            tracing::error!("a refused call is not recorded: {e}");
        }
        Err(refused)
    }

    /// Whether the actor may look at volumes and the journal.
    pub fn authorise_read(&self, actor: &Actor) -> Result<()> {
        self.inner.authorise_read(actor)
    }

    /// The journal.
    pub fn audit(&self) -> &AuditJournal {
        &self.inner.audit
    }

    /// To be called at every Plugin.Activate: a dockerd started, so attachments that an earlier one left without
    /// an Unmount are looked at, now and later. Returns at once; the work goes on in the background.
    pub async fn docker_activated(&self) -> Result<()> {
        self.inner.registry.suspect_docker(self.inner.now()).await?;
        let inner = self.inner.clone();
        tokio::spawn(async move { inner.reconcile().await });
        Ok(())
    }

    /// Finishes or undoes whatever is not as it should be. Safe at any time; one at a time.
    pub async fn reconcile(&self) -> ReconcileReport {
        let inner = self.inner.clone();
        tokio::spawn(async move { inner.reconcile().await }).await.unwrap_or_else(|e| ReconcileReport {
            failed: vec![format!("the reconciliation ended early: {e}")],
            ..ReconcileReport::default()
        })
    }

    /// Reconciles now and every `period` until the handle is aborted or the control is gone.
    pub fn spawn_reconciler(self: &Arc<Self>, period: Duration) -> tokio::task::JoinHandle<()> {
        let control = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(period);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let Some(control) = control.upgrade() else { return };
                for line in control.reconcile().await.failed {
                    tracing::warn!("reconciliation: {line}");
                }
            }
        })
    }

    /// Writes what is owed to the journal and closes the registry; later calls fail. Requests that still run fail too.
    pub async fn close(&self) {
        if let Err(e) = self.inner.audit.finish().await {
            tracing::error!("audit records are lost with this process: {e}");
        }
        self.inner.registry.close().await;
    }

    /// Counts and states.
    pub async fn status(&self) -> Result<ControlStatus> {
        let (volumes, attachments) = read::counts(&self.inner).await?;
        let stores = self.inner.list_stores().await?;
        let stores = stores
            .into_iter()
            .map(|s| StoreStatus { name: s.name.to_string(), url: s.spec.url, volumes: s.volumes, refusal: s.refusal })
            .collect();
        let audit: AuditStatus = self.inner.audit.status();
        Ok(ControlStatus { volumes, attachments, stores, audit, last_reconcile: self.inner.last_reconcile.lock().clone() })
    }
}
