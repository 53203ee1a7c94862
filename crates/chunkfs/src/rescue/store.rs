//! A store over another: reads come from below, every change stays in a folder of this host. Nothing below is touched.

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub(super) struct Scratch {
    below: Arc<dyn ObjectStore>,
    above: Arc<dyn ObjectStore>,
    /// Objects of the store below that are deleted here.
    gone: Arc<Mutex<BTreeSet<Path>>>,
    /// One change at a time: what is compared stays true until it is written.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Scratch {
    pub(super) fn over(below: Arc<dyn ObjectStore>, dir: &std::path::Path) -> orlop_model::Result<Scratch> {
        let above = orlop_store::open(&format!("file://{}", dir.display()))?;
        Ok(Scratch { below, above, gone: Arc::default(), turn: Arc::default() })
    }

    /// The same, in which these objects are not there.
    pub(super) fn without(self, gone: &[Path]) -> Scratch {
        self.gone.lock().extend(gone.iter().cloned());
        self
    }

    fn is_gone(&self, at: &Path) -> bool {
        self.gone.lock().contains(at)
    }

    /// The object as it is here.
    async fn seen(&self, at: &Path) -> Result<Option<ObjectMeta>> {
        match self.head(at).await {
            Ok(meta) => Ok(Some(meta)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn not_found(at: &Path) -> Error {
    Error::NotFound { path: at.to_string(), source: "deleted".into() }
}

impl std::fmt::Display for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, untouched", self.below)
    }
}

#[async_trait]
impl ObjectStore for Scratch {
    async fn put_opts(&self, at: &Path, payload: PutPayload, mut opts: PutOptions) -> Result<PutResult> {
        let _turn = self.turn.lock().await;
        match &opts.mode {
            PutMode::Overwrite => {}
            PutMode::Create => {
                if self.seen(at).await?.is_some() {
                    return Err(Error::AlreadyExists { path: at.to_string(), source: "it exists".into() });
                }
            }
            PutMode::Update(version) => {
                let now = self.seen(at).await?;
                if now.as_ref().is_none_or(|m| m.e_tag != version.e_tag) {
                    return Err(Error::Precondition { path: at.to_string(), source: "it has changed".into() });
                }
            }
        }
        opts.mode = PutMode::Overwrite;
        self.above.put_opts(at, payload, opts).await
    }

    async fn put_multipart_opts(&self, at: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.above.put_multipart_opts(at, opts).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        match self.above.get_opts(at, options.clone()).await {
            Err(Error::NotFound { .. }) if self.is_gone(at) => Err(not_found(at)),
            Err(Error::NotFound { .. }) => self.below.get_opts(at, options).await,
            done => done,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .and_then(move |at| {
                let this = this.clone();
                async move {
                    let _turn = this.turn.lock().await;
                    this.gone.lock().insert(at.clone());
                    match this.above.delete(&at).await {
                        Ok(()) | Err(Error::NotFound { .. }) => Ok(at),
                        Err(e) => Err(e),
                    }
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        futures::stream::once(async move {
            let mut all: BTreeMap<Path, ObjectMeta> =
                this.below.list(prefix.as_ref()).map_ok(|m| (m.location.clone(), m)).try_collect().await?;
            all.retain(|at, _| !this.is_gone(at));
            let above: Vec<ObjectMeta> = this.above.list(prefix.as_ref()).try_collect().await?;
            all.extend(above.into_iter().map(|m| (m.location.clone(), m)));
            Ok::<_, Error>(futures::stream::iter(all.into_values().map(Ok)))
        })
        .try_flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut below = self.below.list_with_delimiter(prefix).await?;
        below.objects.retain(|m| !self.is_gone(&m.location));
        let above = self.above.list_with_delimiter(prefix).await?;
        let mut objects: BTreeMap<Path, ObjectMeta> = below.objects.into_iter().map(|m| (m.location.clone(), m)).collect();
        objects.extend(above.objects.into_iter().map(|m| (m.location.clone(), m)));
        let prefixes: BTreeSet<Path> = below.common_prefixes.into_iter().chain(above.common_prefixes).collect();
        Ok(ListResult {
            objects: objects.into_values().collect(),
            common_prefixes: prefixes.into_iter().collect(),
            extensions: below.extensions,
        })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let bytes = self.get(from).await?.bytes().await?;
        let mode = if options.mode == CopyMode::Create { PutMode::Create } else { PutMode::Overwrite };
        self.put_opts(to, bytes.into(), mode.into()).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn changes_are_seen_here_and_not_below() {
        let below: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (a, b, c) = (Path::from("v/a"), Path::from("v/b"), Path::from("v/c"));
        for at in [&a, &b] {
            below.put(at, "old".into()).await.expect("put");
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let here = Scratch::over(below.clone(), dir.path()).expect("opens");
        let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        assert!(matches!(here.put_opts(&a, "x".into(), create()).await, Err(Error::AlreadyExists { .. })));
        let tag = here.head(&a).await.expect("there");
        let update = |m: &ObjectMeta| PutMode::Update(object_store::UpdateVersion { e_tag: m.e_tag.clone(), version: m.version.clone() });
        here.put_opts(&a, "new".into(), update(&tag).into()).await.expect("still the same");
        assert!(matches!(here.put_opts(&a, "newer".into(), update(&tag).into()).await, Err(Error::Precondition { .. })));
        here.delete(&b).await.expect("deleted");
        here.put_opts(&c, "made".into(), create()).await.expect("made");
        let names: Vec<String> = here.list(Some(&Path::from("v"))).map_ok(|m| m.location.to_string()).try_collect().await.expect("lists");
        assert_eq!(names, ["v/a", "v/c"]);
        assert!(matches!(here.get(&b).await, Err(Error::NotFound { .. })));
        here.put_opts(&b, "again".into(), create()).await.expect("it was gone");
        for (at, want) in [(&a, "new"), (&b, "again"), (&c, "made")] {
            assert_eq!(here.get(at).await.expect("there").bytes().await.expect("bytes"), want);
        }
        assert_eq!(below.get(&a).await.expect("there").bytes().await.expect("bytes"), "old");
        assert_eq!(below.get(&b).await.expect("there").bytes().await.expect("bytes"), "old");
        assert!(below.head(&c).await.is_err());
    }
}
