//! A folder on this host as a store: `object_store`'s own, made durable, with conditional replace.
//!
//! What is added to [`LocalFileSystem`], and why:
//! - fsync is on, and a folder is synced with all its parents before the first object in it is acknowledged. (Two
//!   writers may race to make a folder; the one that finds it there would otherwise acknowledge an object whose
//!   folder is not on disk yet.)
//! - `PutMode::Update` works: compare and replace happen under an exclusive lock on a file in the store's folder.
//!   Whatever else may change an existing object (overwrite, delete, copy, rename, the end of a multipart upload)
//!   takes the same lock shared, in every process, so nothing slips in between. Create needs none: it never
//!   changes what exists.
//! - deleting what is absent succeeds, as on every remote store.
//! - a store is made once, and its lock's file stands for it: a folder without one is a mount point whose disk is not mounted. What was
//!   written there would be lost beneath the disk, and what was deleted there would not be deleted.
//!
//! A deletion is not synced: after a power loss a deleted object may be there again. Objects are written once under
//! random names, so that only costs space until it is collected.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UpdateVersion, UploadPart,
};
use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// The lock's name. `#` and digits at the end keep it out of listings: no object can be called so.
const LOCK: &str = ".orlop-lock#0";

/// A folder on this host as a store.
#[derive(Debug, Clone)]
pub struct LocalStore {
    inner: Arc<LocalFileSystem>,
    root: Arc<PathBuf>,
    /// Folders that are on disk with all their parents, as far as this process knows.
    durable: Arc<Mutex<HashSet<PathBuf>>>,
}

impl std::fmt::Display for LocalStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "file://{}", self.root.display())
    }
}

/// How a change holds the store's lock.
#[derive(Clone, Copy)]
enum Hold {
    Shared,
    Exclusive,
}

fn disk(source: std::io::Error) -> Error {
    Error::Generic { store: "file", source: Box::new(source) }
}

impl LocalStore {
    /// Opens the folder of a store that was made, by this version or an earlier one.
    pub fn open(root: &std::path::Path) -> orlop_model::Result<Self> {
        if !is_store(root) {
            return Err(missing(root));
        }
        Self::over(root)
    }

    /// Opens the folder, making it and its parents if absent.
    pub fn make(root: &std::path::Path) -> orlop_model::Result<Self> {
        let say = |e: &std::io::Error| {
            orlop_model::Error::io(format_args!("store folder {}", root.display()), e)
                .with_remedy("name a folder that exists or can be made, and that this user may write")
        };
        // A parent that was there already is durable; each one made here is synced by its own parent.
        let mut made = Vec::new();
        let mut at = root;
        while !at.exists() {
            made.push(at.to_owned());
            match at.parent() {
                Some(parent) => at = parent,
                None => break,
            }
        }
        if at.exists() && !at.is_dir() {
            return Err(orlop_model::Error::invalid(format!("store folder {}: {} is not a folder", root.display(), at.display()))
                .with_remedy("name a folder that exists or can be made, and that this user may write"));
        }
        std::fs::create_dir_all(root).map_err(|e| say(&e))?;
        for dir in &made {
            if let Some(parent) = dir.parent() {
                sync_folder(parent).map_err(|e| say(&e))?;
            }
        }
        match File::options().create_new(true).write(true).open(root.join(LOCK)) {
            Ok(_) => sync_folder(root).map_err(|e| say(&e))?,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(say(&e)),
        }
        Self::over(root)
    }

    fn over(root: &std::path::Path) -> orlop_model::Result<Self> {
        let root = root.canonicalize().map_err(|e| orlop_model::Error::io(format_args!("store folder {}", root.display()), &e))?;
        let inner = LocalFileSystem::new_with_prefix(&root)
            .map_err(|e| crate::error(format_args!("store folder {}", root.display()), &e))?
            .with_automatic_cleanup(true)
            .with_fsync(true);
        Ok(LocalStore { inner: Arc::new(inner), root: Arc::new(root), durable: Arc::default() })
    }

