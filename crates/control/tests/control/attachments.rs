//! Who holds a volume mounted: Docker by its mount ids, folders, Orlop itself.

use crate::world::*;
use orlop_control::{AttachedVolume, Control, ControlConfig};
use orlop_model::{Actor, AttachmentKind, DetachBy, ErrorKind, Intent};
use std::time::Duration;

#[tokio::test]
async fn dockers_calls_in_the_order_in_which_it_sends_them() {
    let site = Site::new();
    let control = site.open().await;
    let v = volume_of(control.apply(&Actor::Docker, create("v", &[])).await.unwrap());
    // Copy-up of the image's content, then the container.
    let (_, at) = attachment_of(control.apply(&Actor::Docker, docker("v", "id1")).await.unwrap());
    assert_eq!(at, control.mountpoint_of(&v));
    control.apply(&Actor::Docker, undocker("v", "id1")).await.unwrap();
    assert!(site.world.0.lock().mounted.is_empty());
    let (first, _) = attachment_of(control.apply(&Actor::Docker, docker("v", "id2")).await.unwrap());
    let (second, _) = attachment_of(control.apply(&Actor::Docker, docker("v", "id3")).await.unwrap());
    assert_ne!(first, second);
    // The same id again is the same attachment: a repeated call, or one after a crash.
    assert_eq!(attachment_of(control.apply(&Actor::Docker, docker("v", "id2")).await.unwrap()).0, first);
    assert_eq!(control.volume_brief(&named("v")).await.unwrap().attachments.len(), 2);
    control.apply(&Actor::Docker, undocker("v", "id2")).await.unwrap();
    control.apply(&Actor::Docker, undocker("v", "id2")).await.unwrap();
    assert_eq!(site.world.0.lock().mounted.len(), 1, "the other container has it still");
    control.apply(&Actor::Docker, undocker("v", "id3")).await.unwrap();
    assert!(site.world.0.lock().mounted.is_empty());
    // Lost and late calls succeed.
    control.apply(&Actor::Docker, undocker("v", "never")).await.unwrap();
    control.apply(&Actor::Docker, undocker("nothing", "never")).await.unwrap();
    control.apply(&Actor::Docker, remove("v", false)).await.unwrap();
    control.apply(&Actor::Docker, undocker("v", "id3")).await.unwrap();
    site.world.assert_respected();
}

#[tokio::test]
async fn a_volume_that_takes_no_changes_is_mounted_anew_or_not_at_all() {
    let site = Site::new();
    let control = site.open().await;
    let v = volume_of(control.apply(&ROOT, create("v", &[])).await.unwrap());
    control.apply(&ROOT, folder("v", "/srv/x", false)).await.unwrap();
    let stop = || drop(site.world.0.lock().stopped.insert(v.id, "another host has taken the volume".to_owned()));
    stop();
    // Somebody has it: neither he, when he asks again, nor anybody else is told that it is mounted.
    for intent in [folder("v", "/srv/x", false), folder("v", "/srv/y", false), docker("v", "m")] {
        let e = control.apply(&ROOT, intent).await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Busy, "{e}");
        assert!(e.message.contains("another host has taken") && e.remedy.as_ref().unwrap().contains("orlop unmount v"), "{e:?}");
    }
    assert_eq!(control.volume_brief(&named("v")).await.unwrap().attachments.len(), 1, "who had it has it still");
    assert_eq!(site.world.calls("detach"), 0);
    control.apply(&ROOT, unfolder("v", "/srv/x")).await.unwrap();
    // Left mounted although nobody holds it.
    let plan = control.mount_plan(&named("v")).await.unwrap();
    let left = AttachedVolume { plan, worker_pid: 1, serving: true, binds: vec![], in_use_elsewhere: false };
    site.world.0.lock().mounted.insert(v.id, left);
    stop();
    site.world.0.lock().in_use.insert(v.id);
    refused(control.apply(&ROOT, folder("v", "/srv/y", false)).await, ErrorKind::Busy);
    site.world.0.lock().in_use.clear();
    site.world.0.lock().stopped.insert(v.id, "another host has taken the volume".to_owned());
    control.apply(&ROOT, folder("v", "/srv/y", false)).await.unwrap();
    assert_eq!(site.world.0.lock().mounted[&v.id].worker_pid, 7, "it is another process");
    assert!(site.world.0.lock().stopped.is_empty());
    site.world.assert_respected();
}

