//! Getting frames of packs out of a store, and telling a store that is away from an object that is damaged.
//!
//! A pack that is not there, is shorter than its row says, or whose seal or table is broken is damage: asking again gets
//! the same. A body that ends early is not: the next one may be whole.

use crate::log::patience::Patience;
use crate::pack::{self, Frame};
use crate::row::Pack;
use crate::types::{FsError, FsResult};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path as StorePath;
use object_store::{Error, GetOptions, GetResultPayload, ObjectStore, ObjectStoreExt};
use orlop_store::wrap::BrokenSeal;
use std::ops::Range;
use std::sync::Arc;

/// How often a frame that comes damaged is asked for.
const ATTEMPTS: u32 = 3;

/// A pack and how its row describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackAt {
    pub(crate) segment: u64,
    pub(crate) id: [u8; 16],
    pub(crate) pack: Pack,
}

/// What a pack's frames look like; none of it is needed if nothing in it is compressed.
pub(crate) type Table = Option<Arc<[Frame]>>;

/// Bytes on their way.
pub(crate) type Pieces<'a> = BoxStream<'a, object_store::Result<Bytes>>;

/// Bytes, or why there will never be any.
type Got<T> = Result<T, String>;

#[derive(Debug)]
pub(crate) struct Fetcher {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) prefix: String,
    pub(crate) patience: Arc<Patience>,
}

impl Fetcher {
    pub(crate) fn path(&self, id: &[u8; 16]) -> StorePath {
        pack::path(&self.prefix, id)
    }

    /// One attempt at a range of a pack.
    async fn try_range(&self, path: &StorePath, pack: &Pack, range: Range<u64>) -> object_store::Result<Got<Bytes>> {
        let want = range.end - range.start;
        match self.store.get_range(path, range).await {
            Ok(bytes) if bytes.len() as u64 == want => Ok(Ok(bytes)),
            Ok(bytes) => self.or_shorter(path, pack, ended(path, bytes.len() as u64, want)).await,
            Err(Error::NotFound { .. }) => Ok(Err("it is missing".to_owned())),
            Err(e) => match BrokenSeal::find(&e) {
                Some(broken) => Ok(Err(broken.why.clone())),
                None => self.or_shorter(path, pack, e).await,
            },
        }
    }

    /// A range behind the end of an object fails like anything else: whether the object is too short is asked for.
    async fn or_shorter<T>(&self, path: &StorePath, pack: &Pack, e: Error) -> object_store::Result<Got<T>> {
        match self.store.head(path).await {
            Ok(meta) if meta.size != pack.bytes => Ok(Err(format!("it has {} bytes, not {}", meta.size, pack.bytes))),
            Err(Error::NotFound { .. }) => Ok(Err("it is missing".to_owned())),
            _ => Err(e),
        }
    }

    /// A range of a pack, waiting for the store as the outage policy says.
    async fn range(&self, at: &PackAt, range: Range<u64>) -> FsResult<Bytes> {
        let path = self.path(&at.id);
        let got = self.patience.as_the_policy_says(path.as_ref(), async || self.try_range(&path, &at.pack, range.clone()).await);
        let got = got.await?.map_err(|e| FsError::Io(format!("{path}: {e}")))?;
        got.map_err(|why| damaged(&path, &why))
    }

    /// The table of a pack, if it needs one.
    pub(crate) async fn table(&self, at: &PackAt) -> FsResult<Table> {
        if pack::is_raw(&at.pack) {
            return Ok(None);
        }
        let mut attempt = 1;
        loop {
            let tail = self.range(at, pack::tail_range(&at.pack)).await?;
            match pack::parse_tail(&at.pack, &tail) {
                Ok(frames) => return Ok(Some(frames.into())),
                Err(e) if attempt == ATTEMPTS => return Err(damaged(&self.path(&at.id), &e.to_string())),
                Err(_) => attempt += 1,
            }
        }
    }

