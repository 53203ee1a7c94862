//! Outages, through a proxy that breaks what passes: whatever the store does, nothing that was acknowledged is lost, nobody
//! who needs nothing of it waits, and everything heals by itself.

use crate::world::{World, can_mount, kill, wait};
use orlop_store::testing::{Fault, FaultProxy, Faults, Rule, S3Server};
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Outages of a minute take a while: only when `ORLOP_SOAK` is set. Those of ten minutes are in `cloud_long`.
pub(crate) fn soak() -> bool {
    std::env::var_os("ORLOP_SOAK").is_some()
}

/// A volume `db` on S3 behind a proxy, mounted in the folder `m`.
pub(crate) struct Cloud {
    // In this order they end: first who uses the store.
    pub(crate) world: World,
    pub(crate) proxy: FaultProxy,
    server: S3Server,
}

impl Cloud {
    pub(crate) fn new(test: &str, options: &[&str]) -> Option<Cloud> {
        if !can_mount(test) {
            return None;
        }
        let server = S3Server::start("bucket")?;
        let proxy = FaultProxy::start(server.addr());
        let world = World::new();
        let up = world.command(&["up", "--no-docker-plugin"]).env("ORLOP_LEASE", "5").output().expect("runs");
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        let (credentials, endpoint) =
            (format!("file:{}", server.credentials_file().display()), format!("endpoint=http://{}", proxy.addr()));
        let mut words = vec!["store", "add", "cloud", "s3://bucket/p", "--credentials", &credentials, "--set", &endpoint];
        words.extend(["--set", "region=us-east-1", "--set", "timeout=2s", "--set", "connect_timeout=1s"]);
        world.run(&words).ok();
        let mut words = vec!["volume", "create", "db", "-o", "store=cloud"];
        words.extend(options.iter().flat_map(|o| ["-o", o]));
        world.run(&words).ok();
        let dir = world.dir("m");
        world.run(&["mount", "db", &dir]).ok();
        Some(Cloud { world, proxy, server })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.world.path("m").join(name)
    }

    /// The volume, mounted in the folder `m` of a host that has only the store, at this address: nothing of this one's disk.
    fn another_host(&self, store: SocketAddr, options: &[&str]) -> World {
        // It may have been unmounted already.
        self.world.run(&["unmount", "db"]);
        let id = self.world.json(&["volume", "inspect", "db"])[0]["id"].as_str().expect("an id").to_owned();
        let other = World::up();
        let (credentials, endpoint) = (format!("file:{}", self.server.credentials_file().display()), format!("endpoint=http://{store}"));
        other.run(&["store", "add", "cloud", "s3://bucket/p", "--credentials", &credentials, "--set", &endpoint]).ok();
        let mut words = vec!["volume", "adopt", "db", "--store", "cloud", "--id", &id];
        words.extend(options.iter().flat_map(|o| ["-o", o]));
        other.run(&words).ok();
        let dir = other.dir("m");
        other.run(&["mount", "db", &dir]).ok();
        other
    }

    /// The volume as another host finds it.
    pub(crate) fn on_another_host(&self, expected: &[(String, Vec<u8>)]) {
        let other = self.another_host(self.server.addr(), &[]);
        for (name, data) in expected {
            assert!(std::fs::read(other.path("m").join(name)).expect("there") == *data, "{name}");
        }
        other.run(&["unmount", "db"]).ok();
        let check = other.run(&["check", "db"]);
        assert_eq!(check.code, 0, "{}{}", check.out, check.err);
    }
}

pub(crate) fn write_and_sync(path: &PathBuf, data: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(data)?;
    file.sync_all()
}

pub(crate) fn data(n: usize) -> Vec<u8> {
    (0..20_000 + n % 200 * 977).map(|i| (i * 31 + n * 7) as u8).collect()
}

/// Does step after step in a thread of its own until it is told to stop. Also a test that fails tells it: it would go on
/// in the bare folder once the volume is gone.
pub(crate) struct Writer<T> {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Vec<T>>>,
}