    /// Takes the store's lock; it is given back when the file is dropped.
    async fn lock(&self, hold: Hold) -> Result<File> {
        self.present()?;
        let file = File::options().create(true).truncate(false).read(true).write(true).open(self.root.join(LOCK)).map_err(disk)?;
        let free = match hold {
            Hold::Shared => file.try_lock_shared(),
            Hold::Exclusive => file.try_lock(),
        };
        match free {
            Ok(()) => Ok(file),
            Err(std::fs::TryLockError::Error(e)) => Err(disk(e)),
            Err(std::fs::TryLockError::WouldBlock) => tokio::task::spawn_blocking(move || {
                match hold {
                    Hold::Shared => file.lock_shared(),
                    Hold::Exclusive => file.lock(),
                }
                .map(|()| file)
                .map_err(disk)
            })
            .await
            .map_err(|source| Error::JoinError { source })?,
        }
    }

    /// Fails if the store is not where it was opened, as when its disk was unmounted.
    fn present(&self) -> Result<()> {
        if is_store(&self.root) { Ok(()) } else { Err(Error::Generic { store: "file", source: Box::new(missing(&self.root)) }) }
    }

    /// Runs a change to its end under the lock, even if the caller stops waiting: a change that went on after its
    /// lock was dropped could undo a conditional replace that was acknowledged meanwhile.
    async fn locked<T, F, Fut>(&self, hold: Hold, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(LocalStore) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        let store = self.clone();
        tokio::spawn(async move {
            let _held = store.lock(hold).await?;
            change(store.clone()).await
        })
        .await
        .map_err(|source| Error::JoinError { source })?
    }

    /// Makes the folder of an object and puts it, and all its parents up to the store's root, on disk.
    async fn prepare(&self, location: &Path) -> Result<()> {
        self.present()?;
        let file = self.inner.path_to_filesystem(location)?;
        let Some(dir) = file.parent().map(ToOwned::to_owned) else { return Ok(()) };
        if self.durable.lock().expect("no code panics while it holds this lock").contains(&dir) {
            return Ok(());
        }
        let (root, durable) = (Arc::clone(&self.root), Arc::clone(&self.durable));
        tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&dir).map_err(disk)?;
            let mut at = dir.as_path();
            loop {
                match sync_folder(at) {
                    Ok(()) => {}
                    // Emptied and removed by a deletion just now: the write itself makes it again, synced.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                    Err(e) => return Err(disk(e)),
                }
                match at.parent() {
                    Some(parent) if at != root.as_path() => at = parent,
                    _ => break,
                }
            }
            durable.lock().expect("no code panics while it holds this lock").insert(dir);
            Ok(())
        })
        .await
        .map_err(|source| Error::JoinError { source })?
    }

    /// What is not found, unless the whole store is not there: then nothing is known of it.
    fn unless_gone<T>(&self, found: Result<T>) -> Result<T> {
        if matches!(found, Err(Error::NotFound { .. })) {
            self.present()?;
        }
        found
    }

    /// After a deletion the folder may be gone; it has to be made durable again.
    fn forget(&self, location: &Path) {
        if let Ok(file) = self.inner.path_to_filesystem(location) {
            let mut durable = self.durable.lock().expect("no code panics while it holds this lock");
            for dir in file.ancestors().skip(1).take_while(|d| *d != self.root.as_path()) {
                durable.remove(dir);
            }
        }
    }

    async fn replace(&self, location: &Path, payload: PutPayload, expected: UpdateVersion, opts: PutOptions) -> Result<PutResult> {
        let refuse = |why: &str| Error::Precondition { path: location.to_string(), source: why.to_owned().into() };
        let Some(expected) = expected.e_tag else { return Err(refuse("no e_tag to compare with")) };
        let location = location.clone();
        self.locked(Hold::Exclusive, move |store| async move {
            let refuse = |why: &str| Error::Precondition { path: location.to_string(), source: why.to_owned().into() };
            let found = match store.inner.head(&location).await {
                Ok(meta) => meta.e_tag,
                Err(Error::NotFound { .. }) => return Err(refuse("the object is gone")),
                Err(e) => return Err(e),
            };
            if found.as_deref() != Some(expected.as_str()) {
                return Err(refuse("the object is another one by now"));
            }
            store.inner.put_opts(&location, payload, PutOptions { mode: PutMode::Overwrite, ..opts }).await
        })
        .await
    }
}

