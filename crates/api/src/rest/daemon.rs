//! `/v1/status`, `/v1/reconcile`, `/v1/shutdown` and the API's own document.

use super::Rest;
use super::body::decode;
use super::error::Answer;
use super::peer::Caller;
use crate::wire::{Shutdown, ShutdownReport, Status};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use orlop_control::VolumeFilter;
use orlop_model::{Error, Usage};

/// What runs, and how many volumes there are.
#[utoipa::path(get, path = "/v1/status", tag = "daemon",
    responses((status = 200, body = Status), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn status(State(rest): State<Rest>) -> Answer<Json<Status>> {
    let mut host = rest.host.facts().await;
    let mut control = rest.control.status().await?;
    let volumes = rest.control.volumes(VolumeFilter { include_removed: false, with_usage: true }).await?;
    // As the host has it, like all else here: what somebody asked for may not be mounted yet, or not any more.
    control.volumes.attached = volumes.iter().filter(|v| v.mountpoint.is_some()).count() as u64;
    let mut usage = Usage::default();
    for v in volumes {
        let Some(u) = v.usage else { continue };
        usage.unsent_bytes += u.unsent_bytes;
        let worker = host.keeper.iter_mut().flat_map(|k| &mut k.workers).find(|w| w.volume == v.name);
        if let (Some(why), Some(worker)) = (u.stopped, worker) {
            worker.state = format!("taking no changes: {why}");
        }
        // What is at rest is safe, and may be changed elsewhere.
        if v.mountpoint.is_some() {
            usage.used_bytes += u.used_bytes;
            usage.inodes += u.inodes;
            usage.unsynced_bytes += u.unsynced_bytes;
            usage.host_bytes += u.host_bytes;
        }
    }
    Ok(Json(Status { host, usage, control }))
}

/// Brings the host in line with the registry now, instead of at the next turn.
#[utoipa::path(post, path = "/v1/reconcile", tag = "daemon",
    responses((status = 200, body = Status), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn reconcile(State(rest): State<Rest>) -> Answer<Json<Status>> {
    rest.control.reconcile().await;
    status(State(rest)).await
}

/// Ends the daemon, and unless told otherwise all mounts. Refused while volumes are in use, unless forced.
#[utoipa::path(post, path = "/v1/shutdown", tag = "daemon", request_body = Shutdown,
    responses((status = 200, body = ShutdownReport), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn shutdown(State(rest): State<Rest>, Caller(actor): Caller, body: Bytes) -> Answer<Json<ShutdownReport>> {
    let request: Shutdown = decode(&body)?;
    Ok(Json(rest.host.shutdown(&actor, request).await?))
}

/// The OpenAPI document of these calls.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "daemon",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value),
        (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(super::openapi())
}
