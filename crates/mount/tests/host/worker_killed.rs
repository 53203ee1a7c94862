//! A worker dies with files open: another takes its place on the same mount, and requests that were left unanswered
//! are answered by it.

use crate::harness::{World, kill, need_fuse, until};
use orlop_model::MountPlan;
use orlop_mount::KeeperClient;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

fn kill_worker(world: &World, keeper: &KeeperClient, old: u32) -> u32 {
    kill(old);
    world.await_successor(keeper, old)
}

fn resends(world: &World, plan: &MountPlan) -> bool {
    let record = std::fs::read_to_string(world.root().join("run/keeper.json")).expect("a record");
    let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    let entry = record["volumes"].as_array().expect("a list").iter().find(|v| v["plan"]["volume"] == plan.volume.to_string());
    entry.expect("recorded")["negotiated"]["flags"].as_u64().expect("flags") & 1 << 39 != 0
}

#[test]
fn an_open_file_goes_on_as_if_nothing_had_happened() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let point = Path::new(&plan.mountpoint);
    let first = world.runtime.block_on(keeper.attach(&plan)).expect("attached").worker_pid;
    let mut file = File::options().read(true).append(true).create(true).open(point.join("f")).expect("created");
    writeln!(file, "one").expect("written");
    let mut unlinked = File::options().read(true).write(true).create(true).truncate(true).open(point.join("u")).expect("created");
    unlinked.write_all(b"has no name").expect("written");
    std::fs::remove_file(point.join("u")).expect("removed");

    kill_worker(&world, &keeper, first);
    writeln!(file, "two").expect("written");
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).expect("seeks");
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "one\ntwo\n");
    unlinked.write_all(b", but lives").expect("written");
    unlinked.seek(SeekFrom::Start(0)).expect("seeks");
    text.clear();
    unlinked.read_to_string(&mut text).expect("read");
    assert_eq!(text, "has no name, but lives");
    assert!(std::fs::read_dir(point).expect("lists").count() == 1);
    drop((file, unlinked));
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

