//! The rows of a table, found by what a data block of SlateDB is made of: no index is needed to find them.
//!
//! A block is its rows, each key told by how much of the one before it shares; places of rows whose key stands whole (u16 each),
//! their number (u16), and the CRC-32 of all before. Blocks follow each other without padding, and are neither compressed nor changed.

use crate::codec::{Decoded, Malformed, Reader};
use crate::key::Key;
use bytes::Bytes;
use std::ops::Range;

/// Bytes of the longest key.
const KEY_MAX: usize = 17;
/// Flags of a row.
const REMOVED: u8 = 1;
const EXPIRES: u8 = 2;
const CREATED: u8 = 4;

/// A row as one table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: Key,
    /// `None` stands for one that was removed.
    pub(super) value: Option<Bytes>,
    /// Of two with the same key the newer has the higher one.
    pub(super) seq: u64,
}

/// Where a block lies that is as it was written, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) at: Range<u64>,
    pub(super) first: Key,
    pub(super) last: Key,
    pub(super) rows: u64,
}

/// The blocks among some bytes, in order. What stands between them is none.
pub(super) fn find(bytes: &[u8]) -> Vec<Block> {
    let (mut blocks, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let Some((rows, len)) = at_front(&bytes[at..]) else {
            at += 1;
            continue;
        };
        if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
            let place = at as u64..(at + len) as u64;
            blocks.push(Block { at: place, first: first.key, last: last.key, rows: rows.len() as u64 });
        }
        at += len;
    }
    blocks
}

/// The rows of the block that begins at the front of some bytes, and its length; `None` if none does. Bytes that are no block are
/// mostly told by the first few.
pub(super) fn at_front(bytes: &[u8]) -> Option<(Vec<Entry>, usize)> {
    let mut r = Reader::new(bytes);
    let (mut rows, mut whole, mut key) = (Vec::<Entry>::new(), Vec::new(), Vec::new());
    let end = loop {
        let at = bytes.len() - r.left();
        // The first place is 0, and no key is empty: so no row begins.
        if bytes.get(at..at + 2)? == [0u8, 0].as_slice() {
            break at;
        }
        let (is_whole, row) = read_row(&mut r, &mut key).ok()?;
        if is_whole {
            whole.push(at);
        }
        if rows.last().is_some_and(|before| before.key > row.key) {
            return None;
        }
        rows.push(row);
    };
    let number = |n: usize| {
        let two = bytes.get(end + 2 * n..end + 2 * n + 2)?;
        Some(usize::from(u16::from_be_bytes(two.try_into().ok()?)))
    };
    // Their number stands behind the places, and may look like one more of them: the checksum decides.
    let (mut n, mut before) = (0, None);
    loop {
        let next = number(n)?;
        let crc_at = end + 2 * n + 2;
        if n > 0 && next == n && bytes.get(crc_at..crc_at + 4)? == crc32fast::hash(&bytes[..crc_at]).to_be_bytes().as_slice() {
            return Some((rows, crc_at + 4));
        }
        if before.is_some_and(|before| next <= before) || whole.binary_search(&next).is_err() {
            return None;
        }
        before = Some(next);
        n += 1;
    }
}

/// Whether some bytes are one block, for the fuzz targets.
pub(crate) fn is_one(bytes: &[u8]) -> bool {
    at_front(bytes).is_some_and(|(rows, len)| !rows.is_empty() && len == bytes.len())
}

/// A block of two rows, the second of which shares the beginning of its key, and was removed.
pub(crate) fn sample() -> Vec<u8> {
    let (first, second) = (Key::Inode(4).encode(), Key::Inode(5).encode());
    let mut out = vec![0, first.len() as u8, 3];
    out.extend_from_slice(&first);
    out.extend_from_slice(b"row");
    out.extend_from_slice(&7u64.to_be_bytes());
    out.push(0);
    out.extend_from_slice(&[first.len() as u8 - 1, 1, 0, second[second.len() - 1]]);
    out.extend_from_slice(&8u64.to_be_bytes());
    out.push(REMOVED);
    out.extend_from_slice(&[0, 0, 0, 1]);
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_be_bytes());
    out
}

fn size(r: &mut Reader<'_>) -> Decoded<usize> {
    usize::try_from(r.varint()?).map_err(|_| Malformed("length"))
}

