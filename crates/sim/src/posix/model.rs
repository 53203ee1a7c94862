//! The reference: what every operation answers and changes, on plain maps. Slow, whole, and easy to check by eye.
//!
//! It follows POSIX and Linux where they speak, and docs/SEMANTICS.md where they leave a choice.

use super::op::{At, Op, Path, contents, name, value};
use super::{Facts, Out};
use orlop_chunkfs::{Allocate, FileKind, RenameMode, Seek, Time, XattrMode};
use std::collections::BTreeMap;

pub(crate) const BLOCK: u64 = 4096;

/// One block of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// Bytes.
    Data(Vec<u8>),
    /// Allocated, reads as zeros.
    Reserved,
}

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it says of itself; `blocks` is computed.
    pub facts: Facts,
    /// Of a file.
    pub data: BTreeMap<u64, Block>,
    /// Of a folder.
    pub names: BTreeMap<Vec<u8>, u64>,
    /// Of a folder.
    pub parent: u64,
    /// Of a symbolic link.
    pub target: Vec<u8>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Node {
    fn new(kind: FileKind, perm: u32, now: Time) -> Node {
        let nlink = if kind == FileKind::Directory { 2 } else { 1 };
        let facts = Facts { kind, perm, nlink, uid: 0, gid: 0, rdev: 0, size: 0, blocks: 0, mtime: now, ctime: now, crtime: now };
        Node { facts, data: BTreeMap::new(), names: BTreeMap::new(), parent: 0, target: Vec::new(), xattrs: BTreeMap::new() }
    }

    /// Attributes as they are now.
    pub fn facts(&self) -> Facts {
        Facts { blocks: self.data.len() as u64 * (BLOCK / 512), ..self.facts.clone() }
    }

    fn is_dir(&self) -> bool {
        self.facts.kind == FileKind::Directory
    }

    /// Bytes from `offset`, cut at the end of the file.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = (offset + len as u64).min(self.facts.size);
        let mut out = Vec::new();
        let mut at = offset;
        while at < end {
            let block = at / BLOCK;
            let to = ((block + 1) * BLOCK).min(end);
            match self.data.get(&block) {
                Some(Block::Data(b)) => out.extend_from_slice(&b[(at % BLOCK) as usize..(at % BLOCK) as usize + (to - at) as usize]),
                Some(Block::Reserved) | None => out.resize(out.len() + (to - at) as usize, 0),
            }
            at = to;
        }
        out
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        let mut at = offset;
        while at < end {
            let block = at / BLOCK;
            let to = ((block + 1) * BLOCK).min(end);
            let page = self.bytes_of(block);
            page[(at % BLOCK) as usize..][..(to - at) as usize].copy_from_slice(&bytes[(at - offset) as usize..(to - offset) as usize]);
            at = to;
        }
        self.facts.size = self.facts.size.max(end);
    }

    fn bytes_of(&mut self, block: u64) -> &mut Vec<u8> {
        let entry = self.data.entry(block).or_insert(Block::Reserved);
        if *entry == Block::Reserved {
            *entry = Block::Data(vec![0; BLOCK as usize]);
        }
        match entry {
            Block::Data(b) => b,
            Block::Reserved => unreachable!("just replaced"),
        }
    }

    /// Zeros within blocks that have bytes; leaves holes and reserved blocks alone.
    fn zero(&mut self, from: u64, to: u64) {
        for (block, b) in self.data.range_mut(from / BLOCK..to.div_ceil(BLOCK)) {
            if let Block::Data(bytes) = b {
                let start = from.max(block * BLOCK) - block * BLOCK;
                let end = to.min((block + 1) * BLOCK) - block * BLOCK;
                bytes[start as usize..end as usize].fill(0);
            }
        }
    }
}

/// A file system.
#[derive(Debug, Clone)]
pub struct Model {
    /// All inodes that exist.
    pub nodes: BTreeMap<u64, Node>,
    next: u64,
    slots: BTreeMap<u8, u64>,
    now: Time,
}

type Answer = Result<Out, i32>;

/// The root's number.
pub const ROOT: u64 = 1;

