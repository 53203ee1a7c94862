//! Staged segments: files of the host to which data blocks are appended, never overwritten.
//!
//! A file starts with one header block; block `n` of the segment lies at `(n + 1) * 4096`. Checksums are kept
//! by those who refer to a block, so a stale, misplaced or torn block is found by every reader. Blocks of a sealed volume
//! are sealed, see sealing.rs; here they are plain.

use crate::chunk::Run;
use crate::host::{HostDisk, HostFile};
use crate::sealing;
use crate::types::{BLOCK, FsError, FsResult};
use orlop_store::keys::KeyId;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"ORLOPS01";
/// Of a file whose blocks are sealed.
const SEALED: &[u8; 8] = b"ORLOPS02";
const B: usize = BLOCK as usize;

/// Blocks after which a segment is full: 64 MiB.
pub(crate) const SEGMENT_BLOCKS: u32 = 16384;

/// The same on a volume whose home is the store, where a segment becomes one object: 16 MiB.
pub(crate) const PACK_BLOCKS: u32 = 4096;

/// Bytes from which on a read is one of many, whose pages the kernel keeps for the file that is read: a second copy of them, for
/// the segment, would take memory, and half of the time.
const LONG: usize = 256 << 10;

/// Open files at most; an idle one is closed for another.
const HANDLES: usize = 256;

pub(crate) fn file_name(segment: u64, id: &[u8; 16]) -> String {
    let mut name = format!("{segment:016x}-");
    for b in id {
        name.push_str(&format!("{b:02x}"));
    }
    name + ".segment"
}

/// Number and random id, if the name is a segment's.
pub(crate) fn parse_name(name: &str) -> Option<(u64, [u8; 16])> {
    let (number, id) = name.strip_suffix(".segment")?.split_once('-')?;
    let id = u128::from_str_radix(id, 16).ok().filter(|_| id.len() == 32)?;
    Some((u64::from_str_radix(number, 16).ok()?, id.to_be_bytes()))
}

/// Files of segments, opened as they are needed.
#[derive(Debug)]
pub(crate) struct SegmentFiles {
    disk: Arc<dyn HostDisk>,
    dir: PathBuf,
    volume: [u8; 16],
    open: HashMap<u64, Arc<dyn HostFile>>,
}

impl SegmentFiles {
    pub(crate) fn new(disk: Arc<dyn HostDisk>, dir: PathBuf, volume: [u8; 16]) -> Self {
        SegmentFiles { disk, dir, volume, open: HashMap::new() }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, segment: u64, id: &[u8; 16]) -> PathBuf {
        self.dir.join(file_name(segment, id))
    }

    /// Writes the header of a file that has none: the block was never written back before power failed. One that differs
    /// otherwise is damage, and left for the check to find. Tells whether it did.
    pub(crate) fn write_lost_header(&mut self, segment: u64, id: &[u8; 16]) -> io::Result<bool> {
        let file = self.get(segment, id)?;
        let mut block = vec![0; B];
        let got = file.read_at(&mut block, 0)?;
        if block[..got].iter().any(|b| *b != 0) {
            return Ok(false);
        }
        file.write_at(&self.header(segment, id), 0)?;
        Ok(true)
    }

    pub(crate) fn create(&mut self, segment: u64, id: &[u8; 16]) -> io::Result<Arc<dyn HostFile>> {
        let path = self.path(segment, id);
        let file = sealing::created(&*self.disk, self.disk.create(&path)?, segment, id);
        if let Err(e) = file.write_at(&self.header(segment, id), 0) {
            let _ = self.disk.remove(&path);
            return Err(e);
        }
        self.keep(segment, file.clone());
        Ok(file)
    }

    pub(crate) fn get(&mut self, segment: u64, id: &[u8; 16]) -> io::Result<Arc<dyn HostFile>> {
        if let Some(f) = self.open.get(&segment) {
            return Ok(f.clone());
        }
        let file = sealing::opened(&*self.disk, self.disk.open(&self.path(segment, id))?, segment, id)?;
        self.keep(segment, file.clone());
        Ok(file)
    }

    /// Of a new file.
    fn header(&self, segment: u64, id: &[u8; 16]) -> Vec<u8> {
        header(self.volume, segment, id, self.disk.keys().map(|keys| keys.current()))
    }

    fn keep(&mut self, segment: u64, file: Arc<dyn HostFile>) {
        if self.open.len() >= HANDLES {
            // Whoever reads one of them has its own reference.
            self.open.clear();
        }
        self.open.insert(segment, file);
    }

