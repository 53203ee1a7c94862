//! Trimming: blocks of staged segments that nothing refers to any more go back to the host's disk where they lie, as holes.
//!
//! Moving what is live takes as much room, which a full disk does not have, and time. This takes next to none of either; only a
//! file system that cannot make holes is helped by moving.
//!
//! A block may go once no state refers to it that an opening could come back to. A segment that is full gets no new blocks, so one of
//! its blocks that nothing refers to stays so; and one that was seen dead before a fold began is dead in all that follows that fold.
//! Who found a block before it died, and reads it after it went, sees zeros, which are not what it was told to expect, and looks again.

use crate::blocking::blocking;
use crate::fs::FileSystem;
use crate::host::{HostFile, taken};
use crate::key::Key;
use crate::row::Row;
use crate::segment::offset_of;
use crate::types::{BLOCK, FsResult};
use crate::view::View;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Segments at most that are trimmed at once: each takes 2 KiB of memory.
const SEGMENTS: usize = 4096;
/// A segment in which less would go is left alone.
const LEAST_OF_ONE: u64 = 16;
/// Garbage at which the background trims: 128 MiB, or an eighth of what is live.
const LEAST: u64 = (128 << 20) / BLOCK;
/// Garbage for which it is worth walking over all rows when room is short: 1 MiB, or so much of a large volume.
const LEAST_WHEN_SHORT: u64 = (1 << 20) / BLOCK;
const PART_WHEN_SHORT: u64 = 4096;
/// How long the background does not look again after it found too little.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Of what a trimming expected to gain, the part without which it is taken for useless.
const USEFUL: u64 = 16;
const ROWS: usize = 1024;

/// Which blocks of a segment something refers to, a bit for each; and how many blocks of the disk should go.
#[derive(Debug, Clone)]
struct Marks(Vec<u64>, u64);

impl Marks {
    fn new(blocks: u32, garbage: u64) -> Marks {
        Marks(vec![0; blocks.div_ceil(64) as usize], garbage)
    }

    fn set(&mut self, blocks: Range<u32>) {
        for b in blocks {
            if let Some(word) = self.0.get_mut(b as usize / 64) {
                *word |= 1 << (b % 64);
            }
        }
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// The ranges that nothing refers to, of the first `blocks`.
    fn gaps(&self, blocks: u32) -> Vec<Range<u32>> {
        let is_set = |b: u32| self.0.get(b as usize / 64).is_some_and(|w| w >> (b % 64) & 1 == 1);
        let mut gaps: Vec<Range<u32>> = Vec::new();
        for b in (0..blocks).filter(|b| !is_set(*b)) {
            match gaps.last_mut() {
                Some(last) if last.end == b => last.end = b + 1,
                _ => gaps.push(b..b + 1),
            }
        }
        gaps
    }
}

/// A segment that may have garbage.
struct Candidate {
    number: u64,
    path: PathBuf,
    /// Blocks of the disk that it takes when trimming gives nothing back.
    least: u64,
}

impl FileSystem {
    /// Gives back what is garbage in segments that are full, if there is much of it. Ends at once where that cannot be done.
    pub(crate) async fn trim_if_worth_it(&self) -> FsResult<()> {
        let least = {
            let mut st = self.lock();
            let now = Instant::now();
            if st.trim_later.is_some_and(|later| now < later) {
                return Ok(());
            }
            st.trim_later = Some(now + LOOK_AGAIN);
            LEAST.max(st.segments.values().map(|s| s.live).sum::<u64>() / 8)
        };
        let gone = self.trim(least).await?;
        if gone > 0 {
            tracing::info!(bytes = gone * BLOCK, "gave garbage back to the host's disk");
        }
        Ok(())
    }

    /// The same when room is short, for less.
    pub(crate) async fn trim_for_room(&self) -> FsResult<u64> {
        self.may_fold()?;
        let (least, ended) = {
            let mut st = self.lock();
            let least = LEAST_WHEN_SHORT.max(u64::from(st.segment_blocks) * st.segments.len() as u64 / PART_WHEN_SHORT);
            if st.makes_no_holes || st.trimmed_in_vain.is_some_and(|then| st.died < then + least) {
                return Ok(0);
            }
            // On a small disk the one that is being filled may have most of the garbage.
            let filling = st.current.as_ref().and_then(|c| Some(u64::from(c.next).saturating_sub(st.segments.get(&c.segment)?.live)));
            let ends = filling.is_some_and(|garbage| garbage >= least);
            if ends {
                st.current = None;
            }
            (least, ends)
        };
        if ended {
            // What was never synced may take no room that anybody could count.
            self.fold_for_room().await?;
        }
        let died = self.lock().died;
        let gone = self.trim(least).await?;
        if gone == 0 {
            self.lock().trimmed_in_vain = Some(died);
        }
        Ok(gone)
    }

    /// The same for any garbage. For tests and for freeing space now. Returns blocks.
    pub async fn trim_all(&self) -> FsResult<u64> {
        let _turn = self.room_turn.lock().await;
        self.trim(1).await
    }

