//! Reading `VOLUME:/path` below a mountpoint: the path is resolved as if the volume were the whole world, so that no
//! ".." and no symbolic link in it leads to the host's files.

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, fstatat};
use orlop_model::{Error, ErrorKind, Result};
use serde::Serialize;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Regular file.
    File,
    /// Folder.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// One entry of a folder of a volume.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name; of a listed file the file's own.
    pub name: OsString,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Number of names.
    pub links: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Last change of contents, seconds since 1970.
    pub mtime: i64,
    /// Where a symbolic link points.
    pub target: Option<OsString>,
}

fn refused(mountpoint: &Path, path: &Path, e: nix::errno::Errno) -> Error {
    use nix::errno::Errno;
    let path = path.display();
    let message = format!("{path}: {e}");
    match e {
        Errno::ENOENT => Error::not_found(format!("{path} does not exist in the volume")),
        Errno::ENOTDIR => Error::invalid(format!("{path}: a part of it is not a folder")),
        Errno::ELOOP => Error::invalid(format!("{path}: too many symbolic links")),
        Errno::ENAMETOOLONG => Error::invalid(format!("{path}: a name in it is too long")),
        Errno::EACCES | Errno::EPERM => Error::new(ErrorKind::Denied, message),
        Errno::ENOTCONN => Error::unavailable(format!("{} is not served: {e}", mountpoint.display())),
        _ => Error::internal(message),
    }
}

fn resolve(mountpoint: &Path, path: &Path, flags: OFlag) -> Result<OwnedFd> {
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(Error::invalid(format!("{path:?} has a zero byte in it")));
    }
    let root = File::open(mountpoint).map_err(|e| Error::io(format_args!("opening {}", mountpoint.display()), &e))?;
    let relative = if path.as_os_str().is_empty() { Path::new("/") } else { path };
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root.as_fd(), relative, how).map_err(|e| refused(mountpoint, path, e))
}

fn entry(name: OsString, stat: &FileStat, target: Option<OsString>) -> Entry {
    let kind = match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => EntryKind::Directory,
        libc::S_IFLNK => EntryKind::Symlink,
        libc::S_IFIFO => EntryKind::Fifo,
        libc::S_IFSOCK => EntryKind::Socket,
        libc::S_IFCHR => EntryKind::CharDevice,
        libc::S_IFBLK => EntryKind::BlockDevice,
        _ => EntryKind::File,
    };
    Entry {
        name,
        kind,
        mode: stat.st_mode & 0o7777,
        links: stat.st_nlink,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: stat.st_mtime,
        target,
    }
}

/// The entries of a folder by name, without "." and ".."; of anything else, itself alone. A symbolic link at the end
/// of the path is followed. Names are any bytes.
pub fn list(mountpoint: &Path, path: impl AsRef<Path>) -> Result<Vec<Entry>> {
    let path = path.as_ref();
    let found = resolve(mountpoint, path, OFlag::O_PATH)?;
    let stat = nix::sys::stat::fstat(found.as_fd()).map_err(|e| refused(mountpoint, path, e))?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_owned();
        return Ok(vec![entry(name, &stat, None)]);
    }
    let dir = resolve(mountpoint, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    let listing = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    let names = std::fs::read_dir(&listing).map_err(|e| Error::io(format_args!("listing {}", path.display()), &e))?;
    let mut entries = Vec::new();
    for name in names {
        let name = name.map_err(|e| Error::io(format_args!("listing {}", path.display()), &e))?.file_name();
        let stat = match fstatat(dir.as_fd(), name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Removed while the folder was read.
            Err(nix::errno::Errno::ENOENT) => continue,
            Err(e) => return Err(refused(mountpoint, path, e)),
        };
        let link = stat.st_mode & libc::S_IFMT == libc::S_IFLNK;
        let target = if link { nix::fcntl::readlinkat(dir.as_fd(), name.as_os_str()).ok() } else { None };
        entries.push(entry(name, &stat, target));
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Opens a regular file for reading.
pub fn open(mountpoint: &Path, path: impl AsRef<Path>) -> Result<File> {
    let path = path.as_ref();
    let shown = path.display();
    // Looked at first and not to block: to open a pipe waits for its other end, and to open a device may do anything.
    let found = resolve(mountpoint, path, OFlag::O_PATH)?;
    let stat = nix::sys::stat::fstat(found.as_fd()).map_err(|e| refused(mountpoint, path, e))?;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => {}
        libc::S_IFDIR => return Err(Error::invalid(format!("{shown} is a folder")).with_remedy("list it with: orlop ls")),
        _ => return Err(Error::invalid(format!("{shown} is not a regular file"))),
    }
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(|e| Error::io(format_args!("opening {shown}"), &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn no_path_leads_out_of_the_volume() {
        let dir = std::env::temp_dir().join(format!("orlop-inside-{}", std::process::id()));
        let (volume, secret) = (dir.join("volume"), dir.join("secret"));
        std::fs::create_dir_all(volume.join("etc")).expect("folders");
        std::fs::write(&secret, "host").expect("secret");
        std::fs::write(volume.join("etc/passwd"), "volume").expect("file");
        std::os::unix::fs::symlink("/etc/passwd", volume.join("absolute")).expect("link");
        std::os::unix::fs::symlink("../../../../../secret", volume.join("etc/up")).expect("link");
        let read = |path: &str| {
            let mut text = String::new();
            open(&volume, path).and_then(|mut f| f.read_to_string(&mut text).map_err(|e| Error::io("read", &e))).map(|_| text)
        };
        for path in ["/etc/passwd", "etc/passwd", "absolute", "/../../etc/passwd", "etc/../absolute"] {
            assert_eq!(read(path).expect(path), "volume", "{path}");
        }
        for path in ["etc/up", "../secret", "/nothing"] {
            assert_eq!(read(path).expect_err(path).kind, ErrorKind::NotFound, "{path}");
        }
        assert_eq!(read("etc").expect_err("folder").kind, ErrorKind::InvalidArgument);
        let names: Vec<_> = list(&volume, "/").expect("lists").into_iter().map(|e| (e.name, e.kind)).collect();
        assert_eq!(names, [("absolute".into(), EntryKind::Symlink), ("etc".into(), EntryKind::Directory)]);
        assert_eq!(list(&volume, "absolute").expect("follows").len(), 1);
        assert_eq!(list(&volume, "etc").expect("lists")[1].target, Some("../../../../../secret".into()));
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
