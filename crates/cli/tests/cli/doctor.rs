//! `orlop doctor` finds what is wrong, says what to do, and has the exit code of it.

use crate::world::{World, can_mount, kill, wait};
use serde_json::Value;

fn finding<'a>(findings: &'a Value, check: &str) -> &'a Value {
    findings.as_array().expect("a list").iter().find(|f| f["check"] == check).unwrap_or_else(|| panic!("no {check} in {findings}"))
}

#[test]
fn a_healthy_orlop_is_told_healthy() {
    if !can_mount("healthy") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    let findings = world.json(&["doctor"]);
    for check in ["daemon", "keeper", "fuse", "space", "mounts", "audit"] {
        assert_eq!(finding(&findings, check)["level"], "ok", "{findings}");
    }
    let quiet = world.run(&["doctor", "--quiet"]).ok().out;
    assert!(!quiet.contains("daemon"), "{quiet}");
}

#[test]
fn a_daemon_that_does_not_run_is_wrong() {
    let world = World::new();
    let doctor = world.run(&["doctor"]);
    assert_eq!(doctor.code, 1, "{}", doctor.out);
    assert!(doctor.out.contains("WRONG") && doctor.out.contains("orlop up"), "{}", doctor.out);
}

#[test]
fn a_keeper_that_died_is_noticed_and_comes_back() {
    if !can_mount("dead keeper") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    let keeper = world
        .processes()
        .into_iter()
        .find(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.split(|b| *b == 0).any(|w| w == b"keeper")))
        .expect("a keeper");
    kill(keeper);
    wait("the keeper is gone", || !crate::world::alive(keeper));
    std::fs::write(world.path("m/x"), "without a keeper").expect("the worker serves on");
    // Any change that needs the keeper brings it back, with the mounts of before.
    let other = world.dir("other");
    world.run(&["mount", "db", &other]).ok();
    assert_eq!(std::fs::read_to_string(world.path("other/x")).expect("reads"), "without a keeper");
    assert_eq!(finding(&world.json(&["doctor"]), "keeper")["level"], "ok");
}
