//! A namespace made anew from what could be read of a damaged one: which version of a row still counts, and what is missing.
//!
//! Where a table has lost rows, those of older tables may be older than what was true. A folder's names and an inode's attributes
//! are then told as they were before. A file's contents are not: they are never of two times. All changes of its blocks are folded
//! together with its inode, so a table that has lost a row of its blocks concerns it only if that table has, or may have lost, a row of
//! its inode too; such blocks are missing, which who reads them is told. An older inode with newer blocks is missing as a whole. Blocks that
//! were only moved are no change.

use super::ends::{self, Said};
use super::merge::{Merge, Versions};
use super::segments;
use super::spans::{Gaps, merged, within};
use super::store::Scratch;
use super::tables::{Level, Span, Tables};
use super::{Rescue, Whose};
use crate::chunk::Chunk;
use crate::key::{CHUNK_BLOCKS, Key};
use crate::log::Place;
use crate::namespace::{Anew, Missing};
use crate::open::model_error;
use crate::row::{Inode, Row, Segment, Super};
use crate::types::{FileKind, FsError, Ino, ROOT_INO, Time};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path as StorePath;
use orlop_model::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// How far above all numbers that were seen those begin that are not given yet, where nothing says it.
const FAR: u64 = 1 << 40;

/// What a volume is opened over.
pub(super) struct Rebuilt {
    /// Its store, with this namespace in the place of the damaged one.
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) missing: Missing,
    /// Inodes whose extended attributes are lost, and folders of which nothing is left but names in them.
    pub(super) without_xattrs: u64,
    pub(super) bare_folders: u64,
}

/// Makes it in a folder of the scratch. Of files that a log goes on with, which are `logged`, no row counts that may be older than what
/// the log goes on from.
pub(super) async fn write(rescue: &Rescue, whose: &Whose, tables: &Tables, dir: &Path, logged: &BTreeSet<Ino>) -> Result<Rebuilt> {
    let objects = dir.join("objects");
    std::fs::create_dir_all(&objects).map_err(|e| Error::io(objects.display(), &e))?;
    let path = format!("{}/meta", rescue.prefix);
    let below = StorePath::from(path.as_str());
    let old: Vec<StorePath> = rescue
        .of
        .store
        .list(Some(&below))
        .map_ok(|meta| meta.location)
        .try_collect()
        .await
        .map_err(|e| orlop_store::error(format_args!("listing {below}"), &e))?;
    let store: Arc<dyn ObjectStore> = Arc::new(Scratch::over(rescue.of.store.clone(), &objects)?.without(&old));
    let out = Anew::begin(store.clone(), &path).await.map_err(unwritten)?;
    let levels = &tables.levels[..];
    let mut work = Work {
        levels,
        logged,
        out,
        gaps: Gaps::of(levels),
        live: HashMap::new(),
        used: 0,
        inodes: 0,
        top: ROOT_INO,
        folders: HashSet::new(),
        removed: HashSet::new(),
        without_xattrs: 0,
        bare_folders: 0,
    };
    work.files().await?;
    work.names().await?;
    let top_segment = work.segments(rescue).await?;
    work.head(rescue, whose, top_segment).await?;
    let Work { out, gaps, without_xattrs, bare_folders, .. } = work;
    out.end().await.map_err(unwritten)?;
    Ok(Rebuilt { store, missing: gaps.end(), without_xattrs, bare_folders })
}

fn unwritten(e: FsError) -> Error {
    model_error("writing the namespace anew", e)
}

fn unread(e: std::io::Error) -> Error {
    Error::io("reading what was copied of the tables", &e)
}

struct Work<'a> {
    levels: &'a [Level],
    logged: &'a BTreeSet<Ino>,
    out: Anew,
    gaps: Gaps,
    /// Blocks of each segment that are referred to.
    live: HashMap<u64, u64>,
    used: u64,
    inodes: u64,
    /// The highest inode that was seen anywhere.
    top: Ino,
    /// Folders that have a row, and inodes of which one says that they are gone.
    folders: HashSet<Ino>,
    removed: HashSet<Ino>,
    without_xattrs: u64,
    bare_folders: u64,
}

/// An inode while its rows go by.
struct Subject {
    ino: Ino,
    /// Of its own row; absent if nothing is known of it, or nothing that counts.
    versions: Option<Versions>,
    inode: Option<Arc<Inode>>,
    /// The level of that row; above all if nothing is known.
    level: usize,
    /// The lowest level above that which may have had a newer one.
    doubt: Option<usize>,
    is_removed: bool,
    /// Its blocks are newer than its row.
    is_mixed: bool,
    /// Blocks in rows that count.
    blocks: u64,
}

