//! The whole of a file system as plain data, read from chunkfs or from the model, and the first difference of two.

use super::Facts;
use super::model::{BLOCK, Block, Model, ROOT};
use orlop_chunkfs::{Attr, DirEntry, FileKind, FileSystem, FsResult, Ino, ROOT_INO};
use std::collections::{BTreeMap, BTreeSet};

/// Names from the root down.
pub type Names = Vec<Vec<u8>>;

/// One inode, as found under one of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number, on the side that it was read from.
    pub ino: u64,
    /// Its attributes.
    pub facts: Facts,
    /// Of a file: the blocks that are not all zeros.
    pub pages: BTreeMap<u64, Vec<u8>>,
    /// Of a symbolic link.
    pub target: Vec<u8>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Every name and what stands behind it. The root has no names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<Names, Entry>);

/// What both sides must agree on.
pub fn facts(attr: &Attr) -> Facts {
    let file = attr.kind == FileKind::File;
    Facts {
        kind: attr.kind,
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        size: if attr.kind == FileKind::Directory { 0 } else { attr.size },
        blocks: if file { attr.blocks } else { 0 },
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: attr.crtime,
    }
}

/// All entries of a folder, read `page` at a time; fails if cookies do not rise.
pub async fn list(fs: &FileSystem, ino: Ino, page: usize) -> FsResult<Vec<DirEntry>> {
    let mut all: Vec<DirEntry> = Vec::new();
    loop {
        let cookie = all.last().map_or(0, |e| e.cookie);
        let part = fs.readdir(ino, cookie, page).await?;
        if part.is_empty() {
            return Ok(all);
        }
        for e in part {
            let last = all.last().map_or(0, |e| e.cookie);
            assert!(e.cookie > last && e.cookie < 1 << 63, "cookie {} follows {last}", e.cookie);
            all.push(e);
        }
    }
}

fn pages_of(bytes: &[u8], first: u64, out: &mut BTreeMap<u64, Vec<u8>>) {
    for (i, page) in bytes.chunks(BLOCK as usize).enumerate() {
        if page.iter().any(|b| *b != 0) {
            let mut whole = page.to_vec();
            whole.resize(BLOCK as usize, 0);
            out.insert(first + i as u64, whole);
        }
    }
}

async fn entry(fs: &FileSystem, attr: &Attr) -> FsResult<Entry> {
    const STEP: usize = 1 << 20;
    let mut pages = BTreeMap::new();
    if attr.kind == FileKind::File {
        let mut at = 0;
        while at < attr.size {
            let bytes = fs.read(attr.ino, at, STEP as u32).await?;
            let expected = STEP.min((attr.size - at) as usize);
            if bytes.len() != expected {
                let why = format!("inode {}: a read at {at} gave {} of {expected} bytes", attr.ino, bytes.len());
                return Err(orlop_chunkfs::FsError::Io(why));
            }
            pages_of(&bytes, at / BLOCK, &mut pages);
            at += bytes.len() as u64;
        }
    }
    let target = if attr.kind == FileKind::Symlink { fs.readlink(attr.ino).await?.to_vec() } else { Vec::new() };
    let mut xattrs = BTreeMap::new();
    for name in fs.listxattr(attr.ino).await? {
        let value = fs.getxattr(attr.ino, &name).await?;
        xattrs.insert(name.to_vec(), value.to_vec());
    }
    Ok(Entry { ino: attr.ino, facts: facts(attr), pages, target, xattrs })
}

impl Tree {
    /// Reads everything. Fails as soon as anything cannot be read; what is contradictory is an error too.
    pub async fn of(fs: &FileSystem) -> FsResult<Tree> {
        let mut tree = Tree::default();
        let root = fs.getattr(ROOT_INO).await?;
        let mut todo = vec![(Vec::new(), root)];
        while let Some((names, attr)) = todo.pop() {
            if attr.kind == FileKind::Directory {
                for e in list(fs, attr.ino, 100).await? {
                    let child = fs.lookup(attr.ino, &e.name).await?;
                    fs.forget(child.ino, 1);
                    if (child.ino, child.kind) != (e.ino, e.kind) {
                        let why = format!("{:?}: readdir says inode {} {:?}, lookup {} {:?}", e.name, e.ino, e.kind, child.ino, child.kind);
                        return Err(orlop_chunkfs::FsError::Io(why));
                    }
                    if child.kind == FileKind::Directory && fs.parent_of(child.ino).await? != attr.ino {
                        return Err(orlop_chunkfs::FsError::Io(format!("folder {:?} names another parent", e.name)));
                    }
                    let mut below: Names = names.clone();
                    below.push(e.name.to_vec());
                    todo.push((below, child));
                }
            }
            let e = entry(fs, &attr).await?;
            tree.0.insert(names, e);
        }
        Ok(tree)
    }

