//! Pages that the kernel has and the volume has not: changed through mappings, or not written back yet.
//!
//! The kernel sends them as ordinary writes while it is told to give them up, so whoever tells it must not be a thread
//! that answers requests.

use crate::kernel::abi::invalidate_notice;
use orlop_chunkfs::Ino;
use std::io;
use std::os::fd::OwnedFd;

/// Tells the kernel to give up pages of a file, changed ones by writing them first. Waits until those writes are answered.
pub(super) fn invalidate(device: &OwnedFd, ino: Ino, start: u64, length: u64) -> io::Result<()> {
    let notice = invalidate_notice(ino, start as i64, length as i64);
    nix::unistd::write(device, &notice)?;
    Ok(())
}

/// Tells the kernel that the attributes of a file are not to be relied on. Pages stay as they are.
pub(crate) fn forget_attributes(device: &OwnedFd, ino: Ino) -> io::Result<()> {
    nix::unistd::write(device, &invalidate_notice(ino, -1, 0))?;
    Ok(())
}

/// Has the kernel write all it has of these inodes, as far as it holds them. syncfs does not do: it starts the writes
/// of a FUSE file system, and does not wait for their answers.
pub(crate) fn write_pages(device: &OwnedFd, inodes: impl Iterator<Item = Ino>) -> io::Result<()> {
    for ino in inodes {
        let Err(e) = invalidate(device, ino, 0, 0) else { continue };
        match e.raw_os_error() {
            // The kernel does not hold it.
            Some(libc::ENOENT) => {}
            Some(libc::ENODEV) => return Err(e),
            _ => tracing::warn!("having the pages of inode {ino} written: {e}"),
        }
    }
    Ok(())
}
