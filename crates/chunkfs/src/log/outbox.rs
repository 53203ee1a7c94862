//! What was committed and is not in the store's log yet: the records as bytes, and which blocks they name.

use crate::change::{Change, Record};
use crate::types::BLOCK;
use std::collections::BTreeMap;

/// Records and blocks that wait to be sent. Kept in memory: its size is bounded by whoever admits changes.
#[derive(Debug)]
pub(crate) struct Outbox {
    frames: Vec<u8>,
    /// Numbers of the first and last record in it; `last + 1 == first` if there is none.
    first: u64,
    last: u64,
    /// Blocks by segment and first block, neither overlapping nor touching.
    extents: BTreeMap<(u64, u32), u32>,
    /// Bytes of the blocks that records named since the last parcel, each time they did.
    named: u64,
    /// Bytes of what was taken and is not known to be in the store.
    in_flight: u64,
}

/// What one log object will carry.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) frames: Vec<u8>,
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Segment, first block, blocks.
    pub(crate) extents: Vec<(u64, u32, u32)>,
    /// What it counts for in `unsent`.
    pub(crate) weight: u64,
}

/// The blocks that a record names: segment, first block, blocks.
pub(crate) fn named(record: &Record) -> Vec<(u64, u32, u32)> {
    let of = |change: &Change| match change {
        Change::Map { run, .. } if run.segment != 0 => Some((run.segment, run.at, u32::from(run.len))),
        _ => None,
    };
    record.changes.iter().filter_map(of).collect()
}

impl Outbox {
    /// Empty; the next record has number `next`.
    pub(crate) fn new(next: u64) -> Outbox {
        Outbox { frames: Vec::new(), first: next, last: next - 1, extents: BTreeMap::new(), named: 0, in_flight: 0 }
    }

    /// Adds the next record, of which `frame` are the journal's bytes.
    pub(crate) fn push(&mut self, seq: u64, frame: &[u8], record: &Record) {
        self.push_named(seq, frame, &named(record));
    }

    /// The same with what the record named.
    pub(crate) fn push_named(&mut self, seq: u64, frame: &[u8], named: &[(u64, u32, u32)]) {
        debug_assert_eq!(seq, self.last + 1);
        self.frames.extend_from_slice(frame);
        self.last = seq;
        for (segment, at, blocks) in named {
            self.add(*segment, *at, *blocks);
        }
    }

    fn add(&mut self, segment: u64, at: u32, blocks: u32) {
        self.named += u64::from(blocks) * BLOCK;
        let (mut from, mut to) = (at, at + blocks);
        // Those that overlap or touch become one.
        while let Some((&(_, start), &len)) = self.extents.range((segment, 0)..=(segment, to)).next_back() {
            if start + len < from {
                break;
            }
            self.extents.remove(&(segment, start));
            from = from.min(start);
            to = to.max(start + len);
        }
        self.extents.insert((segment, from), to - from);
    }

    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.last < self.first
    }

    /// Bytes of records that wait.
    pub(crate) fn record_bytes(&self) -> usize {
        self.frames.len()
    }

    /// Bytes of blocks that were named since the last parcel, those overwritten since included.
    pub(crate) fn named_bytes(&self) -> u64 {
        self.named
    }

    /// Segments with blocks that wait, with their number.
    pub(crate) fn segments(&self) -> BTreeMap<u64, u64> {
        let mut out = BTreeMap::new();
        for ((segment, _), blocks) in &self.extents {
            *out.entry(*segment).or_default() += u64::from(*blocks);
        }
        out
    }

    /// Bytes that a loss of this host would take.
    pub(crate) fn unsent(&self) -> u64 {
        self.frames.len() as u64 + self.extents.values().map(|n| u64::from(*n) * BLOCK).sum::<u64>() + self.in_flight
    }

    /// Takes everything.
    pub(crate) fn take(&mut self) -> Parcel {
        let extents: Vec<_> = std::mem::take(&mut self.extents).into_iter().map(|((s, at), n)| (s, at, n)).collect();
        let frames = std::mem::take(&mut self.frames);
        let weight = frames.len() as u64 + extents.iter().map(|(_, _, n)| u64::from(*n) * BLOCK).sum::<u64>();
        self.in_flight += weight;
        self.named = 0;
        let parcel = Parcel { frames, first: self.first, last: self.last, extents, weight };
        self.first = self.last + 1;
        parcel
    }

    /// A parcel has arrived.
    pub(crate) fn arrived(&mut self, weight: u64) {
        self.in_flight = self.in_flight.saturating_sub(weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_that_touch_become_one() {
        let mut o = Outbox::new(1);
        for (at, n) in [(10, 2), (20, 5), (12, 8), (0, 1), (24, 3), (3, 40)] {
            o.add(7, at, n);
        }
        o.add(8, 43, 1);
        assert_eq!(o.segments(), BTreeMap::from([(7, 41), (8, 1)]));
        assert_eq!(o.named_bytes(), 60 * BLOCK);
        let parcel = o.take();
        assert_eq!(parcel.extents, [(7, 0, 1), (7, 3, 40), (8, 43, 1)]);
        assert_eq!(o.unsent(), 42 * BLOCK);
        o.arrived(parcel.weight);
        assert_eq!((o.unsent(), o.named_bytes(), o.is_empty()), (0, 0, true));
    }
}
