//! Attaching and detaching through the keeper.

use crate::harness::{World, alive, mount_points, need_fuse};
use orlop_model::{ByteSize, ErrorKind};
use orlop_mount::WorkerState;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

#[test]
fn what_is_written_is_there_after_detach_and_attach() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let mut plan = world.volume("data");
    plan.options.uid = Some(999);
    plan.options.gid = Some(998);
    plan.options.mode = Some(0o2770);
    let point = Path::new(&plan.mountpoint);

    let first = world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    assert_eq!(first.mountpoint, plan.mountpoint);
    let again = world.runtime.block_on(keeper.attach(&plan)).expect("attached twice");
    assert_eq!(first, again, "a second attach changes nothing");
    let root = std::fs::metadata(point).expect("the root folder");
    assert_eq!((root.uid(), root.gid(), root.mode() & 0o7777), (999, 998, 0o2770));
    std::fs::create_dir(point.join("d")).expect("a folder");
    std::fs::write(point.join("d/f"), "hello").expect("a file");

    let list = world.runtime.block_on(keeper.list()).expect("listed");
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].worker_pid, &list[0].worker, list[0].in_use_elsewhere), (first.worker_pid, &WorkerState::Serving, false));
    assert_eq!(list[0].plan, plan);
    let usage = world.runtime.block_on(keeper.usage(plan.volume)).expect("usage");
    assert_eq!((usage.used_bytes, usage.inodes), (4096, 3));
    world.runtime.block_on(keeper.sync(plan.volume)).expect("synced");

    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached twice");
    assert!(!alive(first.worker_pid), "the worker has ended before detach returns");
    assert!(mount_points(&world.root()).is_empty());
    assert!(!point.exists(), "the mountpoint is taken away");
    assert!(world.runtime.block_on(keeper.list()).expect("listed").is_empty());

    world.runtime.block_on(keeper.attach(&plan)).expect("attached again");
    assert_eq!(std::fs::read_to_string(point.join("d/f")).expect("the file"), "hello");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn a_volume_that_cannot_be_opened_is_not_mounted() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.plan("nothing");
    orlop_store::open(&plan.store.url).expect("a store without a volume");
    let error = world.runtime.block_on(keeper.attach(&plan)).expect_err("never formatted");
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    assert!(error.message.contains("nothing") && error.remedy.is_some(), "{error}");
    assert!(mount_points(&world.root()).is_empty());
    assert!(world.runtime.block_on(keeper.list()).expect("listed").is_empty());
    assert!(!world.root().join(format!("run/worker-{}.sock", plan.volume)).exists());
}

#[test]
fn many_volumes_are_served_by_processes_of_their_own() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plans: Vec<_> = (0..4).map(|n| world.volume(&format!("v{n}"))).collect();
    let attaching: Vec<_> = plans
        .iter()
        .map(|p| {
            let (keeper, plan) = (keeper.clone(), p.clone());
            world.runtime.spawn(async move { keeper.attach(&plan).await.expect("attached").worker_pid })
        })
        .collect();
    let mut pids: Vec<u32> = attaching.into_iter().map(|a| world.runtime.block_on(a).expect("joined")).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 4);
    for (n, plan) in plans.iter().enumerate() {
        std::fs::write(Path::new(&plan.mountpoint).join("n"), n.to_string()).expect("written");
    }
    for (n, plan) in plans.iter().enumerate() {
        assert_eq!(std::fs::read_to_string(Path::new(&plan.mountpoint).join("n")).expect("read"), n.to_string());
        world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
    }
}

#[test]
fn the_quota_is_enforced_and_can_be_changed_while_mounted() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let mut plan = world.volume("small");
    plan.options.size = Some(ByteSize(1 << 20));
    let point = Path::new(&plan.mountpoint);
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    let stat = nix::sys::statvfs::statvfs(point).expect("statfs");
    assert_eq!(stat.blocks() * stat.fragment_size(), 1 << 20);
    std::fs::write(point.join("a"), vec![1u8; 512 << 10]).expect("half of it");
    let error = std::fs::write(point.join("b"), vec![1u8; 1 << 20]).expect_err("too much");
    assert!([libc::EDQUOT, libc::ENOSPC].contains(&error.raw_os_error().expect("a number")), "{error}");
    world.runtime.block_on(keeper.set_quota(plan.volume, Some(8 << 20))).expect("raised");
    std::fs::write(point.join("b"), vec![1u8; 1 << 20]).expect("now it fits");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn a_keeper_ends_only_when_nothing_is_attached_and_leaves_nothing() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let pid = world.keeper_pid();
    let plan = world.volume("data");
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    let error = world.runtime.block_on(keeper.shutdown()).expect_err("refused");
    assert_eq!(error.kind, ErrorKind::Busy);
    assert!(error.message.contains("data"), "{error}");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
    world.runtime.block_on(keeper.shutdown()).expect("ended");
    crate::harness::until("the keeper has ended", || !alive(pid));
    let left: Vec<_> = std::fs::read_dir(world.root().join("run"))
        .expect("listed")
        .filter_map(|e| e.expect("entry").file_name().into_string().ok())
        .filter(|n| n.ends_with(".sock"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn only_the_owner_sees_sockets_and_mountpoints() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    let mode = |path: &str| std::fs::metadata(world.root().join(path)).expect(path).permissions().mode() & 0o777;
    assert_eq!(mode("run"), 0o700);
    assert_eq!(mode("mnt"), 0o711);
    assert_eq!(mode("run/keeper.sock"), 0o600);
    assert_eq!(mode(&format!("run/worker-{}.sock", plan.volume)), 0o600);
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}
