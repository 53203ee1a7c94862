//! The S3 store against a real server, and against the same server behind a proxy that breaks things.

use crate::testing::{ACCESS_KEY, Fault, FaultProxy, Faults, Rule, S3Server, SECRET_KEY};
use crate::{ObjectStore, ObjectStoreExt, open_spec, probe};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error as Os, PutMode};
use orlop_model::{CredentialsRef, Error, ErrorKind, StoreSpec};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn at(name: &str) -> Path {
    Path::from(name)
}

fn said(e: &Os) -> Error {
    crate::error("here", e)
}

fn write_credentials(path: &std::path::Path, id: &str, secret: &str) {
    std::fs::write(path, format!("[default]\naws_access_key_id={id}\naws_secret_access_key={secret}\n")).expect("writes");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("sets the mode");
}

/// The server, a proxy before it, and a store through the proxy that gives a request up after a second.
fn behind_a_proxy() -> Option<(S3Server, FaultProxy, Arc<dyn ObjectStore>)> {
    let server = S3Server::start("faults")?;
    let proxy = FaultProxy::start(server.addr());
    let mut spec = server.spec_at(proxy.addr(), "p");
    spec.settings.insert("timeout".into(), "1s".into());
    let store = open_spec(&spec).expect("opens");
    Some((server, proxy, store))
}

#[tokio::test]
async fn the_prefix_of_the_url_is_kept_and_the_store_names_itself() {
    let Some(server) = S3Server::start("names") else { return };
    let store = open_spec(&server.spec("some/where")).expect("opens");
    assert_eq!(store.to_string(), "s3://names/some/where");
    store.put(&at("x/y"), "1".into()).await.expect("puts");
    assert!(server.folder().join("some/where/x/y").is_file());
    let whole = open_spec(&server.spec("")).expect("opens");
    let listed: Vec<_> = whole.list(None).map_ok(|m| m.location.to_string()).try_collect().await.expect("lists");
    assert_eq!(listed, ["some/where/x/y"]);
    assert!(!format!("{store:?}").contains(SECRET_KEY), "{store:?}");
}

#[tokio::test]
async fn wrong_credentials_are_denied_and_never_shown() {
    let Some(server) = S3Server::start("denied") else { return };
    let dir = tempfile::tempdir().expect("temp folder");
    let path = dir.path().join("credentials");
    let planted = "planted-secret-77aa";
    for (id, secret, code) in [(ACCESS_KEY, planted, "SignatureDoesNotMatch"), ("nobody", planted, "")] {
        write_credentials(&path, id, secret);
        let spec = StoreSpec { credentials: Some(CredentialsRef::File(path.display().to_string())), ..server.spec("") };
        let store = open_spec(&spec).expect("opens without a request");
        let e = store.put(&at("x"), "1".into()).await.expect_err("denied");
        let ours = said(&e);
        assert_eq!(ours.kind, ErrorKind::Denied, "{ours}");
        assert!(ours.remedy.is_some() && ours.message.contains(code), "{ours}");
        let all = format!("{ours} {ours:?} {e} {e:?} {store:?}");
        for secret in [planted, "AWS4-HMAC", "StringToSign", "Signature="] {
            assert!(!all.contains(secret), "{secret}: {all}");
        }
    }
    let nobody = open_spec(&StoreSpec { credentials: None, ..server.spec("") }).expect("opens");
    let e = nobody.put(&at("x"), "1".into()).await.expect_err("the server wants credentials");
    assert_eq!(said(&e).kind, ErrorKind::Denied, "{e}");
}

