//! What is mounted against what should be.
//!
//! A first look, without locks, finds volumes that may need something; each is then looked at again under its lock,
//! with a fresh view of the mounts, since an attach may have come in between.

use crate::apply::Unrecorded;
use crate::inner::Inner;
use crate::ports::AttachedVolume;
use crate::registry::{AttachmentPhase, AttachmentRow, Phase, VolumeRow};
use crate::status::ReconcileReport;
use crate::stores::set::reached_otherwise;
use crate::volumes::remove::holder;
use orlop_model::{Actor, AttachmentKind, Error, ErrorKind, Outcome, Result, VolumeId, VolumeName, VolumeRef};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};

/// What putting a lost mount back is called where it is to be tried again.
pub(crate) fn mounting_again(volume: &VolumeName) -> String {
    format!("mount {volume} again")
}

impl Inner {
    pub(super) async fn reconcile_mounts(&self, report: &mut ReconcileReport) -> Result<()> {
        let mounted: HashMap<VolumeId, AttachedVolume> = self.port_attached().await?.into_iter().map(|m| (m.plan.volume, m)).collect();
        let mut held: HashMap<VolumeId, Vec<AttachmentRow>> = HashMap::new();
        for a in self.registry.attachments().await? {
            held.entry(a.volume).or_default().push(a);
        }
        let rows: HashMap<VolumeId, VolumeRow> = self.registry.volumes().await?.into_iter().map(|v| (v.id, v)).collect();
        let stores: HashMap<_, _> = self.registry.stores().await?.into_iter().map(|s| (s.name, s.spec)).collect();
        let ids: BTreeSet<VolumeId> = mounted.keys().chain(held.keys()).copied().collect();
        for id in ids {
            match rows.get(&id) {
                Some(row) if row.phase == Phase::Active => {
                    let stale = mounted.get(&id).zip(stores.get(&row.store)).is_some_and(|(m, s)| reached_otherwise(&m.plan.store, s));
                    if stale || self.needs_a_look(row, mounted.get(&id), held.get(&id).map_or(&[], Vec::as_slice)) {
                        self.settle(report, row).await;
                    }
                }
                // Being created: its own create deals with it. Being deleted: so does that.
                Some(row) if row.phase != Phase::Removed => {}
                known => {
                    let name = known.map_or_else(|| id.to_string(), |row| format!("{} ({id})", row.name));
                    let what = format!("unmount {name}, which is {}", if known.is_some() { "removed" } else { "not in the registry" });
                    self.attempt(report, &what, self.unmount_unknown(id)).await;
                }
            }
        }
        Ok(())
    }

    /// Cheap and without locks; too often is harmless.
    fn needs_a_look(&self, row: &VolumeRow, mounted: Option<&AttachedVolume>, held: &[AttachmentRow]) -> bool {
        let bound = |path: &str| mounted.is_some_and(|m| m.binds.iter().any(|b| b.path == path));
        row.quota_pending
            || held.is_empty()
            || mounted.is_none_or(|m| !m.serving)
            || held.iter().any(|a| {
                a.phase == AttachmentPhase::Pending
                    || a.suspect_since.is_some()
                    || match &a.kind {
                        AttachmentKind::Directory { path, .. } => !bound(path),
                        AttachmentKind::Internal { .. } => true,
                        AttachmentKind::Docker { .. } => false,
                    }
            })
    }

    /// Puts one active volume in order.
    async fn settle(&self, report: &mut ReconcileReport, row: &VolumeRow) {
        let (_guard, mut row) = match self.lock_active(&VolumeRef::Id(row.id)).await {
            Ok(found) => found,
            // Removed meanwhile.
            Err(e) if e.kind == ErrorKind::NotFound => return,
            Err(e) => return report.failed.push(e.to_string()),
        };
        let name = row.name.clone();
        self.attempt(report, &format!("undo unfinished attachments of {name}"), self.undo_pending(&row)).await;
        match self.drop_stale(&row, false).await {
            Ok(mut lines) => report.done.append(&mut lines),
            Err(e) => report.failed.push(format!("letting go of volume {name}: {e}")),
        }
        self.attempt(report, &format!("forget folders that no longer hold {name}"), self.drop_unbound(&row)).await;
        self.attempt(report, &mounting_again(&name), self.mount_again(&row)).await;
        self.attempt(report, &format!("tell the worker of {name} its size"), self.push_pending(&mut row)).await;
        self.attempt(report, &format!("tell the worker of {name} how its store is reached"), self.push_store(row.id, &row.store)).await;
        self.attempt(report, &format!("unmount {name}, which nobody holds"), self.unmount_leftover(&row)).await;
    }