#[tokio::test]
async fn the_same_mount_id_may_hold_two_volumes() {
    let site = Site::new();
    let control = site.open().await;
    for name in ["a", "b"] {
        control.apply(&ROOT, create(name, &[])).await.unwrap();
        control.apply(&Actor::Docker, docker(name, "same")).await.unwrap();
    }
    control.apply(&Actor::Docker, undocker("a", "same")).await.unwrap();
    assert_eq!(control.volume_brief(&named("b")).await.unwrap().attachments.len(), 1);
}

#[tokio::test]
async fn a_failed_attach_leaves_nothing() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    for (failing, intent) in [("attach", docker("v", "m")), ("attach", folder("v", "/x", false)), ("bind", folder("v", "/x", false))] {
        site.world.fail(failing, ErrorKind::Unavailable);
        let e = control.apply(&ROOT, intent).await.unwrap_err();
        assert!(e.message.contains("attaching volume v"), "{e}");
        assert!(control.volume_brief(&named("v")).await.unwrap().attachments.is_empty(), "{failing}");
        assert!(site.world.0.lock().mounted.is_empty(), "{failing}");
        site.world.heal();
    }
    // One that holds already keeps holding, whatever its repetition meets, and so does another holder.
    control.apply(&ROOT, docker("v", "m")).await.unwrap();
    site.world.fail("attach", ErrorKind::Unavailable);
    control.apply(&ROOT, docker("v", "m")).await.unwrap_err();
    control.apply(&ROOT, docker("v", "m2")).await.unwrap_err();
    assert_eq!(control.volume_brief(&named("v")).await.unwrap().attachments.len(), 1);
    assert_eq!(site.world.0.lock().mounted.len(), 1);
}

#[tokio::test]
async fn a_volume_whose_store_is_away_is_refused_with_that_cause() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, add_store("cloud", "s3://bucket")).await.unwrap();
    control.apply(&ROOT, create("far", &[("store", "cloud")])).await.unwrap();
    control.apply(&ROOT, create("near", &[])).await.unwrap();
    site.world.fail("attach", ErrorKind::Unavailable);
    let e = control.apply(&ROOT, folder("far", "/srv/x", false)).await.unwrap_err();
    assert!(e.message.contains("as planned"), "the store answers, so it is something else: {e}");
    site.world.fail("recognise", ErrorKind::Unavailable);
    for intent in [folder("far", "/srv/x", false), docker("far", "m")] {
        let e = refused(control.apply(&ROOT, intent).await, ErrorKind::Unavailable);
        assert!(e.message.contains("store cloud does not answer") && !e.message.contains("as planned"), "{e}");
        assert!(e.remedy.unwrap().contains("orlop store test cloud"));
    }
    let e = control.apply(&ROOT, folder("near", "/srv/y", false)).await.unwrap_err();
    assert!(e.message.contains("as planned"), "its store is this host's disk: {e}");
    site.world.fail("recognise", ErrorKind::Denied);
    assert_eq!(control.apply(&ROOT, folder("far", "/srv/x", false)).await.unwrap_err().kind, ErrorKind::Denied);
    site.world.heal();
    control.apply(&ROOT, folder("far", "/srv/x", false)).await.unwrap();
    site.world.assert_respected();
}

