//! Checking, explaining, collecting and reading out volumes, with the real binary on real folders.

use crate::world::{Ended, World, can_mount, s3_words, wait};
use orlop_store::testing::{Fault, FaultProxy, Faults, Rule, S3Server};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

fn id_of(w: &World, name: &str) -> String {
    w.json(&["volume", "inspect", name])[0]["id"].as_str().expect("an id").to_owned()
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { todo.push(path) } else { found.push(path) }
        }
    }
    found
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("reads");
    file.write_all_at(&[byte[0] ^ 1], at).expect("writes");
}

/// A mounted volume with something of everything; returns its mountpoint and id.
fn filled(w: &World, name: &str) -> (PathBuf, String) {
    w.run(&["volume", "create", name]).ok();
    let dir = PathBuf::from(w.dir(&format!("mnt-{name}")));
    w.run(&["mount", name, dir.to_str().expect("plain")]).ok();
    std::fs::create_dir_all(dir.join("a/b")).expect("folders");
    std::fs::write(dir.join("a/b/data"), vec![7u8; 100_000]).expect("written");
    std::fs::write(dir.join("small"), "hello").expect("written");
    std::fs::set_permissions(dir.join("small"), std::fs::Permissions::from_mode(0o4751)).expect("mode");
    std::os::unix::fs::symlink("a/b/data", dir.join("link")).expect("link");
    std::fs::hard_link(dir.join("small"), dir.join("a/hard")).expect("link");
    let sparse = std::fs::File::create(dir.join("sparse")).expect("made");
    sparse.set_len(50 << 20).expect("grown");
    sparse.write_all_at(b"far", 40 << 20).expect("written");
    sparse.sync_all().expect("synced");
    for f in ["a/b/data", "small"] {
        std::fs::File::open(dir.join(f)).and_then(|f| f.sync_all()).expect("synced");
    }
    (dir, id_of(w, name))
}

fn staged(w: &World, id: &str) -> PathBuf {
    let mut all = files_below(&w.root.join("state").join(id).join("staged"));
    all.retain(|p| p.extension().is_some_and(|e| e == "segment"));
    all.into_iter().max_by_key(|p| p.metadata().expect("there").len()).expect("one staged file")
}

#[test]
fn a_whole_volume_checks_clean_and_a_flipped_byte_is_named_with_its_file() {
    if !can_mount("a_whole_volume_checks_clean_and_a_flipped_byte_is_named_with_its_file") {
        return;
    }
    let w = World::up();
    let (dir, id) = filled(&w, "db");
    let report = w.json(&["check", "db"]);
    assert_eq!(report["clean"], true, "{report}");
    assert!(report["bytes"].as_u64().expect("bytes") > 100_000 && report["inodes"].as_u64() == Some(7), "{report}");
    w.run(&["unmount", dir.to_str().expect("plain")]).ok();

    let file = staged(&w, &id);
    flip(&file, 4096 + 10);
    let ended = w.run(&["check", "db", "--output", "json"]);
    assert_eq!(ended.code, 1, "{}{}", ended.out, ended.err);
    let report = ended.json();
    let finding = &report["findings"][0];
    assert_eq!(finding["at"], file.to_str().expect("plain"), "{report}");
    assert_eq!(finding["state"], "left");
    let paths = finding["paths"].as_array().expect("paths");
    assert!(paths.iter().all(|p| ["/a/b/data", "/small", "/a/hard", "/sparse"].iter().any(|q| p == q)) && !paths.is_empty(), "{report}");
    // What people see names both as well, and the check of an attached volume is the same.
    let text = w.run(&["check", "db"]);
    assert_eq!(text.code, 1);
    assert!(text.out.contains(file.to_str().expect("plain")) && text.out.contains("hits /"), "{}", text.out);
    flip(&file, 4096 + 10);
    w.run(&["check", "db"]).ok();
}

