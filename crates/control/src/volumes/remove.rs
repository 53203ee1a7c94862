//! Removing: to the trash, where a volume stays restorable for its retention, and from there for good. An adopted
//! folder is neither: the volume is forgotten and the folder stays.

use crate::apply::Changed;
use crate::inner::Inner;
use crate::registry::{AttachmentRow, Phase, VolumeRow};
use crate::volumes::plain::moves;
use crate::volumes::read::shown;
use orlop_model::{Actor, AttachmentKind, Error, ErrorKind, MountPlan, Outcome, Result, VolumeId, VolumeKind, VolumeRef};
use std::time::Duration;
use time::OffsetDateTime;

impl Inner {
    pub(crate) async fn remove(&self, actor: &Actor, volume: &VolumeRef, now: bool) -> Result<Changed> {
        if let VolumeRef::Id(id) = volume
            && let Some(row) = self.registry.volume(*id).await?
            && row.phase != Phase::Active
        {
            return self.remove_again(*id, now).await;
        }
        if let VolumeRef::Name(name) = volume
            && self.registry.volume_named(name).await?.is_none()
            && let [row] = &self.registry.removed_named(name).await?[..]
            && !self.is_over(row)
        {
            return Err(removed_already(row));
        }
        let (_guard, mut row) = self.lock_active(volume).await?;
        if row.protected {
            return Err(Error::new(ErrorKind::Protected, format!("volume {} is protected from removal", row.name))
                .with_remedy(format!("clear the protection first: orlop volume protect --off {}", row.name)));
        }
        let held = self.attachments_still_held(actor, &row).await?;
        if !held.is_empty() {
            return Err(busy(&row, &held));
        }
        // Nobody holds it, but a failed unmount may have left it mounted.
        self.port_detach(row.id).await.map_err(|e| e.during(format_args!("unmounting volume {}", row.name)))?;
        let old = row.clone();
        let when = self.now();
        // An adopted folder is not Orlop's to keep or delete: the volume is forgotten, the folder stays.
        let folder_stays = row.adopted && row.kind == VolumeKind::Plain;
        let at_once = now || folder_stays;
        if now {
            self.refuse_anothers(&row).await?;
        }
        row.removed_at = Some(when);
        row.purge_at = Some(if at_once { when } else { when + self.retention(&row) });
        row.phase = if at_once { Phase::Purging } else { Phase::Removed };
        row.discarding = !at_once && moves(&row);
        self.registry.update_volume(&row).await?;
        if at_once {
            self.finish_purge(&row).await?;
            if !folder_stays {
                return Ok((Outcome::Done, Some(row.id)));
            }
            row.phase = Phase::Removed;
            row.purge_at = None;
        } else if row.discarding
            && let Err(e) = self.finish_discard(&mut row).await
        {
            if let Err(undo) = self.take_back_removal(&old).await {
                tracing::warn!(volume = %old.name, "its removal is finished by the reconciler: {undo}");
            }
            return Err(e.during(format_args!("removing volume {}", old.name)));
        }
        Ok((Outcome::Volume(Box::new(shown(self, &row, &[]))), Some(row.id)))
    }

    /// A removed volume, by its id: `now` deletes it without waiting for its time.
    async fn remove_again(&self, id: VolumeId, now: bool) -> Result<Changed> {
        let _guard = self.locks.volume(id).await;
        match self.registry.volume(id).await? {
            Some(row) if now && matches!(row.phase, Phase::Removed | Phase::Purging) => {
                if row.phase == Phase::Removed {
                    self.refuse_anothers(&row).await?;
                }
                self.purge(row).await?;
                Ok((Outcome::Done, Some(id)))
            }
            Some(row) if row.phase == Phase::Removed => Err(removed_already(&row)),
            Some(row) if row.phase == Phase::Purging => {
                Err(Error::not_found(format!("volume {} ({id}) is being deleted for good", row.name)))
            }
            Some(row) if row.phase == Phase::Active => {
                Err(Error::new(ErrorKind::Busy, format!("volume {} ({id}) was just restored", row.name))
                    .with_remedy("look at it, and ask again"))
            }
            _ => Err(Error::not_found(format!("no volume has the id {id}"))),
        }
    }

    /// The reconciler's verb: deletes a removed volume whose time is over.
    pub(crate) async fn purge_due(&self, id: VolumeId) -> Result<Changed> {
        let _guard = self.locks.volume(id).await;
        let Some(row) = self.registry.volume(id).await? else { return Ok((Outcome::Done, Some(id))) };
        match row.phase {
            Phase::Purging => {}
            Phase::Removed if row.purge_at.is_some_and(|t| t <= self.now()) => {}
            Phase::Removed => {
                return Err(Error::invalid(format!("volume {} ({id}) is kept until {}", row.name, date(row.purge_at)))
                    .with_remedy(format!("orlop volume remove --now {id} deletes it at once")));
            }
            Phase::Active | Phase::Creating => {
                return Err(Error::invalid(format!("volume {} ({id}) is not removed", row.name))
                    .with_remedy(format!("orlop volume remove {}", row.name)));
            }
        }
        self.purge(row).await?;
        Ok((Outcome::Done, Some(id)))
    }

