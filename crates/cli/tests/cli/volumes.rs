//! The life of volumes on the command line.

use crate::world::{World, can_mount};
use serde_json::json;

#[test]
fn a_volume_is_created_shown_changed_removed_and_restored() {
    if !can_mount("volumes") {
        return;
    }
    let world = World::up();
    let made = world.json(&["volume", "create", "db", "-o", "size=1G", "-o", "mode=0700", "--label", "team=a"]);
    assert_eq!((&made["name"], &made["options"]["size"], &made["labels"]["team"]), (&json!("db"), &json!(1 << 30), &json!("a")));
    assert_eq!(world.run(&["volume", "create", "other"]).ok().out, "other\n");

    let table = world.run(&["volume", "list"]).ok().out;
    assert!(table.starts_with("NAME") && table.contains("db") && table.contains("1 GiB"), "{table}");
    assert_eq!(world.json(&["volume", "list"]).as_array().map(Vec::len), Some(2));
    let yaml = world.run(&["volume", "ls", "--label", "team=a", "--output", "yaml"]).ok().out;
    assert!(yaml.contains("name: db") && !yaml.contains("other"), "{yaml}");
    let inspected = world.json(&["volume", "inspect", "other", "db"]);
    assert_eq!((&inspected[0]["name"], &inspected[1]["name"]), (&json!("other"), &json!("db")));
    let card = world.run(&["volume", "inspect", "db"]).ok().out;
    assert!(card.contains("size=1073741824") && card.contains("team=a"), "{card}");
    assert!(card.contains("cache=strict") && !card.contains("store=default"), "what counts by default is shown, once: {card}");
    assert_eq!((&inspected[0]["effective"]["cache"], &inspected[1]["effective"]["cache"]), (&json!("fast"), &json!("strict")));

    let set = world.run(&["volume", "set", "db", "-o", "size=2G", "--label", "team="]).ok().out;
    assert!(set.contains("size=2147483648"), "{set}");
    assert_eq!(world.json(&["volume", "inspect", "db"])[0]["labels"], json!({}));

    world.run(&["volume", "protect", "db"]).ok();
    world.run(&["volume", "remove", "--dry-run", "db"]).fails(6, "db");
    world.run(&["volume", "remove", "db"]).fails(6, "db");
    world.run(&["volume", "protect", "--off", "db"]).ok();

    let would = world.run(&["volume", "remove", "--dry-run", "db", "other"]).ok().out;
    assert!(would.contains("would remove db") && would.contains("orlop volume restore db"), "{would}");
    assert_eq!(world.json(&["volume", "list", "--quiet"]), json!(["db", "other"]));
    let removed = world.run(&["volume", "rm", "db", "other"]).ok().out;
    assert!(removed.contains("kept until 20") && removed.contains("orlop volume restore db"), "{removed}");
    assert_eq!(world.json(&["volume", "list", "--quiet"]), json!([]));
    let all = world.run(&["volume", "list", "--all"]).ok().out;
    assert!(all.contains("removed, kept until"), "{all}");

    world.run(&["volume", "create", "db"]).ok();
    world.run(&["volume", "restore", "db"]).fails(4, "--as");
    assert_eq!(world.run(&["volume", "restore", "db", "--as", "db-old"]).ok().out, "db-old is back\n");
    let back = &world.json(&["volume", "inspect", "db-old"])[0];
    assert_eq!((&back["id"], &back["options"]["size"]), (&made["id"], &json!(2u64 << 30)));

    let gone = world.run(&["volume", "remove", "--now", "db-old"]).ok().out;
    assert!(gone.contains("for good"), "{gone}");
    world.run(&["volume", "restore", "db-old"]).fails(3, "db-old");
}

#[test]
fn of_several_names_the_good_ones_are_removed_and_the_bad_ones_named() {
    if !can_mount("several names") {
        return;
    }
    let world = World::up();
    for name in ["a", "b", "c"] {
        world.run(&["volume", "create", name]).ok();
    }
    world.run(&["volume", "protect", "b"]).ok();
    let mixed = world.run(&["volume", "remove", "a", "b", "absent", "c"]).fails(6, "absent");
    assert!(mixed.out.contains("removed a") && mixed.out.contains("removed c") && !mixed.out.contains("removed b"), "{}", mixed.out);
    assert_eq!(world.json(&["volume", "list", "--quiet"]), json!(["b"]));
    // A name that cannot be one stops everything before anything happens.
    world.run(&["volume", "protect", "--off", "b"]).ok();
    world.run(&["volume", "remove", "b", "no/name"]).fails(2, "no/name");
    assert_eq!(world.json(&["volume", "list", "--quiet"]), json!(["b"]));
    let result = world.run(&["volume", "remove", "b", "absent", "--output", "json"]);
    assert_eq!(result.code, 3);
    let removals = result.json();
    assert_eq!((&removals[0]["removed"], &removals[1]["removed"]), (&json!(true), &json!(false)));
    assert!(removals[0]["restorable_until"].is_string());
    assert_eq!(removals[1]["error"]["kind"], "not_found");
}

#[test]
fn removed_data_comes_back_whole() {
    if !can_mount("removed data") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    std::fs::write(world.path("m/x"), "precious").expect("writes");
    world.run(&["volume", "remove", "db"]).fails(5, &dir);
    world.run(&["unmount", "db"]).ok();
    world.run(&["volume", "remove", "db"]).ok();
    world.run(&["volume", "create", "db"]).ok();
    assert_eq!(world.run(&["ls", "db:/"]).ok().out, "", "a new volume of the name is empty");
    world.run(&["volume", "restore", "db", "--as", "old"]).ok();
    assert_eq!(world.run(&["cat", "old:/x"]).ok().out, "precious");
}

#[test]
fn deleting_for_good_leaves_nothing_on_disk() {
    if !can_mount("deleting") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    let id = world.json(&["volume", "inspect", "db"])[0]["id"].as_str().expect("an id").to_owned();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    std::fs::write(world.path("m/x"), vec![1u8; 1 << 20]).expect("writes");
    world.run(&["unmount", "db"]).ok();
    world.run(&["volume", "remove", "--now", "db"]).ok();
    let output = std::process::Command::new("find").arg(&world.root).args(["-name", &format!("*{id}*")]).output().expect("find");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

#[test]
fn a_volume_that_is_not_kept_is_not_said_to_be_and_does_not_come_back() {
    if !can_mount("retention=0") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db", "-o", "retention=0"]).ok();
    let would = world.run(&["volume", "remove", "--dry-run", "db"]).ok().out;
    assert!(would.contains("for good") && !would.contains("restore"), "{would}");
    let removed = world.run(&["volume", "remove", "db"]).ok().out;
    assert!(removed.contains("for good") && !removed.contains("kept until"), "{removed}");
    world.run(&["volume", "restore", "db"]).fails(3, "db");
    world.run(&["volume", "create", "db", "-o", "retention=999999d"]).fails(2, "a hundred years");
}
