//! Volumes that lie in a store and were made elsewhere: finding them, telling whether this host can read them, forgetting them.

use crate::found::{self, Keys};
use orlop_model::{Error, ErrorKind, FoundVolume, MountPlan, Result, StoreSpec};
use orlop_store::ObjectStore;
use std::path::Path;
use std::sync::Arc;

async fn opened(spec: &StoreSpec) -> Result<Arc<dyn ObjectStore>> {
    let spec = spec.clone();
    // A credentials command may take a while.
    tokio::task::spawn_blocking(move || orlop_store::open_spec(&spec))
        .await
        .unwrap_or_else(|e| Err(Error::internal(format!("opening the store ended early: {e}"))))
}

/// All volumes of a store.
pub(super) async fn find(spec: &StoreSpec, keys: &Keys) -> Result<Vec<FoundVolume>> {
    found::find(&opened(spec).await?, keys).await
}

/// One volume of a store, which must be readable here.
pub(super) async fn recognise(plan: &MountPlan, keys: &Keys) -> Result<FoundVolume> {
    let store = opened(&plan.store).await?;
    let found = found::look(store.clone(), &plan.prefix, plan.volume, keys).await?.ok_or_else(|| {
        Error::not_found(format!("store {} holds no volume {}", plan.store.url, plan.volume))
            .with_remedy("orlop volume adopt --store STORE lists those that are there")
    })?;
    // Once more for its reasons: what only goes into a list elsewhere is an error here.
    keys.view(store, &plan.prefix, found.encrypted).await.map_err(|e| match e.kind {
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

/// Refuses to delete what another host has mounted, or had last.
pub(super) async fn refuse_if_used_elsewhere(plan: &MountPlan, keys: &Keys) -> Result<()> {
    if plan.store.is_local() {
        return Ok(());
    }
    let look = async {
        let store = keys.view(opened(&plan.store).await?, &plan.prefix, plan.options.encrypt == Some(true)).await?.store;
        orlop_chunkfs::owner_of(&store, &plan.prefix, plan.volume).await
    };
    let owner = match look.await {
        Ok(Some(owner)) => owner,
        Err(e) if e.kind == ErrorKind::Unavailable => return Err(e),
        // What cannot be read here any more, since half of it is deleted or its key is gone, is nobody's to protect.
        Ok(None) | Err(_) => return Ok(()),
    };
    let ours = orlop_chunkfs::holder_of(Path::new(&plan.state_dir)).is_some_and(|h| h == owner.holder);
    if ours {
        return Ok(());
    }
    let (name, id, host) = (&plan.name, plan.volume, &owner.host);
    if owner.released {
        // It may be mounted there again at any moment.
        return Err(Error::new(ErrorKind::Busy, format!("volume {name} was last used on host {host:?}, which may go on using it"))
            .with_remedy(format!(
                "orlop volume remove {name} forgets it on this host and leaves it to that one; to delete it for good all the same, mount \
                 and unmount it here first"
            )));
    }
    Err(Error::new(ErrorKind::Busy, format!("volume {name} is in use on host {host:?}, or was when that host was lost")).with_remedy(format!(
        "unmount it there; if that host is dead, take the volume over and let go: orlop mount, orlop unmount; if it was removed here: orlop \
         volume restore {id} before"
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
