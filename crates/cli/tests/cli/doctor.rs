//! `orlop doctor` finds what is wrong, says what to do, and has the exit code of it.

use crate::world::{World, can_mount, kill, s3_words, wait};
use orlop_store::testing::{FaultProxy, Faults, S3Server};
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
    for check in ["daemon", "keeper", "fuse", "space", "mounts", "stores", "audit"] {
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

/// What `doctor` says of a store: how bad it is, and the text.
fn of_store(world: &World, store: &str) -> (String, String) {
    let findings = world.run(&["doctor", "--output", "json"]).json();
    let said = |f: &&Value| f["check"] == "stores" && f["message"].as_str().is_some_and(|m| m.starts_with(&format!("store {store} ")));
    let found = findings.as_array().expect("a list").iter().find(said).unwrap_or_else(|| panic!("no {store} in {findings}"));
    assert!(found["level"] == "ok" || found["remedy"].is_string(), "{found}");
    let text = |key: &str| found[key].as_str().expect("text").to_owned();
    (text("level"), text("message"))
}

#[test]
fn a_store_without_its_volumes_or_without_its_folder_is_wrong() {
    if !can_mount("doctor of stores") {
        return;
    }
    let world = World::up();
    let folder = world.dir("folders");
    world.run(&["store", "add", "plain", &format!("dir://{folder}")]).ok();
    for (name, store) in [("db", "default"), ("other", "default"), ("one", "plain"), ("two", "plain")] {
        world.run(&["volume", "create", name, "-o", &format!("store={store}")]).ok();
    }
    for store in ["default", "plain"] {
        assert_eq!(of_store(&world, store).0, "ok");
    }
    let id = world.json(&["volume", "inspect", "db"])[0]["id"].as_str().expect("an id").to_owned();
    let place = world.root.join("stores/default/volumes").join(id);
    std::fs::rename(&place, world.path("aside")).expect("moved");
    std::fs::remove_dir(world.path("folders/two")).expect("removed");
    for (store, lost, whole) in [("default", "db", "other"), ("plain", "two", "one")] {
        let (level, message) = of_store(&world, store);
        let named = message.rsplit(": ").next().unwrap_or_default();
        assert!(level == "problem" && named.contains(lost) && !named.contains(whole), "{message}");
    }
    assert_eq!(world.run(&["doctor"]).code, 1);
    std::fs::rename(world.path("aside"), &place).expect("moved back");
    std::fs::rename(&folder, world.path("elsewhere")).expect("moved");
    assert_eq!(of_store(&world, "default").0, "ok");
    let (level, message) = of_store(&world, "plain");
    assert!(level == "problem" && message.contains("not there"), "{message}");
}

#[test]
fn a_store_that_does_not_answer_or_lost_a_volume_is_wrong() {
    let Some(server) = S3Server::start("bucket") else { return };
    if !can_mount("doctor of a cloud store") {
        return;
    }
    let proxy = FaultProxy::start(server.addr());
    let world = World::up();
    let how = s3_words(&server, proxy.addr());
    let how = how.each_ref().map(String::as_str);
    world
        .run(&[&["store", "add", "cloud", "s3://bucket/pre", "--set", "timeout=2s", "--set", "connect_timeout=1s"], &how[..]].concat())
        .ok();
    world.run(&["volume", "create", "db", "-o", "store=cloud"]).ok();
    assert_eq!(of_store(&world, "cloud").0, "ok");
    proxy.set(Faults::down());
    assert_eq!(of_store(&world, "cloud").0, "problem");
    assert_eq!(of_store(&world, "default").0, "ok", "the others are looked at all the same");
    proxy.heal();
    std::fs::remove_dir_all(server.folder().join("pre/volumes")).expect("removed");
    let (level, message) = of_store(&world, "cloud");
    assert!(level == "problem" && message.ends_with(": db"), "{message}");
}
