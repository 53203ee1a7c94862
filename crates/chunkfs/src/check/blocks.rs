//! Reading what blocks are kept in, each copy of them, and comparing with the checksums of who refers to them.
//!
//! A staged copy and its pack are looked at apart, so that neither hides the other's damage. A pack is fetched once or a
//! few times, whatever the number of blocks named in it: what is named is gathered first, as far as memory allows.

use super::{Damage, Gathered};
use crate::blocking::blocking;
use crate::chunk::{Chunk, Run};
use crate::fs::FileSystem;
use crate::key::CHUNK_BLOCKS;
use crate::pack::{FRAME_BLOCKS, Of, Whole};
use crate::remote::{PackAt, Source};
use crate::segment::bad_blocks;
use crate::types::{BLOCK, FsError, FsResult, Ino};
use orlop_model::FindingKind;
use std::collections::{BTreeMap, HashSet};

const B: usize = BLOCK as usize;
/// Blocks gathered before packs are read: about 64 MiB of memory.
const GATHER: usize = 2 << 20;
/// Why a block does not read.
const DIFFERS: &str = "its bytes are not those that were written";

/// A block of a file, and where it is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Named {
    /// Block within the segment.
    pub(super) at: u32,
    crc: u32,
    ino: Ino,
    /// Block of the file.
    block: u64,
}

/// Blocks of packs that are referred to, and which packs were read.
#[derive(Debug, Default)]
pub(super) struct PacksSeen {
    named: BTreeMap<u64, (PackAt, Vec<Named>)>,
    gathered: usize,
    whole: HashSet<u64>,
}

impl FileSystem {
    /// Reads the blocks of a chunk from this host, and gathers what packs must hold.
    pub(super) async fn read_chunk(&self, ino: Ino, chunk: u64, map: &Chunk, g: &mut Gathered) {
        for run in map.runs.iter().filter(|r| r.segment != 0) {
            g.blocks += u64::from(run.len);
            let bytes = u64::from(run.len) * BLOCK;
            let (path, source, unused) = {
                let mut st = self.lock();
                let unused = st.copies.packs.as_ref().is_some_and(|p| p.is_distrusted(run.segment));
                let path = st.segments.get(&run.segment).map(|s| st.files.path(run.segment, &s.id));
                (
                    path.map_or_else(|| format!("segment {:016x}", run.segment), |p| p.display().to_string()),
                    st.source_to_check(run.segment),
                    unused,
                )
            };
            let (file, pack) = match source {
                Ok(Source::Staged(file, pack)) => (Some(Ok(file)), pack),
                Ok(Source::Pack(at)) => (None, Some(at)),
                Err(e) => (Some(Err(e.to_string())), None),
            };
            if let Some(file) = file {
                g.report.bytes += bytes;
                let (bad, why) = match file {
                    Ok(file) => {
                        let probe = run.clone();
                        match blocking(move || bad_blocks(&*file, &probe)).await {
                            Ok(bad) => (bad, DIFFERS.to_owned()),
                            Err(e) => ((0..run.len).collect(), e.to_string()),
                        }
                    }
                    Err(why) => ((0..run.len).collect(), why),
                };
                for n in bad {
                    let named = named(ino, chunk, run, n);
                    if self.still_there(run.segment, &named).await {
                        let which = if pack.is_some() { format!("{why} (the copy on this host)") } else { why.clone() };
                        let d = g.damaged(FindingKind::Staged, path.clone(), which);
                        hit(d, &named);
                        d.other_copy = pack.map(|at| at.segment);
                        d.unused = unused;
                    }
                }
            }
            self.care.done(bytes);
            if let Some(at) = pack {
                let (_, all) = g.packs.named.entry(run.segment).or_insert_with(|| (at, Vec::new()));
                all.extend((0..run.len).map(|n| named(ino, chunk, run, n)));
                g.packs.gathered += usize::from(run.len);
            }
        }
        if g.packs.gathered >= GATHER {
            self.read_gathered(g).await;
        }
    }

    /// Reads every pack of the volume that was not read yet.
    pub(super) async fn read_all_packs(&self, g: &mut Gathered) {
        {
            let st = self.lock();
            for (number, row) in &st.segments {
                if let Some(pack) = row.pack.filter(|_| !g.packs.whole.contains(number)) {
                    let at = PackAt { segment: *number, id: row.id, pack };
                    g.packs.named.entry(*number).or_insert_with(|| (at, Vec::new()));
                }
            }
        }
        self.read_gathered(g).await;
    }

