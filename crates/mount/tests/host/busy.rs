//! A volume that somebody uses is not taken away from under him, unless by force.

use crate::harness::{World, alive, kill, mount_points, need_fuse, pause, runtime, until};
use crate::sys::errno;
use orlop_model::{CacheMode, ErrorKind};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Process(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("starts"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_open_file_or_a_working_folder_is_named() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    let file = File::create(Path::new(&plan.mountpoint).join("f")).expect("created");
    let error = world.runtime.block_on(keeper.detach(plan.volume, false)).expect_err("in use");
    assert_eq!(error.kind, ErrorKind::Busy);
    assert!(error.message.contains(&format!("process {}", std::process::id())) && error.message.contains("file open"), "{error}");
    assert!(error.remedy.is_some());
    drop(file);

    let sleeper = Process::start(Command::new("sleep").arg("60").current_dir(&plan.mountpoint));
    let error = world.runtime.block_on(keeper.detach(plan.volume, false)).expect_err("in use");
    assert!(error.message.contains("sleep") && error.message.contains("folder"), "{error}");
    std::fs::write(Path::new(&plan.mountpoint).join("g"), "still served").expect("written");
    drop(sleeper);
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn a_mount_in_another_namespace_counts_as_use() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let data = world.folder("data");
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    // As a container has it: the volume bound to a folder of its own that no unmount of ours reaches. The rest of the
    // namespace follows the host's, so that mounts of other tests are not held.
    let data_text = data.to_str().expect("text");
    let script = format!(
        "mount --bind {} {data_text} && mount --make-private {data_text} && touch {data_text}/up && exec sleep 60",
        plan.mountpoint
    );
    let container = Process::start(Command::new("unshare").args(["--mount", "--propagation", "slave", "sh", "-c", &script]));
    until("the other namespace has it", || Path::new(&plan.mountpoint).join("up").exists());
    let list = world.runtime.block_on(keeper.list()).expect("listed");
    assert!(list[0].in_use_elsewhere);
    let error = world.runtime.block_on(keeper.detach(plan.volume, false)).expect_err("in use");
    assert!(error.kind == ErrorKind::Busy && error.message.contains(data.to_str().expect("text")), "{error}");
    assert_eq!(mount_points(&world.root()).len(), 1, "nothing was unmounted");
    drop(container);
    until("the namespace is gone", || !world.runtime.block_on(keeper.list()).expect("listed")[0].in_use_elsewhere);
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn a_namespace_that_is_just_starting_is_waited_for() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    // As every container has all mounts of the host for a moment, until it has a root of its own.
    let script = format!("mount --make-private {} && touch {}/up && exec sleep 0.7", plan.mountpoint, plan.mountpoint);
    let container = Process::start(Command::new("unshare").args(["--mount", "--propagation", "slave", "sh", "-c", &script]));
    until("the other namespace has it", || Path::new(&plan.mountpoint).join("up").exists());
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
    drop(container);
}

#[test]
fn by_force_users_are_cut_off_and_nothing_acknowledged_is_lost() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let dir = world.folder("bound");
    let worker = world.runtime.block_on(keeper.attach(&plan)).expect("attached").worker_pid;
    world.runtime.block_on(keeper.bind(plan.volume, dir.to_str().expect("text"), false)).expect("bound");
    let mut file = File::create(dir.join("f")).expect("created");
    file.write_all(b"acknowledged").expect("written");
    let mapped = File::options().read(true).write(true).create(true).truncate(true).open(dir.join("m")).expect("created");
    mapped.set_len(4096).expect("a page");
    let mut map = crate::sys::Map::new(&mapped, 4096).expect("mapped");
    map.write(0, b"mapped");
    world.runtime.block_on(keeper.detach(plan.volume, true)).expect("detached by force");
    assert!(!alive(worker));
    assert!(mount_points(&world.folder(".")).is_empty());
    assert_eq!(errno(file.write(b"more")), libc::ENOTCONN);
    drop((map, mapped, file));
    world.runtime.block_on(keeper.attach(&plan)).expect("attached again");
    assert_eq!(std::fs::read_to_string(Path::new(&plan.mountpoint).join("f")).expect("read"), "acknowledged");
    assert_eq!(&std::fs::read(Path::new(&plan.mountpoint).join("m")).expect("read")[..6], b"mapped");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

/// More than is under way at a time: syncfs alone returns while most of these pages still wait to be sent.
#[test]
fn by_force_every_page_that_was_changed_through_a_mapping_is_written_first() {
    need_fuse!();
    const PAGE: usize = 4096;
    const PAGES: usize = 4096;
    for cache in [CacheMode::Strict, CacheMode::Fast] {
        let world = World::new();
        let keeper = world.keeper();
        let mut plan = world.volume("data");
        plan.options.cache = Some(cache);
        world.runtime.block_on(keeper.attach(&plan)).expect("attached");
        let path = Path::new(&plan.mountpoint).join("m");
        let mapped = File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("created");
        mapped.set_len((PAGES * PAGE) as u64).expect("pages");
        let mut map = crate::sys::Map::new(&mapped, PAGES * PAGE).expect("mapped");
        let mark = |n: usize| (n as u64 + 1).to_le_bytes();
        for n in 0..PAGES {
            map.write(n * PAGE, &mark(n));
        }
        world.runtime.block_on(keeper.detach(plan.volume, true)).expect("detached by force");
        drop((map, mapped));
        world.runtime.block_on(keeper.attach(&plan)).expect("attached again");
        let kept = std::fs::read(&path).expect("read");
        let lost: Vec<usize> = (0..PAGES).filter(|n| kept[n * PAGE..][..8] != mark(*n)).collect();
        assert!(lost.is_empty(), "{cache:?}: {} of {PAGES} pages are lost, the first is {}", lost.len(), lost[0]);
        world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
    }
}

#[test]
fn unmounted_by_hand_it_can_be_attached_again() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let worker = world.runtime.block_on(keeper.attach(&plan)).expect("attached").worker_pid;
    std::fs::write(Path::new(&plan.mountpoint).join("f"), "kept").expect("written");
    nix::mount::umount(Path::new(&plan.mountpoint)).expect("unmounted by hand");
    until("the keeper has noticed", || world.runtime.block_on(keeper.list()).expect("listed").is_empty());
    assert!(!alive(worker));
    world.runtime.block_on(keeper.attach(&plan)).expect("attached again");
    assert_eq!(std::fs::read_to_string(Path::new(&plan.mountpoint).join("f")).expect("read"), "kept");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn by_force_a_worker_that_dies_meanwhile_has_a_successor_that_takes_the_pages() {
    need_fuse!();
    const PAGE: usize = 4096;
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let worker = world.runtime.block_on(keeper.attach(&plan)).expect("attached").worker_pid;
    let path = Path::new(&plan.mountpoint).join("m");
    let mapped = File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("created");
    mapped.set_len(PAGE as u64).expect("a page");
    let mut map = crate::sys::Map::new(&mapped, PAGE).expect("mapped");
    map.write(0, b"kept");
    pause(worker, true);
    let (detaching, volume) = (keeper.clone(), plan.volume);
    let began = std::time::Instant::now();
    let detached = std::thread::spawn(move || runtime().block_on(detaching.detach(volume, true)));
    std::thread::sleep(std::time::Duration::from_secs(1));
    kill(worker);
    detached.join().expect("no panic").expect("detached by force");
    assert!(began.elapsed() < std::time::Duration::from_secs(8), "{:?}", began.elapsed());
    drop((map, mapped));
    world.runtime.block_on(keeper.attach(&plan)).expect("attached again");
    assert_eq!(&std::fs::read(&path).expect("read")[..4], b"kept");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}
