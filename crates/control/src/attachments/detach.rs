//! Letting go: the bind, the row, and with the last one the mount.
//!
//! The row goes before the mount does. If the unmount then fails, or the process dies, the volume is mounted for nobody,
//! which the reconciler ends; a row without its mount would block removal and bring the mount back.

use super::attach::normal;
use crate::apply::Changed;
use crate::inner::Inner;
use crate::registry::{AttachmentRow, VolumeRow};
use orlop_model::{Actor, AttachmentKind, DetachBy, Error, ErrorKind, Outcome, Result, VolumeId, VolumeRef};

impl Inner {
    /// An attachment that is not there: success, since calls get lost and are repeated.
    pub(crate) async fn detach(&self, actor: &Actor, volume: &VolumeRef, by: &DetachBy, force: bool) -> Result<Changed> {
        let (_guard, row) = match self.lock_active(volume).await {
            Ok(found) => found,
            // Docker lets go of what was removed long ago; a person who names it wrongly wants to know.
            Err(e) if e.kind == ErrorKind::NotFound && !matches!(actor, Actor::Local { .. }) => return Ok((Outcome::Done, None)),
            Err(e) => return Err(e),
        };
        let folder = match by {
            DetachBy::Directory(path) => Some(normal(path)?),
            DetachBy::Id(_) | DetachBy::DockerMountId(_) => None,
        };
        let attachments = self.registry.attachments_of(row.id).await?;
        let is_only = attachments.len() == 1;
        let target = attachments.into_iter().find(|a| match (by, &a.kind) {
            (DetachBy::Id(id), _) => a.id == *id,
            (DetachBy::DockerMountId(wanted), AttachmentKind::Docker { mount_id }) => wanted == mount_id,
            (DetachBy::Directory(_), AttachmentKind::Directory { path, .. }) => folder.as_deref() == Some(path),
            _ => false,
        });
        match target {
            Some(attachment) if force && is_only => {
                self.registry.delete_attachment(attachment.id).await?;
                self.port_cut_off(row.id).await.map_err(|e| unmount_failed(&row, &e))?;
            }
            Some(attachment) => {
                if is_only {
                    self.settle_last(&row, &attachment).await?;
                }
                self.release(&attachment).await.map_err(|e| e.during(format_args!("letting go of volume {}", row.name)))?;
                self.drop_stale_in_passing(&row).await;
                self.unmount_if_unheld(&row).await?;
            }
            None => {
                self.drop_stale_in_passing(&row).await;
                self.unmount_if_unused(&row).await?;
            }
        }
        Ok((Outcome::Done, Some(row.id)))
    }

    /// The last folder stays as long as its volume could not be unmounted: what is written there otherwise, after an error that nobody
    /// read, would be written to the host's own disk. Docker is not refused: its containers end in any case.
    async fn settle_last(&self, row: &VolumeRow, attachment: &AttachmentRow) -> Result<()> {
        let AttachmentKind::Directory { path, .. } = &attachment.kind else { return Ok(()) };
        if self.plan(row).await?.store.is_local() {
            return Ok(());
        }
        match self.port_settle(row.id).await {
            // Another host has the volume: what was not sent never will be, and lies in the journal on this host.
            Err(e) if e.kind != ErrorKind::Busy => Err(Error::new(
                e.kind,
                format!("volume {} stays mounted on {path}, its store does not have what was written: {}", row.name, e.message),
            )
            .with_remedy(format!(
                "try again when the store answers; orlop unmount --force {path} takes it away now: what was acknowledged stays on this \
                 host and is sent when the volume is mounted here again"
            ))),
            _ => Ok(()),
        }
    }

    /// What it cannot do is left for the reconciler: the caller asked for something else, and that is done.
    async fn drop_stale_in_passing(&self, row: &VolumeRow) {
        if let Err(e) = self.drop_stale(row, false).await {
            tracing::warn!(volume = %row.name, "stale attachments are looked at later: {e}");
        }
    }

    /// Undoes one attachment, bind first. If the bind cannot be undone, nothing has changed; nor if the registry takes nothing, as on a
    /// full disk: a folder that counts as the volume's must not be bare. The volume's lock is held.
    pub(crate) async fn release(&self, attachment: &AttachmentRow) -> Result<()> {
        let AttachmentKind::Directory { path, read_only } = &attachment.kind else {
            return self.registry.delete_attachment(attachment.id).await;
        };
        self.port_unbind(path).await?;
        let released = self.registry.delete_attachment(attachment.id).await;
        // It may be gone all the same, if only the answer was lost.
        let is_there = async || matches!(self.registry.attachment_at(path).await, Ok(Some(a)) if a.id == attachment.id);
        if released.is_err()
            && is_there().await
            && let Err(e) = self.port_bind(attachment.volume, path, *read_only).await
        {
            tracing::error!(path, "the folder could not be bound again, and the reconciler will try: {e}");
        }
        released
    }

    /// Undoes an attachment that never came to be, with the mount if nobody else holds it.
    pub(crate) async fn let_go(&self, attachment: &AttachmentRow) -> Result<()> {
        if let AttachmentKind::Directory { path, .. } = &attachment.kind {
            // Only a bind of ours: an earlier failure may have been that another volume is bound there.
            let mine = self.registry.attachment_at(path).await?.is_none_or(|a| a.id == attachment.id);
            if mine {
                self.port_unbind(path).await?;
            }
        }
        // The mount goes first: while the row is there, this is repeated after a crash.
        if !self.others_hold(attachment.volume, attachment).await? {
            self.port_detach(attachment.volume).await?;
        }
        self.registry.delete_attachment(attachment.id).await
    }

    async fn others_hold(&self, volume: VolumeId, but: &AttachmentRow) -> Result<bool> {
        Ok(self.registry.attachments_of(volume).await?.iter().any(|a| a.id != but.id))
    }

    async fn unmount_if_unheld(&self, row: &VolumeRow) -> Result<()> {
        if !self.registry.attachments_of(row.id).await?.is_empty() {
            return Ok(());
        }
        self.port_detach(row.id).await.map_err(|e| unmount_failed(row, &e))
    }

    /// As above, for a caller whom nobody knows: then a container that nobody knows may use it too.
    pub(crate) async fn unmount_if_unused(&self, row: &VolumeRow) -> Result<()> {
        if !self.registry.attachments_of(row.id).await?.is_empty() {
            return Ok(());
        }
        match self.port_attached().await?.iter().find(|m| m.plan.volume == row.id) {
            Some(mounted) if !mounted.in_use_elsewhere => self.port_detach(row.id).await.map_err(|e| unmount_failed(row, &e)),
            _ => Ok(()),
        }
    }
}

fn unmount_failed(row: &VolumeRow, e: &Error) -> Error {
    let remedy = e.remedy.clone().unwrap_or_else(|| "nothing: Orlop unmounts it by itself as soon as that works".to_owned());
    Error::new(e.kind, format!("nothing holds volume {} any more, but it cannot be unmounted yet: {}", row.name, e.message))
        .with_remedy(remedy)
}