/// Which inodes a kernel holds no worker can know of those before it: it is asked.
#[test]
fn what_was_there_before_gives_its_room_back_once_nobody_holds_it() {
    need_fuse!();
    const SIZE: usize = 1 << 20;
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let point = Path::new(&plan.mountpoint);
    let first = world.runtime.block_on(keeper.attach(&plan)).expect("attached").worker_pid;
    let used = || world.runtime.block_on(keeper.usage(plan.volume)).expect("usage").used_bytes;
    let make = |name: &str, fill: u8| {
        let mut file = File::options().read(true).write(true).create_new(true).open(point.join(name)).expect("created");
        file.write_all(&vec![fill; SIZE]).expect("written");
        file.sync_all().expect("synced");
        file
    };
    let (closed, open, nameless) = (make("closed", 1), make("open", 2), make("nameless", 3));
    drop(closed);
    std::fs::create_dir_all(point.join("folder")).expect("made");
    std::fs::remove_file(point.join("nameless")).expect("removed");
    let all = used();

    let second = kill_worker(&world, &keeper, first);
    for name in ["closed", "open"] {
        std::fs::remove_file(point.join(name)).expect("removed");
    }
    std::fs::remove_dir(point.join("folder")).expect("removed");
    until("what nobody holds has gone", || used() <= all - SIZE as u64);
    std::thread::sleep(std::time::Duration::from_secs(2));
    let reads = |mut file: &File, fill: u8| {
        let mut data = Vec::new();
        file.seek(SeekFrom::Start(0)).expect("seeks");
        file.read_to_end(&mut data).expect("read");
        assert!(data == vec![fill; SIZE], "{fill}");
    };
    reads(&open, 2);
    reads(&nameless, 3);
    assert_eq!(used(), all - SIZE as u64, "what is open stays");
    // Also by a worker that finds them without a name.
    kill_worker(&world, &keeper, second);
    reads(&open, 2);
    reads(&nameless, 3);
    drop((open, nameless));
    until("the rest has gone", || used() <= all - 3 * SIZE as u64);
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn under_load_no_change_fails_none_is_lost_and_none_is_done_twice() {
    need_fuse!();
    const WRITERS: usize = 4;
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let point = Path::new(&plan.mountpoint).to_owned();
    let mut worker = world.runtime.block_on(keeper.attach(&plan)).expect("attached").worker_pid;
    if !resends(&world, &plan) {
        eprintln!("skipped: this kernel cannot send requests again (Linux 6.9)");
        world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
        return;
    }
    let stop = AtomicBool::new(false);
    let counts = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|w| {
                let (point, stop) = (&point, &stop);
                scope.spawn(move || {
                    let dir = point.join(format!("w{w}"));
                    std::fs::create_dir(&dir).expect("folder");
                    let mut log = File::options().append(true).create(true).open(dir.join("log")).expect("created");
                    let mut n = 0u32;
                    while !stop.load(Ordering::Relaxed) {
                        // Each of these fails if a change is done twice: O_EXCL, a name taken away, a name given.
                        let (made, kept) = (dir.join(format!("made{n}")), dir.join(format!("kept{n}")));
                        let mut f = File::options().write(true).create_new(true).open(&made).expect("made once");
                        f.write_all(&n.to_le_bytes()).expect("written");
                        std::fs::rename(&made, &kept).expect("renamed once");
                        if n % 2 == 1 {
                            std::fs::remove_file(&kept).expect("removed once");
                        }
                        writeln!(log, "{n}").expect("appended");
                        n += 1;
                    }
                    n
                })
            })
            .collect();
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(300));
            worker = kill_worker(&world, &keeper, worker);
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().map(|w| w.join().expect("no write failed")).collect::<Vec<u32>>()
    });
    for (w, n) in counts.iter().enumerate() {
        assert!(*n > 0);
        let dir = point.join(format!("w{w}"));
        let log: Vec<u32> = std::fs::read_to_string(dir.join("log")).expect("read").lines().map(|l| l.parse().expect("a number")).collect();
        assert!(log.iter().copied().eq(0..*n), "writer {w}: {} lines of {n}", log.len());
        for i in (0..*n).step_by(2) {
            assert_eq!(std::fs::read(dir.join(format!("kept{i}"))).expect("kept"), i.to_le_bytes());
        }
        assert_eq!(std::fs::read_dir(&dir).expect("lists").count() as u32, n.div_ceil(2) + 1);
    }
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn however_often_a_worker_is_killed_the_next_one_answers_within_two_seconds() {
    need_fuse!();
    let rounds = if std::env::var_os("ORLOP_SOAK").is_some() { 100 } else { 12 };
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let mut worker = world.runtime.block_on(keeper.attach(&plan)).expect("attached").worker_pid;
    let mut pauses: Vec<std::time::Duration> = (0..rounds)
        .map(|n| {
            let began = std::time::Instant::now();
            kill(worker);
            // A name that was never asked for is in no cache: this waits for an answer.
            let asked = std::fs::symlink_metadata(Path::new(&plan.mountpoint).join(format!("nobody{n}")));
            let pause = began.elapsed();
            // Where requests cannot be sent again one may end in an error, but not in silence.
            assert!(asked.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) || !resends(&world, &plan));
            let old = worker;
            until("the next worker is known", || {
                worker = world.serving_pid(&keeper).unwrap_or(old);
                worker != old
            });
            pause
        })
        .collect();
    pauses.sort();
    let (median, worst) = (pauses[rounds / 2], pauses[rounds - 1]);
    println!("kill -9 to the next answer: median {median:?}, longest {worst:?} of {rounds}");
    assert!(worst < std::time::Duration::from_secs(2), "{pauses:?}");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn where_requests_cannot_be_sent_again_they_end_and_the_mount_lives_on() {
    need_fuse!();
    let world = World::new();
    std::fs::create_dir_all(world.root()).expect("root");
    std::fs::write(world.root().join("no-resend"), "").expect("written");
    let keeper = world.keeper();
    let plan = world.volume("data");
    let point = Path::new(&plan.mountpoint);
    let worker = world.runtime.block_on(keeper.attach(&plan)).expect("attached").worker_pid;
    assert!(!resends(&world, &plan));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let mut n = 0u64;
            while !stop.load(Ordering::Relaxed) {
                // Fails or not; what must not happen is that it never returns.
                let _ = std::fs::write(point.join("f"), n.to_string());
                n += 1;
            }
        });
        let mut pid = worker;
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(200));
            pid = kill_worker(&world, &keeper, pid);
        }
        stop.store(true, Ordering::Relaxed);
        busy.join().expect("returned");
    });
    std::fs::write(point.join("g"), "lives").expect("written");
    assert_eq!(std::fs::read_to_string(point.join("g")).expect("read"), "lives");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

#[test]
fn sigterm_does_not_end_a_worker_whose_volume_is_mounted() {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("data");
    let worker = world.runtime.block_on(keeper.attach(&plan)).expect("attached").worker_pid;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker as i32), nix::sys::signal::Signal::SIGTERM).expect("sent");
    until("the worker has said so", || world.log(&plan).contains("SIGTERM"));
    std::fs::write(Path::new(&plan.mountpoint).join("f"), "served").expect("written");
    assert_eq!(world.serving_pid(&keeper), Some(worker));
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}
