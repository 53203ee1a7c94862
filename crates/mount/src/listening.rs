//! A socket at which a process answers for as long as it lives: whether somebody removed its file, and the end of one that was.

use crate::wire::{self, Connection};
use nix::sys::socket::{Shutdown, shutdown};
use orlop_model::{Error, FileId, Result};
use std::fs::symlink_metadata;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

/// A socket, and the thread that answers there.
pub(crate) struct Listening {
    pub(crate) socket: PathBuf,
    listener: Arc<UnixListener>,
    /// Which file the socket is. The listener holds it, so no other one gets its number.
    pub(crate) file: FileId,
}

impl Listening {
    /// Listens in the place of whatever file is there, and answers on a thread of this name.
    pub(crate) fn start<F>(socket: PathBuf, thread: &str, serve: F) -> Result<Listening>
    where
        F: Fn(Connection) + Clone + Send + 'static,
    {
        let failed = |e: io::Error| Error::io(format_args!("listening on {}", socket.display()), &e);
        let listener = Arc::new(wire::listen(&socket).map_err(failed)?);
        let file = FileId::of(&symlink_metadata(&socket).map_err(failed)?);
        let accepting = listener.clone();
        std::thread::Builder::new()
            .name(thread.to_owned())
            .stack_size(512 << 10)
            .spawn(move || wire::accept_all(&accepting, "request", serve))
            .map_err(|e| Error::io(format_args!("starting thread {thread}"), &e))?;
        Ok(Listening { socket, listener, file })
    }

    /// Whether the socket's file is where it was made. What cannot be told counts as yes.
    pub(crate) fn stands(&self) -> bool {
        self.file.is_still(&symlink_metadata(&self.socket))
    }

    /// Of one whose file is gone or another's: nobody finds it any more, and its thread ends. Conversations that were begun go on.
    pub(crate) fn end(self) {
        tracing::warn!("{} was removed or replaced; it is made anew", self.socket.display());
        if let Err(e) = shutdown(self.listener.as_raw_fd(), Shutdown::Read) {
            tracing::debug!("the old socket stays open: {e}");
        }
    }
}
