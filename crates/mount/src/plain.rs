//! Plain volumes on this host: ordinary folders, shown in other folders by bind mounts. No process serves them and
//! nothing remembers them here; the kernel's mount tables are the truth.

use crate::kernel::mount::{self, Unmounted};
use crate::kernel::table::{self, Mount};
use crate::protocol::Bound;
use orlop_model::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// A folder as mount tables name it: a file system, and the way to the folder from that file system's root.
struct Place {
    device: table::Device,
    way: PathBuf,
    /// Whether a file system is mounted on the folder itself.
    is_mountpoint: bool,
}

impl Place {
    fn of(folder: &Path, own: &[Mount]) -> Option<Place> {
        let real = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let holds = table::containing(own, &real)?;
        let below = real.strip_prefix(&holds.point).ok()?;
        let way = if below.as_os_str().is_empty() { holds.root.clone() } else { holds.root.join(below) };
        Some(Place { device: holds.device, way, is_mountpoint: below.as_os_str().is_empty() })
    }

    fn is_shown_by(&self, m: &Mount) -> bool {
        m.device == self.device && m.root == self.way
    }
}

fn own() -> Result<Vec<Mount>> {
    table::own().map_err(|e| Error::io("reading the mount table", &e))
}

fn place(folder: &Path, own: &[Mount]) -> Result<Place> {
    Place::of(folder, own).ok_or_else(|| Error::internal(format!("{} lies in no mounted file system", folder.display())))
}

/// Shows the folder in another one. Where it is shown in the same way already nothing changes.
pub fn bind(folder: &Path, dir: &str, read_only: bool) -> Result<Bound> {
    let target = std::fs::canonicalize(dir).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(format!("folder {dir} does not exist")).with_remedy(format!("mkdir -p {dir}")),
        _ => Error::io(format_args!("looking at {dir}"), &e),
    })?;
    let real = folder.canonicalize().map_err(|e| Error::io(format_args!("looking at {}", folder.display()), &e))?;
    if !target.is_dir() {
        return Err(Error::invalid(format!("{dir} is not a folder")).with_remedy("name an existing folder"));
    }
    let own = own()?;
    let place = place(&real, &own)?;
    let bound = Bound { dir: target.to_string_lossy().into_owned(), read_only };
    match table::topmost(&own, &target) {
        // The folder on itself is no bind of ours.
        Some(top) if target != real && place.is_shown_by(top) => {
            if top.read_only == read_only {
                return Ok(bound);
            }
            let how = if top.read_only { "read-only" } else { "writable" };
            return Err(Error::new(ErrorKind::Busy, format!("the volume is mounted on {} {how}", bound.dir))
                .with_remedy(format!("orlop unmount {} first", bound.dir)));
        }
        _ => {}
    }
    if target.starts_with(&real) || real.starts_with(&target) {
        return Err(Error::invalid(format!("{} and the volume's folder {} lie in one another", target.display(), real.display()))
            .with_remedy("name a folder outside of it"));
    }
    mount::bind(&real, &target, read_only)?;
    Ok(bound)
}

/// Takes the folder out of another one. Where it is not shown: succeeds, and touches nothing.
pub fn unbind(folder: &Path, dir: &str, lazily: bool) -> Result<()> {
    let own = own()?;
    let place = place(folder, &own)?;
    let point = Path::new(dir);
    match table::topmost(&own, point) {
        Some(top) if place.is_shown_by(top) => {
            if lazily {
                return mount::unmount_lazily(point);
            }
            match mount::unmount(point)? {
                Unmounted::Gone | Unmounted::Nothing => Ok(()),
                Unmounted::Busy => {
                    Err(Error::new(ErrorKind::Busy, format!("the volume is in use on {dir}"))
                        .with_remedy("stop what uses it and try again"))
                }
            }
        }
        Some(_) if own.iter().any(|m| m.point == point && place.is_shown_by(m)) => {
            Err(Error::new(ErrorKind::Busy, format!("something is mounted over {dir}")).with_remedy("unmount that first"))
        }
        _ => Ok(()),
    }
}

/// Those of the binds that exist now.
pub fn existing(folder: &Path, binds: &[Bound]) -> Result<Vec<Bound>> {
    let own = own()?;
    let place = place(folder, &own)?;
    let there = |b: &&Bound| own.iter().any(|m| m.point == Path::new(&b.dir) && place.is_shown_by(m));
    Ok(binds.iter().filter(there).cloned().collect())
}

/// Whether somebody else shows the folder, or one below it: a container, for one. When in doubt, true.
pub fn used_elsewhere(folder: &Path, binds: &[Bound]) -> bool {
    let Ok(own) = table::own() else { return true };
    let Some(place) = Place::of(folder, &own) else { return true };
    let real = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let ours = |m: &Mount| binds.iter().any(|b| m.point == Path::new(&b.dir));
    // A file system that is mounted on the folder itself is seen there by every namespace that has a copy of the table.
    let itself = |m: &Mount| place.is_mountpoint && m.point == real;
    let shows = |m: &Mount| m.device == place.device && m.root.starts_with(&place.way) && !itself(m);
    let groups: Vec<u32> = own.iter().filter(|m| ours(m) && shows(m)).flat_map(|m| m.peers.clone()).collect();
    let copy = |m: &Mount| ours(m) && m.peers.iter().any(|p| groups.contains(p));
    let Ok(others) = table::others() else { return true };
    own.iter().any(|m| shows(m) && !ours(m)) || others.iter().any(|ns| ns.mounts.iter().any(|m| shows(m) && !copy(m)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_known_by_its_file_system_and_the_way_in_it() {
        let own = table::parse(
            "27 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n\
             30 27 254:0 /srv/plain/v /mnt/x ro shared:1 - ext4 /dev/vda rw\n\
             31 27 0:50 / /srv/nfs rw shared:9 - nfs4 host:/ rw\n",
        );
        let at = |folder: &str| Place::of(Path::new(folder), &own).expect("a place");
        assert!(at("/srv/plain/v").is_shown_by(&own[1]) && !at("/srv/plain/w").is_shown_by(&own[1]));
        assert_eq!(at("/srv/plain/v").way, Path::new("/srv/plain/v"));
        assert_eq!((at("/srv/nfs/a").way, at("/srv/nfs").is_mountpoint), (PathBuf::from("/a"), true));
        assert_eq!(at("/mnt/x/deep").way, Path::new("/srv/plain/v/deep"), "through a bind it is the same folder");
    }
}
