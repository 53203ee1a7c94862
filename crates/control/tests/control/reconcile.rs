//! What reconciliation does about holders that went away, mounts that went away, and mounts that nobody wants.

use crate::world::*;
use orlop_control::faults::{Fate, Faults};
use orlop_control::{AttachedVolume, AuditFilter};
use orlop_model::{Actor, AuditPhase, ErrorKind, VolumeId};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(61);

async fn wait_for_reconcile(control: &orlop_control::Control) {
    // `docker_activated` works in the background; one at a time means that this one comes after it.
    control.reconcile().await;
}

#[tokio::test]
async fn what_a_killed_dockerd_forgot_is_let_go() {
    let site = Site::new();
    let control = site.open().await;
    let v = volume_of(control.apply(&ROOT, create("v", &[])).await.unwrap());
    control.apply(&Actor::Docker, docker("v", "lost")).await.unwrap();
    // Long mounted and not suspect: an idle mount is no reason.
    site.clock.forward(10 * MINUTE);
    control.reconcile().await;
    assert_eq!(control.volume_brief(&named("v")).await.unwrap().attachments.len(), 1);
    control.docker_activated().await.unwrap();
    wait_for_reconcile(&control).await;
    assert_eq!(control.volume_brief(&named("v")).await.unwrap().attachments.len(), 1, "not before the grace time");
    // With live-restore the container runs on.
    site.world.0.lock().in_use.insert(v.id);
    site.clock.forward(MINUTE);
    control.reconcile().await;
    assert_eq!(control.volume_brief(&named("v")).await.unwrap().attachments.len(), 1, "something uses it");
    site.world.0.lock().in_use.clear();
    let report = control.reconcile().await;
    assert_eq!((report.done.len(), report.failed.len()), (2, 0), "let go, and unmounted: {report:?}");
    assert!(control.volume_brief(&named("v")).await.unwrap().attachments.is_empty());
    assert!(site.world.0.lock().mounted.is_empty());
    let last = control.audit().list(&AuditFilter { verb: Some("volume.detach".to_owned()), ..AuditFilter::default() }).await.unwrap();
    assert!(last.iter().any(|e| e.actor == Actor::System && e.phase == AuditPhase::Done), "and recorded");
    site.world.assert_respected();
}

#[tokio::test]
async fn a_suspect_that_is_mounted_again_is_above_suspicion() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    control.apply(&Actor::Docker, docker("v", "kept")).await.unwrap();
    control.docker_activated().await.unwrap();
    control.apply(&Actor::Docker, docker("v", "kept")).await.unwrap();
    site.clock.forward(MINUTE);
    control.reconcile().await;
    assert_eq!(control.volume_brief(&named("v")).await.unwrap().attachments.len(), 1);
    // With live-restore the Unmount comes with the original id.
    control.docker_activated().await.unwrap();
    control.apply(&Actor::Docker, undocker("v", "kept")).await.unwrap();
    assert!(site.world.0.lock().mounted.is_empty());
}

#[tokio::test]
async fn the_last_proper_unmount_takes_forgotten_ones_along() {
    let site = Site::new();
    let control = site.open().await;
    let v = volume_of(control.apply(&ROOT, create("v", &[])).await.unwrap());
    control.apply(&Actor::Docker, docker("v", "lost")).await.unwrap();
    control.docker_activated().await.unwrap();
    control.apply(&Actor::Docker, docker("v", "new")).await.unwrap();
    site.world.0.lock().in_use.insert(v.id);
    site.clock.forward(MINUTE);
    control.reconcile().await;
    assert_eq!(control.volume_brief(&named("v")).await.unwrap().attachments.len(), 2);
    site.world.0.lock().in_use.clear();
    control.apply(&Actor::Docker, undocker("v", "new")).await.unwrap();
    assert!(site.world.0.lock().mounted.is_empty());
}

