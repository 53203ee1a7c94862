//! Two hosts and one volume in the cloud: two roots, each in a network namespace of its own, real processes, a real S3 server.

use crate::cloud_net::{Net, enter};
use crate::world::{Ended, World, alive, can_mount, kill, wait};
use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;
use orlop_store::testing::{Fault, FaultProxy, Faults, Rule, S3Server};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// Seconds; the shortest that may be set.
const LEASE: u64 = 5;

/// A host: a root, its network, and the store `cloud`.
struct Host {
    world: World,
    net: Net,
    dir: String,
}

impl Host {
    fn new(server: &S3Server, n: u8) -> Host {
        Host::by(server, server.addr(), n)
    }

    /// The same, by another way to the server.
    fn by(server: &S3Server, way: SocketAddr, n: u8) -> Host {
        let world = World::new();
        let net = Net::new(n, way);
        let up = enter(&net, &world, &["up", "--no-docker-plugin"]).env("ORLOP_LEASE", LEASE.to_string()).output().expect("nsenter runs");
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        let credentials = format!("file:{}", server.credentials_file().display());
        let endpoint = format!("endpoint=http://{}", net.addr());
        let mut words = vec!["store", "add", "cloud", "s3://bucket/p", "--credentials", &credentials, "--set", &endpoint];
        words.extend(["--set", "region=us-east-1", "--set", "timeout=3s", "--set", "connect_timeout=2s"]);
        world.run(&words).ok();
        let dir = world.dir("m");
        Host { world, net, dir }
    }

    fn mount(&self) -> Ended {
        self.world.run(&["mount", "db", &self.dir])
    }

    fn worker(&self) -> i32 {
        let status = self.world.json(&["status"]);
        status["keeper"]["workers"][0]["pid"].as_i64().unwrap_or_else(|| panic!("a worker in {status}")) as i32
    }

    fn write(&self, name: &str, data: &[u8]) -> std::io::Result<()> {
        let mut file = File::create(Path::new(&self.dir).join(name))?;
        file.write_all(data)?;
        file.sync_all()
    }

    fn read(&self, name: &str) -> std::io::Result<Vec<u8>> {
        std::fs::read(Path::new(&self.dir).join(name))
    }

    /// The same volume, made on another host, becomes known here.
    fn adopt(&self, id: &str, options: &[&str]) -> Ended {
        let mut words = vec!["volume", "adopt", "db", "--store", "cloud", "--id", id];
        words.extend(options.iter().flat_map(|o| ["-o", o]));
        self.world.run(&words)
    }

    fn create(&self, options: &[&str]) -> String {
        let mut words = vec!["volume", "create", "db", "-o", "store=cloud"];
        words.extend(options.iter().flat_map(|o| ["-o", o]));
        self.world.run(&words).ok();
        self.world.json(&["volume", "inspect", "db"])[0]["id"].as_str().expect("an id").to_owned()
    }

    fn healthy(&self) {
        let check = self.world.run(&["check", "db"]);
        assert_eq!(check.code, 0, "{}{}", check.out, check.err);
    }

    /// Whoever asks is told that the volume is mounted in name only.
    fn says_why_it_stopped(&self) {
        let why = self.world.json(&["volume", "inspect", "db"])[0]["usage"]["stopped"].as_str().unwrap_or_default().to_owned();
        assert!(why.contains("host"), "{why}");
        for words in [&["status"][..], &["volume", "inspect", "db"], &["doctor"]] {
            let shown = self.world.run(words);
            assert!(shown.out.contains(&why), "{words:?}: {}", shown.out);
        }
        assert!(self.world.run(&["volume", "list"]).ok().out.contains("takes no changes"));
        let mounted = self.world.run(&["mount", "db", &self.world.dir("elsewhere")]).fails(5, "takes no changes");
        assert!(mounted.err.contains("orlop unmount db"), "{}", mounted.err);
        self.world.run(&["check", "db"]).fails(5, "takes no changes");
    }

