//! Where the bytes of a volume are: by kind, on the host and in the store, so that the sums are what is there.

use crate::check::places::{Kind, Places, kind_of, not_listed};
use crate::fs::FileSystem;
use crate::host::taken;
use crate::key::Key;
use crate::row::Row;
use crate::segment::parse_name;
use crate::state::host_error;
use crate::types::{BLOCK, FileKind, FsResult};
use crate::view::View;
use orlop_model::{Share, Space};
use std::collections::BTreeMap;
use std::io;

/// Folders of a volume on the host, and what is in them.
const FOLDERS: [&str; 4] = ["", "journal", "staged", "cache"];

#[derive(Default)]
struct Sums(BTreeMap<&'static str, (u64, u64)>);

impl Sums {
    fn add(&mut self, kind: &'static str, bytes: u64, items: u64) {
        let sum = self.0.entry(kind).or_default();
        sum.0 += bytes;
        sum.1 += items;
    }

    /// In the given order, with the reason of each; what is empty is left out.
    fn shares(&self, kinds: &[(&'static str, &'static str)]) -> Vec<Share> {
        let share = |(kind, why): &(&str, &str)| {
            let (bytes, items) = self.0.get(*kind).copied()?;
            Some(Share { kind: (*kind).to_owned(), bytes, items, why: (*why).to_owned() })
        };
        kinds.iter().filter_map(share).collect()
    }
}

const ON_HOST: &[(&str, &str)] = &[
    ("staged live", "blocks of files"),
    ("staged garbage", "blocks that were overwritten or removed, and heads of files; compaction gives them back"),
    ("staged dead", "segments that nothing refers to; the next fold gives them back"),
    ("staged copies", "copies of what the store has as well; they go when room is needed"),
    ("staged stray", "files that no row names; they go at the next opening, or with orlop gc"),
    ("journal", "changes that are not in the namespace yet, and small writes"),
    ("cache", "copies of what the store has"),
    ("kept remains", "what recoveries cut off the log, and files of unknown origin; nothing reads them"),
    ("other", "locks and marks"),
];

const IN_STORE: &[(&str, &str)] = &[
    ("packs", "blocks of files"),
    ("log", "changes that are not in the namespace yet"),
    ("namespace", "names, attributes and where blocks are"),
    ("header", "what the volume is, its keys and its owner"),
    ("unknown", "what repairs moved aside, and objects that are not Orlop's; nothing reads them"),
];

impl FileSystem {
    /// Where the volume's bytes are now.
    pub async fn space(&self) -> FsResult<Space> {
        let view = View::take(self)?;
        let mut space = Space {
            allocated_bytes: view.sb.used_blocks * BLOCK,
            inodes: view.sb.inodes,
            dead_segments: view.segments.iter().filter(|(n, s)| s.live == 0 && view.current.is_none_or(|(c, _)| c != **n)).count() as u64,
            ..Space::default()
        };
        let mut from = Some(Key::Inode(0));
        while let Some(start) = from {
            let (rows, next) = view.scan(start, Key::Dirent(0, 0), 1024).await?;
            for (_, row) in rows {
                let Row::Inode(i) = row else { continue };
                if i.kind == FileKind::File {
                    space.apparent_bytes += i.size;
                }
                if i.nlink == 0 {
                    space.unlinked_inodes += 1;
                    space.unlinked_bytes += i.blocks * BLOCK;
                }
            }
            from = next;
        }
        let host = self.on_host(&view)?;
        space.host = host.shares(ON_HOST);
        space.host_bytes = space.host.iter().map(|s| s.bytes).sum();
        let store = self.in_store(&view).await?;
        space.store = store.shares(IN_STORE);
        space.store_bytes = space.store.iter().map(|s| s.bytes).sum();
        Ok(space)
    }

    fn on_host(&self, view: &View) -> FsResult<Sums> {
        let mut sums = Sums::default();
        for folder in FOLDERS {
            let dir = self.state_dir.join(folder);
            let names = match self.disk.list(&dir) {
                Ok(names) => names,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(host_error("reading the volume's folder", &e)),
            };
            for name in names {
                let size = match self.disk.open(&dir.join(&name)).and_then(|f| taken(&*f)) {
                    Ok(size) => size,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(host_error("looking at a file", &e)),
                };
                match folder {
                    "" => sums.add("other", size, 1),
                    "journal" if name.ends_with(".journal") => sums.add("journal", size, 1),
                    "cache" => sums.add("cache", size, 1),
                    "staged" => match parse_name(&name) {
                        Some((number, id)) => staged(&mut sums, view, number, id, size),
                        None => sums.add("kept remains", size, 1),
                    },
                    _ => sums.add("kept remains", size, 1),
                }
            }
        }
        Ok(sums)
    }

    async fn in_store(&self, view: &View) -> FsResult<Sums> {
        let places = Places::of(self, view);
        let listed = places.list().await.map_err(|e| not_listed(&e))?;
        let mut sums = Sums::default();
        for (below, meta) in listed {
            let kind = match kind_of(&below) {
                Kind::Pack => "packs",
                Kind::Log(_) => "log",
                Kind::Namespace => "namespace",
                Kind::Header | Kind::Keys | Kind::Owner | Kind::Name => "header",
                Kind::Aside | Kind::Unknown => "unknown",
            };
            sums.add(kind, meta.size, 1);
        }
        Ok(sums)
    }
}

fn staged(sums: &mut Sums, view: &View, number: u64, id: [u8; 16], size: u64) {
    match view.segments.get(&number).filter(|s| s.id == id) {
        None => sums.add("staged stray", size, 1),
        Some(s) if s.pack.is_some() => sums.add("staged copies", size, 1),
        Some(s) if s.live == 0 && view.current.is_none_or(|(c, _)| c != number) => sums.add("staged dead", size, 1),
        Some(s) => {
            // What was not written back yet may take nothing so far.
            let live = (s.live * BLOCK).min(size);
            sums.add("staged live", live, 1);
            sums.add("staged garbage", size - live, 0);
        }
    }
}
