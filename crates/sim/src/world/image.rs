//! What is on a disk: the state that processes see, and what of it would survive a power failure.
//!
//! A file has its durable bytes and the writes since its last sync; a folder has its durable names and the changes
//! since its last sync. A power failure keeps the durable part and any part of the rest: each write may be there,
//! absent, or there in some of its 4 KiB pages; each change of a name likewise. That is more than a journaling file
//! system does, and no less than POSIX allows.

use crate::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

const PAGE: usize = 4096;

/// How a power failure treats what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it is lost.
    Everything,
    /// None of it is lost: the cut came late.
    Nothing,
    /// Of each file and folder an early part stays, in order.
    Tail,
    /// Any subset stays, in any order, torn by page.
    Any,
}

#[derive(Debug, Clone)]
enum Write {
    Bytes(u64, Vec<u8>),
    Size(u64),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Write>,
    /// Of the pending writes those from this one on are still in the process: a planted bug.
    held_from: Option<usize>,
    /// Writes that a failed sync gave up: they may be on the disk or not, and no later sync covers them.
    doomed: Vec<Write>,
}

#[derive(Debug, Clone)]
enum Change {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf, u64),
    Remove(PathBuf),
    MakeDir(PathBuf),
}

impl Change {
    fn concerns(&self, dir: &Path) -> bool {
        let within = |p: &Path| p.parent() == Some(dir);
        match self {
            Change::Create(p, _) | Change::Remove(p) | Change::MakeDir(p) => within(p),
            Change::Rename(from, to, _) => within(from) || within(to),
        }
    }
}

/// A disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    pub(crate) boot: u64,
    next: u64,
    nodes: BTreeMap<u64, Node>,
    live: BTreeMap<PathBuf, u64>,
    durable: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
    durable_dirs: BTreeSet<PathBuf>,
    changes: Vec<Change>,
    locks: BTreeMap<PathBuf, u64>,
    guards: u64,
}

fn not_found() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

fn put(bytes: &mut Vec<u8>, at: u64, data: &[u8]) {
    let (at, end) = (at as usize, at as usize + data.len());
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(data);
}

fn redo(bytes: &mut Vec<u8>, write: &Write) {
    match write {
        Write::Bytes(at, data) => put(bytes, *at, data),
        Write::Size(n) => bytes.resize(*n as usize, 0),
    }
}

impl Image {
    /// A folder that was always there.
    pub(crate) fn found(&mut self, dir: &Path) {
        for d in dir.ancestors() {
            self.dirs.insert(d.to_owned());
            self.durable_dirs.insert(d.to_owned());
        }
    }

    fn folder_of(&self, path: &Path) -> io::Result<()> {
        if path.parent().is_some_and(|d| self.dirs.contains(d)) { Ok(()) } else { Err(not_found()) }
    }

