//! The memory that requests are read into: in place before it is used, kept for the next one, given back when quiet.

use crate::kernel::init::MAX_IO;
use bytes::Bytes;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;

/// The longest request that is agreed on with the kernel, and its headers.
const LENGTH: usize = MAX_IO as usize + (8 << 10);
/// Buffers that are kept for later; what is above goes when it was used.
const KEPT: usize = 4;
/// Bytes from which on those of a request stay where they were read instead of being copied.
const WORTH_A_BUFFER: usize = MAX_IO as usize / 8;

/// Buffers that nobody uses just now.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Vec<Vec<u8>>>);

impl Pool {
    fn take(&self) -> Vec<u8> {
        // Filled with ones, not with zeros, so that its pages are in memory: the kernel ends a request with EIO if its
        // reader is killed while pages of the reader's buffer still have to be made.
        self.0.lock().pop().unwrap_or_else(|| vec![0xff; LENGTH])
    }

    fn put(&self, buffer: Vec<u8>) {
        let mut kept = self.0.lock();
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }

    /// Gives back what is not in use.
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }
}

/// A request as it was read, or the place for one.
#[derive(Debug)]
pub(super) struct Message {
    buffer: Vec<u8>,
    length: usize,
    pool: Arc<Pool>,
}

impl Message {
    /// A place for the next request.
    pub(super) fn place(pool: &Arc<Pool>) -> Message {
        Message { buffer: pool.take(), length: 0, pool: pool.clone() }
    }

    /// All of the place, for the kernel to write to.
    pub(super) fn space(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// Says how much the kernel has written.
    pub(super) fn filled(&mut self, length: usize) {
        self.length = length;
    }

    /// The request.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// A part of it to keep: many bytes with the buffer, few as a copy.
    pub(super) fn keep(self, part: Range<usize>) -> Bytes {
        if part.len() < WORTH_A_BUFFER { Bytes::copy_from_slice(&self.bytes()[part]) } else { Bytes::from_owner(self).slice(part) }
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(pool: &Pool) -> usize {
        pool.0.lock().len()
    }

    #[test]
    fn buffers_come_back_when_the_last_part_of_a_request_is_gone_and_few_are_kept() {
        let pool = Arc::new(Pool::default());
        let mut message = Message::place(&pool);
        message.space()[..MAX_IO as usize].fill(7);
        message.filled(MAX_IO as usize);
        let many = message.keep(100..MAX_IO as usize);
        assert_eq!((many.len(), many[0], kept(&pool)), (MAX_IO as usize - 100, 7, 0), "its bytes lie in the buffer");
        drop(many);
        assert_eq!(kept(&pool), 1);

        let mut message = Message::place(&pool);
        assert_eq!(kept(&pool), 0, "the same one");
        message.filled(4096);
        let few = message.keep(40..4096);
        assert_eq!((few.len(), kept(&pool)), (4056, 1), "a copy");

        drop((0..9).map(|_| Message::place(&pool)).collect::<Vec<_>>());
        assert_eq!(kept(&pool), KEPT);
        pool.clear();
        assert_eq!(kept(&pool), 0);
    }

    #[test]
    fn a_buffer_is_in_memory_before_it_is_used() {
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
            statm.split(' ').nth(1).expect("a field").parse::<usize>().expect("a number") * 4096
        };
        let before = resident();
        let buffers: Vec<Vec<u8>> = (0..32).map(|_| Pool::default().take()).collect();
        let with = resident();
        assert!(with > before + 24 * LENGTH, "{before} then {with}");
        drop(buffers);
    }
}
