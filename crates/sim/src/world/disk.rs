//! The disk of a world, through the port that chunkfs has to its host.

use super::{Fate, Shared, Step, gone};
use orlop_chunkfs::{HostDisk, HostFile};
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of the disk in all.
const TOTAL: u64 = 64 << 30;

/// A world's disk, in one life.
#[derive(Debug)]
pub struct SimDisk {
    shared: Arc<Mutex<Shared>>,
    life: u64,
}

fn name(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl SimDisk {
    pub(crate) fn new(shared: Arc<Mutex<Shared>>) -> Self {
        let life = shared.lock().life;
        SimDisk { shared, life }
    }

    /// One step that is done or not done.
    fn change<T: Default>(&self, step: Step, work: impl FnOnce(&mut Shared) -> io::Result<T>) -> io::Result<T> {
        let mut s = self.shared.lock();
        match s.step(self.life, step)? {
            Fate::Do | Fate::Hold => work(&mut s),
            // What is skipped has no value that anybody could miss.
            Fate::Skip => Ok(T::default()),
            Fate::Fail(code) => Err(errno(code)),
            Fate::Stop(takes_effect) => {
                if takes_effect {
                    work(&mut s)?;
                }
                Err(gone())
            }
        }
    }
}

impl HostDisk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn HostFile>> {
        let node = self.change(Step::Create(name(path)), |s| s.image.create(path))?;
        Ok(Arc::new(SimFile { shared: Arc::clone(&self.shared), life: self.life, node, path: path.to_owned() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn HostFile>> {
        let s = self.shared.lock();
        s.alive(self.life)?;
        let node = s.image.node(path)?;
        Ok(Arc::new(SimFile { shared: Arc::clone(&self.shared), life: self.life, node, path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(Step::Rename(name(from), name(to)), |s| s.image.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(Step::Remove(name(path)), |s| s.image.remove(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let s = self.shared.lock();
        s.alive(self.life)?;
        s.image.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if self.shared.lock().image.has_dir(dir) {
            return Ok(());
        }
        self.change(Step::MakeDir(name(dir)), |s| {
            s.image.make_dir(dir);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(Step::SyncDir(name(dir)), |s| s.image.sync_dir(dir))
    }

    fn space(&self, _dir: &Path) -> io::Result<(u64, u64)> {
        let s = self.shared.lock();
        s.alive(self.life)?;
        Ok((TOTAL, TOTAL - s.image.used()))
    }

    fn makes_holes(&self, _dir: &Path) -> bool {
        true
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut s = self.shared.lock();
        s.alive(self.life)?;
        let guard = s.image.lock(path)?;
        Ok(Box::new(Guard { shared: Arc::clone(&self.shared), guard }))
    }

    fn boot_id(&self) -> [u8; 16] {
        u128::from(self.shared.lock().image.boot).to_be_bytes()
    }
}

struct Guard {
    shared: Arc<Mutex<Shared>>,
    guard: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.lock().image.unlock(self.guard);
    }
}

#[derive(Debug)]
struct SimFile {
    shared: Arc<Mutex<Shared>>,
    life: u64,
    node: u64,
    path: PathBuf,
}

impl HostFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let s = self.shared.lock();
        s.alive(self.life)?;
        Ok(s.image.read(self.node, buf, offset))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut s = self.shared.lock();
        match s.step(self.life, Step::Write(name(&self.path), offset, data.len()))? {
            Fate::Do => s.image.write(self.node, offset, data),
            Fate::Hold => s.image.write_held(self.node, offset, data),
            Fate::Skip => {}
            Fate::Fail(code) => {
                let arrived = s.rng().below(data.len() as u64 + 1) as usize;
                if arrived > 0 {
                    s.image.write(self.node, offset, &data[..arrived]);
                }
                return if s.swallows() { Ok(()) } else { Err(errno(code)) };
            }
            Fate::Stop(takes_effect) => {
                let arrived = if takes_effect { data.len() } else { s.rng().below(data.len() as u64 + 1) as usize };
                if arrived > 0 {
                    s.image.write(self.node, offset, &data[..arrived]);
                }
                return Err(gone());
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut s = self.shared.lock();
        match s.step(self.life, Step::SyncData(name(&self.path)))? {
            Fate::Do | Fate::Hold => s.image.sync(self.node),
            Fate::Skip => {}
            Fate::Fail(code) => {
                if s.loses_pages() || s.swallows() {
                    s.image.fail_sync(self.node);
                }
                return if s.swallows() { Ok(()) } else { Err(errno(code)) };
            }
            Fate::Stop(takes_effect) => {
                if takes_effect {
                    s.image.sync(self.node);
                }
                return Err(gone());
            }
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let s = self.shared.lock();
        s.alive(self.life)?;
        Ok(s.image.size(self.node))
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let mut s = self.shared.lock();
        match s.step(self.life, Step::Resize(name(&self.path), size))? {
            Fate::Do | Fate::Hold => s.image.resize(self.node, size),
            Fate::Skip => {}
            Fate::Fail(code) => return Err(errno(code)),
            Fate::Stop(takes_effect) => {
                if takes_effect {
                    s.image.resize(self.node, size);
                }
                return Err(gone());
            }
        }
        Ok(())
    }

    fn allocated(&self) -> io::Result<u64> {
        let s = self.shared.lock();
        s.alive(self.life)?;
        Ok(s.image.allocated(self.node))
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut s = self.shared.lock();
        let fate = s.step(self.life, Step::Punch(name(&self.path), offset, length))?;
        // It keeps the length, and a crash may undo any part of it.
        let end = s.image.size(self.node).min(offset + length);
        let zeros = vec![0; end.saturating_sub(offset) as usize];
        let does = match fate {
            Fate::Do | Fate::Hold => true,
            Fate::Skip | Fate::Fail(_) => false,
            Fate::Stop(takes_effect) => takes_effect,
        };
        if does && !zeros.is_empty() {
            s.image.write(self.node, offset, &zeros);
        }
        match fate {
            Fate::Fail(code) => Err(errno(code)),
            Fate::Stop(_) => Err(gone()),
            _ => Ok(()),
        }
    }
}
