//! Checking a whole volume: every name has its inode, every count is what is counted, every block reads.

use crate::chunk::Run;
use crate::fs::{FileSystem, after};
use crate::key::Key;
use crate::remote::check::PacksSeen;
use crate::row::{Inode, Orphan, Row};
use crate::types::{FileKind, FsResult, Ino, ROOT_INO};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What a check found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// One line per problem, naming the thing.
    pub problems: Vec<String>,
    /// Inodes looked at.
    pub inodes: u64,
    /// Blocks read.
    pub blocks: u64,
}

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
    packs: PacksSeen,
}

impl FileSystem {
    /// Walks everything. With `data`, every block is read too. Nobody should write meanwhile.
    pub async fn check(&self, data: bool) -> FsResult<CheckReport> {
        let mut report = CheckReport::default();
        let mut seen = Seen::default();
        let mut from = Key::Inode(0);
        loop {
            let rows = self.scan(from, Key::Orphan(u64::MAX), 1024).await?;
            let Some((last, _)) = rows.last() else { break };
            from = after(*last);
            for (key, row) in rows {
                let runs = self.look(key, row, &mut seen, &mut report);
                if data {
                    self.check_runs(key, &runs, &mut seen.packs, &mut report).await?;
                }
            }
        }
        if data {
            self.check_files(&mut report);
            self.check_all_packs(&mut seen.packs, &mut report).await?;
        }
        self.compare(&seen, &mut report);
        report.inodes = seen.inodes.len() as u64;
        Ok(report)
    }

    /// Notes a row; returns the runs that it holds.
    fn look(&self, key: Key, row: Row, seen: &mut Seen, report: &mut CheckReport) -> Vec<Run> {
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
                match seen.inodes.get(&d.ino) {
                    None => report.problems.push(format!("folder {parent} has a name for inode {}, which does not exist", d.ino)),
                    Some(i) if i.kind != d.kind => report.problems.push(format!("folder {parent} has a wrong kind for inode {}", d.ino)),
                    Some(i) if i.is_dir() && i.parent != parent => {
                        report.problems.push(format!("folder {} lies in {parent} but says {}", d.ino, i.parent));
                    }
                    Some(_) => {}
                }
            }
            (Key::Chunk(ino, chunk), Row::Chunk(map)) => {
                let n = map.allocated(0, 256);
                *seen.blocks.entry(ino).or_default() += n;
                seen.used += n;
                if !seen.inodes.contains_key(&ino) {
                    report.problems.push(format!("chunk {chunk} belongs to inode {ino}, which does not exist"));
                }
                let runs: Vec<Run> = map.runs.iter().filter(|r| r.segment != 0).cloned().collect();
                for run in &runs {
                    *seen.live.entry(run.segment).or_default() += u64::from(run.len);
                }
                return runs;
            }
            (Key::Orphan(ino), Row::Orphan(o)) => {
                seen.orphans.insert(ino, o);
            }
            (Key::Segment(_), Row::Segment(_)) | (Key::Xattrs(_), Row::Xattrs(_)) => {}
            (key, _) => report.problems.push(format!("row {key:?} is of another kind")),
        }
        Vec::new()
    }

    fn compare(&self, seen: &Seen, report: &mut CheckReport) {
        let st = self.lock();
        let mut problem = |text: String| report.problems.push(text);
        for (ino, i) in &seen.inodes {
            let links = seen.links.get(ino).copied().unwrap_or(0);
            let want = match (i.is_dir(), *ino == ROOT_INO) {
                (true, true) => 2 + seen.subfolders.get(ino).copied().unwrap_or(0),
                (true, false) if links == 1 => 2 + seen.subfolders.get(ino).copied().unwrap_or(0),
                (true, false) => 0,
                (false, _) => links,
            };
            if i.nlink != want {
                problem(format!("inode {ino} says {} links, {want} are there", i.nlink));
            }
            if i.nlink == 0 && !matches!(seen.orphans.get(ino), Some(Orphan::Unlinked)) {
                problem(format!("inode {ino} has no name and nothing will delete it"));
            }
            if i.is_dir() && i.size != seen.entries.get(ino).copied().unwrap_or(0) {
                problem(format!("folder {ino} says {} entries", i.size));
            }
            let blocks = seen.blocks.get(ino).copied().unwrap_or(0);
            if i.blocks != blocks && !matches!(seen.orphans.get(ino), Some(Orphan::Cut { .. })) {
                problem(format!("inode {ino} says {} blocks, {blocks} are there", i.blocks));
            }
        }
        if st.sb.inodes != seen.inodes.len() as u64 {
            problem(format!("the volume says {} inodes, {} are there", st.sb.inodes, seen.inodes.len()));
        }
        if st.sb.used_blocks != seen.used {
            problem(format!("the volume says {} blocks in use, {} are", st.sb.used_blocks, seen.used));
        }
        for (n, s) in &st.segments {
            let live = seen.live.get(n).copied().unwrap_or(0);
            if s.live != live {
                problem(format!("segment {n:016x} says {} live blocks, {live} are", s.live));
            }
        }
        for n in seen.live.keys().filter(|n| !st.segments.contains_key(n)) {
            problem(format!("segment {n:016x} is referred to and has no row"));
        }
    }
}
