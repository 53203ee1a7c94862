//! Volumes that lie in a store and were made elsewhere: finding them, telling whether this host can read them, forgetting them.

use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt};
use orlop_model::{Error, ErrorKind, FoundVolume, MountPlan, Result, StoreSpec, VolumeId};
use orlop_store::Path as StorePath;
use orlop_store::keys::{MasterKeys, ring_path, sealed_store};
use std::path::Path;
use std::sync::Arc;

/// Volumes looked at side by side.
const LOOKS: usize = 8;

async fn opened(spec: &StoreSpec) -> Result<Arc<dyn ObjectStore>> {
    let spec = spec.clone();
    // A credentials command may take a while.
    tokio::task::spawn_blocking(move || orlop_store::open_spec(&spec))
        .await
        .unwrap_or_else(|e| Err(Error::internal(format!("opening the store ended early: {e}"))))
}

/// All volumes of a store.
pub(super) async fn find(spec: &StoreSpec, keys_dir: &Path) -> Result<Vec<FoundVolume>> {
    let store = opened(spec).await?;
    let folder = StorePath::from("volumes");
    let listed = store.list_with_delimiter(Some(&folder)).await.map_err(|e| orlop_store::error(format_args!("listing {folder}"), &e))?;
    let ids: Vec<VolumeId> = listed.common_prefixes.iter().filter_map(|p| p.filename()?.parse().ok()).collect();
    let look = |id: VolumeId| {
        let store = store.clone();
        async move { look(store, &format!("volumes/{id}"), id, keys_dir).await }
    };
    let found: Vec<Option<FoundVolume>> = futures::stream::iter(ids).map(look).buffer_unordered(LOOKS).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// One volume of a store, which must be readable here.
pub(super) async fn recognise(plan: &MountPlan, keys_dir: &Path) -> Result<FoundVolume> {
    let store = opened(&plan.store).await?;
    let found = look(store.clone(), &plan.prefix, plan.volume, keys_dir).await?.ok_or_else(|| {
        Error::not_found(format!("store {} holds no volume {}", plan.store.url, plan.volume))
            .with_remedy("orlop volume adopt --store STORE lists those that are there")
    })?;
    // Once more for its reasons: what only goes into a list elsewhere is an error here.
    view(store, &plan.prefix, found.encrypted, keys_dir).await.map_err(|e| match e.kind {
        ErrorKind::Denied | ErrorKind::NotFound => e.with_remedy(
            "the volume is encrypted: bring the master key from the host that made it (orlop key export there, docs/howto/encryption.md), then adopt it",
        ),
        _ => e,
    })?;
    match found.problem {
        None => Ok(found),
        Some(problem) => {
            Err(Error::new(ErrorKind::Corrupt, problem).with_remedy("see whether it is an Orlop volume that this version can read"))
        }
    }
}

async fn view(store: Arc<dyn ObjectStore>, prefix: &str, encrypted: bool, keys_dir: &Path) -> Result<Arc<dyn ObjectStore>> {
    if encrypted { sealed_store(store, prefix, &MasterKeys::load(keys_dir)?).await } else { Ok(store) }
}

/// `None`: there is no header, so nothing that could be a volume.
async fn look(store: Arc<dyn ObjectStore>, prefix: &str, id: VolumeId, keys_dir: &Path) -> Result<Option<FoundVolume>> {
    let header = StorePath::from(format!("{prefix}/volume.json"));
    let made_at = match store.head(&header).await {
        Ok(meta) => time::OffsetDateTime::from_unix_timestamp(meta.last_modified.timestamp()).ok(),
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(orlop_store::error(format_args!("head {header}"), &e)),
    };
    let ring = ring_path(prefix);
    let encrypted = match store.head(&ring).await {
        Ok(_) => true,
        Err(object_store::Error::NotFound { .. }) => false,
        Err(e) => return Err(orlop_store::error(format_args!("head {ring}"), &e)),
    };
    let mut found = FoundVolume { id, made_at, encrypted, last_host: None, released: true, problem: None, known_as: None };
    let owner = async { orlop_chunkfs::owner_of(&view(store, prefix, encrypted, keys_dir).await?, prefix, id).await };
    match owner.await {
        Ok(None) => {}
        Ok(Some(owner)) => {
            found.released = owner.released;
            found.last_host = Some(owner.host);
        }
        Err(e) if e.kind == ErrorKind::Unavailable => return Err(e),
        Err(e) => found.problem = Some(e.message),
    }
    Ok(Some(found))
}

/// Refuses to delete what another host has mounted.
pub(super) async fn refuse_if_used_elsewhere(plan: &MountPlan, keys_dir: &Path) -> Result<()> {
    if plan.store.is_local() {
        return Ok(());
    }
    let look = async {
        let store = view(opened(&plan.store).await?, &plan.prefix, plan.options.encrypt == Some(true), keys_dir).await?;
        orlop_chunkfs::owner_of(&store, &plan.prefix, plan.volume).await
    };
    // What cannot be read here any more, since half of it is deleted or its key is gone, is nobody's to protect.
    let Ok(Some(owner)) = look.await else { return Ok(()) };
    let ours = orlop_chunkfs::holder_of(Path::new(&plan.state_dir)).is_some_and(|h| h == owner.holder);
    if owner.released || ours {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Busy, format!("volume {} is in use on host {:?}, or was when that host was lost", plan.name, owner.host))
        .with_remedy(format!(
            "unmount it there; if that host is dead, take the volume over and let go: orlop volume restore {}, orlop mount, orlop unmount",
            plan.volume
        )))
}

/// Deletes what this host keeps of a volume.
pub(super) async fn forget(plan: &MountPlan, root: &Path) -> Result<()> {
    let id = plan.volume.to_string();
    let (state, mountpoint) = (Path::new(&plan.state_dir), Path::new(&plan.mountpoint));
    if state != root.join("state").join(&id) || mountpoint != root.join("mnt").join(&id) {
        return Err(Error::internal(format!("the plan to forget volume {} names folders that are not its own", plan.name)));
    }
    super::ports::remove_tree(state).await?;
    // Best effort: a log tells nothing any more about a volume that is gone.
    let _ = tokio::fs::remove_file(root.join(format!("log/worker-{id}.log"))).await;
    match tokio::fs::remove_dir(mountpoint).await {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(format_args!("removing {}", mountpoint.display()), &e)),
        _ => Ok(()),
    }
}
