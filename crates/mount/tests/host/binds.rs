//! A volume in other folders: `orlop mount VOLUME DIR`.

use crate::harness::{World, kill, mount_points, need_fuse, pause, runtime};
use orlop_model::ErrorKind;
use orlop_mount::Bound;
use std::path::Path;

#[test]
fn a_bound_volume_is_the_volume_and_read_only_means_it() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let (rw, ro) = (world.folder("rw"), world.folder("ro"));
    std::fs::write(ro.join("under"), "covered, not lost").expect("written");
    let block = |f: std::pin::Pin<Box<dyn Future<Output = orlop_model::Result<()>> + '_>>| world.runtime.block_on(f);
    let bind = |dir: &Path, read_only| block(Box::pin(keeper.bind(plan.volume, dir.to_str().expect("text"), read_only)));
    let unbind = |dir: &Path| block(Box::pin(keeper.unbind(dir.to_str().expect("text"))));

    assert_eq!(bind(&rw, false).expect_err("not attached").kind, ErrorKind::NotFound);
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    bind(&rw, false).expect("bound");
    bind(&rw, false).expect("bound twice");
    bind(&ro, true).expect("bound read-only");
    std::fs::write(rw.join("f"), "seen").expect("written");
    assert_eq!(std::fs::read_to_string(ro.join("f")).expect("read"), "seen");
    assert_eq!(crate::sys::errno(std::fs::write(ro.join("g"), "x")), libc::EROFS);
    assert_eq!(bind(&rw, true).expect_err("writable already").kind, ErrorKind::Busy);

    let list = world.runtime.block_on(keeper.list()).expect("listed");
    let bound = |dir: &Path, read_only| Bound { dir: dir.to_str().expect("text").to_owned(), read_only };
    assert_eq!(list[0].binds, [bound(&rw, false), bound(&ro, true)]);
    assert!(!list[0].in_use_elsewhere, "our own binds are no use by others");
    let error = world.runtime.block_on(keeper.detach(plan.volume, false)).expect_err("bound");
    assert!(error.kind == ErrorKind::Busy && error.message.contains(rw.to_str().expect("text")), "{error}");

    let held = std::fs::File::open(rw.join("f")).expect("opened");
    let error = unbind(&rw).expect_err("in use");
    assert!(error.kind == ErrorKind::Busy && error.message.contains(&std::process::id().to_string()), "{error}");
    drop(held);
    unbind(&rw).expect("unbound");
    unbind(&rw).expect("unbound twice");
    unbind(&ro).expect("unbound");
    assert_eq!(mount_points(&rw).len() + mount_points(&ro).len(), 0);
    assert_eq!(std::fs::read_to_string(ro.join("under")).expect("read"), "covered, not lost");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn folders_that_cannot_be_are_refused_and_nothing_changes() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let (plan, other) = (world.volume("data"), world.volume("other"));
    for p in [&plan, &other] {
        world.runtime.block_on(keeper.attach(p)).expect("attached");
    }
    std::fs::create_dir(Path::new(&plan.mountpoint).join("inner")).expect("folder");
    let file = world.folder("x").join("file");
    std::fs::write(&file, "").expect("written");
    let taken = world.folder("taken");
    world.runtime.block_on(keeper.bind(other.volume, taken.to_str().expect("text"), false)).expect("bound");
    let before = mount_points(&world.folder("."));
    let text = |p: &Path| p.to_str().expect("text").to_owned();
    for (dir, kind) in [
        (text(&world.folder("x").join("missing")), ErrorKind::NotFound),
        (text(&file), ErrorKind::InvalidArgument),
        (format!("{}/inner", plan.mountpoint), ErrorKind::InvalidArgument),
        (plan.mountpoint.clone(), ErrorKind::InvalidArgument),
        (format!("{}/log", world.root().display()), ErrorKind::InvalidArgument),
        ("relative".to_owned(), ErrorKind::InvalidArgument),
        (text(&taken), ErrorKind::Busy),
    ] {
        let error = world.runtime.block_on(keeper.bind(plan.volume, &dir, false)).expect_err(&dir);
        assert_eq!(error.kind, kind, "{dir}: {error}");
    }
    assert_eq!(mount_points(&world.folder(".")), before);
    // Through a link, the folder itself is meant.
    let (real, link) = (world.folder("real"), world.folder("x").join("link"));
    std::os::unix::fs::symlink(&real, &link).expect("link");
    world.runtime.block_on(keeper.bind(plan.volume, &text(&link), false)).expect("bound");
    assert_eq!(mount_points(&real), std::slice::from_ref(&real));
    world.runtime.block_on(keeper.unbind(&text(&link))).expect("unbound by the link");
    assert!(mount_points(&real).is_empty());
    world.runtime.block_on(keeper.unbind(&text(&taken))).expect("unbound");
    for p in [&plan, &other] {
        world.runtime.block_on(keeper.detach(p.volume, false)).expect("detached");
    }
}

