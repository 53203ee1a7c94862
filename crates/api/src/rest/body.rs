//! Decoding of request bodies and references, with Orlop's own errors instead of a library's.

use super::error::Failure;
use axum::body::Bytes;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use orlop_model::{Error, StoreName, VolumeRef};
use serde::de::DeserializeOwned;

/// Reads a JSON body; an empty one counts as `{}`. The content type does not matter.
pub(crate) fn decode<T: DeserializeOwned>(body: &Bytes) -> Result<T, Error> {
    let bytes: &[u8] = if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { body };
    serde_json::from_slice(bytes).map_err(|e| {
        Error::invalid(format!("the request's body is not what this call takes: {e}"))
            .with_remedy("see the body's schema in /v1/openapi.json")
    })
}

/// The volume that a path names.
pub(crate) struct Named(pub(crate) VolumeRef);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|e| {
            Error::invalid(format!("the volume in the path cannot be read: {}", e.body_text())).with_remedy("give a volume's name or id")
        })?;
        Ok(Named(text.parse()?))
    }
}

/// The store that a path names.
pub(crate) struct NamedStore(pub(crate) StoreName);

impl<S: Send + Sync> FromRequestParts<S> for NamedStore {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|e| {
            Error::invalid(format!("the store in the path cannot be read: {}", e.body_text())).with_remedy("give a store's name")
        })?;
        Ok(NamedStore(text.parse()?))
    }
}

/// The parameters after the question mark.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let Query(params) = Query::<T>::try_from_uri(&parts.uri).map_err(|e| {
            Error::invalid(format!("the parameters of the call are wrong: {}", e.body_text()))
                .with_remedy("see the call's parameters in /v1/openapi.json")
        })?;
        Ok(Params(params))
    }
}
