//! The decoders of this crate as fuzz targets: rows, journal, log objects, packs, headers. `orlop_model::fuzz` says what they owe.

use crate::change::{Change, Record};
use crate::chunk::Run;
use crate::codec::Reader;
use crate::host::HostFile;
use crate::journal;
use crate::key::Key;
use crate::log::Place;
use crate::log::object::{self, Body, Extent, Head};
use crate::pack::{self, Of};
use crate::rescue::blocks;
use crate::row::{Dirent, Orphan, Pack, Row, Segment, Super};
use crate::segment;
use crate::types::{BLOCK, FileKind};
use bytes::Bytes;
use orlop_model::Compression;
use orlop_model::VolumeId;
use orlop_model::fuzz::Target;
use orlop_store::keys::HostKeys;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, OnceLock};

const VOLUME: [u8; 16] = [3; 16];
const ID: [u8; 16] = [5; 16];
const PLACE: Place = Place { epoch: 7, n: 9 };
const FIRST: u64 = 5;

/// The targets of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "key", run: key, seeds: || keys().into_iter().map(Key::encode).collect(), covered: false },
    Target { name: "row", run: row, seeds: row_seeds, covered: false },
    Target { name: "record", run: record, seeds: record_seeds, covered: false },
    Target { name: "journal-frames", run: journal_frames, seeds: frame_seeds, covered: false },
    Target {
        name: "journal-file",
        run: journal_file,
        seeds: || vec![journal::sample_file(VOLUME, FIRST, &records(), None)],
        covered: false,
    },
    Target { name: "journal-file-sealed", run: journal_file, seeds: sealed_journal_seeds, covered: false },
    Target { name: "log-object", run: log_object, seeds: log_seeds, covered: true },
    Target { name: "log-object-inside", run: log_object_inside, seeds: log_inside_seeds, covered: false },
    Target { name: "pack", run: pack_whole, seeds: pack_seeds, covered: true },
    Target { name: "pack-inside", run: pack_inside, seeds: pack_inside_seeds, covered: false },
    Target { name: "segment-header", run: segment_header, seeds: segment_header_seeds, covered: true },
    Target { name: "names", run: names, seeds: name_seeds, covered: false },
    Target { name: "volume-header", run: volume_header, seeds: volume_seeds, covered: true },
    Target { name: "volume-name", run: volume_name, seeds: volume_name_seeds, covered: true },
    Target { name: "table-block", run: blocks::is_one, seeds: || vec![blocks::sample()], covered: true },
    Target { name: "owner-record", run: owner_record, seeds: crate::log::lease::sample_records, covered: true },
];

fn keys() -> Vec<Key> {
    let plain = [Key::Applied, Key::LogStart, Key::Super, Key::Inode(4), Key::Dirent(1, 8), Key::Chunk(2, 0)];
    plain.into_iter().chain([Key::Xattrs(4), Key::Segment(2), Key::Orphan(2)]).collect()
}

fn key(bytes: &[u8]) -> bool {
    let Ok(key) = Key::decode(bytes) else { return false };
    assert_eq!(key.encode(), bytes, "there is one way to write a key");
    true
}

/// The key, its length in front, and then its row.
fn row(bytes: &[u8]) -> bool {
    let Some((n, rest)) = bytes.split_first() else { return false };
    let Some((key, row)) = rest.split_at_checked(usize::from(*n)) else { return false };
    let Ok(key) = Key::decode(key) else { return false };
    let Ok(row) = Row::decode(key, row) else { return false };
    assert_eq!(Row::decode(key, &row.encode()).as_ref(), Ok(&row), "it comes back");
    true
}

fn rows() -> Vec<(Key, Row)> {
    let inode = Row::decode(Key::Inode(4), &inode_bytes()).expect("a sample");
    vec![
        (Key::Inode(4), inode),
        (Key::Applied, Row::Applied(1 << 60)),
        (Key::LogStart, Row::LogStart(PLACE)),
        (Key::Super, Row::Super(Super { next_ino: 9, next_segment: 8, used_blocks: 7, inodes: 6 })),
        (Key::Dirent(1, 8), Row::Dirent(Dirent { ino: 300, kind: FileKind::Fifo, name: Bytes::from_static(b"\xffname") })),
        (Key::Segment(2), Row::Segment(Segment { id: ID, live: 0, pack: Some(Pack { blocks: 4096, bytes: 1 << 33 }) })),
        (Key::Orphan(2), Row::Orphan(Orphan::Cut { from: 99 })),
        (Key::Chunk(2, 0), Row::decode(Key::Chunk(2, 0), &chunk_bytes()).expect("a sample")),
        (Key::Xattrs(4), Row::decode(Key::Xattrs(4), &[1, 1, 3, b'a', b'.', b'b', 1, b'v']).expect("a sample")),
    ]
}

