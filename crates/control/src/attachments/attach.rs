//! Attaching: a pending row, the mount, the bind, then the row says held and the holder is told.
//!
//! Repeating an attach of the same holder takes the same row through the same steps, so a lost answer, a crash and
//! Docker's old mount ids all come to the same end. A failed one leaves no row, no bind and no mount.

use crate::apply::Changed;
use crate::inner::Inner;
use crate::ports::{AttachedVolume, Mounted};
use crate::reconcile::mounting_again;
use crate::registry::{AttachmentPhase, AttachmentRow, VolumeRow};
use orlop_model::{AttachmentId, AttachmentKind, Error, ErrorKind, MountPlan, Outcome, Result, VolumeRef};
use std::path::{Component, Path};
use std::time::Duration;

/// How long a volume may take to say how it is.
const USAGE_DEADLINE: Duration = Duration::from_secs(2);
/// How long a store may take to show that it is there, once a volume on it could not be mounted.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
const MOUNT_ID_MAX: usize = 256;

impl Inner {
    pub(crate) async fn attach(&self, volume: &VolumeRef, kind: AttachmentKind, abandon_unsynced: bool) -> Result<Changed> {
        let kind = self.checked(kind)?;
        let (_guard, mut row) = self.lock_active(volume).await?;
        let existing = self.same_holder(&row, &kind).await?;
        let was_held = existing.as_ref().is_some_and(|a| a.phase == AttachmentPhase::Held);
        let attachment = match existing {
            Some(attachment) => attachment,
            None => AttachmentRow {
                id: AttachmentId::random(),
                volume: row.id,
                kind,
                phase: AttachmentPhase::Pending,
                since: self.now(),
                suspect_since: None,
            },
        };
        match self.hold(&mut row, &attachment, was_held, abandon_unsynced).await {
            Ok(mountpoint) => Ok((Outcome::Attached { attachment: attachment.id, mountpoint }, Some(row.id))),
            Err(e) => {
                // One that was held before stays held: its holder has it still, whatever this repetition met.
                if !was_held && let Err(undo) = self.let_go(&attachment).await {
                    tracing::warn!(volume = %row.name, "an unfinished attachment is left for the reconciler: {undo}");
                }
                let of_its_store = self.of_its_store(&row, &e).await;
                Err(of_its_store.unwrap_or(e).during(format_args!("attaching volume {}", row.name)))
            }
        }
    }

    /// What keeps a volume from being mounted, if that is its store. Who opens it, or still brings it to rest, meets that somewhere on the way
    /// and can often tell only that a request failed, or that somebody did not answer in time.
    async fn of_its_store(&self, row: &VolumeRow, e: &Error) -> Option<Error> {
        if e.kind != ErrorKind::Unavailable {
            return None;
        }
        let plan = self.plan(row).await.ok().filter(|plan| !plan.store.is_local())?;
        match tokio::time::timeout(ANSWER_DEADLINE, self.config.worker.recognise(&plan)).await {
            Ok(Err(why)) if why.kind == ErrorKind::Denied => Some(why),
            Ok(Err(why)) if why.kind == ErrorKind::Unavailable => Some(away(row, &why.message)),
            Ok(_) => None,
            Err(_) => Some(away(row, "no answer in time")),
        }
    }

    async fn hold(&self, row: &mut VolumeRow, attachment: &AttachmentRow, was_held: bool, abandon_unsynced: bool) -> Result<String> {
        let known = was_held || self.registry.attachments_of(row.id).await?.iter().any(|a| a.id == attachment.id);
        if !known {
            self.registry.insert_attachment(attachment).await?;
        }
        let plan = MountPlan { abandon_unsynced, ..self.plan(row).await? };
        let mut mounted = self.mount(row, &plan).await?;
        if let Some(why) = self.why_stopped(row).await {
            mounted = self.mount_anew(row, &plan, attachment, was_held, &why).await?;
        }
        let mut mountpoint = mounted.mountpoint;
        if row.quota_pending {
            // It was mounted before with the old quota.
            self.push_quota(row).await?;
        }
        if let AttachmentKind::Directory { path, read_only } = &attachment.kind {
            self.port_bind(row.id, path, *read_only).await?;
            mountpoint.clone_from(path);
        }
        self.registry.hold_attachment(attachment.id).await?;
        Ok(mountpoint)
    }

    /// Mounts a volume, with the folders that hold it: it may have lost its mount, and whoever is first to want it brings it back for all.
    pub(crate) async fn mount(&self, row: &VolumeRow, plan: &MountPlan) -> Result<Mounted> {
        let held = self.registry.attachments_of(row.id).await?;
        let folders = held.iter().filter(|a| a.phase == AttachmentPhase::Held).filter_map(|a| match &a.kind {
            AttachmentKind::Directory { path, read_only } => Some((path, *read_only)),
            _ => None,
        });
        let folders: Vec<_> = folders.collect();
        // What is mounted is asked for only then: it looks into every mount namespace of the host.
        let lost = !folders.is_empty() && !self.port_attached().await?.iter().any(|m| m.plan.volume == row.id && m.serving);
        let mounted = self.port_attach(plan).await?;
        self.is_done(&mounting_again(&row.name));
        for (path, read_only) in folders.into_iter().filter(|_| lost) {
            if let Err(e) = self.port_bind(row.id, path, read_only).await {
                // The next reconciliation sees that the folder does not hold it and forgets it.
                tracing::warn!(volume = %row.name, "{path} cannot be bound again: {e}");
            }
        }
        Ok(mounted)
    }

