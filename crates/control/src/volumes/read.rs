//! Showing volumes: rows and attachments as the one public record, with usage where a worker answers in time
//! or left word of it.

use crate::control::VolumeFilter;
use crate::inner::Inner;
use crate::registry::{AttachmentRow, Phase, VolumeRow};
use crate::status::VolumeCounts;
use crate::volumes::options::effective;
use futures::future::join_all;
use orlop_model::{Durability, LOSS_WINDOW, Result, Usage, Volume, VolumeId, VolumeKind, VolumeOptions, VolumeRef, VolumeState};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// A worker that does not answer in this time is left out; nobody waits longer to see a list.
const USAGE_DEADLINE: Duration = Duration::from_secs(2);

/// The public record of a volume, without usage.
pub(crate) fn shown(inner: &Inner, row: &VolumeRow, attachments: &[AttachmentRow]) -> Volume {
    let mut options = row.options.clone();
    options.protect = row.protected.then_some(true);
    Volume {
        id: row.id,
        name: row.name.clone(),
        store: row.store.clone(),
        kind: row.kind,
        state: match row.phase {
            Phase::Creating | Phase::Active => VolumeState::Active,
            Phase::Removed => VolumeState::Removed,
            Phase::Purging => VolumeState::Purging,
        },
        options,
        effective: None,
        loss_window_seconds: None,
        labels: row.labels.clone(),
        protected: row.protected,
        folder: row.folder.clone(),
        adopted: row.adopted,
        created_at: row.created_at,
        removed_at: row.removed_at,
        purge_at: row.purge_at,
        mountpoint: (!attachments.is_empty()).then(|| inner.mountpoint(row.id, row.folder.as_deref())),
        attachments: attachments.iter().map(AttachmentRow::shown).collect(),
        usage: None,
    }
}

/// The volumes that are mounted on this host now, whoever is known to hold them. `None` if nobody tells: then what was asked for counts.
async fn mounted(inner: &Inner) -> Option<HashSet<VolumeId>> {
    match inner.port_attached().await {
        Ok(all) => Some(all.into_iter().map(|m| m.plan.volume).collect()),
        Err(e) => {
            tracing::debug!("what is mounted is not known: {e}");
            None
        }
    }
}

/// A volume's mountpoint as it is: one may be mounted for nobody, since its store does not have all of it yet, or not be mounted although
/// somebody asked for it. Plain folders are there whatever happens.
fn place(inner: &Inner, volume: &mut Volume, mounted: Option<&HashSet<VolumeId>>) {
    if volume.kind == VolumeKind::Chunked
        && let Some(mounted) = mounted
    {
        volume.mountpoint = mounted.contains(&volume.id).then(|| inner.mountpoint(volume.id, volume.folder.as_deref()));
    }
}

/// The volumes that the filter lets through, by name. One that is being created is not there yet.
pub(crate) async fn list(inner: &Inner, filter: VolumeFilter) -> Result<Vec<Volume>> {
    let mut holders: HashMap<VolumeId, Vec<AttachmentRow>> = HashMap::new();
    for a in inner.registry.attachments().await? {
        holders.entry(a.volume).or_default().push(a);
    }
    let mut volumes: Vec<Volume> = inner
        .registry
        .volumes()
        .await?
        .iter()
        .filter(|v| v.phase == Phase::Active || (filter.include_removed && v.phase != Phase::Creating))
        .map(|v| shown(inner, v, holders.get(&v.id).map_or(&[], Vec::as_slice)))
        .collect();
    if filter.with_usage {
        let mounted = mounted(inner).await;
        volumes.iter_mut().for_each(|v| place(inner, v, mounted.as_ref()));
        // All at once, so that many silent workers cost no more than one.
        let usages = join_all(volumes.iter().map(|v| usage(inner, v))).await;
        for (volume, usage) in volumes.iter_mut().zip(usages) {
            volume.usage = usage;
        }
    }
    Ok(volumes)
}

/// One volume: by name among the active ones, by id among all.
pub(crate) async fn one(inner: &Inner, volume: &VolumeRef, with_usage: bool) -> Result<Volume> {
    let row = match volume {
        VolumeRef::Id(id) => inner.registry.volume(*id).await?.filter(|v| v.phase != Phase::Creating),
        VolumeRef::Name(_) => None,
    };
    let row = match row {
        Some(row) => row,
        None => inner.find_active(volume).await?,
    };
    let attachments = inner.registry.attachments_of(row.id).await?;
    let mut volume = in_full(inner, &row, &attachments).await;
    if with_usage {
        place(inner, &mut volume, mounted(inner).await.as_ref());
        volume.usage = usage(inner, &volume).await;
    }
    Ok(volume)
}

/// A volume with what its store makes of its options.
pub(crate) async fn in_full(inner: &Inner, row: &VolumeRow, attachments: &[AttachmentRow]) -> Volume {
    let mut volume = shown(inner, row, attachments);
    if row.kind == VolumeKind::Chunked
        && let Ok(Some(store)) = inner.registry.store(&row.store).await
    {
        let effective = VolumeOptions { store: Some(row.store.clone()), ..effective(&volume.options, &store.spec) };
        let waits_for_none = effective.durability == Some(Durability::Local) && !store.spec.is_local();
        volume.loss_window_seconds = waits_for_none.then_some(LOSS_WINDOW.as_secs());
        volume.effective = Some(effective);
    }
    volume
}

async fn usage(inner: &Inner, volume: &Volume) -> Option<Usage> {
    if volume.mountpoint.is_none() {
        return inner.config.worker.usage_at_rest(volume.id).await;
    }
    match tokio::time::timeout(USAGE_DEADLINE, inner.config.worker.usage(volume.id)).await {
        Ok(Ok(usage)) => Some(usage),
        Ok(Err(e)) => {
            tracing::debug!(volume = %volume.name, "no usage: {e}");
            None
        }
        Err(_) => {
            tracing::debug!(volume = %volume.name, "no usage in time");
            None
        }
    }
}

/// How many volumes are in which state, and how many attachments there are.
pub(crate) async fn counts(inner: &Inner) -> Result<(VolumeCounts, u64)> {
    let attachments = inner.registry.attachments().await?;
    let mut counts = VolumeCounts::default();
    for v in inner.registry.volumes().await? {
        match v.phase {
            Phase::Creating => {}
            Phase::Active => counts.active += 1,
            Phase::Removed => counts.removed += 1,
            Phase::Purging => counts.purging += 1,
        }
        if attachments.iter().any(|a| a.volume == v.id) {
            counts.attached += 1;
        }
    }
    Ok((counts, attachments.len() as u64))
}