fn inode_bytes() -> Vec<u8> {
    // Version, kind, has attributes; ten numbers; four times; no target.
    let mut b = vec![1, 1, 1, 0xed, 3, 1, 0, 0, 0, 5, 1, 9, 8];
    b.extend_from_slice(&[7; 48]);
    b.push(0);
    b
}

fn chunk_bytes() -> Vec<u8> {
    let mut b = vec![1, 2];
    b.extend_from_slice(&[0, 1, 8, 17, 1, 2, 3, 4, 5, 6, 7, 8]);
    b.extend_from_slice(&[200, 55, 0]);
    b
}

fn row_seeds() -> Vec<Vec<u8>> {
    rows().into_iter().map(|(key, row)| [&[key.encode().len() as u8][..], &key.encode(), &row.encode()].concat()).collect()
}

fn records() -> Vec<Record> {
    let puts = rows().into_iter().map(|(key, row)| Change::Put(key, row)).collect();
    let others = vec![
        Change::Delete(Key::Inode(4)),
        Change::Map { ino: 3, chunk: 9, run: Run { start: 250, len: 2, segment: 8, at: 70000, crcs: vec![1, 2] } },
        Change::Map { ino: 3, chunk: 9, run: Run::reserved(0, 256) },
        Change::Unmap { ino: 3, chunk: 9, from: 1, to: 256 },
        Change::Patch { ino: 3, block: 1 << 33, offset: 4095, bytes: Bytes::from_static(b"x") },
    ];
    vec![Record { request: 77, answer: 1 << 40, changes: puts }, Record { request: 1, answer: 0, changes: others }]
}

fn record(bytes: &[u8]) -> bool {
    let Ok(record) = Record::decode(bytes) else { return false };
    let mut again = Vec::new();
    record.encode(&mut again);
    assert_eq!(Record::decode(&again).as_ref(), Ok(&record), "it comes back");
    true
}

fn record_seeds() -> Vec<Vec<u8>> {
    let encoded = |r: &Record| {
        let mut out = Vec::new();
        r.encode(&mut out);
        out
    };
    records().iter().map(encoded).collect()
}

fn frames() -> Vec<u8> {
    let mut out = Vec::new();
    for (seq, record) in (FIRST..).zip(records()) {
        journal::encode_frame(&mut out, seq, &record);
    }
    out
}

fn frame_seeds() -> Vec<Vec<u8>> {
    vec![frames()]
}

fn journal_frames(bytes: &[u8]) -> bool {
    let Some(records) = journal::parse_frames(bytes, FIRST) else { return false };
    assert!(records.iter().map(|(seq, _)| *seq).eq((FIRST..).take(records.len())), "numbers without a gap");
    true
}

/// The same in every process, so that what was found can be tried again.
fn host_keys() -> &'static Arc<HostKeys> {
    static KEYS: OnceLock<Arc<HostKeys>> = OnceLock::new();
    KEYS.get_or_init(|| Arc::new(HostKeys::fixed()))
}

fn sealed_journal_seeds() -> Vec<Vec<u8>> {
    vec![journal::sample_file(VOLUME, FIRST, &records(), Some(host_keys()))]
}

fn segment_header_seeds() -> Vec<Vec<u8>> {
    vec![segment::header(VOLUME, FIRST, &ID, None), segment::header(VOLUME, FIRST, &ID, Some(host_keys().current()))]
}

fn journal_file(bytes: &[u8]) -> bool {
    let (last, wrong) = journal::inspect(bytes, VOLUME, FIRST, Some(host_keys()));
    // What a scan finds is never more than what the closer look accepts.
    let found = journal::sample_scan(bytes, VOLUME, FIRST, Some(host_keys()));
    assert!(found.windows(2).all(|w| w[1] == w[0] + 1), "numbers without a gap");
    last.is_some() && wrong.is_none()
}

fn log_head() -> Head {
    Head { volume: VOLUME, place: PLACE, nonce: ID }
}

fn log_seeds() -> Vec<Vec<u8>> {
    let extents = [Extent { segment: 4, id: ID, at: 17, blocks: 1 }];
    let whole = object::encode_records(&log_head(), 0, FIRST, &frames(), &extents, |out: &mut Vec<u8>| {
        out.resize(out.len() + BLOCK as usize, 7);
        Ok::<(), Infallible>(())
    });
    vec![whole.expect("infallible").to_vec(), object::encode_fence(&log_head(), 8).to_vec()]
}

