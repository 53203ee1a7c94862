//! Fetching what a file's reader will want next: if its reads follow each other, a window grows from 1 to 64 MiB, but never
//! beyond a few times of what he has read so: who stops early has not made much come that nobody wants.
//!
//! A first read, and any that does not follow the one before, fetches nothing but what it wants.

use super::data::{Piece, locate};
use crate::fs::FileSystem;
use crate::key::{CHUNK_BLOCKS, Key};
use crate::remote::{Packs, Source};
use crate::types::Ino;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Blocks ahead of a reader that has just begun to follow on: 1 MiB.
const WINDOW_MIN: u64 = 256;
/// And at most: 64 MiB.
const WINDOW_MAX: u64 = 16384;
/// How many times what was read the window may be.
const AHEAD: u64 = 8;
/// What is asked for at once at least, if the window is wide enough: 8 MiB, a request.
const STEP: u64 = 2048;
/// Reads that the kernel sends side by side, 8 MiB of them, arrive in any order.
const SLACK: u64 = 2048;
/// Rows that are read at once, one for each MiB of the file; and how many of them are left when the next are.
const ROWS: u64 = 128;
const ROWS_LEFT: u64 = 48;
/// How long a reader is kept by finding out what he will want.
const LOOKING: Duration = Duration::from_secs(2);
/// Files that are followed at once.
const FILES: usize = 1024;

#[derive(Debug)]
struct Sequence {
    next: u64,
    /// What was asked for so far.
    until: u64,
    /// How many blocks were read one after the other.
    read: u64,
    /// Chunks below this one have their rows in memory, or somebody reads them.
    rows: u64,
}

/// Reads of files, as far as they follow each other.
#[derive(Debug, Default)]
pub(crate) struct Sequences {
    files: HashMap<Ino, Sequence>,
}

impl Sequences {
    /// Notes a read; returns the blocks that are worth fetching now.
    pub(crate) fn read(&mut self, ino: Ino, blocks: Range<u64>, end_of_file: u64) -> Option<Range<u64>> {
        if self.files.len() >= FILES && !self.files.contains_key(&ino) {
            self.files.clear();
        }
        let fresh = || Sequence { next: u64::MAX, until: 0, read: 0, rows: 0 };
        let s = self.files.entry(ino).or_insert_with(fresh);
        if blocks.start > s.next.saturating_add(SLACK) || blocks.end.saturating_add(SLACK) < s.next {
            *s = Sequence { next: blocks.end, until: blocks.end, read: blocks.end - blocks.start, rows: 0 };
            return None;
        }
        if blocks.end <= s.next {
            // One that was overtaken.
            return None;
        }
        s.read += blocks.end - s.next;
        s.next = blocks.end;
        s.until = s.until.max(s.next);
        let window = (s.read * AHEAD).clamp(WINDOW_MIN, WINDOW_MAX);
        let want = (s.next + window).min(end_of_file);
        // In steps of a request: smaller ones cost more, and after larger ones the store is idle until all of one is read.
        if want <= s.until || s.until - s.next > window - STEP.min(window / 2) {
            return None;
        }
        let ahead = s.until..want;
        s.until = want;
        Some(ahead)
    }

    /// The chunks whose rows are worth reading now, for one whose blocks up to `until` are fetched.
    fn rows(&mut self, ino: Ino, until: u64, end_of_file: u64) -> Option<Range<u64>> {
        let s = self.files.get_mut(&ino)?;
        let (chunk, end) = (until / CHUNK_BLOCKS, end_of_file.div_ceil(CHUNK_BLOCKS));
        if s.rows >= end || s.rows > chunk + ROWS_LEFT {
            return None;
        }
        let from = s.rows.max(s.next / CHUNK_BLOCKS);
        s.rows = (chunk + ROWS).min(end);
        (from < s.rows).then_some(from..s.rows)
    }
}

