//! SEEK_DATA and SEEK_HOLE, which the kernel asks without telling of pages that were changed through a mapping. A
//! copy tool that believes in a hole copies nothing there, so a wrong answer is lost data.

use crate::harness::{World, need_fuse};
use crate::sys::{self, errno};
use orlop_model::CacheMode;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

#[test]
fn data_and_holes_are_found() {
    need_fuse!();
    let world = World::new();
    let volume = world.mounted("v", CacheMode::Strict);
    let f = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(volume.point.join("f")).expect("opened");
    f.write_all_at(&[1; 4096], 1 << 20).expect("written");
    f.set_len(4 << 20).expect("longer");
    assert_eq!(sys::seek(&f, 0, libc::SEEK_DATA).expect("data"), 1 << 20);
    assert_eq!(sys::seek(&f, 0, libc::SEEK_HOLE).expect("hole"), 0);
    assert_eq!(sys::seek(&f, 1 << 20, libc::SEEK_HOLE).expect("hole"), (1 << 20) + 4096);
    assert_eq!(errno(sys::seek(&f, 2 << 20, libc::SEEK_DATA)), libc::ENXIO);
    assert_eq!(errno(sys::seek(&f, 4 << 20, libc::SEEK_HOLE)), libc::ENXIO);
    assert_eq!(sys::seek(&f, 0, libc::SEEK_END).expect("end"), 4 << 20);
    drop(f);
    volume.end();
}

#[test]
fn what_was_stored_through_a_mapping_is_no_hole() {
    need_fuse!();
    let world = World::new();
    // Served by another process, see files::locks_and_shared_mappings.
    let keeper = world.keeper();
    let plan = world.volume("v");
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    let point = Path::new(&plan.mountpoint);
    let f = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(point.join("f")).expect("opened");
    f.set_len(1 << 20).expect("all hole");
    let mut map = sys::Map::new(&f, 1 << 20).expect("mapped");
    map.write(512 << 10, b"only the kernel knows");
    // No msync, no fsync, and the mapping stays.
    assert_eq!(sys::seek(&f, 0, libc::SEEK_DATA).expect("data"), 512 << 10);
    assert_eq!(sys::seek(&f, 512 << 10, libc::SEEK_HOLE).expect("hole"), (512 << 10) + 4096);
    map.write(100 << 10, b"again");
    assert_eq!(sys::seek(&f, 0, libc::SEEK_DATA).expect("data"), 100 << 10);
    let copy = point.join("copy");
    let done = std::process::Command::new("cp").arg("--sparse=always").arg(point.join("f")).arg(&copy).status().expect("cp runs");
    assert!(done.success());
    let bytes = std::fs::read(&copy).expect("the copy");
    assert_eq!(&bytes[512 << 10..(512 << 10) + 21], b"only the kernel knows");
    assert_eq!(&bytes[100 << 10..(100 << 10) + 5], b"again");
    drop(map);
    drop(f);
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}
