//! Attachments whose holder is gone without a word.
//!
//! dockerd that was killed never sends its Unmounts, and those sent while Orlop is down are lost. So at every start of
//! either, all attachments of Docker become suspects. A suspect is dropped when nothing uses the volume, and, while it is mounted, not before
//! a grace time, since between Docker's Mount and the container's start nothing uses it yet. A suspect that is mounted again
//! or unmounted properly is one no longer. Internal uses end with the process that made them.

use crate::apply::Unrecorded;
use crate::inner::Inner;
use crate::registry::{AttachmentPhase, AttachmentRow, VolumeRow};
use crate::volumes::remove::holder;
use orlop_model::{Actor, AttachmentKind, Outcome, Result};
use serde_json::json;
use std::time::Duration;

/// An internal use is over after this long.
const INTERNAL_MAX: Duration = Duration::from_secs(3600);

impl Inner {
    /// Who still holds the volume, as far as removal is concerned. Docker itself refuses to remove a volume that a
    /// container uses, so when it asks, its own attachments are left over, unless something does use the volume.
    pub(crate) async fn attachments_still_held(&self, actor: &Actor, row: &VolumeRow) -> Result<Vec<AttachmentRow>> {
        self.drop_stale(row, *actor == Actor::Docker).await?;
        self.registry.attachments_of(row.id).await
    }

    /// Drops what is stale of this volume. The volume's lock is held. Gives a line for each.
    pub(crate) async fn drop_stale(&self, row: &VolumeRow, docker_says_unused: bool) -> Result<Vec<String>> {
        let held = self.registry.attachments_of(row.id).await?;
        let mut dropped = Vec::new();
        if held.iter().all(|a| self.why_stale(a, docker_says_unused, false).is_none()) {
            return Ok(dropped);
        }
        let mounted = self.port_attached().await?.into_iter().find(|m| m.plan.volume == row.id);
        let used = mounted.as_ref().is_some_and(|m| m.in_use_elsewhere);
        for attachment in held {
            let Some(why) = self.why_stale(&attachment, docker_says_unused, mounted.is_some()) else { continue };
            if used && matches!(attachment.kind, AttachmentKind::Docker { .. }) {
                continue;
            }
            let line = format!("let go of volume {} for {}: {why}", row.name, holder(&attachment.kind));
            let detail = json!({ "attachment": attachment.id, "holder": attachment.kind, "reason": why });
            self.audited(&Actor::System, "volume.detach", row.name.as_str(), detail, Unrecorded::GoesOn, async {
                self.release(&attachment).await.map(|()| (Outcome::Done, Some(row.id)))
            })
            .await?;
            dropped.push(line);
        }
        Ok(dropped)
    }

    /// Leaves aside whether something uses the volume.
    fn why_stale(&self, a: &AttachmentRow, docker_says_unused: bool, mounted: bool) -> Option<&'static str> {
        let now = self.now();
        match &a.kind {
            AttachmentKind::Internal { .. } if a.since < self.started => Some("the process that used it is gone"),
            AttachmentKind::Internal { .. } if now - a.since > INTERNAL_MAX => Some("its time is over"),
            AttachmentKind::Docker { .. } if a.phase == AttachmentPhase::Held => {
                let long_ago = |t| now - t >= self.config.suspect_grace;
                match a.suspect_since {
                    // After a reboot: no container can have it.
                    Some(_) if !mounted => Some("the mount that it stood for is gone"),
                    Some(_) if docker_says_unused => Some("Docker removes the volume"),
                    Some(since) if long_ago(since) => Some("Docker forgot it and nothing uses the volume"),
                    None if docker_says_unused && long_ago(a.since) => Some("Docker removes the volume"),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}
