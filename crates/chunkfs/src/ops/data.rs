//! Reading and writing file contents.
//!
//! Whole blocks go to a segment before the record that maps them; parts of a block go into the record itself
//! and are pending in memory until a fold moves them to a segment. So do few whole blocks of a file that is synced
//! often: then one file of the host has to be synced and not two. Bytes behind the end within the last block are
//! zeros, always: whoever moves the end may rely on it.

use crate::chunk::Run;
use crate::fs::FileSystem;
use crate::key::CHUNK_BLOCKS;
use crate::ops::attr::{MAX_FILE, reserve_one};
use crate::remote::Source;
use crate::remote::copies::read_source;
use crate::segment::{bad_blocks, offset_of, write_blocks};
use crate::state::{Page, Reserved, State, Step, host_error};
use crate::tx::Tx;
use crate::types::{BLOCK, Caller, FileKind, FsError, FsResult, Ino};
use bytes::Bytes;
use std::ops::Range;

const B: usize = BLOCK as usize;

/// Bytes of one write from which on the disk is given them at once: more will follow, and whoever syncs waits for all of it.
const LARGE: usize = 256 << 10;

/// How often blocks are looked for that were overwritten and collected before they were read.
const READINGS: usize = 100;

/// Where some blocks of a reading come from; holes come from nowhere.
pub(super) enum Piece {
    Run { block: u64, run: Run, source: Source },
    Page { block: u64, page: Page },
}

/// Finds out where blocks are, newest bytes first.
pub(super) fn locate(st: &mut State, ino: Ino, blocks: Range<u64>) -> Step<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut block = blocks.start;
    while block < blocks.end {
        let chunk = block / CHUNK_BLOCKS;
        let base = chunk * CHUNK_BLOCKS;
        let end = (base + CHUNK_BLOCKS).min(blocks.end);
        let (from, to) = ((block - base) as u16, (end - base) as u16);
        let map = st.chunk(ino, chunk)?;
        for run in map.overlapping(from, to).filter(|r| r.segment != 0) {
            let run = run.part(from, to);
            let source = st.source(run.segment)?;
            pieces.push(Piece::Run { block: base + u64::from(run.start), run, source });
        }
        block = end;
    }
    for ((_, block), page) in st.dirty.range((ino, blocks.start)..(ino, blocks.end)) {
        pieces.push(Piece::Page { block: *block, page: page.clone() });
    }
    Ok(pieces)
}

/// What one write puts where.
struct WritePlan<'a> {
    offset: u64,
    end: u64,
    /// What goes into the record: block, offset within it, bytes.
    parts: Vec<(u64, usize, &'a [u8])>,
    /// Whole blocks for a segment, from this one on.
    first: u64,
    whole: std::borrow::Cow<'a, [u8]>,
}

