//! Which tables of a namespace are damaged, and what of them can be read: blocks, and between which keys rows are lost.

use super::Rescue;
use super::blocks::{self, Block, Entry};
use super::store::Scratch;
use crate::blocking::blocking;
use crate::key::Key;
use crate::namespace::guarded;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt};
use orlop_model::{Error, ErrorKind, Result};
use orlop_store::wrap::FRAME;
use slatedb::admin::AdminBuilder;
use slatedb::manifest::SsTableView;
use slatedb::{PathResolver, VersionedManifest};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Tables that are looked at side by side.
const TOGETHER: usize = 4;
/// How often a store is asked that breaks off, and how long after it did.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// Damaged tables that are told one by one.
const TOLD: usize = 3;

/// Keys from one up to and including another.
pub(super) type Span = (Key, Key);

/// Above every key of a row.
const LAST: Key = Key::Orphan(u64::MAX);

/// A table that a manifest names.
struct Named {
    at: StorePath,
    view: SsTableView,
    is_whole: bool,
}

/// The tables of a manifest, some of them damaged. Those of one level are in order and have no key in common; a newer row of a
/// key is on a higher level.
pub(super) struct Damaged(Vec<Vec<Named>>);

/// Whether tables that were looked at can be read whole, by their paths.
#[derive(Default)]
pub(super) struct Looks(BTreeMap<StorePath, bool>);

/// Looks at every table that the newest manifest names which can be read, and which is not one of those `without`. `None` if all can be
/// read whole, or no manifest can. Costs one reading of all tables, once: whoever reads a volume out reads its names anyway.
pub(super) async fn look(rescue: &Rescue, without: &[StorePath], looks: &mut Looks) -> Result<Option<Damaged>> {
    let path = format!("{}/meta", rescue.prefix);
    // A database would ask a store that is away for ever.
    let below = StorePath::from(path.as_str());
    rescue.of.store.list(Some(&below)).try_next().await.map_err(|e| orlop_store::error(format_args!("listing {below}"), &e))?;
    let dir = rescue.scratch.join("look");
    std::fs::create_dir_all(&dir).map_err(|e| Error::io(dir.display(), &e))?;
    let store: Arc<dyn ObjectStore> = Arc::new(Scratch::over(rescue.of.store.clone(), &dir)?.without(without));
    let store = guarded(store, &rescue.prefix);
    let mut seen_in = None;
    loop {
        let manifest = match AdminBuilder::new(path.clone(), store.clone()).build().read_manifest(None).await {
            Ok(Some(manifest)) => manifest,
            Ok(None) => return Ok(None),
            Err(e) => {
                tracing::debug!(error = %e, "no tables are looked at: the newest manifest cannot be read");
                return Ok(None);
            }
        };
        let levels = levels_of(&manifest, &path, &store, looks).await?;
        if levels.iter().flatten().all(|table| table.is_whole) {
            return Ok(None);
        }
        // One that a living writer has merged away, and removed, is not damaged.
        if seen_in.replace(manifest.id()) == Some(manifest.id()) {
            return Ok(Some(Damaged(levels)));
        }
    }
}

/// The tables of a manifest, those looked at that were not yet.
async fn levels_of(manifest: &VersionedManifest, path: &str, store: &Arc<dyn ObjectStore>, looks: &mut Looks) -> Result<Vec<Vec<Named>>> {
    let paths = PathResolver::new(path.to_owned(), manifest);
    let named = |view: &SsTableView| Named { at: paths.sst_path(&view.sst.id), view: view.clone(), is_whole: true };
    // Both are listed from the newest on.
    let runs = manifest.compacted().iter().rev().map(|run| run.sst_views().iter().map(&named).collect::<Vec<_>>());
    let unmerged = manifest.l0().iter().rev().map(|view| vec![named(view)]);
    let mut levels: Vec<Vec<Named>> = runs.chain(unmerged).collect();
    let unseen: Vec<StorePath> =
        levels.iter().flatten().filter(|table| !looks.0.contains_key(&table.at)).map(|table| table.at.clone()).collect();
    let seen: Vec<(StorePath, bool)> = futures::stream::iter(unseen)
        .map(|at| async move {
            let is_whole = readable(&at, || pass_over(store, &at)).await?.is_some();
            Ok::<_, Error>((at, is_whole))
        })
        .buffer_unordered(TOGETHER)
        .try_collect()
        .await?;
    looks.0.extend(seen);
    for table in levels.iter_mut().flatten() {
        table.is_whole = looks.0.get(&table.at).copied().unwrap_or(true);
    }
    Ok(levels)
}