/// Whether its key stands whole, and the row. `key` is that of the row before, and then its own.
fn read_row(r: &mut Reader<'_>, key: &mut Vec<u8>) -> Decoded<(bool, Entry)> {
    let (shared, own, len) = (size(r)?, size(r)?, size(r)?);
    if shared > key.len() || shared.saturating_add(own) > KEY_MAX {
        return Err(Malformed("key"));
    }
    key.truncate(shared);
    key.extend_from_slice(r.take(own)?);
    let value = r.take(len)?;
    let seq = u64::from_be_bytes(r.take(8)?.try_into().expect("eight bytes were taken"));
    let flags = r.u8()?;
    if flags & !(REMOVED | EXPIRES | CREATED) != 0 {
        return Err(Malformed("flags"));
    }
    for stamp in [EXPIRES, CREATED] {
        if flags & stamp != 0 {
            r.take(8)?;
        }
    }
    let value = (flags & REMOVED == 0).then(|| Bytes::copy_from_slice(value));
    Ok((shared == 0, Entry { key: Key::decode(key)?, value, seq }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::{Namespace, guarded};
    use crate::row::{Dirent, Orphan, Row};
    use crate::types::FileKind;
    use futures::TryStreamExt;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{ObjectStore, ObjectStoreExt};
    use slatedb::admin::AdminBuilder;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    /// A table as SlateDB writes it, the part of it that holds rows, and the rows.
    async fn table() -> (Vec<u8>, usize, BTreeMap<Key, Option<Row>>) {
        let mut rows = BTreeMap::new();
        for n in 0..3000u64 {
            let name = Bytes::from(format!("a name of {n}"));
            rows.insert(Key::Dirent(n / 100, n << 20), Some(Row::Dirent(Dirent { ino: n, kind: FileKind::File, name })));
            rows.insert(Key::Orphan(n), (n % 3 > 0).then_some(Row::Orphan(Orphan::Unlinked)));
        }
        // One that no block of the usual size holds.
        let large = Row::Xattrs(Arc::new(BTreeMap::from([(Bytes::from_static(b"user.large"), Bytes::from(vec![7; 100_000]))])));
        rows.insert(Key::Xattrs(5), Some(large));
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let ns = Namespace::open(store.clone(), "v/meta".to_owned(), Arc::new(|| None)).await.expect("opens");
        ns.fold(&rows, &[], 7).await.expect("folds");
        ns.abandon().await;
        rows.insert(Key::Applied, Some(Row::Applied(7)));
        let store = guarded(store, "v");
        let listed: Vec<_> = store.list(Some(&Path::from("v/meta/compacted"))).try_collect().await.expect("lists");
        assert_eq!(listed.len(), 1, "one fold, one table");
        let bytes = store.get(&listed[0].location).await.expect("there").bytes().await.expect("bytes").to_vec();
        let manifest = AdminBuilder::new("v/meta", store).build().read_manifest(None).await.expect("reads").expect("there");
        let info = &manifest.l0()[0].sst.info;
        let end = if info.filter_len > 0 { info.filter_offset } else { info.index_offset };
        (bytes, end as usize, rows)
    }

    fn rows_of(bytes: &[u8], blocks: &[Block]) -> BTreeMap<Key, Option<Row>> {
        let mut rows = BTreeMap::new();
        for block in blocks {
            let (some, len) = at_front(&bytes[block.at.start as usize..]).expect("it was found");
            assert_eq!(len as u64, block.at.end - block.at.start);
            assert_eq!((some[0].key, some[some.len() - 1].key, some.len() as u64), (block.first, block.last, block.rows));
            rows.extend(some.into_iter().map(|row| (row.key, row.value.map(|v| Row::decode(row.key, &v).expect("a row")))));
        }
        rows
    }

    #[tokio::test]
    async fn all_rows_of_a_table_are_found_without_its_index() {
        let (bytes, end, rows) = table().await;
        let blocks = find(&bytes[..end]);
        assert!(blocks.len() > 20, "{}", blocks.len());
        let mut at = 0;
        for block in &blocks {
            assert_eq!(block.at.start, at, "no gaps");
            at = block.at.end;
        }
        assert_eq!(at, end as u64);
        assert_eq!(rows_of(&bytes, &blocks), rows);
        // Index, filter and what stands behind them hold nothing that looks like one.
        assert_eq!(find(&bytes), blocks);
    }

    #[tokio::test]
    async fn a_damage_takes_its_block_alone_and_garbage_none() {
        let (bytes, end, rows) = table().await;
        let whole = find(&bytes[..end]);
        for n in (0..whole.len()).step_by(7) {
            let mut bad = bytes[..end].to_vec();
            bad[(whole[n].at.start as usize + whole[n].at.end as usize) / 2] ^= 0x10;
            let mut left = whole.clone();
            left.remove(n);
            assert_eq!(find(&bad), left, "block {n}");
        }
        let mut behind: Vec<u8> = (0..5000u32).map(|i| ((i * i) >> 3) as u8).collect();
        behind.extend_from_slice(&bytes[..end]);
        assert_eq!(rows_of(&behind, &find(&behind)), rows);
        // The rest of a block is none.
        let cut = whole[0].at.end as usize / 2;
        assert_eq!(find(&bytes[cut..end]).len(), whole.len() - 1);
    }

    #[tokio::test]
    async fn no_bytes_are_too_strange() {
        let (bytes, end, _) = table().await;
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for round in 0..300 {
            let len = (next() % 3000) as usize;
            let strange: Vec<u8> = match round % 3 {
                0 => (0..len).map(|_| next() as u8).collect(),
                1 => (0..len).map(|_| (next() % 3) as u8).collect(),
                _ => {
                    let from = (next() as usize) % (end - len);
                    let mut part = bytes[from..from + len].to_vec();
                    for _ in 0..len / 50 {
                        let at = (next() as usize) % len.max(1);
                        part[at] = next() as u8;
                    }
                    part
                }
            };
            for block in find(&strange) {
                assert!(block.at.end <= len as u64 && block.rows > 0 && block.first <= block.last);
            }
        }
        for cut in 0..whole_len(&bytes) {
            assert!(at_front(&bytes[..cut]).is_none(), "the first {cut} bytes of a block");
        }
    }

    fn whole_len(bytes: &[u8]) -> usize {
        at_front(bytes).expect("a block").1
    }
}
