//! What one journal record changes: whole rows, block mappings, and small writes with their bytes.
//!
//! Every value is absolute, counters included, so that applying the records of a journal twice, in order,
//! ends in the same state as applying them once.

use crate::chunk::{Run, decode_run, encode_run};
use crate::codec::{Decoded, Malformed, Reader, put_bytes, put_varint};
use crate::key::{CHUNK_BLOCKS, Key};
use crate::row::Row;
use crate::types::{BLOCK, Ino};
use bytes::Bytes;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Put(Key, Row),
    Delete(Key),
    /// These blocks of a chunk are now in this run. Small writes pending in them are superseded.
    Map {
        ino: Ino,
        chunk: u64,
        run: Run,
    },
    /// These blocks of a chunk are now a hole. Small writes pending in them are superseded.
    Unmap {
        ino: Ino,
        chunk: u64,
        from: u16,
        to: u16,
    },
    /// Bytes within one block; the block was allocated before.
    Patch {
        ino: Ino,
        block: u64,
        offset: u16,
        bytes: Bytes,
    },
}

/// One atomic step of the volume's history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Record {
    /// The kernel's number of the request that caused it, 0 if none.
    pub(crate) request: u64,
    /// The inode that the request made, 0 if none: the answer when the request comes again.
    pub(crate) answer: u64,
    pub(crate) changes: Vec<Change>,
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
const MAP: u8 = 3;
const UNMAP: u8 = 4;
const PATCH: u8 = 5;

impl Record {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.request);
        put_varint(out, self.answer);
        put_varint(out, self.changes.len() as u64);
        for c in &self.changes {
            match c {
                Change::Put(key, row) => {
                    out.push(PUT);
                    put_bytes(out, &key.encode());
                    put_bytes(out, &row.encode());
                }
                Change::Delete(key) => {
                    out.push(DELETE);
                    put_bytes(out, &key.encode());
                }
                Change::Map { ino, chunk, run } => {
                    out.push(MAP);
                    put_varint(out, *ino);
                    put_varint(out, *chunk);
                    encode_run(out, run);
                }
                Change::Unmap { ino, chunk, from, to } => {
                    out.push(UNMAP);
                    put_varint(out, *ino);
                    put_varint(out, *chunk);
                    out.extend_from_slice(&from.to_le_bytes());
                    out.extend_from_slice(&to.to_le_bytes());
                }
                Change::Patch { ino, block, offset, bytes } => {
                    out.push(PATCH);
                    put_varint(out, *ino);
                    put_varint(out, *block);
                    out.extend_from_slice(&offset.to_le_bytes());
                    put_bytes(out, bytes);
                }
            }
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Decoded<Record> {
        let mut r = Reader::new(bytes);
        let request = r.varint()?;
        let answer = r.varint()?;
        let n = r.varint()?;
        let mut changes = Vec::new();
        for _ in 0..n {
            changes.push(match r.u8()? {
                PUT => {
                    let key = Key::decode(r.bytes()?)?;
                    Change::Put(key, Row::decode(key, r.bytes()?)?)
                }
                DELETE => Change::Delete(Key::decode(r.bytes()?)?),
                MAP => Change::Map { ino: r.varint()?, chunk: r.varint()?, run: decode_run(&mut r)? },
                UNMAP => {
                    let (ino, chunk, from, to) = (r.varint()?, r.varint()?, r.u16()?, r.u16()?);
                    if from >= to || u64::from(to) > CHUNK_BLOCKS {
                        return Err(Malformed("unmap"));
                    }
                    Change::Unmap { ino, chunk, from, to }
                }
                PATCH => {
                    let (ino, block, offset) = (r.varint()?, r.varint()?, r.u16()?);
                    let bytes = Bytes::copy_from_slice(r.bytes()?);
                    if u64::from(offset) + bytes.len() as u64 > BLOCK {
                        return Err(Malformed("patch"));
                    }
                    Change::Patch { ino, block, offset, bytes }
                }
                _ => return Err(Malformed("change")),
            });
        }
        r.end()?;
        Ok(Record { request, answer, changes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Super;

    #[test]
    fn records_round_trip_and_cut_ones_are_refused() {
        let rec = Record {
            request: 77,
            answer: 1 << 40,
            changes: vec![
                Change::Put(Key::Super, Row::Super(Super::default())),
                Change::Delete(Key::Inode(4)),
                Change::Map { ino: 3, chunk: 9, run: Run { start: 250, len: 2, segment: 8, at: 70000, crcs: vec![1, 2] } },
                Change::Map { ino: 3, chunk: 9, run: Run::reserved(0, 256) },
                Change::Unmap { ino: 3, chunk: 9, from: 1, to: 256 },
                Change::Patch { ino: 3, block: 1 << 33, offset: 4095, bytes: Bytes::from_static(b"x") },
            ],
        };
        let mut out = Vec::new();
        rec.encode(&mut out);
        assert_eq!(Record::decode(&out).expect("encoded"), rec);
        for cut in 0..out.len() {
            assert!(Record::decode(&out[..cut]).is_err(), "cut at {cut}");
        }
    }
}