impl<'a> WritePlan<'a> {
    /// All of it into the record.
    fn in_record(offset: u64, data: &'a [u8]) -> WritePlan<'a> {
        let head = data.len().min(B - (offset % BLOCK) as usize);
        let (first, rest) = data.split_at(head);
        let mut parts = vec![(offset / BLOCK, (offset % BLOCK) as usize, first)];
        parts.extend(rest.chunks(B).zip(offset / BLOCK + 1..).map(|(bytes, block)| (block, 0, bytes)));
        let end = offset + data.len() as u64;
        WritePlan { offset, end, parts, first: end.div_ceil(BLOCK), whole: (&[][..]).into() }
    }

    /// Whole blocks to a segment.
    fn new(offset: u64, data: &'a [u8], size: u64) -> WritePlan<'a> {
        let end = offset + data.len() as u64;
        let mut parts = Vec::new();
        let mut rest = data;
        let head = (offset % BLOCK) as usize;
        if head != 0 {
            let (part, more) = rest.split_at(rest.len().min(B - head));
            parts.push((offset / BLOCK, head, part));
            rest = more;
        }
        let first = offset.div_ceil(BLOCK);
        let (whole, tail) = rest.split_at(rest.len() - rest.len() % B);
        let mut whole = std::borrow::Cow::Borrowed(whole);
        if !tail.is_empty() {
            if end >= size {
                // Nothing of the last block survives behind the new bytes: it is whole with zeros.
                let buffer = whole.to_mut();
                buffer.extend_from_slice(tail);
                buffer.resize(buffer.len().next_multiple_of(B), 0);
            } else {
                parts.push((first + (whole.len() / B) as u64, 0, tail));
            }
        }
        WritePlan { offset, end, parts, first, whole }
    }
}

impl FileSystem {
    /// Bytes of a file from an offset, fewer only at its end.
    pub async fn read(&self, ino: Ino, offset: u64, len: u32) -> FsResult<Bytes> {
        let mut left = READINGS;
        loop {
            left -= 1;
            if let Some(bytes) = self.read_once(ino, offset, len, left > 0).await? {
                return Ok(bytes);
            }
        }
    }

    /// `None` if what was to be read was overwritten, and collected, before it was read, and it may be tried `again`.
    async fn read_once(&self, ino: Ino, offset: u64, len: u32, again: bool) -> FsResult<Option<Bytes>> {
        let found = self
            .run(|st| {
                let inode = Tx::new(st).inode(ino)?;
                match inode.kind {
                    FileKind::File => {}
                    FileKind::Directory => return Err(FsError::IsDirectory.into()),
                    _ => return Err(FsError::Invalid.into()),
                }
                let end = inode.size.min(offset.saturating_add(u64::from(len)));
                if offset >= end {
                    return Ok(None);
                }
                Ok(Some((end, inode.size.div_ceil(BLOCK), locate(st, ino, offset / BLOCK..end.div_ceil(BLOCK))?)))
            })
            .await?;
        let Some((end, blocks, pieces)) = found else { return Ok(Some(Bytes::new())) };
        let first = offset / BLOCK;
        let mut buffer = self.buffers.take(((end.div_ceil(BLOCK) - first) as usize) * B);
        self.read_ahead(ino, first..end.div_ceil(BLOCK), blocks).await;
        if let Err(e) = self.fill(&pieces, first, buffer.space()).await {
            if again && self.is_elsewhere(ino, &pieces).await? {
                return Ok(None);
            }
            tracing::error!(ino, offset, error = %e, "a read failed");
            return Err(e);
        }
        let skip = (offset % BLOCK) as usize;
        Ok(Some(buffer.part(skip..skip + (end - offset) as usize)))
    }

    /// Whether what could not be read was garbage by then, and gone: with its segment, or without. What is where it was found is damaged.
    async fn is_elsewhere(&self, ino: Ino, pieces: &[Piece]) -> FsResult<bool> {
        let has_row = |run: &Run| self.lock().segments.contains_key(&run.segment);
        if self.shipping.is_some() {
            return Ok(pieces.iter().any(|p| matches!(p, Piece::Run { run, .. } if !has_row(run))));
        }
        let mut moved = false;
        for piece in pieces {
            let Piece::Run { block: first, run, source: Source::Staged(file, _) } = piece else { continue };
            for n in bad_blocks(&**file, run).unwrap_or_else(|_| (0..run.len).collect()) {
                let (chunk, within) = ((first + u64::from(n)) / CHUNK_BLOCKS, run.start + n);
                let now = self.run(|st| st.chunk(ino, chunk)).await?;
                let place = now.at(within).map(|r| (r.segment, r.at + u32::from(within - r.start)));
                if place == Some((run.segment, run.at + u32::from(n))) {
                    return Ok(false);
                }
                moved = true;
            }
        }
        Ok(moved)
    }

    /// Fills all of a buffer that starts at block `first`, whatever it held. What has to come from the store comes side by side.
    async fn fill(&self, pieces: &[Piece], first: u64, out: &mut [u8]) -> FsResult<()> {
        let is_local = |p: &Piece| matches!(p, Piece::Run { source: Source::Staged(_, None), .. } | Piece::Page { .. });
        let packs = if pieces.iter().all(is_local) { None } else { self.packs() };
        let mut reads = Vec::new();
        let (mut rest, mut at) = (&mut *out, first);
        for piece in pieces {
            // Runs come in the order of their blocks.
            let Piece::Run { block, run, source } = piece else { continue };
            let (hole, tail) = std::mem::take(&mut rest).split_at_mut((block - at) as usize * B);
            hole.fill(0);
            let (mine, tail) = tail.split_at_mut(usize::from(run.len) * B);
            (rest, at) = (tail, block + u64::from(run.len));
            reads.push(read_source(packs.as_deref(), source, run, mine));
        }
        rest.fill(0);
        futures::future::try_join_all(reads).await?;
        for piece in pieces {
            let Piece::Page { block, page } = piece else { continue };
            let at = (block - first) as usize * B;
            out[at..at + B].copy_from_slice(page);
        }
        if packs.is_some() {
            self.keep_to_budget().await;
        }
        Ok(())
    }

    /// What a block holds now; `None` if it is a hole or only reserved.
    pub(crate) async fn page(&self, ino: Ino, block: u64) -> FsResult<Option<Page>> {
        let mut left = READINGS;
        loop {
            let pieces = self.run(|st| locate(st, ino, block..block + 1)).await?;
            if pieces.is_empty() {
                return Ok(None);
            }
            let mut page = vec![0; B];
            match self.fill(&pieces, block, &mut page).await {
                Ok(()) => return Ok(Some(page.into())),
                Err(e) => {
                    left -= 1;
                    if left == 0 || !self.is_elsewhere(ino, &pieces).await? {
                        return Err(e);
                    }
                }
            }
        }
    }

    /// Writes bytes at an offset, growing the file as needed. All of them, or none and an error.
    pub async fn write(&self, cx: &Caller, ino: Ino, offset: u64, data: &[u8]) -> FsResult<usize> {
        self.write_from(cx, ino, offset, data, false).await
    }

    /// The same for bytes that a kernel has gathered: that they are written was said already, see [`FileSystem::room_to_gather`].
    pub async fn write_gathered(&self, cx: &Caller, ino: Ino, offset: u64, data: &[u8]) -> FsResult<usize> {
        self.write_from(cx, ino, offset, data, true).await
    }

    async fn write_from(&self, cx: &Caller, ino: Ino, offset: u64, data: &[u8], gathered: bool) -> FsResult<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > MAX_FILE) {
            return Err(FsError::TooBig);
        }
        self.admit().await?;
        let first = self.write_once(cx, ino, offset, data, gathered).await;
        match first {
            Err(FsError::Quota) if self.free_orphans().await => self.write_once(cx, ino, offset, data, gathered).await,
            Err(FsError::NoSpace) if self.make_room(data.len() as u64).await => self.write_once(cx, ino, offset, data, gathered).await,
            _ => first,
        }
    }

