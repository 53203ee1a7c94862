//! The Docker plugin's name and socket: one living daemon a name, a stale socket replaced, a foreign one respected.

use super::lock::{self, Lock};
use super::socket;
use orlop_model::{Error, Result};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

const SOCKETS: &str = "/run/docker/plugins";
const LOCKS: &str = "/run/orlop";

/// A name that is ours as long as this lives, and its socket.
pub(crate) struct Claim {
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
    pub(crate) listener: UnixListener,
    /// Keeps other daemons away from the name.
    pub(crate) lock: NameLock,
}

/// The hold on a name.
pub(crate) struct NameLock(Lock);

impl NameLock {
    /// Gives the name up, in good order.
    pub(crate) fn release(self) {
        self.0.remove();
    }
}

/// Where the socket of a plugin lies.
pub(crate) fn socket_of(name: &str) -> PathBuf {
    Path::new(SOCKETS).join(format!("{name}.sock"))
}

/// Refuses names that Docker could not use.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let fine = !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && name.as_bytes()[0].is_ascii_alphanumeric();
    if fine {
        return Ok(());
    }
    Err(Error::invalid(format!("{name:?} is not a name for a Docker plugin"))
        .with_remedy("use letters, digits, '-', '_' and '.', 64 at most, starting with a letter or digit"))
}

/// Takes a name. `Err` says in words for the user who has it, or why it cannot be served; the daemon goes on
/// without Docker then.
pub(crate) async fn claim(name: &str, root: &Path) -> Result<Claim, String> {
    let socket = socket_of(name);
    for folder in [SOCKETS, LOCKS] {
        std::fs::create_dir_all(folder).map_err(|e| format!("the folder {folder} cannot be made: {e}; Docker is not served"))?;
    }
    let lock_path = Path::new(LOCKS).join(format!("plugin-{name}.lock"));
    let lock = lock::take(&lock_path).map_err(|e| format!("{e}; Docker is not served"))?.ok_or_else(|| {
        format!(
            "the Docker plugin name {name} belongs to the Orlop of the root folder {}; this one does not serve Docker. \
             Give it a name of its own with --plugin-name",
            lock::holder(&lock_path)
        )
    })?;
    lock.note(&root.display().to_string()).map_err(|e| e.to_string())?;
    // The lock says that no Orlop listens there; somebody else's plugin might.
    if UnixStream::connect(&socket).await.is_ok() {
        return Err(format!(
            "{} is served by another plugin; this Orlop does not serve Docker. Give it a name of its own with --plugin-name",
            socket.display()
        ));
    }
    let listener = socket::listen(&socket, 0o600).map_err(|e| format!("{e}; Docker is not served"))?;
    Ok(Claim { name: name.to_owned(), socket, listener, lock: NameLock(lock) })
}
