//! A host's disk over a volume's folder: its files are read where they are, whatever changes is a file of the scratch.

use crate::host::{HostDisk, HostFile, RealDisk, read_whole};
use crate::log::holder::HOLDER;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Paths are those of the scratch folder; what it does not have is looked for at the same place below `below`.
#[derive(Debug)]
pub(super) struct ScratchDisk {
    below: Option<PathBuf>,
    above: PathBuf,
    gone: Mutex<BTreeSet<PathBuf>>,
}

/// A file of the volume's folder: it is read where it is, and copied to the scratch at its first change.
#[derive(Debug)]
struct Untouched {
    below: File,
    at: PathBuf,
    copy: Mutex<Option<Arc<dyn HostFile>>>,
}

impl ScratchDisk {
    pub(super) fn over(below: Option<PathBuf>, above: &Path) -> io::Result<ScratchDisk> {
        let disk = ScratchDisk { below, above: above.to_owned(), gone: Mutex::default() };
        // A journal may be cut when it is recovered: it is changed here. It is never long.
        if let Some(below) = &disk.below {
            let (from, to) = (below.join("journal"), above.join("journal"));
            RealDisk.create_dir_all(&to)?;
            for name in RealDisk.list(&from)? {
                std::fs::copy(from.join(&name), to.join(&name))?;
            }
            // Who wrote it: of another holder it would not count.
            match std::fs::copy(below.join(HOLDER), above.join(HOLDER)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(disk)
    }

    fn below(&self, path: &Path) -> Option<PathBuf> {
        let inside = path.strip_prefix(&self.above).ok()?;
        // Locks and marks are matters of who writes there.
        let first = inside.iter().next()?;
        if first != "staged" || self.gone.lock().contains(path) {
            return None;
        }
        Some(self.below.as_ref()?.join(inside))
    }
}

fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "a file of the volume that is read out is not changed")
}

impl Untouched {
    fn open(below: &Path, at: &Path) -> io::Result<Arc<dyn HostFile>> {
        Ok(Arc::new(Untouched { below: File::open(below)?, at: at.to_owned(), copy: Mutex::default() }))
    }

    fn copy(&self) -> io::Result<Arc<dyn HostFile>> {
        let mut copy = self.copy.lock();
        if let Some(copy) = &*copy {
            return Ok(copy.clone());
        }
        match File::create_new(&self.at) {
            Ok(mut made) => drop(io::copy(&mut &self.below, &mut made)?),
            // Another handle has made it.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        Ok(copy.insert(RealDisk.open(&self.at)?).clone())
    }
}

impl HostFile for Untouched {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match &*self.copy.lock() {
            Some(copy) => copy.read_at(buf, offset),
            None => read_whole(&self.below, buf, offset, 1),
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.copy()?.write_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        match &*self.copy.lock() {
            Some(copy) => copy.size(),
            None => Ok(self.below.metadata()?.len()),
        }
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.copy()?.set_size(size)
    }
}

impl HostDisk for ScratchDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn HostFile>> {
        if self.below(path).is_some_and(|p| p.exists()) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        RealDisk.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn HostFile>> {
        match (RealDisk.open(path), self.below(path)) {
            (Err(e), Some(below)) if e.kind() == io::ErrorKind::NotFound => Untouched::open(&below, path),
            (done, _) => done,
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match RealDisk.rename(from, to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.below(from).is_some() => Err(read_only()),
            done => done,
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let below = self.below(path).is_some_and(|p| p.exists());
        self.gone.lock().insert(path.to_owned());
        match RealDisk.remove(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && below => Ok(()),
            done => done,
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names: BTreeSet<String> = RealDisk.list(dir)?.into_iter().collect();
        if let Some(below) = self.below(dir) {
            match RealDisk.list(&below) {
                Ok(more) => names.extend(more.into_iter().filter(|n| !self.gone.lock().contains(&dir.join(n)))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(names.into_iter().collect())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn space(&self, dir: &Path) -> io::Result<(u64, u64)> {
        RealDisk.space(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        RealDisk.lock(path)
    }

    fn boot_id(&self) -> [u8; 16] {
        RealDisk.boot_id()
    }
}
