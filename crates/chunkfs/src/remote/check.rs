//! Checking where blocks are: staged files, and packs, each object whole.
//!
//! A staged copy and its pack are checked apart, so that neither hides the other's damage. A pack is fetched once or a few
//! times, whatever the number of blocks named in it: what is named is gathered first, as far as memory allows.

use super::{PackAt, Packs, Source};
use crate::check::CheckReport;
use crate::chunk::Run;
use crate::fs::FileSystem;
use crate::key::Key;
use crate::pack::{FRAME_BLOCKS, Of};
use crate::segment::read_run;
use crate::types::{BLOCK, FsError, FsResult, Ino};
use std::collections::{BTreeMap, HashSet};

const B: usize = BLOCK as usize;
/// Blocks gathered before packs are read: about 64 MiB of memory.
const GATHER: usize = 4 << 20;

/// A block of a pack that is referred to: its number, its checksum, and by which inode.
type Named = (u32, u32, Ino);

/// Blocks of packs that are referred to, and which packs were read.
#[derive(Debug, Default)]
pub(crate) struct PacksSeen {
    /// By segment, those that are not compared yet.
    named: BTreeMap<u64, (PackAt, Vec<Named>)>,
    gathered: usize,
    whole: HashSet<u64>,
}

impl FileSystem {
    /// Reads runs of a chunk from the host, and gathers what packs must hold.
    pub(crate) async fn check_runs(&self, key: Key, runs: &[Run], seen: &mut PacksSeen, report: &mut CheckReport) -> FsResult<()> {
        let Key::Chunk(ino, chunk) = key else { return Ok(()) };
        for run in runs {
            report.blocks += u64::from(run.len);
            let source = self.lock().source(run.segment);
            let (file, pack) = match source {
                Ok(Source::Staged(file, pack)) => (Some(file), pack),
                Ok(Source::Pack(at)) => (None, Some(at)),
                Err(why) => {
                    report.problems.push(format!("inode {ino} chunk {chunk}: {why}"));
                    continue;
                }
            };
            if let Some(file) = file
                && let Err(why) = read_run(&*file, run, &mut vec![0; usize::from(run.len) * B])
            {
                let which = if pack.is_some() { " (the copy on this host)" } else { "" };
                report.problems.push(format!("inode {ino} chunk {chunk}: {why}{which}"));
            }
            if let Some(at) = pack {
                let (_, named) = seen.named.entry(run.segment).or_insert_with(|| (at, Vec::new()));
                named.extend(run.crcs.iter().enumerate().map(|(i, crc)| (run.at + i as u32, *crc, ino)));
                seen.gathered += run.crcs.len();
            }
        }
        if seen.gathered >= GATHER { self.check_gathered(seen, report).await } else { Ok(()) }
    }

    /// Checks the parts of staged files that no reader needs.
    pub(crate) fn check_files(&self, report: &mut CheckReport) {
        let mut st = self.lock();
        let st = &mut *st;
        for (number, row) in st.segments.iter().filter(|(n, _)| st.copies.is_staged(**n)) {
            match st.files.has_good_header(*number, &row.id) {
                Ok(true) => {}
                Ok(false) => report.problems.push(format!("segment {number:016x}: the header of its file is damaged")),
                // One that holds nothing may be gone; one that holds something was reported by whoever named it.
                Err(e) => tracing::debug!(segment = number, error = %e, "no file"),
            }
        }
    }

    /// Reads every pack of the volume that was not read yet.
    pub(crate) async fn check_all_packs(&self, seen: &mut PacksSeen, report: &mut CheckReport) -> FsResult<()> {
        {
            let st = self.lock();
            for (number, row) in &st.segments {
                if let Some(pack) = row.pack.filter(|_| !seen.whole.contains(number)) {
                    let at = PackAt { segment: *number, id: row.id, pack };
                    seen.named.entry(*number).or_insert_with(|| (at, Vec::new()));
                }
            }
        }
        self.check_gathered(seen, report).await
    }

    async fn check_gathered(&self, seen: &mut PacksSeen, report: &mut CheckReport) -> FsResult<()> {
        seen.gathered = 0;
        let Some(packs) = self.packs() else { return Ok(()) };
        for (number, (at, named)) in std::mem::take(&mut seen.named) {
            seen.whole.insert(number);
            match check_pack(&packs, *self.volume.as_bytes(), &at, named, report).await {
                Ok(()) => {}
                Err(e @ FsError::Corrupt(_)) => report.problems.push(format!("segment {number:016x}: {e}")),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

async fn check_pack(packs: &Packs, volume: [u8; 16], at: &PackAt, mut named: Vec<Named>, report: &mut CheckReport) -> FsResult<()> {
    let whole = packs.whole(at).await?;
    let corrupt = |why: &str| FsError::Corrupt(format!("{}: {why}", packs.name(at)));
    if whole.of != (Of { volume, segment: at.segment, id: at.id, blocks: at.pack.blocks }) {
        return Err(corrupt("it is the pack of another segment"));
    }
    named.sort_unstable();
    named.dedup();
    let mut held = None;
    for (block, crc, ino) in named {
        if block >= at.pack.blocks {
            report.problems.push(format!("inode {ino}: {}: block {block} is named and not in it", packs.name(at)));
            continue;
        }
        let n = block / FRAME_BLOCKS;
        if held.as_ref().is_none_or(|(m, _)| *m != n) {
            held = Some((n, whole.frame(n).map_err(|e| corrupt(&e.to_string()))?));
        }
        let (_, frame) = held.as_ref().expect("the frame was just read");
        let from = (block % FRAME_BLOCKS) as usize * B;
        if crc32c::crc32c(&frame[from..from + B]) != crc {
            report.problems.push(format!("inode {ino}: {}: block {block}: checksum differs", packs.name(at)));
        }
    }
    Ok(())
}
