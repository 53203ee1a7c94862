//! Walking over a volume from its root and giving everything to a sink. What cannot be read is named, and the rest goes on.

use super::{Damaged, Report};
use orlop_chunkfs::{Attr, FileKind, FileSystem, FsError, Ino, ROOT_INO, Seek};
use orlop_model::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;
/// Where something does not read, what is around it is read in pieces of this size.
const BLOCK: u64 = 4096;

/// Attributes by name.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What of a file's content was read.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Stretches of data, in order; the rest are holes.
    pub(super) data: Vec<(u64, u64)>,
    /// Stretches that could not be read, and why the first of them could not.
    pub(super) bad: Vec<(u64, u64)>,
    pub(super) why: String,
}

impl Content {
    /// What of it could not be read, and why, if it is not whole.
    fn lost(&self) -> Option<String> {
        let (from, _) = self.bad.first()?;
        let n: u64 = self.bad.iter().map(|(from, to)| to - from).sum();
        Some(format!("{n} bytes from byte {from} on could not be read: {}", self.why))
    }
}

/// Takes what comes out of a volume, folders before what is in them. Paths are relative to the volume's root.
pub(super) trait Sink {
    /// A folder; its attributes are set when all is in it.
    fn folder(&mut self, path: &Path, attr: &Attr, xattrs: &Xattrs) -> Result<()>;
    /// A file to write content to, before its name is known to be good.
    fn begin_file(&mut self, path: &Path) -> Result<File>;
    /// The file is written as far as it could be read; the path is the one that it comes out under.
    fn end_file(&mut self, path: &Path, file: File, attr: &Attr, xattrs: &Xattrs, content: &Content) -> Result<()>;
    /// Another name of what has come before, with its attributes.
    fn link(&mut self, path: &Path, first: &Path, attr: &Attr) -> Result<()>;
    /// A symbolic link.
    fn symlink(&mut self, path: &Path, target: &[u8], attr: &Attr, xattrs: &Xattrs) -> Result<()>;
    /// A pipe, socket or device. Tells whether it came out, and other names can be made of it.
    fn node(&mut self, path: &Path, attr: &Attr, xattrs: &Xattrs) -> Result<bool>;
    /// All has come; tells what the reader should know.
    fn finish(&mut self) -> Result<Vec<String>>;
}

/// The end of the name of a file that could not be read whole.
const DAMAGED: &str = ".orlop-damaged";

/// The path under which a file comes out.
fn name_of(path: &Path, is_whole: bool) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    if !is_whole {
        name.push(DAMAGED);
    }
    name.into()
}

/// How something of several names came out first.
struct First {
    path: PathBuf,
    attr: Attr,
    /// What of its content could not be read.
    lost: Option<String>,
}

pub(super) struct Walk<'a, F> {
    pub(super) fs: &'a FileSystem,
    pub(super) sink: &'a mut dyn Sink,
    pub(super) report: Report,
    tell: F,
    /// What is being read.
    now: String,
    /// Bytes that are dealt with, whether they could be read or not.
    passed: u64,
    first: HashMap<Ino, First>,
    /// What has come out, of a volume whose names may lead nowhere, or not to all.
    pub(super) seen: Option<HashSet<Ino>>,
}

impl<'a, F: FnMut(&str, u64)> Walk<'a, F> {
    pub(super) fn new(fs: &'a FileSystem, sink: &'a mut dyn Sink, report: Report, tell: F) -> Self {
        let seen = report.rebuilt.then(HashSet::new);
        Walk { fs, sink, report, tell, now: String::new(), passed: 0, first: HashMap::new(), seen }
    }

    pub(super) async fn all(&mut self) -> Result<()> {
        self.tree(PathBuf::new(), ROOT_INO).await?;
        if self.seen.is_some() { self.strays().await } else { Ok(()) }
    }

    fn tell_of(&mut self, path: &Path) {
        self.now = path.display().to_string();
        self.tell_on();
    }

    fn tell_on(&mut self) {
        (self.tell)(&self.now, self.passed);
    }

    /// Notes that an inode comes out. Tells whether it had not yet, as far as that is to be known.
    fn is_new(&mut self, ino: Ino) -> bool {
        self.seen.as_mut().is_none_or(|seen| seen.insert(ino))
    }

    /// Whether a folder lies elsewhere than where this name has it: the name is older than what became of the folder. One whose
    /// attributes are lost may lie anywhere.
    async fn is_elsewhere(&self, folder: Ino, above: Ino) -> bool {
        self.seen.is_some() && self.fs.parent_of(folder).await.is_ok_and(|parent| parent != 0 && parent != above)
    }

    /// A folder and everything in it.
    pub(super) async fn tree(&mut self, path: PathBuf, ino: Ino) -> Result<()> {
        let mut todo = vec![(path, ino)];
        while let Some((path, ino)) = todo.pop() {
            self.tell_of(&path);
            if !self.is_new(ino) {
                self.report.damaged.push(Damaged { path: shown(&path), why: "the folder has come out under another name".to_owned() });
                continue;
            }
            let (attr, xattrs) = match self.about(ino).await {
                Ok(it) => it,
                Err(e) => {
                    self.damaged(&path, &e);
                    continue;
                }
            };
            self.sink.folder(&path, &attr, &xattrs)?;
            self.report.folders += 1;
            let mut cookie = 0;
            loop {
                let entries = match self.fs.readdir(ino, cookie, 512).await {
                    Ok(entries) => entries,
                    Err(e) => {
                        self.damaged(&path, &e);
                        break;
                    }
                };
                let Some(last) = entries.last() else { break };
                cookie = last.cookie;
                for entry in entries {
                    let path = path.join(OsString::from_vec(entry.name.to_vec()));
                    match entry.kind {
                        FileKind::Directory => {
                            if !self.is_elsewhere(entry.ino, ino).await {
                                todo.push((path, entry.ino));
                            }
                        }
                        kind => self.one(&path, entry.ino, kind).await?,
                    }
                }
            }
        }
        Ok(())
    }