impl Model {
    /// A fresh volume, made at this time.
    pub fn new(now: Time) -> Self {
        let mut root = Node::new(FileKind::Directory, 0o755, now);
        root.parent = ROOT;
        Model { nodes: BTreeMap::from([(ROOT, root)]), next: 2, slots: BTreeMap::new(), now }
    }

    /// What the operation answers at this time; changes the model.
    pub fn apply(&mut self, op: &Op, now: Time) -> Out {
        self.now = now;
        self.answer(op).unwrap_or_else(Out::Errno)
    }

    fn walk(&self, path: &Path) -> Result<u64, i32> {
        let mut at = ROOT;
        for part in path {
            let node = &self.nodes[&at];
            if !node.is_dir() {
                return Err(libc::ENOTDIR);
            }
            at = *node.names.get(&name(*part)).ok_or(libc::ENOENT)?;
        }
        Ok(at)
    }

    /// The folder of a path and the last name; `None` for the root itself.
    fn split(&self, path: &Path) -> Result<Option<(u64, Vec<u8>)>, i32> {
        let Some((last, dirs)) = path.split_last() else { return Ok(None) };
        let parent = self.walk(&dirs.to_vec())?;
        if !self.nodes[&parent].is_dir() {
            return Err(libc::ENOTDIR);
        }
        Ok(Some((parent, name(*last))))
    }

    /// The inode that is meant.
    pub fn at(&self, at: &At) -> Result<u64, i32> {
        match at {
            At::Path(p) => self.walk(p),
            At::Slot(s) => self.slots.get(s).copied().ok_or(libc::EBADF),
        }
    }

    fn node(&mut self, ino: u64) -> &mut Node {
        self.nodes.get_mut(&ino).expect("names and slots lead to inodes that exist")
    }

    fn file(&mut self, at: &At) -> Result<u64, i32> {
        let ino = self.at(at)?;
        match self.nodes[&ino].facts.kind {
            FileKind::File => Ok(ino),
            FileKind::Directory => Err(libc::EISDIR),
            _ => Err(libc::EINVAL),
        }
    }

    /// Puts contents in place that an operation left when it was refused half-way.
    pub fn replace_contents(&mut self, ino: u64, pages: &BTreeMap<u64, Vec<u8>>, facts: &Facts) {
        let node = self.node(ino);
        node.data = pages.iter().map(|(n, b)| (*n, Block::Data(b.clone()))).collect();
        node.facts = facts.clone();
    }

    /// A slot's folder may be removed while it is held.
    fn touch_dir(&mut self, ino: u64) {
        let now = self.now;
        let f = &mut self.node(ino).facts;
        f.mtime = now;
        f.ctime = now;
    }

    fn insert(&mut self, parent: u64, name: Vec<u8>, mut node: Node) -> Out {
        let ino = self.next;
        self.next += 1;
        let folder = self.node(parent);
        if folder.facts.perm & 0o2000 != 0 {
            node.facts.gid = folder.facts.gid;
            if node.is_dir() {
                node.facts.perm |= 0o2000;
            }
        }
        if node.is_dir() {
            folder.facts.nlink += 1;
            node.parent = parent;
        }
        folder.names.insert(name, ino);
        self.touch_dir(parent);
        let facts = node.facts();
        self.nodes.insert(ino, node);
        Out::Attr(facts)
    }

    fn free_place(&self, path: &Path) -> Result<(u64, Vec<u8>), i32> {
        let (parent, name) = self.split(path)?.ok_or(libc::EEXIST)?;
        if self.nodes[&parent].names.contains_key(&name) { Err(libc::EEXIST) } else { Ok((parent, name)) }
    }

    fn lose_name(&mut self, ino: u64) {
        let now = self.now;
        let node = self.node(ino);
        node.facts.ctime = now;
        node.facts.nlink = if node.is_dir() { 0 } else { node.facts.nlink - 1 };
        self.sweep(ino);
    }

    /// An inode without names goes when nobody holds it.
    fn sweep(&mut self, ino: u64) {
        if self.nodes.get(&ino).is_some_and(|n| n.facts.nlink == 0) && !self.slots.values().any(|s| *s == ino) {
            self.nodes.remove(&ino);
        }
    }

    /// A kernel forgot everything: what has no name goes.
    fn release_all(&mut self) {
        self.slots.clear();
        self.nodes.retain(|_, n| n.facts.nlink > 0);
    }

