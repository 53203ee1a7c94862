//! Plain volumes: folders made or adopted, never moved or deleted when they are somebody else's.

use crate::world::*;
use orlop_control::VolumeFilter;
use orlop_model::{ErrorKind, VolumeKind, VolumeState};
use std::time::Duration;

async fn with_store(site: &Site) -> std::sync::Arc<orlop_control::Control> {
    let control = site.open().await;
    control.apply(&ROOT, add_store("plain", "dir:///plain")).await.unwrap();
    control
}

fn on(site: &Site, folder: &str) -> Option<String> {
    site.world.0.lock().folders.get(folder).map(|(_, text)| text.clone())
}

#[tokio::test]
async fn what_the_medium_cannot_do_is_refused_by_name() {
    let site = Site::new();
    let control = with_store(&site).await;
    for (key, value) in [
        ("size", "1G"),
        ("encrypt", "on"),
        ("compression", "zstd"),
        ("durability", "local"),
        ("durability", "remote"),
        ("outage", "fail"),
        ("cache", "strict"),
    ] {
        let e = refused(control.apply(&ROOT, create("v", &[("store", "plain"), (key, value)])).await, ErrorKind::Unsupported);
        assert!(e.message.contains(key) && e.message.contains("plain folders"), "{e}");
    }
    assert_eq!(site.world.calls("format"), 0);
    let fine = [("store", "plain"), ("uid", "5"), ("mode", "0700"), ("encrypt", "off"), ("compression", "none"), ("retention", "1h")];
    let v = volume_of(control.apply(&ROOT, create("v", &fine)).await.unwrap());
    assert_eq!((v.kind, v.folder.as_deref(), v.adopted), (VolumeKind::Plain, Some("/plain/v"), false));
    assert_eq!(control.mountpoint_of(&v), "/plain/v");
    for (key, value) in [("size", "1G"), ("durability", "local"), ("outage", "wait")] {
        refused(control.apply(&ROOT, set("v", &[(key, value)])).await, ErrorKind::Unsupported);
    }
    let (_, at) = attachment_of(control.apply(&ROOT, docker("v", "m")).await.unwrap());
    assert_eq!(at, "/plain/v", "the mountpoint is the folder itself");
    for bad in ["dir:///", "dir://host/x", &format!("dir://{}", site.dir.path().display()), "dir:///dev"] {
        let outcome = control.apply(&ROOT, add_store("bad", bad)).await;
        if bad != "dir:///dev" || site.dir.path().starts_with("/dev") {
            refused(outcome, ErrorKind::InvalidArgument);
        }
    }
    let bare = orlop_model::StoreSpec {
        settings: std::collections::BTreeMap::from([("region".into(), "x".into())]),
        ..orlop_model::StoreSpec::new("dir:///y")
    };
    refused(
        control.apply(&ROOT, orlop_model::Intent::AddStore { name: "bad".parse().unwrap(), spec: bare }).await,
        ErrorKind::InvalidArgument,
    );
}

#[tokio::test]
async fn an_adopted_folder_is_forgotten_and_stays() {
    let site = Site::new();
    site.world.0.lock().folders.insert("/plain/there".to_owned(), (None, "precious".to_owned()));
    let control = with_store(&site).await;
    for now in [false, true] {
        let v = volume_of(control.apply(&ROOT, create("there", &[("store", "plain")])).await.unwrap());
        assert!(v.adopted);
        let gone = volume_of(control.apply(&ROOT, remove("there", now)).await.unwrap());
        assert_eq!((gone.state, gone.purge_at, gone.adopted), (VolumeState::Removed, None, true));
        assert_eq!(on(&site, "/plain/there").unwrap(), "precious");
        assert!(control.volumes(VolumeFilter { include_removed: true, with_usage: false }).await.unwrap().is_empty(), "forgotten");
    }
    refused(control.apply(&ROOT, restore("there", None)).await, ErrorKind::NotFound);
    control.apply(&ROOT, remove_store("plain")).await.unwrap();
    site.world.assert_respected();
}

#[tokio::test]
async fn a_folder_that_orlop_made_goes_to_the_trash_comes_back_and_is_deleted_in_the_end() {
    let site = Site::new();
    let control = with_store(&site).await;
    let write = |folder: &str, text: &str| site.world.0.lock().folders.get_mut(folder).unwrap().1 = text.to_owned();
    let id = volume_of(control.apply(&ROOT, create("v", &[("store", "plain")])).await.unwrap()).id;
    write("/plain/v", "precious");
    control.apply(&ROOT, remove("v", false)).await.unwrap();
    assert_eq!((on(&site, "/plain/v"), site.world.0.lock().trash[&id].as_str()), (None, "precious"));
    let e = refused(control.apply(&ROOT, remove_store("plain")).await, ErrorKind::Busy);
    assert!(e.message.contains("can be restored"), "{e}");
    // The name is free: an empty folder, not the removed one's files.
    control.apply(&ROOT, create("v", &[("store", "plain")])).await.unwrap();
    assert_eq!(on(&site, "/plain/v").unwrap(), "");
    refused(control.apply(&ROOT, restore("v", None)).await, ErrorKind::AlreadyExists);
    let back = volume_of(control.apply(&ROOT, restore("v", Some("w"))).await.unwrap());
    assert_eq!((back.id, back.folder.as_deref()), (id, Some("/plain/w")));
    assert_eq!(on(&site, "/plain/w").unwrap(), "precious");
    // Somebody's folder in the way is not touched.
    control.apply(&ROOT, remove("w", false)).await.unwrap();
    site.world.0.lock().folders.insert("/plain/w".to_owned(), (None, "other".to_owned()));
    let e = refused(control.apply(&ROOT, restore("w", None)).await, ErrorKind::AlreadyExists);
    assert!(e.remedy.unwrap().contains("--as"));
    assert_eq!(on(&site, "/plain/w").unwrap(), "other");
    site.clock.forward(Duration::from_secs(8 * 86400));
    let report = control.reconcile().await;
    assert_eq!((report.done.len(), report.failed), (1, vec![]), "{:?}", report.done);
    assert!(site.world.0.lock().trash.is_empty());
    control.apply(&ROOT, remove("v", true)).await.unwrap();
    assert_eq!(on(&site, "/plain/v"), None);
    assert_eq!(on(&site, "/plain/w").unwrap(), "other");
    control.apply(&ROOT, remove_store("plain")).await.unwrap();
    site.world.assert_respected();
}

#[tokio::test]
async fn a_folder_that_cannot_move_keeps_its_volume() {
    let site = Site::new();
    let control = with_store(&site).await;
    control.apply(&ROOT, create("v", &[("store", "plain")])).await.unwrap();
    site.world.fail("discard", ErrorKind::Denied);
    let e = control.apply(&ROOT, remove("v", false)).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Denied);
    assert_eq!(control.volume_brief(&named("v")).await.unwrap().state, VolumeState::Active);
    site.world.heal();
    control.apply(&ROOT, remove("v", false)).await.unwrap();
    assert!(on(&site, "/plain/v").is_none());
}