/// What a reading gives; `None` if there is nothing, or something else than was written.
async fn readable<T, F>(at: &StorePath, mut read: impl FnMut() -> F) -> Result<Option<T>>
where
    F: Future<Output = object_store::Result<T>>,
{
    let mut left = ATTEMPTS;
    loop {
        let e = match read().await {
            Ok(it) => return Ok(Some(it)),
            Err(e) => orlop_store::error(at, &e),
        };
        left -= 1;
        match e.kind {
            // The last one is what a disk answers that has lost it.
            ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Internal => return Ok(None),
            _ if left == 0 => return Err(e),
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Reads an object to its end.
async fn pass_over(store: &Arc<dyn ObjectStore>, at: &StorePath) -> object_store::Result<()> {
    let mut stream = store.get(at).await?.into_stream();
    while stream.next().await.transpose()?.is_some() {}
    Ok(())
}

/// What could be read of a table, in a file that all of them share.
pub(super) struct Table {
    file: Arc<File>,
    /// Where it begins in the file.
    base: u64,
    pub(super) blocks: Vec<Block>,
    /// The keys that count of it, if not all do.
    visible: Option<(Bound<Bytes>, Bound<Bytes>)>,
}

impl Table {
    /// The rows of one of its blocks.
    pub(super) fn rows(&self, block: usize) -> io::Result<Vec<Entry>> {
        let at = &self.blocks[block].at;
        let mut bytes = vec![0; (at.end - at.start) as usize];
        self.file.read_exact_at(&mut bytes, self.base + at.start)?;
        let (mut rows, _) = blocks::at_front(&bytes).ok_or_else(|| io::Error::other("a copy of a table has changed"))?;
        if let Some(visible) = &self.visible {
            rows.retain(|row| visible.contains(&Bytes::from(row.key.encode())));
        }
        Ok(rows)
    }
}

/// Tables that have no key in common.
pub(super) struct Level {
    pub(super) tables: Vec<Table>,
    /// Between which keys rows are lost; in order.
    pub(super) holes: Vec<Span>,
}

impl Level {
    /// Whether a row of this key may be lost.
    pub(super) fn lacks(&self, key: Key) -> bool {
        let n = self.holes.partition_point(|(_, to)| *to < key);
        self.holes.get(n).is_some_and(|(from, _)| *from <= key)
    }
}

/// A damaged table, to tell of it.
struct Told {
    name: String,
    bad: u64,
    places: u64,
    rows: u64,
    lost_some: bool,
}

/// What could be read of all tables, the oldest level first.
pub(super) struct Tables {
    pub(super) levels: Vec<Level>,
    damaged: Vec<Told>,
}

/// Copies what can be read of all tables to a folder of the scratch. `None` if one of them is whole and is not made as tables are known
/// to be: then nothing can be told of the others either.
pub(super) async fn take(rescue: &Rescue, found: &Damaged, dir: &Path) -> Result<Option<Tables>> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir.display(), &e))?;
    let at = dir.join("tables");
    let failed = |e: io::Error| Error::io(at.display(), &e);
    let file = Arc::new(File::options().read(true).write(true).create(true).truncate(true).open(&at).map_err(failed)?);
    let store = guarded(rescue.of.store.clone(), &rescue.prefix);
    let mut tables = Tables { levels: Vec::new(), damaged: Vec::new() };
    let mut base = 0;
    for named in &found.0 {
        let mut level = Level { tables: Vec::new(), holes: Vec::new() };
        for table in named {
            let (bytes, bad, places) = bytes_of(&store, table).await?;
            let info = &table.view.sst.info;
            let end = if info.filter_len > 0 { info.filter_offset } else { info.index_offset };
            let len = bytes.len() as u64;
            let (file, rows_end) = (file.clone(), end.min(len) as usize);
            let kept = blocking({
                let file = file.clone();
                move || file.write_all_at(&bytes, base).map(|()| blocks::find(&bytes[..rows_end]))
            });
            let blocks = kept.await.map_err(failed)?;
            let (first, last) = (key_of(info.first_entry.as_ref(), Key::Applied), key_of(info.last_entry.as_ref(), LAST));
            let holes = holes(&blocks, end, (first, last));
            if table.is_whole && bad == 0 && !holes.is_empty() {
                tracing::warn!(table = %table.at, "a whole table does not consist of blocks");
                return Ok(None);
            }
            if bad > 0 {
                let name = table.at.as_ref().strip_prefix(&rescue.prefix).unwrap_or(table.at.as_ref());
                let (name, rows) = (name.trim_start_matches('/').to_owned(), blocks.iter().map(|b| b.rows).sum::<u64>());
                tables.damaged.push(Told { name, bad, places, rows, lost_some: !holes.is_empty() });
            }
            let visible = table.view.visible_range().map(|range| (range.start_bound().cloned(), range.end_bound().cloned()));
            level.holes.extend(holes);
            level.tables.push(Table { file, base, blocks, visible });
            base += len;
        }
        level.holes.sort_unstable();
        tables.levels.push(level);
    }
    Ok(Some(tables))
}

