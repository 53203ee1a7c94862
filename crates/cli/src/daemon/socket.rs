//! Listening on a Unix socket in place of a stale one, without a moment at which its name is missing.

use orlop_model::{Error, Result};
use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::net::UnixListener;

/// Binds a temporary name and renames it over `path`. Whoever calls this holds the lock that says nobody
/// living listens there.
pub(crate) fn listen(path: &Path, mode: u32) -> Result<UnixListener> {
    let failed = |e: std::io::Error| Error::io(format_args!("listening on {}", path.display()), &e);
    let parent = path.parent().expect("a socket lies in a folder");
    let name = path.file_name().expect("a socket has a name").to_string_lossy();
    // A socket's path has room for 107 bytes; through the folder's descriptor any root is short enough.
    let folder = File::open(parent).map_err(failed)?;
    let temporary = format!("/proc/self/fd/{}/.{name}.{}", folder.as_raw_fd(), std::process::id());
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary).map_err(failed)?;
    std::fs::set_permissions(&temporary, Permissions::from_mode(mode)).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)?;
    Ok(listener)
}
