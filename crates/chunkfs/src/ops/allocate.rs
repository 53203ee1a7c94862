//! Space without contents: reserving, punching holes, zeroing ranges, and finding data and holes.

use crate::chunk::Run;
use crate::fs::FileSystem;
use crate::key::{CHUNK_BLOCKS, Key};
use crate::ops::attr::{CUT_CHUNKS, MAX_FILE, cut};
use crate::row::Row;
use crate::state::{Page, Step};
use crate::tx::Tx;
use crate::types::{Allocate, BLOCK, Caller, FileKind, FsError, FsResult, Ino, Seek};
use bytes::Bytes;
use std::ops::Range;

/// A part of one block that becomes zeros: block, offset within it, length, contents before.
type ZeroPart = (u64, u16, u16, Page);

/// A file's data lock, and whether it is held.
type Turn<'a> = Option<tokio::sync::MutexGuard<'a, ()>>;

impl FileSystem {
    /// Reserves, punches or zeroes a range of a file.
    pub async fn fallocate(&self, cx: &Caller, ino: Ino, offset: u64, len: u64, what: Allocate) -> FsResult<()> {
        if len == 0 {
            return Err(FsError::Invalid);
        }
        let end = offset.checked_add(len).filter(|e| *e <= MAX_FILE).ok_or(FsError::TooBig)?;
        self.admit().await?;
        let mut turn = Some(self.data_lock(ino).await);
        let inode = self.run(|st| Tx::new(st).inode(ino)).await?;
        match inode.kind {
            FileKind::File => {}
            FileKind::Directory => return Err(FsError::IsDirectory),
            _ => return Err(FsError::NotSupported),
        }
        self.finish_half_cut(ino).await?;
        // The kernel's number goes with the last step, so that a range cut short by a crash is done again.
        match what {
            Allocate::Reserve { keep_size } => {
                // Asked for before anything is reserved: what cannot fit changes nothing.
                self.room_for(ino, offset..end, &mut turn).await?;
                self.reserve_range(cx, ino, offset..end, keep_size, &mut turn).await
            }
            Allocate::PunchHole => {
                self.zero_range(ino, offset, end.min(inode.size.max(inode.extent_end * BLOCK))).await?;
                self.touch(cx, ino, None).await
            }
            Allocate::ZeroRange { keep_size } => {
                // As above, and not once more: the zeros are there for good, and what they made holes was reserved before.
                self.room_for(ino, offset..end, &mut turn).await?;
                self.zero_range(ino, offset, end.min(inode.size.max(inode.extent_end * BLOCK))).await?;
                self.reserve_range(cx, ino, offset..end, keep_size, &mut turn).await
            }
        }
    }

