//! The memory that long reads and packs are put together in: kept for the next one, given back when the volume is quiet.
//!
//! It begins at a page, as reads past the host's page cache ask for. Filling a megabyte with zeros, to overwrite it at
//! once, takes a tenth of the time of a read; so does having the kernel find new pages for it each time.

use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;

const PAGE: usize = 4096;
/// Reads from this length on have their memory from here.
const LONG: usize = 64 << 10;
/// Longer ones are not kept: what the kernel asks for at most, which may begin and end within a block.
const LONGEST: usize = (1 << 20) + PAGE;
/// Buffers for reads that are kept.
const KEPT: usize = 4;

/// Buffers that nobody uses just now.
#[derive(Debug)]
pub(crate) struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
    /// From this length on they are kept.
    shortest: usize,
    /// Up to this one.
    longest: usize,
    /// So many of them.
    most: usize,
}

/// For reads.
impl Default for Buffers {
    fn default() -> Buffers {
        Buffers::keeping(LONG, LONGEST, KEPT)
    }
}

/// Memory for one read or pack. What it holds at first is anything.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    pool: Arc<Buffers>,
}

impl Buffers {
    /// Keeps buffers of these lengths, so many of them.
    pub(crate) fn keeping(shortest: usize, longest: usize, most: usize) -> Buffers {
        Buffers { free: Mutex::default(), shortest, longest, most }
    }

    /// Memory of this length.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        if len < self.shortest {
            return Buffer { bytes: vec![0; len], start: 0, len, pool: self.clone() };
        }
        let kept = self.free.lock().pop().filter(|b| b.len() >= len + PAGE);
        let bytes = kept.unwrap_or_else(|| vec![0; len + PAGE]);
        let start = bytes.as_ptr().align_offset(PAGE).min(PAGE);
        Buffer { bytes, start, len, pool: self.clone() }
    }

    /// Gives back what is not in use.
    pub(crate) fn clear(&self) {
        self.free.lock().clear();
    }
}

impl Buffer {
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }

    /// What was read: a part of it.
    pub(crate) fn part(self, part: Range<usize>) -> bytes::Bytes {
        bytes::Bytes::from_owner(self).slice(part)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if (self.pool.shortest + PAGE..=self.pool.longest + PAGE).contains(&self.bytes.len()) {
            let mut free = self.pool.free.lock();
            if free.len() < self.pool.most {
                free.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_buffers_come_back_and_short_or_huge_ones_do_not() {
        let pool = Arc::new(Buffers::default());
        let kept = || pool.free.lock().len();
        drop(pool.take(4096));
        drop(pool.take(LONGEST + 1));
        assert_eq!(kept(), 0);
        let mut long = pool.take(LONG);
        long.space().fill(7);
        let part = long.part(1..LONG - 1);
        assert_eq!((part.len(), kept()), (LONG - 2, 0));
        drop(part);
        assert_eq!(kept(), 1);
        let mut again = pool.take(LONG);
        assert_eq!((again.space().len(), kept()), (LONG, 0), "the same one");
        assert!(again.space().as_ptr().addr().is_multiple_of(PAGE));
        drop((0..9).map(|_| pool.take(LONG)).collect::<Vec<_>>());
        assert_eq!(kept(), KEPT);
        pool.clear();
        assert_eq!(kept(), 0);
        drop(again);
    }
}
