//! What of a sealed volume's files on the host is sealed, and how: blocks by a stream, records of the journal one by one.
//!
//! The keys come with the disk, since whoever opens a file has that. Heads stay plain: they say which key a file has. A
//! volume that was encrypted before its files on hosts were has plain ones, which are read as they are; new ones are sealed.
//! What the host holds is kept secret by this, and not kept from being changed by who may write there: of such a change the
//! reader's checksums tell as they do of damage.

use crate::host::{HostDisk, HostFile};
use crate::types::BLOCK;
use orlop_store::keys::{BlockCipher, HostKeys, KeyId, RecordCipher};
use std::io;
use std::path::Path;
use std::sync::Arc;

const B: usize = BLOCK as usize;
/// Bytes that are sealed at once on their way to the disk: they stay near the processor.
const PIECE: usize = 128 << 10;
/// Where the head of a segment's file names its key: three times, so that no single damage makes all of its blocks unreadable.
const KEY_AT: [usize; 3] = [48, 1024, 2048];

/// A disk with the keys of one volume.
#[derive(Debug)]
pub(crate) struct KeyedDisk {
    disk: Arc<dyn HostDisk>,
    keys: Arc<HostKeys>,
}

impl KeyedDisk {
    /// The disk as it is if there are no keys.
    pub(crate) fn over(disk: Arc<dyn HostDisk>, keys: Option<Arc<HostKeys>>) -> Arc<dyn HostDisk> {
        match keys {
            Some(keys) => Arc::new(KeyedDisk { disk, keys }),
            None => disk,
        }
    }
}

impl HostDisk for KeyedDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn HostFile>> {
        self.disk.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn HostFile>> {
        self.disk.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn space(&self, dir: &Path) -> io::Result<(u64, u64)> {
        self.disk.space(dir)
    }

    fn makes_holes(&self, dir: &Path) -> bool {
        self.disk.makes_holes(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock(path)
    }

    fn boot_id(&self) -> [u8; 16] {
        self.disk.boot_id()
    }

    fn keys(&self) -> Option<&Arc<HostKeys>> {
        Some(&self.keys)
    }
}

/// Notes the key of a file of blocks in its head.
pub(crate) fn name_key(head: &mut [u8], key: KeyId) {
    for at in KEY_AT {
        head[at..at + 8].copy_from_slice(&key.0);
    }
}

/// The keys that the head of a file of blocks names: all the same unless it is damaged, zeros where it names none.
pub(crate) fn named_keys(head: &[u8]) -> [KeyId; 3] {
    KEY_AT.map(|at| KeyId(head.get(at..at + 8).and_then(|b| b.try_into().ok()).unwrap_or_default()))
}

/// How a file of blocks is read that is there: as it is, or with its seal taken off.
pub(crate) fn opened(disk: &dyn HostDisk, file: Arc<dyn HostFile>, segment: u64, id: &[u8; 16]) -> io::Result<Arc<dyn HostFile>> {
    let Some(keys) = disk.keys() else { return Ok(file) };
    let mut head = vec![0; B];
    file.read_at(&mut head, 0)?;
    let named = named_keys(&head);
    let key = match named.iter().find(|key| keys.has(**key)) {
        Some(key) => *key,
        // A head that power took before it was written: then nothing of the file was vouched for, and it is as a new one.
        None if head.iter().all(|b| *b == 0) => keys.current(),
        // From before files on hosts were sealed.
        None if named == [KeyId([0; 8]); 3] => return Ok(file),
        None => return Err(io::Error::new(io::ErrorKind::InvalidData, "it is sealed with a key that the volume's ring does not have")),
    };
    Ok(sealed(keys, key, file, segment, id))
}

/// A new file of blocks: sealed with the current key if the volume has keys.
pub(crate) fn created(disk: &dyn HostDisk, file: Arc<dyn HostFile>, segment: u64, id: &[u8; 16]) -> Arc<dyn HostFile> {
    match disk.keys() {
        Some(keys) => sealed(keys, keys.current(), file, segment, id),
        None => file,
    }
}

/// With a key that the ring has.
fn sealed(keys: &HostKeys, key: KeyId, file: Arc<dyn HostFile>, segment: u64, id: &[u8; 16]) -> Arc<dyn HostFile> {
    let name = [&segment.to_le_bytes()[..], id].concat();
    Arc::new(Sealed { cipher: keys.blocks(key, &name).expect("the ring has the key"), file })
}

/// A file of blocks whose blocks are sealed, and its head not.
#[derive(Debug)]
struct Sealed {
    file: Arc<dyn HostFile>,
    cipher: BlockCipher,
}

impl Sealed {
    fn apply(&self, offset: u64, bytes: &mut [u8]) {
        let plain = usize::try_from(BLOCK.saturating_sub(offset)).map_or(bytes.len(), |n| n.min(bytes.len()));
        self.cipher.apply(offset + plain as u64, &mut bytes[plain..]);
    }
}

impl HostFile for Sealed {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let got = self.file.read_at(buf, offset)?;
        self.apply(offset, &mut buf[..got]);
        Ok(got)
    }

    fn read_uncached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let got = self.file.read_uncached_at(buf, offset)?;
        self.apply(offset, &mut buf[..got]);
        Ok(got)
    }

