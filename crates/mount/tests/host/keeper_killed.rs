//! The keeper dies: the workers serve on, and the next keeper gets the descriptors back from them. All die: what is
//! left of the mounts is cleared away, and everything acknowledged is there.

use crate::harness::{World, alive, kill, launcher, mount_points, need_fuse, pause, until};
use crate::sys::errno;
use orlop_mount::WorkerState;
use std::fs::File;
use std::io::Write;
use std::path::Path;

#[test]
fn open_files_go_on_and_the_next_keeper_takes_over() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let dir = world.folder("bound");
    let point = Path::new(&plan.mountpoint);
    let worker = world.runtime.block_on(keeper.attach(&plan)).expect("attached").worker_pid;
    world.runtime.block_on(keeper.bind(plan.volume, dir.to_str().expect("text"), true)).expect("bound");
    let mut file = File::create(point.join("f")).expect("created");
    writeln!(file, "before").expect("written");

    let first = world.keeper_pid();
    kill(first);
    writeln!(file, "without a keeper").expect("written");
    let keeper = world.keeper();
    assert_ne!(world.keeper_pid(), first);
    writeln!(file, "after").expect("written");
    let list = world.runtime.block_on(keeper.list()).expect("listed");
    assert_eq!((list.len(), list[0].worker_pid, &list[0].worker), (1, worker, &WorkerState::Serving));
    assert_eq!(list[0].plan, plan);
    assert_eq!((list[0].binds.len(), list[0].binds[0].read_only, list[0].in_use_elsewhere), (1, true, false));
    let again = world.runtime.block_on(keeper.attach(&plan)).expect("attached already");
    assert_eq!(again.worker_pid, worker);

    // The descriptor came back for good: now the worker may die as well.
    kill(worker);
    writeln!(file, "with another worker").expect("written");
    world.await_successor(&keeper, worker);
    let text = std::fs::read_to_string(dir.join("f")).expect("read");
    assert_eq!(text, "before\nwithout a keeper\nafter\nwith another worker\n");
    drop(file);
    world.runtime.block_on(keeper.unbind(dir.to_str().expect("text"))).expect("unbound");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
    assert!(mount_points(&world.folder(".")).is_empty());
}