    async fn about(&self, ino: Ino) -> std::result::Result<(Attr, Xattrs), FsError> {
        let attr = self.fs.getattr(ino).await?;
        let mut xattrs = Vec::new();
        for name in self.fs.listxattr(ino).await? {
            let value = self.fs.getxattr(ino, &name).await?;
            xattrs.push((name.to_vec(), value.to_vec()));
        }
        Ok((attr, xattrs))
    }

    pub(super) fn damaged(&mut self, path: &Path, why: &FsError) {
        self.report.damaged.push(Damaged { path: shown(path), why: why.to_string() });
    }

    /// Anything but a folder.
    pub(super) async fn one(&mut self, path: &Path, ino: Ino, kind: FileKind) -> Result<()> {
        self.tell_of(path);
        self.is_new(ino);
        if let Some(first) = self.first.get(&ino) {
            let out = name_of(path, first.lost.is_none());
            if let Some(lost) = &first.lost {
                self.report.damaged.push(Damaged { path: shown(path), why: with_rest(lost, &out) });
            }
            self.report.others += 1;
            return self.sink.link(&out, &first.path, &first.attr);
        }
        let (attr, xattrs) = match self.about(ino).await {
            Ok(it) => it,
            Err(e) => {
                self.damaged(path, &e);
                return Ok(());
            }
        };
        let mut came_out = First { path: path.to_owned(), attr, lost: None };
        match kind {
            FileKind::File => {
                let file = self.sink.begin_file(path)?;
                let content =
                    self.content(ino, attr.size, &file).await.map_err(|e| Error::io(format_args!("writing {}", path.display()), &e))?;
                came_out.lost = content.lost();
                came_out.path = name_of(path, came_out.lost.is_none());
                if let Some(lost) = &came_out.lost {
                    self.report.damaged.push(Damaged { path: shown(path), why: with_rest(lost, &came_out.path) });
                }
                self.sink.end_file(&came_out.path, file, &attr, &xattrs, &content)?;
                self.report.files += 1;
            }
            FileKind::Symlink => match self.fs.readlink(ino).await {
                Ok(target) => {
                    self.sink.symlink(path, &target, &attr, &xattrs)?;
                    self.report.others += 1;
                }
                Err(e) => {
                    self.damaged(path, &e);
                    return Ok(());
                }
            },
            _ => {
                let is_there = self.sink.node(path, &attr, &xattrs)?;
                self.report.others += 1;
                if !is_there {
                    return Ok(());
                }
            }
        }
        if attr.nlink > 1 {
            self.first.insert(ino, came_out);
        }
        Ok(())
    }

    /// Copies what can be read of a file's content.
    async fn content(&mut self, ino: Ino, size: u64, to: &File) -> std::io::Result<Content> {
        let mut content = Content::default();
        to.set_len(size)?;
        let mut at = 0;
        while at < size {
            // Where holes cannot be told, everything is data.
            let from = match self.fs.seek(ino, at, Seek::Data).await {
                Ok(from) => from,
                Err(FsError::NoSuchPosition) => break,
                Err(_) => at,
            };
            let end = self.fs.seek(ino, from, Seek::Hole).await.unwrap_or(size).clamp(from + 1, size.max(from + 1)).min(size);
            at = from;
            while at < end {
                let want = PIECE.min(end - at);
                self.piece(ino, at, want, to, &mut content).await?;
                at += want;
            }
            at = end;
        }
        Ok(content)
    }

    async fn piece(&mut self, ino: Ino, at: u64, want: u64, to: &File, content: &mut Content) -> std::io::Result<()> {
        match self.fs.read(ino, at, want as u32).await {
            Ok(bytes) => {
                to.write_all_at(&bytes, at)?;
                self.report.bytes += bytes.len() as u64;
                self.passed += bytes.len() as u64;
                self.tell_on();
                grow(&mut content.data, at, at + bytes.len() as u64);
                Ok(())
            }
            Err(e) if want <= BLOCK => {
                if content.bad.is_empty() {
                    content.why = e.to_string();
                }
                grow(&mut content.bad, at, at + want);
                self.passed += want;
                self.tell_on();
                Ok(())
            }
            Err(_) => {
                // Block by block, to lose no more than is lost.
                let mut from = at;
                while from < at + want {
                    let to_end = (BLOCK - from % BLOCK).min(at + want - from);
                    Box::pin(self.piece(ino, from, to_end, to, content)).await?;
                    from += to_end;
                }
                Ok(())
            }
        }
    }
}

/// Why a file is not whole, and where what could be read of it is.
fn with_rest(lost: &str, out: &Path) -> String {
    format!("{lost}; the rest is in {}", out.display())
}

/// A path as it is in the volume.
fn shown(path: &Path) -> String {
    format!("/{}", path.display())
}

/// Adds a stretch; one that touches the last one makes that longer.
fn grow(all: &mut Vec<(u64, u64)>, from: u64, to: u64) {
    match all.last_mut() {
        Some(last) if last.1 == from => last.1 = to,
        _ => all.push((from, to)),
    }
}
