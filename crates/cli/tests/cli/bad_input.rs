//! Bad input of every kind: the error names the thing and the remedy, and nothing changes.

use crate::world::{World, can_mount};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

#[test]
fn every_mistake_is_named_with_its_remedy_and_changes_nothing() {
    if !can_mount("bad input") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db", "-o", "size=1G"]).ok();
    std::fs::write(world.path("file"), "x").expect("file");
    let file = world.path("file").to_str().expect("plain").to_owned();
    // What it takes is told once it was opened, as a size that is too small makes it.
    let volumes = || {
        let mut all = world.json(&["volume", "list", "--all"]);
        for volume in all.as_array_mut().expect("a list") {
            volume.as_object_mut().expect("a volume").remove("usage");
        }
        all
    };
    let before = volumes();
    let long = "x".repeat(256);
    for (words, code, word) in [
        (vec!["volume", "create", "a/b"], 2, "a/b"),
        (vec!["volume", "create", ".hidden"], 2, ".hidden"),
        (vec!["volume", "create", ""], 2, "empty"),
        (vec!["volume", "create", &long], 2, "256"),
        (vec!["volume", "create", "x\ny"], 2, "x\\ny"),
        (vec!["volume", "create", "x", "-o", "size"], 2, "size"),
        (vec!["volume", "create", "x", "-o", "=1"], 2, "=1"),
        (vec!["volume", "create", "x", "-o", "sise=1G"], 2, "sise"),
        (vec!["volume", "create", "x", "-o", "size=big"], 2, "big"),
        (vec!["volume", "create", "x", "-o", "size=1"], 2, "size=1"),
        (vec!["volume", "create", "x", "-o", "size=99999P"], 2, "99999P"),
        (vec!["volume", "create", "x", "-o", "size=1G", "-o", "size=2G"], 2, "twice"),
        (vec!["volume", "create", "x", "-o", "mode=999"], 2, "999"),
        (vec!["volume", "create", "x", "-o", "uid=-1"], 2, "uid"),
        (vec!["volume", "create", "x", "-o", "retention=soon"], 2, "soon"),
        (vec!["volume", "create", "x", "-o", "store=nowhere"], 3, "nowhere"),
        (vec!["volume", "create", "db", "-o", "size=2G"], 4, "db"),
        (vec!["volume", "set", "db"], 2, "nothing to set"),
        (vec!["volume", "set", "db", "-o", "uid=5"], 2, "uid"),
        (vec!["volume", "set", "absent", "-o", "size=2G"], 3, "absent"),
        (vec!["volume", "inspect", "absent"], 3, "absent"),
        (vec!["volume", "protect", "absent"], 3, "absent"),
        (vec!["volume", "remove", "absent"], 3, "absent"),
        (vec!["volume", "restore", "absent"], 3, "absent"),
        (vec!["volume", "restore", "db", "--as", "a/b"], 2, "a/b"),
        (vec!["mount", "db", "/nonexistent/folder"], 3, "/nonexistent/folder"),
        (vec!["mount", "db", &file], 2, &file),
        (vec!["mount", "absent", "/mnt"], 3, "absent"),
        (vec!["mount", "db", world.root.to_str().expect("plain")], 2, "root"),
        (vec!["unmount", "/mnt"], 3, "/mnt"),
        (vec!["unmount", "db"], 3, "db"),
        (vec!["unmount", "absent"], 3, "absent"),
        (vec!["ls", "absent:/"], 3, "absent"),
        (vec!["ls", "db:/absent"], 3, "/absent"),
        (vec!["ls", ":/x"], 2, ":/x"),
        (vec!["cat", "db:/"], 2, "folder"),
        (vec!["cat", "db:/../../etc/passwd"], 3, "etc/passwd"),
        (vec!["audit", "list", "--since", "yesterday"], 2, "yesterday"),
        (vec!["audit", "verify", "--file", "/nonexistent"], 3, "/nonexistent"),
        (vec!["audit", "verify", "--file", "/"], 2, "/"),
        (vec!["audit", "export", "--file", "/nonexistent/f"], 3, "/nonexistent/f"),
        (vec!["up", "--plugin-name", "a/b"], 2, "a/b"),
        (vec!["status", "--root", "/"], 2, "\"/\""),
        (vec!["status", "--root", ""], 2, "empty"),
        (vec!["up", "--root", &file], 2, &file),
        (vec!["up", "--root", "/dev/null/x"], 2, "/dev/null"),
    ] {
        world.run(&words).fails(code, word);
    }
    assert_eq!(volumes(), before);
    assert_eq!(world.mounts(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_wrong_command_line_is_told_in_the_form_asked_for() {
    let world = World::new();
    for words in [&["volume", "creat"][..], &["nothing"], &["volume", "create"], &["status", "--output", "xml"], &[]] {
        let ended = world.run(words);
        assert_eq!(ended.code, 2, "{words:?}: {}{}", ended.out, ended.err);
        assert!(ended.err.contains("Usage: orlop") || ended.err.contains("--help"), "{words:?}: {}", ended.err);
    }
    for words in [&["--output", "json", "volume", "creat"][..], &["volume", "creat", "--output=json"]] {
        let ended = world.run(words);
        let error: serde_json::Value = serde_json::from_str(&ended.err).expect("an error as JSON");
        assert_eq!((ended.code, error["kind"].as_str()), (2, Some("invalid_argument")));
        assert!(error["message"].as_str().is_some_and(|m| m.contains("creat")), "{error}");
    }
    let ended = world.run(&["--output", "json", "volume", "create"]);
    let error: serde_json::Value = serde_json::from_str(&ended.err).expect("an error as JSON");
    assert!(error["message"].as_str().is_some_and(|m| m.contains("<NAME>")), "what is missing is named: {error}");
}

#[test]
fn an_argument_that_is_no_text_is_a_wrong_command_line() {
    let world = World::new();
    let bad = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    for (words, last) in [
        (&[][..], bad(b"\xff")),
        (&["ls"], bad(b"\xff:/a")),
        (&["volume", "create"], bad(b"\xff")),
        (&["status", "--root"], bad(b"/tmp/r\xff")),
        (&["--output", "json", "volume", "inspect"], bad(b"\xff")),
    ] {
        let output = world.command(words).arg(&last).output().expect("the binary runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?} {last:?}: {told}");
        assert!(told.contains("error: ") || told.contains("invalid_argument"), "{words:?} {last:?}: {told}");
        assert!(!told.contains("panicked"), "{words:?} {last:?}: {told}");
    }
}

#[test]
fn a_registry_of_a_newer_version_is_refused_and_left_alone() {
    if !can_mount("newer format") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    world.run(&["down"]).ok();
    let registry = world.root.join("orlop.db");
    let python = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.execute('pragma user_version=9999'); c.commit()";
    let done = std::process::Command::new("python3").args(["-c", python]).arg(&registry).status().expect("python3 runs");
    assert!(done.success());
    let bytes = std::fs::read(&registry).expect("reads");
    world.run(&["up", "--no-docker-plugin"]).fails(11, "orlop.db");
    assert!(std::fs::read(&registry).expect("reads") == bytes, "the refused registry was changed");
    let doctor = world.run(&["doctor"]);
    assert_eq!(doctor.code, 1, "{}", doctor.out);
    assert!(doctor.out.contains("newer"), "{}", doctor.out);
}