impl<T: Send + 'static> Writer<T> {
    pub(crate) fn start(pause: Duration, mut step: impl FnMut(usize) -> Option<T> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let steps = move || {
            let mut done = Vec::new();
            for n in 0.. {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                done.extend(step(n));
                std::thread::sleep(pause);
            }
            done
        };
        Writer { stop, thread: Some(std::thread::spawn(steps)) }
    }

    /// Ends it, and returns what its steps gave.
    pub(crate) fn end(mut self) -> Vec<T> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().expect("taken here alone").join().expect("no panic")
    }
}

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        // Not waited for: it may wait itself, for a store that the test has taken away.
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// A writer that makes file after file, each synced; it gives those that were acknowledged.
fn writer(folder: PathBuf, prefix: &'static str) -> Writer<(String, Vec<u8>)> {
    Writer::start(Duration::from_millis(20), move |n| {
        let name = format!("{prefix}{n}");
        write_and_sync(&folder.join(&name), &data(n)).is_ok().then(|| (name, data(n)))
    })
}

/// What needs nothing of the store is answered at once. Returns how long it took.
pub(crate) fn nobody_waits_who_needs_nothing(cloud: &Cloud, when: &str) -> Duration {
    let began = Instant::now();
    let statfs = nix::sys::statvfs::statvfs(&cloud.world.path("m")).expect("df");
    assert!(statfs.blocks() > 0);
    let names = std::fs::read_dir(cloud.world.path("m")).expect("ls").count();
    assert!(names > 0);
    let took = began.elapsed();
    // Far below any policy's bound; the soak has nine of these going at a time, in a debug build.
    let bound = Duration::from_secs(if soak() { 3 } else { 1 });
    assert!(took < bound, "{when}: df and ls took {took:?}");
    took
}

#[test]
fn whatever_the_store_does_nothing_acknowledged_is_lost_and_it_heals() {
    let Some(cloud) = Cloud::new("outages", &[]) else { return };
    write_and_sync(&cloud.path("before"), b"before").expect("synced");
    let lengths: &[u64] = if soak() { &[1, 60] } else { &[1, 4] };
    let writers = ["a", "b"].map(|p| writer(cloud.world.path("m"), p));
    let one_in = |fault: Fault, n| Faults::only(Rule::new(fault).one_in(n));
    for (what, faults, long) in [
        ("down", Faults::down(), true),
        ("hanging", Faults::only(Fault::Hang), true),
        ("slow", Faults::only(Fault::Latency(Duration::from_millis(700))), false),
        ("503", Faults::only(Fault::Status(503)), true),
        ("429", one_in(Fault::Status(429), 2), false),
        ("answers lost", one_in(Fault::LoseAnswer, 3), false),
        ("truncated", one_in(Fault::Truncate, 2), false),
        ("wrong bytes", one_in(Fault::Flip, 2), false),
    ] {
        for seconds in lengths.iter().filter(|s| long || **s == 1) {
            cloud.proxy.forget();
            cloud.proxy.set(faults.clone());
            let end = Instant::now() + Duration::from_secs(*seconds + if long { 0 } else { 2 });
            while Instant::now() < end {
                nobody_waits_who_needs_nothing(&cloud, what);
                assert_eq!(std::fs::read(cloud.path("before")).expect("cached"), b"before", "{what}");
                std::thread::sleep(Duration::from_millis(200));
            }
            cloud.proxy.heal();
            let began = Instant::now();
            write_and_sync(&cloud.path("healed"), what.as_bytes()).unwrap_or_else(|e| panic!("after {what}: {e}"));
            assert!(began.elapsed() < Duration::from_secs(20), "{what} for {seconds} s heals after {:?}", began.elapsed());
        }
    }
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    for w in writers {
        let done = w.end();
        assert!(done.len() > 20, "only {} files were synced", done.len());
        all.extend(done);
    }
    for (name, data) in &all {
        assert!(std::fs::read(cloud.path(name)).expect("there") == *data, "{name}");
    }
    cloud.on_another_host(&all);
}

pub(crate) fn fsyncing(path: PathBuf) -> Child {
    // A process of its own, since it is killed.
    Command::new("dd")
        .args(["if=/dev/zero", "bs=4k", "count=4", "conv=fsync"])
        .arg(format!("of={}", path.display()))
        .stderr(Stdio::null())
        .spawn()
        .expect("dd runs")
}

