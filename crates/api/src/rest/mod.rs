//! The local API: REST with JSON over the daemon's Unix socket, described by an OpenAPI document.
//!
//! The router and the document come from the same table of routes, so that no call can exist without being
//! described, and every call passes [`peer::admit`] first.

mod attachments;
mod audit;
mod body;
mod care;
mod daemon;
mod error;
mod files;
mod keys;
mod peer;
mod stores;
mod volumes;

pub(crate) use body::decode;

pub use peer::Peer;

use crate::Host;
use axum::http::{Method, StatusCode, Uri};
use axum::{Json, Router, middleware};
use error::Failure;
use orlop_control::Control;
use orlop_model::{Error, ErrorKind};
use std::sync::Arc;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What every handler needs.
#[derive(Clone)]
pub(crate) struct Rest {
    pub(crate) control: Arc<Control>,
    pub(crate) host: Arc<dyn Host>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Orlop local API",
        description = "Volumes of containers: create, mount, guard and audit them. Served on the Unix socket \
                       `<root>/run/orlop.sock`; callers are known by their peer credentials. Every error is a \
                       JSON object with `kind`, `message` and mostly `remedy`.",
        license(name = "MIT OR Apache-2.0"),
    ),
    servers((url = "http://localhost", description = "The daemon's Unix socket")),
    tags(
        (name = "volumes", description = "Named file trees"),
        (name = "attachments", description = "Why a volume is mounted on this host"),
        (name = "stores", description = "Named places where the bytes of volumes live"),
        (name = "files", description = "Reading what is in a volume"),
        (name = "keys", description = "Keys of encrypted volumes, by their names"),
        (name = "care", description = "Checking, explaining and collecting what a volume is made of"),
        (name = "audit", description = "The record of every change"),
        (name = "daemon", description = "The daemon itself"),
    ),
)]
struct Document;

fn table() -> OpenApiRouter<Rest> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(volumes::list, volumes::create))
        .routes(routes!(volumes::inspect, volumes::set, volumes::remove))
        .routes(routes!(volumes::protect))
        .routes(routes!(volumes::restore))
        .routes(routes!(attachments::attach))
        .routes(routes!(attachments::detach))
        .routes(routes!(files::list))
        .routes(routes!(files::content))
        .routes(routes!(keys::list))
        .routes(routes!(keys::rotate))
        .routes(routes!(keys::rotation))
        .routes(routes!(stores::list, stores::add))
        .routes(routes!(stores::inspect, stores::set, stores::remove))
        .routes(routes!(stores::test))
        .routes(routes!(stores::found, stores::adopt))
        .routes(routes!(care::check))
        .routes(routes!(care::space))
        .routes(routes!(care::gc))
        .routes(routes!(audit::list))
        .routes(routes!(audit::export))
        .routes(routes!(audit::verify))
        .routes(routes!(daemon::status))
        .routes(routes!(daemon::reconcile))
        .routes(routes!(daemon::shutdown))
        .routes(routes!(daemon::openapi))
}

/// The document of the API, as `/v1/openapi.json` answers it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (_, mut document) = table().split_for_parts();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document
}

/// The local API; serve it with [`crate::serve`], which brings the peer credentials that it needs.
pub fn router(control: Arc<Control>, host: Arc<dyn Host>) -> Router {
    let rest = Rest { control, host };
    let (router, _) = table().split_for_parts();
    router
        .fallback(async |method: Method, uri: Uri| {
            Failure(
                Error::new(ErrorKind::NotFound, format!("there is no call {method} {}", uri.path()))
                    .with_remedy("the calls are listed in /v1/openapi.json"),
            )
        })
        // The router adds the methods that are taken, as `Allow`.
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            let error = Error::invalid(format!("{} does not take the method {method}", uri.path()))
                .with_remedy("the calls are listed in /v1/openapi.json");
            (StatusCode::METHOD_NOT_ALLOWED, Json(error))
        })
        .layer(middleware::from_fn_with_state(rest.clone(), peer::admit))
        .with_state(rest)
}
