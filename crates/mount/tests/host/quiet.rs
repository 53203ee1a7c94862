//! What a worker keeps in memory when nobody uses its volume any more.

use crate::harness::{World, need_fuse};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Memory of a process, what it has of its program included, in KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("told by every kernel that Orlop knows");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

#[test]
fn a_worker_that_has_become_quiet_gives_its_memory_back() {
    need_fuse!();
    const MOST: u64 = 16 << 10;
    let world = World::new();
    let keeper = world.keeper();
    let plan = world.volume("v");
    let attached = world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    let point = Path::new(&plan.mountpoint);
    for dir in 0..20 {
        fs::create_dir(point.join(dir.to_string())).expect("made");
        for file in 0..1000 {
            fs::write(point.join(format!("{dir}/{file}")), "some bytes").expect("written");
        }
    }
    fs::write(point.join("large"), vec![1; 100 << 20]).expect("written");
    let busy = resident(attached.worker_pid);
    assert!(busy > MOST, "so much work is seen: {busy} KiB");

    // A fold may lie up to a minute ahead, and what it folds is kept until the volume was quiet for a while.
    let until = Instant::now() + Duration::from_secs(180);
    let mut quiet = busy;
    while quiet > MOST && Instant::now() < until {
        std::thread::sleep(Duration::from_secs(1));
        quiet = resident(attached.worker_pid);
    }
    eprintln!("{busy} KiB busy, {quiet} KiB quiet");
    assert!(quiet <= MOST, "{quiet} KiB are kept for nobody");
    assert_eq!(fs::read_to_string(point.join("7/77")).expect("reads"), "some bytes");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}
