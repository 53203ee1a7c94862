//! The port to the host's own disk: every file that chunkfs keeps beside the store goes through it.
//!
//! Simulations implement it to record, fail, freeze or tear writes. Obligations of an implementation:
//!
//! 1. `create` fails if the path exists.
//! 2. `write_at` writes all bytes or fails.
//! 3. Bytes are durable only after `sync_data` returned on that file; a new, renamed or removed name only after
//!    `sync_dir` of its folder.
//! 4. A handle stays readable after its name was removed.
//! 5. A range that `punch` gave back reads as it was or as zeros after a crash, and nothing beside it changes.

use crate::types::{BLOCK, Time};
use orlop_store::keys::HostKeys;
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::{ReadWriteFlags, preadv2};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// An open file on the host.
pub trait HostFile: Send + Sync + std::fmt::Debug {
    /// Reads as many bytes as there are from `offset`, up to the buffer's length; fewer only at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `data` at `offset`.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the bytes written so far, and the length, durable.
    fn sync_data(&self) -> io::Result<()>;
    /// The same for many bytes that somebody else will keep in memory: the host need not. Both the place in the file and the
    /// buffer begin at a multiple of 4096 where that is to be gained.
    fn read_uncached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buf, offset)
    }
    /// Has the disk begin to write a range; waits for nothing, and makes nothing durable.
    fn start_writing(&self, _offset: u64, _length: u64) {}
    /// The length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Cuts or extends the file.
    fn set_size(&self, size: u64) -> io::Result<()>;
    /// Gives the disk back what a range within the file takes, which reads as zeros from then on.
    fn punch(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Bytes of the disk that the file takes.
    fn allocated(&self) -> io::Result<u64> {
        self.size()
    }
}

/// Bytes of the disk that hold a file's own: neither its holes nor what is set aside behind its end.
pub(crate) fn taken(file: &dyn HostFile) -> io::Result<u64> {
    Ok(file.allocated()?.min(file.size()?))
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
    /// Whether files there give back what `punch` takes out of them, block by block.
    fn makes_holes(&self, _dir: &Path) -> bool {
        false
    }
    /// Takes the exclusive lock of a path, held until the guard is dropped; `WouldBlock` if another holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Changes whenever what was in memory was lost: after a power failure or reboot, not after a killed process.
    fn boot_id(&self) -> [u8; 16];
    /// What files of a sealed volume are sealed with there.
    fn keys(&self) -> Option<&Arc<HostKeys>> {
        None
    }
}

/// Puts a small file in the place of another one, durably: after a crash the old one is there or the new one, whole.
pub(crate) fn replace(disk: &dyn HostDisk, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let fresh = dir.join(format!("{name}.new"));
    match disk.remove(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = disk.create(&fresh)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    disk.rename(&fresh, &dir.join(name))?;
    disk.sync_dir(dir)
}

/// Tells the time; simulations tell their own.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Now.
    fn now(&self) -> Time;
}

/// The host's clock, the coarse one: the kernel stamps files with it, and of two changes the later one must not look older
/// because only one of them was stamped here.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        Time { sec: now.tv_sec, nsec: now.tv_nsec as u32 }
    }
}

/// The host's real disk.
#[derive(Debug, Default, Clone, Copy)]
pub struct RealDisk;

/// A file of the host's real disk.
#[derive(Debug)]
struct RealFile {
    file: File,
    /// The same file, read past the page cache; `None` where its file system cannot.
    direct: OnceLock<Option<File>>,
}

/// What reads past the page cache are aligned to, on every disk.
const PAGE: usize = 4096;

impl RealFile {
    fn of(file: File) -> Arc<dyn HostFile> {
        Arc::new(RealFile { file, direct: OnceLock::new() })
    }

    /// Whether a page is in memory. Asking has one that is not read, which spares nobody anything: once per long read.
    fn is_in_memory(&self, offset: u64) -> bool {
        let mut page = [0; PAGE];
        preadv2(&self.file, &mut [IoSliceMut::new(&mut page)], offset, ReadWriteFlags::NOWAIT).is_ok_and(|n| n > 0)
    }

    fn direct(&self) -> Option<&File> {
        let open = || {
            // Opened by its descriptor: the name may be gone.
            let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).ok()
        };
        self.direct.get_or_init(open).as_ref()
    }
}

/// Reads until the buffer is full, the file ends, or a piece ends at no multiple of `unit`, behind which none can begin.
pub(crate) fn read_whole(file: &File, buf: &mut [u8], offset: u64, unit: usize) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() && done.is_multiple_of(unit) {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

impl HostFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        read_whole(&self.file, buf, offset, 1)
    }

    fn read_uncached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let is_aligned = buf.as_ptr().addr().is_multiple_of(PAGE) && buf.len().is_multiple_of(PAGE) && offset.is_multiple_of(PAGE as u64);
        let last = offset + buf.len().saturating_sub(PAGE) as u64;
        if is_aligned
            && !self.is_in_memory(last)
            && let Some(direct) = self.direct()
            && let Ok(done) = read_whole(direct, buf, offset, PAGE)
            && done == buf.len()
        {
            return Ok(done);
        }
        // The end of the file, what is in memory, and whatever a file system dislikes about reading past it.
        self.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn start_writing(&self, offset: u64, length: u64) {
        // By this, too, the kernel begins to write what is changed; only pages that are clean already leave memory. It
        // only makes others faster: a file system that refuses it loses nothing.
        let _ = fadvise(&self.file, offset, NonZeroU64::new(length), Advice::DontNeed);
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        Ok(fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)?)
    }

    fn allocated(&self) -> io::Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(self.file.metadata()?.blocks() * 512)
    }
}

impl HostDisk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn HostFile>> {
        Ok(RealFile::of(OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn HostFile>> {
        Ok(RealFile::of(OpenOptions::new().read(true).write(true).open(path)?))
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

    fn makes_holes(&self, dir: &Path) -> bool {
        // Those keep an extent or a record for as long as any block of it is in use; so does a file system of larger blocks.
        const BTRFS: u32 = 0x9123_683e;
        const ZFS: u32 = 0x2fc1_2fc1;
        const BCACHEFS: u32 = 0xca45_1a4e;
        rustix::fs::statfs(dir).is_ok_and(|s| ![BTRFS, ZFS, BCACHEFS].contains(&(s.f_type as u32)) && s.f_bsize as u64 <= BLOCK)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffers::Buffers;

    /// On whatever file system the test's folder is; those that refuse to be read past the page cache are read through it.
    #[test]
    fn reading_past_the_page_cache_gives_the_same_bytes() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = RealDisk.create(&dir.path().join("f")).expect("made");
        let data: Vec<u8> = (0..1_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        file.write_at(&data, 0).expect("written");
        let pool = Arc::new(Buffers::default());
        let check = |offset: usize, length: usize, what: &str| {
            let mut buffer = pool.take(length);
            buffer.space().fill(0xee);
            let n = file.read_uncached_at(buffer.space(), offset as u64).expect("read");
            assert_eq!(n, length.min(data.len().saturating_sub(offset)), "{what}: {length} from {offset}");
            assert!(buffer.space()[..n] == data[offset..offset + n], "{what}: {length} from {offset}");
        };
        for what in ["not on the disk yet", "in memory", "out of memory", "again"] {
            for (offset, length) in [(0, 262_144), (4096, 524_288), (4097, 262_144), (8192, 100_001), (786_432, 262_144), (999_424, 65_536)]
            {
                check(offset, length, what);
            }
            if what == "in memory" {
                file.sync_data().expect("synced");
                file.start_writing(0, 1 << 20);
            }
        }
    }
}
