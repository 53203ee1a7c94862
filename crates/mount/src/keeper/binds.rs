//! A volume in another folder: `orlop mount VOLUME DIR`.

use super::Keeper;
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

impl Keeper {
    fn bound_at(&self, dir: &Path) -> Option<(VolumeId, String, Bound)> {
        self.all().iter().find_map(|slot| {
            slot.look(|v| v.binds.iter().find(|b| Path::new(&b.dir) == dir).map(|b| (slot.id, v.plan.name.to_string(), b.clone())))?
        })
    }

    pub(super) fn bind(&self, id: VolumeId, dir: &str, read_only: bool) -> Result<()> {
        let slot = self.slot(id);
        let _turn = slot.turn.lock();
        let Some((name, point, mounted, dead)) =
            slot.look(|v| (v.plan.name.clone(), v.mountpoint(), v.mounted, fuse_device_is_dead(v.device.as_fd())))
        else {
            return Err(Error::not_found(format!("volume {id} is not attached")));
        };
        if dead {
            return Err(Error::unavailable(format!("volume {name} is being unmounted")));
        }
        let dir = real_folder(dir)?;
        if let Some((other, other_name, bound)) = self.bound_at(&dir) {
            return match other == id {
                true if bound.read_only == read_only => Ok(()),
                true => Err(Error::new(
                    ErrorKind::Busy,
                    format!("volume {name} is mounted on {} {}", dir.display(), if bound.read_only { "read-only" } else { "writable" }),
                )
                .with_remedy(format!("orlop unmount {} first", dir.display()))),
                false => Err(Error::new(ErrorKind::Busy, format!("volume {other_name} is mounted on {}", dir.display()))
                    .with_remedy(format!("orlop unmount {} first, or name another folder", dir.display()))),
            };
        }
        let own = table::own().map_err(|e| Error::io("reading the mount table", &e))?;
        if table::containing(&own, &dir).is_some_and(|m| m.device == mounted) {
            return Err(
                Error::invalid(format!("{} lies in volume {name} itself", dir.display())).with_remedy("name a folder outside of it")
            );
        }
        if dir.starts_with(self.layout.root()) {
            return Err(Error::invalid(format!("{} lies in Orlop's own folder {}", dir.display(), self.layout.root().display()))
                .with_remedy("name a folder outside of it"));
        }
        mount::bind(&point, &dir, read_only)?;
        let bound = Bound { dir: dir.to_string_lossy().into_owned(), read_only };
        tracing::info!(volume = %name, dir = %bound.dir, read_only, "bound");
        slot.change(|v| v.binds.push(bound));
        self.save();
        Ok(())
    }

    pub(super) fn unbind(&self, dir: &str) -> Result<()> {
        let named = PathBuf::from(dir);
        // Only the way to the folder is resolved: to look at the folder itself is to ask its worker.
        let real = match (named.parent().map(std::fs::canonicalize), named.file_name()) {
            (Some(Ok(parent)), Some(name)) => parent.join(name),
            _ => named.clone(),
        };
        let found = self.bound_at(&named).or_else(|| self.bound_at(&real)).or_else(|| {
            let resolved = std::fs::canonicalize(&named).ok()?;
            self.bound_at(&resolved)
        });
        let Some((id, name, bound)) = found else { return Ok(()) };
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
                        .with_remedy("stop what uses it and try again"));
                }
            }
            // Somebody unmounted it by hand.
            _ => {}
        }
        slot.change(|v| v.binds.retain(|b| b.dir != bound.dir));
        self.save();
        Ok(())
    }
}
