//! `/v1/volumes/{volume}/attach` and `detach`: volumes mounted on folders of the host.

use super::Rest;
use super::body::{Named, decode};
use super::error::Answer;
use super::peer::Caller;
use crate::wire::{Attach, Attached, Detach};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use orlop_model::{AttachmentKind, DetachBy, Error, Intent, Outcome, Volume};

/// Mounts a volume on an existing folder; returns when it is mounted. The same folder twice is one attachment.
#[utoipa::path(post, path = "/v1/volumes/{volume}/attach", tag = "attachments", params(("volume" = String, Path, description = "Name or id")),
    request_body = Attach,
    responses((status = 200, body = Attached), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn attach(State(rest): State<Rest>, Caller(actor): Caller, Named(volume): Named, body: Bytes) -> Answer<Json<Attached>> {
    let request: Attach = decode(&body)?;
    if !request.directory.starts_with('/') || request.directory.contains('\0') {
        return Err(Error::invalid(format!("{:?} is not an absolute path", request.directory))
            .with_remedy("give the folder's path from the root, starting with /")
            .into());
    }
    let attachment = AttachmentKind::Directory { path: request.directory, read_only: request.read_only };
    let intent = Intent::Attach { volume, attachment, abandon_unsynced: request.abandon_unsynced };
    match rest.control.apply(&actor, intent).await? {
        Outcome::Attached { attachment, mountpoint } => Ok(Json(Attached { attachment, mountpoint })),
        _ => Err(Error::internal("the volume was attached, but nobody said where").into()),
    }
}

/// Lets go of one attachment; after the last one the volume is unmounted.
#[utoipa::path(post, path = "/v1/volumes/{volume}/detach", tag = "attachments", params(("volume" = String, Path, description = "Name or id")),
    request_body = Detach,
    responses((status = 200, description = "The volume as it is now", body = Volume),
        (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn detach(State(rest): State<Rest>, Caller(actor): Caller, Named(volume): Named, body: Bytes) -> Answer<Json<Volume>> {
    let request: Detach = decode(&body)?;
    let attachment = match (request.id, request.directory, request.docker_mount_id) {
        (Some(id), None, None) => DetachBy::Id(id),
        (None, Some(path), None) => DetachBy::Directory(path),
        (None, None, Some(id)) => DetachBy::DockerMountId(id),
        _ => {
            return Err(Error::invalid("a detach names exactly one attachment")
                .with_remedy("give one of: id, directory, docker_mount_id")
                .into());
        }
    };
    rest.control.apply(&actor, Intent::Detach { volume: volume.clone(), attachment, force: request.force }).await?;
    Ok(Json(rest.control.volume(&volume).await?))
}