    /// The lock is held, so nobody is attaching: a pending row was left by a crash or by a failed undo.
    async fn undo_pending(&self, row: &VolumeRow) -> Result<bool> {
        let mut did = false;
        for a in self.registry.attachments_of(row.id).await?.into_iter().filter(|a| a.phase == AttachmentPhase::Pending) {
            let detail = json!({ "attachment": a.id, "holder": a.kind, "reason": "its attach was interrupted" });
            self.audited(&Actor::System, "volume.detach", row.name.as_str(), detail, Unrecorded::GoesOn, async {
                self.let_go(&a).await.map(|()| (Outcome::Done, Some(row.id)))
            })
            .await?;
            did = true;
        }
        Ok(did)
    }

    /// Somebody unmounted the folder by hand: that is as good as asking for it.
    async fn drop_unbound(&self, row: &VolumeRow) -> Result<bool> {
        let folders: Vec<AttachmentRow> = self
            .registry
            .attachments_of(row.id)
            .await?
            .into_iter()
            .filter(|a| matches!(a.kind, AttachmentKind::Directory { .. }))
            .collect();
        if folders.is_empty() {
            return Ok(false);
        }
        let mounted = self.port_attached().await?;
        // Not mounted at all is another matter: then nobody asked, and it is mounted again with its folders.
        let Some(mounted) = mounted.iter().find(|m| m.plan.volume == row.id && m.serving) else { return Ok(false) };
        let mut did = false;
        for a in folders {
            let AttachmentKind::Directory { path, .. } = &a.kind else { continue };
            if mounted.binds.iter().any(|b| b.path == *path) {
                continue;
            }
            let detail = json!({ "attachment": a.id, "holder": a.kind, "reason": "the folder was unmounted" });
            self.audited(&Actor::System, "volume.detach", row.name.as_str(), detail, Unrecorded::GoesOn, async {
                // What may be left there of a mount that was lost goes with it.
                self.release(&a).await.map(|()| (Outcome::Done, Some(row.id)))
            })
            .await?;
            tracing::info!(volume = %row.name, "let go for {}", holder(&a.kind));
            did = true;
        }
        Ok(did)
    }

    /// Somebody holds it, but it is not served: after a crash of the host or of the process that mounted it.
    async fn mount_again(&self, row: &VolumeRow) -> Result<bool> {
        let held = self.registry.attachments_of(row.id).await?;
        // A suspect is no reason: what it stood for is gone with the mount, and Docker asks again if it wants it.
        if held.iter().all(|a| a.suspect_since.is_some()) {
            return Ok(false);
        }
        // One whose mount lives without a process gets another one from who holds the mount. To wait here for that would only keep those
        // waiting who want to unmount it.
        if self.port_attached().await?.iter().any(|m| m.plan.volume == row.id && (m.serving || m.worker_pid == 0)) {
            return Ok(false);
        }
        let detail = json!({ "volume": row.id, "reason": "it is held but was not mounted" });
        self.audited(&Actor::System, "volume.attach", row.name.as_str(), detail, Unrecorded::Refused, async {
            self.mount(row, &self.plan(row).await?).await?;
            Ok((Outcome::Done, Some(row.id)))
        })
        .await?;
        Ok(true)
    }

    async fn push_pending(&self, row: &mut VolumeRow) -> Result<bool> {
        if !row.quota_pending {
            return Ok(false);
        }
        if self.port_attached().await?.iter().any(|m| m.plan.volume == row.id && m.serving) {
            self.push_quota(row).await?;
        } else {
            // The next mount brings it.
            row.quota_pending = false;
            self.registry.update_volume(row).await?;
        }
        Ok(true)
    }

    async fn unmount_leftover(&self, row: &VolumeRow) -> Result<bool> {
        if !self.registry.attachments_of(row.id).await?.is_empty() {
            return Ok(false);
        }
        self.unmount_unless_used(row.id, row.name.as_str()).await
    }

    async fn unmount_unknown(&self, id: VolumeId) -> Result<bool> {
        let _guard = self.locks.volume(id).await;
        if self.registry.volume(id).await?.is_some_and(|v| v.phase == Phase::Active) {
            return Ok(false);
        }
        self.unmount_unless_used(id, &id.to_string()).await
    }

    /// Whoever uses a volume that nobody is known to hold keeps it: the registry may be the one that is wrong.
    async fn unmount_unless_used(&self, id: VolumeId, target: &str) -> Result<bool> {
        match self.port_attached().await?.into_iter().find(|m| m.plan.volume == id) {
            None => Ok(false),
            Some(m) if m.in_use_elsewhere => {
                Err(Error::new(ErrorKind::Busy, format!("something uses {} although nobody is known to hold it", m.plan.mountpoint))
                    .with_remedy("end what uses it; Orlop then unmounts it by itself"))
            }
            Some(_) => {
                let detail = json!({ "volume": id, "reason": "mounted, but nobody holds it" });
                self.audited(&Actor::System, "volume.detach", target, detail, Unrecorded::GoesOn, async {
                    self.port_detach(id).await.map(|()| (Outcome::Done, Some(id)))
                })
                .await?;
                Ok(true)
            }
        }
    }
}