    fn write_at(&self, data: &[u8], mut offset: u64) -> io::Result<()> {
        let mut piece = Vec::with_capacity(data.len().min(PIECE));
        for part in data.chunks(PIECE) {
            piece.clear();
            piece.extend_from_slice(part);
            self.apply(offset, &mut piece);
            self.file.write_at(&piece, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn start_writing(&self, offset: u64, length: u64) {
        self.file.start_writing(offset, length);
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.file.set_size(size)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.file.punch(offset, length)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }
}

/// The seal of one file of the journal.
#[derive(Debug)]
pub(crate) struct RecordSeal(RecordCipher);

impl RecordSeal {
    /// Of the file whose head, but for its checksum, is this.
    pub(crate) fn of(keys: &HostKeys, key: KeyId, head: &[u8]) -> Option<RecordSeal> {
        keys.records(key, head).map(RecordSeal)
    }

    pub(crate) fn seal(&self, seq: u64, record: &[u8], out: &mut Vec<u8>) {
        self.0.seal(&seq.to_le_bytes(), record, out);
    }

    /// `None` if it is not what was sealed here under this number.
    pub(crate) fn open(&self, seq: u64, sealed: &[u8]) -> Option<Vec<u8>> {
        self.0.open(&seq.to_le_bytes(), sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::RealDisk;
    use crate::segment::{SegmentFiles, header, offset_of, write_blocks};
    use crate::testing::keyed;

    const ID: [u8; 16] = [6; 16];

    fn contains(bytes: &[u8], what: &[u8]) -> bool {
        bytes.windows(what.len()).any(|w| w == what)
    }

    #[test]
    fn blocks_are_sealed_on_the_disk_and_plain_to_their_reader() {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = keyed(Arc::new(RealDisk));
        let mut files = SegmentFiles::new(disk.clone(), dir.path().to_owned(), [1; 16]);
        let file = files.create(3, &ID).expect("made");
        let data: Vec<u8> = b"planted-marker ".iter().copied().cycle().take(40 * B).collect();
        write_blocks(&*file, 0, &data[..7 * B]).expect("written");
        write_blocks(&*file, 7, &data[7 * B..]).expect("written");
        let raw = std::fs::read(files.path(3, &ID)).expect("reads");
        assert!(!contains(&raw, b"planted-marker"));
        assert_eq!(raw.len(), 41 * B, "a sealed file is no longer than a plain one");
        let mut files = SegmentFiles::new(disk, dir.path().to_owned(), [1; 16]);
        let file = files.get(3, &ID).expect("opens");
        for (at, len) in [(0, 40 * B), (1, 1), (B - 1, 2), (5 * B + 3, 4 * B)] {
            let mut back = vec![0; len];
            file.read_at(&mut back, offset_of(0) + at as u64).expect("reads");
            assert!(back == data[at..at + len], "{len} from {at}");
            file.read_uncached_at(&mut back, offset_of(0) + at as u64).expect("reads");
            assert!(back == data[at..at + len], "{len} from {at}, past the page cache");
        }
    }

    #[test]
    fn no_single_damage_of_a_head_makes_blocks_unreadable_and_each_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = keyed(Arc::new(RealDisk));
        let fresh = || SegmentFiles::new(disk.clone(), dir.path().to_owned(), [1; 16]);
        let file = fresh().create(3, &ID).expect("made");
        write_blocks(&*file, 0, &vec![7; B]).expect("written");
        let raw = RealDisk.open(&fresh().path(3, &ID)).expect("opens");
        let mut head = vec![0; B];
        raw.read_at(&mut head, 0).expect("reads");
        assert_eq!(crate::segment::inspect_header(&head, [1; 16], 3, ID), None);
        assert_ne!(head, header([1; 16], 3, &ID, None));
        for at in 0..B {
            let mut bad = head.clone();
            bad[at] ^= 0x10;
            raw.write_at(&bad, 0).expect("written");
            assert!(crate::segment::inspect_header(&bad, [1; 16], 3, ID).is_some(), "byte {at} goes unnoticed");
            let mut back = vec![0; B];
            fresh().get(3, &ID).expect("opens").read_at(&mut back, offset_of(0)).expect("reads");
            assert!(back == vec![7; B], "byte {at} makes the blocks unreadable");
        }
        // A head that was never written is written again, as it was.
        raw.write_at(&vec![0; B], 0).expect("written");
        assert!(fresh().write_lost_header(3, &ID).expect("mended"));
        let mut mended = vec![0; B];
        raw.read_at(&mut mended, 0).expect("reads");
        assert!(mended == head);
    }

    #[test]
    fn a_plain_file_of_a_volume_that_is_sealed_now_is_read_as_it_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut before = SegmentFiles::new(Arc::new(RealDisk), dir.path().to_owned(), [1; 16]);
        write_blocks(&*before.create(3, &ID).expect("made"), 0, &vec![7; B]).expect("written");
        let mut after = SegmentFiles::new(keyed(Arc::new(RealDisk)), dir.path().to_owned(), [1; 16]);
        let mut back = vec![0; B];
        after.get(3, &ID).expect("opens").read_at(&mut back, offset_of(0)).expect("reads");
        assert!(back == vec![7; B]);
    }

    #[test]
    fn a_key_that_the_ring_does_not_have_is_told_and_nothing_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut other = SegmentFiles::new(keyed(Arc::new(RealDisk)), dir.path().to_owned(), [1; 16]);
        write_blocks(&*other.create(3, &ID).expect("made"), 0, &vec![7; B]).expect("written");
        let mut files = SegmentFiles::new(keyed(Arc::new(RealDisk)), dir.path().to_owned(), [1; 16]);
        let e = files.get(3, &ID).expect_err("has no key");
        assert!(e.to_string().contains("key"), "{e}");
    }
}
