//! Serving a router on a Unix socket until told to stop; what is in flight is finished first.

use crate::rest::Peer;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use orlop_model::{Error, Result};
use tokio::net::UnixListener;

/// Serves a front door. Every caller's peer credentials are at hand for its handlers.
pub async fn serve(listener: UnixListener, door: Router, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    axum::serve(listener, door.into_make_service_with_connect_info::<Peer>())
        .with_graceful_shutdown(stop)
        .await
        .map_err(|e| Error::io("serving a socket", &e))
}

/// No call takes more than names and options.
const LARGEST_BODY: usize = 1 << 20;

/// The request with all of its body read. A body that nobody reads would reset the connection when the answer
/// closes it, and the caller might lose the answer.
pub(crate) async fn with_whole_body(request: Request) -> Result<Request> {
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, LARGEST_BODY)
        .await
        .map_err(|e| Error::invalid(format!("the request's body cannot be read: {e}")).with_remedy("send at most 1 MiB"))?;
    Ok(Request::from_parts(parts, Body::from(bytes)))
}