#[tokio::test]
async fn a_folder_holds_one_volume_in_one_way() {
    let site = Site::new();
    let control = site.open().await;
    for name in ["a", "b"] {
        control.apply(&ROOT, create(name, &[])).await.unwrap();
    }
    let (first, at) = attachment_of(control.apply(&ROOT, folder("a", "/srv/x/", true)).await.unwrap());
    assert_eq!(at, "/srv/x");
    assert_eq!(
        attachment_of(control.apply(&ROOT, folder("a", "/srv//x", true)).await.unwrap()).0,
        first,
        "the same folder, spelt differently"
    );
    let e = refused(control.apply(&ROOT, folder("a", "/srv/x", false)).await, ErrorKind::AlreadyExists);
    assert!(e.message.contains("read-only"), "{e}");
    let e = refused(control.apply(&ROOT, folder("b", "/srv/x", true)).await, ErrorKind::AlreadyExists);
    assert!(e.message.contains("volume a"), "{e}");
    let b = control.volume_brief(&named("b")).await.unwrap().id;
    assert!(!site.world.0.lock().mounted.contains_key(&b));
    control.apply(&ROOT, unfolder("a", "/srv/./x/")).await.unwrap();
    control.apply(&ROOT, folder("b", "/srv/x", false)).await.unwrap();
    for bad in ["x", "", "/", "/a/../b"] {
        refused(control.apply(&ROOT, folder("b", bad, false)).await, ErrorKind::InvalidArgument);
    }
    for inside in [site.dir.path().join("mnt"), site.dir.path().to_owned(), site.dir.path().parent().unwrap().to_owned()] {
        let e = refused(control.apply(&ROOT, folder("b", inside.to_str().unwrap(), false)).await, ErrorKind::InvalidArgument);
        assert!(e.message.contains("root"), "{e}");
    }
    site.world.assert_respected();
}

#[tokio::test]
async fn a_busy_folder_is_kept_and_the_error_tells() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    control.apply(&ROOT, folder("v", "/srv/x", false)).await.unwrap();
    site.world.fail("unbind", ErrorKind::Busy);
    let e = control.apply(&ROOT, unfolder("v", "/srv/x")).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Busy);
    assert_eq!(control.volume_brief(&named("v")).await.unwrap().attachments.len(), 1, "nothing has changed");
    site.world.heal();
    control.reconcile().await;
    assert_eq!(site.world.0.lock().mounted.len(), 1, "nor does it later, behind the user's back");
    control.apply(&ROOT, unfolder("v", "/srv/x")).await.unwrap();
    assert!(site.world.0.lock().mounted.is_empty());
}

#[tokio::test]
async fn the_last_folder_stays_while_the_store_is_away_and_goes_by_force() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, add_store("cloud", "s3://bucket")).await.unwrap();
    control.apply(&ROOT, create("v", &[("store", "cloud")])).await.unwrap();
    control.apply(&ROOT, folder("v", "/srv/x", false)).await.unwrap();
    control.apply(&ROOT, folder("v", "/srv/y", false)).await.unwrap();
    site.world.fail("settle", ErrorKind::Unavailable);
    // Another one holds the volume: nothing has to come to rest.
    control.apply(&ROOT, unfolder("v", "/srv/y")).await.unwrap();
    let e = refused(control.apply(&ROOT, unfolder("v", "/srv/x")).await, ErrorKind::Unavailable);
    assert!(e.message.contains("stays mounted on /srv/x") && e.remedy.is_some_and(|r| r.contains("--force")), "{}", e.message);
    let held = |site: &Site| site.world.0.lock().mounted.values().map(|m| m.binds.len()).collect::<Vec<_>>();
    assert_eq!(control.volume_brief(&named("v")).await.unwrap().attachments.len(), 1, "nothing has changed");
    control.reconcile().await;
    assert_eq!(held(&site), [1], "nor does it later, behind the user's back");
    // What another host has taken will never come to rest here.
    site.world.fail("settle", ErrorKind::Busy);
    control.apply(&ROOT, unfolder("v", "/srv/x")).await.unwrap();
    assert!(held(&site).is_empty());

    site.world.heal();
    control.apply(&ROOT, folder("v", "/srv/x", false)).await.unwrap();
    control.apply(&ROOT, docker("v", "m")).await.unwrap();
    site.world.fail("settle", ErrorKind::Unavailable);
    let by_force = |at: &str| match unfolder("v", at) {
        Intent::Detach { volume, attachment, .. } => Intent::Detach { volume, attachment, force: true },
        other => other,
    };
    control.apply(&ROOT, by_force("/srv/x")).await.unwrap();
    assert_eq!(held(&site), [0], "whoever else has it is not cut off");
    control.apply(&ROOT, folder("v", "/srv/x", false)).await.unwrap();
    control.apply(&Actor::Docker, undocker("v", "m")).await.unwrap();
    site.world.0.lock().may_force = true;
    control.apply(&ROOT, by_force("/srv/x")).await.unwrap();
    assert!(held(&site).is_empty() && control.volume_brief(&named("v")).await.unwrap().attachments.is_empty());
    site.world.assert_respected();
}

