//! The life of a volume, from create to the end of its retention.

use crate::world::*;
use orlop_control::VolumeFilter;
use orlop_model::{Actor, ErrorKind, Intent, VolumeId, VolumeRef, VolumeState};
use std::time::Duration;

const ALL: VolumeFilter = VolumeFilter { include_removed: true, with_usage: false };

#[tokio::test]
async fn removed_data_comes_back_whole() {
    let site = Site::new();
    let control = site.open().await;
    let v = volume_of(control.apply(&ROOT, create("v", &[("size", "1G")])).await.unwrap());
    control.apply(&ROOT, docker("v", "m")).await.unwrap();
    site.world.write(v.id, "precious");
    control.apply(&ROOT, undocker("v", "m")).await.unwrap();
    let removed = volume_of(control.apply(&ROOT, remove("v", false)).await.unwrap());
    assert_eq!(removed.state, VolumeState::Removed);
    assert_eq!(removed.purge_at.unwrap() - removed.removed_at.unwrap(), time::Duration::days(7));
    assert!(control.volumes(VolumeFilter::default()).await.unwrap().is_empty());
    let e = control.volume(&named("v")).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::NotFound);
    assert!(e.remedy.unwrap().contains("restore"), "the error says that it can be had back");
    assert_eq!(control.volume(&VolumeRef::Id(v.id)).await.unwrap().state, VolumeState::Removed, "by id it is shown");
    site.clock.forward(Duration::from_secs(6 * 86400));
    control.reconcile().await;
    let back = volume_of(control.apply(&ROOT, restore("v", None)).await.unwrap());
    assert_eq!((back.id, back.state, back.purge_at, back.options), (v.id, VolumeState::Active, None, v.options));
    assert_eq!(site.world.0.lock().bytes[&v.id], "precious");
    site.world.assert_respected();
}

