//! Volumes that were never finished, and those whose time is over.

use crate::apply::Unrecorded;
use crate::inner::Inner;
use crate::registry::{Phase, VolumeRow};
use crate::status::ReconcileReport;
use orlop_model::{Actor, Intent, Outcome, Result};
use serde_json::json;

impl Inner {
    pub(super) async fn reconcile_trash(&self, report: &mut ReconcileReport) -> Result<()> {
        let now = self.now();
        for row in self.registry.volumes().await? {
            match row.phase {
                Phase::Active => {}
                Phase::Creating => {
                    let what = format!("clear the unfinished volume {} ({})", row.name, row.id);
                    self.attempt(report, &what, self.clear_unfinished(&row)).await;
                }
                Phase::Removed if row.purge_at.is_none_or(|t| t > now) => {
                    if row.discarding {
                        let what = format!("put the folder of the removed volume {} ({}) in the trash", row.name, row.id);
                        self.attempt(report, &what, self.discard_left(&row)).await;
                    }
                }
                Phase::Removed | Phase::Purging => {
                    let what = format!("delete the removed volume {} ({})", row.name, row.id);
                    let purge = async { self.apply(&Actor::System, Intent::PurgeVolume { volume: row.id }).await.map(|_| true) };
                    self.attempt(report, &what, purge).await;
                }
            }
        }
        Ok(())
    }

    /// Of a removal or a restoration that was interrupted.
    async fn discard_left(&self, row: &VolumeRow) -> Result<bool> {
        let _volume = self.locks.volume(row.id).await;
        match self.registry.volume(row.id).await? {
            Some(mut row) if row.phase == Phase::Removed && row.discarding => {
                self.finish_discard(&mut row).await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn clear_unfinished(&self, row: &VolumeRow) -> Result<bool> {
        // Whoever is creating it right now has both; when they are free, the row is either shown or nobody's.
        let _name = self.locks.name(&row.name).await;
        let _volume = self.locks.volume(row.id).await;
        if self.registry.volume(row.id).await?.is_none_or(|v| v.phase != Phase::Creating) {
            return Ok(false);
        }
        let detail = json!({ "volume": row.id, "reason": "its creation was interrupted" });
        self.audited(&Actor::System, "volume.uncreate", row.name.as_str(), detail, Unrecorded::RefusedWithReserve, async {
            self.undo_create(row).await.map(|()| (Outcome::Done, Some(row.id)))
        })
        .await?;
        Ok(true)
    }
}