/// A table's bytes, with zeros in the place of frames that cannot be read; how many those are, and of how many.
async fn bytes_of(store: &Arc<dyn ObjectStore>, table: &Named) -> Result<(Vec<u8>, u64, u64)> {
    let at = &table.at;
    if table.is_whole
        && let Some(bytes) = readable(at, || async { store.get(at).await?.bytes().await }).await?
    {
        let places = (bytes.len() as u64).div_ceil(FRAME);
        return Ok((bytes.into(), 0, places));
    }
    let size = readable(at, || async { store.head(at).await.map(|meta| meta.size) }).await?.unwrap_or(0);
    let places = size.div_ceil(FRAME).max(1);
    let mut bytes = vec![0; usize::try_from(size).map_err(|e| Error::internal(format!("{at}: {e}")))?];
    // One without a byte is damaged as a whole.
    let mut bad = u64::from(size == 0);
    for frame in 0..size.div_ceil(FRAME) {
        let range = frame * FRAME..((frame + 1) * FRAME).min(size);
        let place = &mut bytes[range.start as usize..range.end as usize];
        match readable(at, || store.get_range(at, range.clone())).await? {
            Some(read) if read.len() == place.len() => place.copy_from_slice(&read),
            _ => bad += 1,
        }
    }
    // What made it damaged may lie in no frame.
    Ok((bytes, bad.max(1), places))
}

fn key_of(bytes: Option<&Bytes>, or: Key) -> Key {
    bytes.and_then(|bytes| Key::decode(bytes).ok()).unwrap_or(or)
}

/// Between which keys rows are lost of a table whose rows end at `end` and have keys within `all`.
fn holes(blocks: &[Block], end: u64, all: Span) -> Vec<Span> {
    let (mut holes, mut at, mut from) = (Vec::new(), 0, all.0);
    for block in blocks {
        if block.at.start > at {
            holes.push((from, block.first));
        }
        (at, from) = (block.at.end, block.last);
    }
    if at < end {
        holes.push((from, all.1));
    }
    holes
}

impl Tables {
    /// Whether a newer row of this key than the one that was found may be lost, or one where none was found.
    pub(super) fn may_lack(&self, key: Key) -> bool {
        self.levels.iter().any(|level| level.lacks(key))
    }

    /// What is damaged, and what that takes along.
    pub(super) fn sentence(&self) -> String {
        let mut all: Vec<String> = self.damaged.iter().take(TOLD).map(Told::sentence).collect();
        let more = self.damaged.len().saturating_sub(TOLD);
        if more > 0 {
            all.push(format!("so are {more} more tables"));
        }
        if self.damaged.iter().any(|told| told.lost_some) {
            all.push("names and attributes in the damaged part are missing, or as they were before".to_owned());
        }
        all.join("; ")
    }
}