#[test]
fn whoever_waits_for_a_store_that_is_away_can_be_killed_and_the_volume_unmounted() {
    let Some(cloud) = Cloud::new("killing", &[]) else { return };
    write_and_sync(&cloud.path("before"), b"before").expect("synced");
    cloud.proxy.set(Faults::only(Fault::Hang));
    let mut waiting = fsyncing(cloud.path("w"));
    std::thread::sleep(Duration::from_secs(2));
    assert!(waiting.try_wait().expect("asks").is_none(), "under the policy wait it waits");
    let began = Instant::now();
    waiting.kill().expect("kills");
    waiting.wait().expect("ends");
    assert!(began.elapsed() < Duration::from_secs(2), "it ended after {:?}", began.elapsed());
    nobody_waits_who_needs_nothing(&cloud, "after the kill");
    // Without force the store has the last word, but not for ever; with force it goes.
    let began = Instant::now();
    let refused = cloud.world.run(&["unmount", "db"]);
    assert_ne!(refused.code, 0, "{}{}", refused.out, refused.err);
    assert!(refused.err.contains("hint: "), "{}", refused.err);
    assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());
    // The folder stays what it was: who goes on writing there writes to the volume, and not to the host's own disk.
    assert!(refused.err.contains("stays mounted on") && refused.err.contains("--force"), "{}", refused.err);
    assert_eq!(cloud.world.json(&["status"])["keeper"]["workers"].as_array().map(Vec::len), Some(1));
    std::fs::write(cloud.path("after"), b"after").expect("written");
    cloud.proxy.heal();
    cloud.world.run(&["unmount", "db"]).ok();
    assert!(!cloud.path("after").exists(), "it was written to the volume");
    cloud.on_another_host(&[("before".to_owned(), b"before".to_vec()), ("after".to_owned(), b"after".to_vec())]);
}

#[test]
fn by_force_a_folder_goes_while_the_store_is_away_and_nothing_acknowledged_with_it() {
    let Some(cloud) = Cloud::new("unmounting by force", &[]) else { return };
    cloud.proxy.set(Faults::only(Fault::Hang));
    std::fs::write(cloud.path("kept"), b"kept").expect("written");
    let began = Instant::now();
    let refused = cloud.world.run(&["unmount", "db"]);
    assert!(refused.code != 0 && refused.err.contains("stays mounted on"), "{}{}", refused.out, refused.err);
    assert!(cloud.path("kept").exists());
    let forced = cloud.world.run(&["unmount", "db", "--force"]).ok();
    let unsent = cloud.world.json(&["volume", "inspect", "db"])[0]["usage"]["unsent_bytes"].as_u64();
    assert!(unsent > Some(0) && forced.err.contains("that was acknowledged"), "{unsent:?} {}", forced.err);
    println!("refused and unmounted by force in {:?}", began.elapsed());
    // For the refusal the store has 20 s, and the worker tries for a minute more.
    assert!(began.elapsed() < Duration::from_secs(130), "{:?}", began.elapsed());
    assert!(!cloud.path("kept").exists() && cloud.world.mounts().is_empty());
    cloud.proxy.heal();
    cloud.world.run(&["mount", "db", &cloud.path("").display().to_string()]).ok();
    assert_eq!(std::fs::read(cloud.path("kept")).expect("reads"), b"kept");
}

