//! A root in a temporary folder, the binary that works on it, and the promise that nothing of it is left behind.

use orlop_store::testing::S3Server;
use serde_json::Value;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_orlop");

/// What a command said and how it ended.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) words: String,
}

impl Ended {
    fn new(words: String, output: Output) -> Ended {
        let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
        Ended { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr), words }
    }

    /// It succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Ended {
        assert_eq!(self.code, 0, "orlop {}\n{}{}", self.words, self.out, self.err);
        self
    }

    /// It failed with this code, an error that contains the word, and a hint.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, word: &str) -> Ended {
        assert_eq!(self.code, code, "orlop {}\n{}{}", self.words, self.out, self.err);
        assert!(self.err.contains(word), "orlop {}: {:?} is not in {}", self.words, word, self.err);
        assert!(self.err.contains("error: ") && self.err.contains("hint: "), "orlop {}: {}", self.words, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("orlop {}: {e} in {}{}", self.words, self.out, self.err))
    }
}

/// One Orlop.
pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) root: PathBuf,
    /// The plugin's name, when one is served.
    plugin: Option<String>,
}

impl World {
    /// A root that nothing was done to yet.
    pub(crate) fn new() -> World {
        let folder = tempfile::Builder::new().prefix("orlop-cli-").tempdir().expect("temporary folder");
        World { root: folder.path().join("root"), folder, plugin: None }
    }

    /// A running Orlop that does not serve Docker.
    pub(crate) fn up() -> World {
        let world = World::new();
        world.run(&["up", "--no-docker-plugin"]).ok();
        world
    }

    /// A running Orlop that serves Docker under a name of its own.
    pub(crate) fn up_with_plugin() -> (World, String) {
        let mut world = World::new();
        let name =
            format!("orlop-cli-{}", world.folder.path().file_name().expect("a name").to_string_lossy().trim_start_matches("orlop-cli-"));
        world.plugin = Some(name.clone());
        world.run(&["up", "--plugin-name", &name]).ok();
        (world, name)
    }

    /// A path in the temporary folder, outside the root.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new folder there.
    pub(crate) fn dir(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(&path).expect("folder");
        path.to_str().expect("plain").to_owned()
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.env("ORLOP_ROOT", &self.root).env_remove("DOCKER_HOST").args(words).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Ended {
        Ended::new(words.join(" "), self.command(words).output().expect("the binary runs"))
    }

    /// The same with JSON output, which must be one.
    #[track_caller]
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let mut all = words.to_vec();
        all.extend(["--output", "json"]);
        self.run(&all).ok().json()
    }

    /// A command run by another user, with a copy of the binary that this user can reach.
    pub(crate) fn run_as(&self, uid: u32, words: &[&str]) -> Ended {
        use std::os::unix::fs::PermissionsExt;
        let program = self.path("orlop-for-others");
        if !program.exists() {
            std::fs::copy(PROGRAM, &program).expect("copies");
            std::fs::set_permissions(self.folder.path(), std::fs::Permissions::from_mode(0o755)).expect("opens the folder");
        }
        let mut command = Command::new(&program);
        command.env("ORLOP_ROOT", &self.root).args(words).stdin(Stdio::null()).uid(uid).gid(uid).current_dir("/");
        Ended::new(words.join(" "), command.output().expect("the binary runs"))
    }

    pub(crate) fn daemon_pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.root.join("run/daemon.pid")).expect("a daemon runs");
        text.trim().parse().expect("a process id")
    }

    /// What the keeper's record says.
    pub(crate) fn keeper_record(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.root.join("run/keeper.json")).expect("a record")).expect("JSON")
    }

    pub(crate) fn keeper_pid(&self) -> i32 {
        self.keeper_record()["keeper_pid"].as_i64().expect("a number") as i32
    }

    /// The worker of the first volume in the keeper's record, 0 while it has none.
    pub(crate) fn worker_pid(&self) -> i32 {
        self.keeper_record()["volumes"][0]["worker_pid"].as_i64().unwrap_or_default() as i32
    }

    /// Kills the daemon without a word, and waits until it is gone.
    pub(crate) fn kill_daemon(&self) {
        let pid = self.daemon_pid();
        kill(pid);
        wait("the daemon is gone", || !alive(pid));
    }

    /// The processes that work on this root.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let root = self.root.to_str().expect("plain").to_owned();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
            let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
            if words.contains(&root.as_bytes()) && alive(pid) && pid != std::process::id() as i32 {
                found.push(pid);
            }
        }
        found
    }

    /// Kills all of them without a word, those that follow others too.
    pub(crate) fn kill_everything(&self) {
        wait("nothing of it runs", || {
            self.processes().into_iter().for_each(kill);
            self.processes().is_empty()
        });
    }

    /// The mounts below the temporary folder.
    pub(crate) fn mounts(&self) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let points = table.lines().filter_map(|l| l.split(' ').nth(4)).map(PathBuf::from);
        points.filter(|p| p.starts_with(self.folder.path())).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.command(&["down", "--force", "--remove-plugin-socket"]).output();
        for pid in self.processes() {
            kill(pid);
        }
        for point in self.mounts().iter().rev() {
            let _ = Command::new("umount").arg("-l").arg(point).output();
        }
        if let Some(name) = &self.plugin {
            let _ = std::fs::remove_file(socket_of(name));
            let _ = std::fs::remove_file(format!("/run/orlop/plugin-{name}.lock"));
        }
    }
}

/// The words that say how a server is reached, itself or through a proxy at this address.
pub(crate) fn s3_words(server: &S3Server, addr: SocketAddr) -> [String; 6] {
    let credentials = format!("file:{}", server.credentials_file().display());
    ["--credentials", &credentials, "--set", &format!("endpoint=http://{addr}"), "--set", "region=us-east-1"].map(str::to_owned)
}

pub(crate) fn socket_of(plugin: &str) -> PathBuf {
    Path::new("/run/docker/plugins").join(format!("{plugin}.sock"))
}

pub(crate) fn kill(pid: i32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

pub(crate) fn alive(pid: i32) -> bool {
    // A zombie has ended; only its parent has not looked yet. Not so while another of its threads is still on its way out:
    // until the last one is gone, what the process had open, and listened on, is open.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next()).is_some_and(|state| threads > 1 || !matches!(state, 'Z' | 'X'))
}

#[track_caller]
pub(crate) fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "still not: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether volumes can be mounted here; a test that cannot run says so.
pub(crate) fn can_mount(test: &str) -> bool {
    let can = Path::new("/dev/fuse").exists() && nix::unistd::geteuid().is_root();
    if !can {
        eprintln!("SKIPPED {test}: needs /dev/fuse and root");
    }
    can
}