    /// Sees to it that the holes of a range fit the quota and the host.
    async fn room_for<'a>(&'a self, ino: Ino, range: Range<u64>, turn: &mut Turn<'a>) -> FsResult<()> {
        let (first, last) = (range.start / BLOCK, range.end.div_ceil(BLOCK));
        let fits = self.fits(ino, first, last).await;
        let again = match fits {
            Err(FsError::Quota) => self.apart(ino, turn, self.free_orphans()).await,
            Err(FsError::NoSpace) => {
                let wanted = (last - first) * BLOCK + self.lock().gathered();
                self.apart(ino, turn, self.make_room(wanted)).await
            }
            _ => false,
        };
        if again { self.fits(ino, first, last).await } else { fits }
    }

    async fn reserve_range<'a>(&'a self, cx: &Caller, ino: Ino, range: Range<u64>, keep_size: bool, turn: &mut Turn<'a>) -> FsResult<()> {
        let (first, last) = (range.start / BLOCK, range.end.div_ceil(BLOCK));
        let mut block = first;
        while block < last {
            let next = ((block / CHUNK_BLOCKS + CUT_CHUNKS) * CHUNK_BLOCKS).min(last);
            self.run(|st| reserve_blocks(Tx::new(st), ino, block, next)).await?;
            block = next;
            self.apart(ino, turn, self.admit()).await?;
        }
        self.touch(cx, ino, (!keep_size).then_some(range.end)).await
    }

    /// Waits with the file's data given up: room is made by sending, and what is sent waits for writes that were given
    /// room in a segment, which may be waiting for this very file.
    async fn apart<'a, T>(&'a self, ino: Ino, turn: &mut Turn<'a>, wait: impl Future<Output = T>) -> T {
        *turn = None;
        let waited = wait.await;
        *turn = Some(self.data_lock(ino).await);
        waited
    }

    /// Whether the holes of a range fit the quota and the host.
    async fn fits(&self, ino: Ino, first: u64, last: u64) -> FsResult<()> {
        let mut holes = last - first;
        let mut from = Key::Chunk(ino, first / CHUNK_BLOCKS);
        let to = Key::Chunk(ino, (last - 1) / CHUNK_BLOCKS + 1);
        loop {
            let rows = self.scan(from, to, 256).await?;
            let Some((key, _)) = rows.last() else { break };
            from = crate::fs::after(*key);
            for (key, row) in rows {
                if let (Key::Chunk(_, c), Row::Chunk(map)) = (key, row) {
                    let base = c * CHUNK_BLOCKS;
                    let a = first.saturating_sub(base).min(CHUNK_BLOCKS) as u16;
                    let b = last.saturating_sub(base).min(CHUNK_BLOCKS) as u16;
                    if a < b {
                        holes -= map.allocated(a, b);
                    }
                }
            }
        }
        let mut st = self.lock();
        if st.quota_blocks.is_some_and(|q| st.sb.used_blocks + holes > q) {
            return Err(FsError::Quota);
        }
        st.look()?;
        if holes > 0 && holes.saturating_mul(BLOCK) > st.host_free.saturating_sub(st.kept() + st.gathered()) {
            return Err(FsError::NoSpace);
        }
        Ok(())
    }

    /// Makes a range read as zeros: holes where whole blocks are in it.
    async fn zero_range(&self, ino: Ino, offset: u64, end: u64) -> FsResult<()> {
        if offset >= end {
            return Ok(());
        }
        let mut parts: Vec<ZeroPart> = Vec::new();
        let (first, last) = (offset.div_ceil(BLOCK), end / BLOCK);
        let mut part = |block: u64, from: u64, to: u64, page: Option<Page>| {
            if let Some(page) = page {
                parts.push((block, from as u16, (to - from) as u16, page));
            }
        };
        if first > last {
            // The range lies within one block.
            part(last, offset % BLOCK, end % BLOCK, self.page(ino, last).await?);
        } else {
            if !offset.is_multiple_of(BLOCK) {
                part(first - 1, offset % BLOCK, BLOCK, self.page(ino, first - 1).await?);
            }
            if !end.is_multiple_of(BLOCK) {
                part(last, 0, end % BLOCK, self.page(ino, last).await?);
            }
        }
        self.run(|st| zero_parts(Tx::new(st), ino, &parts)).await?;
        if first < last { self.unmap_range(ino, first, last).await } else { Ok(()) }
    }

    /// Makes holes of whole blocks, by the rows that there are: a sparse file may be vast.
    pub(crate) async fn unmap_range(&self, ino: Ino, first: u64, last: u64) -> FsResult<()> {
        let mut from = Key::Chunk(ino, first / CHUNK_BLOCKS);
        let to = Key::Chunk(ino, (last - 1) / CHUNK_BLOCKS + 1);
        loop {
            let rows = self.scan(from, to, CUT_CHUNKS as usize).await?;
            let Some((key, _)) = rows.last() else { return Ok(()) };
            from = crate::fs::after(*key);
            let chunks: Vec<u64> = rows.iter().filter_map(|(k, _)| if let Key::Chunk(_, c) = k { Some(*c) } else { None }).collect();
            self.run(|st| {
                let mut tx = Tx::new(st);
                let mut freed = 0;
                for c in &chunks {
                    let base = c * CHUNK_BLOCKS;
                    freed += cut(&mut tx, ino, first.max(base), last.min(base + CHUNK_BLOCKS))?;
                }
                tx.change_inode(ino, |i| i.blocks = i.blocks.saturating_sub(freed))?;
                tx.unbounded();
                tx.commit()?;
                Ok(())
            })
            .await?;
        }
    }

    /// Notes that a file's contents changed, and moves its end outwards if asked.
    async fn touch(&self, cx: &Caller, ino: Ino, size: Option<u64>) -> FsResult<()> {
        self.run(|st| {
            let mut tx = Tx::of(st, cx);
            let now = tx.now;
            tx.change_inode(ino, |i| {
                if !cx.keeps_times {
                    i.mtime = now;
                    i.ctime = now;
                }
                i.size = i.size.max(size.unwrap_or(0));
                if cx.uid != 0 {
                    i.take_off_set_id();
                }
            })?;
            tx.commit()?;
            Ok(())
        })
        .await
    }

    /// The next data or hole at or behind an offset.
    pub async fn seek(&self, ino: Ino, offset: u64, what: Seek) -> FsResult<u64> {
        let inode = self.run(|st| Tx::new(st).inode(ino)).await?;
        if inode.kind != FileKind::File {
            return Err(FsError::Invalid);
        }
        if offset >= inode.size {
            return Err(FsError::NoSuchPosition);
        }
        let end = inode.size.div_ceil(BLOCK);
        let mut block = offset / BLOCK;
        let mut from = Key::Chunk(ino, block / CHUNK_BLOCKS);
        let to = Key::Chunk(ino, (end - 1) / CHUNK_BLOCKS + 1);
        loop {
            let rows = self.scan(from, to, 256).await?;
            let more = rows.len() == 256;
            for (key, row) in rows {
                let (Key::Chunk(_, c), Row::Chunk(map)) = (key, row) else { continue };
                from = crate::fs::after(key);
                let base = c * CHUNK_BLOCKS;
                if self.is_between_rows(ino, what, &mut block, base) {
                    return Ok(position(block, offset, inode.size));
                }
                while block < (base + CHUNK_BLOCKS).min(end) {
                    let data = self.holds_data(ino, block, map.at((block - base) as u16));
                    if data == (what == Seek::Data) {
                        return Ok(position(block, offset, inode.size));
                    }
                    block += 1;
                }
            }
            if !more {
                break;
            }
        }
        match what {
            _ if self.is_between_rows(ino, what, &mut block, end) => Ok(position(block, offset, inode.size)),
            Seek::Hole => Ok(position(block.min(end), offset, inode.size)),
            Seek::Data => Err(FsError::NoSuchPosition),
        }
    }

    /// Looks for data or a hole in blocks of which there are no rows. Moves `block` to what was found, or up to `until`.
    fn is_between_rows(&self, ino: Ino, what: Seek, block: &mut u64, until: u64) -> bool {
        while *block < until {
            // Rows that were lost may have been of data: whoever reads it is told.
            let lost = self.ns.missing().stretch(ino, *block / CHUNK_BLOCKS);
            let within = |chunk: u64| chunk.saturating_mul(CHUNK_BLOCKS).min(until);
            let lost = lost.map_or(until..until, |chunks| within(chunks.start)..within(chunks.end));
            let (is_found, next) = match *block < lost.start {
                true => (what == Seek::Hole, lost.start),
                false => (what == Seek::Data, lost.end),
            };
            if is_found {
                return true;
            }
            *block = next;
        }
        false
    }

    fn holds_data(&self, ino: Ino, block: u64, run: Option<&Run>) -> bool {
        run.is_some_and(|r| r.segment != 0) || self.lock().dirty.contains_key(&(ino, block))
    }
}