/// Why there is no store in a folder.
fn missing(root: &std::path::Path) -> orlop_model::Error {
    orlop_model::Error::unavailable(format!("store folder {}: no store is there", root.display())).with_remedy(
        "mount the file system that it is on; if it never was there, orlop store add makes it. A store that was moved by hand is put back, \
         with its file .orlop-lock#0",
    )
}

/// Whether a folder is a store. Of a copy the lock's file may have been left out; a bare mount point has nothing at all.
fn is_store(root: &std::path::Path) -> bool {
    root.join(LOCK).exists() || std::fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some())
}

fn sync_folder(dir: &std::path::Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Removes what unfinished uploads left in a folder store, if it is older than `age`; returns how many files.
/// Nothing lists or reads them, so this only gives space back. `age` must exceed the longest upload.
pub fn sweep_unfinished(root: &std::path::Path, age: std::time::Duration) -> std::io::Result<u64> {
    let mut swept = 0;
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                todo.push(entry.path());
                continue;
            }
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|n| *n != LOCK) else { continue };
            let unfinished =
                name.rsplit_once('#').is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
            let old = meta.modified()?.elapsed().is_ok_and(|passed| passed >= age);
            if unfinished && old {
                std::fs::remove_file(entry.path())?;
                swept += 1;
            }
        }
    }
    Ok(swept)
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.prepare(location).await?;
        match opts.mode.clone() {
            PutMode::Create => self.inner.put_opts(location, payload, opts).await,
            PutMode::Overwrite => {
                let location = location.clone();
                self.locked(Hold::Shared, move |s| async move { s.inner.put_opts(&location, payload, opts).await }).await
            }
            PutMode::Update(expected) => self.replace(location, payload, expected, opts).await,
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.prepare(location).await?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(LockedUpload { store: self.clone(), inner }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.unless_gone(self.inner.get_opts(location, options).await)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.unless_gone(self.inner.get_ranges(location, ranges).await)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .map(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    let at = location.clone();
                    let gone = store.locked(Hold::Shared, move |s| async move { s.inner.delete(&at).await }).await;
                    store.forget(&location);
                    match gone {
                        Ok(()) | Err(Error::NotFound { .. }) => Ok(location),
                        Err(e) => Err(e),
                    }
                }
            })
            .buffered(10)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.present() {
            Ok(()) => self.inner.list(prefix),
            Err(e) => futures::stream::iter([Err(e)]).boxed(),
        }
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.present() {
            Ok(()) => self.inner.list_with_offset(prefix, offset),
            Err(e) => futures::stream::iter([Err(e)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.present()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.prepare(to).await?;
        let (from, to) = (from.clone(), to.clone());
        match options.mode {
            CopyMode::Create => self.inner.copy_opts(&from, &to, options).await,
            CopyMode::Overwrite => self.locked(Hold::Shared, move |s| async move { s.inner.copy_opts(&from, &to, options).await }).await,
        }
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.prepare(to).await?;
        let (source, to) = (from.clone(), to.clone());
        let done = self.locked(Hold::Shared, move |s| async move { s.inner.rename_opts(&source, &to, options).await }).await;
        self.forget(from);
        done
    }
}

/// A multipart upload whose end, which may replace an object, takes the lock.
#[derive(Debug)]
struct LockedUpload {
    store: LocalStore,
    inner: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for LockedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let _held = self.store.lock(Hold::Shared).await?;
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

/// Every object below a prefix, deleted; returns how many there were.
pub(crate) async fn delete_all(store: &dyn ObjectStore, prefix: &Path) -> Result<u64> {
    let found: Vec<Path> = store.list(Some(prefix)).map_ok(|m| m.location).try_collect().await?;
    let n = found.len() as u64;
    store.delete_stream(futures::stream::iter(found.into_iter().map(Ok)).boxed()).try_collect::<Vec<_>>().await?;
    Ok(n)
}
