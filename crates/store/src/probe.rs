//! What a store can really do, found out by doing it: documentation lies, proxies drop headers.
//!
//! Works under a random prefix and removes what it made. A store that cannot put, get and list at all is an error;
//! everything else is a capability that is there or not.

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, UpdateVersion};
use orlop_model::{Capabilities, Result};
use uuid::Uuid;

/// How long a way that may not lead anywhere any more is tried.
const OTHER_WAY: std::time::Duration = std::time::Duration::from_secs(10);

/// Finds out what a store can do. The error says which basic call failed, on which object.
pub async fn probe(store: &dyn ObjectStore) -> Result<Capabilities> {
    let root = some_root();
    let found = examine(store, &root).await;
    leave_nothing(store, &root, found).await
}

/// Whether two ways lead to the same place: what is put one way is there the other way. `None` if the other way does not
/// answer in time, or leads to nothing any more, and so nothing is known.
pub async fn is_same_place(new: &dyn ObjectStore, old: &dyn ObjectStore) -> Result<Option<bool>> {
    let root = some_root();
    let seen = see_elsewhere(new, old, &root.clone().join("place")).await;
    leave_nothing(new, &root, seen).await
}

async fn see_elsewhere(new: &dyn ObjectStore, old: &dyn ObjectStore, at: &Path) -> Result<Option<bool>> {
    new.put(at, "here".into()).await.map_err(|e| crate::error(format_args!("store {new}: put {at}"), &e))?;
    let look = async || match old.head(at).await {
        Ok(_) => Some(true),
        // It may be that way that is being changed: a server that moved leaves an address where nothing is.
        Err(Error::NotFound { .. }) => old.list(None).try_next().await.ok()?.map(|_| false),
        Err(_) => None,
    };
    // A second time: one answer that is lost must not let a copy pass.
    for _ in 0..2 {
        if let Ok(Some(seen)) = tokio::time::timeout(OTHER_WAY, look()).await {
            return Ok(Some(seen));
        }
    }
    Ok(None)
}

fn some_root() -> Path {
    Path::from(format!("orlop-probe-{}", Uuid::new_v4()))
}

/// Removes what was made below `root`, however it ended.
async fn leave_nothing<T>(store: &dyn ObjectStore, root: &Path, found: Result<T>) -> Result<T> {
    let swept = crate::local::delete_all(store, root).await;
    let found = found?;
    swept.map_err(|e| crate::error(format_args!("store {store}: deleting the probe's objects under {root}"), &e))?;
    Ok(found)
}

async fn examine(store: &dyn ObjectStore, root: &Path) -> Result<Capabilities> {
    let basic = |what: &str, at: &Path, e: Error| crate::error(format_args!("store {store}: {what} {at}"), &e);
    let mut c = Capabilities::default();
    let body = b"0123456789abcdef".as_slice();

    let a = root.clone().join("a");
    let before = now_ms();
    store.put(&a, body.into()).await.map_err(|e| basic("put", &a, e))?;
    let after = now_ms();
    let got = store.get(&a).await.map_err(|e| basic("get", &a, e))?;
    c.clock_skew_ms = Some(skew(before, after, got.meta.last_modified.timestamp_millis()));
    let read = got.bytes().await.map_err(|e| basic("get", &a, e))?;
    if read.as_ref() != body {
        return Err(orlop_model::Error::new(
            orlop_model::ErrorKind::Corrupt,
            format!("store {store}: get {a} returned {} other bytes than were put", read.len()),
        ));
    }
    let listed: Vec<Path> = store.list(Some(root)).map_ok(|m| m.location).try_collect().await.map_err(|e| basic("list", root, e))?;

    c.ranged_get = store.get_range(&a, 3..7).await.is_ok_and(|b| b.as_ref() == &body[3..7])
        && store.get_ranges(&a, &[0..2, 14..16]).await.is_ok_and(|all| all == [&body[..2], &body[14..]]);

    // It counts only if the loser is refused and the winner's bytes stay.
    let b = root.clone().join("b");
    let first = store.put_opts(&b, "first".into(), PutMode::Create.into()).await;
    let second = store.put_opts(&b, "second".into(), PutMode::Create.into()).await;
    c.conditional_create = first.is_ok()
        && matches!(second, Err(Error::AlreadyExists { .. } | Error::Precondition { .. }))
        && holds(store, &b, b"first").await;

    c.conditional_replace = replaces(store, root).await;
    c.atomic_conditions = c.conditional_create && c.conditional_replace && decides_races(store, root).await;
    c.multipart = uploads(store, root).await;

    let copy = root.clone().join("copy");
    c.copy = store.copy(&a, &copy).await.is_ok() && holds(store, &copy, body).await;

    let inner = root.clone().join("folder").join("x");
    store.put(&inner, "x".into()).await.map_err(|e| basic("put", &inner, e))?;
    c.list_by_folder = store
        .list_with_delimiter(Some(root))
        .await
        .is_ok_and(|l| l.common_prefixes == [root.clone().join("folder")] && l.objects.iter().all(|o| o.location != inner));

    store.delete(&a).await.map_err(|e| basic("delete", &a, e))?;
    let after: Vec<Path> = store.list(Some(root)).map_ok(|m| m.location).try_collect().await.map_err(|e| basic("list", root, e))?;
    c.strong_list = listed == [a.clone()] && !after.contains(&a) && after.contains(&inner);
    c.idempotent_delete = store.delete(&a).await.is_ok();
    Ok(c)
}

async fn holds(store: &dyn ObjectStore, at: &Path, expected: &[u8]) -> bool {
    let read = async { store.get(at).await?.bytes().await }.await;
    read.is_ok_and(|b| b.as_ref() == expected)
}

