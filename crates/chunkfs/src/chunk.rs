//! Where 256 blocks of a file are: runs of blocks in segments, each block with its checksum.
//!
//! Runs are sorted, never overlap and never touch beyond the chunk. Segment 0 means reserved: allocated,
//! read as zeros. Blocks in no run are holes.

use crate::codec::{Decoded, Malformed, Reader, put_varint};
use crate::key::CHUNK_BLOCKS;

/// A stretch of blocks that lie one after the other in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// First block within the chunk.
    pub(crate) start: u16,
    /// Number of blocks, at least 1.
    pub(crate) len: u16,
    /// Which segment; 0 is reserved space.
    pub(crate) segment: u64,
    /// First block within the segment.
    pub(crate) at: u32,
    /// CRC-32C of each block; empty for reserved space.
    pub(crate) crcs: Vec<u32>,
}

impl Run {
    pub(crate) fn end(&self) -> u16 {
        self.start + self.len
    }

    pub(crate) fn reserved(start: u16, len: u16) -> Run {
        Run { start, len, segment: 0, at: 0, crcs: Vec::new() }
    }

    /// The part of the run between two block numbers of the chunk, which must overlap it.
    pub(crate) fn part(&self, from: u16, to: u16) -> Run {
        let (from, to) = (from.max(self.start), to.min(self.end()));
        debug_assert!(from < to);
        let skip = from - self.start;
        let len = to - from;
        let crcs = if self.segment == 0 { Vec::new() } else { self.crcs[usize::from(skip)..usize::from(skip + len)].to_vec() };
        Run { start: from, len, segment: self.segment, at: if self.segment == 0 { 0 } else { self.at + u32::from(skip) }, crcs }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) runs: Vec<Run>,
}

impl Chunk {
    /// Parts of runs that overlap the given blocks.
    pub(crate) fn overlapping(&self, from: u16, to: u16) -> impl Iterator<Item = &Run> {
        let first = self.runs.partition_point(|r| r.end() <= from);
        self.runs[first..].iter().take_while(move |r| r.start < to)
    }

    /// How many of the given blocks are allocated.
    pub(crate) fn allocated(&self, from: u16, to: u16) -> u64 {
        self.overlapping(from, to).map(|r| u64::from(r.end().min(to) - r.start.max(from))).sum()
    }

    /// The run that holds a block.
    pub(crate) fn at(&self, block: u16) -> Option<&Run> {
        self.overlapping(block, block + 1).next()
    }

    /// Takes the given blocks out and returns what was there.
    pub(crate) fn clear(&mut self, from: u16, to: u16) -> Vec<Run> {
        let first = self.runs.partition_point(|r| r.end() <= from);
        let last = self.runs.partition_point(|r| r.start < to);
        if first >= last {
            return Vec::new();
        }
        let removed: Vec<Run> = self.runs[first..last].iter().map(|r| r.part(from, to)).collect();
        let mut keep = Vec::with_capacity(2);
        if self.runs[first].start < from {
            keep.push(self.runs[first].part(0, from));
        }
        if self.runs[last - 1].end() > to {
            keep.push(self.runs[last - 1].part(to, CHUNK_BLOCKS as u16));
        }
        self.runs.splice(first..last, keep);
        removed
    }

