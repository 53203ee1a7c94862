//! The real disk with a twist.

use orlop_chunkfs::{HostDisk, HostFile, RealDisk};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What is not as on the real disk.
pub(crate) trait Twist: std::fmt::Debug + Send + Sync + 'static {
    fn space(&self, dir: &Path) -> io::Result<(u64, u64)> {
        RealDisk.space(dir)
    }
    fn write(&self, really: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        really()
    }
    fn sync(&self, really: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        really()
    }
}

#[derive(Debug)]
struct TwistedFile<T>(Arc<dyn HostFile>, Arc<T>);

impl<T: Twist> HostFile for TwistedFile<T> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.1.write(|| self.0.write_at(data, offset))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.sync(|| self.0.sync_data())
    }
    fn read_uncached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_uncached_at(buf, offset)
    }
    fn start_writing(&self, offset: u64, length: u64) {
        self.0.start_writing(offset, length);
    }
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.set_size(size)
    }
    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.punch(offset, length)
    }
    fn allocated(&self) -> io::Result<u64> {
        self.0.allocated()
    }
}

#[derive(Debug)]
pub(crate) struct Twisted<T>(pub(crate) Arc<T>);

impl<T: Twist> Twisted<T> {
    fn file(&self, real: Arc<dyn HostFile>) -> Arc<dyn HostFile> {
        Arc::new(TwistedFile(real, self.0.clone()))
    }
}

impl<T: Twist> HostDisk for Twisted<T> {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn HostFile>> {
        Ok(self.file(RealDisk.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn HostFile>> {
        Ok(self.file(RealDisk.open(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
    fn space(&self, dir: &Path) -> io::Result<(u64, u64)> {
        self.0.space(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        RealDisk.lock(path)
    }
    fn boot_id(&self) -> [u8; 16] {
        RealDisk.boot_id()
    }
}
