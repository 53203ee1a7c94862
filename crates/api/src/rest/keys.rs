//! `/v1/keys`: the keys of sealed volumes by their names, and their rotation. No key itself ever passes here.

use super::Rest;
use super::body::decode;
use super::error::Answer;
use super::peer::Caller;
use crate::wire::RotateKeys;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use orlop_model::{Error, Intent, KeyReport, KeyRotation};

/// Lists the host's master keys and the key rings of sealed volumes.
#[utoipa::path(get, path = "/v1/keys", tag = "keys",
    responses((status = 200, body = KeyReport), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn list(State(rest): State<Rest>) -> Answer<Json<KeyReport>> {
    Ok(Json(rest.control.keys().await?))
}

/// Makes a new master key and wraps every ring with it, or goes on with a rotation that was interrupted; with a volume,
/// adds a new data key to its ring, used from its next mount on.
#[utoipa::path(post, path = "/v1/keys/rotate", tag = "keys", request_body = RotateKeys,
    responses((status = 200, description = "The keys as they are then", body = KeyReport),
        (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn rotate(State(rest): State<Rest>, Caller(actor): Caller, body: Bytes) -> Answer<Json<KeyReport>> {
    let request: RotateKeys = decode(&body)?;
    let volume = request.volume.map(|v| v.parse()).transpose()?;
    rest.control.apply(&actor, Intent::RotateKeys { volume }).await?;
    Ok(Json(rest.control.keys().await?))
}

/// Tells how far the rotation of the master key is; null if there was none since the daemon started.
#[utoipa::path(get, path = "/v1/keys/rotation", tag = "keys",
    responses((status = 200, body = Option<KeyRotation>), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn rotation(State(rest): State<Rest>) -> Answer<Json<Option<KeyRotation>>> {
    Ok(Json(rest.control.key_rotation()))
}