#[tokio::test]
async fn a_name_used_again_is_an_empty_volume_beside_the_old_ones_trash() {
    let site = Site::new();
    let control = site.open().await;
    let first = volume_of(control.apply(&ROOT, create("v", &[])).await.unwrap()).id;
    control.apply(&ROOT, remove("v", false)).await.unwrap();
    let second = volume_of(control.apply(&ROOT, create("v", &[])).await.unwrap()).id;
    assert_ne!(first, second);
    site.clock.forward(Duration::from_secs(1));
    control.apply(&ROOT, remove("v", false)).await.unwrap();
    let third = volume_of(control.apply(&ROOT, create("v", &[])).await.unwrap()).id;
    assert_eq!(site.world.0.lock().bytes.len(), 3);
    let e = refused(control.apply(&ROOT, restore("v", None)).await, ErrorKind::AlreadyExists);
    assert!(e.remedy.unwrap().contains("--as"));
    let e = refused(control.apply(&ROOT, restore(&first.to_string(), Some("v"))).await, ErrorKind::AlreadyExists);
    assert!(e.message.contains("named v"), "{e}");
    let back = volume_of(control.apply(&ROOT, restore("v", Some("w"))).await.unwrap());
    assert_eq!((back.id, back.name.as_str()), (second, "w"), "by name the last removed one comes back");
    let back = volume_of(control.apply(&ROOT, restore(&first.to_string(), Some("u"))).await.unwrap());
    assert_eq!(back.id, first);
    assert_eq!(control.volume(&named("v")).await.unwrap().id, third);
    refused(control.apply(&ROOT, restore("v", None)).await, ErrorKind::InvalidArgument);
    refused(control.apply(&ROOT, restore("nowhere", None)).await, ErrorKind::NotFound);
    refused(control.apply(&ROOT, restore(&first.to_string(), None)).await, ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn retention_is_the_options_or_the_names() {
    let site = Site::new();
    let control = site.open().await;
    let anonymous = "0123456789abcdef".repeat(4);
    for (name, pairs, seconds) in [
        ("a", &[][..], 7 * 86400),
        ("b", &[("retention", "30m")], 1800),
        ("c", &[("retention", "0")], 0),
        (&anonymous, &[], 3600),
        (&"f".repeat(64), &[("retention", "2d")], 2 * 86400),
    ] {
        control.apply(&ROOT, create(name, pairs)).await.unwrap();
        let v = volume_of(control.apply(&Actor::Docker, remove(name, false)).await.unwrap());
        assert_eq!((v.purge_at.unwrap() - v.removed_at.unwrap()).whole_seconds(), seconds, "{name}");
    }
    let mut left = 5;
    for (forward, gone) in [(0, 1), (1799, 0), (1, 1), (1799, 0), (1, 1), (2 * 86400, 1), (5 * 86400, 1)] {
        site.clock.forward(Duration::from_secs(forward));
        let report = control.reconcile().await;
        assert_eq!((report.done.len(), report.failed.len()), (gone, 0), "{report:?}");
        left -= gone;
        assert_eq!(control.volumes(ALL).await.unwrap().len(), left);
        assert_eq!(site.world.0.lock().bytes.len(), left);
    }
}

#[tokio::test]
async fn a_volume_whose_time_is_over_does_not_come_back() {
    let site = Site::new();
    let control = site.open().await;
    let made = async |pairs: &[(&str, &str)]| {
        let id = volume_of(control.apply(&ROOT, create("v", pairs)).await.unwrap()).id;
        control.apply(&ROOT, remove("v", false)).await.unwrap();
        id
    };
    let kept = made(&[][..]).await;
    site.clock.forward(Duration::from_secs(1));
    let e = refused(control.apply(&ROOT, remove("v", true)).await, ErrorKind::NotFound);
    assert!(e.remedy.unwrap().contains(&format!("remove --now {kept}")), "{}", e.message);
    let at_once = made(&[("retention", "0")][..]).await;
    let e = refused(control.apply(&ROOT, restore(&at_once.to_string(), None)).await, ErrorKind::NotFound);
    assert!(e.message.contains("retention=0"), "{e}");
    let back = volume_of(control.apply(&ROOT, restore("v", None)).await.unwrap());
    assert_eq!(back.id, kept, "by name the last one that is still kept");
    control.apply(&ROOT, remove("v", false)).await.unwrap();
    site.clock.forward(Duration::from_secs(7 * 86400));
    for reference in ["v".to_owned(), kept.to_string()] {
        let e = refused(control.apply(&ROOT, restore(&reference, Some("w"))).await, ErrorKind::NotFound);
        assert!(e.message.contains("cannot be restored"), "{e}");
        let e = refused(control.apply(&ROOT, protect(&reference, true)).await, ErrorKind::NotFound);
        assert!(e.remedy.unwrap().contains("nothing brings it back"), "{}", e.message);
    }
    control.reconcile().await;
    assert!(control.volumes(ALL).await.unwrap().is_empty());
}

#[tokio::test]
async fn now_leaves_nothing_and_only_now() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    control.apply(&ROOT, remove("v", true)).await.unwrap();
    assert!(control.volumes(ALL).await.unwrap().is_empty());
    assert!(site.world.0.lock().bytes.is_empty());
    // And one that is in the trash already, by its id.
    let id = volume_of(control.apply(&ROOT, create("v", &[])).await.unwrap()).id;
    control.apply(&ROOT, remove("v", false)).await.unwrap();
    refused(control.apply(&ROOT, remove("v", true)).await, ErrorKind::NotFound);
    refused(control.apply(&ROOT, remove(&id.to_string(), false)).await, ErrorKind::NotFound);
    let e = refused(control.apply(&ROOT, Intent::PurgeVolume { volume: id }).await, ErrorKind::InvalidArgument);
    assert!(e.message.contains("kept until"), "{e}");
    control.apply(&ROOT, remove(&id.to_string(), true)).await.unwrap();
    assert!(site.world.0.lock().bytes.is_empty());
    refused(
        control.apply(&ROOT, remove(&VolumeId::random().to_string(), false)).await.map_err(|e| e.with_remedy("x")),
        ErrorKind::NotFound,
    );
    let active = volume_of(control.apply(&ROOT, create("w", &[])).await.unwrap()).id;
    refused(control.apply(&Actor::System, Intent::PurgeVolume { volume: active }).await, ErrorKind::InvalidArgument);
    assert_eq!(control.volumes(ALL).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_protected_volume_stays() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("v", &[("protect", "on")])).await.unwrap();
    for (actor, now) in [(&ROOT, false), (&ROOT, true), (&Actor::Docker, false)] {
        let e = refused(control.apply(actor, remove("v", now)).await, ErrorKind::Protected);
        assert!(e.remedy.unwrap().contains("protect"));
    }
    let v = volume_of(control.apply(&ROOT, protect("v", false)).await.unwrap());
    assert!(!v.protected);
    control.apply(&ROOT, remove("v", false)).await.unwrap();
}

#[tokio::test]
async fn a_volume_in_use_stays_and_the_holders_are_named() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    control.apply(&ROOT, docker("v", "abcdef0123456789")).await.unwrap();
    control.apply(&ROOT, folder("v", "/srv/x", true)).await.unwrap();
    let e = refused(control.apply(&ROOT, remove("v", true)).await, ErrorKind::Busy);
    assert!(e.message.contains("abcdef012345") && e.message.contains("/srv/x"), "{e}");
    assert!(e.remedy.unwrap().contains("orlop unmount /srv/x"));
    control.apply(&ROOT, unfolder("v", "/srv/x")).await.unwrap();
    let e = refused(control.apply(&ROOT, remove("v", false)).await, ErrorKind::Busy);
    assert!(e.remedy.unwrap().contains("docker ps"));
    control.apply(&ROOT, undocker("v", "abcdef0123456789")).await.unwrap();
    control.apply(&ROOT, remove("v", false)).await.unwrap();
}