/// Keeper and worker die one after the other after a change that the worker was not opened with.
#[test]
fn what_was_changed_since_is_kept_by_the_next_keeper_and_the_next_worker() {
    need_fuse!();
    let world = World::new();
    let mut plan = world.volume("data");
    let keeper = world.keeper();
    let worker = world.runtime.block_on(keeper.attach(&plan)).expect("attached").worker_pid;
    let quota = 64u64 << 20;
    world.runtime.block_on(keeper.set_quota(plan.volume, Some(quota))).expect("a quota");
    plan.options.size = Some(orlop_model::ByteSize(quota));

    kill(world.keeper_pid());
    let keeper = world.keeper();
    let listed = || world.runtime.block_on(keeper.list()).expect("listed").remove(0);
    assert_eq!(listed().plan, plan);

    kill(worker);
    until("another worker serves", || listed().worker == WorkerState::Serving && listed().worker_pid != worker);
    assert_eq!(listed().plan, plan);
    let stat = nix::sys::statvfs::statvfs(Path::new(&plan.mountpoint)).expect("statvfs");
    assert_eq!(stat.blocks() * stat.fragment_size(), quota, "the next worker keeps to it");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn a_second_keeper_of_the_same_root_is_refused() {
    need_fuse!();
    let world = World::new();
    let _keeper = world.keeper();
    let pid = world.keeper_pid();
    let error = orlop_mount::keeper::serve(orlop_mount::keeper::KeeperConfig::new(&world.root()).expect("config")).expect_err("locked");
    assert_eq!(error.kind, orlop_model::ErrorKind::Busy, "{error}");
    assert!(alive(pid));
}

#[test]
fn after_everything_was_killed_dead_mounts_go_or_keep_writers_out_and_data_stays() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let dir = world.folder("bound");
    let point = Path::new(&plan.mountpoint);
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    world.runtime.block_on(keeper.bind(plan.volume, dir.to_str().expect("text"), false)).expect("bound");
    let mut file = File::create(point.join("f")).expect("created");
    file.write_all(b"acknowledged").expect("written");
    file.sync_all().expect("synced");
    world.kill_everything();
    // A request on its way while the connection ends is told ECONNABORTED.
    crate::harness::until("the mount is dead", || errno(std::fs::read_dir(point).map(drop)) == libc::ENOTCONN);
    assert_eq!(mount_points(&world.folder(".")).len(), 2);

    // The one in somebody's folder stays, so that nobody writes below it, until the volume is bound there again.
    let keeper = world.keeper();
    let dead = mount_points(&world.folder("."));
    assert!(dead.len() == 1 && dead[0].ends_with("bound"), "other dead mounts are taken away: {dead:?}");
    assert_eq!(errno(std::fs::write(dir.join("below"), "x")), libc::ENOTCONN);
    assert!(world.runtime.block_on(keeper.list()).expect("listed").is_empty());
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    assert_eq!(std::fs::read_to_string(point.join("f")).expect("read"), "acknowledged");
    assert_eq!(errno(file.write(b"x")), libc::ENOTCONN);
    drop(file);
    let bound = dir.to_str().expect("text");
    world.runtime.block_on(keeper.bind(plan.volume, bound, false)).expect("bound in its place");
    assert_eq!(std::fs::read_to_string(dir.join("f")).expect("read"), "acknowledged");
    world.runtime.block_on(keeper.unbind(bound)).expect("unbound");
    assert!(std::fs::read_dir(&dir).expect("the folder itself").next().is_none(), "nothing is left below or above it");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn the_socket_of_a_dead_keeper_goes_before_the_next_one_takes_over() {
    need_fuse!();
    let world = World::new();
    let plan = world.volume("data");
    let worker = world.runtime.block_on(world.keeper().attach(&plan)).expect("attached").worker_pid;
    let socket = world.root().join("run/keeper.sock");
    kill(world.keeper_pid());
    assert!(socket.exists(), "nobody took it away");
    // The next one waits for this worker's answer before it listens.
    pause(worker, true);
    let keeper = std::thread::scope(|scope| {
        let started = scope.spawn(|| world.keeper());
        until("the stale socket is gone", || !socket.exists() || started.is_finished());
        let early = !started.is_finished();
        pause(worker, false);
        let keeper = started.join().expect("no panic");
        assert!(early, "it was there until the next keeper listened");
        keeper
    });
    assert_eq!(world.runtime.block_on(keeper.list()).expect("listed")[0].worker_pid, worker);
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn a_worker_that_does_not_answer_is_taken_over_later_and_its_volume_counts_as_mounted() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let dir = world.folder("bound");
    let worker = world.runtime.block_on(keeper.attach(&plan)).expect("attached").worker_pid;
    world.runtime.block_on(keeper.bind(plan.volume, dir.to_str().expect("text"), false)).expect("bound");
    pause(worker, true);
    kill(world.keeper_pid());
    let keeper = world.keeper();
    assert!(world.runtime.block_on(keeper.list()).expect("listed").is_empty(), "it does not answer");
    let error = world.runtime.block_on(keeper.detach(plan.volume, true)).expect_err("its worker lives");
    assert!(error.kind == orlop_model::ErrorKind::Unavailable && error.remedy.is_some(), "{error}");
    pause(worker, false);
    until("it is taken over", || !world.runtime.block_on(keeper.list()).expect("listed").is_empty());
    let list = world.runtime.block_on(keeper.list()).expect("listed");
    assert_eq!((list[0].worker_pid, list[0].binds.len()), (worker, 1), "with what the last keeper recorded");
    // Its end is seen as any other's.
    kill(worker);
    std::fs::write(dir.join("f"), "served").expect("written");
    world.await_successor(&keeper, worker);
    world.runtime.block_on(keeper.unbind(dir.to_str().expect("text"))).expect("unbound");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn a_worker_whose_socket_is_gone_is_known_by_the_record_and_taken_away_only_by_force() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let worker = world.runtime.block_on(keeper.attach(&plan)).expect("attached").worker_pid;
    std::fs::write(Path::new(&plan.mountpoint).join("f"), "acknowledged").expect("written");
    std::fs::remove_file(world.root().join(format!("run/worker-{}.sock", plan.volume))).expect("removed");
    kill(world.keeper_pid());
    assert!(orlop_mount::keeper::has_workers(&world.root()), "one lives, with a socket or without");
    let keeper = world.keeper();
    let error = world.runtime.block_on(keeper.detach(plan.volume, true)).expect_err("its worker lives");
    assert!(error.message.contains(&worker.to_string()), "{error}");
    let unreached = orlop_mount::keeper::unreached(&world.root());
    assert_eq!((unreached.len(), unreached[0].volume, unreached[0].worker_pid), (1, plan.volume, Some(worker)));
    assert_eq!(orlop_mount::keeper::still_mounted(&world.root()).expect("asked"), unreached);

    orlop_mount::keeper::take_away(&world.root(), &unreached[0]).expect("taken away");
    assert!(!alive(worker) && mount_points(&world.root()).is_empty());
    until("the keeper sees it", || world.runtime.block_on(keeper.detach(plan.volume, false)).is_ok());
    assert!(orlop_mount::keeper::unreached(&world.root()).is_empty());
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    assert_eq!(std::fs::read_to_string(Path::new(&plan.mountpoint).join("f")).expect("read"), "acknowledged");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn a_worker_that_dies_before_it_is_taken_over_leaves_nothing() {
    need_fuse!();
    let world = World::new();
    let plan = world.volume("data");
    let worker = world.runtime.block_on(world.keeper().attach(&plan)).expect("attached").worker_pid;
    std::fs::write(Path::new(&plan.mountpoint).join("f"), "acknowledged").expect("written");
    pause(worker, true);
    kill(world.keeper_pid());
    let keeper = world.keeper();
    kill(worker);
    until("its dead mount is taken away", || mount_points(&world.root()).is_empty());
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("not mounted");
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    assert_eq!(std::fs::read_to_string(Path::new(&plan.mountpoint).join("f")).expect("read"), "acknowledged");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn a_keeper_is_not_changed_over_while_a_volume_has_no_worker() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let worker = world.runtime.block_on(keeper.attach(&plan)).expect("attached").worker_pid;
    // No worker serves a volume whose lock cannot be opened.
    let lock = world.root().join(format!("state/{}/lock", plan.volume));
    std::fs::remove_file(&lock).expect("removed");
    std::fs::create_dir(&lock).expect("in its way");
    kill(worker);
    until("no worker starts", || {
        let list = world.runtime.block_on(keeper.list()).expect("listed");
        matches!(list[0].worker, WorkerState::Restarting { attempts: 1.., .. })
    });
    let keeper_pid = world.keeper_pid();
    let error = orlop_mount::keeper::change_over(&world.root(), &launcher("keeper_process")).expect_err("the volume has no worker");
    assert!(error.message.contains("data") && error.remedy.is_some(), "{error}");
    assert!(alive(keeper_pid), "it was left as it is");
    std::fs::remove_dir(&lock).expect("removed");
    world.await_successor(&keeper, worker);
    std::fs::write(Path::new(&plan.mountpoint).join("f"), "went on").expect("written");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}
