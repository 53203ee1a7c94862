//! What can be put around a store: one wrapper, [`Hooked`], and hooks that count, fail, delay or record.
//!
//! Backends stay naive. A hook sees every call before it is made and may refuse it, sees how it ended, and may
//! change what a read returns. Order, from the outside in: [`Meter`] (counts what the caller did), [`Fault`] (what
//! the caller suffers), [`Record`] (what really reached the store). [`Seal`] is no hook: it changes the bytes both ways,
//! and goes outside of all of them, so that they see what the store sees.

mod absent;
mod fault;
mod guard;
mod meter;
mod record;
mod seal;
mod swap;

pub use absent::Absent;
pub use fault::{Damage, Fault, Plan};
pub use guard::guard;
pub use meter::{Counts, Meter};
pub use record::{Mutation, Record};
pub use seal::{BrokenSeal, FRAME, Seal, SealKeys};
pub use swap::Swap;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyMode, CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use std::ops::Range;
use std::sync::Arc;

/// A call to a store.
#[derive(Debug, Clone)]
pub enum Op {
    /// Writes an object whole.
    Put {
        /// Where.
        at: Path,
        /// Its bytes.
        payload: PutPayload,
        /// Under which condition.
        mode: PutMode,
    },
    /// Begins a multipart upload.
    Begin {
        /// Where its object will be.
        at: Path,
    },
    /// Sends a part; no object is visible yet.
    Part {
        /// Where its object will be.
        at: Path,
        /// How many bytes.
        len: u64,
    },
    /// Ends a multipart upload: the object appears.
    Complete {
        /// Where.
        at: Path,
        /// The parts, joined; empty if the hook does not keep them.
        payload: PutPayload,
    },
    /// Reads an object, a range of it, or only its metadata.
    Get {
        /// Which.
        at: Path,
        /// Whether only its metadata.
        head: bool,
    },
    /// Lists a prefix.
    List {
        /// Which; none is everything.
        prefix: Option<Path>,
    },
    /// Deletes an object.
    Delete {
        /// Which.
        at: Path,
    },
    /// Copies an object within the store.
    Copy {
        /// From where.
        from: Path,
        /// To where.
        to: Path,
        /// Whether it replaces.
        overwrite: bool,
    },
    /// Renames an object within the store.
    Rename {
        /// From where.
        from: Path,
        /// To where.
        to: Path,
    },
}

impl Op {
    /// Whether it may change what the store holds, as seen by a reader.
    pub fn mutates(&self) -> bool {
        match self {
            Op::Put { .. } | Op::Complete { .. } | Op::Delete { .. } | Op::Copy { .. } | Op::Rename { .. } => true,
            Op::Begin { .. } | Op::Part { .. } | Op::Get { .. } | Op::List { .. } => false,
        }
    }

    /// The object or prefix that it is about.
    pub fn path(&self) -> String {
        match self {
            Op::Put { at, .. } | Op::Begin { at } | Op::Part { at, .. } | Op::Complete { at, .. } => at.to_string(),
            Op::Get { at, .. } | Op::Delete { at } => at.to_string(),
            Op::List { prefix } => prefix.as_ref().map(ToString::to_string).unwrap_or_default(),
            Op::Copy { to, .. } | Op::Rename { to, .. } => to.to_string(),
        }
    }
}

/// What looks at, refuses, or changes the calls of a [`Hooked`] store.
#[async_trait]
pub trait Hook: std::fmt::Debug + Send + Sync + 'static {
    /// Before the call. An error is the caller's answer, and the store is not asked.
    async fn before(&self, _op: &Op) -> Result<()> {
        Ok(())
    }

    /// After the call, with the bytes that it moved. An error replaces a success: the caller does not learn that the
    /// change was made.
    async fn after(&self, _op: &Op, _bytes: u64, _ok: bool) -> Result<()> {
        Ok(())
    }

    /// Whether [`Op::Complete`] is to have the bytes of the parts. They are then held in memory until the upload ends.
    fn keeps_parts(&self) -> bool {
        false
    }

    /// Whether [`Hook::change`] wants the bytes of this read. They are then held in memory whole.
    fn reads(&self) -> bool {
        false
    }

    /// What a read of `range` of the object returns instead of `bytes`.
    fn change(&self, _at: &Path, _range: Range<u64>, bytes: Bytes) -> Result<Bytes> {
        Ok(bytes)
    }
}

/// A store with a hook around it.
#[derive(Debug)]
pub struct Hooked<H> {
    inner: Arc<dyn ObjectStore>,
    hook: Arc<H>,
}

