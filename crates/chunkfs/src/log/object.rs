//! The bytes of a log object: records as the journal has them, with the data blocks that they name, or a fence.
//!
//! One checksum covers the whole object, so any other byte than was written is found before anything is applied.
//! A fence stands where the writer before would have gone on, and says which writer goes on instead.

use super::Place;
use crate::change::Record;
use crate::codec::{Decoded, Malformed, Reader, put_bytes, put_varint};
use crate::journal::parse_frames;
use crate::types::BLOCK;
use bytes::Bytes;

const MAGIC: &[u8; 8] = b"ORLOPL01";
const RECORDS: u8 = 1;
const FENCE: u8 = 2;
/// Records, and how far the log had arrived when they were sent. Format 1 of the log did not say.
const RECORDS_SINCE: u8 = 3;
const B: usize = BLOCK as usize;

/// Blocks of a segment that travel in a log object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) segment: u64,
    pub(crate) id: [u8; 16],
    pub(crate) at: u32,
    pub(crate) blocks: u32,
}

/// What every log object begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) volume: [u8; 16],
    pub(crate) place: Place,
    /// Tells an object from another attempt at the same place.
    pub(crate) nonce: [u8; 16],
}

/// A log object as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) head: Head,
    pub(crate) body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// Records by number, and data.
    /// Everything at places below `arrived` was in the store when it was made; 0 if it does not say.
    Records { records: Vec<(u64, Record)>, extents: Vec<(Extent, Bytes)>, arrived: u64 },
    /// The writer of this epoch goes on, after this number.
    Fence { next_epoch: u64 },
}

fn begin(head: &Head, kind: u8, capacity: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity + 128);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&head.volume);
    out.extend_from_slice(&head.place.epoch.to_le_bytes());
    out.extend_from_slice(&head.place.n.to_le_bytes());
    out.extend_from_slice(&head.nonce);
    out.push(kind);
    out
}

fn end(mut out: Vec<u8>) -> Bytes {
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.into()
}

