//! Who is at the other end of the local socket, and whether that one may use the API at all.
//!
//! Deny by default: a connection whose credentials are unknown, or whose user `control` does not admit, gets
//! nothing, not even a reading; a user's try is recorded. `control::apply` decides again for every change.

use super::Rest;
use super::error::Failure;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use orlop_model::{Actor, Error, ErrorKind, VolumeRef};
use tokio::net::UnixListener;

/// The process at the other end, as the kernel says; `None` if it does not say.
#[derive(Debug, Clone)]
pub struct Peer(pub Option<Actor>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Peer(stream.io().peer_cred().ok().map(|cred| Actor::Local { uid: cred.uid(), gid: cred.gid(), pid: cred.pid().unwrap_or(0) }))
    }
}

/// The admitted caller; handlers take it as an argument.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) Actor);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        parts.extensions.get::<Caller>().cloned().ok_or_else(|| Failure(unknown()))
    }
}

fn unknown() -> Error {
    Error::new(ErrorKind::Denied, "the caller of the local API is unknown").with_remedy("connect through the Unix socket of the daemon")
}

/// The volume that a call's path names.
fn volume_in(path: &str) -> Option<VolumeRef> {
    path.strip_prefix("/v1/volumes/")?.split('/').next()?.parse().ok()
}

/// Admits a caller or answers 403, before any route is looked at.
pub(crate) async fn admit(State(rest): State<Rest>, request: Request, next: Next) -> Response {
    let mut request = match crate::serve::with_whole_body(request).await {
        Ok(request) => request,
        Err(e) => return Failure(e).into_response(),
    };
    let peer = request.extensions().get::<ConnectInfo<Peer>>().and_then(|ConnectInfo(peer)| peer.0.clone());
    let Some(actor) = peer else { return Failure(unknown()).into_response() };
    let path = request.uri().path();
    let (call, volume) = (format!("{} {path}", request.method()), volume_in(path));
    if let Err(e) = rest.control.admit(&actor, &call, volume.as_ref()).await {
        return Failure(e).into_response();
    }
    request.extensions_mut().insert(Caller(actor));
    next.run(request).await
}