#[tokio::test]
async fn docker_can_remove_a_volume_whose_unmount_was_lost() {
    let site = Site::new();
    let control = site.open().await;
    let v = volume_of(control.apply(&ROOT, create("v", &[])).await.unwrap());
    control.apply(&Actor::Docker, docker("v", "lost")).await.unwrap();
    refused(control.apply(&Actor::Docker, remove("v", false)).await, ErrorKind::Busy);
    control.docker_activated().await.unwrap();
    refused(control.apply(&ROOT, remove("v", false)).await, ErrorKind::Busy);
    site.world.0.lock().in_use.insert(v.id);
    refused(control.apply(&Actor::Docker, remove("v", false)).await, ErrorKind::Busy);
    site.world.0.lock().in_use.clear();
    control.apply(&Actor::Docker, remove("v", false)).await.unwrap();
    // The Unmount was sent while the plugin was down, but dockerd lives on: no Activate, no suspicion, only age.
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    control.apply(&Actor::Docker, docker("v", "lost")).await.unwrap();
    site.clock.forward(MINUTE);
    control.apply(&Actor::Docker, remove("v", false)).await.unwrap();
    // But never a folder that a person has mounted.
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    control.apply(&ROOT, folder("v", "/srv/x", false)).await.unwrap();
    site.clock.forward(MINUTE);
    refused(control.apply(&Actor::Docker, remove("v", false)).await, ErrorKind::Busy);
}

