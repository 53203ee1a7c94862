//! `orlop upgrade` under write: everything moves to the binary on disk, and nobody who has files open notices more than
//! a pause; what the new binary cannot serve goes on with the old one.

use crate::world::{World, alive, can_mount, kill, wait};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// An Orlop whose binary can be replaced on disk.
struct Installed {
    world: World,
    binary: PathBuf,
}

impl Installed {
    fn up() -> Installed {
        let world = World::new();
        world.dir("bin");
        let it = Installed { binary: world.path("bin/orlop"), world };
        it.install();
        it.run(&["up", "--no-docker-plugin"], 0);
        it
    }

    /// Puts a new file in the binary's place, as a package does.
    fn install(&self) {
        let fresh = self.binary.with_extension("new");
        std::fs::copy(env!("CARGO_BIN_EXE_orlop"), &fresh).expect("copies");
        std::fs::rename(fresh, &self.binary).expect("renames");
    }

    /// A keeper of the new binary, which is kept elsewhere, and in the binary's place a script that its workers come from. Gives where the
    /// new binary is.
    fn workers_from(&self, worker: i32, script: impl FnOnce(&Path) -> String) -> PathBuf {
        self.install();
        let new = self.world.path("new-orlop");
        std::fs::hard_link(&self.binary, &new).expect("links");
        let keeper = self.world.processes().into_iter().find(|p| *p != worker && *p != self.world.daemon_pid()).expect("a keeper");
        kill(keeper);
        wait("the daemon has started another keeper", || self.world.processes().len() == 3 && !alive(keeper));
        wait("it answers", || self.workers() == [worker]);
        std::fs::remove_file(&self.binary).expect("removes");
        std::fs::write(&self.binary, script(&new)).expect("writes");
        std::fs::set_permissions(&self.binary, std::fs::Permissions::from_mode(0o755)).expect("executable");
        new
    }

    #[track_caller]
    fn run_as(&self, binary: &Path, words: &[&str], code: i32) -> String {
        let out = Command::new(binary).env("ORLOP_ROOT", &self.world.root).args(words).stdin(Stdio::null()).output().expect("runs");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert_eq!(out.status.code(), Some(code), "{words:?}: {said}{}", String::from_utf8_lossy(&out.stderr));
        said
    }

    #[track_caller]
    fn run(&self, words: &[&str], code: i32) -> String {
        self.run_as(&self.binary, words, code)
    }

    fn workers(&self) -> Vec<i32> {
        let status: Value = serde_json::from_str(&self.run(&["status", "--output", "json"], 0)).expect("JSON");
        // Without a keeper there is nobody to tell.
        let all = status["keeper"]["workers"].as_array().cloned().unwrap_or_default();
        // While one is being replaced there is none.
        all.iter().map(|w| w["pid"].as_i64().unwrap_or_default() as i32).collect()
    }
}

fn inode(path: impl AsRef<Path>) -> u64 {
    std::fs::metadata(path).expect("there").ino()
}

fn parts(report: &str) -> Vec<(String, String)> {
    let report: Value = serde_json::from_str(report).expect("JSON");
    let text = |v: &Value| v.as_str().expect("text").to_owned();
    report["parts"].as_array().expect("parts").iter().map(|p| (text(&p["part"]), text(&p["state"]))).collect()
}

fn all(state: &str, report: &str) -> bool {
    let expected = ["daemon", "keeper", "worker", "worker"].map(|p| (p.to_owned(), state.to_owned()));
    assert_eq!(parts(report), expected, "{report}");
    true
}

