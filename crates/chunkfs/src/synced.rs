//! Which files somebody waits for again and again, and what of them is worth going into the journal whole: the few
//! blocks between two syncs, which then are one file of the host's to sync and not two. What is written in bulk between them is
//! written once, to a segment.

use crate::types::Ino;
use std::collections::VecDeque;

/// Files that are remembered.
const FILES: usize = 32;
/// The longest write that goes into the journal.
const SMALL: usize = 16 << 10;
/// Bytes of all files since the last sync.
const BETWEEN: usize = 64 << 10;

#[derive(Debug, Default)]
pub(crate) struct Synced {
    /// The last one last.
    files: VecDeque<Ino>,
    since: usize,
}

impl Synced {
    /// Notes that somebody waits for a file's changes to be durable, and is likely to do so again.
    pub(crate) fn note(&mut self, ino: Ino) {
        self.since = 0;
        if self.files.back() != Some(&ino) {
            self.files.retain(|i| *i != ino);
            self.files.push_back(ino);
            if self.files.len() > FILES {
                self.files.pop_front();
            }
        }
    }

    /// Whether a write of so many bytes is to go into the journal, which counts it.
    pub(crate) fn takes(&mut self, ino: Ino, bytes: usize) -> bool {
        if bytes > SMALL || self.since + bytes > BETWEEN || !self.files.contains(&ino) {
            return false;
        }
        self.since += bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_bytes_of_a_file_that_was_synced_of_late_are_taken_and_a_flood_is_not() {
        let mut s = Synced::default();
        assert!(!s.takes(7, 1), "never synced");
        s.note(7);
        assert!(!s.takes(7, SMALL + 1) && !s.takes(8, 1));
        let taken = (0..100).filter(|_| s.takes(7, 4096)).count();
        assert_eq!(taken, BETWEEN / 4096);
        s.note(8);
        assert!(s.takes(7, 4096) && s.takes(8, 4096), "a sync begins anew");
        (100..100 + FILES as u64).for_each(|ino| s.note(ino));
        assert!(!s.takes(7, 1) && s.takes(100, 1));
    }
}