    pub(crate) fn forget(&mut self, segment: u64) {
        self.open.remove(&segment);
    }
}

/// The first block of a staged file, whose blocks may be sealed with a key.
pub(crate) fn header(volume: [u8; 16], segment: u64, id: &[u8; 16], key: Option<KeyId>) -> Vec<u8> {
    let mut header = vec![0u8; B];
    header[..8].copy_from_slice(if key.is_some() { SEALED } else { MAGIC });
    header[8..24].copy_from_slice(&volume);
    header[24..32].copy_from_slice(&segment.to_le_bytes());
    header[32..48].copy_from_slice(id);
    if let Some(key) = key {
        sealing::name_key(&mut header, key);
    }
    let crc = crc32c::crc32c(&header[..60]);
    header[60..64].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Why a segment that is referred to could not be opened.
pub(crate) fn open_error(segment: u64, e: &io::Error) -> FsError {
    match e.kind() {
        io::ErrorKind::NotFound => FsError::Corrupt(format!("segment {segment:016x} is missing")),
        io::ErrorKind::InvalidData => FsError::Corrupt(format!("segment {segment:016x}: {e}")),
        _ => FsError::Io(format!("segment {segment:016x}: {e}")),
    }
}

/// What is wrong with the first block of a staged file, if anything.
pub(crate) fn inspect_header(block: &[u8], volume: [u8; 16], segment: u64, id: [u8; 16]) -> Option<String> {
    let Some(h) = block.get(..B) else { return Some("it is too short for its header".to_owned()) };
    let says = (
        h[8..24].try_into().expect("sixteen bytes"),
        u64::from_le_bytes(h[24..32].try_into().expect("eight bytes")),
        h[32..48].try_into().expect("sixteen bytes"),
    );
    let key = (&h[..8] == SEALED).then(|| sealing::named_keys(h)[0]);
    // There is one way to write what it says.
    if h != header(says.0, says.1, &says.2, key) {
        return Some("its header is damaged".to_owned());
    }
    (says != (volume, segment, id)).then(|| "its header is of another segment".to_owned())
}

/// Where a block lies in a segment's file, behind the header.
pub(crate) fn offset_of(block: u32) -> u64 {
    (u64::from(block) + 1) * BLOCK
}

/// Writes whole blocks at a block number and returns their checksums.
pub(crate) fn write_blocks(file: &dyn HostFile, at: u32, data: &[u8]) -> io::Result<Vec<u32>> {
    debug_assert!(!data.is_empty() && data.len().is_multiple_of(B));
    let crcs = data.chunks_exact(B).map(crc32c::crc32c).collect();
    file.write_at(data, offset_of(at))?;
    Ok(crcs)
}

/// Reads the blocks of a run and checks each of them. The error names the segment and the block.
pub(crate) fn read_run(file: &dyn HostFile, run: &Run, out: &mut [u8]) -> FsResult<()> {
    debug_assert_eq!(out.len(), usize::from(run.len) * B);
    let place = offset_of(run.at);
    let got = if out.len() < LONG { file.read_at(out, place) } else { file.read_uncached_at(out, place) };
    let got = got.map_err(|e| FsError::Io(format!("reading segment {:016x}: {e}", run.segment)))?;
    if got < out.len() {
        return Err(FsError::Corrupt(format!("segment {:016x} ends within block {}", run.segment, run.at as usize + got / B)));
    }
    for (i, (block, crc)) in out.chunks_exact(B).zip(&run.crcs).enumerate() {
        if crc32c::crc32c(block) != *crc {
            return Err(FsError::Corrupt(format!("segment {:016x} block {}: checksum differs", run.segment, run.at as usize + i)));
        }
    }
    Ok(())
}

/// Blocks of the run that are not what the run says, by their place in it.
pub(crate) fn bad_blocks(file: &dyn HostFile, run: &Run) -> io::Result<Vec<u16>> {
    let mut buffer = vec![0; usize::from(run.len) * B];
    let got = file.read_at(&mut buffer, offset_of(run.at))?;
    let bytes = &buffer[..got];
    let right =
        |n: u16| bytes.get(usize::from(n) * B..(usize::from(n) + 1) * B).is_some_and(|b| crc32c::crc32c(b) == run.crcs[usize::from(n)]);
    Ok((0..run.len).filter(|n| !right(*n)).collect())
}
