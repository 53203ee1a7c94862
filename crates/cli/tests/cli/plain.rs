//! Plain volumes through the real binary: folders made and adopted, bound, removed to their trash and taken back.

use crate::world::{World, can_mount};
use serde_json::json;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn world_with_store() -> (World, String) {
    let world = World::up();
    let folder = world.dir("plain");
    world.run(&["store", "add", "plain", &format!("dir://{folder}")]).ok();
    (world, folder)
}

#[test]
fn a_plain_volume_is_a_folder_from_first_to_last() {
    if !can_mount("a plain volume") {
        return;
    }
    let (world, folder) = world_with_store();
    let options = ["-o", "store=plain", "-o", "uid=7", "-o", "gid=8", "-o", "mode=2770"];
    world.run(&[&["volume", "create", "v"][..], &options].concat()).ok();
    let made = std::fs::metadata(world.path("plain/v")).expect("the folder is there");
    assert_eq!((made.uid(), made.gid(), made.permissions().mode() & 0o7777), (7, 8, 0o2770));
    let seen = &world.json(&["volume", "inspect", "v"])[0];
    assert_eq!((&seen["kind"], &seen["folder"]), (&json!("plain"), &json!(format!("{folder}/v"))));
    let (one, two) = (world.dir("one"), world.dir("two"));
    world.run(&["mount", "v", &one]).ok();
    world.run(&["mount", "v", &one]).ok();
    world.run(&["mount", "--read-only", "v", &two]).ok();
    std::fs::write(world.path("one/x"), "hello").expect("writes");
    assert_eq!(std::fs::read_to_string(world.path("plain/v/x")).expect("the same file"), "hello");
    let refused = std::fs::write(world.path("two/y"), "").expect_err("read-only");
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(world.run(&["cat", "v:/x"]).ok().out, "hello");
    let fuse = std::fs::read_to_string("/proc/mounts").expect("mounts");
    assert!(!fuse.lines().any(|l| l.contains("fuse.orlop") && l.contains(world.root.to_str().expect("plain"))), "nothing of FUSE");

    // The daemon dies; binds stay and are known again.
    world.kill_daemon();
    assert_eq!(std::fs::read_to_string(world.path("one/x")).expect("still bound"), "hello");
    world.run(&["up", "--no-docker-plugin"]).ok();
    world.run(&["volume", "remove", "v"]).fails(5, &one);
    world.run(&["down"]).fails(5, &one);
    let file = std::fs::File::open(world.path("one/x")).expect("opens");
    world.run(&["unmount", &one]).fails(5, &one);
    drop(file);
    world.run(&["unmount", "v"]).ok();
    assert_eq!(world.mounts(), Vec::<std::path::PathBuf>::new());

    world.run(&["store", "remove", "plain"]).fails(5, "v");
    world.run(&["volume", "remove", "v"]).ok();
    assert!(!world.path("plain/v").exists());
    world.run(&["volume", "create", "v", "-o", "store=plain"]).ok();
    assert_eq!(world.run(&["ls", "v:/"]).ok().out, "", "a new volume of the name is empty");
    world.run(&["volume", "restore", "v"]).fails(4, "--as");
    world.run(&["volume", "restore", "v", "--as", "w"]).ok();
    assert_eq!(std::fs::read_to_string(world.path("plain/w/x")).expect("back"), "hello");
    let back = std::fs::metadata(world.path("plain/w")).expect("the folder is there");
    assert_eq!((back.uid(), back.ino()), (7, made.ino()));
    world.run(&["volume", "remove", "--now", "v", "w"]).ok();
    assert_eq!(std::fs::read_dir(&folder).expect("reads").count(), 0, "nothing is left");
    world.run(&["store", "remove", "plain"]).ok();
    assert!(world.path("plain").is_dir());
}

#[test]
fn a_folder_that_was_there_is_adopted_and_outlives_its_volume() {
    if !can_mount("an adopted folder") {
        return;
    }
    let (world, folder) = world_with_store();
    world.dir("plain/there");
    std::fs::write(world.path("plain/there/x"), "precious").expect("writes");
    let before = std::fs::metadata(world.path("plain/there")).expect("there");
    world.run(&["volume", "create", "there", "-o", "store=plain", "-o", "uid=7", "-o", "mode=0700"]).ok();
    let after = std::fs::metadata(world.path("plain/there")).expect("there");
    assert_eq!((after.uid(), after.mode(), after.ino()), (before.uid(), before.mode(), before.ino()), "as it was");
    assert_eq!(world.run(&["cat", "there:/x"]).ok().out, "precious");
    let would = world.run(&["volume", "remove", "--dry-run", "--now", "there"]).ok().out;
    assert!(would.contains("would forget there") && would.contains("stays"), "{would}");
    let gone = world.run(&["volume", "remove", "--now", "there"]).ok().out;
    assert!(gone.contains("forgot there") && gone.contains(&format!("{folder}/there")), "{gone}");
    assert_eq!(std::fs::read_to_string(world.path("plain/there/x")).expect("stays"), "precious");
    assert_eq!(world.json(&["volume", "list", "--all"]), json!([]));
    // A file, and a link that leads elsewhere, are no folders to adopt.
    std::fs::write(world.path("plain/file"), "").expect("writes");
    std::os::unix::fs::symlink(world.path("plain/there"), world.path("plain/link")).expect("links");
    for name in ["file", "link"] {
        world.run(&["volume", "create", name, "-o", "store=plain"]).fails(4, "not a folder");
    }
    for option in ["size=1G", "encrypt=on", "compression=zstd", "durability=local", "outage=fail", "cache=strict"] {
        let key = option.split('=').next().expect("a key");
        world.run(&["volume", "create", "no", "-o", "store=plain", "-o", option]).fails(11, key);
    }
    let root = world.root.to_str().expect("plain").to_owned();
    world.run(&["store", "add", "bad", &format!("dir://{root}/state")]).fails(2, "lie in one another");
    assert!(!world.path("plain/no").exists());
}

#[test]
fn a_size_below_what_is_used_is_refused_with_the_bytes() {
    if !can_mount("shrinking") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db", "-o", "size=16M"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    std::fs::write(world.path("m/x"), vec![1u8; 5 << 20]).expect("writes");
    world.run(&["volume", "set", "db", "-o", "size=4M"]).fails(8, &(5 << 20).to_string());
    world.run(&["volume", "set", "db", "-o", "size=6M"]).ok();
    world.run(&["unmount", "db"]).ok();
    world.run(&["volume", "set", "db", "-o", "size=4M"]).fails(8, &(5 << 20).to_string());
    assert_eq!(world.json(&["volume", "inspect", "db"])[0]["options"]["size"], 6 << 20);
    world.run(&["volume", "set", "db", "-o", "size=5M"]).ok();
    assert_eq!(world.mounts(), Vec::<std::path::PathBuf>::new());
    world.run(&["mount", "db", &dir]).ok();
    std::fs::write(world.path("m/y"), vec![1u8; 1 << 20]).expect_err("it is full to the last block");
    assert_eq!(std::fs::read(world.path("m/x")).expect("reads").len(), 5 << 20);
    let noted = world.run(&["volume", "set", "db", "-o", "outage=fail", "-o", "compression=zstd"]).ok();
    assert!(noted.err.contains("next mount"), "{}", noted.err);
    world.run(&["volume", "set", "db", "-o", "encrypt=on"]).fails(2, "encrypt");
    world.run(&["volume", "set", "db", "-o", "durability=remote"]).fails(11, "durability=remote");
}