#[test]
fn what_is_damaged_is_an_error_to_who_reads_it_and_mended_where_there_is_another_copy() {
    let Some(server) = S3Server::start("bucket") else { return };
    if !can_mount("what_is_damaged_is_an_error_to_who_reads_it_and_mended_where_there_is_another_copy") {
        return;
    }
    let w = World::up();
    let how = s3_words(&server, server.addr());
    w.run(&[&["store", "add", "cloud", "s3://bucket/pre"], &how.each_ref().map(String::as_str)[..]].concat()).ok();
    w.run(&["volume", "create", "db", "-o", "store=cloud"]).ok();
    let dir = PathBuf::from(w.dir("mnt"));
    let mounted = dir.to_str().expect("plain");
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i / 5) as u8).collect();
    w.run(&["mount", "db", mounted]).ok();
    std::fs::write(dir.join("data"), &data).expect("written");
    w.run(&["unmount", mounted]).ok();
    let id = id_of(&w, "db");
    let copy = staged(&w, &id);
    let packs = files_below(&server.folder()).into_iter().filter(|p| p.parent().is_some_and(|d| d.ends_with("packs")));
    let pack = packs.max_by_key(|p| p.metadata().expect("there").len()).expect("a pack");

    // The copy on the host: named, and read from the store meanwhile.
    flip(&copy, 4096 + 100_000);
    let ended = w.run(&["check", "db", "--output", "json"]);
    assert_eq!((ended.code, &ended.json()["findings"][0]["at"]), (1, &copy.to_str().expect("plain").into()), "{}", ended.out);
    w.run(&["mount", "db", mounted]).ok();
    assert!(std::fs::read(dir.join("data")).expect("reads") == data);
    w.run(&["unmount", mounted]).ok();
    let mended = w.run(&["check", "db", "--repair", "--output", "json"]);
    assert_eq!((mended.code, &mended.json()["findings"][0]["state"]), (0, &"repaired".into()), "{}{}", mended.out, mended.err);
    assert_eq!(w.json(&["check", "db"])["clean"], true);

    // The only one left: an error, never other bytes, and the log says what is damaged.
    flip(&pack, 60_000);
    w.run(&["mount", "db", mounted]).ok();
    let told = std::fs::read(dir.join("data")).expect_err("damaged");
    assert_eq!(told.raw_os_error(), Some(nix::libc::EIO), "{told}");
    let name = pack.file_name().expect("a name").to_string_lossy().into_owned();
    let log = std::fs::read_to_string(w.root.join("log").join(format!("worker-{id}.log"))).expect("a log");
    assert!(log.contains(&name), "{name} in {log}");
    // What comes before the damage is read out, and then it is told with its place.
    let cat = w.command(&["cat", "db:/data"]).output().expect("runs");
    let told = String::from_utf8_lossy(&cat.stderr);
    assert_eq!(cat.status.code(), Some(10), "{told}");
    assert!(cat.stdout.len() < data.len() && data.starts_with(&cat.stdout), "{} bytes", cat.stdout.len());
    let place = format!("/data cannot be read from byte {} on", cat.stdout.len());
    assert!(told.contains(&place) && told.contains("hint: orlop check db"), "{told}");
    w.run(&["unmount", mounted]).ok();
    let left = w.run(&["check", "db", "--repair", "--output", "json"]);
    let states = left.json()["findings"].as_array().expect("a list").iter().map(|f| f["state"].to_string()).collect::<Vec<_>>();
    assert!(left.code == 1 && states.iter().any(|s| s == "\"left\"") && !states.iter().any(|s| s.contains("repaired")), "{}", left.out);
    flip(&pack, 60_000);
    assert_eq!(w.json(&["check", "db"])["clean"], true);
}

#[test]
fn a_volume_that_cannot_be_opened_is_checked_thing_by_thing() {
    if !can_mount("a_volume_that_cannot_be_opened_is_checked_thing_by_thing") {
        return;
    }
    let w = World::up();
    let (dir, id) = filled(&w, "db");
    w.run(&["unmount", dir.to_str().expect("plain")]).ok();
    let header = w.root.join("stores/default/volumes").join(&id).join("volume.json");
    flip(&header, 30);
    let ended = w.run(&["check", "db", "--output", "json"]);
    assert_eq!(ended.code, 1, "{}{}", ended.out, ended.err);
    let report = ended.json();
    assert!(report["findings"][0]["what"].as_str().expect("text").contains("cannot be opened"), "{report}");
    let named = report["findings"].as_array().expect("list").iter().any(|f| f["at"].as_str().is_some_and(|a| a.ends_with("volume.json")));
    assert!(named, "{report}");
    flip(&header, 30);
    w.run(&["check", "db"]).ok();
}