    /// The model as a tree.
    pub fn of_model(model: &Model) -> Tree {
        let mut tree = Tree::default();
        let mut todo = vec![(Vec::new(), ROOT)];
        while let Some((names, ino)) = todo.pop() {
            let node = &model.nodes[&ino];
            for (name, child) in &node.names {
                let mut below: Names = names.clone();
                below.push(name.clone());
                todo.push((below, *child));
            }
            let pages = node
                .data
                .iter()
                .filter_map(|(n, b)| match b {
                    Block::Data(bytes) if bytes.iter().any(|b| *b != 0) => Some((*n, bytes.clone())),
                    _ => None,
                })
                .filter(|(n, _)| n * BLOCK < node.facts.size)
                .collect();
            let e = Entry { ino, facts: node.facts(), pages, target: node.target.clone(), xattrs: node.xattrs.clone() };
            tree.0.insert(names, e);
        }
        tree
    }

    /// The first difference, if there is one; `same` maps the other side's inodes to this side's and grows.
    pub fn difference(&self, other: &Tree, same: &mut Same) -> Option<String> {
        let ours: BTreeSet<&Names> = self.0.keys().collect();
        let theirs: BTreeSet<&Names> = other.0.keys().collect();
        if let Some(n) = ours.difference(&theirs).next() {
            return Some(format!("{} is missing", show(n)));
        }
        if let Some(n) = theirs.difference(&ours).next() {
            return Some(format!("{} should not be there", show(n)));
        }
        for (names, a) in &self.0 {
            let b = &other.0[names];
            if let Some(why) = same.note(a.ino, b.ino) {
                return Some(format!("{}: {why}", show(names)));
            }
            if let Some(why) = a.difference(b) {
                return Some(format!("{}: {why}", show(names)));
            }
        }
        None
    }
}

impl Entry {
    fn difference(&self, other: &Entry) -> Option<String> {
        if self.facts != other.facts {
            return Some(format!("attributes should be {:?}, are {:?}", self.facts, other.facts));
        }
        if self.target != other.target || self.xattrs != other.xattrs {
            return Some("target or extended attributes differ".to_owned());
        }
        let blocks: BTreeSet<&u64> = self.pages.keys().chain(other.pages.keys()).collect();
        for n in blocks {
            let (a, b) = (self.pages.get(n), other.pages.get(n));
            if a != b {
                return Some(format!("block {n} should be {}, is {}", look(a), look(b)));
            }
        }
        None
    }
}

/// A block in a few words.
pub fn look(page: Option<&Vec<u8>>) -> String {
    match page {
        None => "zeros".to_owned(),
        Some(b) => {
            format!("{:02x?}.. ({:08x})", &b[..4.min(b.len())], b.iter().fold(7u32, |h, x| h.wrapping_mul(31).wrapping_add(u32::from(*x))))
        }
    }
}

/// A path in readable form.
pub fn show(names: &Names) -> String {
    let mut out = String::from("/");
    for n in names {
        if out.len() > 1 {
            out.push('/');
        }
        out.push_str(&String::from_utf8_lossy(&n[..n.len().min(20)]));
    }
    out
}

/// Which inode of one side is which of the other. Numbers are never reused, so it only grows.
#[derive(Debug, Clone, Default)]
pub struct Same {
    there: BTreeMap<u64, u64>,
    back: BTreeMap<u64, u64>,
}

impl Same {
    /// Notes that two are the same; says why that cannot be.
    pub fn note(&mut self, ours: u64, theirs: u64) -> Option<String> {
        let (a, b) = (*self.there.entry(ours).or_insert(theirs), *self.back.entry(theirs).or_insert(ours));
        if a != theirs || b != ours {
            return Some(format!("inode {theirs} stands for {ours}, but {ours} was {a} and {theirs} was {b}"));
        }
        None
    }
}
