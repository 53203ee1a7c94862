//! Decoding of request bodies and references, with Orlop's own errors instead of a library's.

use axum::body::Bytes;
use orlop_model::{Error, Result, VolumeRef};
use serde::de::DeserializeOwned;

/// Reads a JSON body; an empty one counts as `{}`. The content type does not matter.
pub(crate) fn decode<T: DeserializeOwned>(body: &Bytes) -> Result<T> {
    let bytes: &[u8] = if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { body };
    serde_json::from_slice(bytes).map_err(|e| {
        Error::invalid(format!("the request's body is not what this call takes: {e}"))
            .with_remedy("see the body's schema in /v1/openapi.json")
    })
}

/// Reads the volume in a path.
pub(crate) fn volume(text: &str) -> Result<VolumeRef> {
    text.parse()
}
