//! A store that can be exchanged under those who use it, for the same place reached another way. Requests and listings
//! under way end as they began.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result,
};
use std::ops::Range;
use std::sync::{Arc, RwLock};

/// The store that is used now, and may be another one at the next request.
#[derive(Debug)]
pub struct Swap {
    now: RwLock<Arc<dyn ObjectStore>>,
}

impl Swap {
    /// Uses this one first.
    pub fn new(store: Arc<dyn ObjectStore>) -> Arc<Swap> {
        Arc::new(Swap { now: RwLock::new(store) })
    }

    /// Uses this one from now on. It must be the same place.
    pub fn set(&self, store: Arc<dyn ObjectStore>) {
        *self.now.write().expect("no code panics while it holds this lock") = store;
    }

    fn now(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.now.read().expect("no code panics while it holds this lock"))
    }
}

impl std::fmt::Display for Swap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.now().fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Swap {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.now().put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.now().put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.now().get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.now().get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.now().delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.now().list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.now().list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.now().list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.now().copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.now().rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn it_is_a_store_like_any_other() {
        crate::testing::run(|| Swap::new(Arc::new(InMemory::new())) as Arc<dyn ObjectStore>).await;
    }
}
