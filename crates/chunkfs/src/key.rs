//! Keys of the namespace: what a row is about. Their order in memory is their byte order in the store.
//!
//! A dirent's key holds the folder and a position: 60 bits of the name's keyed hash and 3 bits that tell
//! names of equal hash apart. The position is the reading cookie, so a folder can be read while it changes.

use crate::codec::{Decoded, Malformed};
use crate::types::Ino;

/// Blocks per chunk row.
pub(crate) const CHUNK_BLOCKS: u64 = 256;

/// Positions that names of equal hash share.
pub(crate) const SLOTS: u64 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    /// Journal records up to this row's number are in the namespace.
    Applied,
    /// Where in the store's log recovery starts, on a volume that has one.
    LogStart,
    /// Counters of the volume.
    Super,
    /// An inode.
    Inode(Ino),
    /// A name in a folder, at its position.
    Dirent(Ino, u64),
    /// Where 256 blocks of a file are.
    Chunk(Ino, u64),
    /// All extended attributes of an inode.
    Xattrs(Ino),
    /// A segment of data.
    Segment(u64),
    /// An inode whose deletion or cutting has still to be done.
    Orphan(Ino),
}

impl Key {
    /// The inode, or the folder, that the row belongs to.
    pub(crate) fn ino(self) -> Option<Ino> {
        match self {
            Key::Inode(i) | Key::Dirent(i, _) | Key::Chunk(i, _) | Key::Xattrs(i) | Key::Orphan(i) => Some(i),
            Key::Applied | Key::LogStart | Key::Super | Key::Segment(_) => None,
        }
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(17);
        let (tag, a, b) = match self {
            Key::Applied => (b'A', None, None),
            Key::LogStart => (b'A', Some(0), None),
            Key::Super => (b'B', None, None),
            Key::Inode(i) => (b'I', Some(i), None),
            Key::Dirent(p, pos) => (b'J', Some(p), Some(pos)),
            Key::Chunk(i, c) => (b'K', Some(i), Some(c)),
            Key::Xattrs(i) => (b'L', Some(i), None),
            Key::Segment(s) => (b'M', Some(s), None),
            Key::Orphan(i) => (b'N', Some(i), None),
        };
        out.push(tag);
        for n in [a, b].into_iter().flatten() {
            out.extend_from_slice(&n.to_be_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Decoded<Key> {
        let bad = Malformed("key");
        let (&tag, rest) = bytes.split_first().ok_or(bad.clone())?;
        let n = |i: usize| rest.get(8 * i..8 * i + 8).map(|b| u64::from_be_bytes(b.try_into().expect("eight bytes")));
        let key = match (tag, rest.len()) {
            (b'A', 0) => Some(Key::Applied),
            (b'A', 8) => n(0).filter(|n| *n == 0).map(|_| Key::LogStart),
            (b'B', 0) => Some(Key::Super),
            (b'I', 8) => n(0).map(Key::Inode),
            (b'J', 16) => n(0).zip(n(1)).map(|(p, pos)| Key::Dirent(p, pos)),
            (b'K', 16) => n(0).zip(n(1)).map(|(i, c)| Key::Chunk(i, c)),
            (b'L', 8) => n(0).map(Key::Xattrs),
            (b'M', 8) => n(0).map(Key::Segment),
            (b'N', 8) => n(0).map(Key::Orphan),
            _ => None,
        };
        key.ok_or(bad)
    }
}

/// The first position of a name: at least [`SLOTS`], below 2^63, a multiple of [`SLOTS`].
pub(crate) fn position(hash_key: &[u8; 32], name: &[u8]) -> u64 {
    let hash = blake3::keyed_hash(hash_key, name);
    let h = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"));
    ((h >> 4).max(1)) << 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_in_memory_is_order_in_bytes() {
        let mut keys = vec![
            Key::Applied,
            Key::Super,
            Key::Inode(1),
            Key::Inode(256),
            Key::Dirent(1, u64::MAX),
            Key::Dirent(2, 8),
            Key::Chunk(1, 0),
            Key::Chunk(1, 1 << 40),
            Key::Xattrs(7),
            Key::Segment(1),
            Key::Orphan(u64::MAX),
        ];
        keys.sort();
        let mut bytes: Vec<Vec<u8>> = keys.iter().map(|k| k.encode()).collect();
        bytes.sort();
        let again: Vec<Key> = bytes.iter().map(|b| Key::decode(b).expect("encoded")).collect();
        assert_eq!(keys, again);
        assert!(Key::decode(b"").is_err());
        assert!(Key::decode(b"I123").is_err());
        assert!(Key::decode(b"Z").is_err());
    }
}
