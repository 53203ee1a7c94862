//! Rotation of keys over real rings in a real store: killed at any step it goes on, and nothing becomes unreadable.

use crate::world::*;
use orlop_control::faults::{Fate, Faults};
use orlop_control::{AuditFilter, Control};
use orlop_model::{AuditPhase, ErrorKind, Intent, KeyReport};
use orlop_store::keys::{MasterKeys, create_ring, sealed_store};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SEALED: [&str; 3] = ["a", "b", "c"];
const MASTER: Intent = Intent::RotateKeys { volume: None };

/// A root with a master key and three sealed volumes, one of them removed, and one that is not.
async fn prepared() -> Site {
    let site = Site::new();
    MasterKeys::ensure(&site.dir.path().join("keys")).unwrap();
    let control = site.open().await;
    control.apply(&ROOT, create("open", &[])).await.unwrap();
    for name in SEALED {
        control.apply(&ROOT, create(name, &[("encrypt", "on")])).await.unwrap();
        // The fake host behind the port makes no ring.
        let plan = control.mount_plan(&named(name)).await.unwrap();
        let store = orlop_store::open_spec(&plan.store).unwrap();
        create_ring(&*store, &plan.prefix, &masters(&site)).await.unwrap();
    }
    control.apply(&ROOT, remove("c", false)).await.unwrap();
    control.close().await;
    site
}

fn masters(site: &Site) -> MasterKeys {
    MasterKeys::load(&site.dir.path().join("keys")).unwrap()
}

/// Every ring opens with the keys that are on the host.
async fn all_open(site: &Site, control: &Control, when: &str) -> KeyReport {
    let report = control.keys().await.unwrap();
    assert_eq!(report.volumes.len(), 3, "{when}");
    for volume in &report.volumes {
        assert!(volume.error.is_none() && !volume.keys.is_empty(), "{when}: {volume:?}");
        let prefix = format!("volumes/{}", volume.volume);
        let store = orlop_store::open_spec(&site.config().stores_default()).unwrap();
        sealed_store(store, &prefix, &masters(site)).await.unwrap_or_else(|e| panic!("{when}: {e}"));
    }
    report
}

/// Where the default store is.
trait DefaultStore {
    fn stores_default(&self) -> orlop_model::StoreSpec;
}

impl DefaultStore for orlop_control::ControlConfig {
    fn stores_default(&self) -> orlop_model::StoreSpec {
        orlop_model::StoreSpec::new(url::Url::from_file_path(self.root.join("stores/default")).unwrap().to_string())
    }
}

#[tokio::test]
async fn a_new_master_key_wraps_every_ring_and_the_old_one_goes() {
    let site = prepared().await;
    let control = site.open().await;
    let before = all_open(&site, &control, "before").await;
    let old = before.masters[0].id.clone();
    control.apply(&ROOT, MASTER).await.unwrap();
    let after = all_open(&site, &control, "after").await;
    assert_eq!(after.masters.len(), 1);
    assert_ne!(after.masters[0].id, old);
    assert!(after.volumes.iter().flat_map(|v| &v.keys).all(|k| k.master == after.masters[0].id));
    let ids = |r: &KeyReport| r.volumes.iter().flat_map(|v| v.keys.iter().map(|k| k.id.clone())).collect::<Vec<_>>();
    assert_eq!(ids(&before), ids(&after), "the data keys are the same");
    let progress = after.rotation.unwrap();
    assert_eq!((progress.running, progress.resumed, progress.total, progress.done), (false, false, 3, 3));
    assert_eq!(progress.retired, [old]);
    let events = control.audit().list(&AuditFilter { verb: Some("key.rotate".to_owned()), ..AuditFilter::default() }).await.unwrap();
    assert_eq!(events.iter().map(|e| e.phase).collect::<Vec<_>>(), [AuditPhase::Start, AuditPhase::Done]);
}

/// A process: all that it started ends with it, wherever it was.
fn process<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Rotates, with something happening at one of the rotation's own steps. False: it has no such step, and succeeded.
async fn rotate_with(site: &Site, step: usize, fate: Fate) -> bool {
    let (seen, reached) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let hit = reached.clone();
    let faults = Faults::new(move |point| {
        // The registry's and the journal's own points have their matrix elsewhere.
        if point.starts_with("keys.") && seen.fetch_add(1, Ordering::SeqCst) == step {
            hit.store(1, Ordering::SeqCst);
            return fate;
        }
        Fate::Go
    });
    let control = site.open_with(faults).await;
    let dead = async {
        while fate != Fate::Die || reached.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        done = control.apply(&ROOT, MASTER) => {
            let reached = reached.load(Ordering::SeqCst) == 1;
            assert_eq!(done.is_err(), reached, "step {step}: {done:?}");
            reached
        }
        () = dead => true,
    }
}

#[test]
fn killed_or_failing_at_any_step_it_goes_on_and_every_ring_opens_all_the_time() {
    for fate in [Fate::Die, Fate::Fail] {
        for step in 0.. {
            let site = process(prepared());
            let first = masters(&site).current().id().to_string();
            if !process(rotate_with(&site, step, fate)) {
                assert!(step >= 5, "only {step} steps were tried");
                break;
            }
            let when = format!("{fate:?} at step {step}");
            process(async {
                let control = site.open().await;
                let report = all_open(&site, &control, &when).await;
                assert!(report.masters.iter().any(|m| m.id == first) && report.rotation_open, "{when}: the old key went too early");
                let second = masters(&site).current().id().to_string();
                control.apply(&ROOT, MASTER).await.unwrap();
                let report = all_open(&site, &control, &when).await;
                assert_eq!(report.masters.iter().map(|m| m.id.clone()).collect::<Vec<_>>(), [second], "{when}: not the same new key");
                assert!(report.rotation.unwrap().resumed && !report.rotation_open, "{when}");
            });
        }
    }
}

#[tokio::test]
async fn a_ring_that_cannot_be_reached_keeps_the_old_key() {
    let site = prepared().await;
    let control = site.open().await;
    let plan = control.mount_plan(&named("b")).await.unwrap();
    let ring = site.dir.path().join("stores/default").join(&plan.prefix).join("keys.json");
    let away = ring.with_file_name("away");
    std::fs::rename(&ring, &away).unwrap();
    let e = refused(control.apply(&ROOT, MASTER).await, ErrorKind::NotFound);
    assert!(e.message.contains("volume b") && e.remedy.as_ref().is_some_and(|r| r.contains("orlop key rotate")), "{e}");
    assert_eq!(masters(&site).all().count(), 2);
    std::fs::rename(&away, &ring).unwrap();
    control.apply(&ROOT, MASTER).await.unwrap();
    all_open(&site, &control, "after").await;
    assert_eq!(masters(&site).all().count(), 1);
}

#[tokio::test]
async fn one_volume_gets_a_new_data_key_and_one_that_is_not_sealed_none() {
    let site = prepared().await;
    let control = site.open().await;
    control.apply(&ROOT, Intent::RotateKeys { volume: Some(named("a")) }).await.unwrap();
    let report = all_open(&site, &control, "after").await;
    let a = report.volumes.iter().find(|v| v.name.as_str() == "a").unwrap();
    assert_eq!(a.keys.iter().map(|k| k.current).collect::<Vec<_>>(), [false, true]);
    let e = refused(control.apply(&ROOT, Intent::RotateKeys { volume: Some(named("open")) }).await, ErrorKind::InvalidArgument);
    assert!(e.remedy.is_some());
    refused(control.apply(&ROOT, Intent::RotateKeys { volume: Some(named("none")) }).await, ErrorKind::NotFound);
}
