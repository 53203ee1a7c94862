//! Seals what goes into a store and opens what comes out of it (obligation 9 of the design).
//!
//! Callers see plain bytes and plain sizes; the store sees sealed objects, docs/FORMAT.md "Sealed objects". Conditions,
//! tags and attributes pass. Two objects directly below the volume's prefix stay plain, since they are read before any
//! key is known: `volume.json` and `keys.json`.
//!
//! A frame opens only in its object, at its place, in an object of the same *kind*: the first folder below the prefix.
//! The path itself is not bound, since clones copy files of the namespace under other names.

mod error;
mod format;
mod known;
mod read;
mod source;
#[cfg(test)]
mod tests;
mod upload;

pub use error::BrokenSeal;
pub use format::{FRAME, SealKeys};

use async_trait::async_trait;
use bytes::Bytes;
use format::{plain_size, sealed_size};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use known::{Headers, Known, Version};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, RenameTargetMode, Result,
};
use std::sync::{Arc, RwLock};

/// Objects directly below a volume's prefix that are not sealed.
const PLAIN: [&str; 2] = ["volume.json", "keys.json"];
/// Above this size an object is sealed on a thread of its own, so that nothing else waits.
const INLINE: usize = 256 << 10;
/// Listed objects that are opened at once because they claim to be empty.
const LOOKS: usize = 8;

/// A store whose objects are sealed.
#[derive(Debug, Clone)]
pub struct Seal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ObjectStore>,
    /// How many folders the volume's prefix has: what comes next in a path is the object's kind, in a parent's too.
    depth: usize,
    keys: RwLock<Arc<SealKeys>>,
    headers: Headers,
}

/// The first folder below the prefix, or the name of an object that is in none.
fn kind_of(at: &Path, depth: usize) -> &str {
    at.as_ref().split('/').nth(depth).unwrap_or_default()
}

impl Seal {
    /// Seals what is below `prefix` in a store.
    pub fn wrap(store: Arc<dyn ObjectStore>, prefix: &str, keys: SealKeys) -> Arc<Seal> {
        let inner =
            Inner { store, depth: Path::from(prefix).parts_count(), keys: RwLock::new(Arc::new(keys)), headers: Headers::default() };
        Arc::new(Seal { inner: Arc::new(inner) })
    }

    /// Other keys from now on: new objects are sealed with the new ring's current key.
    pub fn set_keys(&self, keys: SealKeys) {
        *self.inner.keys.write().expect("no code panics while it holds this lock") = Arc::new(keys);
    }

    fn is_plain(&self, at: &Path) -> bool {
        let kind = kind_of(at, self.inner.depth);
        PLAIN.contains(&kind) && at.parts_count() == self.inner.depth + 1
    }

    fn kind<'a>(&self, at: &'a Path) -> &'a str {
        kind_of(at, self.inner.depth)
    }

    fn begin(&self, at: &Path) -> format::Cipher {
        let keys = Arc::clone(&self.inner.keys.read().expect("no code panics while it holds this lock"));
        keys.begin(self.kind(at))
    }

    /// Remembers an object that this process wrote, so that reading it is one request.
    fn remember(&self, at: &Path, header: format::Header, plain: u64, put: &PutResult) {
        match &put.e_tag {
            Some(tag) => {
                let version = Version::written(sealed_size(plain), tag.clone());
                self.inner.headers.put(at.as_ref(), Known { version, header, empty: plain == 0 });
            }
            None => self.inner.headers.forget(at.as_ref()),
        }
    }

    /// An object of a listing, with its plain size. What cannot be a sealed object, or claims to be empty and is not,
    /// has some size that is not zero: whoever reads it is told what is wrong. `None`: it is gone by now.
    async fn listed(self, mut meta: ObjectMeta) -> Result<Option<ObjectMeta>> {
        if self.is_plain(&meta.location) {
            return Ok(Some(meta));
        }
        meta.size = match plain_size(meta.size) {
            Some(0) => match read::prove_empty(&self.inner, &meta).await {
                Ok(()) => 0,
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(e) if BrokenSeal::find(&e).is_some() => {
                    tracing::warn!("{e}");
                    1
                }
                Err(e) => return Err(e),
            },
            Some(plain) => plain,
            None => meta.size.max(1),
        };
        Ok(Some(meta))
    }

    fn listing(&self, raw: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        let seal = self.clone();
        raw.map(move |meta| {
            let seal = seal.clone();
            async move { seal.listed(meta?).await }
        })
        .buffered(LOOKS)
        .try_filter_map(|meta| async move { Ok(meta) })
        .boxed()
    }

    /// Whether an object can be had under another path as it is.
    fn travels(&self, from: &Path, to: &Path) -> bool {
        self.is_plain(from) == self.is_plain(to) && (self.is_plain(from) || self.kind(from) == self.kind(to))
    }

    async fn copy_anew(&self, from: &Path, to: &Path, mode: PutMode) -> Result<()> {
        let bytes: Bytes = read::whole(self, from).await?;
        self.put_opts(to, bytes.into(), mode.into()).await.map(drop)
    }
}

impl std::fmt::Display for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, sealed", self.inner.store)
    }
}

#[async_trait]
impl ObjectStore for Seal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if self.is_plain(location) {
            return self.inner.store.put_opts(location, payload, opts).await;
        }
        let (cipher, plain) = (self.begin(location), payload.content_length());
        let header = *cipher.header();
        let sealed = if plain <= INLINE {
            cipher.seal_all(payload)
        } else {
            tokio::task::spawn_blocking(move || cipher.seal_all(payload))
                .await
                .map_err(|source| object_store::Error::JoinError { source })?
        };
        let put = self.inner.store.put_opts(location, sealed, opts).await?;
        self.remember(location, header, plain as u64, &put);
        Ok(put)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.inner.store.put_multipart_opts(location, opts).await?;
        if self.is_plain(location) {
            return Ok(upload);
        }
        Ok(Box::new(upload::SealedUpload::new(upload, self.begin(location))))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if self.is_plain(location) {
            return self.inner.store.get_opts(location, options).await;
        }
        read::get(&self.inner, location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let inner = Arc::clone(&self.inner);
        let locations = locations.inspect_ok(move |at| inner.headers.forget(at.as_ref()));
        self.inner.store.delete_stream(locations.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(self.inner.store.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(self.inner.store.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut found = self.inner.store.list_with_delimiter(prefix).await?;
        let objects = std::mem::take(&mut found.objects);
        found.objects = self.listing(futures::stream::iter(objects.into_iter().map(Ok)).boxed()).try_collect().await?;
        Ok(found)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        if self.travels(from, to) {
            return self.inner.store.copy_opts(from, to, options).await;
        }
        let mode = match options.mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        self.copy_anew(from, to, mode).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        if self.travels(from, to) {
            return self.inner.store.rename_opts(from, to, options).await;
        }
        let mode = match options.target_mode {
            RenameTargetMode::Overwrite => PutMode::Overwrite,
            RenameTargetMode::Create => PutMode::Create,
        };
        self.copy_anew(from, to, mode).await?;
        self.delete(from).await
    }
}
