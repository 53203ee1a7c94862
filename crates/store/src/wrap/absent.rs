//! A store of which it is known that some objects are never there: nobody has to ask for them.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, RenameOptions, Result,
};
use std::ops::Range;
use std::sync::Arc;

/// Answers reads of objects that are never written with [`Error::NotFound`], and passes everything else on.
#[derive(Debug)]
pub struct Absent {
    inner: Arc<dyn ObjectStore>,
    is_absent: fn(&Path) -> bool,
}

impl Absent {
    /// `is_absent` says of which objects it is known. Writing one all the same is refused: it could not be read again.
    pub fn wrap(inner: Arc<dyn ObjectStore>, is_absent: fn(&Path) -> bool) -> Arc<Absent> {
        Arc::new(Absent { inner, is_absent })
    }

    fn look(&self, at: &Path) -> Result<()> {
        if (self.is_absent)(at) {
            return Err(Error::NotFound { path: at.to_string(), source: "such an object is never written".into() });
        }
        Ok(())
    }

    fn write(&self, at: &Path) -> Result<()> {
        self.look(at).map_err(|e| Error::PermissionDenied { path: at.to_string(), source: Box::new(e) })
    }
}

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Absent {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.write(location)?;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.write(location)?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.look(location)?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.look(location)?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.look(from)?;
        self.write(to)?;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.look(from)?;
        self.write(to)?;
        self.inner.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrap::Meter;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn it_is_a_store_like_any_other() {
        crate::testing::run(|| Absent::wrap(Arc::new(InMemory::new()), |_| false) as Arc<dyn ObjectStore>).await;
    }

    #[tokio::test]
    async fn what_is_never_there_costs_no_request_and_is_not_written() {
        let meter = Meter::wrap(Arc::new(InMemory::new()));
        let store = Absent::wrap(meter.clone(), |at| at.as_ref().ends_with(".boundary"));
        let (at, other) = (Path::from("meta/gc/manifest.boundary"), Path::from("meta/gc/other"));
        assert!(matches!(store.get(&at).await, Err(Error::NotFound { .. })));
        assert!(matches!(store.head(&at).await, Err(Error::NotFound { .. })));
        assert!(matches!(store.put(&at, "x".into()).await, Err(Error::PermissionDenied { .. })));
        assert_eq!(meter.hook().counts(), Default::default());
        store.put(&other, "x".into()).await.expect("put");
        assert_eq!(store.get(&other).await.expect("there").bytes().await.expect("bytes"), "x");
        let counts = meter.hook().counts();
        assert_eq!((counts.writes, counts.reads, counts.failed), (1, 1, 0));
    }
}