#[tokio::test]
async fn credentials_are_read_again_when_the_store_refuses_the_old_ones() {
    let Some(server) = S3Server::start("renewed") else { return };
    let dir = tempfile::tempdir().expect("temp folder");
    let path = dir.path().join("credentials");
    write_credentials(&path, ACCESS_KEY, "an-old-secret");
    let spec = StoreSpec { credentials: Some(CredentialsRef::File(path.display().to_string())), ..server.spec("") };
    let store = open_spec(&spec).expect("opens");
    assert!(store.put(&at("x"), "1".into()).await.is_err());
    write_credentials(&path, ACCESS_KEY, SECRET_KEY);
    store.put_opts(&at("x"), "2".into(), PutMode::Create.into()).await.expect("the very next request");
    let listed: Vec<_> = store.list(None).try_collect().await.expect("lists, with a query");
    assert_eq!(listed.len(), 1);
    assert_eq!(store.get(&at("x")).await.expect("gets").bytes().await.expect("reads"), "2");
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_told_from_an_object() {
    let Some(server) = S3Server::start("there") else { return };
    let spec = StoreSpec { url: "s3://not-there".into(), ..server.spec("") };
    let store = open_spec(&spec).expect("opens");
    let e = store.list(None).try_collect::<Vec<_>>().await.expect_err("no bucket");
    assert!(!matches!(e, Os::NotFound { .. }), "{e:?}");
    let ours = said(&e);
    assert_eq!(ours.kind, ErrorKind::NotFound, "{ours}");
    assert!(ours.message.contains("NoSuchBucket") && ours.remedy.is_some_and(|r| r.contains("bucket")), "{}", ours.message);
    let store = open_spec(&server.spec("")).expect("opens");
    assert!(matches!(store.get(&at("absent")).await, Err(Os::NotFound { .. })));
}

#[tokio::test]
async fn a_refused_connection_is_unavailable_soon() {
    let Some(server) = S3Server::start("away") else { return };
    let store = open_spec(&server.spec("")).expect("opens");
    drop(server);
    let began = Instant::now();
    let ours = said(&store.put(&at("x"), "1".into()).await.expect_err("away"));
    assert_eq!(ours.kind, ErrorKind::Unavailable, "{ours}");
    assert!(ours.message.contains("refused") && ours.remedy.is_some(), "{ours}");
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_server_that_ignores_conditions_is_found_out() {
    let Some((server, proxy, store)) = behind_a_proxy() else { return };
    let honest = probe(open_spec(&server.spec("q")).expect("opens").as_ref()).await.expect("probes");
    assert!(honest.conditional_create && honest.conditional_replace && honest.ranged_get && honest.multipart, "{honest:?}");
    assert_eq!(honest.refusal(), None);
    assert!(honest.clock_skew_ms.is_some_and(|ms| ms.abs() < 2_000), "{honest:?}");
    proxy.set(Faults::only(Fault::OneAtATime));
    let decides = probe(store.as_ref()).await.expect("probes");
    assert!(decides.atomic_conditions, "{decides:?} {:?}", proxy.seen());
    for wrong in [3_600_000, -7_200_000] {
        proxy.set(Faults::only(Fault::Ahead(wrong / 1000)));
        let found = probe(store.as_ref()).await.expect("probes").clock_skew_ms.expect("a clock");
        assert!((found - wrong).abs() < 5_000, "{found} of {wrong}");
    }
    proxy.set(Faults::only(Fault::StripConditions));
    let found = probe(store.as_ref()).await.expect("probes");
    assert!(!found.conditional_create && !found.conditional_replace && !found.atomic_conditions, "{found:?}");
    assert!(found.refusal().is_some());
    let left: Vec<_> = store.list(None).try_collect().await.expect("lists");
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_server_that_tells_no_version_and_a_bucket_that_none_has_are_called_that() {
    let Some((server, proxy, store)) = behind_a_proxy() else { return };
    let spec = StoreSpec { url: "s3://Not_A_Bucket".into(), ..server.spec("") };
    let e = probe(open_spec(&spec).expect("opens").as_ref()).await.expect_err("no such name");
    assert_eq!(e.kind, ErrorKind::InvalidArgument, "{e}");
    assert!(e.message.contains("InvalidBucketName") && e.remedy.is_some_and(|r| r.contains("URL")), "{}", e.message);
    proxy.set(Faults::only(Rule::new(Fault::StripVersion).on("PUT")));
    let e = probe(store.as_ref()).await.expect_err("no ETag");
    assert_eq!(e.kind, ErrorKind::Unsupported, "{e}");
    assert!(e.message.contains("no ETag") && e.remedy.is_some_and(|r| r.contains("ETag")), "{}", e.message);
    proxy.heal();
    let left: Vec<_> = store.list(None).try_collect().await.expect("lists");
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn what_passes_is_endured_and_what_stays_is_told_soon() {
    let Some((_server, proxy, store)) = behind_a_proxy() else { return };
    for status in [500, 503, 429] {
        proxy.forget();
        proxy.set(Faults::only(Rule::new(Fault::Status(status)).on("PUT").times(2)));
        store.put(&at("x"), "1".into()).await.expect("the third try");
        assert_eq!((proxy.seen().of("PUT", "x"), proxy.seen().injected), (3, 2), "{status}");
    }
    for faults in [Faults::only(Fault::Status(503)), Faults::only(Fault::Reset), Faults::only(Fault::Hang), Faults::down()] {
        let name = format!("{faults:?}");
        proxy.set(faults);
        let began = Instant::now();
        for e in [store.put(&at("x"), "2".into()).await.err(), store.get(&at("x")).await.err()] {
            let ours = said(&e.unwrap_or_else(|| panic!("{name}: it succeeded")));
            assert_eq!(ours.kind, ErrorKind::Unavailable, "{name}: {ours}");
        }
        assert!(began.elapsed() < Duration::from_secs(24), "{name}: {:?}", began.elapsed());
        proxy.heal();
        assert_eq!(store.get(&at("x")).await.expect(&name).bytes().await.expect("reads"), "1", "{name}");
    }
}

#[tokio::test]
async fn a_short_answer_is_an_error_or_made_whole_never_short() {
    let Some((_server, proxy, store)) = behind_a_proxy() else { return };
    let body: Vec<u8> = (0..300_000u32).map(|i| (i * 7) as u8).collect();
    store.put(&at("x"), body.clone().into()).await.expect("puts");
    proxy.set(Faults::only(Rule::new(Fault::Truncate).on("GET").times(1)));
    assert_eq!(store.get(&at("x")).await.expect("begins").bytes().await.expect("the rest is asked for"), body);
    proxy.set(Faults::only(Rule::new(Fault::Truncate).on("GET")));
    let read = async { store.get(&at("x")).await?.bytes().await }.await;
    // Halves of halves may add up within the tries; what must never come is less than all of it.
    assert!(read.as_ref().map_or(true, |b| *b == body), "{} bytes", read.map_or(0, |b| b.len()));
    assert!(proxy.seen().injected >= 2);
    let range = async { store.get_range(&at("x"), 10..20).await }.await;
    assert!(range.as_ref().map_or(true, |b| b[..] == body[10..20]), "{range:?}");
}

#[tokio::test]
async fn a_wrong_bit_passes_for_checksums_are_above() {
    let Some((_server, proxy, store)) = behind_a_proxy() else { return };
    let body = vec![0u8; 100_000];
    store.put(&at("x"), body.clone().into()).await.expect("puts");
    proxy.set(Faults { seed: 5, ..Faults::only(Rule::new(Fault::Flip).on("GET").at("/x")) });
    let read = store.get(&at("x")).await.expect("begins").bytes().await.expect("reads");
    assert_eq!(read.iter().map(|b| b.count_ones()).sum::<u32>(), 1);
}

#[tokio::test]
async fn a_lost_answer_never_means_that_nothing_was_done() {
    let Some((_server, proxy, store)) = behind_a_proxy() else { return };
    proxy.set(Faults::only(Rule::new(Fault::LoseAnswer).on("PUT").times(1)));
    let created = store.put_opts(&at("once"), "mine".into(), PutMode::Create.into()).await;
    // The client may have asked again, and met its own object: whoever creates must look whose it is.
    assert!(matches!(created, Err(Os::AlreadyExists { .. } | Os::Generic { .. })), "{created:?}");
    assert_eq!(store.get(&at("once")).await.expect("it was made").bytes().await.expect("reads"), "mine");
    proxy.set(Faults::only(Rule::new(Fault::LoseAnswer).on("PUT").times(1)));
    let over = store.put(&at("over"), "again".into()).await;
    assert!(over.is_ok() || said(&over.expect_err("one of both")).kind == ErrorKind::Unavailable);
    assert_eq!(store.get(&at("over")).await.expect("it was made").bytes().await.expect("reads"), "again");
}

#[tokio::test]
async fn a_slow_line_is_slow_and_counted() {
    let Some((_server, proxy, store)) = behind_a_proxy() else { return };
    proxy.set(Faults::only(Fault::Latency(Duration::from_millis(150))));
    let began = Instant::now();
    store.put(&at("x"), vec![7; 50_000].into()).await.expect("puts");
    assert!(began.elapsed() >= Duration::from_millis(150));
    proxy.set(Faults::only(Rule::new(Fault::Bandwidth(200_000)).on("GET")));
    let began = Instant::now();
    assert_eq!(store.get(&at("x")).await.expect("begins").bytes().await.expect("reads").len(), 50_000);
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    // The last bytes are counted once they were sent, when the client may have them already.
    let since = Instant::now();
    while proxy.seen().down < 50_000 && since.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seen = proxy.seen();
    assert_eq!((seen.count, seen.up, seen.down), (2, 50_000, 50_000), "{seen:?}");
}

#[test]
fn bad_specifications_are_refused_with_a_remedy() {
    for (url, setting, named) in [
        ("s3://", None, "bucket"),
        ("s3://bucket:9000/x", None, "port"),
        ("s3://bucket", Some(("endpont", "http://h")), "endpont"),
        ("file:///tmp/orlop-never-made", Some(("region", "x")), "region"),
        ("mem://", Some(("region", "x")), "region"),
        ("dir:///tmp", None, "dir://"),
    ] {
        let mut spec = StoreSpec::new(url);
        spec.settings.extend(setting.map(|(k, v)| (k.to_owned(), v.to_owned())));
        let e = open_spec(&spec).err().unwrap_or_else(|| panic!("{url} was accepted"));
        assert!(e.message.contains(named) && e.remedy.is_some(), "{url}: {e}");
    }
    let both = StoreSpec {
        settings: [("instance_metadata".to_owned(), "on".to_owned())].into(),
        credentials: Some(CredentialsRef::Environment("X".into())),
        ..StoreSpec::new("s3://bucket")
    };
    assert!(open_spec(&both).is_err());
    let local = StoreSpec { credentials: Some(CredentialsRef::Environment("X".into())), ..StoreSpec::new("mem://") };
    assert!(open_spec(&local).is_err());
}

#[tokio::test]
async fn on_a_slow_line_what_takes_longer_than_the_timeout_arrives_all_the_same() {
    let Some((_server, proxy, store)) = behind_a_proxy() else { return };
    // Four seconds of sending; a request may take one.
    proxy.set(Faults::only(Rule::from(Fault::Bandwidth(512 << 10)).at("big")));
    let body = vec![7; 2 << 20];
    let put = async {
        for attempt in 1.. {
            let done = store.put_opts(&at("big"), body.clone().into(), PutMode::Create.into()).await;
            match done {
                Ok(_) | Err(Os::AlreadyExists { .. }) => return attempt,
                Err(e) => assert!(attempt < 5, "{e}"),
            }
        }
        0
    };
    let others = async {
        loop {
            store.put(&at("small"), "x".into()).await.expect("the line is slow, not dead");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let attempts = tokio::select! {
        n = put => n,
        () = others => unreachable!("it never ends"),
    };
    assert!(attempts > 1, "the line was not slow");
    proxy.heal();
    let got = store.get(&at("big")).await.expect("there").bytes().await.expect("whole");
    assert_eq!(got.len(), body.len());
}
