//! Listening on a Unix socket in place of a stale one, without a moment at which its name is missing; and making the daemon's
//! own anew when somebody removed it, since nobody reaches a living daemon else.

use super::lock::Lock;
use orlop_model::{Error, FileId, Result};
use orlop_mount::keeper::make_folder;
use std::fs::{File, Permissions, metadata, set_permissions, symlink_metadata};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often it is looked whether the socket's file is still there.
const LOOK: Duration = Duration::from_secs(1);

/// Binds a temporary name and renames it over `path`. Whoever calls this holds the lock that says nobody
/// living listens there.
pub(crate) fn listen(path: &Path, mode: u32) -> Result<UnixListener> {
    let failed = |e: std::io::Error| Error::io(format_args!("listening on {}", path.display()), &e);
    let parent = folder_of(path);
    if symlink_metadata(path).is_ok_and(|there| there.is_dir()) {
        let path = path.display();
        return Err(
            Error::unavailable(format!("a folder is in the place of the socket {path}")).with_remedy(format!("remove it: rm -r {path}"))
        );
    }
    let name = path.file_name().expect("a socket has a name").to_string_lossy();
    // A socket's path has room for 107 bytes; through the folder's descriptor any root is short enough.
    let folder = File::open(parent).map_err(failed)?;
    let temporary = format!("/proc/self/fd/{}/.{name}.{}", folder.as_raw_fd(), std::process::id());
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary).map_err(failed)?;
    let named = set_permissions(&temporary, Permissions::from_mode(mode)).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(e) = named {
        let _ = std::fs::remove_file(&temporary);
        return Err(failed(e));
    }
    Ok(listener)
}

fn folder_of(socket: &Path) -> &Path {
    socket.parent().expect("a socket lies in a folder")
}

/// A socket whose file is looked after for as long as it is served.
pub(crate) struct Door {
    path: PathBuf,
    mode: u32,
    /// The mode of its folder, which others have to pass.
    folder_mode: u32,
    listener: UnixListener,
    /// Which file the socket is. A listener holds it, so no other one gets its number.
    file: FileId,
    /// What says that nobody else listens there.
    lock: Arc<Lock>,
}

impl Door {
    /// Listens.
    pub(crate) fn open(path: &Path, mode: u32, lock: Arc<Lock>) -> Result<Door> {
        let listener = listen(path, mode)?;
        let failed = |e: std::io::Error| Error::io(format_args!("listening on {}", path.display()), &e);
        let file = FileId::of(&symlink_metadata(path).map_err(failed)?);
        let folder_mode = metadata(folder_of(path)).map_err(failed)?.permissions().mode() & 0o7777;
        Ok(Door { path: path.to_owned(), mode, folder_mode, listener, file, lock })
    }

    /// Listens again where somebody removed the socket, and perhaps with it its folder and the lock.
    fn open_anew(path: &Path, mode: u32, folder_mode: u32, lock: &Arc<Lock>) -> Result<Door> {
        make_folder(folder_of(path), folder_mode)?;
        if lock.renew()? {
            super::tell_process(folder_of(path), lock);
        }
        Door::open(path, mode, lock.clone())
    }

    /// Serves until `stop`. `serve` is given a listener and what tells it to stop; it is called again with another one when the
    /// socket was made anew, while calls that came by the old one are answered to their end.
    pub(crate) async fn serve<F>(self, stop: impl Future<Output = ()>, serve: impl Fn(UnixListener, watch::Receiver<bool>) -> F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let Door { path, mode, folder_mode, listener, mut file, lock } = self;
        let mut serving = JoinSet::new();
        let (mut end, ended) = watch::channel(false);
        serving.spawn(serve(listener, ended));
        let mut stop = std::pin::pin!(stop);
        loop {
            let anew = tokio::select! {
                () = &mut stop => break,
                anew = replaced(&path, mode, folder_mode, file, &lock) => anew,
            };
            tracing::warn!("{} was removed or replaced; it is made anew", path.display());
            let (next, ended) = watch::channel(false);
            serving.spawn(serve(anew.listener, ended));
            file = anew.file;
            // The one before is let go of, which tells whoever listens at the old socket to stop.
            end = next;
        }
        drop(end);
        while serving.join_next().await.is_some() {}
    }
}

/// Returns when the socket's file was removed or replaced, with another one in its place.
async fn replaced(path: &Path, mode: u32, folder_mode: u32, file: FileId, lock: &Arc<Lock>) -> Door {
    let mut said = false;
    loop {
        tokio::time::sleep(LOOK).await;
        // Two daemons must not take the socket from each other again and again.
        if file.is_still(&symlink_metadata(path)) || lock.is_displaced() {
            continue;
        }
        match Door::open_anew(path, mode, folder_mode, lock) {
            Ok(door) => return door,
            Err(e) if !said => {
                said = true;
                tracing::error!(error = %e, "the daemon's socket was removed or replaced and cannot be made anew yet");
            }
            Err(_) => {}
        }
    }
}
