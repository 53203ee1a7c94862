//! Taking a removed volume back, under its own name or another.

use crate::apply::Changed;
use crate::inner::Inner;
use crate::registry::{Phase, VolumeRow};
use crate::volumes::read::shown;
use orlop_model::{Error, ErrorKind, Outcome, Result, VolumeName, VolumeRef};

impl Inner {
    pub(crate) async fn restore(&self, volume: &VolumeRef, rename: Option<VolumeName>) -> Result<Changed> {
        let found = self.find_removed(volume).await?;
        let _guard = self.locks.volume(found.id).await;
        // While waiting it may have been restored or deleted by somebody else.
        let mut row = self
            .registry
            .volume(found.id)
            .await?
            .filter(|v| v.phase == Phase::Removed)
            .ok_or_else(|| Error::not_found(format!("volume {} ({}) is no longer among the removed ones", found.name, found.id)))?;
        let old_name = row.name.clone();
        row.name = rename.unwrap_or_else(|| row.name.clone());
        row.phase = Phase::Active;
        row.removed_at = None;
        row.purge_at = None;
        self.registry.update_volume(&row).await.map_err(|e| match e.kind {
            ErrorKind::AlreadyExists => Error::new(e.kind, format!("cannot restore {old_name}: a volume named {} exists", row.name))
                .with_remedy(format!("give it another name: orlop volume restore {} --as NEW", row.id)),
            _ => e,
        })?;
        Ok((Outcome::Volume(Box::new(shown(self, &row, &[]))), Some(row.id)))
    }

    async fn find_removed(&self, volume: &VolumeRef) -> Result<VolumeRow> {
        let listing = "orlop volume list --all shows the removed ones too";
        match volume {
            VolumeRef::Name(name) => match self.registry.removed_named(name).await?.into_iter().next() {
                Some(row) => Ok(row),
                None if self.registry.volume_named(name).await?.is_some() => Err(not_removed(volume)),
                None => Err(Error::not_found(format!("no removed volume is named {name}")).with_remedy(listing)),
            },
            VolumeRef::Id(id) => match self.registry.volume(*id).await? {
                Some(row) if row.phase == Phase::Removed => Ok(row),
                Some(row) if row.phase == Phase::Active => Err(not_removed(volume)),
                Some(row) if row.phase == Phase::Purging => {
                    Err(Error::not_found(format!("volume {} ({id}) is being deleted for good", row.name)))
                }
                _ => Err(Error::not_found(format!("no removed volume has the id {id}")).with_remedy(listing)),
            },
        }
    }
}

fn not_removed(volume: &VolumeRef) -> Error {
    Error::invalid(format!("volume {volume} is not removed")).with_remedy("there is nothing to restore")
}