#[test]
fn what_is_not_sent_and_what_is_copied_stay_under_their_caps() {
    const MIB: u64 = 1 << 20;
    let Some(cloud) = Cloud::new("caps", &["durability=local", "staging_size=256M", "cache_size=64M"]) else { return };
    let usage =
        |what: &str| cloud.world.json(&["volume", "inspect", "db"])[0]["usage"][what].as_u64().unwrap_or_else(|| panic!("no {what}"));
    let files: Vec<(String, Vec<u8>)> = (0..12).map(|n| (format!("f{n}"), data(n).repeat(40 * MIB as usize / data(n).len()))).collect();
    let all = files.iter().map(|(_, d)| d.len() as u64).sum::<u64>();
    assert!(all > 400 * MIB, "{all}");
    cloud.proxy.set(Faults::only(Fault::Status(503)));
    let folder = cloud.path("");
    let writer = std::thread::spawn({
        let files = files.clone();
        move || files.iter().for_each(|(name, data)| write_and_sync(&folder.join(name), data).expect("it waits, and is then written"))
    });
    // It comes to its cap and waits there.
    let (mut before, mut still) = (0, 0);
    let end = Instant::now() + Duration::from_secs(120);
    while still < 6 {
        assert!(Instant::now() < end, "it goes on and on: {before}");
        std::thread::sleep(Duration::from_millis(500));
        let now = usage("used_bytes");
        still = if now == before && now > 100 * MIB { still + 1 } else { 0 };
        before = now;
    }
    assert!(!writer.is_finished() && before < 300 * MIB, "{before} of {all} bytes are in");
    let host = usage("host_bytes");
    assert!(host < (256 + 64 + 64) * MIB, "{host} bytes on the host");
    cloud.proxy.heal();
    writer.join().expect("it went on");
    // Read once more, it is all copied, and makes room for itself.
    for (name, data) in &files {
        assert!(std::fs::read(cloud.path(name)).expect("reads") == *data, "{name}");
    }
    let end = Instant::now() + Duration::from_secs(60);
    while usage("unsent_bytes") > 0 || usage("host_bytes") > (64 + 64 + 32) * MIB {
        assert!(Instant::now() < end, "{} unsent, {} on the host", usage("unsent_bytes"), usage("host_bytes"));
        std::thread::sleep(Duration::from_millis(500));
    }
    cloud.on_another_host(&files[..3]);
}