impl<H> Clone for Hooked<H> {
    fn clone(&self) -> Self {
        Hooked { inner: Arc::clone(&self.inner), hook: Arc::clone(&self.hook) }
    }
}

impl<H: Hook> Hooked<H> {
    /// Puts the hook around the store.
    pub fn new(inner: Arc<dyn ObjectStore>, hook: Arc<H>) -> Arc<Self> {
        Arc::new(Hooked { inner, hook })
    }

    /// The hook.
    pub fn hook(&self) -> &Arc<H> {
        &self.hook
    }

    async fn call<T>(&self, op: Op, bytes: impl Fn(&T) -> u64, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.hook.before(&op).await?;
        let done = work.await;
        self.hook.after(&op, done.as_ref().map(bytes).unwrap_or(0), done.is_ok()).await?;
        done
    }
}

impl<H> std::fmt::Display for Hooked<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl<H: Hook> ObjectStore for Hooked<H> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let len = payload.content_length() as u64;
        let op = Op::Put { at: location.clone(), payload: payload.clone(), mode: opts.mode.clone() };
        self.call(op, |_| len, self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let op = Op::Begin { at: location.clone() };
        let inner = self.call(op, |_| 0, self.inner.put_multipart_opts(location, opts)).await?;
        Ok(Box::new(HookedUpload { inner, hook: Arc::clone(&self.hook), at: location.clone(), parts: Vec::new() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        let op = Op::Get { at: location.clone(), head };
        let size = |g: &GetResult| if head { 0 } else { g.range.end - g.range.start };
        let got = self.call(op, size, self.inner.get_opts(location, options)).await?;
        if head || !self.hook.reads() {
            return Ok(got);
        }
        let (meta, range) = (got.meta.clone(), got.range.clone());
        let bytes = self.hook.change(location, range.clone(), got.bytes().await?)?;
        let payload = GetResultPayload::Stream(futures::stream::once(async move { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::default(), extensions: Default::default() })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let op = Op::Get { at: location.clone(), head: false };
        let sum = |all: &Vec<Bytes>| all.iter().map(|b| b.len() as u64).sum();
        let got = self.call(op, sum, self.inner.get_ranges(location, ranges)).await?;
        if !self.hook.reads() {
            return Ok(got);
        }
        got.into_iter().zip(ranges).map(|(bytes, range)| self.hook.change(location, range.clone(), bytes)).collect()
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .map(move |location| {
                let this = this.clone();
                async move {
                    let location = location?;
                    this.call(Op::Delete { at: location.clone() }, |()| 0, this.inner.delete(&location)).await?;
                    Ok(location)
                }
            })
            .buffered(10)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let op = Op::List { prefix: prefix.cloned() };
        self.call(op, |_| 0, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let op = Op::Copy { from: from.clone(), to: to.clone(), overwrite: options.mode == CopyMode::Overwrite };
        self.call(op, |()| 0, self.inner.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let op = Op::Rename { from: from.clone(), to: to.clone() };
        self.call(op, |()| 0, self.inner.rename_opts(from, to, options)).await
    }
}

impl<H: Hook> Hooked<H> {
    /// A listing that starts once the hook has agreed.
    fn listing(&self, prefix: Option<&Path>, inner: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (hook, op) = (Arc::clone(&self.hook), Op::List { prefix: prefix.cloned() });
        futures::stream::once(async move {
            hook.before(&op).await?;
            hook.after(&op, 0, true).await?;
            Ok::<_, object_store::Error>(inner)
        })
        .try_flatten()
        .boxed()
    }
}

/// A multipart upload whose parts and end the hook sees.
#[derive(Debug)]
struct HookedUpload<H> {
    inner: Box<dyn MultipartUpload>,
    hook: Arc<H>,
    at: Path,
    parts: Vec<Bytes>,
}

#[async_trait]
impl<H: Hook> MultipartUpload for HookedUpload<H> {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let len = data.content_length() as u64;
        if self.hook.keeps_parts() {
            self.parts.extend(data.iter().cloned());
        }
        let (hook, op) = (Arc::clone(&self.hook), Op::Part { at: self.at.clone(), len });
        let sent = self.inner.put_part(data);
        async move {
            hook.before(&op).await?;
            let done = sent.await;
            hook.after(&op, len, done.is_ok()).await?;
            done
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let op = Op::Complete { at: self.at.clone(), payload: self.parts.iter().cloned().collect() };
        self.hook.before(&op).await?;
        let done = self.inner.complete().await;
        self.hook.after(&op, 0, done.is_ok()).await?;
        done
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
