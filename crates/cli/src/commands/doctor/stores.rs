//! Checks of the stores: each answers, and has the volumes that live there. Nothing in them is changed.

use super::Finding;
use crate::args::Context;
use futures::future::join_all;
use orlop_model::{Error, ErrorKind, Result, Store, Volume, VolumeName};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a store may take to list its volumes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything about the stores that this Orlop knows.
pub(crate) async fn check(cx: &Context, volumes: &[Volume]) -> Vec<Finding> {
    match cx.client.stores().await {
        // Side by side: those that are away are waited for together.
        Ok(stores) => join_all(stores.iter().map(|store| one(cx, store, volumes))).await,
        Err(e) => vec![Finding::failed("stores", e, "see orlop store list")],
    }
}

async fn one(cx: &Context, store: &Store, volumes: &[Volume]) -> Finding {
    let here: Vec<&Volume> = volumes.iter().filter(|v| v.store == store.name).collect();
    let what = format!("store {} at {}", store.name, store.spec.url);
    let test = format!("see why with: orlop store test {}{}", store.name, cx.root_flag());
    match tokio::time::timeout(PATIENCE, missing(cx, store, &here)).await {
        Ok(Ok(lost)) if lost.is_empty() => Finding::ok("stores", format!("{what} answers, and has its {} volumes", here.len())),
        Ok(Ok(lost)) => Finding::problem(
            "stores",
            format!("{what} does not have these of its volumes: {}", lost.join(", ")),
            "if it was emptied or exchanged, bring what was there back before they are mounted; what is gone for good is forgotten with: \
             orlop volume remove",
        ),
        // Who may ask the daemon need not be one who may look into folders.
        Ok(Err(e)) if e.kind == ErrorKind::Denied && store.spec.is_local() => {
            Finding::note("stores", format!("{what} was not looked at: {}", e.message), "run orlop doctor as root")
        }
        Ok(Err(e)) => Finding::problem("stores", format!("{what} cannot be read: {}", e.message), e.remedy.unwrap_or(test)),
        Err(_) => Finding::problem("stores", format!("{what} does not answer within {} s", PATIENCE.as_secs()), test),
    }
}

/// The names of those volumes that are not in the store.
async fn missing(cx: &Context, store: &Store, here: &[&Volume]) -> Result<Vec<String>> {
    let folder = if store.spec.is_plain() { Some(orlop_control::plain_folder(&store.spec)?) } else { orlop_store::folder_of(&store.spec) };
    if let Some(folder) = folder {
        let place = |v: &&Volume| {
            let place = v.folder.as_ref().map_or_else(|| folder.join("volumes").join(v.id.to_string()), PathBuf::from);
            (v.name.clone(), place)
        };
        let places = here.iter().map(place).collect();
        return not_there(folder, places).await;
    }
    if store.spec.is_local() {
        // Kept in memory: there is no place to look at.
        return Ok(Vec::new());
    }
    let there: HashSet<_> = cx.client.found(&store.name).await?.into_iter().map(|found| found.id).collect();
    Ok(here.iter().filter(|v| !there.contains(&v.id)).map(|v| v.name.to_string()).collect())
}

/// The names of those volumes whose folders are not there. A folder behind a server that is away hangs whoever looks, so a thread looks
/// that nobody waits for longer than he wants to.
async fn not_there(folder: PathBuf, places: Vec<(VolumeName, PathBuf)>) -> Result<Vec<String>> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let look = || -> Result<Vec<String>> {
            if !is_folder(&folder)? {
                return Err(Error::not_found(format!("its folder {} is not there", folder.display()))
                    .with_remedy("mount the disk that it is on, or bring it back from a copy"));
            }
            let mut missing = Vec::new();
            for (name, place) in places {
                if !is_folder(&place)? {
                    missing.push(name.to_string());
                }
            }
            Ok(missing)
        };
        let _ = sender.send(look());
    });
    receiver.await.map_err(|_| Error::internal("the look at a store's folder ended early"))?
}

fn is_folder(path: &Path) -> Result<bool> {
    match std::fs::metadata(path) {
        Ok(there) => Ok(there.is_dir()),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(Error::io(format_args!("looking at {}", path.display()), &e)),
    }
}