    /// Why a mounted volume takes no changes any more. Of one that does not say it in time that is not known.
    async fn why_stopped(&self, row: &VolumeRow) -> Option<String> {
        tokio::time::timeout(USAGE_DEADLINE, self.config.worker.usage(row.id)).await.ok()?.ok()?.stopped
    }

    /// Of a volume that takes no changes any more: to say that it is mounted would be a lie. Nobody uses it: then it is mounted anew.
    async fn mount_anew(&self, row: &VolumeRow, plan: &MountPlan, by: &AttachmentRow, was_held: bool, why: &str) -> Result<Mounted> {
        let is_held = was_held || self.registry.attachments_of(row.id).await?.iter().any(|a| a.id != by.id);
        let is_used = |m: &AttachedVolume| m.plan.volume == row.id && (m.in_use_elsewhere || !m.binds.is_empty());
        if is_held || self.port_attached().await?.iter().any(is_used) {
            return Err(Error::new(ErrorKind::Busy, format!("it is mounted here already and takes no changes any more: {why}"))
                .with_remedy(format!(
                    "end the containers that use it, unmount it with: orlop unmount {}; and mount it again then",
                    row.name
                )));
        }
        tracing::warn!(volume = %row.name, "it is mounted anew, since it takes no changes any more: {why}");
        self.port_detach(row.id).await?;
        self.mount(row, plan).await
    }

    /// The attachment that this holder has already. Internal uses are told apart by id alone.
    async fn same_holder(&self, row: &VolumeRow, kind: &AttachmentKind) -> Result<Option<AttachmentRow>> {
        match kind {
            AttachmentKind::Docker { .. } => Ok(self.registry.attachments_of(row.id).await?.into_iter().find(|a| a.kind == *kind)),
            AttachmentKind::Internal { .. } => Ok(None),
            AttachmentKind::Directory { path, .. } => {
                let Some(there) = self.registry.attachment_at(path).await? else { return Ok(None) };
                if there.kind == *kind && there.volume == row.id {
                    return Ok(Some(there));
                }
                let what = if there.volume == row.id {
                    format!("{path} holds volume {} already, {}", row.name, access(&there.kind))
                } else {
                    let other = self.registry.volume(there.volume).await?.map_or_else(|| there.volume.to_string(), |v| v.name.to_string());
                    format!("{path} holds volume {other} already")
                };
                Err(Error::new(ErrorKind::AlreadyExists, what).with_remedy(format!("orlop unmount {path}, or choose another folder")))
            }
        }
    }

    fn checked(&self, kind: AttachmentKind) -> Result<AttachmentKind> {
        match kind {
            AttachmentKind::Docker { mount_id } if bad_text(&mount_id) || mount_id.len() > MOUNT_ID_MAX => {
                Err(Error::invalid("Docker's mount id is empty, too long or unprintable"))
            }
            AttachmentKind::Internal { purpose } if bad_text(&purpose) || purpose.len() > MOUNT_ID_MAX => {
                Err(Error::invalid("the purpose is empty, too long or unprintable"))
            }
            AttachmentKind::Directory { path, read_only } => {
                let path = normal(&path)?;
                if Path::new(&path).starts_with(&self.config.root) || self.config.root.starts_with(&path) {
                    return Err(Error::invalid(format!("{path} and Orlop's root {} lie in one another", self.config.root.display()))
                        .with_remedy("choose a folder elsewhere"));
                }
                Ok(AttachmentKind::Directory { path, read_only })
            }
            fine => Ok(fine),
        }
    }
}

fn away(row: &VolumeRow, why: &str) -> Error {
    tracing::warn!(volume = %row.name, store = %row.store, "it cannot be mounted while its store is away: {why}");
    Error::unavailable(format!("its store {} does not answer", row.store)).with_remedy(format!(
        "mount it when the store answers: orlop store test {} tells; what this host has not sent to it yet is kept here until then",
        row.store
    ))
}

fn access(kind: &AttachmentKind) -> &'static str {
    match kind {
        AttachmentKind::Directory { read_only: true, .. } => "read-only",
        _ => "for writing",
    }
}

fn bad_text(s: &str) -> bool {
    s.is_empty() || s.chars().any(char::is_control)
}

/// One spelling for a folder: absolute, without `.`, `..` and double slashes.
pub(super) fn normal(path: &str) -> Result<String> {
    let bad = |why: &str| Err(Error::invalid(format!("{path:?} is not a folder to mount on: {why}")).with_remedy("give an absolute path"));
    if bad_text(path) {
        return bad("it is empty or has control characters");
    }
    let mut out = String::new();
    let mut components = Path::new(path).components();
    if components.next() != Some(Component::RootDir) {
        return bad("it is not absolute");
    }
    for component in components {
        match component {
            Component::Normal(name) => {
                out.push('/');
                out.push_str(&name.to_string_lossy());
            }
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return bad("it has '..' in it"),
        }
    }
    if out.is_empty() {
        return bad("it is the root of the file system");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_spelling() {
        for (given, kept) in [("/a/b", "/a/b"), ("/a//b/", "/a/b"), ("/a/./b/.", "/a/b"), ("/ä b", "/ä b")] {
            assert_eq!(normal(given).expect(given), kept);
        }
        for bad in ["", "a", "./a", "/", "//", "/a/../b", "/a\nb"] {
            let e = normal(bad).expect_err(bad);
            assert_eq!(e.kind, ErrorKind::InvalidArgument, "{bad}");
            assert!(e.remedy.is_some(), "{bad}");
        }
    }
}