/// Whoever looks at a folder in a volume asks its worker, and the next worker must not wait for him.
#[test]
fn a_worker_that_dies_while_a_folder_in_its_volume_is_looked_at_is_replaced() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let dir = world.folder("bound").to_str().expect("text").to_owned();
    let worker = world.runtime.block_on(keeper.attach(&plan)).expect("attached").worker_pid;
    world.runtime.block_on(keeper.bind(plan.volume, &dir, false)).expect("bound");
    pause(worker, true);
    world.runtime.block_on(keeper.bind(plan.volume, &dir, false)).expect("bound already, which needs no worker");
    // A name that was never asked for is in no cache.
    let (asking, inner) = (keeper.clone(), format!("{dir}/nobody"));
    let asked = std::thread::spawn(move || runtime().block_on(asking.bind(plan.volume, &inner, false)));
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(!asked.is_finished(), "nobody can answer it");
    kill(worker);
    world.await_successor(&keeper, worker);
    assert_eq!(asked.join().expect("no panic").expect_err("it is not there").kind, ErrorKind::NotFound);
    world.runtime.block_on(keeper.unbind(&dir)).expect("unbound");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn a_bind_that_no_record_has_is_taken_into_it() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let dir = world.folder("bound");
    let text = dir.to_str().expect("text");
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    // As a keeper leaves it that dies in the midst of a bind.
    let bind = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(Path::new(&plan.mountpoint)), &dir, None::<&str>, bind, None::<&str>).expect("bound by hand");
    let other = world.runtime.block_on(keeper.bind(plan.volume, text, true)).expect_err("it is writable");
    assert!(other.kind == ErrorKind::Busy && other.remedy.is_some(), "{other}");
    world.runtime.block_on(keeper.bind(plan.volume, text, false)).expect("it is bound");
    assert_eq!(mount_points(&dir).len(), 1, "once");
    let listed = world.runtime.block_on(keeper.list()).expect("listed");
    assert_eq!((listed[0].binds.len(), listed[0].in_use_elsewhere), (1, false));
    world.runtime.block_on(keeper.unbind(text)).expect("unbound");
    assert!(mount_points(&dir).is_empty());
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn what_is_recorded_and_not_yet_done_is_dropped_or_done_by_the_next_keeper() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let (gone, open) = (world.folder("gone"), world.folder("open"));
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    for dir in [&gone, &open] {
        world.runtime.block_on(keeper.bind(plan.volume, dir.to_str().expect("text"), true)).expect("bound");
    }
    // Recorded and not mounted; mounted and not yet read-only.
    nix::mount::umount(&gone).expect("unmounted by hand");
    let writable = nix::mount::MsFlags::MS_BIND | nix::mount::MsFlags::MS_REMOUNT;
    nix::mount::mount(None::<&str>, &open, None::<&str>, writable, None::<&str>).expect("writable");
    std::fs::write(open.join("f"), "x").expect("written");
    kill(world.keeper_pid());

    let keeper = world.keeper();
    let listed = world.runtime.block_on(keeper.list()).expect("listed");
    let left: Vec<&str> = listed[0].binds.iter().map(|b| b.dir.as_str()).collect();
    assert_eq!(left, [open.to_str().expect("text")]);
    assert_eq!(crate::sys::errno(std::fs::write(open.join("f"), "y")), libc::EROFS);
    world.runtime.block_on(keeper.unbind(open.to_str().expect("text"))).expect("unbound");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}
