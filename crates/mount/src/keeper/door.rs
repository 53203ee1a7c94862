//! The keeper's socket. Whoever removes its file locks everybody out of a keeper that lives and holds its root: no other one
//! can start, and nobody reaches this one. So it is made anew.

use super::Keeper;
use crate::wire;
use nix::sys::socket::{Shutdown, shutdown};
use orlop_model::{Error, FileId, Result};
use std::fs::{File, metadata, symlink_metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

/// A socket at which the keeper answers.
pub(super) struct Door {
    keeper: Arc<Keeper>,
    socket: PathBuf,
    listener: Arc<UnixListener>,
    /// Which file the socket is. The listener holds it, so no other one gets its number.
    file: FileId,
    /// Whether it was said that the socket cannot be made anew.
    said: bool,
}

impl Door {
    /// Listens, and answers on a thread of its own.
    pub(super) fn open(keeper: &Arc<Keeper>) -> Result<Door> {
        let socket = keeper.layout.keeper_socket();
        let failed = |e: io::Error| Error::io(format_args!("listening on {}", socket.display()), &e);
        let listener = Arc::new(wire::listen(&socket).map_err(failed)?);
        let file = FileId::of(&symlink_metadata(&socket).map_err(failed)?);
        let (served, accepting) = (keeper.clone(), listener.clone());
        super::spawn("accept", move || {
            wire::accept_all(&accepting, "request", move |connection| served.converse(&connection));
        })?;
        Ok(Door { keeper: keeper.clone(), socket, listener, file, said: false })
    }

    /// Makes the socket anew if its file is gone or is another one. Conversations that were begun go on.
    pub(super) fn look_after(&mut self, lock: &File) {
        if self.file.is_still(&symlink_metadata(&self.socket)) || self.is_displaced(lock) {
            return;
        }
        match Door::open(&self.keeper) {
            Ok(door) => {
                tracing::warn!("{} was removed or replaced; it is made anew", self.socket.display());
                let old = std::mem::replace(self, door);
                // Nobody finds it any more; this ends the thread that waits there.
                if let Err(e) = shutdown(old.listener.as_raw_fd(), Shutdown::Read) {
                    tracing::debug!("the old socket stays open: {e}");
                }
            }
            Err(e) if !self.said => {
                self.said = true;
                tracing::error!("the keeper's socket was removed or replaced and cannot be made anew yet: {e}");
            }
            Err(_) => {}
        }
    }

    /// Whether another file is in the lock's place: then another keeper may hold the root by that one, and two must not take the
    /// socket from each other again and again.
    fn is_displaced(&self, lock: &File) -> bool {
        match (lock.metadata(), metadata(self.keeper.layout.keeper_lock())) {
            (Ok(own), Ok(there)) => FileId::of(&own) != FileId::of(&there),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::{KeeperConfig, Launcher, lock_root};
    use crate::layout::Layout;
    use crate::wire::Connection;
    use parking_lot::Mutex;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc;

    #[test]
    fn a_socket_that_was_removed_or_replaced_is_made_anew_unless_the_lock_is_another_keepers() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(dir.path());
        layout.prepare().expect("prepared");
        let lock = lock_root(&layout).expect("locked");
        let worker = Launcher { program: "/bin/false".into(), args: Vec::new(), env: Vec::new() };
        let keeper = Arc::new(Keeper {
            config: KeeperConfig { root: dir.path().to_owned(), worker, resend: true },
            layout: layout.clone(),
            slots: Mutex::default(),
            unadopted: Mutex::default(),
            record: Mutex::new(()),
            stop: mpsc::channel().0,
        });
        let mut door = Door::open(&keeper).expect("listens");
        let socket = layout.keeper_socket();
        let begun = Connection::connect(&socket).expect("answered");
        let list = |connection: &Connection| connection.ask::<_, serde_json::Value>(&crate::protocol::KeeperRequest::List, &[]);

        let file = door.file;
        door.look_after(&lock);
        assert_eq!(door.file, file, "nothing to do");
        std::fs::remove_file(&socket).expect("removed");
        door.look_after(&lock);
        list(&Connection::connect(&socket).expect("answered again")).expect("a list");
        std::fs::remove_file(&socket).expect("removed");
        std::fs::write(&socket, "in its place").expect("written");
        door.look_after(&lock);
        list(&Connection::connect(&socket).expect("answered again")).expect("a list");
        list(&begun).expect("what was begun goes on");
        let mode = std::fs::metadata(&socket).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        std::fs::remove_file(&socket).expect("removed");
        std::fs::remove_file(layout.keeper_lock()).expect("removed");
        let other = lock_root(&layout).expect("another keeper's");
        door.look_after(&lock);
        assert!(!socket.exists(), "it is the other one's now");
        drop(other);
    }
}
