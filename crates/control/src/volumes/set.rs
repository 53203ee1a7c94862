//! Changing options, labels and protection. A new quota is pushed to the mounted worker in the same request.

use super::options::{check, check_labels, split_protection, updated};
use crate::apply::Changed;
use crate::inner::Inner;
use crate::registry::VolumeRow;
use crate::volumes::read::shown;
use orlop_model::{Outcome, Result, VolumeId, VolumeRef, VolumeUpdate};

impl Inner {
    pub(crate) async fn set(&self, volume: &VolumeRef, update: &VolumeUpdate) -> Result<Changed> {
        let (_guard, old) = self.lock_active(volume).await?;
        let mut new = old.clone();
        new.options = updated(&old.options, update)?;
        check(&new.options, &self.config.stores)?;
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
        if new.options.size != old.options.size && self.is_served(new.id).await? {
            // Noted with the change, so that after a crash the reconciler pushes it.
            new.quota_pending = true;
            self.registry.update_volume(&new).await?;
            if let Err(e) = self.push_quota(&mut new).await {
                let e = e.during(format_args!("changing the size of volume {}", old.name));
                if let Err(undo) = self.take_back_quota(&old).await {
                    tracing::warn!(volume = %old.name, "the size is pushed or taken back by the reconciler: {undo}");
                }
                return Err(e);
            }
        } else {
            self.registry.update_volume(&new).await?;
        }
        Ok((Outcome::Volume(Box::new(shown(self, &new, &attachments))), Some(new.id)))
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
        Ok((Outcome::Volume(Box::new(shown(self, &row, &attachments))), Some(row.id)))
    }
}