    async fn write_once(&self, cx: &Caller, ino: Ino, offset: u64, data: &[u8], gathered: bool) -> FsResult<usize> {
        // Whole blocks depend on nothing that is there: their bytes go to the disk side by side with others of the file, and
        // only the record waits for its turn.
        let independent = offset.is_multiple_of(BLOCK) && data.len().is_multiple_of(B);
        let turn = if independent { None } else { Some(self.data_lock(ino).await) };
        let Some(size) = self.to_be_written(cx, ino).await? else { return Ok(data.len()) };
        // What a volume on a store has on this host goes to the store as it lies in segments.
        let in_record = self.shipping.is_none() && self.lock().synced.takes(ino, data.len());
        let plan = if in_record { WritePlan::in_record(offset, data) } else { WritePlan::new(offset, data, size) };
        let mut bases = Vec::with_capacity(plan.parts.len());
        for (block, _, bytes) in &plan.parts {
            let before = if bytes.len() == B { None } else { self.page(ino, *block).await? };
            bases.push(before.unwrap_or_else(|| vec![0; B].into()));
        }
        let reserved = {
            let mut st = self.lock();
            st.room_for(data.len() as u64, gathered)?;
            st.reserve((plan.whole.len() / B) as u32)?
        };
        let done = match write_whole(&plan, &reserved, !self.syncs_go_to_the_store()) {
            Ok(crcs) => {
                let _turn = match turn {
                    Some(turn) => turn,
                    None => self.data_lock(ino).await,
                };
                self.record_written(cx, ino, &plan, &bases, &reserved, &crcs).await
            }
            Err(e) => Err(e),
        };
        self.lock().unpin(&reserved);
        done.map(|()| data.len())
    }

