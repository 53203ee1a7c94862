//! Packs: the objects that segments become, written once and whole.
//!
//! A pack is a header, the blocks in frames of 256 KiB, a table of the frames and a footer. A frame is stored as it is or
//! compressed, whichever is worth it. If none is compressed, where a block lies follows from its number, so reading one
//! takes one request; otherwise the table is read first. Every byte is covered by a checksum or compared, so
//! [`verify_whole`] finds any other byte than was written. docs/FORMAT.md has the layout.

use crate::blocking::blocking;
use crate::buffers::Buffers;
use crate::codec::{Malformed, Reader};
use crate::host::HostFile;
use crate::log::patience::Patience;
use crate::row::Pack;
use crate::segment::offset_of;
use crate::state::host_error;
use crate::types::{BLOCK, FsError, FsResult};
use bytes::Bytes;
use object_store::path::Path as StorePath;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use orlop_model::Compression;
use orlop_store::wrap::BrokenSeal;
use std::io;
use std::ops::Range;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"ORLOPK01";
const END: &[u8; 8] = b"ORLOPKZZ";
const B: usize = BLOCK as usize;

/// Blocks of a frame: what a reader fetches at least.
pub(crate) const FRAME_BLOCKS: u32 = 64;
/// Bytes of the header, in front of the first frame.
pub(crate) const HEADER: usize = 64;
const ENTRY: usize = 12;
const FOOTER: usize = 32;
const RAW: u32 = 0;
const ZSTD: u32 = 1;
/// Fast, and close to the best on what containers keep.
const LEVEL: i32 = 1;

/// What a pack is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Of {
    pub(crate) volume: [u8; 16],
    pub(crate) segment: u64,
    pub(crate) id: [u8; 16],
    pub(crate) blocks: u32,
}

/// Where a frame lies in its pack, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) at: u64,
    pub(crate) len: u32,
    crc: u32,
    how: u32,
}

/// Where the pack of a segment is.
pub(crate) fn path(prefix: &str, id: &[u8; 16]) -> StorePath {
    StorePath::from(format!("{prefix}/packs/{:032x}", u128::from_be_bytes(*id)))
}

pub(crate) fn frames(blocks: u32) -> u32 {
    blocks.div_ceil(FRAME_BLOCKS)
}

/// Bytes of a frame as it was before it was stored.
pub(crate) fn frame_bytes(blocks: u32, frame: u32) -> usize {
    (blocks - frame * FRAME_BLOCKS).min(FRAME_BLOCKS) as usize * B
}

/// The length of a pack of which no frame is compressed.
fn raw_len(blocks: u32) -> u64 {
    (HEADER + blocks as usize * B + frames(blocks) as usize * ENTRY + FOOTER) as u64
}

/// Whether blocks lie where their numbers say, so that no table is needed to find them.
pub(crate) fn is_raw(pack: &Pack) -> bool {
    pack.bytes == raw_len(pack.blocks)
}

/// Where the bytes of some blocks are in a pack that is not compressed.
pub(crate) fn raw_range(blocks: Range<u32>) -> Range<u64> {
    HEADER as u64 + u64::from(blocks.start) * BLOCK..HEADER as u64 + u64::from(blocks.end) * BLOCK
}

/// Where the table and the footer of a pack are.
pub(crate) fn tail_range(pack: &Pack) -> Range<u64> {
    let tail = (frames(pack.blocks) as usize * ENTRY + FOOTER) as u64;
    pack.bytes.saturating_sub(tail)..pack.bytes
}

