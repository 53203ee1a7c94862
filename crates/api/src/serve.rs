//! Serving a router on a Unix socket until told to stop; what is in flight is finished first.

use crate::rest::Peer;
use axum::Router;
use orlop_model::{Error, Result};
use tokio::net::UnixListener;

/// Serves a front door. Every caller's peer credentials are at hand for its handlers.
pub async fn serve(listener: UnixListener, door: Router, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    axum::serve(listener, door.into_make_service_with_connect_info::<Peer>())
        .with_graceful_shutdown(stop)
        .await
        .map_err(|e| Error::io("serving a socket", &e))
}