    fn answer(&mut self, op: &Op) -> Answer {
        let now = self.now;
        match op {
            Op::Make { at, kind, perm } => {
                let (parent, name) = self.free_place(at)?;
                let mut node = Node::new(*kind, *perm, now);
                if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) {
                    node.facts.rdev = 0x0103;
                }
                Ok(self.insert(parent, name, node))
            }
            Op::MakeDir { at, perm } => {
                let (parent, name) = self.free_place(at)?;
                Ok(self.insert(parent, name, Node::new(FileKind::Directory, *perm, now)))
            }
            Op::Symlink { at, target } => {
                let (parent, name) = self.free_place(at)?;
                let mut node = Node::new(FileKind::Symlink, 0o777, now);
                node.facts.size = target.len() as u64;
                node.target.clone_from(target);
                Ok(self.insert(parent, name, node))
            }
            Op::Link { of, at } => {
                let ino = self.at(of)?;
                let (parent, name) = self.free_place(at)?;
                let node = self.node(ino);
                if node.is_dir() {
                    return Err(libc::EPERM);
                }
                if node.facts.nlink == 0 {
                    return Err(libc::ENOENT);
                }
                node.facts.nlink += 1;
                node.facts.ctime = now;
                let facts = node.facts();
                self.node(parent).names.insert(name, ino);
                self.touch_dir(parent);
                Ok(Out::Attr(facts))
            }
            Op::Unlink { at } => {
                let (parent, name) = self.split(at)?.ok_or(libc::EISDIR)?;
                let ino = *self.nodes[&parent].names.get(&name).ok_or(libc::ENOENT)?;
                if self.nodes[&ino].is_dir() {
                    return Err(libc::EISDIR);
                }
                self.node(parent).names.remove(&name);
                self.touch_dir(parent);
                self.lose_name(ino);
                Ok(Out::Unit)
            }
            Op::RemoveDir { at } => {
                let (parent, name) = self.split(at)?.ok_or(libc::EBUSY)?;
                let ino = *self.nodes[&parent].names.get(&name).ok_or(libc::ENOENT)?;
                if !self.nodes[&ino].is_dir() {
                    return Err(libc::ENOTDIR);
                }
                if !self.nodes[&ino].names.is_empty() {
                    return Err(libc::ENOTEMPTY);
                }
                self.node(parent).names.remove(&name);
                self.node(parent).facts.nlink -= 1;
                self.touch_dir(parent);
                self.lose_name(ino);
                Ok(Out::Unit)
            }
            Op::Rename { from, to, mode } => self.rename(from, to, *mode),
            Op::Hold { at, slot } => {
                let ino = self.walk(at)?;
                let before = self.slots.insert(*slot, ino);
                if let Some(before) = before {
                    self.sweep(before);
                }
                Ok(Out::Attr(self.nodes[&ino].facts()))
            }
            Op::Drop { slot } => {
                let ino = self.slots.remove(slot).ok_or(libc::EBADF)?;
                self.sweep(ino);
                Ok(Out::Unit)
            }
            Op::Write { at, offset, len, fill } => {
                let ino = self.file(at)?;
                let bytes = contents(*offset, *len, *fill);
                let node = self.node(ino);
                if !bytes.is_empty() {
                    node.write(*offset, &bytes);
                    node.facts.mtime = now;
                    node.facts.ctime = now;
                }
                Ok(Out::Count(bytes.len()))
            }
            Op::Read { at, offset, len } => {
                let ino = self.file(at)?;
                Ok(Out::Bytes(self.nodes[&ino].read(*offset, *len)))
            }
            Op::Truncate { at, size } => {
                let ino = self.file(at)?;
                let node = self.node(ino);
                if *size <= node.facts.size {
                    node.data.split_off(&size.div_ceil(BLOCK));
                    node.zero(*size, size.div_ceil(BLOCK) * BLOCK);
                }
                node.facts.size = *size;
                node.facts.mtime = now;
                node.facts.ctime = now;
                Ok(Out::Attr(node.facts()))
            }
            Op::Chmod { at, perm } => {
                let ino = self.at(at)?;
                let node = self.node(ino);
                node.facts.perm = *perm;
                node.facts.ctime = now;
                Ok(Out::Attr(node.facts()))
            }
            Op::Chown { at, uid, gid } => {
                let ino = self.at(at)?;
                let node = self.node(ino);
                node.facts.uid = *uid;
                node.facts.gid = *gid;
                if node.facts.kind != FileKind::Directory {
                    // The owner's set-id bit goes, and the group's where the group may execute.
                    let executable = node.facts.perm & 0o010 != 0;
                    node.facts.perm &= if executable { 0o1777 } else { 0o3777 };
                }
                node.facts.ctime = now;
                Ok(Out::Attr(node.facts()))
            }
            Op::Touch { at, sec, nsec } => {
                let ino = self.at(at)?;
                let node = self.node(ino);
                node.facts.mtime = Time { sec: *sec, nsec: *nsec };
                node.facts.ctime = now;
                Ok(Out::Attr(node.facts()))
            }
            Op::Allocate { at, offset, len, how } => {
                let ino = self.file(at)?;
                self.allocate(ino, *offset, *len, *how);
                Ok(Out::Unit)
            }
            Op::SeekTo { at, offset, what } => {
                let ino = self.file(at)?;
                self.seek(ino, *offset, *what).map(Out::Position)
            }
            Op::SetXattr { at, name, len, mode } => {
                let ino = self.at(at)?;
                let key = xattr(*name);
                let there = self.nodes[&ino].xattrs.contains_key(&key);
                match mode {
                    XattrMode::Create if there => return Err(libc::EEXIST),
                    XattrMode::Replace if !there => return Err(libc::ENODATA),
                    _ => {}
                }
                let node = self.node(ino);
                node.xattrs.insert(key, value(*name, *len));
                node.facts.ctime = now;
                Ok(Out::Unit)
            }
            Op::GetXattr { at, name } => {
                let ino = self.at(at)?;
                self.nodes[&ino].xattrs.get(&xattr(*name)).cloned().map(Out::Bytes).ok_or(libc::ENODATA)
            }
            Op::ListXattr { at } => {
                let ino = self.at(at)?;
                Ok(Out::Names(self.nodes[&ino].xattrs.keys().map(|k| (k.clone(), None)).collect()))
            }
            Op::RemoveXattr { at, name } => {
                let ino = self.at(at)?;
                let node = self.node(ino);
                node.xattrs.remove(&xattr(*name)).ok_or(libc::ENODATA)?;
                node.facts.ctime = now;
                Ok(Out::Unit)
            }
            Op::ReadLink { at } => {
                let ino = self.at(at)?;
                let node = &self.nodes[&ino];
                if node.facts.kind == FileKind::Symlink { Ok(Out::Bytes(node.target.clone())) } else { Err(libc::EINVAL) }
            }
            Op::Attr { at } => {
                let ino = self.at(at)?;
                Ok(Out::Attr(self.nodes[&ino].facts()))
            }
            Op::List { at, .. } => {
                let ino = self.at(at)?;
                let node = &self.nodes[&ino];
                if !node.is_dir() {
                    return Err(libc::ENOTDIR);
                }
                Ok(Out::Names(node.names.iter().map(|(n, i)| (n.clone(), Some(self.nodes[i].facts.kind))).collect()))
            }
            Op::Fsync { at } => self.at(at).map(|_| Out::Unit),
            Op::Totals => Ok(Out::Totals(self.nodes.values().map(|n| n.data.len() as u64).sum(), self.nodes.len() as u64)),
            Op::SyncAll | Op::Kill | Op::Idle | Op::Compact | Op::Trim => Ok(Out::Unit),
            Op::Reopen | Op::SyncAndCutPower => {
                self.release_all();
                Ok(Out::Unit)
            }
        }
    }

    fn rename(&mut self, from: &Path, to: &Path, mode: RenameMode) -> Answer {
        let now = self.now;
        let (parent, name) = self.split(from)?.ok_or(libc::EBUSY)?;
        let (new_parent, new_name) = self.split(to)?.ok_or(libc::EBUSY)?;
        let moved = *self.nodes[&parent].names.get(&name).ok_or(libc::ENOENT)?;
        let there = self.nodes[&new_parent].names.get(&new_name).copied();
        self.refuse_loop(moved, new_parent)?;
        let is_dir = self.nodes[&moved].is_dir();
        match (mode, there) {
            (RenameMode::NoReplace, Some(_)) => return Err(libc::EEXIST),
            (RenameMode::Exchange, None) => return Err(libc::ENOENT),
            (RenameMode::Exchange, Some(other)) => {
                self.refuse_loop(other, parent)?;
                self.node(parent).names.insert(name, other);
                self.node(new_parent).names.insert(new_name, moved);
                for (ino, old, new) in [(moved, parent, new_parent), (other, new_parent, parent)] {
                    self.node(ino).facts.ctime = now;
                    if self.nodes[&ino].is_dir() {
                        self.node(ino).parent = new;
                        self.node(old).facts.nlink -= 1;
                        self.node(new).facts.nlink += 1;
                    }
                }
                self.touch_dir(parent);
                self.touch_dir(new_parent);
                return Ok(Out::Unit);
            }
            (RenameMode::Replace, Some(other)) if other == moved => return Ok(Out::Unit),
            (RenameMode::Replace, Some(other)) => {
                match (is_dir, self.nodes[&other].is_dir()) {
                    (true, false) => return Err(libc::ENOTDIR),
                    (false, true) => return Err(libc::EISDIR),
                    (true, true) if !self.nodes[&other].names.is_empty() => return Err(libc::ENOTEMPTY),
                    (true, true) => self.node(new_parent).facts.nlink -= 1,
                    (false, false) => {}
                }
                self.node(new_parent).names.remove(&new_name);
                self.lose_name(other);
            }
            (_, None) => {}
        }
        self.node(parent).names.remove(&name);
        self.node(new_parent).names.insert(new_name, moved);
        if is_dir {
            self.node(parent).facts.nlink -= 1;
            self.node(new_parent).facts.nlink += 1;
            self.node(moved).parent = new_parent;
        }
        self.node(moved).facts.ctime = now;
        self.touch_dir(parent);
        self.touch_dir(new_parent);
        Ok(Out::Unit)
    }

    fn refuse_loop(&self, moved: u64, mut folder: u64) -> Result<(), i32> {
        loop {
            if folder == moved {
                return Err(libc::EINVAL);
            }
            if folder == ROOT {
                return Ok(());
            }
            folder = self.nodes[&folder].parent;
        }
    }

    fn allocate(&mut self, ino: u64, offset: u64, len: u64, how: Allocate) {
        let now = self.now;
        let end = offset + len;
        let node = self.node(ino);
        let (inner_from, inner_to) = (offset.div_ceil(BLOCK), end / BLOCK);
        match how {
            Allocate::PunchHole => {
                node.data.retain(|b, _| !(inner_from..inner_to).contains(b));
                node.zero(offset, end);
            }
            Allocate::ZeroRange { keep_size } | Allocate::Reserve { keep_size } => {
                if matches!(how, Allocate::ZeroRange { .. }) {
                    node.data.retain(|b, _| !(inner_from..inner_to).contains(b));
                    node.zero(offset, end);
                }
                for block in offset / BLOCK..end.div_ceil(BLOCK) {
                    node.data.entry(block).or_insert(Block::Reserved);
                }
                if !keep_size {
                    node.facts.size = node.facts.size.max(end);
                }
            }
        }
        node.facts.mtime = now;
        node.facts.ctime = now;
    }

    /// Reserved blocks count as holes, as on ext4: nothing was ever written there.
    fn seek(&self, ino: u64, offset: u64, what: Seek) -> Result<u64, i32> {
        let node = &self.nodes[&ino];
        let size = node.facts.size;
        if offset >= size {
            return Err(libc::ENXIO);
        }
        let mut at = offset;
        while at < size {
            let data = matches!(node.data.get(&(at / BLOCK)), Some(Block::Data(_)));
            if data == (what == Seek::Data) {
                return Ok(at);
            }
            at = (at / BLOCK + 1) * BLOCK;
        }
        if what == Seek::Hole { Ok(size) } else { Err(libc::ENXIO) }
    }
}

/// An extended attribute's name.
pub(crate) fn xattr(n: u8) -> Vec<u8> {
    format!("user.{n}").into_bytes()
}
