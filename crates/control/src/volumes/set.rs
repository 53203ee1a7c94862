//! Changing options, labels and protection. A new quota is pushed to the mounted worker in the same request; a smaller one
//! for a volume that nobody has mounted is tried on a worker that is started for it.

use super::options::{check, check_labels, split_protection, updated};
use crate::apply::Changed;
use crate::inner::Inner;
use crate::registry::VolumeRow;
use crate::volumes::read::in_full;
use orlop_model::{ByteSize, Error, ErrorKind, Outcome, Result, VolumeId, VolumeRef, VolumeUpdate};
use std::time::Duration;

/// Whether the volume might hold more than it shall.
fn shrinks(old: &VolumeRow, new: &VolumeRow) -> bool {
    new.options.size.is_some_and(|size| old.options.size.is_none_or(|was| size < was))
}

impl Inner {
    pub(crate) async fn set(&self, volume: &VolumeRef, update: &VolumeUpdate) -> Result<Changed> {
        let (_guard, old) = self.lock_active(volume).await?;
        let mut new = old.clone();
        new.options = updated(&old.options, update)?;
        check(&new.options, &self.find_store(&old.store).await?)?;
        if let Some(protected) = split_protection(&mut new.options) {
            new.protected = protected;
        }
        for (name, value) in &update.labels {
            if value.is_empty() {
                new.labels.remove(name);
            } else {
                new.labels.insert(name.clone(), value.clone());
            }
        }
        check_labels(&new.labels)?;
        let attachments = self.registry.attachments_of(new.id).await?;
        if new.options.size == old.options.size {
            self.registry.update_volume(&new).await?;
        } else if self.is_served(new.id).await? {
            self.resize_served(&old, &mut new).await?;
        } else if shrinks(&old, &new) {
            self.shrink_unserved(&old, &mut new, attachments.is_empty()).await?;
        } else {
            self.registry.update_volume(&new).await?;
        }
        Ok((Outcome::Volume(Box::new(in_full(self, &new, &attachments).await)), Some(new.id)))
    }

    /// Tells the worker first what the volume shall be: it alone knows what is used.
    async fn resize_served(&self, old: &VolumeRow, new: &mut VolumeRow) -> Result<()> {
        // Noted with the change, so that after a crash the reconciler pushes it.
        new.quota_pending = true;
        self.registry.update_volume(new).await?;
        let Err(e) = self.push_quota(new).await else { return Ok(()) };
        let e = self.too_small(new, e).await.during(format_args!("changing the size of volume {}", old.name));
        if let Err(undo) = self.take_back_quota(old).await {
            tracing::warn!(volume = %old.name, "the size is pushed or taken back by the reconciler: {undo}");
        }
        Err(e)
    }

    /// Opens a volume that nobody has mounted, for as long as it takes to ask whether it fits. If the process dies
    /// meanwhile, it is mounted for nobody, which the reconciler ends.
    async fn shrink_unserved(&self, old: &VolumeRow, new: &mut VolumeRow, unheld: bool) -> Result<()> {
        let during = |e: Error| e.during(format_args!("changing the size of volume {}: looking at what it takes", old.name));
        self.mount(old, &self.plan(old).await?).await.map_err(during)?;
        let resized = self.resize_served(old, new).await;
        if unheld && let Err(e) = self.port_detach(old.id).await {
            tracing::warn!(volume = %old.name, "it stays mounted until the reconciler unmounts it: {e}");
        }
        resized
    }

    /// A refused size, with what the volume takes in it.
    async fn too_small(&self, new: &VolumeRow, e: Error) -> Error {
        let (ErrorKind::NoSpace, Some(size)) = (e.kind, new.options.size) else { return e };
        let usage = tokio::time::timeout(Duration::from_secs(2), self.config.worker.usage(new.id)).await;
        let Ok(Ok(usage)) = usage else { return e };
        let used = ByteSize(usage.used_bytes);
        Error::new(e.kind, format!("it takes {} bytes ({used}), which is more than {} bytes ({size})", used.0, size.0))
            .with_remedy(format!("remove files first, or give a size of at least {}", used.0.max(1 << 20)))
    }

    async fn is_served(&self, volume: VolumeId) -> Result<bool> {
        Ok(self.port_attached().await?.iter().any(|m| m.plan.volume == volume && m.serving))
    }

    /// Tells the mounted worker the quota that the registry has. The volume's lock is held.
    pub(crate) async fn push_quota(&self, row: &mut VolumeRow) -> Result<()> {
        self.port_set_quota(row.id, row.options.size.map(|s| s.0)).await?;
        row.quota_pending = false;
        self.registry.update_volume(row).await
    }

    /// A failed push may have taken effect, so the old quota has to be pushed as well, now or by the reconciler.
    async fn take_back_quota(&self, old: &VolumeRow) -> Result<()> {
        let mut row = VolumeRow { quota_pending: true, ..old.clone() };
        self.registry.update_volume(&row).await?;
        self.push_quota(&mut row).await
    }

    pub(crate) async fn protect(&self, volume: &VolumeRef, protected: bool) -> Result<Changed> {
        let (_guard, mut row) = self.lock_active(volume).await?;
        if row.protected != protected {
            row.protected = protected;
            self.registry.update_volume(&row).await?;
        }
        let attachments = self.registry.attachments_of(row.id).await?;
        Ok((Outcome::Volume(Box::new(in_full(self, &row, &attachments).await)), Some(row.id)))
    }
}