fn position(block: u64, offset: u64, size: u64) -> u64 {
    (block * BLOCK).max(offset).min(size)
}

fn reserve_blocks(mut tx: Tx<'_>, ino: Ino, mut block: u64, end: u64) -> Step<()> {
    let mut grown = 0;
    let all_end = end;
    while block < end {
        let chunk = block / CHUNK_BLOCKS;
        let base = chunk * CHUNK_BLOCKS;
        let next = (base + CHUNK_BLOCKS).min(end);
        let (from, to) = ((block - base) as u16, (next - base) as u16);
        let map = tx.chunk(ino, chunk)?;
        let mut at = from;
        for run in map.overlapping(from, to) {
            if at < run.start {
                grown += tx.map(ino, chunk, Run::reserved(at, run.start - at))?;
            }
            at = run.end();
        }
        if at < to {
            grown += tx.map(ino, chunk, Run::reserved(at, to - at))?;
        }
        block = next;
    }
    tx.change_inode(ino, |i| {
        i.blocks += grown;
        i.extent_end = i.extent_end.max(all_end);
    })?;
    tx.commit()?;
    Ok(())
}

fn zero_parts(mut tx: Tx<'_>, ino: Ino, parts: &[ZeroPart]) -> Step<()> {
    for (block, within, len, page) in parts {
        tx.st.hold_chunk(ino, block / CHUNK_BLOCKS)?;
        tx.patch(ino, *block, *within, Bytes::from(vec![0; usize::from(*len)]), page.clone());
    }
    tx.unbounded();
    tx.commit()?;
    Ok(())
}
