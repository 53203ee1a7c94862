//! The keeper's socket. Whoever removes its file locks everybody out of a keeper that lives and holds its root: no other one
//! can start, and nobody reaches this one. So it is made anew.

use super::{Keeper, lock_root};
use crate::listening::Listening;
use nix::fcntl::Flock;
use orlop_model::{Error, ErrorKind, FileId, Result};
use std::fs::{DirBuilder, File, Permissions, metadata, set_permissions, symlink_metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

/// A socket at which the keeper answers.
pub(super) struct Door {
    keeper: Arc<Keeper>,
    listening: Listening,
    /// The mode of the socket's folder, which others may have to pass.
    folder_mode: u32,
    /// Whether it was said that the socket cannot be made anew.
    said: bool,
}

impl Door {
    /// Listens, and answers on a thread of its own.
    pub(super) fn open(keeper: &Arc<Keeper>) -> Result<Door> {
        let socket = keeper.layout.keeper_socket();
        refuse_obstacle(&socket)?;
        let run = keeper.layout.run();
        let folder_mode = metadata(&run).map_err(|e| Error::io(run.display(), &e))?.permissions().mode() & 0o7777;
        let served = keeper.clone();
        let listening = Listening::start(socket, "accept", move |connection| served.converse(&connection))?;
        Ok(Door { keeper: keeper.clone(), listening, folder_mode, said: false })
    }

    /// Makes the socket anew if its file is gone or is another one, and what went with it: its folder, the lock, the record.
    /// Conversations that were begun go on.
    pub(super) fn look_after(&mut self, lock: &mut Flock<File>) {
        if self.listening.stands() || self.is_displaced(lock) {
            return;
        }
        match self.anew(lock) {
            Ok(door) => std::mem::replace(self, door).listening.end(),
            Err(e) if !self.said => {
                self.said = true;
                tracing::error!("the keeper's socket was removed or replaced and cannot be made anew yet: {e}");
            }
            Err(_) => {}
        }
    }

    fn anew(&self, lock: &mut Flock<File>) -> Result<Door> {
        let layout = &self.keeper.layout;
        make_folder(&layout.run(), self.folder_mode)?;
        if is_missing(&layout.keeper_lock()) {
            *lock = lock_root(layout)?;
        }
        let door = Door::open(&self.keeper)?;
        if is_missing(&layout.record()) {
            self.keeper.save();
        }
        Ok(door)
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

fn is_missing(path: &Path) -> bool {
    symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// Makes the folder of a socket if it is gone. Its root is not made: without that nothing is left to keep or to serve.
pub fn make_folder(dir: &Path, mode: u32) -> Result<()> {
    let made = DirBuilder::new().mode(mode).create(dir).and_then(|()| set_permissions(dir, Permissions::from_mode(mode)));
    match made {
        // Keeper or daemon, each of which does it, was faster; or it was never gone.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|e| Error::io(format_args!("making {}", dir.display()), &e)),
    }
}

/// A socket takes the place of any file, but not of a folder.
pub(super) fn refuse_obstacle(socket: &Path) -> Result<()> {
    if !symlink_metadata(socket).is_ok_and(|there| there.is_dir()) {
        return Ok(());
    }
    let socket = socket.display();
    Err(Error::new(ErrorKind::Unavailable, format!("a folder is in the place of the keeper's socket {socket}"))
        .with_remedy(format!("remove it: rm -r {socket}; the socket is made within a second then")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::{KeeperConfig, Launcher};
    use crate::layout::Layout;
    use crate::wire::Connection;
    use parking_lot::Mutex;
    use std::sync::mpsc;

    #[test]
    fn a_socket_that_was_removed_or_replaced_is_made_anew_unless_the_lock_is_another_keepers() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(dir.path());
        layout.prepare().expect("prepared");
        let mut lock = lock_root(&layout).expect("locked");
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

        let file = door.listening.file;
        door.look_after(&mut lock);
        assert_eq!(door.listening.file, file, "nothing to do");
        std::fs::remove_file(&socket).expect("removed");
        door.look_after(&mut lock);
        list(&Connection::connect(&socket).expect("answered again")).expect("a list");
        std::fs::remove_file(&socket).expect("removed");
        std::fs::write(&socket, "in its place").expect("written");
        door.look_after(&mut lock);
        list(&Connection::connect(&socket).expect("answered again")).expect("a list");
        list(&begun).expect("what was begun goes on");
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&socket), 0o600);

        set_permissions(layout.run(), Permissions::from_mode(0o711)).expect("opened");
        std::fs::remove_file(&socket).expect("removed");
        door.look_after(&mut lock);
        std::fs::remove_dir_all(layout.run()).expect("removed");
        door.look_after(&mut lock);
        list(&Connection::connect(&socket).expect("answered again")).expect("a list");
        assert_eq!(mode(&layout.run()), 0o711, "who passed it before passes it again");
        assert!(lock_root(&layout).is_err(), "the root is held by a lock that others find");

        std::fs::remove_file(&socket).expect("removed");
        std::fs::create_dir(&socket).expect("in its place");
        let error = door.anew(&mut lock).map(drop).expect_err("a folder is there");
        assert!(error.message.contains("keeper.sock") && error.remedy.is_some_and(|r| r.contains("rm -r")));
        let left: Vec<_> = std::fs::read_dir(layout.run()).expect("reads").flatten().map(|e| e.file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("keeper.sock.")), "{left:?}");
        std::fs::remove_dir(&socket).expect("removed");
        door.look_after(&mut lock);
        list(&Connection::connect(&socket).expect("answered again")).expect("a list");

        std::fs::remove_file(&socket).expect("removed");
        std::fs::remove_file(layout.keeper_lock()).expect("removed");
        let other = lock_root(&layout).expect("another keeper's");
        door.look_after(&mut lock);
        assert!(!socket.exists(), "it is the other one's now");
        drop(other);
    }
}
