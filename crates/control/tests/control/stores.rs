//! Stores: examined before they are added, refused with their reason, kept while volumes live there; and no secret
//! that somebody planted is ever written down.

use crate::world::*;
use orlop_control::{AuditFilter, VolumeFilter};
use orlop_model::{CredentialsRef, ErrorKind, Intent, StoreName, StoreSpec};
use std::collections::BTreeMap;
use std::time::Duration;

fn name(s: &str) -> StoreName {
    s.parse().unwrap()
}

#[tokio::test]
async fn a_store_is_examined_kept_with_all_fields_and_removed_when_it_is_empty() {
    let site = Site::new();
    let control = site.open().await;
    let spec = StoreSpec {
        url: "s3://bucket/prefix/".into(),
        settings: BTreeMap::from([("endpoint".into(), "http://127.0.0.1:9".into())]),
        credentials: Some(CredentialsRef::File("/etc/orlop/s3".into())),
    };
    let add = Intent::AddStore { name: name("cloud"), spec: spec.clone() };
    let added = store_of(control.apply(&ROOT, add.clone()).await.unwrap());
    assert_eq!(
        (added.spec.url.as_str(), &added.spec.settings, &added.spec.credentials),
        ("s3://bucket/prefix", &spec.settings, &spec.credentials)
    );
    assert!(added.capabilities.unwrap().conditional_create && added.refusal.is_none() && added.examined_at.is_some());
    assert_eq!(store_of(control.apply(&ROOT, add).await.unwrap()), added, "the same again changes nothing");
    assert_eq!(site.world.calls("examine"), 1);
    let e = refused(control.apply(&ROOT, add_store("cloud", "s3://bucket/prefix")).await, ErrorKind::AlreadyExists);
    assert!(e.message.contains("settings") && e.message.contains("credentials"), "{e}");
    control.close().await;
    drop(control);
    let control = site.open().await;
    assert_eq!(control.store(&name("cloud")).await.unwrap(), added);
    let names: Vec<String> = control.stores().await.unwrap().iter().map(|s| s.name.to_string()).collect();
    assert_eq!(names, ["cloud", "default"]);
    control.apply(&ROOT, create("v", &[("store", "cloud")])).await.unwrap();
    let plan = control.mount_plan(&named("v")).await.unwrap();
    assert_eq!((plan.store.credentials, plan.store.url.as_str()), (spec.credentials, "s3://bucket/prefix"));
    let id = control.volume_brief(&named("v")).await.unwrap().id;

    let e = refused(control.apply(&ROOT, remove_store("cloud")).await, ErrorKind::Busy);
    assert!(e.message.contains('v'), "{e}");
    control.apply(&ROOT, remove("v", false)).await.unwrap();
    let e = refused(control.apply(&ROOT, remove_store("cloud")).await, ErrorKind::Busy);
    assert!(e.message.contains("can be restored") && e.remedy.as_ref().unwrap().contains(&id.to_string()), "{e}");
    assert_eq!(control.store(&name("cloud")).await.unwrap().volumes, 1);
    control.apply(&ROOT, remove(&id.to_string(), true)).await.unwrap();
    control.apply(&ROOT, remove_store("cloud")).await.unwrap();
    refused(control.apply(&ROOT, remove_store("cloud")).await, ErrorKind::NotFound);
    let e = refused(control.apply(&ROOT, create("v", &[("store", "cloud")])).await, ErrorKind::NotFound);
    assert!(e.remedy.unwrap().contains("default"), "the known ones are named");
}