#[test]
fn what_is_read_for_the_first_time_from_a_store_that_lies_is_right_or_an_error() {
    const FILES: usize = 3;
    let Some(cloud) = Cloud::new("cold reads", &[]) else { return };
    // Only what file contents are in, so that nobody loses the volume over it.
    let contents = |fault: Fault| Rule::new(fault).on("GET").at("packs/");
    let lies = [
        ("now and then wrong", contents(Fault::Flip).one_in(3), false),
        ("now and then cut", contents(Fault::Truncate).one_in(3), false),
        ("now and then 503", contents(Fault::Status(503)).one_in(3), false),
        ("always wrong", contents(Fault::Flip), true),
        ("always cut", contents(Fault::Truncate), true),
    ];
    // Each file is more than a request brings along with another.
    let file = |lie: usize, n: usize| (format!("f{lie}-{n}"), data(lie * FILES + n).repeat(100));
    let files: Vec<_> = (0..lies.len() * FILES).map(|i| file(i / FILES, i % FILES)).collect();
    for (name, data) in &files {
        write_and_sync(&cloud.path(name), data).expect("synced");
    }
    for (lie, (what, rule, always)) in lies.into_iter().enumerate() {
        // Another host each time, to which no reading before has brought anything along.
        let other = cloud.another_host(cloud.proxy.addr(), &["outage=fail"]);
        let read = |name: &str| std::fs::read(other.path("m").join(name));
        // What is known of files is not what is tried here.
        for (name, data) in &files {
            assert_eq!(other.path("m").join(name).metadata().expect("there").len(), data.len() as u64);
        }
        cloud.proxy.forget();
        cloud.proxy.set(Faults::only(rule));
        let began = Instant::now();
        let mut whole = 0;
        // Where nothing helps a reading ends after half a minute, as the policy says; the kernel asks twice, first for more than was wanted.
        let asked = if always { 1 } else { FILES };
        for (name, data) in (0..asked).map(|n| file(lie, n)) {
            match read(&name) {
                Ok(bytes) => {
                    assert!(bytes == data, "{what}: {name} has other bytes than were written");
                    whole += 1;
                }
                Err(e) => assert_eq!(e.raw_os_error(), Some(nix::libc::EIO), "{what}: {name}: {e}"),
            }
        }
        println!("{what}: {whole} of {asked} are whole, after {:?}", began.elapsed());
        // Of a long answer most is right, and what is not is asked for again: even where every answer lies a file may come whole.
        assert!(always || whole > 0, "{what}: {whole} of {asked} are whole");
        assert!(began.elapsed() < Duration::from_secs(100), "{what}: {:?}", began.elapsed());
        // None of the lies is kept.
        cloud.proxy.heal();
        for (name, data) in (0..FILES).map(|n| file(lie, n)) {
            wait("it heals", || read(&name).is_ok());
            assert!(read(&name).expect("healed") == data, "{what}: {name} after it healed");
        }
        other.run(&["unmount", "db"]).ok();
        let check = other.run(&["check", "db"]);
        assert_eq!(check.code, 0, "{what}: {}{}", check.out, check.err);
    }

    // A name that the store does not tell keeps nobody from anything.
    let other = cloud.another_host(cloud.proxy.addr(), &[]);
    other.run(&["unmount", "db"]).ok();
    cloud.proxy.set(Faults::only(Rule::new(Fault::Hang).at("name.json")));
    let began = Instant::now();
    other.run(&["mount", "db", &other.dir("m")]).ok();
    other.run(&["unmount", "db"]).ok();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn the_policy_fail_ends_the_waiting() {
    ends_the_waiting("fail", nix::libc::EIO);
}

#[test]
fn the_policy_readonly_ends_the_waiting() {
    ends_the_waiting("readonly", nix::libc::EROFS);
}

/// Half a minute into an outage nobody waits any more: what comes later fails at once, and reads go on.
fn ends_the_waiting(policy: &str, later: i32) {
    let Some(cloud) = Cloud::new(policy, &[&format!("outage={policy}")]) else { return };
    write_and_sync(&cloud.path("before"), b"before").expect("synced");
    cloud.proxy.set(Faults::down());
    let began = Instant::now();
    let failed = write_and_sync(&cloud.path("during"), b"during").expect_err("the deadline passes");
    assert!(began.elapsed() > Duration::from_secs(20) && began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    println!("{policy}: {failed}");
    let began = Instant::now();
    let e = write_and_sync(&cloud.path("later"), b"later").expect_err("the store is away");
    assert_eq!(e.raw_os_error(), Some(later), "{policy}: {e}");
    println!("{policy}: {:?} for what came later", began.elapsed());
    assert_eq!(std::fs::read(cloud.path("before")).expect("reads"), b"before");
    nobody_waits_who_needs_nothing(&cloud, policy);
    cloud.proxy.heal();
    let end = Instant::now() + Duration::from_secs(20);
    while write_and_sync(&cloud.path("after"), b"after").is_err() {
        assert!(Instant::now() < end, "{policy}: it does not heal by itself");
        std::thread::sleep(Duration::from_millis(300));
    }
    cloud.on_another_host(&[("before".to_owned(), b"before".to_vec()), ("after".to_owned(), b"after".to_vec())]);
}

#[test]
fn going_down_by_force_while_the_store_is_away_takes_as_long_for_four_volumes_as_for_one() {
    let Some(cloud) = Cloud::new("going down", &[]) else { return };
    let names = ["db", "two", "three", "four"];
    for name in &names[1..] {
        cloud.world.run(&["volume", "create", name, "-o", "store=cloud"]).ok();
        cloud.world.run(&["mount", name, &cloud.world.dir(name)]).ok();
    }
    let folder = |name: &str| cloud.world.path(if name == "db" { "m" } else { name });
    for name in names {
        write_and_sync(&folder(name).join("before"), b"before").expect("synced");
    }
    cloud.proxy.set(Faults::down());
    for name in names {
        std::fs::write(folder(name).join("unsent"), name).expect("accepted");
    }
    // Who gives up asking leaves an Orlop that goes on, not one that refuses mounts for ever.
    let mut asked = cloud.world.command(&["down", "--force"]).spawn().expect("runs");
    std::thread::sleep(Duration::from_secs(2));
    asked.kill().expect("kills");
    asked.wait().expect("ends");
    cloud.world.run(&["volume", "create", "here"]).ok();
    cloud.world.run(&["mount", "here", &cloud.world.dir("here")]).ok();

    let began = Instant::now();
    let down = cloud.world.run(&["down", "--force"]).ok();
    let took = began.elapsed();
    println!("four volumes went down by force in {took:?}");
    // For each: 20 s for the store to take what is unsent, and a minute for the worker's last try.
    assert!(took < Duration::from_secs(110), "{took:?}\n{}", down.out);
    for name in names {
        assert!(down.out.contains(&format!("unmounted {name}\n")), "{}", down.out);
    }
    assert_eq!(cloud.world.mounts(), Vec::<PathBuf>::new());
    let ending = Instant::now();
    while !cloud.world.processes().is_empty() {
        let left = || {
            let line = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
            cloud.world.processes().iter().map(line).collect::<Vec<_>>()
        };
        assert!(ending.elapsed() < Duration::from_secs(10), "left behind: {:?}", left());
        std::thread::sleep(Duration::from_millis(50));
    }

    // What was accepted is still here, and is sent once the volume is mounted again.
    cloud.proxy.heal();
    cloud.world.run(&["up", "--no-docker-plugin"]).ok();
    for name in names {
        let folder = folder(name);
        cloud.world.run(&["mount", name, folder.to_str().expect("plain")]).ok();
        assert_eq!(std::fs::read(folder.join("unsent")).expect("there"), name.as_bytes());
        assert_eq!(std::fs::read(folder.join("before")).expect("there"), b"before");
    }
    cloud.on_another_host(&[("before".to_owned(), b"before".to_vec()), ("unsent".to_owned(), b"db".to_vec())]);
}

/// What a command says and how long it took, if it comes to its end in time; else it is killed, and the test fails.
#[track_caller]
fn within(limit: Duration, command: &mut Command) -> (std::process::Output, Duration) {
    let began = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    while child.try_wait().expect("asks").is_none() {
        if began.elapsed() > limit {
            let _ = child.kill();
            panic!("{command:?} has not come to its end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = began.elapsed();
    (child.wait_with_output().expect("it has ended"), took)
}

/// Ends the worker while the store is away, and waits until its successor has failed to open the volume if that is to be.
fn kill_the_worker(cloud: &Cloud, until_it_failed: bool) {
    kill(cloud.world.worker_pid());
    let state = || cloud.world.json(&["status"])["keeper"]["workers"][0]["state"].as_str().unwrap_or_default().to_owned();
    let end = Instant::now() + Duration::from_secs(90);
    while !state().starts_with("restarting") || (until_it_failed && state().starts_with("restarting, attempt 0")) {
        assert!(Instant::now() < end, "it is {}", state());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_worker_that_dies_while_the_store_is_away_leaves_nobody_waiting_longer_than_the_policy_says() {
    let Some(cloud) = Cloud::new("worker lost", &["outage=fail"]) else { return };
    write_and_sync(&cloud.path("before"), b"before").expect("synced");
    cloud.proxy.set(Faults::only(Fault::Status(503)));
    std::fs::write(cloud.path("unsent"), b"unsent").expect("accepted");
    kill_the_worker(&cloud, false);
    let died = Instant::now();
    let folder = cloud.path("").display().to_string();
    let (df, took) = within(Duration::from_secs(15), Command::new("df").arg(&folder));
    println!("df: {took:?}, {}", String::from_utf8_lossy(&df.stdout));
    assert!(df.status.success(), "{}", String::from_utf8_lossy(&df.stderr));
    // Neither by its name nor by its folder does an unmount wait for the folder.
    for target in ["db", &folder, "m"] {
        let mut command = cloud.world.command(&["unmount", target]);
        let (refused, took) = within(Duration::from_secs(15), command.current_dir(cloud.world.path("")));
        let err = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && err.contains("hint: "), "{target}: {err}");
        println!("unmount {target}: refused in {took:?}");
    }
    within(Duration::from_secs(75), &mut cloud.world.command(&["mount", "db", &folder]));
    // What nobody serves ends as the policy says, and then at once.
    let (failed, _) = within(Duration::from_secs(60), Command::new("cat").arg(cloud.path("never seen")));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("Input/output error"), "{}", String::from_utf8_lossy(&failed.stderr));
    assert!(died.elapsed() > Duration::from_secs(20), "it did not wait, but {:?}", died.elapsed());
    let (failed, _) = within(Duration::from_secs(5), Command::new("ls").arg("-l").arg(&folder));
    assert!(!failed.status.success());

    cloud.proxy.heal();
    wait("another worker serves", || std::fs::read(cloud.path("before")).is_ok_and(|bytes| bytes == b"before"));
    assert_eq!(std::fs::read(cloud.path("unsent")).expect("it was acknowledged"), b"unsent");
    write_and_sync(&cloud.path("after"), b"after").expect("synced");
    let expected = ["before", "unsent", "after"].map(|name| (name.to_owned(), name.as_bytes().to_vec()));
    cloud.on_another_host(&expected);
}

#[test]
fn under_the_policy_wait_they_wait_for_a_worker_that_died_but_for_df_and_for_who_is_killed() {
    let Some(cloud) = Cloud::new("worker lost, waiting", &[]) else { return };
    write_and_sync(&cloud.path("before"), b"before").expect("synced");
    cloud.proxy.set(Faults::only(Fault::Hang));
    kill_the_worker(&cloud, false);
    let read = |name: &str| Command::new("cat").arg(cloud.path(name)).stdout(Stdio::null()).spawn().expect("runs");
    let (mut waiting, mut killed) = (read("before"), read("killed"));
    within(Duration::from_secs(15), Command::new("df").arg(cloud.path("")));
    // Longer than another policy would have them wait.
    std::thread::sleep(Duration::from_secs(35));
    assert!(waiting.try_wait().expect("asks").is_none() && killed.try_wait().expect("asks").is_none());
    let began = Instant::now();
    killed.kill().expect("killed");
    killed.wait().expect("ends");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    cloud.proxy.heal();
    let end = Instant::now() + Duration::from_secs(60);
    while waiting.try_wait().expect("asks").is_none() {
        assert!(Instant::now() < end, "it waits on although the store is back");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(waiting.wait().expect("ended").success());
    cloud.on_another_host(&[("before".to_owned(), b"before".to_vec())]);
}

#[test]
fn by_force_a_volume_goes_whose_worker_died_while_the_store_is_away() {
    let Some(cloud) = Cloud::new("worker lost, by force", &["outage=fail"]) else { return };
    write_and_sync(&cloud.path("before"), b"before").expect("synced");
    cloud.proxy.set(Faults::only(Fault::Hang));
    std::fs::write(cloud.path("unsent"), b"unsent").expect("accepted");
    // While the first successor tries, and between later ones.
    for until_it_failed in [false, true] {
        kill_the_worker(&cloud, until_it_failed);
        let (gone, took) = within(Duration::from_secs(45), &mut cloud.world.command(&["unmount", "--force", "db"]));
        assert!(gone.status.success(), "{}", String::from_utf8_lossy(&gone.stderr));
        println!("unmounted by force in {took:?}");
        assert!(cloud.world.mounts().is_empty());
        cloud.proxy.heal();
        cloud.world.run(&["mount", "db", &cloud.world.dir("m")]).ok();
        assert_eq!(std::fs::read(cloud.path("unsent")).expect("it is sent now"), b"unsent");
        cloud.proxy.set(Faults::only(Fault::Hang));
    }
    cloud.proxy.heal();
    cloud.on_another_host(&[("before".to_owned(), b"before".to_vec()), ("unsent".to_owned(), b"unsent".to_vec())]);
}

#[test]
fn going_down_by_force_does_not_wait_for_a_store_that_hangs() {
    let Some(cloud) = Cloud::new("going down, hanging", &[]) else { return };
    write_and_sync(&cloud.path("before"), b"before").expect("synced");
    cloud.proxy.set(Faults::only(Fault::Hang));
    std::fs::write(cloud.path("unsent"), b"unsent").expect("accepted");
    let mut waiting = fsyncing(cloud.path("waits"));
    let (down, took) = within(Duration::from_secs(120), &mut cloud.world.command(&["down", "--force"]));
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    println!("down in {took:?}");
    waiting.wait().expect("it was cut off");
    assert!(cloud.world.mounts().is_empty());
    cloud.proxy.heal();
    cloud.world.run(&["up", "--no-docker-plugin"]).ok();
    cloud.world.run(&["mount", "db", &cloud.world.dir("m")]).ok();
    assert_eq!(std::fs::read(cloud.path("unsent")).expect("there"), b"unsent");
    cloud.on_another_host(&[("before".to_owned(), b"before".to_vec()), ("unsent".to_owned(), b"unsent".to_vec())]);
}