impl Work<'_> {
    async fn put(&mut self, key: Key, row: &[u8]) -> Result<()> {
        self.out.put(key, row).await.map_err(unwritten)
    }

    /// Levels above one that may have lost a row of this key.
    fn lacking(&self, key: Key, above: usize) -> impl Iterator<Item = usize> {
        (above + 1..self.levels.len()).filter(move |level| self.levels[*level].lacks(key))
    }

    fn is_sure(&self, versions: &Versions) -> bool {
        self.lacking(versions.key, versions.newest().0).next().is_none()
    }

    /// Inodes, and what belongs to each of them.
    async fn files(&mut self) -> Result<()> {
        let levels = self.levels;
        let mut inodes = Merge::over(levels, Key::Inode(0), Key::Dirent(0, 0)).map_err(unread)?;
        let mut chunks = Merge::over(levels, Key::Chunk(0, 0), Key::Xattrs(0)).map_err(unread)?;
        let mut xattrs = Merge::over(levels, Key::Xattrs(0), Key::Segment(0)).map_err(unread)?;
        while let Some(ino) = [&inodes, &chunks, &xattrs].into_iter().filter_map(|rows| rows.ahead()?.ino()).min() {
            self.top = self.top.max(ino);
            let mut of = self.subject(ino, inodes.take_of(ino).map_err(unread)?);
            while let Some(versions) = chunks.take_of(ino).map_err(unread)? {
                self.chunk(&mut of, &versions).await?;
            }
            let versions = xattrs.take_of(ino).map_err(unread)?;
            if of.is_removed {
                self.removed.insert(ino);
            } else {
                self.xattrs(&of, versions).await?;
                self.inode(of).await?;
            }
        }
        Ok(())
    }

    fn subject(&self, ino: Ino, versions: Option<Versions>) -> Subject {
        let unknown =
            Subject { ino, versions: None, inode: None, level: usize::MAX, doubt: None, is_removed: false, is_mixed: false, blocks: 0 };
        let Some(versions) = versions else { return unknown };
        let (level, row) = versions.newest();
        // No number is given twice.
        let Some(row) = row else { return Subject { is_removed: true, ..unknown } };
        let Ok(Row::Inode(inode)) = Row::decode(Key::Inode(ino), row) else { return unknown };
        let doubt = self.lacking(Key::Inode(ino), level).next();
        if doubt.is_some() && inode.kind == FileKind::File && self.logged.contains(&ino) {
            return unknown;
        }
        Subject { versions: Some(versions), inode: Some(inode), level, doubt, ..unknown }
    }

    /// Whether a level changed an inode, or may have, before the row was made that counts of it.
    fn is_changed(&self, of: &Subject, level: usize) -> bool {
        let has_row = of.versions.as_ref().is_none_or(|versions| versions.is_of(level));
        level <= of.level && (has_row || self.levels[level].lacks(Key::Inode(of.ino)))
    }

    /// Whether a row of an inode may be older than what is told of that.
    fn is_stale(&self, of: &Subject, versions: &Versions) -> bool {
        self.lacking(versions.key, versions.newest().0).any(|level| self.is_changed(of, level))
    }

    async fn chunk(&mut self, of: &mut Subject, versions: &Versions) -> Result<()> {
        if of.is_removed {
            return Ok(());
        }
        let (level, row) = versions.newest();
        if let Some(doubt) = of.doubt
            && level >= doubt
            && !is_moved(versions.key, versions.below(doubt), row)
        {
            of.is_mixed = true;
        }
        let Some(row) = row.filter(|_| !self.is_stale(of, versions)) else { return Ok(()) };
        // One that cannot be decoded stays as it is: who asks for it is told.
        for run in chunk_of(versions.key, Some(row)).iter().flat_map(|map| &map.runs) {
            let len = u64::from(run.len);
            of.blocks += len;
            self.used += len;
            if run.segment != 0 {
                *self.live.entry(run.segment).or_default() += len;
            }
        }
        self.put(versions.key, row).await
    }

    async fn xattrs(&mut self, of: &Subject, versions: Option<Versions>) -> Result<()> {
        let row = versions.as_ref().filter(|versions| !self.is_stale(of, versions)).and_then(|versions| versions.newest().1.cloned());
        let has_some = of.inode.as_ref().map(|inode| inode.has_xattrs);
        match (has_some, row) {
            (Some(false), _) | (None, None) => Ok(()),
            (_, Some(row)) => self.put(Key::Xattrs(of.ino), &row).await,
            (Some(true), None) => {
                self.without_xattrs += 1;
                Ok(())
            }
        }
    }

    async fn inode(&mut self, of: Subject) -> Result<()> {
        let missing = of.inode.as_ref().map(|inode| self.missing_of(&of, inode));
        let row = of.versions.as_ref().and_then(|versions| versions.newest().1.cloned());
        let (Some(inode), Some(missing), Some(row)) = (&of.inode, missing, row) else { return Ok(()) };
        if of.is_mixed && inode.kind == FileKind::File {
            return Ok(());
        }
        if inode.is_dir() {
            self.folders.insert(of.ino);
        }
        self.inodes += 1;
        self.gaps.known(of.ino, missing);
        self.put(Key::Inode(of.ino), &row).await
    }

    /// Something has to stand for a folder whose own row is lost: there are names in it, or it is the root.
    async fn stand_for(&mut self, ino: Ino) -> Result<()> {
        if self.removed.contains(&ino) || !self.folders.insert(ino) {
            return Ok(());
        }
        self.inodes += 1;
        self.bare_folders += 1;
        self.put(Key::Inode(ino), &Row::Inode(Arc::new(bare_folder(ino))).encode()).await
    }

    /// Which of a file's rows may be missing, where there is none. Where all of its blocks were found there is nothing else.
    fn missing_of(&self, of: &Subject, inode: &Inode) -> Vec<Span> {
        let Some(last) = inode.extent_end.checked_sub(1).filter(|_| inode.kind == FileKind::File && of.blocks != inode.blocks) else {
            return Vec::new();
        };
        let all = (Key::Chunk(of.ino, 0), Key::Chunk(of.ino, last / CHUNK_BLOCKS));
        let changed = (0..self.levels.len()).filter(|level| self.is_changed(of, *level));
        merged(changed.flat_map(|level| within(&self.levels[level].holes, all)).collect())
    }

    /// Names of folders, as they are told last.
    async fn names(&mut self) -> Result<()> {
        let mut names = Merge::over(self.levels, Key::Dirent(0, 0), Key::Chunk(0, 0)).map_err(unread)?;
        while let Some(versions) = names.take().map_err(unread)? {
            let Some(row) = versions.newest().1 else { continue };
            let folder = versions.key.ino().unwrap_or(0);
            self.stand_for(folder).await?;
            let target = match Row::decode(versions.key, row) {
                Ok(Row::Dirent(entry)) => entry.ino,
                _ => 0,
            };
            self.top = self.top.max(target).max(folder);
            self.put(versions.key, row).await?;
        }
        Ok(())
    }

    /// Segments, with their blocks counted anew. Returns the highest number.
    async fn segments(&mut self, rescue: &Rescue) -> Result<u64> {
        let mut rows: BTreeMap<u64, Segment> = BTreeMap::new();
        let mut wanted: BTreeSet<u64> = BTreeSet::new();
        let mut top = 0;
        let mut stored = Merge::over(self.levels, Key::Segment(0), Key::Orphan(0)).map_err(unread)?;
        while let Some(versions) = stored.take().map_err(unread)? {
            let Key::Segment(number) = versions.key else { continue };
            top = top.max(number);
            if let Some(Ok(Row::Segment(segment))) = versions.newest().1.map(|row| Row::decode(versions.key, row)) {
                // It may have become a pack since.
                if segment.pack.is_none() && !self.is_sure(&versions) {
                    wanted.insert(number);
                }
                rows.insert(number, segment);
            }
        }
        wanted.extend(self.live.keys().filter(|number| !rows.contains_key(*number)));
        for (number, found) in segments::find(rescue, &wanted).await? {
            if rows.get(&number).is_none_or(|row| row.id == found.id) {
                rows.insert(number, found);
            }
        }
        for (number, segment) in rows {
            top = top.max(number);
            let live = self.live.get(&number).copied().unwrap_or(0);
            self.put(Key::Segment(number), &Row::Segment(Segment { live, ..segment }).encode()).await?;
        }
        Ok(top)
    }

    /// The rows of which there is one each, and a root folder.
    async fn head(&mut self, rescue: &Rescue, whose: &Whose, top_segment: u64) -> Result<()> {
        let was_never = |key: Key| !self.levels.iter().any(|level| level.lacks(key));
        let mut applied = Said { value: 0, is_sure: was_never(Key::Applied) };
        let mut start: Said<Option<Place>> = Said { value: None, is_sure: was_never(Key::LogStart) };
        let mut counters = Said { value: Super::default(), is_sure: was_never(Key::Super) };
        let mut rows = Merge::over(self.levels, Key::Applied, Key::Inode(0)).map_err(unread)?;
        while let Some(versions) = rows.take().map_err(unread)? {
            let is_sure = self.is_sure(&versions);
            match versions.newest().1.map(|row| Row::decode(versions.key, row)) {
                Some(Ok(Row::Applied(value))) => applied = Said { value, is_sure },
                Some(Ok(Row::LogStart(place))) => start = Said { value: Some(place), is_sure },
                Some(Ok(Row::Super(value))) => counters = Said { value, is_sure },
                _ => {}
            }
        }
        self.stand_for(ROOT_INO).await?;
        // Numbers that were given may stand in a log, and their rows be lost.
        let far = if counters.is_sure { 0 } else { FAR };
        let counters = Super {
            next_ino: counters.value.next_ino.max(self.top.saturating_add(1).saturating_add(far)),
            next_segment: counters.value.next_segment.max(top_segment.saturating_add(1).saturating_add(far)),
            used_blocks: self.used,
            inodes: self.inodes,
        };
        let (applied, start) = ends::find(rescue, whose.owner.as_ref(), &applied, &start).await?;
        self.put(Key::Super, &Row::Super(counters).encode()).await?;
        self.put(Key::Applied, &Row::Applied(applied).encode()).await?;
        match start {
            Some(place) => self.put(Key::LogStart, &Row::LogStart(place).encode()).await,
            None => Ok(()),
        }
    }
}