#[tokio::test]
async fn a_store_in_use_is_reached_another_way_and_stays_where_it_is() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, add_store("cloud", "s3://bucket")).await.unwrap();
    for v in ["mounted", "idle"] {
        control.apply(&ROOT, create(v, &[("store", "cloud")])).await.unwrap();
    }
    control.apply(&ROOT, docker("mounted", "m")).await.unwrap();
    let id = control.volume_brief(&named("mounted")).await.unwrap().id;
    let reached = || site.world.0.lock().mounted[&id].plan.store.clone();

    let new = store_of(control.apply(&ROOT, set_store("cloud", Some("file:/new"), &[("region", "eu"), ("timeout", "9s")])).await.unwrap());
    assert_eq!(new.spec.credentials, Some(CredentialsRef::File("/new".into())));
    assert_eq!(reached(), new.spec, "who is mounted is told at once");
    assert_eq!(control.mount_plan(&named("idle")).await.unwrap().store, new.spec);
    let examined = site.world.calls("examine");
    control.apply(&ROOT, set_store("cloud", None, &[("region", "eu")])).await.unwrap();
    assert_eq!(site.world.calls("examine"), examined, "as it stands: nothing to do");
    let unset = store_of(control.apply(&ROOT, set_store("cloud", Some(""), &[("timeout", "")])).await.unwrap());
    assert!(unset.spec.credentials.is_none() && !unset.spec.settings.contains_key("timeout"), "{unset:?}");

    // What cannot be tried out, what is another place, and what no longer keeps conditions: all stays as it is.
    let same = |what: &str| assert_eq!(reached(), unset.spec, "{what}");
    site.world.fail("examine", ErrorKind::Denied);
    let e = refused(control.apply(&ROOT, set_store("cloud", Some("file:/wrong"), &[])).await, ErrorKind::Denied);
    assert!(e.message.contains("not changed") && e.remedy.is_some(), "{e}");
    same("denied");
    site.world.heal();
    let e = refused(control.apply(&ROOT, set_store("cloud", None, &[("endpoint", ELSEWHERE)])).await, ErrorKind::InvalidArgument);
    assert!(e.message.contains("mounted") && e.message.contains("idle") && e.message.contains("another place"), "{e}");
    same("elsewhere");
    let e = refused(control.apply(&ROOT, set_store("cloud", None, &[("endpoint", COPY)])).await, ErrorKind::InvalidArgument);
    assert!(e.message.contains("a copy") && e.remedy.is_some(), "{e}");
    same("a copy");
    site.world.0.lock().careless.insert("s3://bucket".into());
    refused(control.apply(&ROOT, set_store("cloud", None, &[("region", "us")])).await, ErrorKind::Unsupported);
    same("careless");
    site.world.0.lock().careless.clear();
    assert_eq!(control.store(&name("cloud")).await.unwrap().spec, unset.spec);
    refused(control.apply(&ROOT, set_store("absent", None, &[("region", "us")])).await, ErrorKind::NotFound);
    let e = refused(control.apply(&ROOT, set_store("cloud", None, &[("secret_key", "planted")])).await, ErrorKind::InvalidArgument);
    assert!(!e.to_string().contains("planted"), "{e}");
    // What is not set may be unset; what no store of this kind has may not.
    control.apply(&ROOT, set_store("cloud", None, &[("timeout", "")])).await.unwrap();
    for key in ["nosuch", "regoin"] {
        let e = refused(control.apply(&ROOT, set_store("cloud", None, &[(key, "")])).await, ErrorKind::InvalidArgument);
        assert!(e.message.contains(key) && e.remedy.unwrap().contains("region"), "{}", e.message);
    }
    refused(control.apply(&ROOT, set_store("default", None, &[("region", "")])).await, ErrorKind::InvalidArgument);
    same("unknown names");

    // A worker that cannot be told now is told by the reconciler.
    site.world.fail("set_store", ErrorKind::Unavailable);
    let new = store_of(control.apply(&ROOT, set_store("cloud", Some("file:/newer"), &[])).await.unwrap());
    same("not told yet");
    site.world.heal();
    let report = control.reconcile().await;
    assert!(report.failed.is_empty(), "{report:?}");
    assert_eq!(reached(), new.spec);
    site.world.assert_respected();
    let events = control.audit().list(&AuditFilter::default()).await.unwrap();
    assert!(events.iter().any(|e| e.verb == "store.set" && e.target == "cloud"));
    assert!(!format!("{events:?}").contains("planted"));
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_is_not_added() {
    let site = Site::new();
    let control = site.open().await;
    site.world.fail("examine", ErrorKind::Unavailable);
    let e = refused(control.apply(&ROOT, add_store("gone", "s3://bucket")).await, ErrorKind::Unavailable);
    assert!(e.message.contains("gone is not added"), "{e}");
    assert_eq!(control.stores().await.unwrap().len(), 1);
    // A look at the default store works even then; it is examined at a later look.
    assert!(control.store(&name("default")).await.unwrap().capabilities.is_none());
    site.world.heal();
    assert!(control.store(&name("default")).await.unwrap().capabilities.unwrap().conditional_replace);
    let before = site.world.calls("examine");
    control.store(&name("default")).await.unwrap();
    assert_eq!(site.world.calls("examine"), before, "once is enough");
    refused(control.apply(&ROOT, remove_store("default")).await, ErrorKind::InvalidArgument);
    let e = control.store(&name("absent")).await.unwrap_err();
    assert!(e.kind == ErrorKind::NotFound && e.remedy.is_some(), "{e}");
    refused(control.apply(&ROOT, test_store("absent")).await, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_second_store_at_the_same_place_is_refused() {
    let site = Site::new();
    let control = site.open().await;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("plain");
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(&folder, dir.path().join("link")).unwrap();
    let plain = |name: &str| format!("dir://{}", dir.path().join(name).display());
    control.apply(&ROOT, add_store("one", "s3://bucket")).await.unwrap();
    control.apply(&ROOT, add_store("folder", &plain("plain"))).await.unwrap();
    for (url, there) in [("s3://bucket", "one"), (&*plain("link"), "folder")] {
        let e = refused(control.apply(&ROOT, add_store("two", url)).await, ErrorKind::AlreadyExists);
        assert!(e.message.contains(there) && e.remedy.unwrap().contains(&format!("orlop store set {there}")), "{}", e.message);
    }
    control.apply(&ROOT, add_store("two", "s3://bucket/other")).await.unwrap();
    // Of one that does not answer nobody can tell.
    site.world.fail("is_same_place", ErrorKind::Unavailable);
    control.apply(&ROOT, add_store("three", "s3://bucket")).await.unwrap();
    site.world.heal();
    // What one takes for its volumes would be the other's objects; folders of plain volumes may lie in one another.
    let chunked = |name: &str| format!("file://{}", dir.path().join(name).display());
    control.apply(&ROOT, add_store("chunked", &chunked("objects"))).await.unwrap();
    let above = format!("dir://{}", dir.path().display());
    for url in [plain("objects"), plain("objects/volumes"), above, chunked("plain/below"), chunked("objects/below")] {
        let e = refused(control.apply(&ROOT, add_store("four", &url)).await, ErrorKind::AlreadyExists);
        assert!(e.remedy.is_some(), "{url}: {}", e.message);
    }
    control.apply(&ROOT, add_store("four", &plain("plain/below"))).await.unwrap();
    site.world.assert_respected();
}

#[tokio::test]
async fn a_store_that_overwrites_is_added_but_holds_no_chunked_volume() {
    let site = Site::new();
    let control = site.open().await;
    site.world.0.lock().careless.insert("s3://careless".to_owned());
    let added = store_of(control.apply(&ROOT, add_store("careless", "s3://careless")).await.unwrap());
    let reason = added.refusal.unwrap();
    assert!(reason.contains("create") && !added.capabilities.unwrap().conditional_create, "{reason}");
    let e = refused(control.apply(&ROOT, create("v", &[("store", "careless")])).await, ErrorKind::Unsupported);
    assert!(e.message.contains(&reason) && e.message.contains("careless"), "{e}");
    assert!(control.volumes(VolumeFilter::default()).await.unwrap().is_empty());
    // The server is mended.
    site.world.0.lock().careless.clear();
    site.clock.forward(Duration::from_secs(60));
    let tested = store_of(control.apply(&ROOT, test_store("careless")).await.unwrap());
    assert!(tested.refusal.is_none() && tested.examined_at.unwrap() > added.examined_at.unwrap());
    control.apply(&ROOT, create("v", &[("store", "careless")])).await.unwrap();
}

#[tokio::test]
async fn a_volume_and_the_removal_of_its_store_do_not_slip_past_each_other() {
    for turn in 0..20 {
        let site = Site::new();
        let control = site.open().await;
        control.apply(&ROOT, add_store("spare", "mem://race")).await.unwrap();
        if turn % 2 == 0 {
            site.world.0.lock().slow = Some(Duration::from_millis(1));
        }
        let (made, removed) =
            tokio::join!(control.apply(&ROOT, create("v", &[("store", "spare")])), control.apply(&ROOT, remove_store("spare")));
        assert!(made.is_ok() != removed.is_ok(), "{made:?} {removed:?}");
        assert_eq!(control.volumes(VolumeFilter::default()).await.unwrap().len(), usize::from(made.is_ok()));
        assert_eq!(control.stores().await.unwrap().len(), 1 + usize::from(made.is_ok()));
    }
}

#[tokio::test]
async fn a_store_that_is_gone_from_the_registry_is_named_with_what_brings_it_back() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, add_store("spare", "mem://spare")).await.unwrap();
    control.apply(&ROOT, create("v", &[("store", "spare")])).await.unwrap();
    control.close().await;
    drop(control);
    let db = format!("sqlite://{}", site.dir.path().join("orlop.db").display());
    let mut db = <sqlx::SqliteConnection as sqlx::Connection>::connect(&db).await.unwrap();
    sqlx::query("DELETE FROM stores WHERE name = 'spare'").execute(&mut db).await.unwrap();
    sqlx::Connection::close(db).await.unwrap();
    let control = site.open().await;
    let e = refused(control.apply(&ROOT, docker("v", "m")).await, ErrorKind::NotFound);
    assert!(e.message.contains("spare") && e.remedy.unwrap().contains("orlop store add spare"));
    assert_eq!(control.volumes(VolumeFilter::default()).await.unwrap().len(), 1, "it is still shown");
    control.apply(&ROOT, add_store("spare", "mem://spare")).await.unwrap();
    control.apply(&ROOT, docker("v", "m")).await.unwrap();
}