    /// Gives back the garbage of segments that are full, if it is at least so many blocks, and returns how many went.
    async fn trim(&self, least: u64) -> FsResult<u64> {
        if self.shipping.is_some() || self.doubtful.load(Ordering::Acquire) {
            return Ok(0);
        }
        // They are chosen first: all that they will ever hold is in what is looked at then.
        let (mut segments, blocks) = self.with_garbage(least).await?;
        if segments.is_empty() {
            return Ok(0);
        }
        let view = View::take(self)?;
        let mut from = Some(Key::Chunk(0, 0));
        while let Some(start) = from {
            if self.wake.ending.load(Ordering::Acquire) {
                return Ok(0);
            }
            let (rows, next) = view.scan(start, Key::Xattrs(0), ROWS).await?;
            for (_, row) in rows {
                let Row::Chunk(map) = row else { continue };
                for run in &map.runs {
                    if let Some(marks) = segments.get_mut(&run.segment) {
                        marks.set(run.at..run.at + u32::from(run.len));
                    }
                }
            }
            from = next;
        }
        // Two counts that were kept apart: where they differ something is wrong, and nothing goes.
        segments.retain(|number, marks| {
            let counted = view.segments.get(number).map(|s| s.live);
            let agree = counted.is_none_or(|live| live == marks.count());
            if !agree {
                tracing::error!(
                    segment = number,
                    counted,
                    found = marks.count(),
                    "the count of a segment's blocks is wrong; check the volume"
                );
            }
            counted.is_some() && agree
        });
        drop(view);
        self.fold_for_room().await?;
        let (mut gone, mut wanted) = (0, 0);
        for (number, marks) in segments {
            let file = {
                let mut st = self.lock();
                if !st.segments.contains_key(&number) {
                    continue;
                }
                st.segment_file(number)?
            };
            let (gaps, garbage, live) = (marks.gaps(blocks), marks.1, marks.count());
            let (taken, less, failed) = blocking(move || punch(&*file, &gaps)).await;
            gone += less;
            match failed {
                None => wanted += garbage,
                Some(e) => tracing::warn!(segment = number, error = %e, "garbage could not be given back"),
            }
            let mut st = self.lock();
            if st.segments.contains_key(&number) {
                st.trimmed.insert(number, taken.saturating_sub(1 + live));
            }
        }
        if wanted >= LEAST_WHEN_SHORT && gone < wanted / USEFUL {
            tracing::warn!(
                blocks = gone,
                "the host's file system gives nothing back of a part of a file; garbage goes with whole segments only"
            );
            self.lock().makes_no_holes = true;
        }
        Ok(gone)
    }

    /// Segments with garbage that takes room on the disk, those with most of it first, if it is at least so many blocks in all; and how
    /// many blocks a segment has.
    async fn with_garbage(&self, least: u64) -> FsResult<(BTreeMap<u64, Marks>, u32)> {
        let (candidates, blocks) = {
            let st = self.lock();
            if st.makes_no_holes {
                return Ok((BTreeMap::new(), 0));
            }
            let current = st.current.as_ref().map(|c| c.segment);
            let of = |(number, s): (&u64, &crate::row::Segment)| Candidate {
                number: *number,
                path: st.files.path(*number, &s.id),
                least: 1 + s.live + st.trimmed.get(number).copied().unwrap_or(0),
            };
            let full =
                st.segments.iter().filter(|(n, s)| Some(**n) != current && !st.pins.contains_key(n) && s.pack.is_none() && s.live > 0);
            (full.map(of).collect::<Vec<_>>(), st.segment_blocks)
        };
        let most: u64 = candidates.iter().map(|c| (u64::from(blocks) + 1).saturating_sub(c.least)).sum();
        if most < least {
            return Ok((BTreeMap::new(), blocks));
        }
        let disk = self.disk.clone();
        let mut garbage = blocking(move || {
            let of = |c: Candidate| {
                // A file that went meanwhile has none. What a file system sets aside behind the end is no garbage.
                let taken = disk.open(&c.path).and_then(|f| taken(&*f)).unwrap_or(0) / BLOCK;
                (taken.saturating_sub(c.least), c.number)
            };
            candidates.into_iter().map(of).filter(|(n, _)| *n >= LEAST_OF_ONE.min(least)).collect::<Vec<_>>()
        })
        .await;
        if garbage.iter().map(|(n, _)| n).sum::<u64>() < least {
            return Ok((BTreeMap::new(), blocks));
        }
        garbage.sort_unstable_by(|a, b| b.cmp(a));
        garbage.truncate(SEGMENTS);
        Ok((garbage.into_iter().map(|(n, number)| (number, Marks::new(blocks, n))).collect(), blocks))
    }
}

/// Returns how many blocks the file takes after it, how many less that is, and what went wrong first.
fn punch(file: &dyn HostFile, gaps: &[Range<u32>]) -> (u64, u64, Option<std::io::Error>) {
    let blocks = || taken(file).map_or(0, |bytes| bytes / BLOCK);
    let before = blocks();
    let punched = gaps.iter().map(|gap| file.punch(offset_of(gap.start), u64::from(gap.end - gap.start) * BLOCK));
    let failed = punched.filter_map(std::io::Result::err).collect::<Vec<_>>().into_iter().next();
    let after = blocks();
    (after, before.saturating_sub(after), failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_no_mark_covers() {
        let mut marks = Marks::new(200, 0);
        marks.set(0..1);
        marks.set(63..66);
        marks.set(199..200);
        assert_eq!(marks.count(), 5);
        assert_eq!(marks.gaps(200), [1..63, 66..199]);
        assert_eq!(Marks::new(130, 0).gaps(130), std::slice::from_ref(&(0..130)));
        marks.set(0..200);
        assert!(marks.gaps(200).is_empty());
    }
}
