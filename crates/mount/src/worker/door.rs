//! The worker's socket. Whoever removes its file locks the keeper, and every later one, out of a volume that is served. So it is made anew.

use super::control::Control;
use crate::wire;
use nix::sys::socket::{Shutdown, shutdown};
use orlop_model::{Error, FileId, Result};
use std::fs::symlink_metadata;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked whether the socket is there. Its folder is made by the keeper.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A socket at which the worker answers.
pub(super) struct Door {
    socket: PathBuf,
    control: Control,
    listener: Arc<UnixListener>,
    /// Which file the socket is. The listener holds it, so no other one gets its number.
    file: FileId,
}

impl Door {
    /// Listens, and answers on a thread of its own.
    pub(super) fn open(socket: PathBuf, control: Control) -> Result<Door> {
        let (listener, file) = listen(&socket, &control)?;
        Ok(Door { socket, control, listener, file })
    }

    /// Goes on for as long as the process serves: no other one serves the volume meanwhile, and nobody takes the socket away before it ends.
    pub(super) async fn look_after(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.file.is_still(&symlink_metadata(&self.socket)) {
                continue;
            }
            match listen(&self.socket, &self.control) {
                Ok((listener, file)) => {
                    tracing::warn!("{} was removed or replaced; it is made anew", self.socket.display());
                    let old = std::mem::replace(&mut self.listener, listener);
                    self.file = file;
                    // Nobody finds it any more; this ends the thread that waits there.
                    if let Err(e) = shutdown(old.as_raw_fd(), Shutdown::Read) {
                        tracing::debug!("the old socket stays open: {e}");
                    }
                }
                Err(e) => tracing::debug!("the socket cannot be made anew yet: {e}"),
            }
        }
    }
}

fn listen(socket: &Path, control: &Control) -> Result<(Arc<UnixListener>, FileId)> {
    let failed = |e: io::Error| Error::io(format_args!("listening on {}", socket.display()), &e);
    let listener = Arc::new(wire::listen(socket).map_err(failed)?);
    let file = FileId::of(&symlink_metadata(socket).map_err(failed)?);
    let (accepting, control) = (listener.clone(), control.clone());
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || wire::accept_all(&accepting, "request", move |connection| control.converse(&connection)))
        .map_err(|e| Error::io("starting the control thread", &e))?;
    Ok((listener, file))
}
