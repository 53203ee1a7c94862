//! The Docker volume plugin: dockerd's protocol on one side, `control` on the other, nothing decided between.
//!
//! What dockerd sends: HTTP/1.1 with an empty Host header and no content type, a body that may be empty, `Opts`
//! that may be null. What it takes: HTTP 500 with `{"Err": "..."}`, whose text reaches the user.

mod calls;
mod wire;

pub(crate) use wire::reads as reads_request;

use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::middleware::Next;
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Router, middleware};
use orlop_control::Control;
use orlop_model::Error;
use std::sync::Arc;
use wire::Refusal;

/// Who serves a plugin socket; [`crate::docker::IDENTIFY`] answers it, so that two roots do not fight for one name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// The root folder of the daemon.
    pub root: String,
    /// Its process.
    pub pid: u32,
}

/// The path of the call that tells an [`Identity`]; dockerd never makes it.
pub const IDENTIFY: &str = "/Orlop.Identify";

#[derive(Clone)]
pub(crate) struct Plugin {
    control: Arc<Control>,
    identity: Arc<Identity>,
}

/// The calls of the plugin, to be served on `/run/docker/plugins/<name>.sock`.
pub fn router(control: Arc<Control>, identity: Identity) -> Router {
    Router::new()
        .route("/Plugin.Activate", post(calls::activate))
        .route("/VolumeDriver.Capabilities", post(calls::capabilities))
        .route("/VolumeDriver.Create", post(calls::create))
        .route("/VolumeDriver.Get", post(calls::get))
        .route("/VolumeDriver.List", post(calls::list))
        .route("/VolumeDriver.Remove", post(calls::remove))
        .route("/VolumeDriver.Path", post(calls::path))
        .route("/VolumeDriver.Mount", post(calls::mount))
        .route("/VolumeDriver.Unmount", post(calls::unmount))
        .route(IDENTIFY, post(calls::identify))
        .fallback(async |uri: Uri| {
            // 404 tells dockerd that the plugin lacks the call; any other status would be a failure of it.
            (StatusCode::NOT_FOUND, Refusal(Error::not_found(format!("Orlop has no plugin call {}", uri.path()))).body())
        })
        .layer(middleware::from_fn(async |request: Request, next: Next| match crate::serve::with_whole_body(request).await {
            Ok(request) => next.run(request).await,
            Err(e) => Refusal(e).into_response(),
        }))
        .with_state(Plugin { control, identity: Arc::new(identity) })
}