#[tokio::test]
async fn a_failed_create_leaves_nothing_and_can_be_repeated() {
    let site = Site::new();
    let control = site.open().await;
    site.world.fail("format", ErrorKind::NoSpace);
    let e = control.apply(&ROOT, create("v", &[])).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::NoSpace);
    assert!(e.message.contains("creating volume v"), "{e}");
    assert!(control.volumes(ALL).await.unwrap().is_empty());
    site.world.heal();
    // Even one whose undoing failed as well.
    site.world.fail("format", ErrorKind::NoSpace);
    site.world.fail("destroy", ErrorKind::Unavailable);
    control.apply(&ROOT, create("v", &[])).await.unwrap_err();
    assert!(control.volumes(ALL).await.unwrap().is_empty());
    site.world.heal();
    control.apply(&ROOT, create("v", &[("size", "1G")])).await.unwrap();
    let report = control.reconcile().await;
    assert_eq!((report.done, report.failed), (vec![], vec![]));
    assert_eq!(site.world.0.lock().bytes.len(), 1);
}

#[tokio::test]
async fn two_creates_at_once_make_one_volume() {
    let site = Site::new();
    let control = site.open().await;
    site.world.0.lock().slow = Some(Duration::from_millis(50));
    let (a, b) = tokio::join!(control.apply(&Actor::Docker, create("v", &[])), control.apply(&Actor::Docker, create("v", &[])));
    assert_eq!(volume_of(a.unwrap()).id, volume_of(b.unwrap()).id);
    let (a, b) = tokio::join!(control.apply(&ROOT, create("w", &[("size", "1G")])), control.apply(&ROOT, create("w", &[("size", "2G")])));
    assert_eq!(a.is_ok() as u8 + b.is_ok() as u8, 1, "one of two different ones is refused");
    assert_eq!(site.world.0.lock().bytes.len(), 2);
}

#[tokio::test]
async fn volumes_do_not_wait_for_each_other() {
    let site = Site::new();
    let control = site.open().await;
    site.world.0.lock().slow = Some(Duration::from_millis(300));
    let names = ["a", "b", "c", "d"];
    let made = futures::future::join_all(names.map(|name| control.apply(&ROOT, create(name, &[])))).await;
    assert!(made.iter().all(Result::is_ok));
    assert!(site.world.0.lock().most_running > 1, "formats overlap");
}

#[tokio::test]
async fn a_request_runs_to_its_end_when_the_caller_goes_away() {
    let site = Site::new();
    let control = site.open().await;
    site.world.0.lock().slow = Some(Duration::from_millis(200));
    let gone = tokio::time::timeout(Duration::from_millis(50), control.apply(&ROOT, create("v", &[]))).await;
    assert!(gone.is_err());
    for _ in 0..100 {
        if control.volume_brief(&named("v")).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the create was dropped with its caller");
}

#[tokio::test]
async fn usage_is_shown_for_mounted_volumes_and_never_waited_for_long() {
    let site = Site::new();
    let control = site.open().await;
    for name in ["a", "b", "c"] {
        control.apply(&ROOT, create(name, &[])).await.unwrap();
    }
    for name in ["a", "b"] {
        control.apply(&ROOT, docker(name, "m")).await.unwrap();
    }
    let with_usage = VolumeFilter { with_usage: true, ..VolumeFilter::default() };
    let shown = control.volumes(with_usage).await.unwrap();
    assert_eq!(shown.iter().map(|v| v.usage.is_some()).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(shown[0].mountpoint.as_deref(), Some(control.mountpoint_of(&shown[0]).as_str()));
    assert!(control.volume(&named("a")).await.unwrap().usage.is_some());
    assert!(control.volume_brief(&named("a")).await.unwrap().usage.is_none());
    site.world.0.lock().hanging.insert("usage");
    let began = std::time::Instant::now();
    let shown = control.volumes(with_usage).await.unwrap();
    assert!(shown.iter().all(|v| v.usage.is_none()));
    assert!(began.elapsed() < Duration::from_secs(4), "two silent workers cost no more than one");
    site.world.assert_respected();
}
