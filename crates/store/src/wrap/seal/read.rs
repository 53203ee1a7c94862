//! Reading a sealed object: which of its bytes are fetched, and how they become what was asked for.
//!
//! A whole object is one request. A range is one if the object's header is known or lies in it, else two at once.
//! A frame that does not open is fetched once more, with the header: what a connection garbled heals, what the store
//! holds wrong is an error that nobody retries.

use super::error::{BrokenSeal, broken, disturbed};
use super::format::{Cipher, FRAME, HEADER, Header, SEALED_FRAME, TAG, frame_at, frames, plain_size};
use super::known::{Known, Version};
use super::source::Source;
use super::{Inner, kind_of};
use bytes::{Buf, Bytes};
use futures::StreamExt;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStoreExt, Result};
use std::ops::Range;
use std::sync::Arc;

/// How often an object that is replaced while it is read is read anew.
const ATTEMPTS: usize = 8;

/// The plain size of an object, or what is wrong with it.
pub(super) fn size_of(raw: &ObjectMeta) -> Result<u64> {
    plain_size(raw.size).ok_or_else(|| broken(&raw.location, format!("no sealed object has {} bytes: it was cut or damaged", raw.size)))
}

/// Answers for an object that is sealed.
pub(super) async fn get(seal: &Arc<Inner>, at: &Path, options: GetOptions) -> Result<GetResult> {
    if options.head {
        return head(seal, at, options).await;
    }
    let Some(wanted) = options.range.clone() else {
        let raw = seal.store.get_opts(at, options).await?;
        let (meta, size) = (raw.meta.clone(), size_of(&raw.meta)?);
        let (mut body, result) = open_result(raw);
        let header = body.take(at, HEADER).await?;
        let parsed = match Header::parse(&header) {
            Ok(header) => header,
            Err(_) => header_again(seal, at, &meta).await?,
        };
        return result.finish(seal, at, parsed, body, 0..size, size, 0);
    };
    if let GetRange::Bounded(range) = &wanted
        && range.start >= range.end
    {
        return Err(impossible(at, &wanted, None));
    }
    for _ in 0..ATTEMPTS {
        let known = seal.headers.get(at.as_ref());
        match ranged(seal, at, &options, &wanted, known).await {
            Ok(Some(result)) => return Ok(result),
            Ok(None) => seal.headers.forget(at.as_ref()),
            Err(e) => return Err(cut_or(seal, at, &wanted, e).await),
        }
    }
    Err(disturbed(at, "it was replaced again and again while it was read"))
}

/// A range behind the end of an object fails in the store like an outage, and would be asked for again and again: whether the
/// object is too short for it is asked for.
async fn cut_or(seal: &Inner, at: &Path, wanted: &GetRange, e: Error) -> Error {
    if !matches!(e, Error::Generic { .. }) || BrokenSeal::find(&e).is_some() {
        return e;
    }
    match seal.store.head(at).await.map(|raw| size_of(&raw)) {
        Ok(Ok(size)) if wanted.as_range(size).is_err() => impossible(at, wanted, Some(size)),
        Ok(Err(cut)) => cut,
        _ => e,
    }
}

/// Metadata only. An object that claims to be empty is opened, once: emptiness means something to who reads it.
async fn head(seal: &Arc<Inner>, at: &Path, options: GetOptions) -> Result<GetResult> {
    let range = options.range.clone();
    let mut result = seal.store.get_opts(at, GetOptions { range: None, ..options }).await?;
    let size = size_of(&result.meta)?;
    if size == 0 {
        prove_empty(seal, &result.meta).await?;
    }
    result.meta.size = size;
    result.range = match range {
        Some(wanted) => plain_range(at, &wanted, size)?,
        None => 0..size,
    };
    Ok(result)
}

/// Opens the one frame of an object whose size says that it is empty.
pub(super) async fn prove_empty(seal: &Arc<Inner>, raw: &ObjectMeta) -> Result<()> {
    let (at, version) = (&raw.location, Version::of(raw));
    if seal.headers.get(at.as_ref()).is_some_and(|known| known.empty && known.version == version) {
        return Ok(());
    }
    let options = GetOptions { version: raw.version.clone(), ..GetOptions::default() };
    let got = seal.store.get_opts(at, options).await?;
    if Version::of(&got.meta) != version {
        return Err(disturbed(at, "it was replaced while it was looked at"));
    }
    let mut body = Source::new(got);
    let header = Header::parse(&body.take(at, HEADER).await?).map_err(|why| broken(at, why))?;
    let mut frame = body.take(at, TAG).await?;
    if !cipher(seal, at, header)?.open(0, true, &mut frame) {
        return Err(unopened(at, 0, 1));
    }
    seal.headers.put(at.as_ref(), Known { version, header, empty: true });
    Ok(())
}