fn log_object(bytes: &[u8]) -> bool {
    let Ok(object) = object::decode(&Bytes::copy_from_slice(bytes), VOLUME, PLACE) else { return false };
    assert_eq!((object.head.volume, object.head.place), (VOLUME, PLACE));
    match object.body {
        Body::Fence { next_epoch } => assert!(next_epoch > PLACE.epoch),
        Body::Records { extents, .. } => {
            assert!(extents.iter().all(|(e, data)| data.len() as u64 == u64::from(e.blocks) * BLOCK), "each extent has its data");
        }
    }
    true
}

/// The same with a checksum that fits, so that what it guards is reached.
fn log_object_inside(bytes: &[u8]) -> bool {
    let crc = crc32c::crc32c(bytes);
    log_object(&[bytes, &crc.to_le_bytes()].concat())
}

fn log_inside_seeds() -> Vec<Vec<u8>> {
    log_seeds().into_iter().map(|s| s[..s.len() - 4].to_vec()).collect()
}

fn pack_seeds() -> Vec<Vec<u8>> {
    let of = Of { volume: VOLUME, segment: 4, id: ID, blocks: 2 };
    vec![pack_sample(&of, Compression::None), pack_sample(&of, Compression::Zstd)]
}

/// A pack of a segment of changing bytes.
fn pack_sample(of: &Of, compression: Compression) -> Vec<u8> {
    #[derive(Debug)]
    struct Staged;
    impl HostFile for Staged {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            for (i, b) in buf.iter_mut().enumerate() {
                *b = ((offset as usize + i) / 64) as u8;
            }
            Ok(buf.len())
        }
        fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }
        fn set_size(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn size(&self) -> io::Result<u64> {
            Ok(0)
        }
    }
    let payload = pack::encode(of, &Staged, compression, &std::sync::Arc::default()).expect("it reads without fail");
    payload.iter().flat_map(|part| part.to_vec()).collect()
}

fn pack_whole(bytes: &[u8]) -> bool {
    pack::verify_whole(&Bytes::copy_from_slice(bytes)).is_ok()
}

/// The blocks and the length that a row says, and the tail; its checksums are made to fit.
fn pack_inside(bytes: &[u8]) -> bool {
    let mut r = Reader::new(bytes);
    let (Ok(blocks), Ok(length)) = (r.u32(), r.u64()) else { return false };
    let mut tail = bytes[12..].to_vec();
    pack::fit_checksums(&mut tail);
    let pack = Pack { blocks, bytes: length };
    let range = pack::tail_range(&pack);
    assert!(range.start <= range.end);
    let Ok(frames) = pack::parse_tail(&pack, &tail) else { return false };
    assert_eq!(frames.len(), pack::frames(blocks) as usize);
    assert!(frames.iter().all(|f| f.at + u64::from(f.len) <= length), "every frame lies in the pack");
    true
}

fn pack_inside_seeds() -> Vec<Vec<u8>> {
    let seed = |whole: &Vec<u8>| {
        let pack = Pack { blocks: 2, bytes: whole.len() as u64 };
        let tail = &whole[pack::tail_range(&pack).start as usize..];
        [&pack.blocks.to_le_bytes()[..], &pack.bytes.to_le_bytes(), tail].concat()
    };
    pack_seeds().iter().map(seed).collect()
}

fn segment_header(bytes: &[u8]) -> bool {
    bytes.len() == BLOCK as usize && segment::inspect_header(bytes, VOLUME, FIRST, ID).is_none()
}

fn names(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    segment::parse_name(text).is_some() | Place::parse(text).is_some()
}

fn name_seeds() -> Vec<Vec<u8>> {
    let place = PLACE.path("p");
    vec![segment::file_name(FIRST, &ID).into(), place.filename().expect("a name").into()]
}

fn volume_seeds() -> Vec<Vec<u8>> {
    vec![crate::open::header_of(VolumeId::from_bytes(VOLUME))]
}

fn volume_header(bytes: &[u8]) -> bool {
    crate::open::inspect_header(bytes, VolumeId::from_bytes(VOLUME)).is_ok()
}

fn volume_name_seeds() -> Vec<Vec<u8>> {
    vec![crate::name::encode(VolumeId::from_bytes(VOLUME), &"orders".parse().expect("a name"))]
}

fn volume_name(bytes: &[u8]) -> bool {
    crate::name::decode(bytes, VolumeId::from_bytes(VOLUME)).is_ok()
}

fn owner_record(bytes: &[u8]) -> bool {
    crate::log::lease::decode(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_bytes_are_decoded_or_refused() {
        orlop_model::fuzz::exercise_all(super::TARGETS, 4000);
    }
}
