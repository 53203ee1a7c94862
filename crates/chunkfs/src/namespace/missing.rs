//! What stands where a damaged table may have had rows of a file's blocks: blocks that nobody can read, and not a hole.

use crate::chunk::{Chunk, Run};
use crate::key::{CHUNK_BLOCKS, Key};
use crate::row::Row;
use crate::types::Ino;
use std::ops::Range;
use std::sync::Arc;

/// The segment of blocks of which nobody knows where they are. No row is ever of it.
pub(crate) const NOWHERE: u64 = u64::MAX;

/// Keys of chunks, from one up to and including another: a row of theirs that is not there may have been lost. In order, and
/// none in two of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Missing(Arc<[(Key, Key)]>);

impl Missing {
    pub(crate) fn among(spans: Vec<(Key, Key)>) -> Missing {
        Missing(spans.into())
    }

    /// The first span that does not end before a key.
    fn span(&self, key: Key) -> Option<(Key, Key)> {
        let n = self.0.partition_point(|(_, to)| *to < key);
        self.0.get(n).copied()
    }

    /// What stands for a row that is not there.
    pub(crate) fn stand_in(&self, key: Key) -> Option<Row> {
        let (Key::Chunk(..), Some((from, _))) = (key, self.span(key)) else { return None };
        (from <= key).then(|| Row::Chunk(Arc::new(unreadable())))
    }

    /// The first chunks of a file, from one on, whose rows may be missing if they are not there.
    pub(crate) fn stretch(&self, ino: Ino, chunk: u64) -> Option<Range<u64>> {
        let at = Key::Chunk(ino, chunk);
        let (from, to) = self.span(at)?;
        let start = match from {
            from if from <= at => chunk,
            Key::Chunk(i, c) if i == ino => c,
            _ => return None,
        };
        let end = match to {
            Key::Chunk(i, c) if i == ino => c.saturating_add(1),
            _ => u64::MAX,
        };
        Some(start..end)
    }
}

fn unreadable() -> Chunk {
    let len = CHUNK_BLOCKS as u16;
    Chunk { runs: vec![Run { start: 0, len, segment: NOWHERE, at: 0, crcs: vec![0; usize::from(len)] }] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_have_been_lost_stands_in() {
        let chunk = Key::Chunk;
        let missing = Missing::among(vec![(chunk(3, 2), chunk(3, 4)), (chunk(5, 7), chunk(9, u64::MAX))]);
        for (key, is_missing) in [
            (chunk(3, 1), false),
            (chunk(3, 2), true),
            (chunk(3, 4), true),
            (chunk(3, 5), false),
            (chunk(5, 6), false),
            (chunk(7, 0), true),
            (chunk(9, 1 << 40), true),
            (chunk(10, 0), false),
            (Key::Inode(7), false),
        ] {
            assert_eq!(missing.stand_in(key).is_some(), is_missing, "{key:?}");
        }
        assert_eq!(missing.stretch(3, 0), Some(2..5));
        assert_eq!(missing.stretch(3, 3), Some(3..5));
        assert_eq!(missing.stretch(3, 5), None);
        assert_eq!(missing.stretch(4, 0), None);
        assert_eq!(missing.stretch(5, 0), Some(7..u64::MAX));
        assert_eq!(missing.stretch(6, 3), Some(3..u64::MAX));
        assert_eq!(missing.stretch(10, 0), None);
        assert!(Missing::default().stand_in(chunk(3, 2)).is_none() && Missing::default().stretch(3, 2).is_none());
    }
}