/// One attempt at a range. `None`: what was known of the object, or half of the answer, is of another version.
async fn ranged(seal: &Arc<Inner>, at: &Path, options: &GetOptions, wanted: &GetRange, known: Option<Known>) -> Result<Option<GetResult>> {
    let bounded = |range: Range<u64>| {
        let end = frame_at((range.end - 1) / FRAME).saturating_add(SEALED_FRAME);
        (frame_at(range.start / FRAME), end)
    };
    let with = |range: GetRange| GetOptions { range: Some(range), ..options.clone() };
    if let Some(known) = known {
        let Some(size) = plain_size(known.version.size()) else { return Ok(None) };
        // An invalid range of the known version may be a good one of a newer one.
        let Some(range) = plain_range(at, wanted, size).ok().filter(|r| !r.is_empty()) else { return Ok(None) };
        let (start, end) = bounded(range.clone());
        let raw = seal.store.get_opts(at, with(GetRange::Bounded(start..end.min(known.version.size())))).await?;
        if Version::of(&raw.meta) != known.version {
            return Ok(None);
        }
        let (body, result) = open_result(raw);
        return result.finish(seal, at, known.header, body, range.clone(), size, range.start / FRAME).map(Some);
    }
    let asked = match wanted {
        GetRange::Bounded(range) if range.start < FRAME => GetRange::Bounded(0..bounded(range.clone()).1),
        GetRange::Bounded(range) => {
            let (start, end) = bounded(range.clone());
            GetRange::Bounded(start..end)
        }
        GetRange::Offset(from) if *from < FRAME => GetRange::Offset(0),
        GetRange::Offset(from) => GetRange::Offset(frame_at(from / FRAME)),
        // Where frames begin is known with the size only: what covers the end in any case.
        GetRange::Suffix(n) => GetRange::Suffix((n.div_ceil(FRAME) + 1).saturating_mul(SEALED_FRAME).saturating_add(HEADER)),
    };
    let begins = matches!(&asked, GetRange::Bounded(Range { start: 0, .. }) | GetRange::Offset(0));
    let main = seal.store.get_opts(at, with(asked));
    let (raw, header) = if begins {
        (main.await?, None)
    } else {
        let (raw, header) = futures::future::join(main, fetch_header(seal, at, options.version.clone())).await;
        (raw?, Some(header))
    };
    let size = size_of(&raw.meta)?;
    let range = plain_range(at, wanted, size)?;
    let (version, meta, came_from) = (Version::of(&raw.meta), raw.meta.clone(), raw.range.start);
    let (mut body, result) = open_result(raw);
    let (header, passed) = if came_from == 0 {
        let parsed = Header::parse(&body.take(at, HEADER).await?);
        (if let Ok(header) = parsed { header } else { header_again(seal, at, &meta).await? }, HEADER)
    } else {
        let Some(header) = header else { return Err(disturbed(at, "the store answered for another range than it was asked for")) };
        let (of, header) = header?;
        if of != version {
            return Ok(None);
        }
        (if let Ok(header) = header { header } else { header_again(seal, at, &meta).await? }, came_from)
    };
    let first = if range.is_empty() { frames(size) - 1 } else { range.start / FRAME };
    let Some(ahead) = frame_at(first).checked_sub(passed) else {
        return Err(disturbed(at, "the store answered for another range than it was asked for"));
    };
    body.skip(at, ahead).await?;
    result.finish(seal, at, header, body, range, size, first).map(Some)
}

async fn fetch_header(seal: &Inner, at: &Path, version: Option<String>) -> Result<(Version, Result<Header, String>)> {
    let options = GetOptions { range: Some(GetRange::Bounded(0..HEADER)), version, ..GetOptions::default() };
    let got = seal.store.get_opts(at, options).await?;
    let version = Version::of(&got.meta);
    let bytes = got.bytes().await?;
    Ok((version, Header::parse(&bytes)))
}

/// A header that was not one is read once more before the object counts as damaged.
async fn header_again(seal: &Inner, at: &Path, meta: &ObjectMeta) -> Result<Header> {
    let (version, header) = fetch_header(seal, at, meta.version.clone()).await?;
    if version != Version::of(meta) {
        return Err(disturbed(at, "it was replaced while it was read"));
    }
    header.map_err(|why| broken(at, why))
}

fn cipher(seal: &Inner, at: &Path, header: Header) -> Result<Cipher> {
    let keys = Arc::clone(&seal.keys.read().expect("no code panics while it holds this lock"));
    keys.cipher(header, kind_of(at, seal.depth)).ok_or_else(|| {
        broken(at, format!("it is sealed with key {}, which the volume's ring does not have, or its header is damaged", header.key()))
    })
}