    async fn read_gathered(&self, g: &mut Gathered) {
        g.packs.gathered = 0;
        let gathered = std::mem::take(&mut g.packs.named);
        for (number, (at, mut named)) in gathered {
            let first_time = g.packs.whole.insert(number);
            named.sort_unstable();
            named.dedup();
            let name = crate::pack::path(self.ns.prefix(), &at.id).to_string();
            let read = self.read_pack(&at).await;
            if first_time {
                g.report.objects += 1;
                g.report.bytes += at.pack.bytes;
                self.care.done(at.pack.bytes);
            }
            match read {
                Ok(whole) => self.compare_pack(&name, &at, &whole, &named, g).await,
                Err(e) => {
                    let mut hits = Vec::new();
                    for n in named {
                        if self.still_there(number, &n).await {
                            hits.push(n);
                        }
                    }
                    // One that lost its row since may be gone by right.
                    if !hits.is_empty() || self.lock().segments.get(&number).is_some_and(|s| s.id == at.id) {
                        let d = g.damaged(FindingKind::Object, name, e.to_string());
                        hits.iter().for_each(|n| hit(d, n));
                        d.named.append(&mut hits);
                        d.other_copy = Some(number);
                    }
                }
            }
        }
    }

    async fn read_pack(&self, at: &PackAt) -> FsResult<Whole> {
        let packs = self.packs().ok_or_else(|| FsError::Io("the volume was opened without its packs".to_owned()))?;
        let whole = packs.whole(at).await?;
        if whole.of != (Of { volume: *self.volume.as_bytes(), segment: at.segment, id: at.id, blocks: at.pack.blocks }) {
            return Err(FsError::Corrupt("it is the pack of another segment".to_owned()));
        }
        Ok(whole)
    }

    async fn compare_pack(&self, name: &str, at: &PackAt, whole: &Whole, named: &[Named], g: &mut Gathered) {
        let mut found = false;
        for n in differing(whole, named) {
            if self.still_there(at.segment, n).await {
                let d = g.damaged(FindingKind::Object, name.to_owned(), DIFFERS);
                hit(d, n);
                d.other_copy = Some(at.segment);
                found = true;
            }
        }
        if found {
            g.damaged(FindingKind::Object, name.to_owned(), DIFFERS).named.extend_from_slice(named);
        }
    }

    /// Whether the file still has that block there.
    async fn still_there(&self, segment: u64, n: &Named) -> bool {
        let (chunk, within) = (n.block / CHUNK_BLOCKS, (n.block % CHUNK_BLOCKS) as u16);
        match self.run(|st| st.chunk(n.ino, chunk)).await {
            Ok(now) => now.at(within).is_some_and(|r| r.segment == segment && r.at + u32::from(within - r.start) == n.at),
            // When in doubt it is a finding.
            Err(_) => true,
        }
    }
}

/// The blocks that a pack has otherwise than those say who refer to them, in the order of their places.
pub(super) fn differing<'a>(whole: &Whole, named: &'a [Named]) -> Vec<&'a Named> {
    let mut held: Option<(u32, Option<bytes::Bytes>)> = None;
    let mut wrong = Vec::new();
    for n in named {
        let frame = n.at / FRAME_BLOCKS;
        if held.as_ref().is_none_or(|(m, _)| *m != frame) {
            held = Some((frame, whole.frame(frame).ok()));
        }
        let from = (n.at % FRAME_BLOCKS) as usize * B;
        let bytes = held.as_ref().and_then(|(_, f)| f.as_ref()?.get(from..from + B));
        if bytes.is_none_or(|b| crc32c::crc32c(b) != n.crc) {
            wrong.push(n);
        }
    }
    wrong
}

fn named(ino: Ino, chunk: u64, run: &Run, n: u16) -> Named {
    Named { at: run.at + u32::from(n), crc: run.crcs[usize::from(n)], ino, block: chunk * CHUNK_BLOCKS + u64::from(run.start + n) }
}

fn hit(d: &mut Damage, n: &Named) {
    d.blocks.insert(n.at);
    d.inos.insert(n.ino);
}
