//! Walking over all rows: names and inodes fit together, and every count is what is counted.

use super::Gathered;
use super::repair::Fix;
use crate::fs::FileSystem;
use crate::key::Key;
use crate::row::{Inode, Orphan, Row};
use crate::types::{FileKind, Ino, ROOT_INO};
use crate::view::View;
use orlop_model::FindingKind;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Rows fetched at once.
const BATCH: usize = 1024;

#[derive(Default)]
struct Seen {
    inodes: BTreeMap<Ino, Arc<Inode>>,
    links: HashMap<Ino, u32>,
    subfolders: HashMap<Ino, u32>,
    entries: HashMap<Ino, u64>,
    blocks: HashMap<Ino, u64>,
    live: HashMap<u64, u64>,
    orphans: HashMap<Ino, Orphan>,
    used: u64,
}

impl FileSystem {
    pub(super) async fn look_at_rows(&self, view: &View, data: bool, g: &mut Gathered) {
        let mut seen = Seen::default();
        // One stretch for each kind of row, so that a part that cannot be read hides none of the others.
        let ends =
            [Key::Inode(0), Key::Dirent(0, 0), Key::Chunk(0, 0), Key::Xattrs(0), Key::Segment(0), Key::Orphan(0), Key::Orphan(u64::MAX)];
        for stretch in ends.windows(2) {
            let mut from = Some(stretch[0]);
            while let Some(start) = from {
                match view.scan(start, stretch[1], BATCH).await {
                    Ok((rows, next)) => {
                        for (key, row) in rows {
                            self.look(key, row, data, &mut seen, g).await;
                        }
                        from = next;
                    }
                    Err(e) => {
                        g.rows_missing = true;
                        let (at, what) = (format!("{}/meta", self.ns.prefix()), format!("rows from {start:?} on: {e}"));
                        g.draft(FindingKind::Object, at, what, [], None).remedy = Some(super::READ_OUT.to_owned());
                        from = None;
                    }
                }
            }
        }
        if data {
            self.read_all_packs(g).await;
        }
        g.report.inodes = seen.inodes.len() as u64;
        if !g.rows_missing {
            compare(view, &seen, g);
        }
    }

    async fn look(&self, key: Key, row: Row, data: bool, seen: &mut Seen, g: &mut Gathered) {
        match (key, row) {
            (Key::Inode(ino), Row::Inode(i)) => {
                seen.inodes.insert(ino, i);
            }
            (Key::Dirent(parent, _), Row::Dirent(d)) => {
                *seen.links.entry(d.ino).or_default() += 1;
                *seen.entries.entry(parent).or_default() += 1;
                if d.kind == FileKind::Directory {
                    *seen.subfolders.entry(parent).or_default() += 1;
                }
                let name = String::from_utf8_lossy(&d.name).into_owned();
                let wrong = match seen.inodes.get(&d.ino) {
                    None => Some(format!("the name {name:?} stands for inode {}, which does not exist", d.ino)),
                    Some(i) if i.kind != d.kind => Some(format!("the name {name:?} says another kind than inode {}", d.ino)),
                    Some(i) if i.is_dir() && i.parent != parent => {
                        Some(format!("the folder {name:?} lies here but says inode {}", i.parent))
                    }
                    Some(_) => None,
                };
                if let Some(wrong) = wrong
                    && !g.rows_missing
                {
                    g.draft(FindingKind::Structure, format!("inode {parent}"), wrong, [parent], None);
                }
            }
            (Key::Chunk(ino, chunk), Row::Chunk(map)) => {
                let n = map.allocated(0, 256);
                *seen.blocks.entry(ino).or_default() += n;
                seen.used += n;
                if !seen.inodes.contains_key(&ino) && !g.rows_missing {
                    let what = format!("data of inode {ino}, which does not exist (chunk {chunk})");
                    g.draft(FindingKind::Structure, format!("inode {ino}"), what, [], None);
                }
                for run in map.runs.iter().filter(|r| r.segment != 0) {
                    *seen.live.entry(run.segment).or_default() += u64::from(run.len);
                }
                if data {
                    self.read_chunk(ino, chunk, &map, g).await;
                }
            }
            (Key::Orphan(ino), Row::Orphan(o)) => {
                seen.orphans.insert(ino, o);
            }
            (Key::Segment(_), Row::Segment(_)) | (Key::Xattrs(_), Row::Xattrs(_)) => {}
            (key, _) => {
                g.draft(FindingKind::Structure, format!("{key:?}"), "the row is of another kind".to_owned(), [], None);
            }
        }
    }
}