impl FileSystem {
    /// Notes a read, and has what its reader will want soon fetched from the store, without anybody waiting. From the host's
    /// disk the kernel reads ahead itself.
    pub(super) async fn read_ahead(&self, ino: Ino, blocks: Range<u64>, end_of_file: u64) {
        let Some(packs) = self.packs() else { return };
        if packs.patience().is_away() {
            return;
        }
        // What the reader wants may be here, whatever the store does.
        let _ = tokio::time::timeout(LOOKING, self.look_ahead(&packs, ino, blocks, end_of_file)).await;
    }

    async fn look_ahead(&self, packs: &Arc<Packs>, ino: Ino, blocks: Range<u64>, end_of_file: u64) {
        let (ahead, rows) = {
            let mut sequences = self.sequences.lock();
            let Some(ahead) = sequences.read(ino, blocks, end_of_file) else { return };
            let rows = sequences.rows(ino, ahead.end, end_of_file);
            (ahead, rows)
        };
        // A reader whose next read finds the error is told then.
        if let Some(rows) = rows
            && self.warm(Key::Chunk(ino, rows.start), Key::Chunk(ino, rows.end)).await.is_err()
        {
            return;
        }
        let Ok(pieces) = self.run(|st| locate(st, ino, ahead.clone())).await else { return };
        let packed: Vec<_> = pieces
            .into_iter()
            .filter_map(|piece| match piece {
                Piece::Run { run, source: Source::Pack(at), .. } => Some((at, run.at, u32::from(run.len))),
                _ => None,
            })
            .collect();
        if !packed.is_empty() {
            packs.fetch_ahead(&packed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_many_at_a_time_and_none_twice() {
        const END: u64 = 1000 * CHUNK_BLOCKS;
        let (mut s, mut upto) = (Sequences::default(), 0);
        let mut readings = 0;
        for at in (0..END).step_by(256) {
            let Some(ahead) = s.read(7, at..at + 256, END) else { continue };
            if let Some(rows) = s.rows(7, ahead.end, END) {
                assert!(rows.start == upto || upto == 0, "{rows:?} after {upto}");
                (upto, readings) = (rows.end, readings + 1);
            }
            assert!(upto >= ahead.end / CHUNK_BLOCKS, "what is fetched has its rows");
        }
        assert!(upto == 1000 && readings < 16, "{upto} in {readings}");
        assert_eq!(s.rows(8, 5, END), None, "nobody reads it");
    }

    #[test]
    fn reads_that_follow_grow_the_window_and_others_fetch_nothing() {
        let mut s = Sequences::default();
        assert_eq!(s.read(7, 0..32, 10_000), None);
        assert_eq!(s.read(7, 32..64, 10_000), Some(64..576), "eight times what was read");
        let mut until = 576;
        for n in 2..300 {
            let at = n * 32;
            if let Some(ahead) = s.read(7, at..at + 32, 10_000) {
                assert!(ahead.start == until && ahead.end > at + 32 && ahead.end <= at + 32 + WINDOW_MAX, "{n}: {ahead:?}");
                until = ahead.end;
            }
            let read = at + 32;
            assert!(until <= read + (AHEAD * read).max(WINDOW_MIN), "{n}: little was read, and much fetched: {until}");
            assert!(until >= at + 32, "a reader overtakes what was fetched for it");
        }
        assert_eq!(until, 10_000);
        for at in [5000, 200, 9000, 7000, 0] {
            assert_eq!(s.read(7, at..at + 1, 10_000), None, "random");
        }
        // In another order, as the kernel sends them.
        let mut s = Sequences::default();
        let asked: u64 =
            [0, 64, 32, 128, 96, 192, 160].iter().filter_map(|at| s.read(1, *at..at + 32, 5000)).map(|r| r.end - r.start).sum();
        assert!(asked >= 1024, "{asked}");
        for ino in 0..5000 {
            s.read(ino, 0..1, 1);
        }
        assert!(s.files.len() <= FILES);
    }
}
