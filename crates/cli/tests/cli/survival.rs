//! The daemon dies; its mounts do not.

use crate::world::{World, can_mount, kill, wait};
use std::io::{Read, Seek, Write};

#[test]
fn open_files_live_through_the_daemons_death_and_return() {
    if !can_mount("daemon killed") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    let mut file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(world.path("m/x")).expect("opens");
    file.write_all(b"before ").expect("writes");
    world.kill_daemon();
    file.write_all(b"during ").expect("writes without a daemon");
    world.run(&["up", "--no-docker-plugin"]).ok();
    file.write_all(b"after").expect("writes");
    file.sync_all().expect("syncs");
    file.rewind().expect("seeks");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("reads");
    assert_eq!(text, "before during after");
    drop(file);
    let inspected = world.json(&["volume", "inspect", "db"]);
    assert_eq!(inspected[0]["attachments"][0]["path"], dir.as_str(), "the new daemon knows the old one's mounts");
    world.run(&["unmount", &dir]).ok();
    assert_eq!(world.mounts(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn after_everything_was_killed_the_data_is_there() {
    if !can_mount("everything killed") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    std::fs::write(world.path("m/x"), "written").expect("writes");
    let pids = world.processes();
    assert!(pids.len() >= 3, "daemon, keeper and worker: {pids:?}");
    for pid in &pids {
        kill(*pid);
    }
    wait("all are gone", || world.processes().is_empty());
    world.run(&["up", "--no-docker-plugin"]).ok();
    wait("the volume can be read", || world.run(&["cat", "db:/x"]).out == "written");
    let dead = std::fs::metadata(world.path("m"));
    assert!(dead.is_ok(), "the folder is a dead mount: {dead:?}");
    world.run(&["down", "--force"]).ok();
    assert_eq!(world.mounts(), Vec::<std::path::PathBuf>::new());
}
