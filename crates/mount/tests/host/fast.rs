//! What cache=fast owes: what the kernel keeps to itself for a while is never missed, by nobody.

use crate::harness::{World, need_fuse};
use crate::sys::{self, errno};
use orlop_model::CacheMode;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::time::{Duration, SystemTime};

/// Memory as direct access wants it.
#[repr(align(4096))]
struct Page([u8; 4096]);

fn file(path: &std::path::Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).expect("opened")
}

#[test]
fn opening_with_truncation_empties_the_file_for_everybody() {
    need_fuse!();
    let world = World::new();
    let volume = world.mounted("v", CacheMode::Fast);
    let path = volume.point.join("f");
    for n in [1usize, 5000, 300_000] {
        fs::write(&path, vec![b'x'; n]).expect("written");
        let mut old = File::open(&path).expect("opened");
        let f = OpenOptions::new().write(true).truncate(true).open(&path).expect("truncated");
        assert_eq!(old.metadata().expect("meta").size(), 0);
        let mut all = Vec::new();
        old.read_to_end(&mut all).expect("read");
        assert!(all.is_empty());
        f.write_all_at(b"new", 2).expect("written");
        drop((f, old));
        assert_eq!(fs::read(&path).expect("read"), b"\0\0new");
    }
    volume.end();
}

#[test]
fn a_growing_file_is_copied_whole() {
    need_fuse!();
    let world = World::new();
    let volume = world.mounted("v", CacheMode::Fast);
    let path = volume.point.join("f");
    let f = file(&path);
    f.write_all_at(&[1; 4096], 0).expect("written");
    f.sync_all().expect("synced");
    // What is there now is known to the kernel alone.
    f.write_all_at(&[2; 100_000], 1 << 20).expect("written");
    assert_eq!(sys::seek(&f, 4096, libc::SEEK_DATA).expect("data"), 4096, "nothing is called a hole that may not be one");
    let copied = std::process::Command::new("cp").arg(&path).arg(volume.point.join("copy")).output().expect("cp runs");
    assert!(copied.status.success());
    assert!(fs::read(&path).expect("read") == fs::read(volume.point.join("copy")).expect("read"));
    drop(f);
    volume.end();
}

/// The kernel's clock ticks more slowly than a change takes: the second of two in one tick is no news to it, and whatever
/// time the volume noted for itself would be seen after the next mount.
#[test]
fn times_are_the_same_after_the_next_mount() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let mut plan = world.volume("v");
    plan.options.cache = Some(CacheMode::Fast);
    let point = std::path::Path::new(&plan.mountpoint);
    let seen = || {
        let time = |n: usize| fs::metadata(point.join(format!("f{n}"))).map(|m| (m.mtime(), m.mtime_nsec())).expect("meta");
        (0..40).map(time).collect::<Vec<_>>()
    };
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    for n in 0..40u64 {
        let f = file(&point.join(format!("f{n}")));
        if n % 2 == 0 {
            f.set_len(1 << 20).expect("grown");
        }
        if n % 3 == 0 {
            nix::fcntl::fallocate(&f, nix::fcntl::FallocateFlags::empty(), 0, 4096).expect("reserved");
        }
        f.write_all_at(b"far", 40_000).expect("written");
        if n % 10 == 1 {
            // Longer than a tick. The size that it has: no news to the kernel, which tells no time.
            std::thread::sleep(Duration::from_millis(12));
            f.set_len(40_003).expect("as long as it is");
        }
        f.sync_all().expect("synced");
    }
    let before = seen();
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
    world.runtime.block_on(keeper.attach(&plan)).expect("attached again");
    assert_eq!(seen(), before);
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn times_that_were_set_stay_although_data_was_written_before() {
    need_fuse!();
    let world = World::new();
    let volume = world.mounted("v", CacheMode::Fast);
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    for name in ["closed", "open"] {
        let path = volume.point.join(name);
        let f = file(&path);
        f.write_all_at(b"contents", 0).expect("written");
        f.set_modified(then).expect("set");
        if name == "closed" {
            drop(f);
        } else {
            f.sync_all().expect("synced");
        }
        assert_eq!(fs::metadata(&path).expect("meta").modified().expect("time"), then);
        let kept = volume.times(name);
        assert_eq!(kept, then, "{name}: what the volume keeps");
    }
    volume.end();
}

#[test]
fn what_is_not_there_is_there_once_it_is_made() {
    need_fuse!();
    let world = World::new();
    let volume = world.mounted("v", CacheMode::Fast);
    let p = &volume.point;
    for name in ["a", "b", "c", "d", "e"] {
        // Twice: the second answer is the kernel's own.
        assert_eq!(errno(fs::metadata(p.join(name))), libc::ENOENT);
        assert_eq!(errno(fs::metadata(p.join(name))), libc::ENOENT);
    }
    fs::write(p.join("a"), "1").expect("written");
    fs::create_dir(p.join("b")).expect("folder");
    fs::hard_link(p.join("a"), p.join("c")).expect("linked");
    std::os::unix::fs::symlink("a", p.join("d")).expect("link");
    fs::rename(p.join("a"), p.join("e")).expect("renamed");
    for (name, there) in [("a", false), ("b", true), ("c", true), ("e", true)] {
        assert_eq!(p.join(name).exists(), there, "{name}");
    }
    assert!(fs::symlink_metadata(p.join("d")).is_ok());
    assert_eq!(fs::metadata(p.join("c")).expect("meta").nlink(), 2);
    fs::remove_file(p.join("c")).expect("removed");
    assert_eq!(fs::metadata(p.join("e")).expect("meta").nlink(), 1);
    let mut names: Vec<_> = fs::read_dir(p).expect("lists").map(|e| e.expect("entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["b", "d", "e"]);
    volume.end();
}

#[test]
fn a_folder_that_is_kept_by_the_kernel_shows_every_change() {
    need_fuse!();
    let world = World::new();
    let volume = world.mounted("v", CacheMode::Fast);
    let dir = volume.point.join("d");
    fs::create_dir(&dir).expect("folder");
    let list = || {
        let mut names: Vec<_> =
            fs::read_dir(&dir).expect("lists").map(|e| e.expect("entry").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    };
    let mut expected = Vec::new();
    for n in 0..300 {
        fs::write(dir.join(format!("f{n:03}")), "").expect("written");
        expected.push(format!("f{n:03}"));
        if n % 3 == 0 {
            fs::remove_file(dir.join(format!("f{:03}", n / 2))).ok();
            expected.retain(|e| *e != format!("f{:03}", n / 2));
        }
        assert_eq!(list(), expected);
    }
    let removed = std::process::Command::new("rm").arg("-r").arg(&dir).output().expect("rm runs");
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    volume.end();
}

#[test]
fn direct_and_cached_access_see_one_file() {
    need_fuse!();
    let world = World::new();
    let volume = world.mounted("v", CacheMode::Fast);
    let path = volume.point.join("f");
    let mut cached = file(&path);
    cached.write_all(&[1; 8192]).expect("written");
    let direct = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path).expect("opened");
    let mut page = Box::new(Page([0; 4096]));
    let block = &mut page.0;
    direct.read_exact_at(block, 0).expect("read");
    assert!(block.iter().all(|b| *b == 1), "what was only cached is read directly");
    block.fill(2);
    direct.write_all_at(block, 4096).expect("written");
    let mut all = Vec::new();
    cached.seek(SeekFrom::Start(0)).expect("seeks");
    cached.read_to_end(&mut all).expect("read");
    assert!(all[..4096].iter().all(|b| *b == 1) && all[4096..].iter().all(|b| *b == 2));
    drop((cached, direct));
    volume.end();
}
