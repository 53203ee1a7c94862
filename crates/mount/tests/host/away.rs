//! Unmounting while the store is away: refused in bounded time with everything still served, or by force with
//! everything that was acknowledged kept on this host.

use crate::harness::{World, need_fuse};
use orlop_chunkfs::format_volume;
use orlop_model::ErrorKind;
use orlop_store::testing::{FaultProxy, Faults, S3Server};
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn unmounting_without_a_store_is_refused_in_time_and_forced_without_loss() {
    need_fuse!();
    let Some(server) = S3Server::start("away") else {
        eprintln!("skipped: s3s-fs is not installed");
        return;
    };
    let proxy = FaultProxy::start(server.addr());
    let world = World::new();
    let mut plan = world.plan("v");
    plan.store = server.spec_at(proxy.addr(), "");
    let store = orlop_store::open_spec(&plan.store).expect("a store");
    world.runtime.block_on(format_volume(&store, &plan.prefix, plan.volume)).expect("formatted");
    let keeper = world.keeper();
    let point = Path::new(&plan.mountpoint);
    let detach = |force| world.runtime.block_on(keeper.detach(plan.volume, force));
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    std::fs::write(point.join("early"), "early").expect("written");

    proxy.set(Faults::down());
    std::fs::write(point.join("late"), "late").expect("written although the store is away");
    let since = Instant::now();
    let refused = detach(false).expect_err("the store does not have what was written");
    assert!(since.elapsed() < Duration::from_secs(40), "it took {:?}", since.elapsed());
    assert_eq!(refused.kind, ErrorKind::Unavailable, "{refused}");
    assert!(refused.message.contains("stays mounted"), "{refused}");
    assert_eq!(std::fs::read_to_string(point.join("late")).expect("served"), "late");
    std::fs::write(point.join("later"), "later").expect("served");

    let since = Instant::now();
    detach(true).expect("cut off");
    assert!(since.elapsed() < Duration::from_secs(120), "it took {:?}", since.elapsed());
    assert!(crate::harness::mount_points(&world.root()).is_empty());

    proxy.heal();
    world.runtime.block_on(keeper.attach(&plan)).expect("attached again");
    for name in ["early", "late", "later"] {
        assert_eq!(std::fs::read_to_string(point.join(name)).expect("kept"), name);
    }
    detach(false).expect("the store is there, so it goes by itself");
}
