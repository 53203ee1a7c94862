//! A folder as the place that a volume is read out to: owners, modes, times and attributes as far as this user may set them.

use super::read::{Content, Sink, Xattrs};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{FchownatFlags, Gid, Uid, fchownat};
use orlop_chunkfs::{Attr, FileKind};
use orlop_model::{Error, Result, VolumeId};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// How the name of a file begins that is being written.
const PARTIAL: &str = ".orlop-partial-";

pub(super) struct Folder {
    root: PathBuf,
    /// Where a file is while it is being written: what has its name is whole, also when this is killed.
    partial: PathBuf,
    /// Folders get their attributes last: what is written to them would change their times.
    folders: Vec<(PathBuf, Attr, Xattrs)>,
    /// What could not be kept, and how often.
    lost: BTreeMap<&'static str, u64>,
}

impl Folder {
    pub(super) fn create(root: &Path) -> Result<Folder> {
        let failed = |e: std::io::Error| Error::io(format_args!("making {}", root.display()), &e);
        match std::fs::create_dir(root) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                if std::fs::read_dir(root).map_err(failed)?.next().is_some() {
                    return Err(Error::new(orlop_model::ErrorKind::AlreadyExists, format!("{} is not empty", root.display()))
                        .with_remedy("give an empty folder, or one that does not exist yet"));
                }
            }
            done => done.map_err(failed)?,
        }
        let partial = root.join(format!("{PARTIAL}{}", VolumeId::random()));
        Ok(Folder { root: root.to_owned(), partial, folders: Vec::new(), lost: BTreeMap::new() })
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// Owner, attributes, mode and times, in this order: the first takes set-id bits away, and each changes the times.
    fn dress(&mut self, at: &Path, attr: &Attr, xattrs: &Xattrs) -> Result<()> {
        let failed = |e: Errno| Error::io(format_args!("attributes of {}", at.display()), &e.into());
        match fchownat(AT_FDCWD, at, Some(Uid::from_raw(attr.uid)), Some(Gid::from_raw(attr.gid)), FchownatFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EPERM) => *self.lost.entry("owners: run it as root to keep them").or_default() += 1,
            Err(e) => return Err(failed(e)),
        }
        for (name, value) in xattrs {
            if set_xattr(at, name, value).is_err() {
                *self.lost.entry("extended attributes that the folder's file system does not take").or_default() += 1;
            }
        }
        if attr.kind != FileKind::Symlink {
            let mode = std::fs::Permissions::from_mode(attr.perm & 0o7777);
            std::fs::set_permissions(at, mode).map_err(|e| Error::io(format_args!("mode of {}", at.display()), &e))?;
        }
        let time = |t: orlop_chunkfs::Time| TimeSpec::new(t.sec, i64::from(t.nsec));
        match utimensat(AT_FDCWD, at, &time(attr.atime), &time(attr.mtime), UtimensatFlags::NoFollowSymlink) {
            Ok(()) => Ok(()),
            Err(Errno::EINVAL) => {
                *self.lost.entry("times that the folder's file system cannot hold").or_default() += 1;
                Ok(())
            }
            Err(e) => Err(failed(e)),
        }
    }
}

fn set_xattr(at: &Path, name: &[u8], value: &[u8]) -> std::io::Result<()> {
    let flags = rustix::fs::XattrFlags::empty();
    Ok(rustix::fs::lsetxattr(at, OsStr::from_bytes(name), value, flags)?)
}

/// The parts of a device number as the kernel's FUSE has them.
fn device(rdev: u32) -> u64 {
    let (major, minor) = ((rdev & 0xf_ff00) >> 8, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00));
    makedev(u64::from(major), u64::from(minor))
}

impl Sink for Folder {
    fn folder(&mut self, path: &Path, attr: &Attr, xattrs: &Xattrs) -> Result<()> {
        let at = self.at(path);
        if !path.as_os_str().is_empty() {
            std::fs::create_dir(&at).map_err(|e| Error::io(format_args!("making {}", at.display()), &e))?;
        }
        self.folders.push((at, *attr, xattrs.clone()));
        Ok(())
    }

    fn begin_file(&mut self, _path: &Path) -> Result<File> {
        let at = &self.partial;
        File::options().write(true).create_new(true).open(at).map_err(|e| Error::io(format_args!("making {}", at.display()), &e))
    }

    fn end_file(&mut self, path: &Path, file: File, attr: &Attr, xattrs: &Xattrs, _content: &Content) -> Result<()> {
        drop(file);
        let at = self.at(path);
        self.dress(&self.partial.clone(), attr, xattrs)?;
        std::fs::rename(&self.partial, &at).map_err(|e| Error::io(format_args!("making {}", at.display()), &e))
    }

    fn link(&mut self, path: &Path, first: &Path, _attr: &Attr) -> Result<()> {
        let (first, at) = (self.at(first), self.at(path));
        std::fs::hard_link(&first, &at).map_err(|e| Error::io(format_args!("linking {}", at.display()), &e))
    }

    fn symlink(&mut self, path: &Path, target: &[u8], attr: &Attr, xattrs: &Xattrs) -> Result<()> {
        let at = self.at(path);
        std::os::unix::fs::symlink(OsStr::from_bytes(target), &at).map_err(|e| Error::io(format_args!("making {}", at.display()), &e))?;
        self.dress(&at, attr, xattrs)
    }

    fn node(&mut self, path: &Path, attr: &Attr, xattrs: &Xattrs) -> Result<bool> {
        let at = self.at(path);
        let kind = match attr.kind {
            FileKind::Fifo => SFlag::S_IFIFO,
            FileKind::CharDevice => SFlag::S_IFCHR,
            FileKind::BlockDevice => SFlag::S_IFBLK,
            _ => SFlag::S_IFSOCK,
        };
        match mknod(&at, kind, Mode::from_bits_truncate(attr.perm & 0o7777), device(attr.rdev)) {
            Ok(()) => self.dress(&at, attr, xattrs).map(|()| true),
            Err(Errno::EPERM) => {
                *self.lost.entry("devices: run it as root to make them").or_default() += 1;
                Ok(false)
            }
            Err(e) => Err(Error::io(format_args!("making {}", at.display()), &e.into())),
        }
    }

    fn finish(&mut self) -> Result<Vec<String>> {
        for (at, attr, xattrs) in std::mem::take(&mut self.folders).into_iter().rev() {
            self.dress(&at, &attr, &xattrs)?;
        }
        // Whoever is told that it is read out may throw the volume away.
        let synced = File::open(&self.root).and_then(|root| Ok(rustix::fs::syncfs(root)?));
        synced.map_err(|e| Error::io(format_args!("writing {} to the disk", self.root.display()), &e))?;
        Ok(self.lost.iter().map(|(what, n)| format!("not kept in {n} cases: {what}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_of_any_width_come_apart() {
        for (major, minor) in [(1u64, 3u64), (8, 0), (259, 255), (4095, 1_048_575)] {
            let rdev = ((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)) as u32;
            assert_eq!(device(rdev), makedev(major, minor), "{major}:{minor}");
        }
    }
}
