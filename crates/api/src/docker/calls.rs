//! One function per call of the plugin protocol.

use super::wire::{Refusal, Reply, Request, Shown};
use super::{Identity, Plugin};
use axum::body::Bytes;
use axum::extract::State;
use orlop_control::{Control, VolumeFilter};
use orlop_model::{Actor, AttachmentKind, DetachBy, Error, ErrorKind, Intent, Outcome, Volume, VolumeOptions, VolumeRef, VolumeState};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use time::format_description::well_known::Rfc3339;

type Answer = Result<Reply<Value>, Refusal>;

/// dockerd (re)started, or meets the plugin for the first time.
pub(crate) async fn activate(State(plugin): State<Plugin>) -> Answer {
    // Whatever is wrong with old attachments, dockerd must be able to start: it would block for a minute otherwise.
    if let Err(e) = plugin.control.docker_activated().await {
        tracing::warn!(error = %e, "what an earlier dockerd left could not be looked at; the reconciler will");
    }
    Ok(Reply(json!({ "Implements": ["VolumeDriver"] })))
}

/// Volumes belong to this host: dockerd must not believe that another host sees them too.
pub(crate) async fn capabilities() -> Answer {
    Ok(Reply(json!({ "Capabilities": { "Scope": "local" } })))
}

/// Creates a volume. dockerd asks `Get` first, so a name that exists comes only from a race.
pub(crate) async fn create(State(plugin): State<Plugin>, body: Bytes) -> Answer {
    let request = Request::read(&body)?;
    let given = request.opts.clone().unwrap_or_default();
    let options = VolumeOptions::parse(given.iter().map(|(k, v)| (k.as_str(), v.as_str())))?;
    let intent = Intent::CreateVolume { name: request.volume()?, options, labels: BTreeMap::new() };
    plugin.control.apply(&Actor::Docker, intent).await?;
    Ok(Reply(json!({ "Err": "" })))
}

/// Shows one volume; dockerd takes any error to mean that it is absent.
pub(crate) async fn get(State(plugin): State<Plugin>, body: Bytes) -> Answer {
    let volume = plugin.control.volume(&named(&body)?).await?;
    Ok(Reply(json!({ "Volume": shown(&plugin.control, volume), "Err": "" })))
}

/// Lists volumes; never waits for a worker, since `docker volume ls` and `prune` wait for it.
pub(crate) async fn list(State(plugin): State<Plugin>) -> Answer {
    let volumes = plugin.control.volumes(VolumeFilter::default()).await?;
    let volumes: Vec<Shown> = volumes.into_iter().filter(|v| v.state == VolumeState::Active).map(|v| shown(&plugin.control, v)).collect();
    Ok(Reply(json!({ "Volumes": volumes, "Err": "" })))
}

/// Moves a volume to the trash.
pub(crate) async fn remove(State(plugin): State<Plugin>, body: Bytes) -> Answer {
    plugin.control.apply(&Actor::Docker, Intent::RemoveVolume { volume: named(&body)?, now: false }).await?;
    Ok(Reply(json!({ "Err": "" })))
}

/// Where a volume is, or would be, mounted.
pub(crate) async fn path(State(plugin): State<Plugin>, body: Bytes) -> Answer {
    let volume = plugin.control.volume_brief(&named(&body)?).await?;
    Ok(Reply(json!({ "Mountpoint": plugin.control.mountpoint_of(&volume), "Err": "" })))
}

/// Holds a volume mounted for one id; the same id twice is one attachment.
pub(crate) async fn mount(State(plugin): State<Plugin>, body: Bytes) -> Answer {
    let request = Request::read(&body)?;
    let volume = VolumeRef::Name(request.volume()?);
    let attachment = AttachmentKind::Docker { mount_id: mount_id(&request)? };
    match plugin.control.apply(&Actor::Docker, Intent::Attach { volume, attachment, abandon_unsynced: false }).await? {
        Outcome::Attached { mountpoint, .. } => Ok(Reply(json!({ "Mountpoint": mountpoint, "Err": "" }))),
        _ => Err(Error::internal("the volume was mounted, but nobody said where").into()),
    }
}

/// Lets go of one id. Ids and volumes that are unknown succeed: calls get lost, and a container must be able to stop.
pub(crate) async fn unmount(State(plugin): State<Plugin>, body: Bytes) -> Answer {
    let request = Request::read(&body)?;
    let volume = VolumeRef::Name(request.volume()?);
    let attachment = DetachBy::DockerMountId(mount_id(&request)?);
    match plugin.control.apply(&Actor::Docker, Intent::Detach { volume, attachment, force: false }).await {
        Ok(_) => {}
        Err(e) if e.kind == ErrorKind::NotFound => {}
        Err(e) => return Err(e.into()),
    }
    Ok(Reply(json!({ "Err": "" })))
}

/// Tells another daemon that this name is taken, and by whom.
pub(crate) async fn identify(State(plugin): State<Plugin>) -> Reply<Identity> {
    Reply((*plugin.identity).clone())
}

fn named(body: &Bytes) -> Result<VolumeRef, Refusal> {
    // Always a name: dockerd knows no ids, and one that looks like an id is still a name to it.
    Ok(VolumeRef::Name(Request::read(body)?.volume()?))
}

fn mount_id(request: &Request) -> Result<String, Error> {
    if request.id.is_empty() {
        return Err(Error::invalid(format!("the mount request for volume {} carries no ID", request.name)));
    }
    Ok(request.id.clone())
}

/// A volume with its true options, which `docker volume create` on an existing name never changes.
fn shown(control: &Control, volume: Volume) -> Shown {
    let mut status = Map::new();
    status.insert("ID".into(), json!(volume.id));
    status.insert("Store".into(), json!(volume.store));
    status.insert("State".into(), json!(if volume.mountpoint.is_some() { "mounted" } else { "unmounted" }));
    status.insert("Options".into(), json!(volume.options.to_pairs()));
    status.insert("Protected".into(), json!(volume.protected));
    status.insert("Kind".into(), json!(volume.kind));
    if let Some(size) = volume.options.size {
        status.insert("Size".into(), json!(size.0));
    }
    if !volume.labels.is_empty() {
        status.insert("Labels".into(), json!(volume.labels));
    }
    let holders: Vec<Value> = volume.attachments.iter().map(|a| json!(a)).collect();
    status.insert("Attachments".into(), Value::Array(holders));
    if let Some(usage) = &volume.usage {
        status.insert("Used".into(), json!(usage.used_bytes));
        status.insert("Usage".into(), json!(usage));
    }
    let mountpoint = volume.mountpoint.clone().unwrap_or_else(|| control.mountpoint_of(&volume));
    let created_at = volume.created_at.format(&Rfc3339).unwrap_or_default();
    Shown { name: volume.name.to_string(), mountpoint, created_at, status }
}
