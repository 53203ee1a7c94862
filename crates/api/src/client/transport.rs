//! HTTP/1.1 over a Unix socket, or over TCP where somebody else's daemon listens there. One connection a call.
//!
//! Kinds of failure: `NotFound` means that nobody listens, `Denied` that the socket may not be opened,
//! `Unavailable` that somebody listens and does not answer.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use orlop_model::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use std::io::ErrorKind as Io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP address, `host:port`.
    Tcp(String),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Endpoint::Unix(path) => path.display().fmt(f),
            Endpoint::Tcp(address) => address.fmt(f),
        }
    }
}

/// Makes requests to one endpoint.
#[derive(Debug, Clone)]
pub struct Transport {
    endpoint: Endpoint,
    /// How long the head of an answer may take. A mount on a slow store is the longest call there is.
    patience: Duration,
}

/// The answer to a request: its status, and its body as it comes.
#[derive(Debug)]
pub struct Body {
    /// The status.
    pub status: StatusCode,
    incoming: Incoming,
}

impl Transport {
    /// Requests to this endpoint, each answered within five minutes.
    pub fn new(endpoint: Endpoint) -> Transport {
        Transport { endpoint, patience: Duration::from_secs(300) }
    }

    /// The same with another patience.
    #[must_use]
    pub fn patient(mut self, patience: Duration) -> Transport {
        self.patience = patience;
        self
    }

    /// Makes a request and waits for the head of its answer.
    pub async fn request(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Body> {
        let work = async {
            match &self.endpoint {
                Endpoint::Unix(path_of_socket) => {
                    let stream = connect(path_of_socket).await.map_err(|e| self.refused(&e))?;
                    self.exchange(stream, method, path, body).await
                }
                Endpoint::Tcp(address) => {
                    let stream = TcpStream::connect(address.as_str()).await.map_err(|e| self.refused(&e))?;
                    self.exchange(stream, method, path, body).await
                }
            }
        };
        match tokio::time::timeout(self.patience, work).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::unavailable(format!("{} did not answer within {} s", self.endpoint, self.patience.as_secs()))),
        }
    }

    async fn exchange<S>(&self, stream: S, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Body>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let broken = |e: hyper::Error| Error::unavailable(format!("the connection to {} broke: {e}", self.endpoint));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // The connection is driven until the body is read or dropped; its error shows in the body.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let mut request = Request::builder().method(method).uri(path).header("Host", "localhost");
        if body.is_some() {
            request = request.header("Content-Type", "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|e| Error::invalid(format!("{path:?} cannot be asked for: {e}")))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok(Body { status: response.status(), incoming: response.into_body() })
    }

    fn refused(&self, e: &std::io::Error) -> Error {
        let kind = match e.kind() {
            Io::NotFound | Io::ConnectionRefused => ErrorKind::NotFound,
            Io::PermissionDenied => ErrorKind::Denied,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("{}: {e}", self.endpoint))
    }
}

/// Connects to a socket however long its path is: the system's calls take 107 bytes, so a longer one is named
/// through its folder's descriptor.
async fn connect(path: &Path) -> std::io::Result<UnixStream> {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) if path.as_os_str().len() > 107 => {
            let folder = std::fs::File::open(folder)?;
            UnixStream::connect(Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name)).await
        }
        _ => UnixStream::connect(path).await,
    }
}

impl Body {
    /// The next piece; `None` at the end. A stream that ends before its announced length is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|e| Error::unavailable(format!("the answer broke off: {e}")))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// All of it.
    pub async fn bytes(mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// All of it, as JSON.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T> {
        serde_json::from_slice(&self.bytes().await?)
            .map_err(|e| Error::internal(format!("the answer is not what this version expects: {e}")))
    }
}
