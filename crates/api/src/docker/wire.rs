//! The bodies of dockerd's volume plugin protocol.

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use orlop_model::{Error, Result, VolumeName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Every request's body; which fields count depends on the call.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Request {
    pub(crate) name: String,
    #[serde(rename = "ID")]
    pub(crate) id: String,
    pub(crate) opts: Option<BTreeMap<String, String>>,
}

impl Request {
    /// Reads a body whatever its content type says; an empty one is a request without fields.
    pub(crate) fn read(body: &Bytes) -> Result<Request> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Request::default());
        }
        serde_json::from_slice(body).map_err(|e| Error::invalid(format!("the plugin request is not what Docker sends: {e}")))
    }

    /// The volume that the request names.
    pub(crate) fn volume(&self) -> Result<VolumeName> {
        self.name.parse()
    }
}

/// Whether these bytes are a request, for the fuzz targets.
pub(crate) fn reads(bytes: &[u8]) -> bool {
    Request::read(&Bytes::copy_from_slice(bytes)).is_ok_and(|r| r.volume().is_ok() || r.name.is_empty())
}

/// A volume as dockerd sees it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Shown {
    pub(crate) name: String,
    pub(crate) mountpoint: String,
    pub(crate) created_at: String,
    pub(crate) status: serde_json::Map<String, serde_json::Value>,
}

/// An answer that went well.
pub(crate) struct Reply<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => ([(CONTENT_TYPE, MEDIA_TYPE)], bytes).into_response(),
            Err(e) => Refusal(Error::internal(format!("the answer is not JSON: {e}"))).into_response(),
        }
    }
}

/// A refusal: its message and remedy reach the user through docker.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) Error);

impl Refusal {
    pub(crate) fn body(&self) -> Response {
        let text = serde_json::json!({ "Err": self.0.to_string() }).to_string();
        ([(CONTENT_TYPE, MEDIA_TYPE)], text).into_response()
    }
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        Refusal(e)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.body()).into_response()
    }
}
