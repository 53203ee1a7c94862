//! `orlop upgrade`

use super::up;
use crate::args::Context;
use crate::daemon;
use crate::failure::FOUND;
use crate::progress::Progress;
use crate::ui::Table;
use futures::FutureExt;
use orlop_api::wire::Shutdown;
use orlop_model::{Error, ErrorKind, Result};
use orlop_mount::keeper::{Launcher, change_over, has_workers, is_alive, may_change_over};
use orlop_mount::{AttachedVolume, KeeperClient};
use serde::Serialize;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Moves what runs to the binary that is on disk now, while containers go on: the daemon, the keeper, and the worker of
/// every mounted volume.
///
/// Run the new binary. A process that runs it already is left alone. While its worker is exchanged a volume does not
/// answer, for well below two seconds; open files, locks and mappings stay. A volume that the new binary refuses goes on
/// with the old one. Exit code 1 when something was left behind.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only tell what would be moved.
    #[arg(long)]
    dry_run: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    root: PathBuf,
    /// The binary on disk, and its version.
    binary: PathBuf,
    version: &'static str,
    dry_run: bool,
    parts: Vec<Part>,
}

/// One process.
#[derive(Debug, Serialize)]
struct Part {
    part: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume: Option<String>,
    /// The process that was found, and the one that is there now.
    before: u32,
    now: u32,
    state: State,
    /// How long nobody answered the volume's users.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It runs the binary on disk already.
    Current,
    /// It runs another one; only told in a rehearsal.
    Old,
    /// It ran another one and does no longer.
    Moved,
    /// It still runs another one.
    Left,
}

impl Part {
    fn new(part: &'static str, before: u32, state: State) -> Part {
        Part { part, volume: None, before, now: before, state, paused_ms: None, note: None }
    }

    fn left(self, e: &Error) -> Part {
        let remedy = e.remedy.as_ref().map(|r| format!("; {r}")).unwrap_or_default();
        Part { state: State::Left, note: Some(format!("{}{remedy}", e.message)), ..self }
    }
}

/// A binary as the file that it is: a new one at the same path is another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Binary(u64, u64);

impl Binary {
    fn at(path: &Path) -> Result<Binary> {
        let of = std::fs::metadata(path).map_err(|e| Error::io(format_args!("looking at {}", path.display()), &e))?;
        Ok(Binary(of.dev(), of.ino()))
    }

    fn of_process(pid: u32) -> Result<Binary> {
        Binary::at(Path::new(&format!("/proc/{pid}/exe")))
    }
}

/// The signals that end a command: from now on they end this one only between two volumes. In between a daemon or a keeper
/// would be missing. What it starts is not touched by this, since it gets the signals back as they were.
struct Uninterrupted([Signal; 3]);

impl Uninterrupted {
    fn begin() -> Result<Uninterrupted> {
        let catch = |kind| signal(kind).map_err(|e| Error::io("catching signals", &e));
        Ok(Uninterrupted([catch(SignalKind::interrupt())?, catch(SignalKind::hangup())?, catch(SignalKind::terminate())?]))
    }

    /// Whether one came that was not told of before.
    fn struck(&mut self) -> bool {
        self.0.iter_mut().any(|s| s.recv().now_or_never().is_some())
    }
}

/// Where everything moves to.
struct Move<'a> {
    cx: &'a Context,
    program: PathBuf,
    binary: Binary,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new(ErrorKind::Denied, "upgrading needs root: it exchanges the processes that serve mounts")
            .with_remedy("run the command as root, with sudo for example"));
    }
    let program = daemon::this_program()?;
    let to = Move { binary: Binary::at(&program)?, program, cx };
    let parts = to.all(args.dry_run).await?;
    let report = Report { root: cx.root.clone(), binary: to.program, version: env!("CARGO_PKG_VERSION"), dry_run: args.dry_run, parts };
    cx.ui.show(&report, || text(&report))?;
    Ok(if report.parts.iter().any(|p| p.state == State::Left) { FOUND } else { 0 })
}

