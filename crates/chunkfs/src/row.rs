//! Rows of the namespace and their bytes. Each starts with a version byte, so that one kind can change alone.

use crate::chunk::Chunk;
use crate::codec::{Decoded, Malformed, Reader, put_bytes, put_time, put_varint};
use crate::key::Key;
use crate::log::Place;
use crate::types::{Attr, BLOCK, FileKind, Ino, NAME_MAX, Time};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

const V1: u8 = 1;

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) kind: FileKind,
    pub(crate) perm: u32,
    pub(crate) nlink: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u32,
    /// Of a file its length, of a folder the number of entries, of a symlink the target's length.
    pub(crate) size: u64,
    /// Allocated blocks.
    pub(crate) blocks: u64,
    /// No block at or after this number was ever allocated since the last cut: bounds the chunk rows.
    pub(crate) extent_end: u64,
    pub(crate) atime: Time,
    pub(crate) mtime: Time,
    pub(crate) ctime: Time,
    pub(crate) crtime: Time,
    /// Of a folder the folder above; 0 otherwise.
    pub(crate) parent: Ino,
    /// Whether there is a row of extended attributes.
    pub(crate) has_xattrs: bool,
    /// Of a symlink.
    pub(crate) target: Bytes,
}

impl Inode {
    pub(crate) fn attr(&self, ino: Ino) -> Attr {
        let size = if self.kind == FileKind::Directory { BLOCK } else { self.size };
        let blocks = match self.kind {
            FileKind::Directory => BLOCK / 512,
            _ => self.blocks * (BLOCK / 512),
        };
        Attr {
            ino,
            kind: self.kind,
            perm: self.perm,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size,
            blocks,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            crtime: self.crtime,
        }
    }

    /// Takes off what would let a file run as its owner or group, as a change by others than root does. The group's bit
    /// without the right to execute means something else and stays.
    pub(crate) fn take_off_set_id(&mut self) {
        if !self.is_dir() {
            self.perm &= !if self.perm & 0o010 != 0 { 0o6000 } else { 0o4000 };
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dirent {
    pub(crate) ino: Ino,
    pub(crate) kind: FileKind,
    pub(crate) name: Bytes,
}

/// A segment: data blocks under one random id, written once and in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The random part of its name.
    pub(crate) id: [u8; 16],
    /// Blocks that the namespace refers to.
    pub(crate) live: u64,
    /// Set once it is in the store, whole: the file on the host is then only a copy.
    pub(crate) pack: Option<Pack>,
}

/// The object that a segment became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pack {
    /// Blocks in it, live or not.
    pub(crate) blocks: u32,
    /// Bytes of the object, before sealing.
    pub(crate) bytes: u64,
}

/// What has still to be done to an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Orphan {
    /// It has no name; it goes when the kernel forgets it.
    Unlinked,
    /// Its blocks from this one on were cut off and their rows have still to go.
    Cut { from: u64 },
}

/// Counters of the volume, changed in the same record as what they count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Super {
    pub(crate) next_ino: Ino,
    pub(crate) next_segment: u64,
    pub(crate) used_blocks: u64,
    pub(crate) inodes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Row {
    Applied(u64),
    LogStart(Place),
    Super(Super),
    Inode(Arc<Inode>),
    Dirent(Dirent),
    Chunk(Arc<Chunk>),
    Xattrs(Arc<BTreeMap<Bytes, Bytes>>),
    Segment(Segment),
    Orphan(Orphan),
}

pub(crate) fn kind_byte(k: FileKind) -> u8 {
    match k {
        FileKind::File => 1,
        FileKind::Directory => 2,
        FileKind::Symlink => 3,
        FileKind::Fifo => 4,
        FileKind::Socket => 5,
        FileKind::CharDevice => 6,
        FileKind::BlockDevice => 7,
    }
}

pub(crate) fn kind_of(b: u8) -> Decoded<FileKind> {
    Ok(match b {
        1 => FileKind::File,
        2 => FileKind::Directory,
        3 => FileKind::Symlink,
        4 => FileKind::Fifo,
        5 => FileKind::Socket,
        6 => FileKind::CharDevice,
        7 => FileKind::BlockDevice,
        _ => return Err(Malformed("file kind")),
    })
}