fn compare(view: &View, seen: &Seen, g: &mut Gathered) {
    let count = FindingKind::Count;
    for (ino, i) in &seen.inodes {
        let at = || format!("inode {ino}");
        let links = seen.links.get(ino).copied().unwrap_or(0);
        let want = match (i.is_dir(), *ino == ROOT_INO) {
            (true, true) => 2 + seen.subfolders.get(ino).copied().unwrap_or(0),
            (true, false) if links == 1 => 2 + seen.subfolders.get(ino).copied().unwrap_or(0),
            (true, false) => 0,
            (false, _) => links,
        };
        if i.nlink != want {
            // To count a file without a name as nameless would delete it.
            let fix = (want > 0).then_some(Fix::Links(*ino, i64::from(want) - i64::from(i.nlink)));
            g.draft(count, at(), format!("it says {} links, {want} are there", i.nlink), [*ino], fix);
        } else if i.nlink == 0 && !seen.orphans.contains_key(ino) {
            g.draft(count, at(), "it has no name and nothing will delete it".to_owned(), [], Some(Fix::Orphan(*ino)));
        }
        let entries = seen.entries.get(ino).copied().unwrap_or(0);
        if i.is_dir() && i.size != entries {
            let fix = Fix::Entries(*ino, delta(entries, i.size));
            g.draft(count, at(), format!("it says {} entries, {entries} are there", i.size), [*ino], Some(fix));
        }
        let blocks = seen.blocks.get(ino).copied().unwrap_or(0);
        if i.blocks != blocks && !matches!(seen.orphans.get(ino), Some(Orphan::Cut { .. })) {
            let fix = Fix::Blocks(*ino, delta(blocks, i.blocks));
            g.draft(count, at(), format!("it says {} blocks, {blocks} are there", i.blocks), [*ino], Some(fix));
        }
    }
    for (ino, _) in seen.orphans.iter().filter(|(ino, _)| !seen.inodes.contains_key(ino)) {
        let what = format!("inode {ino} is to be deleted and does not exist");
        g.draft(FindingKind::Structure, format!("inode {ino}"), what, [], Some(Fix::NoOrphan(*ino)));
    }
    let (inodes, used) = (seen.inodes.len() as u64, seen.used);
    if view.sb.inodes != inodes {
        let what = format!("it says {} inodes, {inodes} are there", view.sb.inodes);
        g.draft(count, "the volume".to_owned(), what, [], Some(Fix::Inodes(delta(inodes, view.sb.inodes))));
    }
    if view.sb.used_blocks != used {
        let what = format!("it says {} blocks in use, {used} are", view.sb.used_blocks);
        g.draft(count, "the volume".to_owned(), what, [], Some(Fix::Used(delta(used, view.sb.used_blocks))));
    }
    for (n, s) in &view.segments {
        let live = seen.live.get(n).copied().unwrap_or(0);
        if s.live != live {
            let what = format!("it says {} live blocks, {live} are", s.live);
            g.draft(count, format!("segment {n:016x}"), what, [], Some(Fix::Live(*n, delta(live, s.live))));
        }
    }
    for n in seen.live.keys().filter(|n| !view.segments.contains_key(n)) {
        g.draft(FindingKind::Structure, format!("segment {n:016x}"), "it is referred to and has no row".to_owned(), [], None);
    }
}

fn delta(want: u64, have: u64) -> i64 {
    want.wrapping_sub(have) as i64
}