#[tokio::test]
async fn a_planted_secret_is_written_nowhere() {
    let site = Site::new();
    let control = site.open().await;
    let planted = "wJalrPLANTED";
    let mut specs = vec![
        StoreSpec::new(format!("s3://AKIA:{planted}@bucket")),
        StoreSpec::new(format!("s3://AKIA:x/{planted}@bucket")),
        StoreSpec::new(format!("s3://bucket?secret={planted}")),
        StoreSpec::new(planted),
    ];
    for (key, value) in [("secret_access_key", planted), ("endpoint", &format!("http://a:{planted}@127.0.0.1"))] {
        specs.push(StoreSpec { settings: BTreeMap::from([(key.to_owned(), value.to_owned())]), ..StoreSpec::new("s3://bucket") });
    }
    for spec in specs {
        let e = refused(control.apply(&ROOT, Intent::AddStore { name: name("s"), spec }).await, ErrorKind::InvalidArgument);
        assert!(!format!("{e:?}").contains(planted), "{e}");
    }
    assert_eq!(site.world.calls("examine"), 0, "nothing was opened");
    let events = control.audit().list(&AuditFilter::default()).await.unwrap();
    assert_eq!(events.len(), 6, "each try is recorded");
    control.close().await;
    drop(control);
    let mut files = 0;
    for folder in [site.dir.path().to_owned(), site.dir.path().join("audit")] {
        for entry in std::fs::read_dir(folder).unwrap().flatten().filter(|e| e.path().is_file()) {
            files += 1;
            let bytes = std::fs::read(entry.path()).unwrap();
            assert!(!bytes.windows(planted.len()).any(|w| w == planted.as_bytes()), "{:?}", entry.path());
        }
    }
    assert!(files >= 2);
}
