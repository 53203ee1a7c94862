//! The record of changes: listed, exported, verified with and without a daemon, and not to be altered unseen.

use crate::world::{World, can_mount};
use serde_json::json;
use std::process::Command;

#[test]
fn every_change_is_recorded_exported_and_verified() {
    if !can_mount("audit") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    world.run(&["volume", "remove", "absent"]).fails(3, "absent");
    let events = world.json(&["audit", "list", "--verb", "volume.create"]);
    assert_eq!((&events[0]["phase"], &events[1]["phase"]), (&json!("start"), &json!("done")));
    assert_eq!(events[0]["actor"]["uid"], 0);
    let failed = world.json(&["audit", "list", "--volume", "absent"]);
    assert_eq!(failed.as_array().and_then(|e| e.last()).map(|e| &e["phase"]), Some(&json!("failed")));
    // By name and by id it is the same volume, and what its removal says with the id alone is there.
    let id = world.json(&["volume", "inspect", "db"])[0]["id"].as_str().expect("an id").to_owned();
    world.run(&["volume", "protect", &id]).ok();
    let by_name = world.json(&["audit", "list", "--volume", "db"]);
    assert_eq!(by_name, world.json(&["audit", "list", "--volume", &id]));
    assert_eq!(by_name.as_array().map(Vec::len), Some(4), "{by_name}");
    assert_eq!(world.json(&["audit", "list", "--limit", "1"]).as_array().map(Vec::len), Some(1));
    let table = world.run(&["audit", "list", "--since", "1h"]).ok().out;
    assert!(table.contains("volume.create") && table.contains("uid:0"), "{table}");

    let file = world.path("export");
    let name = file.to_str().expect("plain");
    world.run(&["audit", "export", "--file", name]).ok();
    assert_eq!(world.run(&["audit", "export", "--file", "-"]).ok().out.lines().next().map(|l| l.contains("volume.create")), Some(true));
    world.run(&["audit", "verify"]).ok();
    world.run(&["down"]).ok();
    // Neither needs a daemon.
    assert!(world.run(&["audit", "verify"]).ok().out.contains("intact"));
    assert!(world.run(&["audit", "verify", "--file", name]).ok().out.contains("intact"));

    let text = std::fs::read_to_string(&file).expect("reads");
    for (what, altered) in [
        ("changed", text.replacen("\"db\"", "\"dB\"", 1)),
        ("shortened", text.lines().rev().skip(1).collect::<Vec<_>>().into_iter().rev().map(|l| format!("{l}\n")).collect()),
        ("cut", text.lines().skip(1).map(|l| format!("{l}\n")).collect()),
        ("emptied", String::new()),
    ] {
        std::fs::write(&file, altered).expect("writes");
        world.run(&["audit", "verify", "--file", name]).fails(10, "not as it was written");
        assert_eq!(world.run(&["audit", "verify", "--file", name, "--output", "json"]).code, 10, "{what}");
    }
}

#[test]
fn an_altered_journal_is_noticed_by_verify_and_doctor() {
    if !can_mount("altered journal") {
        return;
    }
    let world = World::up();
    for name in ["a", "b", "c"] {
        world.run(&["volume", "create", name]).ok();
    }
    let journal = std::fs::read_dir(world.root.join("audit"))
        .expect("folder")
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "jsonl"))
        .expect("a journal file");
    let text = std::fs::read_to_string(&journal).expect("reads");
    std::fs::write(&journal, text.replacen("\"b\"", "\"x\"", 1)).expect("writes");
    world.run(&["audit", "verify"]).fails(10, "record");
    let doctor = world.run(&["doctor"]);
    assert_eq!(doctor.code, 1);
    assert!(doctor.out.contains("altered"), "{}", doctor.out);
}

/// Makes a root read-only, as a disk is that had an error, or a copy that is to stay as it is; or ends that.
fn read_only(world: &World, is: bool) {
    let root = world.root.to_str().expect("plain");
    let run = |words: &[&str]| assert!(Command::new(words[0]).args(&words[1..]).status().expect("runs").success(), "{words:?}");
    if is {
        run(&["mount", "--bind", root, root]);
        run(&["mount", "-o", "remount,bind,ro", root]);
    } else {
        run(&["umount", root]);
    }
}

#[test]
fn a_journal_that_can_only_be_read_is_verified_all_the_same() {
    if !can_mount("a journal that can only be read") {
        return;
    }
    let world = World::up();
    for name in ["a", "b"] {
        world.run(&["volume", "create", name]).ok();
    }
    world.run(&["down"]).ok();
    read_only(&world, true);
    let verified = world.run(&["audit", "verify"]).ok();
    assert!(verified.out.contains("is intact") && verified.err.contains("only read"), "{}{}", verified.out, verified.err);
    // Nothing starts there, which is no defect of Orlop.
    world.run(&["up", "--no-docker-plugin"]).fails(7, "Read-only");
    read_only(&world, false);

    // Nor does it matter that the registry was not closed, and has its newest changes in its side file.
    world.run(&["up", "--no-docker-plugin"]).ok();
    world.run(&["volume", "create", "c"]).ok();
    world.kill_everything();
    read_only(&world, true);
    assert!(world.run(&["audit", "verify"]).ok().out.contains("is intact"));
    read_only(&world, false);

    let journal = std::fs::read_dir(world.root.join("audit")).expect("folder").flatten().map(|e| e.path());
    let journal = journal.filter(|p| p.extension().is_some_and(|e| e == "jsonl")).max().expect("a journal file");
    let text = std::fs::read_to_string(&journal).expect("reads");
    let cut: String = text.lines().take(text.lines().count() - 1).map(|l| format!("{l}\n")).collect();
    for altered in [text.replacen("\"c\"", "\"x\"", 1), cut] {
        std::fs::write(&journal, altered).expect("writes");
        read_only(&world, true);
        world.run(&["audit", "verify"]).fails(10, "record");
        read_only(&world, false);
    }
}