fn header(of: &Of) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&of.volume);
    out.extend_from_slice(&of.segment.to_le_bytes());
    out.extend_from_slice(&of.id);
    out.extend_from_slice(&of.blocks.to_le_bytes());
    out.extend_from_slice(&FRAME_BLOCKS.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Reads what the first bytes of a pack say that it is of.
pub(crate) fn parse_header(bytes: &[u8]) -> Result<Of, Malformed> {
    let mut r = Reader::new(bytes.get(..HEADER).ok_or(Malformed("length"))?);
    if r.take(8)? != MAGIC {
        return Err(Malformed("magic"));
    }
    let of = Of {
        volume: r.take(16)?.try_into().expect("sixteen bytes were taken"),
        segment: r.u64()?,
        id: r.take(16)?.try_into().expect("sixteen bytes were taken"),
        blocks: r.u32()?,
    };
    if r.u32()? != FRAME_BLOCKS || r.u32()? != 0 {
        return Err(Malformed("frame size"));
    }
    if r.u32()? != crc32c::crc32c(&bytes[..HEADER - 4]) {
        return Err(Malformed("checksum of the header"));
    }
    Ok(of)
}

/// Makes a pack of a staged segment. Bytes are read once, and held once as they are stored; blocks are taken as they are, and one
/// that the file does not have was never written whole and is named by nobody.
pub(crate) fn encode(of: &Of, file: &dyn HostFile, compression: Compression, buffers: &Arc<Buffers>) -> io::Result<PutPayload> {
    let mut parts: Vec<Bytes> = vec![header(of).into()];
    let (mut table, mut at) = (Vec::new(), HEADER as u64);
    let mut note = |how: u32, stored: &[u8]| {
        table.extend_from_slice(&(stored.len() as u32).to_le_bytes());
        table.extend_from_slice(&crc32c::crc32c(stored).to_le_bytes());
        table.extend_from_slice(&how.to_le_bytes());
        at += stored.len() as u64;
    };
    match compression {
        Compression::None => {
            let len = of.blocks as usize * B;
            let mut all = buffers.take(len);
            let there = file.read_at(all.space(), offset_of(0))?;
            // The memory held something else before.
            all.space()[there..].fill(0);
            all.as_ref().chunks(FRAME_BLOCKS as usize * B).for_each(|frame| note(RAW, frame));
            parts.push(all.part(0..len));
        }
        Compression::Zstd => {
            for frame in 0..frames(of.blocks) {
                let mut raw = vec![0; frame_bytes(of.blocks, frame)];
                file.read_at(&mut raw, offset_of(frame * FRAME_BLOCKS))?;
                let small = zstd::bulk::compress(&raw, LEVEL).ok().filter(|small| small.len() <= raw.len() / 10 * 9);
                let (how, stored) = small.map_or((RAW, raw), |small| (ZSTD, small));
                note(how, &stored);
                parts.push(stored.into());
            }
        }
    }
    let mut footer = Vec::with_capacity(FOOTER);
    footer.extend_from_slice(END);
    footer.extend_from_slice(&at.to_le_bytes());
    footer.extend_from_slice(&frames(of.blocks).to_le_bytes());
    footer.extend_from_slice(&crc32c::crc32c(&table).to_le_bytes());
    footer.extend_from_slice(&of.blocks.to_le_bytes());
    let crc = crc32c::crc32c(&footer);
    footer.extend_from_slice(&crc.to_le_bytes());
    parts.push(table.into());
    parts.push(footer.into());
    Ok(parts.into_iter().collect())
}

/// Reads the table and footer of a pack whose length and blocks are known; `tail` are the bytes of [`tail_range`].
pub(crate) fn parse_tail(pack: &Pack, tail: &[u8]) -> Result<Vec<Frame>, Malformed> {
    let count = frames(pack.blocks) as usize;
    if tail.len() != count * ENTRY + FOOTER || pack.bytes < (HEADER + tail.len()) as u64 {
        return Err(Malformed("length"));
    }
    let (table, footer) = tail.split_at(count * ENTRY);
    let mut r = Reader::new(footer);
    if r.take(8)? != END {
        return Err(Malformed("footer"));
    }
    let table_at = r.u64()?;
    if r.u32()? as usize != count || table_at != pack.bytes - tail.len() as u64 {
        return Err(Malformed("place of the table"));
    }
    if r.u32()? != crc32c::crc32c(table) {
        return Err(Malformed("checksum of the table"));
    }
    if r.u32()? != pack.blocks || r.u32()? != crc32c::crc32c(&footer[..FOOTER - 4]) {
        return Err(Malformed("checksum of the footer"));
    }
    let mut r = Reader::new(table);
    let (mut out, mut at) = (Vec::with_capacity(count), HEADER as u64);
    for n in 0..count as u32 {
        let frame = Frame { at, len: r.u32()?, crc: r.u32()?, how: r.u32()? };
        let raw = frame_bytes(pack.blocks, n);
        match frame.how {
            RAW if frame.len as usize == raw => {}
            ZSTD if (frame.len as usize) < raw => {}
            _ => return Err(Malformed("frame")),
        }
        at += u64::from(frame.len);
        out.push(frame);
    }
    if at != table_at {
        return Err(Malformed("frames"));
    }
    Ok(out)
}

/// The bytes of a frame as they were before it was stored; `raw_len` of them.
pub(crate) fn decode_frame(frame: &Frame, stored: Bytes, raw_len: usize) -> Result<Bytes, Malformed> {
    if stored.len() != frame.len as usize || crc32c::crc32c(&stored) != frame.crc {
        return Err(Malformed("checksum of a frame"));
    }
    match frame.how {
        RAW => Ok(stored),
        _ => match zstd::bulk::decompress(&stored, raw_len) {
            Ok(raw) if raw.len() == raw_len => Ok(raw.into()),
            _ => Err(Malformed("compressed frame")),
        },
    }
}

/// A pack as read whole: what it is of, and its frames.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) of: Of,
    frames: Vec<Frame>,
    bytes: Bytes,
}