    pub(crate) fn create(&mut self, path: &Path) -> io::Result<u64> {
        self.folder_of(path)?;
        if self.live.contains_key(path) || self.dirs.contains(path) {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        self.next += 1;
        self.nodes.insert(self.next, Node::default());
        self.live.insert(path.to_owned(), self.next);
        self.changes.push(Change::Create(path.to_owned(), self.next));
        Ok(self.next)
    }

    pub(crate) fn node(&self, path: &Path) -> io::Result<u64> {
        self.live.get(path).copied().ok_or_else(not_found)
    }

    fn of(&mut self, node: u64) -> &mut Node {
        self.nodes.get_mut(&node).expect("nodes stay as long as handles of them")
    }

    pub(crate) fn read(&self, node: u64, buf: &mut [u8], offset: u64) -> usize {
        let bytes = &self.nodes[&node].live;
        let from = (offset as usize).min(bytes.len());
        let n = buf.len().min(bytes.len() - from);
        buf[..n].copy_from_slice(&bytes[from..from + n]);
        n
    }

    pub(crate) fn size(&self, node: u64) -> u64 {
        self.nodes[&node].live.len() as u64
    }

    pub(crate) fn write(&mut self, node: u64, offset: u64, data: &[u8]) {
        let n = self.of(node);
        put(&mut n.live, offset, data);
        n.pending.push(Write::Bytes(offset, data.to_vec()));
    }

    /// A write that the process keeps to itself until the next sync.
    pub(crate) fn write_held(&mut self, node: u64, offset: u64, data: &[u8]) {
        let n = self.of(node);
        n.held_from.get_or_insert(n.pending.len());
        put(&mut n.live, offset, data);
        n.pending.push(Write::Bytes(offset, data.to_vec()));
    }

    pub(crate) fn resize(&mut self, node: u64, size: u64) {
        let n = self.of(node);
        n.live.resize(size as usize, 0);
        n.pending.push(Write::Size(size));
    }

    pub(crate) fn sync(&mut self, node: u64) {
        let n = self.of(node);
        n.held_from = None;
        for write in std::mem::take(&mut n.pending) {
            redo(&mut n.durable, &write);
        }
    }

    /// A sync that failed: the kernel marks the pages clean, and nobody knows what of them is on the disk.
    pub(crate) fn fail_sync(&mut self, node: u64) {
        let n = self.of(node);
        let mut given_up = std::mem::take(&mut n.pending);
        n.doomed.append(&mut given_up);
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.folder_of(to)?;
        let node = self.live.remove(from).ok_or_else(not_found)?;
        self.live.insert(to.to_owned(), node);
        self.changes.push(Change::Rename(from.to_owned(), to.to_owned(), node));
        Ok(())
    }

    pub(crate) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.live.remove(path).ok_or_else(not_found)?;
        self.changes.push(Change::Remove(path.to_owned()));
        Ok(())
    }

