//! A volume in another folder: `orlop mount VOLUME DIR`.

use super::Keeper;
use super::adopt::{clear_dead, is_dead_mount};
use crate::kernel::mount::{self, Unmounted};
use crate::kernel::{holders, table};
use crate::os::fuse_device_is_dead;
use crate::protocol::Bound;
use orlop_model::{Error, ErrorKind, Result, VolumeId};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The folder without symbolic links in it; an error that names what it is if it is no folder.
fn real_folder(dir: &str) -> Result<PathBuf> {
    let path = Path::new(dir);
    if !path.is_absolute() {
        return Err(Error::invalid(format!("{dir:?} is not an absolute path")));
    }
    let real = std::fs::canonicalize(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(format!("folder {dir} does not exist")).with_remedy(format!("mkdir -p {dir}")),
        _ => Error::io(format_args!("looking at {dir}"), &e),
    })?;
    if !real.is_dir() {
        return Err(Error::invalid(format!("{dir} is not a folder")).with_remedy("name an existing folder"));
    }
    if std::str::from_utf8(real.as_os_str().as_bytes()).is_err() {
        return Err(Error::invalid(format!("the name of folder {} is not UTF-8", real.display())));
    }
    Ok(real)
}

/// The folder with the way to it resolved, and not itself: to look at it is to ask its worker.
fn reached(dir: &str) -> PathBuf {
    let named = PathBuf::from(dir);
    match (named.parent().map(std::fs::canonicalize), named.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => named,
    }
}

fn bound_otherwise(name: &str, dir: &Path, read_only: bool) -> Error {
    let how = if read_only { "read-only" } else { "writable" };
    Error::new(ErrorKind::Busy, format!("volume {name} is mounted on {} {how}", dir.display()))
}

impl Keeper {
    fn bound_at(&self, dir: &Path) -> Option<(VolumeId, String, Bound)> {
        self.all().iter().find_map(|slot| {
            slot.look(|v| v.binds.iter().find(|b| Path::new(&b.dir) == dir).map(|b| (slot.id, v.plan.name.to_string(), b.clone())))?
        })
    }

    /// What a repeated bind is answered, if the record has the folder.
    fn bound_already(&self, id: VolumeId, dir: &Path, read_only: bool) -> Option<Result<()>> {
        let (other, name, bound) = self.bound_at(dir)?;
        Some(match other == id {
            true if bound.read_only == read_only => Ok(()),
            true => Err(bound_otherwise(&name, dir, bound.read_only).with_remedy(format!("orlop unmount {} first", dir.display()))),
            false => Err(Error::new(ErrorKind::Busy, format!("volume {name} is mounted on {}", dir.display()))
                .with_remedy(format!("orlop unmount {} first, or name another folder", dir.display()))),
        })
    }

    pub(super) fn bind(&self, id: VolumeId, dir: &str, read_only: bool) -> Result<()> {
        let slot = self.slot(id);
        let not_attached = || Error::not_found(format!("volume {id} is not attached"));
        {
            // As it is written first: a folder that is bound already is looked at only by asking a worker. Within the turn, so
            // that what the record has is mounted.
            let _turn = slot.turn.lock();
            slot.look(|_| ()).ok_or_else(not_attached)?;
            if let Some(answer) = self.bound_already(id, Path::new(dir), read_only) {
                return answer;
            }
        }
        // Without the turn: it may lie in the volume, whose worker may be dead, and the next one waits for the turn.
        let dead_mount = is_dead_mount(&reached(dir))?;
        let dir = if dead_mount { reached(dir) } else { real_folder(dir)? };
        let _turn = slot.turn.lock();
        let (name, point, mounted, dead) = slot
            .look(|v| (v.plan.name.clone(), v.mountpoint(), v.mounted, fuse_device_is_dead(v.device.as_fd())))
            .ok_or_else(not_attached)?;
        if dead {
            return Err(Error::unavailable(format!("volume {name} is being unmounted")));
        }
        if let Some(answer) = self.bound_already(id, &dir, read_only) {
            return answer;
        }
        let bound = Bound { dir: dir.to_string_lossy().into_owned(), read_only };
        let own = table::own().map_err(|e| Error::io("reading the mount table", &e))?;
        match table::containing(&own, &dir) {
            // Mounted and not in the record: somebody who had begun it did not come to its end.
            Some(m) if m.device == mounted && m.point == dir && m.root == Path::new("/") && dir != point => {
                if m.read_only != read_only {
                    return Err(bound_otherwise(name.as_str(), &dir, m.read_only).with_remedy(format!("umount {} first", dir.display())));
                }
                tracing::info!(volume = %name, dir = %bound.dir, read_only, "it is bound there already");
                slot.change(|v| v.binds.push(bound));
                self.save();
                return Ok(());
            }
            Some(m) if m.device == mounted => {
                return Err(
                    Error::invalid(format!("{} lies in volume {name} itself", dir.display())).with_remedy("name a folder outside of it")
                );
            }
            _ => {}
        }
        if dir.starts_with(self.layout.root()) {
            return Err(Error::invalid(format!("{} lies in Orlop's own folder {}", dir.display(), self.layout.root().display()))
                .with_remedy("name a folder outside of it"));
        }
        // The record first: a keeper that dies in between leaves no mount that nobody knows of, and the next one drops a record
        // without a mount.
        slot.change(|v| v.binds.push(bound.clone()));
        self.save();
        let done = if dead_mount { mount::bind_in_place_of_dead(&point, &dir, read_only) } else { mount::bind(&point, &dir, read_only) };
        if let Err(e) = done {
            slot.change(|v| v.binds.retain(|b| *b != bound));
            self.save();
            return Err(e);
        }
        tracing::info!(volume = %name, dir = %bound.dir, read_only, "bound");
        Ok(())
    }

    pub(super) fn unbind(&self, dir: &str) -> Result<()> {
        let (named, real) = (PathBuf::from(dir), reached(dir));
        let found = self.bound_at(&named).or_else(|| self.bound_at(&real)).or_else(|| {
            let resolved = std::fs::canonicalize(&named).ok()?;
            self.bound_at(&resolved)
        });
        let Some((id, name, bound)) = found else { return clear_dead(&real) };
        let slot = self.slot(id);
        let _turn = slot.turn.lock();
        let Some(mounted) = slot.look(|v| v.mounted) else { return Ok(()) };
        let point = Path::new(&bound.dir);
        let own = table::own().map_err(|e| Error::io("reading the mount table", &e))?;
        match table::topmost(&own, point) {
            Some(top) if top.device != mounted && own.iter().any(|m| m.device == mounted && m.point == point) => {
                return Err(
                    Error::new(ErrorKind::Busy, format!("something is mounted over {}", bound.dir)).with_remedy("unmount that first")
                );
            }
            // Unmounting is done here, it is no condition of the arm.
            #[allow(clippy::collapsible_match)]
            Some(top) if top.device == mounted => {
                if mount::unmount(point)? == Unmounted::Busy {
                    let users = holders::of(mounted);
                    let users = if users.is_empty() { "the kernel says so".to_owned() } else { users.join(", ") };
                    return Err(Error::new(ErrorKind::Busy, format!("volume {name} is in use on {}: {users}", bound.dir))
                        .with_remedy("stop what uses it and try again; with --force its last folder goes all the same, and cuts it off"));
                }
            }
            // Somebody unmounted it by hand.
            _ => {}
        }
        slot.change(|v| v.binds.retain(|b| b.dir != bound.dir));
        self.save();
        clear_dead(point)
    }
}