    async fn purge(&self, mut row: VolumeRow) -> Result<()> {
        if row.phase != Phase::Purging {
            row.phase = Phase::Purging;
            self.registry.update_volume(&row).await?;
        }
        self.finish_purge(&row).await
    }

    /// Nobody deletes for good what another host has, or had last. Asked before anything says that it is being deleted.
    async fn refuse_anothers(&self, row: &VolumeRow) -> Result<()> {
        match self.has_another(row, &self.plan(row).await?).await {
            Some(e) => Err(e.during(format_args!("deleting volume {} ({})", row.name, row.id))),
            None => Ok(()),
        }
    }

    /// That another host has a volume that was made here, or had it last. A store that is away is asked again before anything is deleted.
    async fn has_another(&self, row: &VolumeRow, plan: &MountPlan) -> Option<Error> {
        if row.kind == VolumeKind::Plain || row.adopted {
            return None;
        }
        self.port_may_destroy(plan).await.err().filter(|e| e.kind == ErrorKind::Busy)
    }

    /// From the moment that the row says so there is no way back: every step can be repeated until all are done.
    async fn finish_purge(&self, row: &VolumeRow) -> Result<()> {
        let during = |e: Error| {
            e.during(format_args!("deleting volume {} ({})", row.name, row.id)).with_remedy("nothing: Orlop goes on deleting it by itself")
        };
        self.port_detach(row.id).await.map_err(during)?;
        let plan = self.plan(row).await.map_err(during)?;
        if moves(row) {
            self.port_discard(&plan).await.map_err(during)?;
        }
        let anothers = self.has_another(row, &plan).await;
        if let Some(why) = &anothers {
            tracing::warn!(volume = %row.name, id = %row.id, "forgotten here, and left to the host that has it: {why}");
        }
        if row.kind == VolumeKind::Chunked && (row.adopted || anothers.is_some()) {
            // Made, or used since, on another host: its bytes in the store are not this one's to delete.
            self.port_forget(&plan).await.map_err(during)?;
        } else {
            self.port_destroy(&plan).await.map_err(during)?;
        }
        self.registry.delete_volume(row.id).await.map_err(during)
    }

    fn retention(&self, row: &VolumeRow) -> Duration {
        match row.options.retention {
            Some(seconds) => Duration::from_secs(seconds),
            None if row.name.is_anonymous() => self.config.anonymous_retention,
            None => self.config.retention,
        }
    }
}

/// By its id alone it is deleted for good: its name may be another's, or that of several removed ones.
fn removed_already(row: &VolumeRow) -> Error {
    let id = row.id;
    Error::not_found(format!("volume {} ({id}) is removed already, and kept until {}", row.name, date(row.purge_at)))
        .with_remedy(format!("orlop volume remove --now {id} deletes it for good, orlop volume restore {id} takes it back"))
}

fn busy(row: &VolumeRow, held: &[AttachmentRow]) -> Error {
    let mut holders: Vec<String> = held.iter().take(5).map(|a| holder(&a.kind)).collect();
    if held.len() > 5 {
        holders.push(format!("{} more", held.len() - 5));
    }
    let remedy = match held.iter().find_map(|a| match &a.kind {
        AttachmentKind::Directory { path, .. } => Some(path),
        _ => None,
    }) {
        Some(path) => format!("orlop unmount {path}"),
        None => format!("stop and remove the containers that use it: docker ps -a --filter volume={}", row.name),
    };
    Error::new(ErrorKind::Busy, format!("volume {} is in use by {}", row.name, holders.join(", "))).with_remedy(remedy)
}

/// A holder as messages name it.
pub(crate) fn holder(kind: &AttachmentKind) -> String {
    match kind {
        AttachmentKind::Docker { mount_id } => format!("Docker (mount {})", mount_id.chars().take(12).collect::<String>()),
        AttachmentKind::Directory { path, .. } => format!("the folder {path}"),
        AttachmentKind::Internal { purpose } => format!("Orlop itself ({purpose})"),
    }
}

fn date(t: Option<OffsetDateTime>) -> String {
    t.and_then(|t| t.replace_nanosecond(0).ok()?.format(&time::format_description::well_known::Rfc3339).ok()).unwrap_or_default()
}