impl Move<'_> {
    async fn all(&self, dry_run: bool) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        let status = match self.cx.client.status().await {
            Ok(status) => Some(status.host),
            Err(e) if e.kind == ErrorKind::Unavailable && !daemon::is_locked(&self.cx.root) => None,
            Err(e) => return Err(e),
        };
        // One that speaks another language is found here, before anything was touched.
        let keeper = self.keeper(status.is_some()).await.map_err(|e| e.during("nothing was changed"))?;
        let mut daemon = None;
        if status.is_none() && keeper.is_none() && has_workers(&self.cx.root) {
            return Err(Error::unavailable(format!(
                "neither a daemon nor a keeper runs on {}, but the workers of volumes do: nothing was changed",
                self.cx.root.display()
            ))
            .with_remedy(format!("start them: orlop up{}", self.cx.root_flag())));
        }
        let mut signals = if dry_run { None } else { Some(Uninterrupted::begin()?) };
        if let Some(host) = &status {
            let state = self.state_of(host.pid)?;
            daemon = (state == State::Old && !dry_run).then_some(host);
            parts.push(Part::new("daemon", host.pid, state));
        }
        let Some((keeper_pid, keeper)) = keeper else {
            if let Some(host) = daemon
                && let Some(part) = parts.pop()
            {
                parts.push(self.exchange_daemon(part, host.plugin.clone(), None, signals.as_mut()).await);
            }
            return Ok(parts);
        };
        if status.is_none() {
            let none = Error::unavailable("none runs, as after an upgrade that was cut off");
            parts.push(Part::new("daemon", 0, State::Left).left(&none.with_remedy(format!("start it: orlop up{}", self.cx.root_flag()))));
        }
        let mut kept = Part::new("keeper", keeper_pid, self.state_of(keeper_pid)?);
        let move_keeper = kept.state == State::Old && !dry_run;
        match (daemon, parts.pop()) {
            (Some(host), Some(part)) => {
                let keeper = move_keeper.then_some(&mut kept);
                parts.push(self.exchange_daemon(part, host.plugin.clone(), keeper, signals.as_mut()).await);
            }
            (_, part) => {
                if move_keeper {
                    self.exchange_keeper(&mut kept).await;
                }
                parts.extend(part);
            }
        }
        let keeper_stays = kept.state == State::Left;
        parts.push(kept);
        let volumes = keeper.list().await?;
        let mut progress = Progress::new(&self.cx.ui);
        let mut hindrance = keeper_stays.then_some("its keeper could not be moved");
        for (n, volume) in volumes.iter().enumerate() {
            if signals.as_mut().is_some_and(Uninterrupted::struck) {
                hindrance = hindrance.or(Some("interrupted; run orlop upgrade again"));
            }
            progress.show(&format!("moving {}, {} of {}", volume.plan.name, n + 1, volumes.len()), n as u64 + 1, 0);
            parts.push(self.worker(&keeper, volume, dry_run, hindrance).await);
        }
        progress.end();
        Ok(parts)
    }

    /// The keeper, if one runs. One that was killed this moment has a successor soon, which the daemon starts: without it the workers that go
    /// on would be taken for none. One that lives and does not answer makes its socket anew.
    async fn keeper(&self, is_daemon_there: bool) -> Result<Option<(u32, KeeperClient)>> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let found = async {
                let keeper = KeeperClient::connect(&self.cx.root).await?;
                Ok::<_, Error>((keeper.pid().await?, keeper))
            };
            match found.await {
                Ok(keeper) => return Ok(Some(keeper)),
                Err(e) if e.kind != ErrorKind::Unavailable => return Err(e),
                Err(_) if !is_alive(&self.cx.root) && (!is_daemon_there || !has_workers(&self.cx.root)) => return Ok(None),
                Err(e) if Instant::now() > until => return Err(e),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn state_of(&self, pid: u32) -> Result<State> {
        Ok(if Binary::of_process(pid)? == self.binary { State::Current } else { State::Old })
    }

    async fn worker(&self, keeper: &KeeperClient, v: &AttachedVolume, dry_run: bool, hindrance: Option<&str>) -> Part {
        let mut part = Part::new("worker", v.worker_pid, State::Old);
        part.volume = Some(v.plan.name.to_string());
        // Without a process it is being replaced this moment; the keeper says whether it can be moved then.
        if v.worker_pid != 0 && matches!(self.state_of(v.worker_pid), Ok(State::Current)) {
            return Part { state: State::Current, ..part };
        }
        if dry_run {
            return part;
        }
        if let Some(why) = hindrance {
            return Part { state: State::Left, note: Some(why.to_owned()), ..part };
        }
        match keeper.renew(v.plan.volume).await {
            Ok(renewed) => {
                part.now = renewed.worker_pid;
                part.paused_ms = Some(renewed.paused_ms);
                part.note = renewed.refused.map(|why| format!("the new binary refuses it, the old one goes on: {why}"));
                part.state = if part.note.is_some() { State::Left } else { State::Moved };
                part
            }
            Err(e) => part.left(&e),
        }
    }

    /// The daemon, and while it is away the keeper, so that no call meets one that is just leaving.
    async fn exchange_daemon(
        &self,
        mut part: Part,
        plugin: Option<String>,
        keeper: Option<&mut Part>,
        mut signals: Option<&mut Uninterrupted>,
    ) -> Part {
        if let Some(unit) = unit_of(part.before).await {
            if let Some(keeper) = keeper {
                self.exchange_keeper(keeper).await;
            }
            let done = restart(&unit).await;
            return match done {
                Ok(()) => self.verified(part, self.status_pid().await),
                Err(e) => part.left(&e),
            };
        }
        if is_in_foreground(part.before) {
            part.state = State::Left;
            part.note = Some("it was started with --foreground: start it again where that was done".into());
            if let Some(keeper) = keeper {
                self.exchange_keeper(keeper).await;
            }
            return part;
        }
        let environment = environment_of(part.before);
        let down = Shutdown { keep_mounts: true, ..Shutdown::default() };
        if let Err(e) = self.cx.client.shutdown(&down).await {
            return part.left(&e);
        }
        let began = Instant::now();
        while daemon::is_locked(&self.cx.root) {
            if began.elapsed() > Duration::from_secs(30) {
                return part.left(&Error::unavailable("it does not end"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if let Some(keeper) = keeper {
            self.exchange_keeper(keeper).await;
        }
        let words = plugin.map_or_else(|| vec!["--no-docker-plugin".to_owned()], |name| vec!["--plugin-name".to_owned(), name]);
        let mut started = up::spawn_with(self.cx, &words, environment.clone()).await;
        // A terminal's Ctrl-C also reaches what was started a moment ago and has no session of its own yet.
        if started.is_err() && signals.as_mut().is_some_and(|s| s.struck()) {
            started = up::spawn_with(self.cx, &words, environment).await;
        }
        match started {
            Ok(_) => self.verified(part, self.status_pid().await),
            Err(e) => part.left(&e.during("no daemon runs now: starting the new one")),
        }
    }

    async fn exchange_keeper(&self, part: &mut Part) {
        let root = self.cx.root.clone();
        let moved = match unit_of(part.before).await {
            Some(unit) => match blocking(move || may_change_over(&root)).await {
                Ok(()) => match restart(&unit).await {
                    Ok(()) => self.keeper_pid().await,
                    Err(e) => Err(e),
                },
                Err(e) => Err(e),
            },
            None => {
                // Stores may have their credentials in its environment, and the workers get it from there.
                let launcher = Launcher { program: self.program.clone(), args: vec!["keeper".into()], env: environment_of(part.before) };
                blocking(move || change_over(&root, &launcher)).await
            }
        };
        let old = Part::new(part.part, part.before, part.state);
        *part = self.verified(old, moved);
    }

    fn verified(&self, part: Part, now: Result<u32>) -> Part {
        match now.and_then(|pid| Ok((pid, self.state_of(pid)?))) {
            Ok((now, State::Current)) => Part { now, state: State::Moved, ..part },
            Ok((now, _)) => {
                let note = Some(format!("it runs another binary than {}: see how it is started", self.program.display()));
                Part { now, state: State::Left, note, ..part }
            }
            Err(e) => part.left(&e),
        }
    }

    async fn status_pid(&self) -> Result<u32> {
        self.patiently(async || self.cx.client.status().await.map(|s| s.host.pid)).await
    }

    async fn keeper_pid(&self) -> Result<u32> {
        self.patiently(async || KeeperClient::connect(&self.cx.root).await?.pid().await).await
    }

    async fn patiently(&self, ask: impl AsyncFn() -> Result<u32>) -> Result<u32> {
        let began = Instant::now();
        loop {
            match ask().await {
                Err(e) if e.kind == ErrorKind::Unavailable && began.elapsed() < Duration::from_secs(30) => {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                answer => return answer,
            }
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Error::internal(format!("changing the keeper over: {e}"))))
}

/// The systemd service whose main process this is; it then has to be restarted through systemd.
async fn unit_of(pid: u32) -> Option<String> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let unit = groups.lines().find_map(|l| l.rsplit('/').next().filter(|u| u.ends_with(".service")))?.to_owned();
    let shown = Command::new("systemctl").args(["show", "--property", "MainPID", "--value", "--", &unit]).output().await.ok()?;
    (String::from_utf8_lossy(&shown.stdout).trim() == pid.to_string()).then_some(unit)
}

async fn restart(unit: &str) -> Result<()> {
    // Out of reach of the terminal's Ctrl-C.
    let ran = Command::new("systemctl")
        .args(["restart", "--", unit])
        .process_group(0)
        .output()
        .await
        .map_err(|e| Error::io("running systemctl", &e))?;
    if ran.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    Err(Error::unavailable(format!("systemctl restart {unit}: {why}")).with_remedy(format!("journalctl -u {unit} says more")))
}

fn is_in_foreground(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|b| *b == 0).any(|word| word == b"--foreground")
}

/// What a process was started with in its environment.
fn environment_of(pid: u32) -> Vec<(OsString, OsString)> {
    let all = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let own = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    all.split(|b| *b == 0)
        .filter_map(|v| {
            let at = v.iter().position(|b| *b == b'=')?;
            (at > 0).then(|| (own(&v[..at]), own(&v[at + 1..])))
        })
        .collect()
}

fn text(report: &Report) -> String {
    if report.parts.is_empty() {
        return format!("Orlop is not running on {}: the next orlop up runs {}\n", report.root.display(), report.binary.display());
    }
    let mut table = Table::new(["PART", "PROCESS", "STATE", "PAUSED"]);
    for p in &report.parts {
        let name = p.volume.as_ref().map_or_else(|| p.part.to_owned(), |v| format!("{} of {v}", p.part));
        let process = match (p.before, p.now) {
            (0, 0) => "-".to_owned(),
            (before, now) if before == now => now.to_string(),
            (before, now) => format!("{before} -> {now}"),
        };
        let state = match p.state {
            State::Current => "current",
            State::Old => "would be moved",
            State::Moved => "moved",
            State::Left => "LEFT BEHIND",
        };
        let paused = p.paused_ms.map(|ms| format!("{ms} ms")).unwrap_or_default();
        table.row([name, process, state.to_owned(), paused]);
    }
    let mut text = table.text();
    for p in report.parts.iter().filter(|p| p.note.is_some()) {
        let name = p.volume.as_deref().unwrap_or(p.part);
        text.push_str(&format!("{name}: {}\n", p.note.as_deref().unwrap_or_default()));
    }
    let count = |state| report.parts.iter().filter(|p| p.state == state).count();
    text.push_str(&match (report.dry_run, count(State::Left)) {
        (true, _) => format!("{} of {} would be moved to {}\n", count(State::Old), report.parts.len(), report.binary.display()),
        (false, 0) => format!("everything runs {} {}\n", report.binary.display(), report.version),
        (false, n) => format!("{n} left behind, {} moved to {}\n", count(State::Moved), report.binary.display()),
    });
    text
}