/// Bytes of memory that a row takes in a map, roughly, also one that is known to be absent: trees and tables are little more than half
/// full.
const PLACE: usize = (size_of::<Key>() + size_of::<Option<Row>>()) * 7 / 4;

/// Bytes of memory that a row in a map takes, with what it points to, roughly.
pub(crate) fn weight(row: Option<&Row>) -> usize {
    PLACE + row.map_or(0, Row::beside)
}

impl Row {
    /// Bytes of memory of what it points to, roughly.
    fn beside(&self) -> usize {
        const SHARED: usize = 32;
        match self {
            Row::Chunk(c) => SHARED + c.weight(),
            Row::Dirent(d) => SHARED + d.name.len(),
            Row::Xattrs(x) => SHARED + x.iter().map(|(k, v)| k.len() + v.len() + 96).sum::<usize>(),
            Row::Inode(i) => SHARED + size_of::<Inode>() + i.target.len(),
            Row::Applied(_) | Row::LogStart(_) | Row::Super(_) | Row::Segment(_) | Row::Orphan(_) => 0,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![V1];
        match self {
            Row::Applied(seq) => put_varint(&mut out, *seq),
            Row::LogStart(place) => {
                put_varint(&mut out, place.epoch);
                put_varint(&mut out, place.n);
            }
            Row::Super(s) => {
                for n in [s.next_ino, s.next_segment, s.used_blocks, s.inodes] {
                    put_varint(&mut out, n);
                }
            }
            Row::Inode(i) => {
                out.push(kind_byte(i.kind));
                out.push(u8::from(i.has_xattrs));
                for n in [i.perm, i.nlink, i.uid, i.gid, i.rdev] {
                    put_varint(&mut out, u64::from(n));
                }
                for n in [i.size, i.blocks, i.extent_end, i.parent] {
                    put_varint(&mut out, n);
                }
                for t in [i.atime, i.mtime, i.ctime, i.crtime] {
                    put_time(&mut out, t);
                }
                put_bytes(&mut out, &i.target);
            }
            Row::Dirent(d) => {
                put_varint(&mut out, d.ino);
                out.push(kind_byte(d.kind));
                out.extend_from_slice(&d.name);
            }
            Row::Chunk(c) => c.encode(&mut out),
            Row::Xattrs(x) => {
                put_varint(&mut out, x.len() as u64);
                for (k, v) in x.iter() {
                    put_bytes(&mut out, k);
                    put_bytes(&mut out, v);
                }
            }
            Row::Segment(s) => {
                out.extend_from_slice(&s.id);
                put_varint(&mut out, s.live);
                if let Some(p) = s.pack {
                    put_varint(&mut out, u64::from(p.blocks));
                    put_varint(&mut out, p.bytes);
                }
            }
            Row::Orphan(o) => match o {
                Orphan::Unlinked => out.push(0),
                Orphan::Cut { from } => {
                    out.push(1);
                    put_varint(&mut out, *from);
                }
            },
        }
        out
    }

    /// Reads the row that stands under `key`.
    pub(crate) fn decode(key: Key, bytes: &[u8]) -> Decoded<Row> {
        let mut r = Reader::new(bytes);
        if r.u8()? != V1 {
            return Err(Malformed("row version"));
        }
        let u32v = |r: &mut Reader<'_>| u32::try_from(r.varint()?).map_err(|_| Malformed("number"));
        let row = match key {
            Key::Applied => Row::Applied(r.varint()?),
            Key::LogStart => Row::LogStart(Place { epoch: r.varint()?, n: r.varint()? }),
            Key::Super => {
                Row::Super(Super { next_ino: r.varint()?, next_segment: r.varint()?, used_blocks: r.varint()?, inodes: r.varint()? })
            }
            Key::Inode(_) => {
                let kind = kind_of(r.u8()?)?;
                let has_xattrs = r.u8()? != 0;
                let inode = Inode {
                    kind,
                    has_xattrs,
                    perm: u32v(&mut r)?,
                    nlink: u32v(&mut r)?,
                    uid: u32v(&mut r)?,
                    gid: u32v(&mut r)?,
                    rdev: u32v(&mut r)?,
                    size: r.varint()?,
                    blocks: r.varint()?,
                    extent_end: r.varint()?,
                    parent: r.varint()?,
                    atime: r.time()?,
                    mtime: r.time()?,
                    ctime: r.time()?,
                    crtime: r.time()?,
                    target: Bytes::copy_from_slice(r.bytes()?),
                };
                Row::Inode(Arc::new(inode))
            }
            Key::Dirent(..) => {
                let ino = r.varint()?;
                let kind = kind_of(r.u8()?)?;
                let mut name = Vec::new();
                while !r.is_empty() {
                    name.push(r.u8()?);
                }
                if name.is_empty() || name.len() > NAME_MAX {
                    return Err(Malformed("name"));
                }
                Row::Dirent(Dirent { ino, kind, name: name.into() })
            }
            Key::Chunk(..) => Row::Chunk(Arc::new(Chunk::decode(&mut r)?)),
            Key::Xattrs(_) => {
                let n = r.varint()?;
                let mut map = BTreeMap::new();
                for _ in 0..n {
                    let k = Bytes::copy_from_slice(r.bytes()?);
                    let v = Bytes::copy_from_slice(r.bytes()?);
                    map.insert(k, v);
                }
                Row::Xattrs(Arc::new(map))
            }
            Key::Segment(_) => {
                let id = r.take(16)?.try_into().expect("sixteen bytes were taken");
                let live = r.varint()?;
                let pack = if r.is_empty() { None } else { Some(Pack { blocks: u32v(&mut r)?, bytes: r.varint()? }) };
                Row::Segment(Segment { id, live, pack })
            }
            Key::Orphan(_) => Row::Orphan(match r.u8()? {
                0 => Orphan::Unlinked,
                1 => Orphan::Cut { from: r.varint()? },
                _ => return Err(Malformed("orphan")),
            }),
        };
        r.end()?;
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_round_trip_and_survive_cut_bytes() {
        let inode = Inode {
            kind: FileKind::Symlink,
            perm: 0o7777,
            nlink: 3,
            uid: u32::MAX - 1,
            gid: 5,
            rdev: 77,
            size: u64::MAX,
            blocks: 1,
            extent_end: 9,
            atime: Time { sec: -5, nsec: 999_999_999 },
            mtime: Time::default(),
            ctime: Time { sec: i64::MAX, nsec: 0 },
            crtime: Time::default(),
            parent: 8,
            has_xattrs: true,
            target: Bytes::from_static(b"x/y"),
        };
        let xattrs = BTreeMap::from([(Bytes::from_static(b"user.a"), Bytes::new()), (Bytes::from_static(b"b"), Bytes::from_static(b"1"))]);
        let rows = [
            (Key::Applied, Row::Applied(1 << 60)),
            (Key::LogStart, Row::LogStart(Place { epoch: 3, n: 1 << 40 })),
            (Key::Super, Row::Super(Super { next_ino: 9, next_segment: 8, used_blocks: 7, inodes: 6 })),
            (Key::Inode(4), Row::Inode(Arc::new(inode))),
            (Key::Dirent(1, 8), Row::Dirent(Dirent { ino: 300, kind: FileKind::Fifo, name: Bytes::from_static(b"\xffname") })),
            (Key::Xattrs(4), Row::Xattrs(Arc::new(xattrs))),
            (Key::Segment(2), Row::Segment(Segment { id: [7; 16], live: 12, pack: None })),
            (Key::Segment(2), Row::Segment(Segment { id: [7; 16], live: 0, pack: Some(Pack { blocks: 4096, bytes: 1 << 33 }) })),
            (Key::Orphan(2), Row::Orphan(Orphan::Cut { from: 99 })),
            (Key::Orphan(2), Row::Orphan(Orphan::Unlinked)),
            (Key::Chunk(2, 0), Row::Chunk(Arc::new(Chunk::default()))),
        ];
        for (key, row) in rows {
            let bytes = row.encode();
            assert_eq!(Row::decode(key, &bytes).expect("encoded"), row);
            for cut in 0..bytes.len() {
                // Cut bytes may decode to something shorter (a name), but never panic.
                let _ = Row::decode(key, &bytes[..cut]);
            }
        }
    }
}