    pub(crate) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.dirs.contains(dir) {
            return Err(not_found());
        }
        let here = self.live.keys().filter(|p| p.parent() == Some(dir));
        Ok(here.filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned())).collect())
    }

    pub(crate) fn make_dir(&mut self, dir: &Path) {
        let mut new: Vec<PathBuf> = dir.ancestors().filter(|d| !self.dirs.contains(*d)).map(ToOwned::to_owned).collect();
        new.reverse();
        for d in new {
            self.dirs.insert(d.clone());
            self.changes.push(Change::MakeDir(d));
        }
    }

    pub(crate) fn has_dir(&self, dir: &Path) -> bool {
        self.dirs.contains(dir)
    }

    pub(crate) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        if !self.dirs.contains(dir) {
            return Err(not_found());
        }
        let (now, later) = std::mem::take(&mut self.changes).into_iter().partition(|c| c.concerns(dir));
        self.changes = later;
        for change in now {
            self.settle(change);
        }
        Ok(())
    }

    fn settle(&mut self, change: Change) {
        match change {
            Change::Create(path, node) => {
                self.durable.insert(path, node);
            }
            Change::Rename(from, to, node) => {
                if self.durable.get(&from) == Some(&node) {
                    self.durable.remove(&from);
                }
                self.durable.insert(to, node);
            }
            Change::Remove(path) => {
                self.durable.remove(&path);
            }
            Change::MakeDir(dir) => {
                self.durable_dirs.insert(dir);
            }
        }
    }

    pub(crate) fn lock(&mut self, path: &Path) -> io::Result<u64> {
        self.folder_of(path)?;
        if self.locks.contains_key(path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if !self.live.contains_key(path) {
            self.create(path)?;
        }
        self.guards += 1;
        self.locks.insert(path.to_owned(), self.guards);
        Ok(self.guards)
    }

    pub(crate) fn unlock(&mut self, guard: u64) {
        self.locks.retain(|_, g| *g != guard);
    }

    /// A process died: its locks are free, and what it still held is gone.
    pub(crate) fn release(&mut self) {
        self.locks.clear();
        for node in self.nodes.values_mut() {
            if let Some(from) = node.held_from.take() {
                node.pending.truncate(from);
                node.live = node.durable.clone();
                for write in node.doomed.iter().chain(&node.pending) {
                    redo(&mut node.live, write);
                }
            }
        }
    }

    pub(crate) fn cut_power(&mut self, loss: Loss, rng: &mut Rng) {
        self.boot += 1;
        for node in self.nodes.values_mut() {
            let pending = std::mem::take(&mut node.pending);
            let kept = match loss {
                Loss::Everything => 0,
                Loss::Nothing => pending.len(),
                Loss::Tail => rng.below(pending.len() as u64 + 1) as usize,
                Loss::Any => 0,
            };
            let doomed = std::mem::take(&mut node.doomed);
            let mut bytes = std::mem::take(&mut node.durable);
            if loss != Loss::Everything {
                for write in &doomed {
                    tear(&mut bytes, write, rng);
                }
            }
            if loss == Loss::Any {
                for write in &pending {
                    tear(&mut bytes, write, rng);
                }
            } else {
                for write in &pending[..kept] {
                    redo(&mut bytes, write);
                }
                // The cut may come in the middle of a write.
                if loss == Loss::Tail && kept < pending.len() {
                    tear(&mut bytes, &pending[kept], rng);
                }
            }
            node.durable = bytes.clone();
            node.live = bytes;
        }
        let changes = std::mem::take(&mut self.changes);
        let kept = rng.below(changes.len() as u64 + 1) as usize;
        for (i, change) in changes.into_iter().enumerate() {
            let stays = match loss {
                Loss::Everything => false,
                Loss::Nothing => true,
                Loss::Tail => i < kept,
                Loss::Any => rng.one_in(2),
            };
            if stays {
                self.settle(change);
            }
        }
        let durable_dirs = self.durable_dirs.clone();
        let whole = |path: &Path| path.ancestors().skip(1).all(|d| durable_dirs.contains(d));
        self.durable_dirs.retain(|d| whole(d));
        self.durable.retain(|p, _| whole(p));
        self.live = self.durable.clone();
        self.dirs = self.durable_dirs.clone();
        let named: BTreeSet<u64> = self.live.values().copied().collect();
        self.nodes.retain(|id, _| named.contains(id));
    }

    pub(crate) fn damage(&mut self, name_part: &str, offset: u64) -> bool {
        let Some((_, id)) = self.live.iter().find(|(p, _)| p.to_string_lossy().contains(name_part)) else { return false };
        let node = self.nodes.get_mut(id).expect("a name leads to its node");
        let Some(byte) = node.live.get_mut(offset as usize) else { return false };
        *byte ^= 0x40;
        if let Some(byte) = node.durable.get_mut(offset as usize) {
            *byte ^= 0x40;
        }
        true
    }

    pub(crate) fn files(&self) -> Vec<(String, u64)> {
        self.live.iter().map(|(p, id)| (p.to_string_lossy().into_owned(), self.size(*id))).collect()
    }

    /// Bytes of a file that are no holes, as far as anybody can tell.
    pub(crate) fn allocated(&self, node: u64) -> u64 {
        let blocks = self.nodes[&node].live.chunks(4096);
        blocks.filter(|b| b.iter().any(|byte| *byte != 0)).count() as u64 * 4096
    }

    pub(crate) fn used(&self) -> u64 {
        self.live.values().map(|id| self.size(*id)).sum()
    }

    pub(crate) fn digest(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut h = DefaultHasher::new();
        for (path, id) in &self.live {
            path.hash(&mut h);
            self.nodes[id].live.hash(&mut h);
        }
        h.finish()
    }
}

/// Puts any part of a write in place.
fn tear(bytes: &mut Vec<u8>, write: &Write, rng: &mut Rng) {
    let Write::Bytes(at, data) = write else {
        if rng.one_in(2) {
            redo(bytes, write);
        }
        return;
    };
    match rng.below(3) {
        0 => {}
        1 => redo(bytes, write),
        _ => {
            let mut from = 0;
            while from < data.len() {
                let page_end = (PAGE - (*at as usize + from) % PAGE) + from;
                let to = page_end.min(data.len());
                if rng.one_in(2) {
                    put(bytes, at + from as u64, &data[from..to]);
                }
                from = to;
            }
        }
    }
}