#[test]
fn du_adds_up_to_what_is_there() {
    if !can_mount("du_adds_up_to_what_is_there") {
        return;
    }
    let w = World::up();
    let (_dir, id) = filled(&w, "db");
    let space = w.json(&["volume", "du", "db"]);
    assert_eq!(space["apparent_bytes"].as_u64(), Some(100_000 + 5 + (50 << 20)), "{space}");
    assert_eq!(space["allocated_bytes"].as_u64(), Some((25 + 1 + 1) * 4096), "{space}");
    // Twice, since something may be written between the looks.
    let close = || {
        let space = w.json(&["volume", "du", "db"]);
        let taken = |m: std::fs::Metadata| m.len().min(std::os::unix::fs::MetadataExt::blocks(&m) * 512);
        let sum =
            |dir: PathBuf, of: &dyn Fn(std::fs::Metadata) -> u64| files_below(&dir).iter().map(|p| p.metadata().map_or(0, of)).sum::<u64>();
        let shares = |side: &str| space[side].as_array().expect("shares").iter().map(|s| s["bytes"].as_u64().expect("bytes")).sum::<u64>();
        let host = sum(w.root.join("state").join(&id), &taken);
        let store = sum(w.root.join("stores/default/volumes").join(&id), &|m| m.len());
        assert_eq!(space["host_bytes"].as_u64(), Some(shares("host")));
        assert_eq!(space["store_bytes"].as_u64(), Some(shares("store")));
        space["host_bytes"].as_u64() == Some(host) && space["store_bytes"].as_u64() == Some(store)
    };
    crate::world::wait("the sums are what is there", close);
    let text = w.run(&["volume", "du", "db", "--explain"]).ok().out;
    for word in ["staged live", "journal", "namespace", "header"] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn gc_takes_a_stray_on_the_second_run_and_nothing_else() {
    if !can_mount("gc_takes_a_stray_on_the_second_run_and_nothing_else") {
        return;
    }
    let w = World::up();
    let (dir, id) = filled(&w, "db");
    let store = w.root.join("stores/default/volumes").join(&id);
    std::fs::create_dir_all(store.join("packs")).expect("folder");
    let stray = store.join("packs/0123456789abcdef0123456789abcdef");
    let odd = store.join("notes.txt");
    for f in [&stray, &odd] {
        std::fs::write(f, "left over").expect("written");
    }
    let rehearsal = w.json(&["gc", "db", "--dry-run"]);
    assert_eq!(rehearsal["volumes"]["db"]["marked"].as_array().expect("list").len(), 1, "{rehearsal}");
    let first = w.json(&["gc", "db"]);
    assert!(first["volumes"]["db"]["deleted"].as_array().expect("list").is_empty() && stray.exists(), "{first}");
    let second = w.json(&["gc"]);
    assert_eq!(
        second["volumes"]["db"]["deleted"][0]["at"].as_str().expect("a path").rsplit('/').next(),
        stray.file_name().and_then(|n| n.to_str()),
        "{second}"
    );
    assert!(!stray.exists() && odd.exists(), "what is not known is kept");
    assert_eq!(second["volumes"]["db"]["unknown"].as_array().expect("list").len(), 1);
    assert_eq!(std::fs::read(dir.join("a/b/data")).expect("reads"), vec![7u8; 100_000]);
    // A volume that only the store knows is listed and left alone.
    let stranger = w.root.join("stores/default/volumes/00000000-0000-4000-8000-000000000001");
    std::fs::create_dir_all(&stranger).expect("folder");
    std::fs::write(stranger.join("volume.json"), r#"{"format":1,"volume":"00000000-0000-4000-8000-000000000001"}"#).expect("written");
    for _ in 0..3 {
        let listed = w.json(&["gc"]);
        assert_eq!(listed["unknown"][0]["id"], "00000000-0000-4000-8000-000000000001", "{listed}");
    }
    assert!(stranger.join("volume.json").exists());
    w.run(&["check", "db"]).ok();
}

fn same_tree(a: &Path, b: &Path) {
    for (path, target) in [("a/b/data", None), ("small", None), ("sparse", None), ("link", Some("a/b/data")), ("a", None)] {
        let (x, y) = (a.join(path).symlink_metadata().expect(path), b.join(path).symlink_metadata().expect(path));
        assert_eq!(
            (x.mode(), x.uid(), x.gid(), x.mtime(), x.mtime_nsec()),
            (y.mode(), y.uid(), y.gid(), y.mtime(), y.mtime_nsec()),
            "{path}"
        );
        if x.is_file() {
            assert!(std::fs::read(a.join(path)).expect(path) == std::fs::read(b.join(path)).expect(path), "{path}");
        }
        if let Some(target) = target {
            assert_eq!(std::fs::read_link(b.join(path)).expect(path), Path::new(target));
        }
    }
    assert_eq!(b.join("small").metadata().expect("there").ino(), b.join("a/hard").metadata().expect("there").ino());
    assert!(b.join("sparse").metadata().expect("there").blocks() < 1000, "holes stay holes");
}

#[test]
fn export_reads_a_mounted_volume_out_without_its_daemon_and_touches_nothing() {
    if !can_mount("export_reads_a_mounted_volume_out_without_its_daemon_and_touches_nothing") {
        return;
    }
    let w = World::up();
    let (dir, id) = filled(&w, "db");
    let url = format!("file://{}", w.root.join("stores/default").display());
    let state = w.root.join("state").join(&id);
    let stamp = |dir: &Path| {
        let mut all: Vec<_> = files_below(dir)
            .into_iter()
            .map(|p| (p.clone(), p.metadata().expect("there").mtime_nsec(), p.metadata().expect("there").len()))
            .collect();
        all.sort();
        all
    };
    let listed = w.run(&["export", "--store", &url]).ok();
    assert!(listed.out.contains(&id) && listed.out.contains(" db "), "{}", listed.out);
    let one = &w.json(&["export", "--store", &url])[0];
    assert_eq!((&one["id"], &one["name"]), (&serde_json::json!(id), &serde_json::json!("db")));
    let unknown = w.run(&["export", "00000000-0000-4000-8000-000000000000", "--store", &url, "--to", "x"]);
    assert_eq!(unknown.code, 3, "{}", unknown.err);
    assert!(unknown.err.contains(&id), "the error lists what is there: {}", unknown.err);

    let before = stamp(&w.root.join("stores/default/volumes").join(&id));
    let to = w.path("out");
    w.run(&["export", &id, "--store", &url, "--state", state.to_str().expect("plain"), "--to", to.to_str().expect("plain")]).ok();
    same_tree(&dir, &to);
    // The name that it was made under is enough, and the host's folder is found by itself beside the store.
    let found = w.path("found");
    let said = w.run(&["export", "db", "--store", &url, "--to", found.to_str().expect("plain")]).ok();
    assert!(said.err.contains(state.to_str().expect("plain")), "{}", said.err);
    same_tree(&dir, &found);
    assert_eq!(stamp(&w.root.join("stores/default/volumes").join(&id)), before, "the store is as it was");
    // The writer goes on as if nothing had been.
    std::fs::write(dir.join("after"), "still mine").expect("written");
    std::fs::File::open(dir.join("after")).and_then(|f| f.sync_all()).expect("synced");
    assert_eq!(w.json(&["check", "db"])["clean"], true);

    // Again as a tar file, of a volume that is damaged and at rest.
    w.run(&["unmount", dir.to_str().expect("plain")]).ok();
    let tar = w.path("out.tar");
    let words = ["export", &id, "--store", &url, "--state", state.to_str().expect("plain"), "--to", tar.to_str().expect("plain")];
    w.run(&words).ok();
    let unpacked = w.dir("unpacked");
    let tarred = std::process::Command::new("tar").args(["-xpf", tar.to_str().expect("plain"), "-C", &unpacked, "--xattrs"]).status();
    assert!(tarred.expect("tar runs").success());
    same_tree(&to, Path::new(&unpacked));
    std::fs::remove_file(&tar).expect("removed");
    flip(&staged(&w, &id), 4096 + 10);
    let ended = w.run(&words);
    assert_eq!(ended.code, 1, "{}{}", ended.out, ended.err);
    assert!(ended.out.contains("damaged:"), "{}", ended.out);
    assert!(files_below(&w.path("")).iter().all(|p| !p.to_string_lossy().contains(".orlop-export-")), "no scratch is left");

    // A volume whose name is not noted, or damaged, gets it at its next mount.
    let noted = w.root.join("stores/default/volumes").join(&id).join("name.json");
    let whole = std::fs::read(&noted).expect("noted");
    for damaged in [false, true] {
        std::fs::remove_file(&noted).expect("removed");
        if damaged {
            std::fs::write(&noted, b"{}").expect("written");
        }
        w.run(&["export", "db", "--store", &url]).fails(3, "no volume");
        w.run(&["mount", "db", dir.to_str().expect("plain")]).ok();
        wait("the name is noted anew", || std::fs::read(&noted).is_ok_and(|now| now == whole));
        w.run(&["unmount", "db"]).ok();
    }
}

/// What a reader of tar files of another make finds in one: name, type, target, mode, owner, group and time of each entry.
fn entries(tar: &Path) -> Vec<serde_json::Value> {
    let code = "import json, sys, tarfile\n\
                found = [[m.name, m.type.decode(), m.linkname, m.mode, m.uid, m.gid, int(m.mtime)] for m in tarfile.open(sys.argv[1])]\n\
                print(json.dumps(found))";
    let done = std::process::Command::new("python3").args(["-c", code]).arg(tar).output().expect("python3 runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("a list")
}

#[test]
fn every_name_of_a_damaged_file_says_so_and_every_entry_of_a_tar_file_has_its_attributes() {
    if !can_mount("every_name_of_a_damaged_file_says_so_and_every_entry_of_a_tar_file_has_its_attributes") {
        return;
    }
    let w = World::up();
    w.run(&["volume", "create", "db"]).ok();
    let dir = PathBuf::from(w.dir("mnt"));
    w.run(&["mount", "db", dir.to_str().expect("plain")]).ok();
    let data: Vec<u8> = (0..100_000u32).map(|i| (i / 3) as u8 | 1).collect();
    for (name, twin, content) in [("a", "b", &data[..]), ("whole", "twin", &b"hello"[..])] {
        std::fs::write(dir.join(name), content).expect("written");
        std::fs::File::open(dir.join(name)).and_then(|f| f.sync_all()).expect("synced");
        std::fs::hard_link(dir.join(name), dir.join(twin)).expect("link");
    }
    std::fs::set_permissions(dir.join("whole"), std::fs::Permissions::from_mode(0o4751)).expect("mode");
    std::fs::set_permissions(dir.join("a"), std::fs::Permissions::from_mode(0o640)).expect("mode");
    let id = id_of(&w, "db");
    w.run(&["unmount", "db"]).ok();
    flip(&staged(&w, &id), 4096 + 10);

    let url = format!("file://{}", w.root.join("stores/default").display());
    let export = |to: &Path| {
        let ended = w.run(&["export", "db", "--store", &url, "--to", to.to_str().expect("plain"), "--output", "json"]);
        assert_eq!(ended.code, 1, "{}{}", ended.out, ended.err);
        let report = ended.json();
        let mut damaged: Vec<(String, String)> = report["damaged"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|d| (d["path"].as_str().expect("a path").to_owned(), d["why"].as_str().expect("a reason").to_owned()))
            .collect();
        damaged.sort();
        let paths: Vec<&str> = damaged.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["/a", "/b"], "{report}");
        for (path, why) in &damaged {
            assert!(why.ends_with(&format!("the rest is in {}.orlop-damaged", &path[1..])), "{why}");
        }
    };
    let names = ["a.orlop-damaged", "b.orlop-damaged", "twin", "whole"];
    let to = w.path("out");
    export(&to);
    let mut there = files_below(&to);
    there.sort();
    assert_eq!(there, names.map(|name| to.join(name)));
    let of = |name: &str| to.join(name).metadata().expect(name);
    assert!(of(names[0]).ino() == of(names[1]).ino() && of("twin").ino() == of("whole").ino() && of("twin").ino() != of(names[0]).ino());
    let read = std::fs::read(to.join(names[0])).expect("read");
    assert!(read.len() == data.len() && read != data);
    assert!(read.iter().zip(&data).all(|(read, was)| read == was || *read == 0), "what was there, or a hole");
    assert_eq!(std::fs::read(to.join("twin")).expect("read"), b"hello");

    let tar = w.path("out.tar");
    export(&tar);
    let mut found = entries(&tar);
    found.retain(|entry| entry[0] != ".");
    found.sort_by_key(|entry| entry[0].as_str().expect("a name").to_owned());
    assert_eq!(found.iter().map(|entry| entry[0].as_str().expect("a name")).collect::<Vec<_>>(), names, "{found:?}");
    for (n, entry) in found.iter().enumerate() {
        let (name, is) = (names[n], of(names[n]));
        let said = [3usize, 4, 5, 6].map(|at| entry[at].as_i64().expect("a number"));
        assert_eq!(said, [i64::from(is.mode() & 0o7777), i64::from(is.uid()), i64::from(is.gid()), is.mtime()], "{name}");
        // Of two names one is a link to the other.
        let other = &found[n ^ 1];
        match entry[1].as_str() {
            Some("1") => assert!(entry[2] == other[0] && other[1] != "1", "{entry} {other}"),
            _ => assert_eq!(other[1], "1", "{entry} {other}"),
        }
    }
}

#[test]
fn export_says_that_a_lost_owner_record_may_hide_what_a_host_did_not_send() {
    let Some(server) = S3Server::start("bucket") else { return };
    if !can_mount("export_says_that_a_lost_owner_record_may_hide_what_a_host_did_not_send") {
        return;
    }
    let w = World::up();
    let how = s3_words(&server, server.addr());
    let how = how.each_ref().map(String::as_str);
    w.run(&[&["store", "add", "cloud", "s3://bucket/pre"], &how[..]].concat()).ok();
    w.run(&["volume", "create", "db", "-o", "store=cloud"]).ok();
    let dir = PathBuf::from(w.dir("mnt"));
    w.run(&["mount", "db", dir.to_str().expect("plain")]).ok();
    std::fs::write(dir.join("f"), "sent").expect("written");
    let id = id_of(&w, "db");
    w.run(&["unmount", "db"]).ok();
    let export = |to: &str| {
        let to = w.path(to);
        let words = ["export", "db", "--store", "s3://bucket/pre", "--to", to.to_str().expect("plain"), "--output", "json"];
        let ended = w.run(&[&words[..], &how[..]].concat());
        assert_eq!(std::fs::read_to_string(to.join("f")).ok().as_deref(), Some("sent"), "{}{}", ended.out, ended.err);
        ended
    };
    let says_so = |ended: &Ended, how: &str| {
        let report = ended.json();
        let lost = report["lost"].as_str().unwrap_or_default();
        assert!(ended.code == 1 && lost.contains("owner.json") && lost.contains(how), "{report}");
        assert!(report["notes"].to_string().contains("--state"), "{report}");
    };
    export("whole").ok();
    let owner = server.folder().join("pre/volumes").join(&id).join("owner.json");
    let record = std::fs::read(&owner).expect("a record");
    flip(&owner, record.len() as u64 / 2);
    says_so(&export("damaged"), "damaged");
    std::fs::remove_file(&owner).expect("removed");
    says_so(&export("missing"), "missing");
    std::fs::write(&owner, &record).expect("put back");
    let report = export("again").ok().json();
    assert!(report.get("lost").is_none() && !report["notes"].to_string().contains("--state"), "{report}");
}

#[test]
fn a_killed_export_leaves_nothing_short_under_its_name() {
    if !can_mount("a_killed_export_leaves_nothing_short_under_its_name") {
        return;
    }
    let w = World::up();
    w.run(&["volume", "create", "big"]).ok();
    let dir = PathBuf::from(w.dir("mnt"));
    w.run(&["mount", "big", dir.to_str().expect("plain")]).ok();
    let file = std::fs::File::create(dir.join("whole")).expect("made");
    for at in 0..128 {
        file.write_all_at(&vec![at as u8 + 1; 1 << 20], at << 20).expect("written");
    }
    file.sync_all().expect("synced");
    let url = format!("file://{}", w.root.join("stores/default").display());
    for name in ["out", "out.tar"] {
        let to = w.path(name);
        let words = ["export", "big", "--store", &url, "--to", to.to_str().expect("plain")];
        let mut export = w.command(&words).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().expect("runs");
        let begun =
            |p: &PathBuf| p.to_string_lossy().strip_prefix(to.to_str().expect("plain")).is_some_and(|rest| rest.contains("partial"));
        // A tar file grows only when all of the file was read.
        let is_begun = |p: &PathBuf| begun(p) && p.metadata().is_ok_and(|m| name == "out.tar" || m.len() > 1 << 20);
        wait("something is written", || files_below(&w.path("")).iter().any(is_begun));
        export.kill().expect("killed");
        export.wait().expect("gone");
        assert!(!to.join("whole").exists() && !to.is_file(), "what has its name is whole");
    }
    // What was left is told, and the next export is whole.
    let words = |to: &str| w.run(&["export", "big", "--store", &url, "--to", w.path(to).to_str().expect("plain")]);
    words("out").fails(4, "not empty");
    words("out.tar").fails(4, "out.tar.partial");
    words("again").ok();
    assert!(std::fs::read(w.path("again/whole")).expect("read out") == std::fs::read(dir.join("whole")).expect("read"));
    assert_eq!(files_below(&w.path("again")).len(), 1, "nothing partial is left");
}

/// Copies a folder's files, holes not minded.
fn copied(from: &Path, to: &Path) {
    for file in files_below(from) {
        let target = to.join(file.strip_prefix(from).expect("below"));
        std::fs::create_dir_all(target.parent().expect("a parent")).expect("folders");
        std::fs::copy(&file, target).expect("copied");
    }
}

#[test]
fn export_reads_up_to_the_damage_of_what_is_not_folded() {
    if !can_mount("export_reads_up_to_the_damage_of_what_is_not_folded") {
        return;
    }
    let w = World::up();
    let (dir, id) = filled(&w, "db");
    let export = |root: &Path, to: &Path, more: &[&str]| {
        let (url, state) = (format!("file://{}", root.join("stores/default").display()), root.join("state").join(&id));
        let words = ["export", &id, "--store", &url, "--state", state.to_str().expect("plain"), "--to", to.to_str().expect("plain")];
        w.run(&[&words[..], more].concat())
    };
    // At rest all of it is folded.
    w.run(&["unmount", "db"]).ok();
    let folded = w.path("folded");
    export(&w.root, &folded, &[]).ok();
    w.run(&["mount", "db", dir.to_str().expect("plain")]).ok();
    for n in 0..3 {
        std::fs::write(dir.join(format!("late-{n}")), "not folded").expect("written");
        std::fs::File::open(dir.join(format!("late-{n}"))).and_then(|f| f.sync_all()).expect("synced");
    }
    // What the host's disk holds if nothing else is left of it, and one byte of that is wrong.
    let left = w.path("left");
    for part in ["stores/default", &format!("state/{id}")] {
        copied(&w.root.join(part), &left.join(part));
    }
    let journal = |root: &Path| {
        let mut all = files_below(&root.join("state").join(&id).join("journal"));
        all.retain(|p| p.extension().is_some_and(|e| e == "journal"));
        all.into_iter().max_by_key(|p| p.metadata().expect("there").len()).expect("a journal")
    };
    let all = w.path("all");
    export(&left, &all, &[]).ok();
    assert!((0..3).all(|n| all.join(format!("late-{n}")).exists()), "undamaged it holds what is not folded");
    flip(&journal(&left), 64 + 20);
    let to = w.path("rescued");
    let ended = export(&left, &to, &["--output", "json"]);
    assert_eq!(ended.code, 1, "{}{}", ended.out, ended.err);
    let lost = ended.json()["lost"].as_str().expect("it says what is lost").to_owned();
    assert!(lost.contains(journal(&left).file_name().expect("a name").to_str().expect("plain")), "{lost}");
    same_tree(&folded, &to);
    assert!(!to.join("late-0").exists());
    let said = export(&left, &w.path("again"), &[]);
    assert!(said.code == 1 && said.out.contains("the newest changes"), "{}{}", said.out, said.err);

    // The volume itself is not opened over such a damage, and what refuses it names the way out.
    w.kill_everything();
    for point in w.mounts() {
        std::process::Command::new("umount").arg("-l").arg(point).status().expect("umount runs");
    }
    flip(&journal(&w.root), 64 + 20);
    w.run(&["up", "--no-docker-plugin"]).ok();
    let refused = w.run(&["mount", "db", dir.to_str().expect("plain")]);
    assert!(refused.code != 0 && refused.err.contains("orlop export"), "{}{}", refused.out, refused.err);
    let checked = w.run(&["check", "db"]);
    assert!(checked.code == 1 && checked.out.contains("orlop export"), "{}{}", checked.out, checked.err);
    flip(&journal(&w.root), 64 + 20);
}

#[test]
fn export_reads_out_what_a_damaged_table_of_names_leaves() {
    const FILES: usize = 1500;
    if !can_mount("export_reads_out_what_a_damaged_table_of_names_leaves") {
        return;
    }
    let w = World::up();
    w.run(&["volume", "create", "db"]).ok();
    let dir = PathBuf::from(w.dir("mnt"));
    w.run(&["mount", "db", dir.to_str().expect("plain")]).ok();
    let text = |n: usize| format!("this is what file {n} says, ").repeat(1 + n % 5);
    for n in 0..20 {
        std::fs::create_dir(dir.join(format!("folder-{n}"))).expect("made");
    }
    for n in 0..FILES {
        std::fs::write(dir.join(format!("folder-{}/file-{n}", n % 20)), text(n)).expect("written");
    }
    std::fs::create_dir(dir.join("lost+found")).expect("made");
    std::fs::write(dir.join("lost+found/mine"), "a folder like any other").expect("written");
    let id = id_of(&w, "db");
    w.run(&["unmount", "db"]).ok();
    let mut tables = files_below(&w.root.join("stores/default/volumes").join(&id).join("meta/compacted"));
    tables.retain(|p| p.extension().is_some_and(|e| e == "sst"));
    let len = |p: &PathBuf| p.metadata().expect("there").len();
    let table = tables.into_iter().max_by_key(len).expect("a table");
    // A part of which most is names: rows of inodes come before them, and of blocks behind.
    let frame = len(&table) * 5 / 8 / 65_552;
    flip(&table, 40 + frame * 65_552 + 100);

    let url = format!("file://{}", w.root.join("stores/default").display());
    let to = w.path("out");
    let ended = w.run(&["export", "db", "--store", &url, "--to", to.to_str().expect("plain"), "--output", "json"]);
    assert_eq!(ended.code, 1, "{}{}", ended.out, ended.err);
    let report = ended.json();
    let lost = report["lost"].as_str().expect("it says what is lost");
    assert!(lost.contains(table.file_name().expect("a name").to_str().expect("plain")), "{lost}");
    assert!(report["notes"].to_string().contains("no name leads"), "{report}");
    // The volume's own folder of that name is not what strays come out in, though what was in it may be one of them.
    let second = to.join("lost+found-1");
    let strays = if second.exists() { second } else { to.join("lost+found") };
    let (mut named, mut found) = (0, 0);
    for file in files_below(&to) {
        let (name, said) = (file.file_name().expect("a name").to_string_lossy(), std::fs::read(&file).expect("read"));
        if name.ends_with(".orlop-damaged") {
            continue;
        }
        let n: Option<usize> = String::from_utf8_lossy(&said).split(' ').nth(4).and_then(|n| n.parse().ok());
        match n {
            None => assert_eq!(said, b"a folder like any other", "{}", file.display()),
            Some(n) => {
                assert_eq!(said, text(n).as_bytes(), "{}", file.display());
                let is_stray = file.starts_with(&strays);
                assert!(is_stray || file == to.join(format!("folder-{}/file-{n}", n % 20)), "{}", file.display());
                if is_stray { found += 1 } else { named += 1 }
            }
        }
    }
    assert!(found > 0 && named + found > FILES / 4, "{named} and {found}: {report}");
    let said = w.run(&["export", "db", "--store", &url, "--to", w.path("again.tar").to_str().expect("plain")]);
    assert!(said.code == 1 && said.out.contains("names and attributes"), "{}{}", said.out, said.err);
}

#[test]
fn export_reads_a_sealed_volume_from_s3_while_its_host_writes_and_after_it_is_lost() {
    let Some(server) = S3Server::start("bucket") else { return };
    if !can_mount("export_reads_a_sealed_volume_from_s3") {
        return;
    }
    let w = World::up();
    let how = s3_words(&server, server.addr());
    let how = how.each_ref().map(String::as_str);
    w.run(&[&["store", "add", "cloud", "s3://bucket/pre"], &how[..]].concat()).ok();
    w.run(&["volume", "create", "db", "-o", "store=cloud", "-o", "encrypt=on", "-o", "compression=zstd"]).ok();
    let dir = PathBuf::from(w.dir("mnt"));
    w.run(&["mount", "db", dir.to_str().expect("plain")]).ok();
    std::fs::write(dir.join("big"), (0..9_000_000u32).map(|i| (i / 7) as u8).collect::<Vec<_>>()).expect("written");
    std::fs::write(dir.join("note"), "synced").expect("written");
    for f in ["big", "note"] {
        std::fs::File::open(dir.join(f)).and_then(|f| f.sync_all()).expect("synced");
    }
    let key = w.path("master.key");
    w.run(&["key", "export", "--output-file", key.to_str().expect("plain")]).ok();
    let id = id_of(&w, "db");
    let export = |volume: &str, to: &Path| {
        let words =
            ["export", volume, "--store", "s3://bucket/pre", "--key", key.to_str().expect("plain"), "--to", to.to_str().expect("plain")];
        w.run(&[&words[..], &how[..]].concat())
    };
    let sealed = ["export", &id, "--store", "s3://bucket/pre", "--to", "nowhere"];
    w.run(&[&sealed[..], &how[..]].concat()).fails(7, "encrypted");
    let named = ["export", "db", "--store", "s3://bucket/pre", "--to", "nowhere"];
    let unknown = w.run(&[&named[..], &how[..]].concat());
    assert!(unknown.code == 3 && unknown.err.contains("--key"), "its name is sealed too: {}", unknown.err);
    let noted = std::fs::read(server.folder().join("pre/volumes").join(&id).join("name.json")).expect("noted");
    assert!(!noted.windows(4).any(|w| w == b"name"), "{}", String::from_utf8_lossy(&noted));
    let whole = |to: &Path| {
        assert!(
            std::fs::read(to.join("big")).expect("big")
                == std::fs::read(dir.join("big")).unwrap_or_else(|_| (0..9_000_000u32).map(|i| (i / 7) as u8).collect())
        );
        assert_eq!(std::fs::read_to_string(to.join("note")).expect("note"), "synced");
    };
    export(&id, &w.path("alive")).ok();
    whole(&w.path("alive"));
    // The writer was neither kept out nor fenced.
    std::fs::write(dir.join("after"), "mine").expect("written");
    std::fs::File::open(dir.join("after")).and_then(|f| f.sync_all()).expect("synced");
    assert_eq!(w.json(&["check", "db"])["clean"], true);
    let space = w.json(&["volume", "du", "db"]);
    assert!(space["store_bytes"].as_u64().expect("bytes") > 0, "{space}");
    w.run(&["gc", "db"]).ok();
    w.run(&["gc", "db"]).ok();
    assert_eq!(w.json(&["check", "db"])["clean"], true);
    // The host is gone, with all that was on it but the key.
    w.run(&["down", "--force"]).ok();
    std::fs::remove_dir_all(w.root.join("state")).expect("removed");
    export("db", &w.path("lost")).ok();
    whole(&w.path("lost"));
    assert_eq!(std::fs::read_to_string(w.path("lost").join("after")).expect("after"), "mine");
}

#[test]
fn export_with_the_hosts_folder_reads_what_the_store_does_not_have_yet() {
    let Some(server) = S3Server::start("bucket") else { return };
    if !can_mount("export_with_the_hosts_folder_reads_what_the_store_does_not_have_yet") {
        return;
    }
    let w = World::up();
    let proxy = FaultProxy::start(server.addr());
    let how = s3_words(&server, proxy.addr());
    let how = how.each_ref().map(String::as_str);
    w.run(&[&["store", "add", "cloud", "s3://bucket/pre"], &how[..]].concat()).ok();
    for durability in ["remote", "local"] {
        let made = w.run(&["volume", "create", durability, "-o", "store=cloud", "-o", &format!("durability={durability}")]).ok();
        assert_eq!(made.err.contains("is lost if this host is"), durability == "local", "{}", made.err);
        let dir = PathBuf::from(w.dir(&format!("mnt-{durability}")));
        w.run(&["mount", durability, dir.to_str().expect("plain")]).ok();
        let synced = |name: &str, data: &[u8]| {
            std::fs::write(dir.join(name), data).expect("written");
            std::fs::File::open(dir.join(name)).and_then(|f| f.sync_all()).expect("synced");
        };
        // So little that it travels in the log, while the host has it in a segment's file as well.
        synced("sent", &[7; 20_000]);
        if durability == "local" {
            // Acknowledged, and the store will not get it any more.
            proxy.set(Faults::only(Rule::from(Fault::Status(503)).on("PUT").at("/log/")));
        }
        synced("fresh", b"on this host alone");
        let shown = &w.json(&["volume", "inspect", durability])[0];
        let unsent = shown["usage"]["unsent_bytes"].as_u64().unwrap_or_else(|| panic!("{shown}"));
        assert_eq!(
            (unsent > 0, shown["loss_window_seconds"].as_u64()),
            (durability == "local", (durability == "local").then_some(10)),
            "{shown}"
        );
        let id = id_of(&w, durability);
        let state = w.root.join("state").join(&id);
        let to = w.path(&format!("out-{durability}"));
        let (state, to_words) = (state.to_str().expect("plain"), to.to_str().expect("plain"));
        w.run(&[&["export", &id, "--store", "s3://bucket/pre", "--state", state, "--to", to_words], &how[..]].concat()).ok();
        assert_eq!(std::fs::read(to.join("sent")).expect("there"), [7; 20_000]);
        assert_eq!(std::fs::read_to_string(to.join("fresh")).expect("there"), "on this host alone");
    }
    // At rest it is told as well what the store does not have, until it has it.
    let unsent = || w.json(&["volume", "inspect", "local"])[0]["usage"]["unsent_bytes"].as_u64().expect("known");
    let said = w.run(&["unmount", "local"]).ok();
    assert!(said.err.contains("that was acknowledged") && unsent() > 0, "{}", said.err);
    assert!(w.json(&["status"])["usage"]["unsent_bytes"].as_u64() >= Some(unsent()));
    // Where an fsync waits for the store it has all of it.
    proxy.heal();
    let said = w.run(&["unmount", "remote"]).ok();
    let shown = &w.json(&["volume", "inspect", "remote"])[0]["usage"];
    assert!(!said.err.contains("acknowledged") && shown["unsent_bytes"] == 0 && shown["unsynced_bytes"] == 0, "{shown} {}", said.err);
    let again = w.dir("again");
    w.run(&["mount", "local", &again]).ok();
    wait("the store has it", || unsent() == 0);
    let said = w.run(&["unmount", "local"]).ok();
    assert!(!said.err.contains("acknowledged") && unsent() == 0, "{}", said.err);
}

#[test]
fn a_store_that_is_away_is_no_damage() {
    if !can_mount("a_store_that_is_away_is_no_damage") {
        return;
    }
    let Some(server) = S3Server::start("bucket") else { return };
    let proxy = FaultProxy::start(server.addr());
    let w = World::up();
    let how = s3_words(&server, proxy.addr());
    let how = how.each_ref().map(String::as_str);
    w.run(&[&["store", "add", "cloud", "s3://bucket/pre", "--set", "timeout=2s", "--set", "connect_timeout=1s"], &how[..]].concat()).ok();
    w.run(&["volume", "create", "db", "-o", "store=cloud"]).ok();
    let dir = PathBuf::from(w.dir("mnt"));
    w.run(&["mount", "db", dir.to_str().expect("plain")]).ok();
    std::fs::write(dir.join("f"), vec![7u8; 1 << 20]).expect("written");
    std::fs::File::open(dir.join("f")).and_then(|f| f.sync_all()).expect("synced");
    proxy.set(Faults::down());
    for words in [["check", "db"], ["gc", "db"]] {
        let ended = w.run(&words);
        assert!(ended.code == 9 && ended.err.contains("hint: ") && !ended.out.contains("damaged"), "{words:?}: {}{}", ended.out, ended.err);
    }
    w.run(&["volume", "du", "db"]).fails(9, "store");
    proxy.heal();
    assert_eq!(w.json(&["check", "db"])["clean"], true);
}