#[test]
fn everything_moves_to_the_new_binary_while_files_are_written() {
    if !can_mount("upgrade") {
        return;
    }
    let it = Installed::up();
    for name in ["a", "b"] {
        it.run(&["volume", "create", name], 0);
        it.run(&["mount", name, &it.world.dir(name)], 0);
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = ["a", "b"]
            .iter()
            .map(|name| {
                let (dir, stop) = (it.world.path(name), &stop);
                scope.spawn(move || {
                    let mut log = File::options().create_new(true).append(true).read(true).open(dir.join("log")).expect("opens");
                    let (mut n, mut longest) = (0u32, Duration::ZERO);
                    while !stop.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        File::options().write(true).create_new(true).open(dir.join("once")).expect("made once");
                        std::fs::remove_file(dir.join("once")).expect("removed once");
                        writeln!(log, "{n}").expect("written");
                        longest = longest.max(began.elapsed());
                        n += 1;
                    }
                    let mut text = String::new();
                    log.rewind().expect("seeks");
                    log.read_to_string(&mut text).expect("reads");
                    assert!(text.lines().map(|l| l.parse::<u32>().expect("a number")).eq(0..n), "every line once, in order");
                    longest
                })
            })
            .collect();
        assert!(all("current", &it.run(&["upgrade", "--output", "json"], 0)), "nothing to do yet");
        let before = it.world.processes();
        assert_eq!(before.len(), 4, "{before:?}");
        it.install();
        assert!(all("old", &it.run(&["upgrade", "--dry-run", "--output", "json"], 0)));
        assert_eq!(it.world.processes(), before, "a rehearsal changes nothing");

        assert!(all("moved", &it.run(&["upgrade", "--output", "json"], 0)));
        let after = it.world.processes();
        assert_eq!(after.len(), 4, "{after:?}");
        for pid in &after {
            assert!(!before.contains(pid));
            assert_eq!(inode(format!("/proc/{pid}/exe")), inode(&it.binary));
        }
        assert!(it.run(&["upgrade"], 0).contains("everything runs"));
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            let longest = writer.join().expect("no write failed");
            assert!(longest < Duration::from_secs(2), "a writer waited {longest:?}");
        }
    });
    for name in ["a", "b"] {
        it.run(&["unmount", it.world.path(name).to_str().expect("plain")], 0);
        it.run(&["check", name], 0);
    }
}

#[test]
fn a_volume_that_the_new_binary_cannot_serve_goes_on_with_the_old_one() {
    if !can_mount("upgrade that is refused") {
        return;
    }
    let it = Installed::up();
    it.run(&["volume", "create", "a"], 0);
    it.run(&["mount", "a", &it.world.dir("a")], 0);
    let old = inode(&it.binary);
    let mut file = File::create(it.world.path("a/f")).expect("opens");
    writeln!(file, "before").expect("writes");

    // Workers come from a file that is no program of this kind.
    let worker = it.workers()[0];
    let new = it.workers_from(worker, |_| "#!/bin/sh\necho this one cannot >&2\nexit 1\n".to_owned());

    let report = it.run_as(&new, &["upgrade", "--output", "json"], 1);
    let expected = [("daemon", "moved"), ("keeper", "current"), ("worker", "left")].map(|(p, s)| (p.to_owned(), s.to_owned()));
    assert_eq!(parts(&report), expected, "{report}");
    writeln!(file, "after").expect("writes");
    assert_eq!(std::fs::read_to_string(it.world.path("a/f")).expect("reads"), "before\nafter\n");
    let serving = || {
        let status: Value = serde_json::from_str(&it.run_as(&new, &["status", "--output", "json"], 0)).expect("JSON");
        // Without a keeper there is nobody to tell.
        status["keeper"]["workers"][0]["pid"].as_i64().unwrap_or_default() as i32
    };
    let pid = serving();
    assert_ne!(pid, worker);
    assert_eq!(inode(format!("/proc/{pid}/exe")), old, "the old binary serves it");
    // And does again when that worker dies too.
    kill(pid);
    writeln!(file, "and later").expect("writes");
    wait("another worker serves", || ![0, pid].contains(&serving()));
    assert_eq!(inode(format!("/proc/{}/exe", serving())), old);
    // Also after a keeper has died that alone knew of the refusal.
    let (pid, keeper) = (serving(), it.world.keeper_pid());
    kill(keeper);
    wait("another keeper has it", || it.world.keeper_pid() != keeper && serving() == pid);
    kill(pid);
    writeln!(file, "and on").expect("writes");
    wait("another worker serves", || ![0, pid].contains(&serving()));
    assert_eq!(inode(format!("/proc/{}/exe", serving())), old);
    drop(file);
    it.run_as(&new, &["down", "--force"], 0);
}

/// As when somebody, or the kernel, kills it just then.
#[test]
fn one_worker_of_the_new_binary_that_dies_is_no_reason_to_go_back() {
    if !can_mount("upgrade whose worker dies") {
        return;
    }
    let it = Installed::up();
    it.run(&["volume", "create", "a"], 0);
    it.run(&["mount", "a", &it.world.dir("a")], 0);
    let (old, worker) = (inode(&it.binary), it.workers()[0]);
    let mut file = File::create(it.world.path("a/f")).expect("opens");
    writeln!(file, "before").expect("writes");
    // The first worker dies, and others are of the new binary.
    let once = it.world.path("once");
    let script = |new: &Path| format!("#!/bin/sh\nif mkdir {}; then exit 1; fi\nexec {} \"$@\"\n", once.display(), new.display());
    let new = it.workers_from(worker, script);

    let report = it.run_as(&new, &["upgrade", "--output", "json"], 0);
    assert!(once.exists(), "the first one died");
    assert_eq!(parts(&report).last().map(|(p, s)| (p.as_str(), s.as_str())), Some(("worker", "moved")), "{report}");
    writeln!(file, "after").expect("writes");
    assert_eq!(std::fs::read_to_string(it.world.path("a/f")).expect("reads"), "before\nafter\n");
    let exe = inode(format!("/proc/{}/exe", it.world.worker_pid()));
    assert!(exe != old && exe == inode(&new), "the new binary serves it");
    drop(file);
    it.run_as(&new, &["down", "--force"], 0);
}