/// A folder of which nothing is known, not even where it lies.
fn bare_folder(ino: Ino) -> Inode {
    let never = Time::default();
    Inode {
        kind: FileKind::Directory,
        perm: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        extent_end: 0,
        atime: never,
        mtime: never,
        ctime: never,
        crtime: never,
        parent: if ino == ROOT_INO { ROOT_INO } else { 0 },
        has_xattrs: false,
        target: Bytes::new(),
    }
}

/// The blocks that a row tells of; none if it is not as rows are.
fn chunk_of(key: Key, row: Option<&Bytes>) -> Option<Arc<Chunk>> {
    match row.map(|row| Row::decode(key, row)) {
        None => Some(Arc::default()),
        Some(Ok(Row::Chunk(map))) => Some(map),
        Some(_) => None,
    }
}

/// Whether two rows are of the same contents, wherever these lie.
fn is_moved(key: Key, before: Option<&Bytes>, now: Option<&Bytes>) -> bool {
    let (Some(before), Some(now)) = (chunk_of(key, before), chunk_of(key, now)) else { return false };
    let content = |map: &Chunk, block: u16| map.at(block).map(|run| run.crcs.get(usize::from(block - run.start)).copied());
    (0..CHUNK_BLOCKS as u16).all(|block| content(&before, block) == content(&now, block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Run;

    #[test]
    fn a_block_that_was_only_moved_has_not_changed() {
        let key = Key::Chunk(1, 0);
        let row = |runs| Bytes::from(Row::Chunk(Arc::new(Chunk { runs })).encode());
        let run = |start, segment, at, crcs: &[u32]| Run { start, len: crcs.len() as u16, segment, at, crcs: crcs.to_vec() };
        let before = row(vec![run(0, 4, 9, &[1, 2, 3]), Run::reserved(7, 2)]);
        let moved = row(vec![run(0, 5, 0, &[1]), run(1, 6, 40, &[2, 3]), Run::reserved(7, 2)]);
        let changed = row(vec![run(0, 5, 0, &[1, 2, 4]), Run::reserved(7, 2)]);
        let grown = row(vec![run(0, 4, 9, &[1, 2, 3, 5]), Run::reserved(7, 2)]);
        assert!(is_moved(key, Some(&before), Some(&moved)));
        assert!(is_moved(key, None, None));
        for other in [&changed, &grown] {
            assert!(!is_moved(key, Some(&before), Some(other)));
        }
        assert!(!is_moved(key, Some(&before), None) && !is_moved(key, None, Some(&before)));
        assert!(!is_moved(key, Some(&before), Some(&Bytes::from_static(b"no row"))));
    }
}
