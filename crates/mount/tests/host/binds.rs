//! A volume in other folders: `orlop mount VOLUME DIR`.

use crate::harness::{World, mount_points, need_fuse};
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