#[tokio::test]
async fn after_a_restart_of_orlop_containers_go_on_and_lost_unmounts_are_found() {
    let site = Site::new();
    let control = site.open().await;
    let running = volume_of(control.apply(&ROOT, create("running", &[])).await.unwrap());
    control.apply(&ROOT, create("stopped", &[])).await.unwrap();
    control.apply(&ROOT, create("folder", &[])).await.unwrap();
    control.apply(&Actor::Docker, docker("running", "a")).await.unwrap();
    control.apply(&Actor::Docker, docker("stopped", "b")).await.unwrap();
    control.apply(&ROOT, folder("folder", "/srv/x", false)).await.unwrap();
    site.world.0.lock().in_use.insert(running.id);
    // Killed, not closed.
    drop(control);
    let calls = site.world.calls("attach");
    let control = site.open().await;
    assert!(control.reconcile().await.failed.is_empty());
    assert_eq!(site.world.0.lock().mounted.len(), 3, "nothing is unmounted at once");
    assert_eq!(site.world.calls("attach"), calls, "nor mounted again");
    site.clock.forward(MINUTE);
    control.reconcile().await;
    let names: Vec<_> = site.world.0.lock().mounted.values().map(|m| m.plan.name.to_string()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(!names.contains(&"stopped".to_owned()));
    site.world.assert_respected();
}

#[tokio::test]
async fn after_a_reboot_folders_are_mounted_again_and_containers_are_dockers_business() {
    let site = Site::new();
    let control = site.open().await;
    for name in ["docker", "folder"] {
        control.apply(&ROOT, create(name, &[])).await.unwrap();
    }
    control.apply(&Actor::Docker, docker("docker", "a")).await.unwrap();
    control.apply(&ROOT, folder("folder", "/srv/x", true)).await.unwrap();
    drop(control);
    site.world.reboot();
    let control = site.open().await;
    let report = control.reconcile().await;
    assert!(report.failed.is_empty(), "{report:?}");
    assert!(control.volume_brief(&named("docker")).await.unwrap().attachments.is_empty(), "no container can have it");
    {
        let state = site.world.0.lock();
        assert_eq!(state.mounted.len(), 1);
        let mounted = state.mounted.values().next().unwrap();
        assert_eq!((mounted.plan.name.as_str(), mounted.binds.len(), mounted.binds[0].read_only), ("folder", 1, true));
    }
    control.apply(&Actor::Docker, docker("docker", "b")).await.unwrap();
    // A folder that is gone is forgotten, with the mount.
    drop(control);
    site.world.reboot();
    site.world.fail("bind", ErrorKind::NotFound);
    let control = site.open().await;
    control.reconcile().await;
    control.reconcile().await;
    assert!(control.volume_brief(&named("folder")).await.unwrap().attachments.is_empty());
    assert!(site.world.0.lock().mounted.is_empty());
}

#[tokio::test]
async fn a_mount_whose_server_died_is_attached_again() {
    let site = Site::new();
    let control = site.open().await;
    let v = volume_of(control.apply(&ROOT, create("v", &[])).await.unwrap());
    control.apply(&Actor::Docker, docker("v", "a")).await.unwrap();
    site.world.0.lock().mounted.get_mut(&v.id).unwrap().serving = false;
    control.reconcile().await;
    assert!(site.world.0.lock().mounted[&v.id].serving);
    site.world.0.lock().mounted.clear();
    control.reconcile().await;
    assert_eq!(site.world.0.lock().mounted.len(), 1);
}

#[tokio::test]
async fn a_mount_that_gets_another_process_by_itself_keeps_nobody_waiting() {
    let site = Site::new();
    let control = site.open().await;
    let v = volume_of(control.apply(&ROOT, create("v", &[])).await.unwrap());
    control.apply(&Actor::Docker, docker("v", "a")).await.unwrap();
    {
        let mut state = site.world.0.lock();
        let mounted = state.mounted.get_mut(&v.id).unwrap();
        (mounted.serving, mounted.worker_pid) = (false, 0);
    }
    let before = site.world.calls("attach");
    let report = control.reconcile().await;
    assert_eq!((report.done.len(), report.failed.len()), (0, 0), "{report:?}");
    assert_eq!(site.world.calls("attach"), before);
}

#[tokio::test]
async fn what_is_lost_while_its_store_is_away_comes_back_soon_and_is_told_no_longer() {
    let site = Site::new();
    let control = site.open().await;
    let v = volume_of(control.apply(&ROOT, create("v", &[])).await.unwrap());
    control.apply(&ROOT, folder("v", "/srv/x", false)).await.unwrap();
    site.world.reboot();
    site.world.fail("attach", ErrorKind::Unavailable);
    // An outage of an hour does not put the next try off by another one.
    for _ in 0..130 {
        control.reconcile().await;
        site.clock.forward(Duration::from_secs(31));
    }
    let tries = site.world.calls("attach");
    assert!(tries > 120, "{tries}");
    let failed = async || control.status().await.unwrap().last_reconcile.unwrap().failed;
    assert!(failed().await.iter().any(|line| line.starts_with("mount v again: ")), "{:?}", failed().await);
    // Somebody who wants it brings it back before the reconciler does.
    site.world.heal();
    control.apply(&Actor::Docker, docker("v", "a")).await.unwrap();
    assert!(site.world.0.lock().mounted.contains_key(&v.id));
    assert_eq!(failed().await, Vec::<String>::new());
    // What was refused for another reason is not asked for every half minute.
    site.world.reboot();
    site.world.fail("attach", ErrorKind::Corrupt);
    let tries = site.world.calls("attach");
    for _ in 0..130 {
        control.reconcile().await;
        site.clock.forward(Duration::from_secs(31));
    }
    assert!(site.world.calls("attach") - tries < 20, "{}", site.world.calls("attach") - tries);
}

#[tokio::test]
async fn a_folder_unmounted_by_hand_is_let_go() {
    let site = Site::new();
    let control = site.open().await;
    let v = volume_of(control.apply(&ROOT, create("v", &[])).await.unwrap());
    control.apply(&ROOT, folder("v", "/srv/x", false)).await.unwrap();
    control.apply(&ROOT, folder("v", "/srv/y", false)).await.unwrap();
    site.world.0.lock().mounted.get_mut(&v.id).unwrap().binds.retain(|b| b.path != "/srv/x");
    control.reconcile().await;
    assert_eq!(control.volume_brief(&named("v")).await.unwrap().attachments.len(), 1);
    site.world.0.lock().mounted.get_mut(&v.id).unwrap().binds.clear();
    control.reconcile().await;
    assert!(control.volume_brief(&named("v")).await.unwrap().attachments.is_empty());
    assert!(site.world.0.lock().mounted.is_empty());
}

#[tokio::test]
async fn a_mount_that_nobody_holds_ends_unless_something_uses_it() {
    let site = Site::new();
    let control = site.open().await;
    let v = volume_of(control.apply(&ROOT, create("v", &[])).await.unwrap());
    let plan = control.mount_plan(&named("v")).await.unwrap();
    let stray =
        |plan: orlop_model::MountPlan| AttachedVolume { plan, worker_pid: 1, serving: true, binds: vec![], in_use_elsewhere: false };
    let unknown = orlop_model::MountPlan { volume: VolumeId::random(), name: "ghost".parse().unwrap(), ..plan.clone() };
    {
        let mut state = site.world.0.lock();
        state.mounted.insert(v.id, stray(plan));
        state.mounted.insert(unknown.volume, stray(unknown.clone()));
        state.in_use.extend([v.id, unknown.volume]);
    }
    let report = control.reconcile().await;
    assert_eq!((report.done.len(), report.failed.len()), (0, 2), "{report:?}");
    assert_eq!(site.world.0.lock().mounted.len(), 2, "in doubt it stays");
    // Docker letting go of an id that nobody knows is no reason either: another container may use it.
    control.apply(&Actor::Docker, undocker("v", "who")).await.unwrap();
    assert_eq!(site.world.0.lock().mounted.len(), 2);
    site.world.0.lock().in_use.clear();
    site.clock.forward(MINUTE);
    let report = control.reconcile().await;
    assert_eq!((report.done.len(), report.failed.len()), (2, 0), "{report:?}");
    assert!(site.world.0.lock().mounted.is_empty());
}

#[tokio::test]
async fn one_thing_that_fails_keeps_nothing_else_from_being_done() {
    let site = Site::new();
    let control = site.open().await;
    for name in ["a", "b"] {
        control.apply(&ROOT, create(name, &[("retention", "0")])).await.unwrap();
        control.apply(&ROOT, remove(name, false)).await.unwrap();
    }
    let v = volume_of(control.apply(&ROOT, create("v", &[])).await.unwrap());
    control.apply(&ROOT, docker("v", "m")).await.unwrap();
    site.world.0.lock().mounted.clear();
    site.world.fail("destroy", ErrorKind::Unavailable);
    let report = control.reconcile().await;
    assert_eq!((report.done.len(), report.failed.len()), (1, 2), "{report:?}");
    assert!(site.world.0.lock().mounted.contains_key(&v.id));
    // Failing again and again neither fills the journal nor loses patience for good.
    let mut tries = site.world.calls("destroy");
    for (forward, tried) in [(1, 0), (15, 2), (16, 0), (16, 2), (3600, 2)] {
        site.clock.forward(Duration::from_secs(forward));
        control.reconcile().await;
        assert_eq!(site.world.calls("destroy") - tries, tried, "after {forward} seconds more");
        tries = site.world.calls("destroy");
    }
    site.world.heal();
    site.clock.forward(Duration::from_secs(3600));
    control.reconcile().await;
    assert_eq!(site.world.0.lock().bytes.len(), 1);
    assert_eq!(control.status().await.unwrap().last_reconcile.unwrap().failed, Vec::<String>::new());
    // The keeper being away is a failure like another.
    site.world.fail("attached", ErrorKind::Unavailable);
    assert_eq!(control.reconcile().await.failed.len(), 1);
}

#[tokio::test]
async fn the_reconciler_runs_by_itself_and_ends_with_its_control() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("v", &[("retention", "0")])).await.unwrap();
    let task = control.spawn_reconciler(Duration::from_millis(20));
    control.apply(&ROOT, remove("v", false)).await.unwrap();
    for _ in 0..200 {
        if site.world.0.lock().bytes.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(site.world.0.lock().bytes.is_empty());
    drop(control);
    tokio::time::timeout(Duration::from_secs(5), task).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn a_registry_that_takes_nothing_at_the_start_is_marked_later() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    control.apply(&Actor::Docker, docker("v", "lost")).await.unwrap();
    control.close().await;
    drop(control);
    let full = AtomicBool::new(true);
    let faults = Faults::new(move |point| match point {
        "registry.suspect_docker" if full.swap(false, Ordering::SeqCst) => Fate::Fail,
        _ => Fate::Go,
    });
    let control = site.open_with(faults).await;
    control.reconcile().await;
    assert_eq!(control.volume_brief(&named("v")).await.unwrap().attachments.len(), 1, "not before the grace time");
    site.clock.forward(MINUTE);
    control.reconcile().await;
    assert!(control.volume_brief(&named("v")).await.unwrap().attachments.is_empty(), "as after any other start");
    assert!(site.world.0.lock().mounted.is_empty());
}
