//! Taking a removed volume back, under its own name or another.

use crate::apply::Changed;
use crate::inner::Inner;
use crate::registry::{Phase, VolumeRow};
use crate::stores::folder::folder_of;
use crate::volumes::plain::moves;
use crate::volumes::read::shown;
use orlop_model::{Error, ErrorKind, Outcome, Result, VolumeName, VolumeRef};

impl Inner {
    pub(crate) async fn restore(&self, volume: &VolumeRef, rename: Option<VolumeName>) -> Result<Changed> {
        let found = self.find_removed(volume).await?;
        // As a create of that name takes it: while a folder is on its way back nobody may adopt it.
        let _name = self.locks.name(rename.as_ref().unwrap_or(&found.name)).await;
        if moves(&found) {
            self.clear_folder(&self.folder_for(&found, rename.as_ref()).await?).await?;
        }
        let _guard = self.locks.volume(found.id).await;
        // While waiting it may have been restored or deleted by somebody else.
        let mut row = self
            .registry
            .volume(found.id)
            .await?
            .filter(|v| v.phase == Phase::Removed)
            .ok_or_else(|| Error::not_found(format!("volume {} ({}) is no longer among the removed ones", found.name, found.id)))?;
        if self.is_over(&row) {
            return Err(over(&row));
        }
        let old = row.clone();
        row.name = rename.unwrap_or_else(|| row.name.clone());
        if moves(&row) {
            return self.restore_folder(old, row).await;
        }
        row.phase = Phase::Active;
        row.removed_at = None;
        row.purge_at = None;
        self.registry.update_volume(&row).await.map_err(|e| if e.kind == ErrorKind::AlreadyExists { taken(&old, &row) } else { e })?;
        Ok((Outcome::Volume(Box::new(shown(self, &row, &[]))), Some(row.id)))
    }

    /// A plain volume comes back as the folder of its name. The name's and the volume's lock are held.
    async fn restore_folder(&self, old: VolumeRow, mut row: VolumeRow) -> Result<Changed> {
        if self.registry.volume_named(&row.name).await?.is_some() {
            return Err(taken(&old, &row));
        }
        let folder = self.folder_for(&row, None).await?;
        if old.discarding {
            self.finish_discard(&mut old.clone()).await?;
        }
        // Whatever dies from here on leaves a removed volume whose folder goes back to the trash.
        let on_its_way = VolumeRow { folder: Some(folder.clone()), discarding: true, ..old.clone() };
        self.registry.update_volume(&on_its_way).await?;
        row.folder = Some(folder);
        row.phase = Phase::Active;
        row.discarding = false;
        row.removed_at = None;
        row.purge_at = None;
        let back = async {
            self.port_recover(&self.plan(&row).await?).await?;
            self.registry.update_volume(&row).await
        };
        if let Err(e) = back.await {
            if let Err(undo) = self.finish_discard(&mut on_its_way.clone()).await {
                tracing::warn!(volume = %old.name, "its folder is put back in the trash by the reconciler: {undo}");
            }
            return Err(match e.kind {
                ErrorKind::AlreadyExists => {
                    e.with_remedy(format!("move that away, or give the volume another name: orlop volume restore {} --as NEW", row.id))
                }
                _ => e.during(format_args!("restoring volume {}", old.name)),
            });
        }
        Ok((Outcome::Volume(Box::new(shown(self, &row, &[]))), Some(row.id)))
    }

    /// The folder that a plain volume has under its name, or another.
    async fn folder_for(&self, row: &VolumeRow, rename: Option<&VolumeName>) -> Result<String> {
        let store = self.find_store(&row.store).await?;
        Ok(folder_of(&store.spec)?.join(rename.unwrap_or(&row.name).as_str()).display().to_string())
    }

    /// The last one of that name that was removed, whose time is not over if there is one.
    async fn newest_removed(&self, name: &VolumeName) -> Result<Option<VolumeRow>> {
        let mut removed = self.registry.removed_named(name).await?;
        let newest = removed.iter().position(|row| !self.is_over(row)).unwrap_or(0);
        Ok((newest < removed.len()).then(|| removed.swap_remove(newest)))
    }

    /// Whether nothing keeps a removed volume any more: the reconciler deletes it when it comes by.
    pub(crate) fn is_over(&self, row: &VolumeRow) -> bool {
        row.purge_at.is_some_and(|t| t <= self.now())
    }

    async fn find_removed(&self, volume: &VolumeRef) -> Result<VolumeRow> {
        let listing = "orlop volume list --all shows the removed ones too";
        match volume {
            VolumeRef::Name(name) => match self.newest_removed(name).await? {
                Some(row) if self.is_over(&row) => Err(over(&row)),
                Some(row) => Ok(row),
                None if self.registry.volume_named(name).await?.is_some() => Err(not_removed(volume)),
                None => Err(Error::not_found(format!("no removed volume is named {name}")).with_remedy(listing)),
            },
            VolumeRef::Id(id) => match self.registry.volume(*id).await? {
                Some(row) if row.phase == Phase::Removed && self.is_over(&row) => Err(over(&row)),
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

fn taken(old: &VolumeRow, row: &VolumeRow) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("cannot restore {}: a volume named {} exists", old.name, row.name))
        .with_remedy(format!("give it another name: orlop volume restore {} --as NEW", row.id))
}

fn over(row: &VolumeRow) -> Error {
    let why = match row.options.retention {
        Some(0) => "it was removed with retention=0, which keeps nothing",
        _ => "the time is over for which it was kept",
    };
    Error::not_found(format!("volume {} ({}) cannot be restored: {why}", row.name, row.id))
        .with_remedy("volumes are kept for longer with the option retention, such as retention=30d, set before they are removed")
}

fn not_removed(volume: &VolumeRef) -> Error {
    Error::invalid(format!("volume {volume} is not removed")).with_remedy("there is nothing to restore")
}
