//! The real disk with a twist.

use orlop_chunkfs::{HostDisk, HostFile, RealDisk};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What is not as on the real disk.
pub(crate) trait Twist: std::fmt::Debug + Send + Sync {
    fn space(&self, dir: &Path) -> io::Result<(u64, u64)> {
        RealDisk.space(dir)
    }
    fn file(&self, real: Arc<dyn HostFile>) -> Arc<dyn HostFile> {
        real
    }
}

#[derive(Debug)]
pub(crate) struct Twisted<T>(pub(crate) T);

impl<T: Twist> HostDisk for Twisted<T> {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn HostFile>> {
        Ok(self.0.file(RealDisk.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn HostFile>> {
        Ok(self.0.file(RealDisk.open(path)?))
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
