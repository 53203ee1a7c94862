//! mount(2) and umount(2) as the keeper needs them: a FUSE mount on a folder, a bind mount of a volume, and the
//! two ways to take one away.

use crate::kernel::init::MAX_IO;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use orlop_model::{Error, ErrorKind, Result};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// The file system type under which volumes stand in the mount table.
pub(crate) const FSTYPE: &str = "fuse.orlop";

/// Opens a fresh FUSE connection.
pub(crate) fn open_device() -> Result<OwnedFd> {
    OpenOptions::new().read(true).write(true).open("/dev/fuse").map(OwnedFd::from).map_err(|e| {
        Error::new(ErrorKind::Unsupported, format!("opening /dev/fuse: {e}"))
            .with_remedy("load the kernel's fuse module (modprobe fuse) and run as root, in a container with --device /dev/fuse")
    })
}

/// Mounts a fresh FUSE connection on a folder. The kernel's INIT waits on the device afterwards.
pub(crate) fn mount_fuse(device: &OwnedFd, source: &str, point: &Path) -> Result<()> {
    // Devices and set-id programs work in a volume, as they do in Docker's own volumes.
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read={MAX_IO}", device.as_raw_fd());
    mount(Some(source), point, Some(FSTYPE), MsFlags::empty(), Some(data.as_str())).map_err(|e| refused("mounting on", point, e))?;
    // Shared, so that a container that binds the volume's folder with propagation may do so.
    if let Err(e) = mount(None::<&str>, point, None::<&str>, MsFlags::MS_SHARED, None::<&str>) {
        let _ = umount2(point, MntFlags::MNT_DETACH);
        return Err(refused("sharing the mount on", point, e));
    }
    Ok(())
}

/// Shows a mounted volume in another folder too.
pub(crate) fn bind(from: &Path, to: &Path, read_only: bool) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|e| refused("binding to", to, e))?;
    finish(to, read_only)
}

/// A bind that was just made, as it was asked for, or not at all.
fn finish(to: &Path, read_only: bool) -> Result<()> {
    if read_only && let Err(e) = make_read_only(to) {
        let _ = umount2(to, MntFlags::MNT_DETACH);
        return Err(e);
    }
    Ok(())
}

/// The same in a folder on which a dead mount stands: in its place, so that nobody finds the folder bare in between and writes to
/// what is below. On kernels before Linux 6.5 it is bare for a moment.
pub(crate) fn bind_in_place_of_dead(from: &Path, to: &Path, read_only: bool) -> Result<()> {
    let beneath = || {
        let tree = open_tree(CWD, from, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        move_mount(tree, c"", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_BENEATH)
    };
    if let Err(e) = beneath() {
        tracing::debug!("nothing can be mounted beneath what is on {}: {e}", to.display());
        unmount_lazily(to)?;
        return bind(from, to, read_only);
    }
    unmount_lazily(to)?;
    finish(to, read_only)
}

/// Lets nobody write through a bind mount; others of the same volume stay as they are.
pub(crate) fn make_read_only(point: &Path) -> Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, point, None::<&str>, flags, None::<&str>).map_err(|e| refused("making read-only the bind on", point, e))
}

fn refused(what: &str, point: &Path, e: Errno) -> Error {
    let message = format!("{what} {}: {e}", point.display());
    match e {
        Errno::EPERM | Errno::EACCES => Error::new(ErrorKind::Denied, message)
            .with_remedy("Orlop mounts as root with CAP_SYS_ADMIN; start it with sudo or by its systemd unit"),
        Errno::ENODEV => Error::new(ErrorKind::Unsupported, message).with_remedy("load the kernel's fuse module: modprobe fuse"),
        Errno::ENOENT => Error::not_found(message),
        _ => Error::internal(message),
    }
}

/// How an unmount ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unmounted {
    /// It is gone from this namespace.
    Gone,
    /// Nothing was mounted there.
    Nothing,
    /// Somebody uses it.
    Busy,
}

/// Unmounts if nobody uses it.
pub(crate) fn unmount(point: &Path) -> Result<Unmounted> {
    match umount2(point, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(Unmounted::Gone),
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(Unmounted::Nothing),
        Err(Errno::EBUSY) => Ok(Unmounted::Busy),
        Err(e) => Err(refused("unmounting", point, e)),
    }
}

/// Takes a mount out of this namespace, used or not. Users of a living file system go on.
pub(crate) fn unmount_lazily(point: &Path) -> Result<()> {
    match umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(e) => Err(refused("unmounting", point, e)),
    }
}

/// Ends a FUSE mount for everybody: the connection is cut, later calls of its users fail.
pub(crate) fn unmount_by_force(point: &Path) -> Result<()> {
    match umount2(point, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(e) => Err(refused("unmounting", point, e)),
    }
}
