//! The way of a plain volume's folder to the trash and back.
//!
//! The row says first that the folder is on its way (`discarding`), then it moves, then the row says that it arrived.
//! Whatever dies in between leaves a removed volume whose folder has still to go, and whoever comes first, the
//! reconciler, a purge or a new volume of that name, sees to that: a removed volume's files never become another's.

use crate::inner::Inner;
use crate::registry::{Phase, VolumeRow};
use orlop_model::{Result, VolumeKind};

/// Whether removing it moves a folder.
pub(super) fn moves(row: &VolumeRow) -> bool {
    row.kind == VolumeKind::Plain && !row.adopted
}

impl Inner {
    /// Moves the folder of a removed volume to the trash. The volume's lock is held.
    pub(crate) async fn finish_discard(&self, row: &mut VolumeRow) -> Result<()> {
        self.port_discard(&self.plan(row).await?).await?;
        row.discarding = false;
        self.registry.update_volume(row).await
    }

    /// Undoes a removal that could not move the folder.
    pub(super) async fn take_back_removal(&self, old: &VolumeRow) -> Result<()> {
        self.port_recover(&self.plan(old).await?).await?;
        self.registry.update_volume(old).await
    }

    /// Before a folder is made or adopted: a removed volume that is still there leaves it first.
    pub(super) async fn clear_folder(&self, folder: &str) -> Result<()> {
        for found in self.registry.volumes().await? {
            let leaves = |v: &VolumeRow| {
                v.folder.as_deref() == Some(folder)
                    && moves(v)
                    && (v.phase == Phase::Purging || (v.phase == Phase::Removed && v.discarding))
            };
            if !leaves(&found) {
                continue;
            }
            let _guard = self.locks.volume(found.id).await;
            if let Some(mut row) = self.registry.volume(found.id).await?.filter(leaves) {
                if row.phase == Phase::Purging {
                    self.port_discard(&self.plan(&row).await?).await?;
                } else {
                    self.finish_discard(&mut row).await?;
                }
            }
        }
        Ok(())
    }
}
