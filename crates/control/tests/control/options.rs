//! Options that are kept, and those that are refused because nothing would keep them.

use crate::world::*;
use orlop_model::{ByteSize, CacheMode, Durability, ErrorKind, Intent, OutagePolicy, VolumeOptions, VolumeUpdate};
use std::collections::BTreeMap;

const UNBUILT: &[(&str, &str, ErrorKind)] = &[("durability", "remote", ErrorKind::Unsupported), ("store", "s3prod", ErrorKind::NotFound)];

#[tokio::test]
async fn a_feature_that_does_not_exist_is_refused_and_changes_nothing() {
    let site = Site::new();
    let control = site.open().await;
    for (key, value, kind) in UNBUILT {
        let e = refused(control.apply(&ROOT, create("v", &[(key, value)])).await, *kind);
        assert!(e.message.contains(&format!("{key}={value}")), "{e}");
    }
    assert!(picture(&control).await.is_empty());
    assert_eq!(site.world.calls("format"), 0);
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    let before = picture(&control).await;
    for (key, value, kind) in UNBUILT.iter().filter(|(key, _, _)| *key != "store") {
        refused(control.apply(&ROOT, set("v", &[(key, value)])).await, *kind);
    }
    assert_eq!(picture(&control).await, before);
}

#[tokio::test]
async fn what_works_anyway_may_be_said() {
    let site = Site::new();
    let control = site.open().await;
    let said = [
        ("store", "default"),
        ("cache", "strict"),
        ("durability", "local"),
        ("outage", "wait"),
        ("encrypt", "off"),
        ("compression", "none"),
        ("uid", "999"),
        ("gid", "998"),
        ("mode", "1777"),
        ("retention", "2d"),
        ("protect", "off"),
    ];
    let v = volume_of(control.apply(&ROOT, create("v", &said)).await.unwrap());
    assert_eq!(v.options.mode, Some(0o1777));
    let plan = control.mount_plan(&named("v")).await.unwrap();
    assert_eq!((plan.options.uid, plan.options.gid), (Some(999), Some(998)), "the worker is told");
    assert!(plan.store.url.starts_with("file:///"), "{}", plan.store.url);
    assert_eq!(plan.mountpoint, control.mountpoint_of(&v));
}

#[tokio::test]
async fn what_a_remote_store_makes_possible_is_kept_and_defaults_are_the_stores() {
    let site = Site::new();
    let control = site.open().await;
    let local = [("outage", "fail"), ("encrypt", "on"), ("compression", "zstd")];
    let v = volume_of(control.apply(&ROOT, create("local", &local)).await.unwrap());
    assert_eq!((v.options.encrypt, v.options.outage), (Some(true), Some(OutagePolicy::Fail)));
    let durability = async |name: &str| control.mount_plan(&named(name)).await.unwrap().options.durability;
    assert_eq!(durability("local").await, Some(Durability::Local));
    control.apply(&ROOT, add_store("cloud", "s3://bucket/prefix")).await.unwrap();
    let e = refused(control.apply(&ROOT, create("quick", &[("store", "cloud"), ("cache", "fast")])).await, ErrorKind::Unsupported);
    assert!(e.message.contains("cache=fast") && e.remedy.is_some(), "{e}");
    control.apply(&ROOT, create("quick", &[("cache", "fast")])).await.unwrap();
    let made = control.apply(&ROOT, create("far", &[("store", "cloud")])).await.unwrap();
    assert_eq!(volume_of(made).options.durability, None, "shown as it was given");
    assert_eq!(durability("far").await, Some(Durability::Remote), "the worker is told what it means");
    for option in ["cache_size", "staging_size"] {
        let e = refused(control.apply(&ROOT, create("here", &[(option, "1G")])).await, ErrorKind::Unsupported);
        assert!(e.message.contains(option) && e.remedy.is_some(), "{e}");
        control.apply(&ROOT, set("far", &[(option, "1G")])).await.unwrap();
        let sizes = async || {
            let planned = control.mount_plan(&named("far")).await.unwrap().options;
            let shown = control.volume(&named("far")).await.unwrap().effective.expect("of a chunked volume");
            let of = |o: &VolumeOptions| if option == "cache_size" { o.cache_size } else { o.staging_size };
            (of(&planned), of(&shown))
        };
        assert_eq!(sizes().await, (Some(ByteSize(1 << 30)), Some(ByteSize(1 << 30))));
        control.apply(&ROOT, set("far", &[(option, "")])).await.unwrap();
        assert_eq!(sizes().await.1, Some(ByteSize(4 << 30)), "the default again");
    }
    let cache = async |name: &str| {
        let planned = control.mount_plan(&named(name)).await.unwrap().options.cache;
        let shown = control.volume(&named(name)).await.unwrap().effective.expect("of a chunked volume");
        assert_eq!(shown.cache, planned, "what is shown is what is mounted");
        planned
    };
    assert_eq!((cache("local").await, cache("far").await), (Some(CacheMode::Fast), Some(CacheMode::Strict)));
    control.apply(&ROOT, set("local", &[("cache", "strict")])).await.unwrap();
    assert_eq!(cache("local").await, Some(CacheMode::Strict));
    control.apply(&ROOT, set("local", &[("cache", "")])).await.unwrap();
    assert_eq!(cache("local").await, Some(CacheMode::Fast), "the default again");
    control.apply(&ROOT, set("local", &[("size", "1G")])).await.unwrap();
    assert_eq!(cache("local").await, Some(CacheMode::Strict), "writes beyond a size are refused, not closes");
    control.apply(&ROOT, set("local", &[("cache", "fast")])).await.unwrap();
    assert_eq!(cache("local").await, Some(CacheMode::Fast), "unless somebody says so");
    // The default written out is the same volume; anything else is not.
    control.apply(&ROOT, create("far", &[("store", "cloud"), ("durability", "remote")])).await.unwrap();
    let e = refused(control.apply(&ROOT, create("far", &[("store", "cloud"), ("durability", "local")])).await, ErrorKind::AlreadyExists);
    assert!(e.message.contains("durability"), "{e}");
    let e = refused(control.apply(&ROOT, create("far", &[])).await, ErrorKind::AlreadyExists);
    assert!(e.message.contains("store"), "{e}");
    control.apply(&ROOT, set("far", &[("durability", "local"), ("outage", "readonly"), ("compression", "zstd")])).await.unwrap();
    assert_eq!(durability("far").await, Some(Durability::Local));
}