async fn replaces(store: &dyn ObjectStore, root: &Path) -> bool {
    let at = root.clone().join("replace");
    let Ok(old) = store.put(&at, "old".into()).await else { return false };
    let old = UpdateVersion { e_tag: old.e_tag, version: old.version };
    let Ok(_) = store.put_opts(&at, "new".into(), PutMode::Update(old.clone()).into()).await else { return false };
    // The same condition again names an object that is no more.
    let stale = store.put_opts(&at, "stale".into(), PutMode::Update(old).into()).await;
    matches!(stale, Err(Error::Precondition { .. })) && holds(store, &at, b"new").await
}

/// Two that create, and two that replace, the same object at the same moment, several times over.
async fn decides_races(store: &dyn ObjectStore, root: &Path) -> bool {
    // Bytes that take a while to arrive: a store that looks first and writes later is caught in between.
    for round in 0..4 {
        let at = root.clone().join(format!("race-{round}"));
        let mut mode = PutMode::Create;
        for step in [1u8, 3] {
            // Never the bytes that are there: where the version is their digest, it would not change.
            let bodies = [step, step + 1].map(|byte| vec![byte; 64 << 10]);
            let [one, two] = bodies.each_ref().map(|b| store.put_opts(&at, b.clone().into(), mode.clone().into()));
            let (body, version) = match futures::future::join(one, two).await {
                (Ok(won), Err(Error::AlreadyExists { .. } | Error::Precondition { .. })) => (&bodies[0], won),
                (Err(Error::AlreadyExists { .. } | Error::Precondition { .. }), Ok(won)) => (&bodies[1], won),
                _ => return false,
            };
            if !holds(store, &at, body).await {
                return false;
            }
            mode = PutMode::Update(UpdateVersion { e_tag: version.e_tag, version: version.version });
        }
    }
    true
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |t| i64::try_from(t.as_millis()).unwrap_or(i64::MAX))
}

/// How far the store's clock is ahead, from the time it gave an object that was put between `before` and `after`. S3
/// cuts the second's fraction off, and what lies within that is no skew that anybody could know of.
fn skew(before: i64, after: i64, stamped: i64) -> i64 {
    if stamped > after {
        stamped - after
    } else if stamped + 1000 < before {
        stamped + 1000 - before
    } else {
        0
    }
}

async fn uploads(store: &dyn ObjectStore, root: &Path) -> bool {
    let at = root.clone().join("parts");
    // Remote stores want 5 MiB in every part but the last.
    let first = vec![1u8; 5 << 20];
    let sent = async {
        let mut upload = store.put_multipart(&at).await?;
        let parts = async {
            upload.put_part(first.clone().into()).await?;
            upload.put_part("end".into()).await
        };
        if let Err(e) = parts.await {
            // Best effort: an upload left open only costs space, and the answer is "no" either way.
            let _ = upload.abort().await;
            return Err(e);
        }
        if store.head(&at).await.is_ok() {
            let _ = upload.abort().await;
            return Ok(false);
        }
        upload.complete().await?;
        Ok::<bool, Error>(true)
    };
    matches!(sent.await, Ok(true)) && holds(store, &at, &[first.as_slice(), b"end"].concat()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrap::{Damage, Fault, Plan};
    use object_store::memory::InMemory;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_folder_and_a_memory_can_do_everything_and_are_left_clean() {
        let dir = tempfile::tempdir().expect("temp folder");
        let url = url::Url::from_directory_path(dir.path()).expect("absolute");
        for url in [url.as_str(), "mem://"] {
            let store = crate::open(url).expect("opens");
            let c = probe(store.as_ref()).await.expect("probes");
            let all = Capabilities {
                conditional_create: true,
                conditional_replace: true,
                atomic_conditions: true,
                ranged_get: true,
                multipart: true,
                copy: true,
                strong_list: true,
                list_by_folder: true,
                idempotent_delete: true,
                clock_skew_ms: Some(0),
            };
            assert_eq!(c, all, "{url}");
            let left: Vec<_> = store.list(None).try_collect().await.expect("lists");
            assert!(left.is_empty(), "{url}: {left:?}");
        }
    }

    #[test]
    fn a_clock_is_wrong_only_beyond_what_a_cut_second_explains() {
        assert_eq!(skew(10_500, 10_600, 10_000), 0);
        assert_eq!(skew(10_500, 10_600, 10_550), 0);
        assert_eq!(skew(10_500, 10_600, 15_600), 5_000);
        assert_eq!(skew(10_500, 10_600, 4_500), -5_000);
    }

    #[tokio::test]
    async fn a_store_without_conditions_says_so() {
        // The plain local backend of the library refuses conditional replace.
        let dir = tempfile::tempdir().expect("temp folder");
        let store = object_store::local::LocalFileSystem::new_with_prefix(dir.path()).expect("opens");
        let c = probe(&store).await.expect("probes");
        assert!(c.conditional_create && !c.conditional_replace && !c.idempotent_delete, "{c:?}");
    }

    #[tokio::test]
    async fn a_store_that_answers_wrong_bytes_or_nothing_is_an_error() {
        let wrong = Fault::wrap(Arc::new(InMemory::new()), Plan { damage_one_in: Some((1, Damage::Flip)), ..Plan::default() });
        let e = probe(wrong.as_ref()).await.expect_err("wrong bytes");
        assert_eq!(e.kind, orlop_model::ErrorKind::Corrupt, "{e}");
        let away = Fault::wrap(Arc::new(InMemory::new()), Plan { outage_from: Some(0), ..Plan::default() });
        let e = probe(away.as_ref()).await.expect_err("away");
        assert_eq!(e.kind, orlop_model::ErrorKind::Unavailable, "{e}");
        assert!(e.message.contains("put orlop-probe-"), "{e}");
    }
}