fn unopened(at: &Path, frame: u64, of: u64) -> Error {
    broken(at, format!("frame {} of {of} is not what was written (its authentication fails)", frame + 1))
}

fn plain_range(at: &Path, wanted: &GetRange, size: u64) -> Result<Range<u64>> {
    wanted.as_range(size).map_err(|_| impossible(at, wanted, Some(size)))
}

fn impossible(at: &Path, wanted: &GetRange, size: Option<u64>) -> Error {
    match size {
        // Whoever asks knows what there should be.
        Some(size) => broken(at, format!("it has {size} bytes and no range {wanted:?}: it was cut, or is another one")),
        None => Error::Generic { store: "seal", source: format!("object {at} has no range {wanted:?}").into() },
    }
}

/// An answer whose body was taken out.
struct Opened {
    result: GetResult,
}

fn open_result(mut raw: GetResult) -> (Source, Opened) {
    let payload = std::mem::replace(&mut raw.payload, GetResultPayload::Stream(futures::stream::empty().boxed()));
    let (meta, range) = (raw.meta.clone(), raw.range.clone());
    let body = GetResult { payload, meta, range, attributes: Default::default(), extensions: Default::default() };
    (Source::new(body), Opened { result: raw })
}

impl Opened {
    /// The answer with plain bytes: `body` stands at the frame `first`.
    #[allow(clippy::too_many_arguments)]
    fn finish(
        self,
        seal: &Arc<Inner>,
        at: &Path,
        header: Header,
        body: Source,
        range: Range<u64>,
        size: u64,
        first: u64,
    ) -> Result<GetResult> {
        let mut result = self.result;
        let meta = result.meta.clone();
        seal.headers.put(at.as_ref(), Known { version: Version::of(&meta), header, empty: false });
        let cipher = cipher(seal, at, header)?;
        // An empty object has one frame, which is opened like any other.
        let behind = if size == 0 {
            1
        } else if range.is_empty() {
            first
        } else {
            range.end.div_ceil(FRAME)
        };
        let opening = Opening { seal: Arc::clone(seal), meta, cipher, body, range: range.clone(), size, next: first, behind };
        result.meta.size = size;
        result.range = range;
        result.payload = GetResultPayload::Stream(futures::stream::try_unfold(opening, Opening::step).boxed());
        Ok(result)
    }
}

/// Frames being opened one after the other.
struct Opening {
    seal: Arc<Inner>,
    meta: ObjectMeta,
    cipher: Cipher,
    body: Source,
    /// Plain bytes that were asked for.
    range: Range<u64>,
    size: u64,
    next: u64,
    behind: u64,
}

impl Opening {
    async fn step(mut self) -> Result<Option<(Bytes, Opening)>> {
        if self.next >= self.behind {
            return Ok(None);
        }
        let (frame, count) = (self.next, frames(self.size));
        let start = frame * FRAME;
        let len = (self.size - start).min(FRAME) + TAG;
        let last = frame + 1 == count;
        let mut text = self.body.take(&self.meta.location, len).await?;
        if !self.cipher.open(frame, last, &mut text) {
            text = self.again(frame, len).await?;
            if !self.cipher.open(frame, last, &mut text) {
                return Err(unopened(&self.meta.location, frame, count));
            }
            tracing::warn!(object = %self.meta.location, frame, "a frame came garbled from the store and was right the second time");
        }
        self.next += 1;
        text.truncate((self.range.end - start).min(FRAME) as usize);
        text.advance(self.range.start.saturating_sub(start).min(text.len() as u64) as usize);
        Ok(Some((text.freeze(), self)))
    }

    /// The frame once more, and the cipher from the header as it is read now.
    async fn again(&mut self, frame: u64, len: u64) -> Result<bytes::BytesMut> {
        let at = self.meta.location.clone();
        self.cipher = cipher(&self.seal, &at, header_again(&self.seal, &at, &self.meta).await?)?;
        let start = frame_at(frame);
        let options =
            GetOptions { range: Some(GetRange::Bounded(start..start + len)), version: self.meta.version.clone(), ..GetOptions::default() };
        let got = self.seal.store.get_opts(&at, options).await?;
        if Version::of(&got.meta) != Version::of(&self.meta) {
            return Err(disturbed(&at, "it was replaced while it was read"));
        }
        let header = *self.cipher.header();
        self.seal.headers.put(at.as_ref(), Known { version: Version::of(&self.meta), header, empty: false });
        Source::new(got).take(&at, len).await
    }
}

/// Reads a whole object, for the rare copies that have to be sealed anew.
pub(super) async fn whole(seal: &super::Seal, at: &Path) -> Result<Bytes> {
    seal.get(at).await?.bytes().await
}
