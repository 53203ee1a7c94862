//! The memory that long reads are put together in: kept for the next one, given back when the volume is quiet.
//!
//! They begin at a page, as reads past the host's page cache ask for. Filling a megabyte with zeros, to overwrite it at
//! once, takes a tenth of the time of a read.

use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;

/// Reads from this length on have their memory from here.
const LONG: usize = 64 << 10;
const PAGE: usize = 4096;
/// Buffers that are kept.
const KEPT: usize = 4;
/// Longer ones are not.
const LONGEST: usize = (1 << 20) + (8 << 10);

/// Buffers that nobody uses just now.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

/// Memory for one read. What it holds at first is anything.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    pool: Arc<Buffers>,
}

impl Buffers {
    /// Memory of this length.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        if len < LONG {
            return Buffer { bytes: vec![0; len], start: 0, len, pool: self.clone() };
        }
        let kept = self.0.lock().pop().filter(|b| b.len() >= len + PAGE);
        let bytes = kept.unwrap_or_else(|| vec![0; len + PAGE]);
        let start = bytes.as_ptr().align_offset(PAGE).min(PAGE);
        Buffer { bytes, start, len, pool: self.clone() }
    }

    /// Gives back what is not in use.
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
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
        if (LONG + PAGE..=LONGEST).contains(&self.bytes.len()) {
            let mut kept = self.pool.0.lock();
            if kept.len() < KEPT {
                kept.push(std::mem::take(&mut self.bytes));
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
        let kept = || pool.0.lock().len();
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