#[tokio::test]
async fn a_size_below_what_is_used_is_refused_with_the_bytes_mounted_or_not() {
    let site = Site::new();
    let control = site.open().await;
    let id = volume_of(control.apply(&ROOT, create("v", &[("size", "10M")])).await.unwrap()).id;
    site.world.0.lock().used.insert(id, 5_005_312);
    for mounted in [false, true] {
        if mounted {
            control.apply(&ROOT, docker("v", "m")).await.unwrap();
        }
        let e = refused(control.apply(&ROOT, set("v", &[("size", "4M")])).await, ErrorKind::NoSpace);
        assert!(e.message.contains("5005312") && e.message.contains("4194304"), "mounted {mounted}: {e}");
        assert_eq!(control.volume_brief(&named("v")).await.unwrap().options.size.unwrap().0, 10 << 20, "as before");
        assert_eq!(site.world.0.lock().mounted.len(), usize::from(mounted), "nothing stays mounted that was not");
    }
    control.apply(&ROOT, undocker("v", "m")).await.unwrap();
    control.apply(&ROOT, set("v", &[("size", "5M")])).await.unwrap();
    assert!(site.world.0.lock().mounted.is_empty());
    // What cannot be looked at is not shrunk; growing needs no look.
    site.world.fail("attach", ErrorKind::Unavailable);
    control.apply(&ROOT, set("v", &[("size", "4M")])).await.unwrap_err();
    control.apply(&ROOT, set("v", &[("size", "8M")])).await.unwrap();
    control.apply(&ROOT, set("v", &[("size", "")])).await.unwrap();
    control.apply(&ROOT, set("v", &[("size", "1G")])).await.unwrap_err();
    site.world.assert_respected();
}

#[tokio::test]
async fn a_second_create_succeeds_only_with_the_same_options() {
    let site = Site::new();
    let control = site.open().await;
    let first = volume_of(control.apply(&ROOT, create("v", &[("size", "1G")])).await.unwrap());
    for same in [&[("size", "1G")][..], &[("size", "1024M"), ("cache", "strict")], &[("mode", "0755"), ("size", "1G"), ("protect", "off")]]
    {
        assert_eq!(volume_of(control.apply(&ROOT, create("v", same)).await.unwrap()).id, first.id, "{same:?}");
    }
    for (other, named) in [
        (&[][..], "size"),
        (&[("size", "2G")], "size"),
        (&[("size", "1G"), ("uid", "1")], "uid"),
        (&[("size", "1G"), ("cache", "fast")], "cache"),
        (&[("size", "1G"), ("protect", "on")], "protect"),
    ] {
        let e = refused(control.apply(&ROOT, create("v", other)).await, ErrorKind::AlreadyExists);
        assert!(e.message.contains(named), "{e}");
    }
    let labelled = Intent::CreateVolume {
        name: "v".parse().unwrap(),
        options: opts(&[("size", "1G")]),
        labels: BTreeMap::from([("a".into(), "b".into())]),
    };
    refused(control.apply(&ROOT, labelled).await, ErrorKind::AlreadyExists);
    assert_eq!(site.world.calls("format"), 1);
}

