//! The record of changes: listed, exported, verified with and without a daemon, and not to be altered unseen.

use crate::world::{World, can_mount};
use serde_json::json;

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