#[tokio::test]
async fn an_unmount_that_fails_is_told_and_done_later() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    control.apply(&ROOT, docker("v", "m")).await.unwrap();
    site.world.fail("detach", ErrorKind::Busy);
    let e = refused(control.apply(&Actor::Docker, undocker("v", "m")).await, ErrorKind::Busy);
    assert!(e.message.contains("cannot be unmounted yet"), "{e}");
    refused(control.apply(&ROOT, remove("v", false)).await.map_err(|e| e.with_remedy("x")), ErrorKind::Busy);
    let report = control.reconcile().await;
    assert_eq!(report.failed.len(), 1, "{report:?}");
    let recorded = control.status().await.unwrap().audit.last_seq;
    control.reconcile().await;
    assert_eq!(control.status().await.unwrap().audit.last_seq, recorded, "what just failed is left alone for a while");
    site.world.heal();
    site.clock.forward(Duration::from_secs(20));
    control.reconcile().await;
    assert!(site.world.0.lock().mounted.is_empty());
}

#[tokio::test]
async fn a_keeper_that_hangs_is_not_waited_for_forever() {
    let site = Site::new();
    let control = Control::open(ControlConfig { attach_deadline: Duration::from_millis(200), ..site.config() }).await.unwrap();
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    site.world.0.lock().hanging.insert("attach");
    let e = refused(control.apply(&ROOT, docker("v", "m")).await, ErrorKind::Unavailable);
    assert!(e.message.contains("did not answer"), "{e}");
    site.world.heal();
    control.apply(&ROOT, docker("v", "m")).await.unwrap();
}

#[tokio::test]
async fn internal_uses_come_one_by_one_and_end_with_their_process() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    let ls =
        Intent::Attach { volume: named("v"), attachment: AttachmentKind::Internal { purpose: "ls".to_owned() }, abandon_unsynced: false };
    let (a, _) = attachment_of(control.apply(&ROOT, ls.clone()).await.unwrap());
    let (b, _) = attachment_of(control.apply(&ROOT, ls.clone()).await.unwrap());
    assert_ne!(a, b);
    for id in [a, b] {
        assert_eq!(site.world.0.lock().mounted.len(), 1);
        control.apply(&ROOT, Intent::Detach { volume: named("v"), attachment: DetachBy::Id(id), force: false }).await.unwrap();
    }
    assert!(site.world.0.lock().mounted.is_empty());
    control.apply(&ROOT, ls.clone()).await.unwrap();
    control.close().await;
    drop(control);
    site.clock.forward(Duration::from_secs(1));
    let control = site.open().await;
    control.reconcile().await;
    assert!(site.world.0.lock().mounted.is_empty(), "the process that ran ls is gone");
    // One that is forgotten while the process lives ends after an hour.
    control.apply(&ROOT, ls).await.unwrap();
    control.reconcile().await;
    assert_eq!(site.world.0.lock().mounted.len(), 1);
    site.clock.forward(Duration::from_secs(3601));
    control.reconcile().await;
    assert!(site.world.0.lock().mounted.is_empty());
}

#[tokio::test]
async fn a_person_who_names_an_unknown_volume_is_told() {
    let site = Site::new();
    let control = site.open().await;
    refused(control.apply(&ROOT, unfolder("nothing", "/x")).await, ErrorKind::NotFound);
    refused(control.apply(&ROOT, folder("nothing", "/x", false)).await, ErrorKind::NotFound);
}