#[tokio::test]
async fn options_of_creation_cannot_be_set_later() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    for (key, value) in [("uid", "1"), ("gid", "1"), ("mode", "0700"), ("store", "default"), ("encrypt", "on"), ("uid", ""), ("store", "")]
    {
        let e = refused(control.apply(&ROOT, set("v", &[(key, value)])).await, ErrorKind::InvalidArgument);
        assert!(e.message.contains(key), "{e}");
    }
    for bad in [("sise", "1G"), ("size", "big"), ("sise", "")] {
        refused(control.apply(&ROOT, set("v", &[bad])).await, ErrorKind::InvalidArgument);
    }
}

#[tokio::test]
async fn set_changes_what_is_named_and_resets_what_is_empty() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("v", &[("size", "1G"), ("retention", "1h")])).await.unwrap();
    let v = volume_of(control.apply(&ROOT, set("v", &[("size", "2G"), ("protect", "on")])).await.unwrap());
    assert_eq!((v.options.size.unwrap().0, v.options.retention, v.protected, v.options.protect), (2 << 30, Some(3600), true, Some(true)));
    let v = volume_of(control.apply(&ROOT, set("v", &[("size", ""), ("retention", ""), ("protect", "")])).await.unwrap());
    assert_eq!((v.options.size, v.options.retention, v.protected), (None, None, false));
    let labels = |pairs: &[(&str, &str)]| Intent::SetVolume {
        volume: named("v"),
        update: VolumeUpdate { labels: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(), ..VolumeUpdate::default() },
    };
    control.apply(&ROOT, labels(&[("a", "1"), ("b", "2")])).await.unwrap();
    let v = volume_of(control.apply(&ROOT, labels(&[("a", ""), ("b", "3")])).await.unwrap());
    assert_eq!(v.labels, BTreeMap::from([("b".to_owned(), "3".to_owned())]));
    for bad in [("", "x"), ("a\nb", "x"), ("a", "x\u{1b}[31m"), (&"k".repeat(200), "x")] {
        refused(control.apply(&ROOT, labels(&[bad])).await, ErrorKind::InvalidArgument);
    }
    assert_eq!(site.world.calls("set_quota"), 0, "nothing is mounted, and nothing shrank");
}

#[tokio::test]
async fn a_new_size_reaches_the_mounted_worker_or_is_refused_whole() {
    let site = Site::new();
    let control = site.open().await;
    let id = volume_of(control.apply(&ROOT, create("v", &[("size", "1G")])).await.unwrap()).id;
    control.apply(&ROOT, docker("v", "m")).await.unwrap();
    control.apply(&ROOT, set("v", &[("size", "2G")])).await.unwrap();
    assert_eq!(site.world.0.lock().quotas[&id], Some(2 << 30));
    control.apply(&ROOT, set("v", &[("size", "")])).await.unwrap();
    assert_eq!(site.world.0.lock().quotas[&id], None);
    site.world.fail("set_quota", ErrorKind::Unavailable);
    control.apply(&ROOT, set("v", &[("size", "3G")])).await.unwrap_err();
    assert_eq!(control.volume_brief(&named("v")).await.unwrap().options.size, None, "as before");
    site.world.heal();
    control.reconcile().await;
    assert_eq!(site.world.0.lock().quotas[&id], None, "and the worker has it so");
    control.apply(&ROOT, undocker("v", "m")).await.unwrap();
    control.apply(&ROOT, set("v", &[("size", "3G")])).await.unwrap();
    site.world.fail("set_quota", ErrorKind::Unavailable);
    control.apply(&ROOT, set("v", &[("size", "4G")])).await.unwrap();
    control.apply(&ROOT, docker("v", "m")).await.unwrap();
    assert_eq!(site.world.0.lock().quotas[&id], Some(4 << 30), "the next mount brings it");
    site.world.assert_respected();
}
