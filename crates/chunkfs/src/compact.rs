//! Getting space back from segments of which little is still referred to: their live blocks move to the
//! segment that is being filled, and the next fold removes the old file.
//!
//! Contents do not change, so readers and writers need not stop: a block moves only if, under the state's
//! lock, it is still where it was read.

use crate::chunk::Run;
use crate::fs::FileSystem;
use crate::key::{CHUNK_BLOCKS, Key};
use crate::remote::copies::read_source;
use crate::row::Row;
use crate::segment::write_blocks;
use crate::state::{Reserved, host_error};
use crate::tx::Tx;
use crate::types::{BLOCK, FsError, FsResult, Ino};
use std::collections::HashSet;
use std::sync::atomic::Ordering;

const B: usize = BLOCK as usize;

/// Garbage below this is left alone: 128 MiB.
const GARBAGE_MIN: u64 = (128 << 20) / BLOCK;

/// Small packs that are worth being merged.
const SMALL_PACKS: usize = 64;

impl FileSystem {
    /// Moves what is live out of segments that are mostly garbage, if there is much of it.
    pub(crate) async fn compact(&self) -> FsResult<()> {
        let _turn = self.room_turn.lock().await;
        let victims = self.victims(false);
        if !victims.is_empty() {
            tracing::info!(segments = victims.len(), "compacting");
            self.empty(&victims).await?;
        }
        self.trim_if_worth_it().await
    }

    /// Moves what is live out of every segment that holds any garbage. For tests and for freeing space now.
    pub async fn compact_all(&self) -> FsResult<()> {
        let _turn = self.room_turn.lock().await;
        let victims = self.victims(true);
        self.empty(&victims).await?;
        self.fold().await
    }

    /// The segment of which least is referred to, if a sixteenth of it is garbage and the host has room to move the rest. None where
    /// trimming does it.
    pub(crate) fn emptiest(&self) -> Option<u64> {
        let mut st = self.lock();
        if !st.makes_no_holes {
            return None;
        }
        st.look().ok()?;
        let current = st.current.as_ref().map(|c| c.segment);
        let most = (u64::from(st.segment_blocks) * 15 / 16).min(st.host_free.saturating_sub(st.last_room()) / BLOCK);
        let sealed = st.segments.iter().filter(|(n, s)| Some(**n) != current && !st.pins.contains_key(n) && s.live > 0 && s.live <= most);
        sealed.min_by_key(|(_, s)| s.live).map(|(n, _)| *n)
    }

    /// Segments worth emptying: those less than half live, if there is much garbage in all; or all with any garbage. Where trimming gives
    /// garbage back, those less than an eighth live, to have fewer files.
    fn victims(&self, all: bool) -> HashSet<u64> {
        let st = self.lock();
        let current = st.current.as_ref().map(|c| c.segment);
        let sealed = || st.segments.iter().filter(|(n, s)| Some(**n) != current && !st.pins.contains_key(n) && s.live > 0);
        let live: u64 = sealed().map(|(_, s)| s.live).sum();
        let garbage: u64 = sealed().map(|(_, s)| st.blocks_of(s).saturating_sub(s.live)).sum();
        let mut victims = HashSet::new();
        if all || garbage >= GARBAGE_MIN.max(live / 4) {
            let part = if st.outbox.is_some() || st.makes_no_holes { 2 } else { 8 };
            let limit = |s: &crate::row::Segment| if all { st.blocks_of(s) } else { st.blocks_of(s) / part };
            victims.extend(sealed().filter(|(_, s)| s.live < limit(s)).map(|(n, _)| *n));
        }
        // Folds of a quiet volume leave small packs; many of them become few.
        let small = |s: &crate::row::Segment| s.pack.is_some_and(|p| p.blocks < st.segment_blocks / 4);
        let small: Vec<u64> = sealed().filter(|(_, s)| small(s)).map(|(n, _)| *n).collect();
        if small.len() >= SMALL_PACKS {
            victims.extend(small);
        }
        victims
    }

    /// Moves what is live out of these segments.
    pub(crate) async fn empty(&self, victims: &HashSet<u64>) -> FsResult<()> {
        if victims.is_empty() {
            return Ok(());
        }
        let mut from = Key::Chunk(0, 0);
        loop {
            let rows = self.scan(from, Key::Xattrs(0), 256).await?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            from = crate::fs::after(*last);
            for (key, row) in rows {
                let (Key::Chunk(ino, chunk), Row::Chunk(map)) = (key, row) else { continue };
                for run in map.runs.iter().filter(|r| victims.contains(&r.segment)) {
                    if self.wake.ending.load(Ordering::Acquire) {
                        return Err(FsError::Io("the volume is being closed".to_owned()));
                    }
                    self.fold_if_due().await?;
                    self.move_run(ino, chunk, run).await?;
                }
            }
        }
    }

    async fn move_run(&self, ino: Ino, chunk: u64, run: &Run) -> FsResult<()> {
        let (source, packs, reserved) = {
            let mut st = self.lock();
            if !st.segments.contains_key(&run.segment) {
                return Ok(());
            }
            st.room_to_move(u64::from(run.len) * BLOCK)?;
            (st.source(run.segment)?, st.copies.packs.clone(), st.reserve(u32::from(run.len))?)
        };
        let mut buffer = vec![0; usize::from(run.len) * B];
        let done = match read_source(packs.as_deref(), &source, run, &mut buffer).await {
            Ok(()) => self.place(ino, chunk, run, &buffer, &reserved).await,
            // What it was died meanwhile, and a fold has deleted it.
            Err(FsError::Corrupt(_)) if !self.lock().segments.contains_key(&run.segment) => Ok(()),
            Err(e @ FsError::Corrupt(_)) => {
                // It stays where it is, so that it can be looked at and mended.
                tracing::error!(ino, chunk, error = %e, "compaction found a damaged block and left it");
                Ok(())
            }
            Err(e) => Err(e),
        };
        self.lock().unpin(&reserved);
        done
    }

    async fn place(&self, ino: Ino, chunk: u64, run: &Run, buffer: &[u8], reserved: &[Reserved]) -> FsResult<()> {
        let mut rest = buffer;
        for r in reserved {
            let (mine, more) = rest.split_at(r.blocks as usize * B);
            rest = more;
            write_blocks(&*r.file, r.at, mine).map_err(|e| host_error("writing a segment", &e))?;
        }
        self.run(|st| {
            // A block that was changed meanwhile, or has a pending small write on top, is left as it is now.
            let map = st.chunk(ino, chunk)?;
            let base = chunk * CHUNK_BLOCKS;
            let pending: HashSet<u64> = st.dirty.range((ino, base)..(ino, base + CHUNK_BLOCKS)).map(|((_, b), _)| *b).collect();
            let mut tx = Tx::new(st);
            let mut i: u16 = 0;
            for r in reserved {
                for n in 0..r.blocks {
                    let block = run.start + i;
                    let same = map
                        .at(block)
                        .is_some_and(|now| now.segment == run.segment && now.at + u32::from(block - now.start) == run.at + u32::from(i));
                    if same && !pending.contains(&(base + u64::from(block))) {
                        let crcs = vec![run.crcs[usize::from(i)]];
                        tx.map(ino, chunk, Run { start: block, len: 1, segment: r.segment, at: r.at + n, crcs })?;
                    }
                    i += 1;
                }
            }
            tx.unbounded();
            tx.commit()?;
            Ok(())
        })
        .await
    }
}
