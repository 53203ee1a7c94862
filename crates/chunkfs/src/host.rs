//! The port to the host's own disk: every file that chunkfs keeps beside the store goes through it.
//!
//! Simulations implement it to record, fail, freeze or tear writes. Obligations of an implementation:
//!
//! 1. `create` fails if the path exists.
//! 2. `write_at` writes all bytes or fails.
//! 3. Bytes are durable only after `sync_data` returned on that file; a new, renamed or removed name only after
//!    `sync_dir` of its folder.
//! 4. A handle stays readable after its name was removed.

use crate::types::Time;
use rustix::fs::{Advice, fadvise};
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// An open file on the host.
pub trait HostFile: Send + Sync + std::fmt::Debug {
    /// Reads as many bytes as there are from `offset`, up to the buffer's length; fewer only at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `data` at `offset`.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the bytes written so far, and the length, durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Has the disk begin to write a range; waits for nothing, and makes nothing durable.
    fn start_writing(&self, _offset: u64, _length: u64) {}
    /// Has the disk begin to read a range that is soon wanted; waits for nothing.
    fn start_reading(&self, _offset: u64, _length: u64) {}
    /// The length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Cuts or extends the file.
    fn set_size(&self, size: u64) -> io::Result<()>;
}

/// The host's disk below one folder tree.
pub trait HostDisk: Send + Sync + std::fmt::Debug {
    /// Creates a file for reading and writing; an existing one is an error.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn HostFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn HostFile>>;
    /// Renames a file, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names of the files in a folder, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes a folder and those above it.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes in all and bytes free where `dir` lies.
    fn space(&self, dir: &Path) -> io::Result<(u64, u64)>;
    /// Takes the exclusive lock of a path, held until the guard is dropped; `WouldBlock` if another holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Changes whenever what was in memory was lost: after a power failure or reboot, not after a killed process.
    fn boot_id(&self) -> [u8; 16];
}

/// Tells the time; simulations tell their own.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Now.
    fn now(&self) -> Time;
}

/// The host's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        SystemTime::now().into()
    }
}

/// The host's real disk.
#[derive(Debug, Default, Clone, Copy)]
pub struct RealDisk;

/// It only makes others faster: a file system that refuses it loses nothing.
fn advise(file: &File, offset: u64, length: u64, advice: Advice) {
    let _ = fadvise(file, offset, NonZeroU64::new(length), advice);
}

impl HostFile for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match FileExt::read_at(self, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn start_writing(&self, offset: u64, length: u64) {
        // By this, too, the kernel begins to write what is changed; only pages that are clean already leave memory.
        advise(self, offset, length, Advice::DontNeed);
    }

    fn start_reading(&self, offset: u64, length: u64) {
        advise(self, offset, length, Advice::WillNeed);
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }
}

impl HostDisk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn HostFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn HostFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn space(&self, dir: &Path) -> io::Result<(u64, u64)> {
        let s = rustix::fs::statvfs(dir)?;
        Ok((s.f_blocks * s.f_frsize, s.f_bavail * s.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(std::fs::TryLockError::Error(e)) => Err(e),
        }
    }

    fn boot_id(&self) -> [u8; 16] {
        // Without the kernel's id nothing is known about the last boot: zeros never equal a recorded id.
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        uuid::Uuid::parse_str(text.trim()).map(uuid::Uuid::into_bytes).unwrap_or_default()
    }
}
