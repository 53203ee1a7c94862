//! Volumes on folders: mount, unmount, ls, cat, read-only, and the refusal to go down under them.

use crate::world::{World, can_mount};
use serde_json::json;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

#[test]
fn a_volume_is_mounted_read_listed_and_unmounted() {
    if !can_mount("mount") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    let (one, two) = (world.dir("one"), world.dir("two"));
    world.run(&["mount", "db", &one]).ok();
    world.run(&["mount", "db", &one]).ok();
    world.run(&["mount", "--read-only", "db", &two]).ok();
    std::fs::create_dir(world.path("one/sub")).expect("folder");
    std::fs::write(world.path("one/sub/x"), "hello").expect("writes");
    std::fs::set_permissions(world.path("one/sub/x"), std::fs::Permissions::from_mode(0o4755)).expect("mode");
    symlink("x", world.path("one/sub/link")).expect("link");
    symlink("/etc/passwd", world.path("one/escape")).expect("link");
    assert_eq!(std::fs::read_to_string(world.path("two/sub/x")).expect("shared"), "hello");
    let refused = std::fs::write(world.path("two/y"), "").expect_err("read-only");
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);

    let long = world.run(&["ls", "db:/sub"]).ok().out;
    assert!(long.contains("-rwsr-xr-x") && long.contains("link -> x"), "{long}");
    let entries = world.json(&["ls", "db:/sub"]);
    assert_eq!((&entries[0]["name"], &entries[0]["target"]), (&json!("link"), &json!("x")));
    assert_eq!((&entries[1]["size"], &entries[1]["mode"], &entries[1]["kind"]), (&json!(5), &json!(0o4755), &json!("file")));
    assert_eq!(world.run(&["cat", "db:/sub/link", "db:/sub/x"]).ok().out, "hellohello");
    // A link out of the volume leads nowhere: its target is looked for inside.
    world.run(&["cat", "db:/escape"]).fails(3, "escape");

    // A name need not be text.
    let name = |bytes| OsStr::from_bytes(bytes).to_owned();
    std::fs::create_dir(world.path("one").join(name(b"d\xff"))).expect("folder");
    std::fs::write(world.path("one").join(name(b"d\xff/f\xfe+")), "bytes").expect("writes");
    let cat = world.command(&["cat"]).arg(name(b"db:/d\xff/f\xfe+")).output().expect("runs");
    assert_eq!((cat.status.code(), &cat.stdout[..]), (Some(0), &b"bytes"[..]), "{}", String::from_utf8_lossy(&cat.stderr));
    let ls = world.command(&["ls"]).arg(name(b"db:/d\xff")).output().expect("runs");
    assert!(ls.status.success() && String::from_utf8_lossy(&ls.stdout).contains("f\u{fffd}+"), "{ls:?}");

    let users = world.run(&["volume", "list"]).ok().out;
    assert!(users.contains(&one) && users.contains(&two), "{users}");
    world.run(&["unmount", &two]).ok();
    world.run(&["unmount", "db"]).ok();
    assert_eq!(world.mounts(), Vec::<std::path::PathBuf>::new());
    assert_eq!(world.run(&["cat", "db:/sub/x"]).ok().out, "hello", "also while nobody has it mounted");
    assert_eq!(world.mounts(), Vec::<std::path::PathBuf>::new(), "reading mounts only for as long as it lasts");
}

#[test]
fn a_large_file_is_streamed_whole() {
    if !can_mount("large file") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    let bytes: Vec<u8> = (0..9_000_001u32).flat_map(|i| [(i % 251) as u8]).collect();
    std::fs::write(world.path("m/big"), &bytes).expect("writes");
    let output = world.command(&["cat", "db:/big"]).output().expect("runs");
    assert!(output.status.success() && output.stdout == bytes, "{} of {} bytes", output.stdout.len(), bytes.len());
}

#[test]
fn going_down_is_refused_under_mounts_unless_forced_or_kept() {
    if !can_mount("down under mounts") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    let refused = world.run(&["down"]).fails(5, &dir);
    assert!(refused.err.contains("db"), "{}", refused.err);
    std::fs::write(world.path("m/x"), "one").expect("still mounted after the refusal");
    let kept = world.run(&["down", "--keep-mounts"]).ok();
    assert!(kept.out.contains("still mounted: db"), "{}", kept.out);
    std::fs::write(world.path("m/x"), "two").expect("still mounted without a daemon");
    world.run(&["up", "--no-docker-plugin"]).ok();
    assert_eq!(world.run(&["cat", "db:/x"]).ok().out, "two");
    world.run(&["down", "--force"]).ok();
    assert_eq!((world.mounts(), world.processes()), (Vec::new(), Vec::new()));
    world.run(&["up", "--no-docker-plugin"]).ok();
    assert_eq!(world.run(&["cat", "db:/x"]).ok().out, "two", "forced down loses nothing");
}

#[test]
fn the_quota_is_what_statfs_shows_and_can_be_changed_under_a_mount() {
    if !can_mount("quota") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db", "-o", "size=8M"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    let total = || {
        let s = nix::sys::statvfs::statvfs(world.path("m").as_path()).expect("statvfs");
        s.blocks() * s.fragment_size()
    };
    assert_eq!(total(), 8 << 20);
    let full = std::fs::write(world.path("m/x"), vec![0u8; 9 << 20]).expect_err("more than the quota");
    assert!(matches!(full.raw_os_error(), Some(nix::libc::EDQUOT | nix::libc::ENOSPC)), "{full}");
    world.run(&["volume", "set", "db", "-o", "size=16M"]).ok();
    assert_eq!(total(), 16 << 20);
    std::fs::write(world.path("m/x"), vec![0u8; 9 << 20]).expect("fits now");
}