    /// Frames that follow each other, in one request, as they were before they were stored. Frames of a pack without a
    /// table come unchecked: those who read blocks check them.
    pub(crate) async fn frames(&self, at: &PackAt, table: &Table, frames: Range<u32>) -> FsResult<Vec<Bytes>> {
        let mut attempt = 1;
        loop {
            let bytes = self.range(at, extent(&at.pack, table, &frames)).await?;
            match split(&at.pack, table, &frames, &bytes) {
                Ok(out) => return Ok(out),
                Err(e) if attempt == ATTEMPTS => {
                    return Err(damaged(&self.path(&at.id), &format!("blocks from {}: {e}", frames.start * pack::FRAME_BLOCKS)));
                }
                Err(_) => attempt += 1,
            }
        }
    }

    /// The same in a single attempt, for those who can do without: in pieces of any length as they come, if the pack has no
    /// table, else frame by frame when all of them are there.
    pub(crate) async fn frames_if_easy<'a>(&self, at: &'a PackAt, table: &'a Table, frames: &Range<u32>) -> Option<Pieces<'a>> {
        let (path, range) = (self.path(&at.id), extent(&at.pack, table, frames));
        if table.is_some() {
            let bytes = self.store.get_range(&path, range).await.ok()?;
            let frames = split(&at.pack, table, frames, &bytes).ok()?;
            return Some(stream::iter(frames.into_iter().map(Ok)).boxed());
        }
        let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
        let got = self.store.get_opts(&path, options).await.ok().filter(|got| got.range == range)?;
        // A file would come in pieces of a few KiB, and one that became shorter would never end.
        if matches!(got.payload, GetResultPayload::File(..)) {
            return Some(stream::once(got.bytes()).boxed());
        }
        Some(got.into_stream())
    }

    /// A whole pack, every byte of it checked.
    pub(crate) async fn whole(&self, at: &PackAt) -> FsResult<pack::Whole> {
        let path = self.path(&at.id);
        let mut attempt = 1;
        loop {
            let ask = async || match async { self.store.get(&path).await?.bytes().await }.await {
                Ok(bytes) if bytes.len() as u64 == at.pack.bytes => Ok(Ok(bytes)),
                Ok(bytes) => self.or_shorter(&path, &at.pack, ended(&path, bytes.len() as u64, at.pack.bytes)).await,
                Err(e) => match BrokenSeal::find(&e) {
                    Some(broken) => Ok(Err(broken.why.clone())),
                    None => Err(e),
                },
            };
            let got = self.patience.as_the_policy_says(path.as_ref(), ask).await?;
            let got = got.map_err(|_| damaged(&path, "it is missing"))?.map_err(|why| damaged(&path, &why))?;
            match pack::verify_whole(&got) {
                Ok(whole) => return Ok(whole),
                Err(e) if attempt == ATTEMPTS => return Err(damaged(&path, &e.to_string())),
                Err(_) => attempt += 1,
            }
        }
    }
}

fn ended(path: &StorePath, got: u64, want: u64) -> Error {
    Error::Generic { store: "packs", source: format!("{path}: the answer ended after {got} of {want} bytes").into() }
}

pub(crate) fn damaged(path: &StorePath, why: &str) -> FsError {
    let e = FsError::Corrupt(format!("{path}: {why}"));
    tracing::error!(error = %e, "a pack is damaged");
    e
}

/// Where frames that follow each other lie.
fn extent(pack: &Pack, table: &Table, frames: &Range<u32>) -> Range<u64> {
    match table {
        None => pack::raw_range(frames.start * pack::FRAME_BLOCKS..(frames.end * pack::FRAME_BLOCKS).min(pack.blocks)),
        Some(table) => {
            let last = table[frames.end as usize - 1];
            table[frames.start as usize].at..last.at + u64::from(last.len)
        }
    }
}

fn split(pack: &Pack, table: &Table, frames: &Range<u32>, bytes: &Bytes) -> Result<Vec<Bytes>, crate::codec::Malformed> {
    let mut at = 0;
    let mut out = Vec::with_capacity(frames.len());
    for n in frames.clone() {
        let raw = pack::frame_bytes(pack.blocks, n);
        let len = table.as_ref().map_or(raw, |t| t[n as usize].len as usize);
        if at + len > bytes.len() {
            return Err(crate::codec::Malformed("length"));
        }
        let stored = bytes.slice(at..at + len);
        out.push(match table {
            None => stored,
            Some(table) => pack::decode_frame(&table[n as usize], stored, raw)?,
        });
        at += len;
    }
    Ok(out)
}
