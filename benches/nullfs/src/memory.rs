//! The files and folders, in memory: who may touch which lock first, and when an inode goes.
//!
//! Locks are taken from parent to child. Whoever takes those of two folders, or of a folder inside another, holds the
//! order of the tree first. An inode goes when it has no name and the kernel has forgotten it.

use fuser::{FileAttr, FileType, INodeNo};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

/// File contents are held in pieces of this size, so that a growing file is never copied.
const PIECE: usize = 128 << 10;

/// One file, folder or link.
#[derive(Debug)]
pub(crate) struct Node {
    state: RwLock<State>,
    /// References that the kernel holds.
    lookups: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) attr: FileAttr,
    pub(crate) body: Body,
}

#[derive(Debug)]
pub(crate) enum Body {
    File(Pieces),
    Folder(Folder),
    Link(OsString),
    Other,
}

/// A file's bytes; what a piece lacks at its end is zeros.
#[derive(Debug, Default)]
pub(crate) struct Pieces(Vec<Vec<u8>>);

/// A folder's entries, by name and in the order in which they are listed.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    names: HashMap<OsString, u64>,
    pub(crate) listing: BTreeMap<u64, (OsString, u64)>,
    last: u64,
    pub(crate) parent: u64,
}

impl Pieces {
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let (mut at, mut left) = (offset as usize, data);
        while !left.is_empty() {
            let (piece, inside) = (at / PIECE, at % PIECE);
            let n = left.len().min(PIECE - inside);
            if self.0.len() <= piece {
                self.0.resize_with(piece + 1, Vec::new);
            }
            let piece = &mut self.0[piece];
            if piece.len() < inside + n {
                piece.resize(inside + n, 0);
            }
            piece[inside..inside + n].copy_from_slice(&left[..n]);
            (at, left) = (at + n, &left[n..]);
        }
    }

    /// Calls with the bytes of a range that lies within the file.
    pub(crate) fn read(&self, offset: u64, length: usize, f: impl FnOnce(&[u8])) {
        let whole = self.0.get(offset as usize / PIECE);
        if let Some(bytes) = whole.and_then(|p| p.get(offset as usize % PIECE..offset as usize % PIECE + length)) {
            return f(bytes);
        }
        let mut out = Vec::with_capacity(length);
        while out.len() < length {
            let at = offset as usize + out.len();
            let (inside, end) = (at % PIECE, out.len() + (length - out.len()).min(PIECE - at % PIECE));
            if let Some(bytes) = self.0.get(at / PIECE).and_then(|p| p.get(inside..)) {
                out.extend_from_slice(&bytes[..bytes.len().min(end - out.len())]);
            }
            out.resize(end, 0);
        }
        f(&out);
    }

    pub(crate) fn truncate(&mut self, size: u64) {
        let size = size as usize;
        self.0.truncate(size.div_ceil(PIECE));
        if let Some(piece) = self.0.get_mut(size / PIECE) {
            piece.truncate(size % PIECE);
        }
    }
}

impl Folder {
    pub(crate) fn within(parent: u64) -> Self {
        Folder { parent, ..Folder::default() }
    }

    pub(crate) fn get(&self, name: &OsStr) -> Option<u64> {
        self.names.get(name).map(|cookie| self.listing[cookie].1)
    }

    pub(crate) fn insert(&mut self, name: &OsStr, ino: u64) {
        self.last += 1;
        self.names.insert(name.to_owned(), self.last);
        self.listing.insert(self.last, (name.to_owned(), ino));
    }

    pub(crate) fn remove(&mut self, name: &OsStr) {
        if let Some(cookie) = self.names.remove(name) {
            self.listing.remove(&cookie);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

impl State {
    pub(crate) fn folder(&self) -> Option<&Folder> {
        if let Body::Folder(folder) = &self.body { Some(folder) } else { None }
    }

    pub(crate) fn folder_mut(&mut self) -> Option<&mut Folder> {
        if let Body::Folder(folder) = &mut self.body { Some(folder) } else { None }
    }

    pub(crate) fn touch(&mut self) {
        let now = SystemTime::now();
        (self.attr.mtime, self.attr.ctime) = (now, now);
    }

    pub(crate) fn resize(&mut self, size: u64) {
        self.attr.size = size;
        self.attr.blocks = size.div_ceil(512);
    }
}

impl Node {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("no thread panics while it holds a node")
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("no thread panics while it holds a node")
    }

    /// Counts a reference that the kernel is about to get.
    pub(crate) fn known(&self) {
        self.lookups.fetch_add(1, Ordering::Relaxed);
    }
}

/// All inodes.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: RwLock<HashMap<u64, Arc<Node>>>,
    last: AtomicU64,
    order: Mutex<()>,
}

/// What a new inode is made from.
#[derive(Debug)]
pub(crate) struct New {
    pub(crate) kind: FileType,
    pub(crate) perm: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u32,
    pub(crate) body: Body,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let tree = Tree { nodes: RwLock::default(), last: AtomicU64::new(0), order: Mutex::new(()) };
        let folder = Folder::within(INodeNo::ROOT.0);
        let (root, _) = tree.make(New { kind: FileType::Directory, perm: 0o755, uid: 0, gid: 0, rdev: 0, body: Body::Folder(folder) });
        root.known();
        tree
    }

    pub(crate) fn get(&self, ino: u64) -> Option<Arc<Node>> {
        self.nodes.read().expect("no thread panics while it holds the table").get(&ino).cloned()
    }

    /// A new inode, which has no name yet.
    pub(crate) fn make(&self, new: New) -> (Arc<Node>, FileAttr) {
        let (ino, now) = (self.last.fetch_add(1, Ordering::Relaxed) + 1, SystemTime::now());
        let size = if let Body::Link(target) = &new.body { target.len() as u64 } else { 0 };
        let attr = FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind: new.kind,
            perm: new.perm,
            nlink: if new.kind == FileType::Directory { 2 } else { 1 },
            uid: new.uid,
            gid: new.gid,
            rdev: new.rdev,
            blksize: 4096,
            flags: 0,
        };
        let node = Arc::new(Node { state: RwLock::new(State { attr, body: new.body }), lookups: AtomicU64::new(0) });
        self.nodes.write().expect("no thread panics while it holds the table").insert(ino, node.clone());
        (node, attr)
    }

    /// Takes back references of the kernel.
    pub(crate) fn forget(&self, ino: u64, count: u64) {
        if let Some(node) = self.get(ino)
            && node.lookups.fetch_sub(count, Ordering::Relaxed) == count
        {
            self.sweep(&node);
        }
    }

    /// Lets an inode go if nothing leads to it any more. Not while its lock is held.
    pub(crate) fn sweep(&self, node: &Node) {
        let attr = node.read().attr;
        if attr.nlink == 0 && node.lookups.load(Ordering::Relaxed) == 0 {
            self.nodes.write().expect("no thread panics while it holds the table").remove(&attr.ino.0);
        }
    }

    /// The right to take the locks of several folders.
    pub(crate) fn order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().expect("no thread panics while it holds the order")
    }

    pub(crate) fn count(&self) -> u64 {
        self.nodes.read().expect("no thread panics while it holds the table").len() as u64
    }
}
