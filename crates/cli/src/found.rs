//! Volumes that lie in a store, whoever made them: which there are, and what can be told of each by who has nothing
//! but the store and perhaps a key. The daemon asks for `orlop volume adopt`, `orlop export` for itself.

use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt};
use orlop_model::{Error, ErrorKind, FoundVolume, Result, VolumeId};
use orlop_store::keys::{MasterKeys, ring_path, sealed_volume};
use orlop_store::{Path as StorePath, VolumeStore};
use std::path::PathBuf;
use std::sync::Arc;

/// Volumes looked at side by side.
const LOOKS: usize = 8;

/// Where the key of an encrypted volume is looked for.
#[derive(Debug)]
pub(crate) enum Keys {
    /// In the folder of this host's master keys.
    Host(PathBuf),
    /// Among these.
    These(MasterKeys),
    /// Nowhere.
    Nowhere,
}

impl Keys {
    /// The store of a volume as it is read, with the seal taken off if it has one.
    pub(crate) async fn view(&self, store: Arc<dyn ObjectStore>, prefix: &str, encrypted: bool) -> Result<VolumeStore> {
        match self {
            _ if !encrypted => Ok(VolumeStore { store, keys: None }),
            Keys::Host(dir) => sealed_volume(store, prefix, &MasterKeys::load(dir)?).await,
            Keys::These(keys) => sealed_volume(store, prefix, keys).await,
            Keys::Nowhere => {
                Err(Error::new(ErrorKind::Denied, "the volume is encrypted")
                    .with_remedy("give the file of orlop key export with --key FILE"))
            }
        }
    }
}

/// All volumes of a store. Of one that cannot be looked at it is told why; a store that is away fails as a whole.
pub(crate) async fn find(store: &Arc<dyn ObjectStore>, keys: &Keys) -> Result<Vec<FoundVolume>> {
    let folder = StorePath::from("volumes");
    let listed = store.list_with_delimiter(Some(&folder)).await.map_err(|e| orlop_store::error(format_args!("listing {folder}"), &e))?;
    let ids: Vec<VolumeId> = listed.common_prefixes.iter().filter_map(|p| p.filename()?.parse().ok()).collect();
    let look = |id: VolumeId| {
        let store = store.clone();
        async move {
            match look(store, &format!("volumes/{id}"), id, keys).await {
                Ok(Some(found)) => Ok(found),
                Ok(None) => Ok(FoundVolume { problem: Some("its object volume.json is missing".to_owned()), ..unknown(id) }),
                Err(e) if e.kind == ErrorKind::Unavailable => Err(e),
                Err(e) => Ok(FoundVolume { problem: Some(e.message), ..unknown(id) }),
            }
        }
    };
    futures::stream::iter(ids).map(look).buffer_unordered(LOOKS).try_collect().await
}

/// One of which nothing is known.
fn unknown(id: VolumeId) -> FoundVolume {
    FoundVolume { id, name: None, made_at: None, encrypted: false, last_host: None, released: true, problem: None, known_as: None }
}

/// A volume whose header is missing, for who reads it out; `None` if the store has no namespace of it either.
pub(crate) async fn headless(store: &Arc<dyn ObjectStore>, id: VolumeId) -> Result<Option<FoundVolume>> {
    let prefix = format!("volumes/{id}");
    let is_there = any_below(&**store, &StorePath::from(format!("{prefix}/meta"))).await?;
    let encrypted = exists(&**store, &ring_path(&prefix)).await?;
    Ok(is_there.then(|| FoundVolume { encrypted, ..unknown(id) }))
}

/// Whether there is any object below a folder.
pub(crate) async fn any_below(store: &dyn ObjectStore, folder: &StorePath) -> Result<bool> {
    let first = store.list(Some(folder)).try_next().await.map_err(|e| orlop_store::error(format_args!("listing {folder}"), &e))?;
    Ok(first.is_some())
}

/// Whether an object is there.
pub(crate) async fn exists(store: &dyn ObjectStore, path: &StorePath) -> Result<bool> {
    match store.head(path).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(e) => Err(orlop_store::error(format_args!("head {path}"), &e)),
    }
}

/// One volume. `None`: there is no header, so nothing that could be one.
pub(crate) async fn look(store: Arc<dyn ObjectStore>, prefix: &str, id: VolumeId, keys: &Keys) -> Result<Option<FoundVolume>> {
    let header = StorePath::from(format!("{prefix}/volume.json"));
    let made_at = match store.head(&header).await {
        Ok(meta) => time::OffsetDateTime::from_unix_timestamp(meta.last_modified.timestamp()).ok(),
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(orlop_store::error(format_args!("head {header}"), &e)),
    };
    let encrypted = exists(&*store, &ring_path(prefix)).await?;
    let mut found = FoundVolume { made_at, encrypted, ..unknown(id) };
    let view = match keys.view(store, prefix, encrypted).await {
        Ok(view) => view.store,
        Err(e) if e.kind == ErrorKind::Unavailable => return Err(e),
        Err(e) => return Ok(Some(FoundVolume { problem: Some(e.message), ..found })),
    };
    match orlop_chunkfs::owner_of(&view, prefix, id).await {
        Ok(Some(owner)) => {
            found.released = owner.released;
            found.last_host = Some(owner.host);
        }
        Ok(None) => {}
        Err(e) if e.kind == ErrorKind::Unavailable => return Err(e),
        // Its name is an object of its own.
        Err(e) => found.problem = Some(e.message),
    }
    match orlop_chunkfs::name_of(&*view, prefix, id).await {
        Ok(name) => found.name = name,
        Err(e) if e.kind == ErrorKind::Unavailable => return Err(e),
        // Only a name: who has the id needs none.
        Err(e) => tracing::debug!(error = %e, "a volume without a name"),
    }
    Ok(Some(found))
}
