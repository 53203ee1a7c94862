//! The behaviour suite on every backend, and under every wrapper: a wrapper without faults changes nothing.

use orlop_store::keys::{KeyId, Secret};
use orlop_store::wrap::{Fault, Meter, Plan, Record, Seal, SealKeys};
use orlop_store::{ObjectStore, open, testing};
use std::sync::Arc;

fn folder() -> (tempfile::TempDir, impl FnMut() -> Arc<dyn ObjectStore>) {
    let dir = tempfile::tempdir().expect("temp folder");
    let base = url::Url::from_directory_path(dir.path()).expect("absolute");
    let mut n = 0;
    let make = move || {
        n += 1;
        open(base.join(&format!("store-{n}")).expect("joins").as_str()).expect("opens")
    };
    (dir, make)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_folder_passes() {
    let (_dir, make) = folder();
    testing::run(make).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_memory_passes() {
    testing::run(|| open("mem://").expect("opens")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn wrappers_change_nothing() {
    testing::run(|| Meter::wrap(Fault::wrap(Record::wrap(open("mem://").expect("opens")), Plan::default()))).await;
}

fn sealed(below: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
    let (id, secret) = (KeyId::random(), Secret::random());
    Seal::wrap(below, "", SealKeys::new(id, [(id, &secret)]).expect("it is among them"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sealed_memory_passes() {
    testing::run(|| sealed(open("mem://").expect("opens"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sealed_folder_passes() {
    let (_dir, mut make) = folder();
    testing::run(|| sealed(make())).await;
}

/// Each case on a prefix of its own in one bucket of a real server.
fn s3(base: orlop_model::StoreSpec) -> impl FnMut() -> Arc<dyn ObjectStore> {
    let mut n = 0;
    move || {
        n += 1;
        let spec = orlop_model::StoreSpec { url: format!("{}-{n}", base.url), ..base.clone() };
        orlop_store::open_spec(&spec).expect("opens")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_s3_server_passes() {
    let Some(server) = testing::S3Server::start("behaviour") else { return };
    let why = "this server looks first and writes later; the test through the proxy runs it";
    let races = [("of_many_creators_one_wins", why), ("of_many_replacers_none_is_lost", why)];
    testing::run_without(&races, s3(server.spec("case"))).await;
}

/// Before a server that decides races, which the proxy makes of it: nothing is excused.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_s3_server_that_decides_races_passes() {
    let Some(server) = testing::S3Server::start("behaviour") else { return };
    let proxy = testing::FaultProxy::start(server.addr());
    proxy.set(testing::Faults::only(testing::Fault::OneAtATime));
    testing::run(s3(server.spec_at(proxy.addr(), "case"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sealed_s3_server_passes() {
    let Some(server) = testing::S3Server::start("behaviour") else { return };
    let proxy = testing::FaultProxy::start(server.addr());
    proxy.set(testing::Faults::only(testing::Fault::OneAtATime));
    let mut make = s3(server.spec_at(proxy.addr(), "case"));
    let why = "its listings name no versions, so emptiness cannot be proved in one";
    let listings = [("an_empty_object_is_an_object", why), ("listing_shows_exactly_what_is_there", why)];
    testing::run_without(&listings, || sealed(make())).await;
}

/// Two handles of one folder stand for two processes: the lock is the file's, not the handle's.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replacing_is_exclusive_across_handles() {
    use orlop_store::object_store::{Error, PutMode, UpdateVersion};
    use orlop_store::{ObjectStoreExt, Path};
    let dir = tempfile::tempdir().expect("temp folder");
    let url = url::Url::from_directory_path(dir.path()).expect("absolute").to_string();
    let at = Path::from("count");
    open(&url).expect("opens").put(&at, vec![0].into()).await.expect("puts");
    let tasks = (0..6).map(|_| {
        let (s, at) = (open(&url).expect("opens"), at.clone());
        tokio::spawn(async move {
            let mut wins = 0u8;
            while wins < 5 {
                let got = s.get(&at).await.expect("gets");
                let version = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: None };
                let n = got.bytes().await.expect("reads")[0];
                match s.put_opts(&at, vec![n + 1].into(), PutMode::Update(version).into()).await {
                    Ok(_) => wins += 1,
                    Err(Error::Precondition { .. }) => {}
                    Err(e) => panic!("{e}"),
                }
            }
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.expect("no task panics");
    }
    let end = open(&url).expect("opens").get(&at).await.expect("gets").bytes().await.expect("reads");
    assert_eq!(end[0], 30);
}

/// A mount point whose disk is not mounted looks like an empty folder.
#[tokio::test]
async fn a_store_that_is_not_there_is_neither_empty_nor_made_anew() {
    use futures::TryStreamExt;
    use orlop_store::{ObjectStoreExt, Path};
    let dir = tempfile::tempdir().expect("temp folder");
    let (here, away) = (dir.path().join("store"), dir.path().join("away"));
    let spec = orlop_model::StoreSpec::new(url::Url::from_directory_path(&here).expect("absolute").to_string());
    let refused = |e: orlop_model::Error| {
        assert!(e.kind == orlop_model::ErrorKind::Unavailable && e.message.contains("no store is there") && e.remedy.is_some(), "{e}");
    };
    refused(orlop_store::open_spec(&spec).expect_err("it was never made"));
    orlop_store::make_folder(&spec).expect("makes");
    let store = orlop_store::open_spec(&spec).expect("opens");
    let (at, other) = (Path::from("a/b"), Path::from("c/d"));
    store.put(&at, "kept".into()).await.expect("puts");
    for bare in [true, false] {
        std::fs::rename(&here, &away).expect("moves");
        if bare {
            std::fs::create_dir(&here).expect("makes");
        }
        refused(orlop_store::open_spec(&spec).expect_err("it is away"));
        let failed = |e: &orlop_store::object_store::Error| refused(orlop_store::error("asking", e));
        failed(&store.get(&at).await.expect_err("get"));
        failed(&store.put(&other, "lost".into()).await.expect_err("put"));
        failed(&store.delete(&at).await.expect_err("delete"));
        failed(&store.list(None).try_collect::<Vec<_>>().await.expect_err("list"));
        failed(&store.list_with_delimiter(None).await.expect_err("list"));
        assert!(!here.exists() || std::fs::read_dir(&here).expect("reads").next().is_none(), "nothing is made there");
        if bare {
            std::fs::remove_dir(&here).expect("removes");
        }
        std::fs::rename(&away, &here).expect("moves back");
        assert_eq!(store.get(&at).await.expect("is back").bytes().await.expect("reads"), "kept");
    }
    // Of a copy without the hidden file everything can be read.
    std::fs::remove_file(here.join(".orlop-lock#0")).expect("removes");
    let copy = orlop_store::open_spec(&spec).expect("opens");
    assert_eq!(copy.get(&at).await.expect("there").bytes().await.expect("reads"), "kept");
    assert!(!here.join(".orlop-lock#0").exists(), "reading changes nothing");
    copy.put(&at, "changed".into()).await.expect("puts");
}

#[tokio::test]
async fn what_an_unfinished_upload_left_is_hidden_and_swept() {
    use futures::TryStreamExt;
    use std::time::Duration;
    let dir = tempfile::tempdir().expect("temp folder");
    let url = url::Url::from_directory_path(dir.path()).expect("absolute").to_string();
    let store = open(&url).expect("opens");
    std::fs::create_dir(dir.path().join("v")).expect("makes");
    for name in ["v/x#1", "v/x#22", "v/keep#me"] {
        std::fs::write(dir.path().join(name), "torn").expect("writes");
    }
    let listed: Vec<_> = store.list(None).map_ok(|m| m.location.to_string()).try_collect().await.expect("lists");
    assert_eq!(listed, ["v/keep#me"]);
    assert_eq!(orlop_store::sweep_unfinished(dir.path(), Duration::from_secs(3600)).expect("sweeps"), 0);
    assert_eq!(orlop_store::sweep_unfinished(dir.path(), Duration::ZERO).expect("sweeps"), 2);
    assert!(dir.path().join("v/keep#me").exists());
}