/// An object of records: `frames` as the journal writes them, the first of them number `first`. `fill` appends the
/// data of the extents, in their order. Everything at places below `arrived` is in the store.
pub(crate) fn encode_records<E>(
    head: &Head,
    arrived: u64,
    first: u64,
    frames: &[u8],
    extents: &[Extent],
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<Bytes, E> {
    let data: usize = extents.iter().map(|e| e.blocks as usize * B).sum();
    let mut out = begin(head, RECORDS_SINCE, frames.len() + extents.len() * 32 + data);
    put_varint(&mut out, arrived);
    put_varint(&mut out, first);
    put_bytes(&mut out, frames);
    put_varint(&mut out, extents.len() as u64);
    for e in extents {
        put_varint(&mut out, e.segment);
        out.extend_from_slice(&e.id);
        put_varint(&mut out, u64::from(e.at));
        put_varint(&mut out, u64::from(e.blocks));
    }
    let before = out.len();
    fill(&mut out)?;
    debug_assert_eq!(out.len() - before, data);
    Ok(end(out))
}

/// The object by which a new writer ends the chain of the one before.
pub(crate) fn encode_fence(head: &Head, next_epoch: u64) -> Bytes {
    let mut out = begin(head, FENCE, 16);
    put_varint(&mut out, next_epoch);
    end(out)
}

/// Reads an object that is expected at a place of a volume.
pub(crate) fn decode(bytes: &Bytes, volume: [u8; 16], place: Place) -> Decoded<Object> {
    let body_len = bytes.len().checked_sub(4).ok_or(Malformed("length"))?;
    let crc = u32::from_le_bytes(bytes[body_len..].try_into().expect("four bytes are left"));
    if crc32c::crc32c(&bytes[..body_len]) != crc {
        return Err(Malformed("checksum"));
    }
    let mut r = Reader::new(&bytes[..body_len]);
    if r.take(8)? != MAGIC {
        return Err(Malformed("magic"));
    }
    let head = Head {
        volume: r.take(16)?.try_into().expect("sixteen bytes were taken"),
        place: Place { epoch: r.u64()?, n: r.u64()? },
        nonce: r.take(16)?.try_into().expect("sixteen bytes were taken"),
    };
    if head.volume != volume || head.place != place {
        return Err(Malformed("place"));
    }
    let body = match r.u8()? {
        FENCE => {
            let next_epoch = r.varint()?;
            if next_epoch <= place.epoch {
                return Err(Malformed("fence"));
            }
            Body::Fence { next_epoch }
        }
        kind @ (RECORDS | RECORDS_SINCE) => {
            let arrived = if kind == RECORDS { 0 } else { r.varint()? };
            if arrived > place.n {
                return Err(Malformed("arrived"));
            }
            let first = r.varint()?;
            let frames = r.bytes()?;
            let records = parse_frames(frames, first).ok_or(Malformed("records"))?;
            let mut extents = Vec::new();
            for _ in 0..r.varint()? {
                let segment = r.varint()?;
                let id = r.take(16)?.try_into().expect("sixteen bytes were taken");
                let at = u32::try_from(r.varint()?).map_err(|_| Malformed("extent"))?;
                let blocks = u32::try_from(r.varint()?).map_err(|_| Malformed("extent"))?;
                extents.push(Extent { segment, id, at, blocks });
            }
            let mut with_data = Vec::with_capacity(extents.len());
            for e in extents {
                let data = r.take((e.blocks as usize).checked_mul(B).ok_or(Malformed("extent"))?)?;
                with_data.push((e, bytes.slice_ref(data)));
            }
            Body::Records { records, extents: with_data, arrived }
        }
        _ => return Err(Malformed("kind")),
    };
    r.end()?;
    Ok(Object { head, body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;
    use crate::journal::encode_frame;
    use crate::key::Key;
    use std::convert::Infallible;

    fn head() -> Head {
        Head { volume: [3; 16], place: Place { epoch: 7, n: 9 }, nonce: [5; 16] }
    }

    #[test]
    fn objects_round_trip_and_every_flipped_byte_is_found() {
        let record = |n| Record { request: n, answer: 0, changes: vec![Change::Delete(Key::Inode(n))] };
        let mut frames = Vec::new();
        for n in 5..8 {
            encode_frame(&mut frames, n, &record(n));
        }
        let extents = [Extent { segment: 4, id: [1; 16], at: 17, blocks: 2 }, Extent { segment: 6, id: [2; 16], at: 0, blocks: 1 }];
        let data: Vec<u8> = (0..3 * B).map(|i| (i / 7) as u8).collect();
        let bytes = encode_records(&head(), 9, 5, &frames, &extents, |out| {
            out.extend_from_slice(&data);
            Ok::<(), Infallible>(())
        })
        .expect("infallible");
        let object = decode(&bytes, [3; 16], head().place).expect("encoded");
        assert_eq!(object.head, head());
        let Body::Records { records, extents: found, arrived } = object.body else { panic!("records") };
        assert_eq!(arrived, 9);
        assert_eq!(records, (5..8).map(|n| (n, record(n))).collect::<Vec<_>>());
        assert_eq!(found.iter().map(|(e, _)| *e).collect::<Vec<_>>(), extents);
        assert_eq!(found.iter().flat_map(|(_, d)| d.to_vec()).collect::<Vec<_>>(), data);
        let fence = encode_fence(&head(), 8);
        assert_eq!(decode(&fence, [3; 16], head().place).expect("encoded").body, Body::Fence { next_epoch: 8 });
        for whole in [&bytes[..], &fence[..]] {
            for i in 0..whole.len() {
                let mut bad = whole.to_vec();
                bad[i] ^= 0x20;
                assert!(decode(&bad.into(), [3; 16], head().place).is_err(), "byte {i}");
            }
            for cut in 0..whole.len() {
                assert!(decode(&Bytes::copy_from_slice(&whole[..cut]), [3; 16], head().place).is_err(), "cut at {cut}");
            }
        }
        assert!(decode(&bytes, [4; 16], head().place).is_err(), "another volume");
        assert!(decode(&bytes, [3; 16], head().place.next()).is_err(), "another place");
    }

    #[test]
    fn names_sort_by_number_and_round_trip() {
        let place = Place { epoch: 0x1_2345_6789, n: 255 };
        let path = place.path("volumes/x");
        let name = path.filename().expect("a name");
        assert_eq!(Place::parse(name), Some(place));
        assert!(Place::FIRST.path("p") < Place { epoch: 0, n: 16 }.path("p"));
        assert_eq!(Place::parse("x-1"), None);
    }
}