impl Whole {
    /// The bytes of a frame, as they were before it was stored.
    pub(crate) fn frame(&self, n: u32) -> Result<Bytes, Malformed> {
        let frame = self.frames.get(n as usize).ok_or(Malformed("frame number"))?;
        decode_frame(frame, self.bytes.slice(frame.at as usize..frame.at as usize + frame.len as usize), frame_bytes(self.of.blocks, n))
    }
}

/// Reads a whole pack and checks every byte of it.
pub(crate) fn verify_whole(bytes: &Bytes) -> Result<Whole, Malformed> {
    let of = parse_header(bytes)?;
    let pack = Pack { blocks: of.blocks, bytes: bytes.len() as u64 };
    // A wrong number of blocks cannot get this far, but a length may be anything.
    let tail = tail_range(&pack);
    let tail = bytes.get(tail.start as usize..).ok_or(Malformed("length"))?;
    let whole = Whole { of, frames: parse_tail(&pack, tail)?, bytes: bytes.clone() };
    for n in 0..frames(of.blocks) {
        whole.frame(n)?;
    }
    Ok(whole)
}

/// Makes the checksums of a tail fit its contents, for the fuzz targets: what they guard is tried too.
pub(crate) fn fit_checksums(tail: &mut [u8]) {
    let Some(footer_at) = tail.len().checked_sub(FOOTER) else { return };
    let (table, footer) = tail.split_at_mut(footer_at);
    footer[20..24].copy_from_slice(&crc32c::crc32c(table).to_le_bytes());
    let crc = crc32c::crc32c(&footer[..FOOTER - 4]);
    footer[FOOTER - 4..].copy_from_slice(&crc.to_le_bytes());
}

/// Where packs go, and the memory that they are made in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) store: &'a Arc<dyn ObjectStore>,
    pub(crate) prefix: &'a str,
    pub(crate) volume: [u8; 16],
    pub(crate) buffers: &'a Arc<Buffers>,
}

/// What to make of an error that follows a refused creation: a store that is busy with another attempt refuses as if the
/// object were there, and if it is not, that is no answer yet.
pub(crate) fn undecided(e: Error) -> Error {
    match e {
        Error::NotFound { .. } => Error::Generic { store: "orlop", source: Box::new(e) },
        e => e,
    }
}

/// Puts a staged segment into the store, however long that takes. Doing it again is harmless: an object of its name holds
/// at least what its first maker had, and blocks are never changed.
pub(crate) async fn upload(
    patience: &Patience,
    target: &Target<'_>,
    segment: u64,
    id: &[u8; 16],
    file: Arc<dyn HostFile>,
    blocks: u32,
    compression: Compression,
) -> FsResult<Pack> {
    let store = target.store;
    let of = Of { volume: target.volume, segment, id: *id, blocks };
    let buffers = target.buffers.clone();
    let payload = blocking(move || encode(&of, &*file, compression, &buffers)).await.map_err(|e| host_error("reading a segment", &e))?;
    let path = path(target.prefix, id);
    let bytes = payload.content_length() as u64;
    let put = patience.for_ever(path.as_ref(), async || {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match store.put_opts(&path, payload.clone(), options).await {
            // The answer to an earlier attempt was lost, or a writer before us made it and did not get to say so.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                let there = async { store.get(&path).await?.bytes().await };
                match there.await {
                    Err(e) if BrokenSeal::find(&e).is_some() => Ok(Some(Err(FsError::Corrupt(e.to_string())))),
                    there => Ok(Some(Ok(there.map_err(undecided)?))),
                }
            }
            done => done.map(|_| None),
        }
    });
    let Some(there) = put.await?.map_err(|e| FsError::Io(format!("{path}: {e}")))? else { return Ok(Pack { blocks, bytes }) };
    let there = there?;
    let whole = verify_whole(&there).map_err(|e| FsError::Corrupt(format!("{path}: {e}")))?;
    if (Of { blocks, ..whole.of }) != of || whole.of.blocks < blocks {
        return Err(FsError::Corrupt(format!("{path}: it is of another segment, or of less of this one")));
    }
    Ok(Pack { blocks: whole.of.blocks, bytes: there.len() as u64 })
}

#[cfg(test)]
mod tests;