impl Told {
    fn sentence(&self) -> String {
        let Told { name, bad, places, rows, lost_some } = self;
        match rows {
            0 => format!("table {name} is missing or damaged, and none of its rows can be read"),
            _ if *lost_some => format!("table {name} is damaged in {bad} of {places} places; {rows} of its rows were read"),
            _ => format!("table {name} is damaged in {bad} of {places} places; all of its {rows} rows were read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::Namespace;
    use crate::row::{Dirent, Row};
    use crate::types::FileKind;
    use object_store::memory::InMemory;
    use orlop_model::VolumeId;
    use orlop_store::VolumeStore;

    /// Bytes of a frame and of the header in front of the first, as they lie in the store.
    const SEALED: usize = FRAME as usize + 16;
    const HEADER: usize = 40;

    #[tokio::test]
    async fn damage_behind_the_rows_of_a_table_loses_none_of_them() {
        const NAMES: u64 = 80_000;
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let mut rows = BTreeMap::new();
        for n in 0..NAMES {
            let entry = Dirent { ino: n + 2, kind: FileKind::File, name: Bytes::from(format!("{n}")) };
            rows.insert(Key::Dirent(1, n << 4), Some(Row::Dirent(entry)));
        }
        let ns = Namespace::open(store.clone(), "v/meta".to_owned(), Arc::new(|| None)).await.expect("opens");
        ns.fold(&rows, &[], 7).await.expect("folds");
        ns.abandon().await;
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let rescue = Rescue {
            volume: VolumeId::random(),
            of: VolumeStore { store: store.clone(), keys: None },
            prefix: "v".to_owned(),
            remote: false,
            state_dir: None,
            trust_state: false,
            scratch: scratch.path().to_owned(),
        };
        assert!(look(&rescue, &[], &mut Looks::default()).await.expect("looks").is_none(), "all is whole");
        let at = StorePath::from("v/meta/compacted");
        let listed: Vec<_> = store.list(Some(&at)).try_collect().await.expect("lists");
        let at = listed[0].location.clone();
        let whole = store.get(&at).await.expect("there").bytes().await.expect("bytes").to_vec();
        let places = (whole.len() - HEADER).div_ceil(SEALED);
        let (mut behind, mut before) = (0, 0);
        for place in 0..places {
            let mut bad = whole.clone();
            bad[(HEADER + place * SEALED + 20).min(whole.len() - 1)] ^= 4;
            store.put(&at, bad.into()).await.expect("put");
            let found = look(&rescue, &[], &mut Looks::default()).await.expect("looks").expect("it is damaged");
            let tables = take(&rescue, &found, &scratch.path().join(format!("{place}"))).await.expect("copies").expect("a table");
            let info = &found.0[0][0].view.sst.info;
            let read: u64 = tables.levels[0].tables[0].blocks.iter().map(|b| b.rows).sum();
            let said = tables.sentence();
            assert!(said.contains(&format!("damaged in 1 of {places} places")) && said.starts_with("table meta/compacted/"), "{said}");
            // The place has no byte of a row, or some.
            let rows_end = info.filter_offset as usize;
            if place * FRAME as usize >= rows_end {
                behind += 1;
                assert!(read == NAMES + 1 && tables.levels[0].holes.is_empty() && said.contains("all of its"), "{place}: {said}");
            } else {
                before += 1;
                assert!(read < NAMES + 1 && read > NAMES - 6000 && tables.levels[0].holes.len() == 1, "{place}: {read}, {said}");
                assert!(said.contains(&format!("{read} of its rows were read")) && said.contains("missing"), "{said}");
            }
        }
        assert!(behind > 0 && before > 20, "{behind} and {before}");
        let mut bad = whole.clone();
        bad[30] ^= 1;
        store.put(&at, bad.into()).await.expect("put");
        let found = look(&rescue, &[], &mut Looks::default()).await.expect("looks").expect("it is damaged");
        let tables = take(&rescue, &found, &scratch.path().join("head")).await.expect("copies").expect("a table");
        assert!(tables.may_lack(Key::Applied) && tables.may_lack(Key::Dirent(1, 5)) && !tables.may_lack(Key::Segment(1)));
        assert!(tables.sentence().contains("none of its rows"), "{}", tables.sentence());
    }

    #[test]
    fn what_lies_between_blocks_is_lost() {
        let block = |at: std::ops::Range<u64>, first, last| Block { at, first: Key::Inode(first), last: Key::Inode(last), rows: 1 };
        let all = (Key::Inode(1), Key::Inode(90));
        let blocks = [block(0..10, 1, 5), block(10..20, 6, 9), block(30..40, 20, 29)];
        assert_eq!(holes(&blocks, 40, all), [(Key::Inode(9), Key::Inode(20))]);
        assert_eq!(
            holes(&blocks[1..], 45, all),
            [(Key::Inode(1), Key::Inode(6)), (Key::Inode(9), Key::Inode(20)), (Key::Inode(29), Key::Inode(90))]
        );
        assert_eq!(holes(&[], 45, all), [all]);
        let level = Level { tables: Vec::new(), holes: vec![(Key::Inode(9), Key::Inode(20)), (Key::Chunk(1, 0), Key::Chunk(2, 7))] };
        assert!(level.lacks(Key::Inode(9)) && level.lacks(Key::Inode(15)) && level.lacks(Key::Chunk(1, 99)));
        assert!(!level.lacks(Key::Inode(8)) && !level.lacks(Key::Inode(21)) && !level.lacks(Key::Chunk(2, 8)));
    }
}