    /// A file's size; `None` if this request was answered when it came before.
    async fn to_be_written(&self, cx: &Caller, ino: Ino) -> FsResult<Option<u64>> {
        self.run(|st| {
            let mut tx = Tx::of(st, cx);
            let inode = tx.inode(ino)?;
            match inode.kind {
                FileKind::File if tx.answered().is_some() => Ok(None),
                FileKind::File => Ok(Some(inode.size)),
                FileKind::Directory => Err(FsError::IsDirectory.into()),
                _ => Err(FsError::Invalid.into()),
            }
        })
        .await
    }

    /// The record of a writing whose whole blocks are in segments already.
    async fn record_written(
        &self,
        cx: &Caller,
        ino: Ino,
        plan: &WritePlan<'_>,
        bases: &[Page],
        reserved: &[Reserved],
        crcs: &[u32],
    ) -> FsResult<()> {
        self.finish_half_cut(ino).await?;
        self.run(|st| {
            let mut tx = Tx::of(st, cx);
            if tx.answered().is_some() {
                // It came a second time, and the first one was faster.
                return Ok(());
            }
            let mut inode = (*tx.inode(ino)?).clone();
            let mut grown = 0;
            for ((block, within, bytes), base) in plan.parts.iter().zip(bases) {
                grown += reserve_one(&mut tx, ino, *block)?;
                tx.patch(ino, *block, *within as u16, Bytes::copy_from_slice(bytes), base.clone());
            }
            let mut done = 0;
            for r in reserved {
                grown += map_pieces(&mut tx, ino, plan.first + done, r, &crcs[done as usize..])?;
                done += u64::from(r.blocks);
            }
            inode.blocks += grown;
            inode.size = inode.size.max(plan.end);
            inode.extent_end = inode.extent_end.max(plan.end.div_ceil(BLOCK));
            debug_assert!(plan.offset < plan.end);
            if !cx.keeps_times {
                inode.mtime = tx.now;
                inode.ctime = tx.now;
            }
            if cx.uid != 0 {
                inode.take_off_set_id();
            }
            tx.put_inode(ino, inode);
            tx.commit()?;
            Ok(())
        })
        .await
    }
}

/// Writes the whole blocks of a plan to segments; returns their checksums. Whether the disk begins at once is asked for where a
/// sync would wait for it.
fn write_whole(plan: &WritePlan<'_>, reserved: &[Reserved], begins: bool) -> FsResult<Vec<u32>> {
    let mut crcs = Vec::with_capacity(plan.whole.len() / B);
    let mut rest: &[u8] = &plan.whole;
    for r in reserved {
        let (mine, more) = rest.split_at(r.blocks as usize * B);
        rest = more;
        crcs.extend(write_blocks(&*r.file, r.at, mine).map_err(|e| host_error("writing a segment", &e))?);
        if begins && mine.len() >= LARGE {
            r.file.start_writing(offset_of(r.at), mine.len() as u64);
        }
    }
    Ok(crcs)
}

/// Maps reserved blocks to a file from `block` on, chunk by chunk; returns by how many blocks it grew.
fn map_pieces(tx: &mut Tx<'_>, ino: Ino, block: u64, r: &Reserved, crcs: &[u32]) -> Step<u64> {
    let mut grown = 0;
    let mut done: u32 = 0;
    while done < r.blocks {
        let at = block + u64::from(done);
        let within = (at % CHUNK_BLOCKS) as u16;
        let n = (r.blocks - done).min(CHUNK_BLOCKS as u32 - u32::from(within));
        let run = Run {
            start: within,
            len: n as u16,
            segment: r.segment,
            at: r.at + done,
            crcs: crcs[done as usize..(done + n) as usize].to_vec(),
        };
        grown += tx.map(ino, at / CHUNK_BLOCKS, run)?;
        done += n;
    }
    Ok(grown)
}
