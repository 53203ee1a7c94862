//! A host's disk over a volume's folder: its files are read where they are, whatever changes is a file of the scratch.

use crate::host::{HostDisk, HostFile, RealDisk, read_whole};
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

/// A file of the volume's folder: it can be read, and only seems to be synced.
#[derive(Debug)]
struct Untouched(File);

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

impl HostFile for Untouched {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        read_whole(&self.0, buf, offset, 1)
    }

    fn write_at(&self, _data: &[u8], _offset: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_size(&self, _size: u64) -> io::Result<()> {
        Err(read_only())
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
            (Err(e), Some(below)) if e.kind() == io::ErrorKind::NotFound => Ok(Arc::new(Untouched(File::open(below)?))),
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
