//! Between which keys of file contents rows may be missing: what tables have lost, less what is known to have been nothing.

use super::tables::{Level, Span};
use crate::key::Key;
use crate::namespace::Missing;
use crate::types::Ino;

/// The parts of spans, which are in order and apart, that lie within one.
pub(super) fn within(spans: &[Span], (from, to): Span) -> impl Iterator<Item = Span> {
    let first = spans.partition_point(|(_, end)| *end < from);
    spans[first..].iter().take_while(move |(begin, _)| *begin <= to).map(move |(begin, end)| (from.max(*begin), to.min(*end)))
}

/// The same keys, in order and apart.
pub(super) fn merged(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut apart: Vec<Span> = Vec::with_capacity(spans.len());
    for (from, to) in spans {
        match apart.last_mut() {
            Some((_, end)) if from <= *end => *end = to.max(*end),
            _ => apart.push((from, to)),
        }
    }
    apart
}

/// Gathers where rows of chunks may be missing, inode by inode in their order.
pub(super) struct Gaps {
    /// What any level has lost of such rows.
    lost: Vec<Span>,
    /// Of the inodes from this one on nothing is known yet.
    next: Ino,
    found: Vec<Span>,
}

impl Gaps {
    pub(super) fn of(levels: &[Level]) -> Gaps {
        let all = (Key::Chunk(0, 0), Key::Chunk(u64::MAX, u64::MAX));
        let lost = levels.iter().flat_map(|level| within(&level.holes, all)).collect();
        Gaps { lost: merged(lost), next: 0, found: Vec::new() }
    }

    /// Of this inode, which comes behind all before, `missing` is what may be missing. Of one that was passed over all that was lost may be.
    pub(super) fn known(&mut self, ino: Ino, missing: Vec<Span>) {
        if let Some(last) = ino.checked_sub(1).filter(|last| *last >= self.next) {
            self.pass(last);
        }
        self.found.extend(missing);
        self.next = ino.saturating_add(1);
    }

    fn pass(&mut self, last: Ino) {
        self.found.extend(within(&self.lost, (Key::Chunk(self.next, 0), Key::Chunk(last, u64::MAX))));
    }

    pub(super) fn end(mut self) -> Missing {
        self.pass(Ino::MAX);
        Missing::among(self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_an_inode_stands_for_what_was_lost() {
        let chunk = Key::Chunk;
        let level = |holes| Level { tables: Vec::new(), holes };
        let levels = [
            level(vec![(Key::Inode(3), Key::Inode(9)), (Key::Dirent(7, 7), chunk(4, 1))]),
            level(vec![(chunk(3, 0), chunk(6, 2)), (chunk(9, 0), Key::Segment(1))]),
        ];
        let mut gaps = Gaps::of(&levels);
        assert_eq!(gaps.lost, [(chunk(0, 0), chunk(6, 2)), (chunk(9, 0), chunk(u64::MAX, u64::MAX))]);
        gaps.known(1, Vec::new());
        gaps.known(2, vec![(chunk(2, 1), chunk(2, 3))]);
        gaps.known(8, Vec::new());
        gaps.known(10, Vec::new());
        let missing = gaps.end();
        for (key, is_missing) in [
            (chunk(0, 5), true),
            (chunk(1, 5), false),
            (chunk(2, 2), true),
            (chunk(2, 4), false),
            (chunk(3, 99), true),
            (chunk(6, 2), true),
            (chunk(6, 3), false),
            (chunk(8, 0), false),
            (chunk(9, 0), true),
            (chunk(10, 0), false),
            (chunk(1 << 40, 0), true),
        ] {
            assert_eq!(missing.stand_in(key).is_some(), is_missing, "{key:?}");
        }
    }
}
