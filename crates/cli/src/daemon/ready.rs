//! How the daemon says that it is ready: one JSON line on standard output for `orlop up`, and systemd's message.

use orlop_model::Error;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What came of a start.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Readiness {
    /// All sockets answer.
    Ready,
    /// Another daemon has this root.
    Taken,
    /// It failed.
    Failed(Error),
}

/// Tells the process that started this one; nobody listening is no failure.
pub(crate) fn tell_parent(readiness: &Readiness) {
    if let Ok(line) = serde_json::to_string(readiness) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

/// Tells systemd, if it asked to be told.
pub(crate) fn tell_systemd(state: &str) {
    let Ok(name) = std::env::var("NOTIFY_SOCKET") else { return };
    let send = || -> std::io::Result<()> {
        let address = match name.strip_prefix('@') {
            Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
            None => SocketAddr::from_pathname(&name)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
        Ok(())
    };
    if let Err(e) = send() {
        tracing::warn!(error = %e, "systemd could not be told {state}");
    }
}