    /// Puts a run in place of what was there, which is returned.
    pub(crate) fn set(&mut self, run: Run) -> Vec<Run> {
        let removed = self.clear(run.start, run.end());
        let at = self.runs.partition_point(|r| r.start < run.start);
        if at > 0 {
            let before = &mut self.runs[at - 1];
            let joins = before.end() == run.start
                && before.segment == run.segment
                && (run.segment == 0 || before.at + u32::from(before.len) == run.at);
            if joins {
                before.len += run.len;
                before.crcs.extend_from_slice(&run.crcs);
                return removed;
            }
        }
        self.runs.insert(at, run);
        removed
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Bytes of memory it takes, roughly.
    pub(crate) fn weight(&self) -> usize {
        48 + self.runs.iter().map(|r| 56 + 4 * r.crcs.len()).sum::<usize>()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.runs.len() as u64);
        for r in &self.runs {
            encode_run(out, r);
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Decoded<Chunk> {
        let n = r.varint()?;
        if n > CHUNK_BLOCKS {
            return Err(Malformed("chunk"));
        }
        let mut runs: Vec<Run> = Vec::with_capacity(n as usize);
        for _ in 0..n {
            let run = decode_run(r)?;
            if runs.last().is_some_and(|l| l.end() > run.start) {
                return Err(Malformed("chunk order"));
            }
            runs.push(run);
        }
        Ok(Chunk { runs })
    }
}

pub(crate) fn encode_run(out: &mut Vec<u8>, r: &Run) {
    out.push(r.start as u8);
    out.push((r.len - 1) as u8);
    put_varint(out, r.segment);
    if r.segment != 0 {
        put_varint(out, u64::from(r.at));
        for c in &r.crcs {
            out.extend_from_slice(&c.to_le_bytes());
        }
    }
}

pub(crate) fn decode_run(r: &mut Reader<'_>) -> Decoded<Run> {
    let start = u16::from(r.u8()?);
    let len = u16::from(r.u8()?) + 1;
    if u64::from(start) + u64::from(len) > CHUNK_BLOCKS {
        return Err(Malformed("run"));
    }
    let segment = r.varint()?;
    if segment == 0 {
        return Ok(Run::reserved(start, len));
    }
    let at = u32::try_from(r.varint()?).map_err(|_| Malformed("run"))?;
    if at.checked_add(u32::from(len)).is_none() {
        return Err(Malformed("run"));
    }
    let raw = r.take(4 * usize::from(len))?;
    let crcs = raw.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("chunks of four"))).collect();
    Ok(Run { start, len, segment, at, crcs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u16, len: u16, segment: u64, at: u32) -> Run {
        Run { start, len, segment, at, crcs: (0..len).map(|i| u32::from(i) + at * 1000).collect() }
    }

    #[test]
    fn setting_and_clearing_matches_a_plain_array() {
        let mut seed = 12345u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        let mut chunk = Chunk::default();
        let mut plain: Vec<Option<(u64, u32)>> = vec![None; 256];
        for step in 1..2000u64 {
            let start = next(256) as u16;
            let len = 1 + next(u64::from(256 - start)) as u16;
            match next(3) {
                0 => {
                    chunk.clear(start, start + len);
                    plain[usize::from(start)..usize::from(start + len)].fill(None);
                }
                1 => {
                    chunk.set(Run::reserved(start, len));
                    plain[usize::from(start)..usize::from(start + len)].fill(Some((0, 0)));
                }
                _ => {
                    chunk.set(run(start, len, step, 7));
                    for i in 0..len {
                        plain[usize::from(start + i)] = Some((step, 7 + u32::from(i)));
                    }
                }
            }
            for b in 0..256u16 {
                let got = chunk.at(b).map(|r| (r.segment, if r.segment == 0 { 0 } else { r.at + u32::from(b - r.start) }));
                assert_eq!(got, plain[usize::from(b)], "block {b} after step {step}");
            }
            assert_eq!(chunk.allocated(0, 256), plain.iter().flatten().count() as u64);
            let mut out = Vec::new();
            chunk.encode(&mut out);
            let mut r = Reader::new(&out);
            assert_eq!(Chunk::decode(&mut r).expect("encoded"), chunk);
            r.end().expect("whole");
        }
    }

    #[test]
    fn neighbours_in_a_segment_join() {
        let mut c = Chunk::default();
        c.set(run(0, 4, 9, 100));
        c.set(run(4, 4, 9, 104));
        assert_eq!(c.runs.len(), 1);
        c.set(run(8, 1, 9, 50));
        assert_eq!(c.runs.len(), 2);
    }
}
