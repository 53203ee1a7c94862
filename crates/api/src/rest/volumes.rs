//! `/v1/volumes`: create, list, inspect, set, protect, remove, restore.

use super::Rest;
use super::body::{Named, Params, decode};
use super::error::Answer;
use super::peer::Caller;
use crate::wire::{CreateVolume, Protect, Restore};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use orlop_control::VolumeFilter;
use orlop_model::{Error, Intent, Outcome, Volume, VolumeOptions, VolumeUpdate};
use serde::Deserialize;
use utoipa::IntoParams;

/// Which volumes a list shows.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Also those that are removed and can still be restored.
    #[serde(default)]
    all: bool,
    /// With what the mounted ones take.
    #[serde(default)]
    usage: bool,
}

/// How a volume is removed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct How {
    /// Delete the data at once, without a way back.
    #[serde(default)]
    now: bool,
}

/// The volume that an intent leaves behind.
pub(crate) fn the_volume(outcome: Outcome) -> Answer<Volume> {
    match outcome {
        Outcome::Volume(volume) => Ok(*volume),
        _ => Err(Error::internal("the change succeeded without saying what it changed").into()),
    }
}

/// Lists volumes in the order of their names.
#[utoipa::path(get, path = "/v1/volumes", tag = "volumes", params(Which),
    responses((status = 200, body = Vec<Volume>), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn list(State(rest): State<Rest>, Params(which): Params<Which>) -> Answer<Json<Vec<Volume>>> {
    Ok(Json(rest.control.volumes(VolumeFilter { include_removed: which.all, with_usage: which.usage }).await?))
}

/// Creates an empty volume. A name that exists is refused, unless everything asked for is as it stands.
#[utoipa::path(post, path = "/v1/volumes", tag = "volumes", request_body = CreateVolume,
    responses((status = 201, body = Volume), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn create(State(rest): State<Rest>, Caller(actor): Caller, body: Bytes) -> Answer<(StatusCode, Json<Volume>)> {
    let request: CreateVolume = decode(&body)?;
    let intent = Intent::CreateVolume {
        name: request.name.parse()?,
        options: VolumeOptions::parse(request.options.iter().map(|(k, v)| (k.as_str(), v.as_str())))?,
        labels: request.labels,
    };
    let volume = the_volume(rest.control.apply(&actor, intent).await?)?;
    Ok((StatusCode::CREATED, Json(volume)))
}

/// Shows one volume, by its name or id.
#[utoipa::path(get, path = "/v1/volumes/{volume}", tag = "volumes", params(("volume" = String, Path, description = "Name or id")),
    responses((status = 200, body = Volume), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn inspect(State(rest): State<Rest>, Named(volume): Named) -> Answer<Json<Volume>> {
    Ok(Json(rest.control.volume(&volume).await?))
}

/// Changes options and labels; an empty value resets an option or removes a label.
#[utoipa::path(patch, path = "/v1/volumes/{volume}", tag = "volumes", params(("volume" = String, Path, description = "Name or id")),
    request_body = VolumeUpdate,
    responses((status = 200, body = Volume), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn set(State(rest): State<Rest>, Caller(actor): Caller, Named(volume): Named, body: Bytes) -> Answer<Json<Volume>> {
    let update: VolumeUpdate = decode(&body)?;
    let intent = Intent::SetVolume { volume, update };
    Ok(Json(the_volume(rest.control.apply(&actor, intent).await?)?))
}

/// Removes a volume. Its data is kept until `purge_at` and can be restored, unless `now` is given.
#[utoipa::path(delete, path = "/v1/volumes/{volume}", tag = "volumes", params(("volume" = String, Path, description = "Name or id"), How),
    responses((status = 200, description = "The removed volume; null if its data is gone", body = Option<Volume>),
        (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn remove(
    State(rest): State<Rest>,
    Caller(actor): Caller,
    Named(volume): Named,
    Params(how): Params<How>,
) -> Answer<Json<Option<Volume>>> {
    let intent = Intent::RemoveVolume { volume, now: how.now };
    Ok(Json(match rest.control.apply(&actor, intent).await? {
        Outcome::Volume(volume) => Some(*volume),
        _ => None,
    }))
}

/// Protects a volume from removal, or ends that.
#[utoipa::path(post, path = "/v1/volumes/{volume}/protect", tag = "volumes", params(("volume" = String, Path, description = "Name or id")),
    request_body = Protect,
    responses((status = 200, body = Volume), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn protect(State(rest): State<Rest>, Caller(actor): Caller, Named(volume): Named, body: Bytes) -> Answer<Json<Volume>> {
    let request: Protect = decode(&body)?;
    let intent = Intent::ProtectVolume { volume, protected: request.protected };
    Ok(Json(the_volume(rest.control.apply(&actor, intent).await?)?))
}

/// Takes a removed volume back: the newest removed one of that name, or the one with that id.
#[utoipa::path(post, path = "/v1/volumes/{volume}/restore", tag = "volumes", params(("volume" = String, Path, description = "Name or id")),
    request_body = Restore,
    responses((status = 200, body = Volume), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn restore(State(rest): State<Rest>, Caller(actor): Caller, Named(volume): Named, body: Bytes) -> Answer<Json<Volume>> {
    let request: Restore = decode(&body)?;
    let rename = request.name.map(|n| n.parse()).transpose()?;
    let intent = Intent::RestoreVolume { volume, rename };
    Ok(Json(the_volume(rest.control.apply(&actor, intent).await?)?))
}
