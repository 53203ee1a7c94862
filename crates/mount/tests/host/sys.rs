//! System calls that the standard library has no name for, in the form in which tests want them.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no zero byte")
}

fn check(rc: isize) -> io::Result<usize> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc as usize) }
}

pub(crate) fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.expect_err("refused").raw_os_error().expect("a number")
}

pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8], flags: i32) -> io::Result<()> {
    let (path, name) = (c(path), CString::new(name).expect("no zero byte"));
    // SAFETY: both strings end with zero, and `value` is as long as is said.
    let rc = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    check(rc as isize).map(drop)
}

/// The value, read into a buffer of `size` bytes; with 0 only its length is asked for.
pub(crate) fn get_xattr(path: &Path, name: &str, size: usize) -> io::Result<(usize, Vec<u8>)> {
    let (path, name) = (c(path), CString::new(name).expect("no zero byte"));
    let mut value = vec![0u8; size];
    // SAFETY: both strings end with zero, and the buffer is `size` bytes long.
    let n = check(unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), size) })?;
    value.truncate(n);
    Ok((n, value))
}

pub(crate) fn list_xattr(path: &Path) -> io::Result<Vec<String>> {
    let path = c(path);
    let mut value = vec![0u8; 4096];
    // SAFETY: the string ends with zero, and the buffer is as long as is said.
    let n = check(unsafe { libc::llistxattr(path.as_ptr(), value.as_mut_ptr().cast(), value.len()) })?;
    Ok(value[..n].split(|b| *b == 0).filter(|s| !s.is_empty()).map(|s| String::from_utf8_lossy(s).into_owned()).collect())
}

pub(crate) fn remove_xattr(path: &Path, name: &str) -> io::Result<()> {
    let (path, name) = (c(path), CString::new(name).expect("no zero byte"));
    // SAFETY: both strings end with zero.
    check(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) } as isize).map(drop)
}

pub(crate) fn rename2(from: &Path, to: &Path, flags: u32) -> io::Result<()> {
    let (from, to) = (c(from), c(to));
    // SAFETY: both strings end with zero.
    let rc = unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    check(rc as isize).map(drop)
}

pub(crate) fn fallocate(file: &File, mode: i32, offset: i64, length: i64) -> io::Result<()> {
    // SAFETY: four integers, no memory.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) } as isize).map(drop)
}

pub(crate) fn seek(file: &File, offset: i64, whence: i32) -> io::Result<u64> {
    // SAFETY: three integers, no memory.
    let at = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    check(at as isize).map(|n| n as u64)
}

/// Sets access and modification time, exactly as given.
pub(crate) fn set_times(path: &Path, atime: (i64, i64), mtime: (i64, i64)) -> io::Result<()> {
    let path = c(path);
    let times = [libc::timespec { tv_sec: atime.0, tv_nsec: atime.1 }, libc::timespec { tv_sec: mtime.0, tv_nsec: mtime.1 }];
    // SAFETY: the string ends with zero, and utimensat reads two timespecs.
    check(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) } as isize).map(drop)
}

/// A shared, writable mapping.
pub(crate) struct Map {
    at: *mut u8,
    length: usize,
}

impl Map {
    pub(crate) fn new(file: &File, length: usize) -> io::Result<Self> {
        // SAFETY: a fresh mapping of an open file; no memory of ours is touched.
        let at =
            unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Map { at: at.cast(), length }) }
    }

    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.length);
        // SAFETY: the range lies in the mapping, which lives as long as `self`, and nothing else borrows it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.add(offset), bytes.len()) };
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length, and nothing refers to it any more.
        unsafe { libc::munmap(self.at.cast(), self.length) };
    }
}