/// As after a new binary that starts no keeper: the old one's file is no longer on disk, and its workers come from it all the same.
#[test]
fn a_keeper_whose_file_is_gone_starts_workers_from_what_it_runs_itself() {
    if !can_mount("keeper without a file") {
        return;
    }
    let it = Installed::up();
    it.run(&["volume", "create", "a"], 0);
    it.run(&["mount", "a", &it.world.dir("a")], 0);
    let mut file = File::create(it.world.path("a/f")).expect("opens");
    writeln!(file, "before").expect("writes");
    let (worker, old) = (it.workers()[0], inode(&it.binary));
    it.run(&["down", "--keep-mounts"], 0);
    let keeper = it.world.keeper_pid();
    kill(keeper);
    wait("it is gone", || !alive(keeper));

    let open = File::open(&it.binary).expect("opens");
    std::fs::remove_file(&it.binary).expect("removes");
    std::fs::write(&it.binary, "#!/bin/sh\nexit 1\n").expect("writes");
    std::fs::set_permissions(&it.binary, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let mut fallback = Command::new(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open)))
        .arg("--root")
        .arg(&it.world.root)
        .arg("keeper")
        .stdin(Stdio::null())
        .spawn()
        .expect("starts");
    wait("it has the mount", || it.world.keeper_pid() == fallback.id() as i32 && it.world.worker_pid() == worker);
    // Another one than the keeper's own would be kept by itself.
    assert_eq!(inode(format!("/proc/{}/exe", fallback.id())), old);
    kill(worker);
    wait("another worker serves", || ![0, worker].contains(&it.world.worker_pid()));
    writeln!(file, "after").expect("writes");
    assert_eq!(inode(format!("/proc/{}/exe", it.world.worker_pid())), old);
    drop(file);
    it.world.run(&["down", "--force"]).ok();
    fallback.wait().expect("it has ended");
}

#[test]
fn what_interrupts_an_upgrade_leaves_no_host_without_a_daemon() {
    if !can_mount("upgrade that is interrupted") {
        return;
    }
    let it = Installed::up();
    it.run(&["volume", "create", "a"], 0);
    it.run(&["mount", "a", &it.world.dir("a")], 0);
    it.install();
    let daemon = it.world.daemon_pid();
    let mut upgrade = Command::new(&it.binary)
        .env("ORLOP_ROOT", &it.world.root)
        .args(["upgrade", "--output", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    wait("the daemon has ended", || !alive(daemon));
    for signal in [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGHUP, nix::sys::signal::Signal::SIGTERM] {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(upgrade.id() as i32), signal).expect("sent");
    }
    let code = upgrade.wait().expect("it ends").code();
    assert_eq!(code, Some(1), "the worker was left");
    assert_eq!(it.workers().len(), 1);
    assert_ne!(it.world.daemon_pid(), daemon);
    let report = it.run(&["upgrade", "--output", "json"], 0);
    let expected = [("daemon", "current"), ("keeper", "current"), ("worker", "moved")].map(|(p, s)| (p.to_owned(), s.to_owned()));
    assert_eq!(parts(&report), expected, "{report}");
}

#[test]
fn without_a_daemon_it_says_so_and_does_not_end_well() {
    if !can_mount("upgrade without a daemon") {
        return;
    }
    let it = Installed::up();
    it.run(&["volume", "create", "a"], 0);
    it.run(&["mount", "a", &it.world.dir("a")], 0);
    let worker = it.workers()[0];
    it.world.kill_daemon();
    let said = it.run(&["upgrade"], 1);
    assert!(said.contains("orlop up"), "{said}");
    let keeper = it.world.keeper_pid();
    kill(keeper);
    wait("the keeper is gone", || !alive(keeper));
    it.world.run(&["upgrade"]).fails(9, "workers");
    it.run(&["up", "--no-docker-plugin"], 0);
    assert_eq!(it.workers(), [worker]);
    assert!(it.run(&["upgrade"], 0).contains("everything runs"));
}