    /// Daemon, keeper and workers, all at once, without a word.
    fn kill_everything(&self) {
        let all = self.world.processes();
        assert!(all.len() >= 3, "daemon, keeper and worker: {all:?}");
        for pid in &all {
            kill(*pid);
        }
        wait("everything is gone", || !all.iter().any(|p| alive(*p)));
    }
}

fn two_hosts(test: &str) -> Option<(S3Server, Host, Host)> {
    if !can_mount(test) || !Net::possible(test) {
        return None;
    }
    let server = S3Server::start("bucket")?;
    let (one, two) = (Host::new(&server, 1), Host::new(&server, 2));
    Some((server, one, two))
}

fn contents(n: usize) -> Vec<u8> {
    (0..n * 3001).map(|i| (i * 7 + n * 13) as u8).collect()
}

#[test]
fn a_host_that_dies_is_succeeded_and_every_synced_byte_is_there() {
    let Some((_server, one, two)) = two_hosts("a dead host") else { return };
    let id = one.create(&[]);
    // The other host sees it in the store, and knows it once it was adopted.
    let found = two.world.json(&["volume", "adopt", "--store", "cloud"]);
    assert_eq!((&found[0]["id"], found[0].get("known_as")), (&id.clone().into(), None), "{found}");
    let listed = two.world.run(&["volume", "adopt", "--store", "cloud"]).ok();
    assert!(listed.out.contains(&id) && listed.err.contains("--id"), "{}{}", listed.out, listed.err);
    two.world.run(&["volume", "adopt", "db", "--store", "cloud", "--id", "00000000-0000-4000-8000-000000000000"]).fails(3, "no volume");
    two.world.run(&["volume", "adopt", "db", "--store", "default"]).fails(11, "own disk");
    two.adopt(&id, &[]).ok();
    two.adopt(&id, &[]).ok();
    two.world.run(&["volume", "adopt", "other", "--store", "cloud", "--id", &id]).fails(4, "known here already");
    let events = two.world.json(&["audit", "list", "--verb", "volume.adopt"]);
    assert!(events.as_array().is_some_and(|e| e.len() >= 2), "{events}");

    one.mount().ok();
    for n in 0..12 {
        one.write(&format!("f{n}"), &contents(n)).expect("synced");
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a host name");
    let began = Instant::now();
    let refused = two.mount().fails(5, host.trim());
    assert!(refused.err.contains("in use on host"), "{}", refused.err);
    assert!(began.elapsed() < Duration::from_secs(LEASE + 10), "a living owner shows itself soon: {:?}", began.elapsed());
    assert_eq!(two.world.mounts(), Vec::<std::path::PathBuf>::new());
    // What another host has mounted is not deleted under it by the one that adopted it.
    two.world.run(&["volume", "remove", "--now", "db"]).ok();
    one.write("still", b"here").expect("synced");
    two.adopt(&id, &[]).ok();

    one.kill_everything();
    let began = Instant::now();
    two.mount().ok();
    println!("a host that is dead is succeeded after {:?}", began.elapsed());
    // It has to be seen silent for a lease; the rest is opening, in a debug build beside other tests.
    assert!(began.elapsed() < Duration::from_secs(LEASE + 10), "{:?}", began.elapsed());
    for n in 0..12 {
        assert!(two.read(&format!("f{n}")).expect("there") == contents(n), "f{n}");
    }
    assert_eq!(two.read("still").expect("there"), b"here");
    two.write("f0", b"of the second host").expect("synced");
    two.world.run(&["unmount", "db"]).ok();
    two.healthy();
}

#[test]
fn a_host_that_was_only_paused_does_no_harm() {
    let Some((server, _, two)) = two_hosts("a paused host") else { return };
    let proxy = FaultProxy::start(server.addr());
    let one = Host::by(&server, proxy.addr(), 3);
    let id = one.create(&[]);
    two.adopt(&id, &[]).ok();
    one.mount().ok();
    one.write("f", b"first").expect("synced");
    let mut open = File::open(Path::new(&one.dir).join("f")).expect("opens");
    let mut held = || {
        let mut bytes = Vec::new();
        open.rewind().and_then(|()| open.read_to_end(&mut bytes)).map(|_| bytes)
    };
    assert_eq!(held().expect("reads"), b"first");
    let worker = one.worker();
    send(Pid::from_raw(worker), Signal::SIGSTOP).expect("stops");
    two.mount().ok();
    assert_eq!(two.read("f").expect("there"), b"first");
    two.write("f", b"second").expect("synced");
    // The store takes its time to say that somebody else has the volume: it is waited for.
    proxy.set(Faults::only(Rule::from(Fault::Latency(Duration::from_millis(900)))));
    send(Pid::from_raw(worker), Signal::SIGCONT).expect("goes on");
    let told = one.read("f");
    assert!(told.is_err(), "old news after the pause: {told:?}");
    wait("a file that is open since before is not read from the kernel's memory", || held().is_err());
    drop(open);
    proxy.heal();
    the_first_one_is_fenced(&one, &two);
}

#[test]
fn a_host_whose_cable_was_cut_does_no_harm() {
    let Some((_server, one, two)) = two_hosts("a cut cable") else { return };
    let id = one.create(&[]);
    two.adopt(&id, &[]).ok();
    one.mount().ok();
    one.write("f", b"first").expect("synced");
    one.net.cut();
    // It serves on what it has, and what it is told to keep it keeps to itself.
    assert_eq!(one.read("f").expect("its own copy"), b"first");
    two.mount().ok();
    two.write("f", b"second").expect("synced");
    one.net.mend();
    the_first_one_is_fenced(&one, &two);

    // Nor is it deleted by the host that made it while another has it, or had it last; and nothing of a refusal stays.
    two.mount().ok();
    two.write("moved", b"of the second host").expect("synced");
    let remove = ["volume", "remove", "--now", "db"];
    one.world.run(&remove).fails(5, "in use on host");
    assert_eq!(one.world.json(&["volume", "inspect", "db"])[0]["state"], "active");
    two.world.run(&["unmount", "db"]).ok();
    one.world.run(&remove).fails(5, "last used on host");
    // In the trash its time is over at once, and then it is forgotten here.
    one.world.run(&["volume", "set", "db", "-o", "retention=0"]).ok();
    one.world.run(&["volume", "remove", "db"]).ok();
    wait("the first host forgets it", || one.world.json(&["volume", "list", "--all"]).as_array().is_some_and(Vec::is_empty));
    two.mount().ok();
    assert_eq!(two.read("moved").expect("there"), b"of the second host");
    two.world.run(&["unmount", "db"]).ok();
    two.healthy();
    // Who has it by its id, made it, and had it last may delete it.
    one.adopt(&id, &[]).ok();
    one.world.run(&["volume", "remove", "--now", "db"]).ok();
    two.mount().ok();
    two.world.run(&["unmount", "db"]).ok();
}

/// Nothing that it does counts any more, and it tells nothing that is old, from the moment on that it can know.
fn the_first_one_is_fenced(one: &Host, two: &Host) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let synced = one.write("late", b"too late");
        assert!(synced.is_err(), "an fsync of the first host is answered after the second one took over");
        match one.read("f") {
            Ok(bytes) => assert!(bytes != b"first" || Instant::now() < end, "it still tells old news"),
            Err(_) => break,
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    one.says_why_it_stopped();
    assert_eq!(two.read("f").expect("there"), b"second");
    assert!(two.read("late").is_err(), "what the first one wrote late is in the volume");
    two.write("g", b"goes on").expect("synced");
    one.world.run(&["unmount", "db"]).ok();
    two.world.run(&["unmount", "db"]).ok();
    two.healthy();
    // The first host comes back to what the second one left.
    one.mount().ok();
    assert_eq!(one.read("f").expect("there"), b"second");
    assert_eq!(one.read("g").expect("there"), b"goes on");
    one.world.run(&["unmount", "db"]).ok();
}

#[test]
fn no_worker_follows_one_that_died_while_another_host_had_the_volume() {
    let Some((_server, one, two)) = two_hosts("a lost mount") else { return };
    let id = one.create(&[]);
    two.adopt(&id, &[]).ok();
    one.mount().ok();
    one.write("f", b"first").expect("synced");
    one.net.cut();
    // Its number is given again by the other host, which never hears of it.
    let mut mine = File::create(Path::new(&one.dir).join("mine")).expect("made");
    mine.write_all(b"of the first host").expect("taken");
    two.mount().ok();
    two.write("theirs", b"of the second host").expect("synced");
    two.write("f", b"second").expect("synced");
    kill(one.worker());
    two.world.run(&["unmount", "db"]).ok();
    one.net.mend();
    let until = Instant::now() + Duration::from_secs(60);
    while !one.world.json(&["volume", "inspect", "db"])[0]["usage"]["stopped"].is_string() {
        assert!(Instant::now() < until, "its next worker finds out whose the volume was");
        std::thread::sleep(Duration::from_millis(200));
    }
    one.says_why_it_stopped();
    assert!(mine.sync_all().is_err(), "what was never sent is not there");
    assert!(mine.write_all(b"over theirs").and_then(|()| mine.sync_all()).is_err());
    assert!(one.read("f").is_err() && one.write("late", b"too late").is_err());
    two.mount().ok();
    for (name, there) in [("theirs", &b"of the second host"[..]), ("f", b"second")] {
        assert_eq!(two.read(name).expect("there"), there, "{name}");
    }
    assert!(two.read("late").is_err() && two.read("mine").is_err());
    two.write("g", b"goes on").expect("synced");
    two.world.run(&["unmount", "db"]).ok();
    two.healthy();
    drop(mine);
    one.world.run(&["unmount", "db"]).ok();
    one.mount().ok();
    assert_eq!(one.read("g").expect("there"), b"goes on");
    one.world.run(&["unmount", "db"]).ok();
}

#[test]
fn what_was_never_sent_is_given_up_only_by_name() {
    let Some((_server, one, two)) = two_hosts("unsent changes") else { return };
    let id = one.create(&["durability=local"]);
    two.adopt(&id, &["durability=local"]).ok();
    one.mount().ok();
    one.write("f", b"sent").expect("synced");
    one.world.run(&["unmount", "db"]).ok();
    one.mount().ok();
    one.write("f", b"acknowledged here, never sent").expect("synced on this host's disk");
    one.kill_everything();

    let refused = two.mount().fails(5, "acknowledged changes");
    assert!(refused.err.contains("--abandon-unsynced") && refused.err.contains("since"), "{}", refused.err);
    // Not a terminal: it says what would be lost and asks for a clear word.
    let asked = two.world.run(&["mount", "db", &two.dir, "--abandon-unsynced"]).fails(5, "acknowledged changes");
    assert!(asked.err.contains("--yes"), "{}", asked.err);
    assert_eq!(two.world.mounts(), Vec::<std::path::PathBuf>::new());
    let unclear = two.world.run(&["mount", "db", &two.dir, "--yes"]);
    assert!(unclear.code == 2 && unclear.err.contains("--abandon-unsynced"), "{} {}", unclear.code, unclear.err);
    two.world.run(&["mount", "db", &two.dir, "--abandon-unsynced", "--yes"]).ok();
    assert_eq!(two.read("f").expect("there"), b"sent");
    let events = two.world.json(&["audit", "list", "--verb", "volume.attach"]);
    assert!(events.to_string().contains("\"abandon_unsynced\":true"), "{events}");
    two.write("f", b"after").expect("synced");
    two.world.run(&["unmount", "db"]).ok();
    two.healthy();
}

#[test]
fn a_lease_that_makes_no_sense_is_refused_at_the_start() {
    let world = World::new();
    for bad in ["0", "4", "601", "soon"] {
        let ended = world.command(&["up", "--no-docker-plugin"]).env("ORLOP_LEASE", bad).output().expect("runs");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert!(said.contains("ORLOP_LEASE") && said.contains("5 to 600") && said.contains("hint: "), "{said}");
    }
    assert_eq!(world.processes(), Vec::<i32>::new());
}
