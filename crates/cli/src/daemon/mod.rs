//! The daemon: wires control to its ports and front doors, serves its sockets, ends when told to.
//!
//! It holds no mount itself. Killed at any moment and started again it goes on with what the keeper holds.

mod adopt;
mod files;
mod host;
mod keeper;
mod keys;
mod layout;
mod lock;
mod log;
mod offline;
mod plain;
mod plugin;
mod ports;
mod ready;
mod socket;
mod speed;

pub(crate) use offline::audit as offline_audit;
pub(crate) use plugin::check_name as check_plugin_name;
pub(crate) use ready::Readiness;

use host::DaemonHost;
use orlop_api::docker::Identity;
use orlop_control::{Control, ControlConfig};
use orlop_model::{Error, ErrorKind, Result};
use ports::Ports;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

/// How often the host is brought in line with the registry without being asked.
const RECONCILE_PERIOD: Duration = Duration::from_secs(30);
/// How long a start waits for the first of these.
const FIRST_TURN: Duration = Duration::from_secs(5);
/// How long what is in flight may take at the end.
const GRACE: Duration = Duration::from_secs(10);

/// What a daemon is started with.
pub(crate) struct Settings {
    /// The Docker plugin's name; `None` for no plugin.
    pub plugin: Option<String>,
    /// Whether another process started this one and waits on its standard output.
    pub detached: bool,
}

/// Makes the folders of a root.
pub(crate) fn prepare(root: &Path) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new(ErrorKind::Denied, "starting Orlop needs root: it mounts file systems")
            .with_remedy("run the command as root, with sudo for example"));
    }
    layout::create(root)
}

/// This binary, also after a newer one took its place on disk.
pub(crate) fn this_program() -> Result<PathBuf> {
    let path = std::env::current_exe().map_err(|e| Error::io("finding this program", &e))?;
    Ok(match path.to_str().and_then(|p| p.strip_suffix(" (deleted)")) {
        Some(newer) => PathBuf::from(newer),
        None => path,
    })
}

/// Whether a living daemon has the root, also when its lock was removed.
pub(crate) fn is_locked(root: &Path) -> bool {
    orlop_api::client::has_daemon(root)
}

/// Whether a root has a keeper, which may not answer at this moment.
pub(crate) async fn keeper_lives(root: &Path) -> bool {
    orlop_mount::keeper::is_alive(root) || orlop_mount::KeeperClient::connect(root).await.is_ok()
}

/// Runs the daemon until it is told to end.
pub(crate) fn run(root: &Path, settings: Settings) -> Result<()> {
    let detached = settings.detached;
    match serve(root, settings) {
        Err(e) if detached => {
            tracing::error!(error = %e, "the daemon ends");
            ready::tell_parent(&Readiness::Failed(e));
            Ok(())
        }
        done => done,
    }
}

fn serve(root: &Path, settings: Settings) -> Result<()> {
    prepare(root)?;
    if settings.detached {
        // A session of its own: neither the terminal's end nor its Ctrl-C reaches the daemon. It fails only
        // for a process that leads its group, and then it is detached enough.
        let _ = nix::unistd::setsid();
    }
    let Some(lock) = lock::take(&root.join("run/daemon.lock"))? else {
        if settings.detached {
            ready::tell_parent(&Readiness::Taken);
            return Ok(());
        }
        return Err(Error::new(ErrorKind::Busy, format!("Orlop is already running on {}", root.display()))
            .with_remedy("stop it first with: orlop down --keep-mounts, or give another --root"));
    };
    log::start(&root.join("log/daemon.log"), !settings.detached).inspect_err(|_| lock.clear())?;
    tell_process(&root.join("run"), &lock);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| Error::io("starting the runtime", &e))?;
    let lock = Arc::new(lock);
    let ended = runtime.block_on(live(root, settings, &lock));
    // Whatever still blocks (a worker that does not answer) must not hold the end up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if !lock.is_displaced() {
        let _ = std::fs::remove_file(root.join("run/daemon.pid"));
    }
    if ended.is_err() {
        lock.clear();
    }
    tracing::info!("the daemon ended");
    drop(lock);
    ended
}

/// Writes down which process the daemon is, for people and packages. A full disk, which is when Orlop is needed to make room, must not keep
/// it from starting.
fn tell_process(run: &Path, lock: &lock::Lock) {
    if let Err(e) = lock.note(&std::process::id().to_string()) {
        tracing::warn!(error = %e, "the lock does not tell whose it is");
    }
    let pid_file = run.join("daemon.pid");
    if let Err(e) = std::fs::write(&pid_file, format!("{}\n", std::process::id())) {
        tracing::warn!(error = %e, "{} cannot be written", pid_file.display());
        // Not half of a number either.
        let _ = std::fs::remove_file(&pid_file);
    }
}

/// A daemon that lives and is not found by its lock, since somebody removed that, is named with what helps.
fn with_holder(root: &Path, e: Error) -> Error {
    match orlop_api::client::journal_holder(root) {
        Some(pid) if e.kind == ErrorKind::Busy => Error::new(
            e.kind,
            format!("{}: the daemon of this root still runs (process {pid})", e.message),
        )
        .with_remedy(format!(
            "try again in a moment: it makes what was removed of {}/run anew; if that goes on end it with kill {pid} (mounts stay), and \
                 start another with: orlop up",
            root.display()
        )),
        _ => e,
    }
}

async fn live(root: &Path, settings: Settings, lock: &Arc<lock::Lock>) -> Result<()> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), root = %root.display(), "the daemon starts");
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| Error::io("watching signals", &e))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| Error::io("watching signals", &e))?;

    let ports = Arc::new(Ports::new(root));
    let mut config = ControlConfig::new(root, ports.clone(), ports.clone());
    // Whoever mounts a volume that another host had watches that host for a lease first.
    config.attach_deadline += 2 * orlop_mount::worker::lease()?;
    // What a start may fail of comes before the keeper, which would go on without a daemon and with nothing to hold.
    let control = Control::open(config).await.map_err(|e| with_holder(root, e))?;
    // The socket may be opened by anybody; who may use it is decided by peer credentials, with a message. Calls that come before all
    // is ready wait.
    let door = socket::Door::open(&root.join("run/orlop.sock"), 0o666, lock.clone())?;
    ports.keeper.client().await?;
    let another_keeper = Arc::new(Notify::new());
    let guard = tokio::spawn({
        let (ports, another) = (ports.clone(), another_keeper.clone());
        async move { ports.keeper.guard(&another).await }
    });
    let (key_made, key_warning) = keys::prepare(root, &control).await;

    let (plugin, plugin_warning) = match &settings.plugin {
        None => (None, None),
        Some(name) => match plugin::claim(name, root).await {
            Ok(claim) => (Some(claim), None),
            Err(warning) => {
                tracing::warn!("{warning}");
                (None, Some(warning))
            }
        },
    };
    let end = Arc::new(Notify::new());
    let host = Arc::new(DaemonHost {
        root: root.to_owned(),
        started_at: OffsetDateTime::now_utc(),
        plugin: plugin.as_ref().map(|c| (c.name.clone(), c.socket.clone())),
        plugin_warning,
        key_made,
        key_warning,
        ports,
        control: control.clone(),
        end: end.clone(),
    });

    let (stop, stopped) = watch::channel(false);
    let local = orlop_api::rest::router(control.clone(), host);
    let serve_local = move |listener, ended| orlop_api::serve(listener, local.clone(), told(ended));
    let local = tokio::spawn(door.serve(told(stopped.clone()), serve_local));
    let mut name_lock = None;
    let docker = plugin.map(|claim| {
        let identity = Identity { root: root.display().to_string(), pid: std::process::id() };
        name_lock = Some(claim.lock);
        let calls = orlop_api::docker::router(control.clone(), identity);
        tokio::spawn(orlop_api::serve(claim.listener, calls, told(stopped)))
    });
    // The first turn restores what a reboot or a crash took; most of it is done when `up` returns. A store that
    // is away must not hold the start up, so it goes on behind.
    let first = tokio::spawn({
        let control = control.clone();
        async move { control.reconcile().await }
    });
    let _ = tokio::time::timeout(FIRST_TURN, first).await;
    let reconciler = control.spawn_reconciler(RECONCILE_PERIOD);
    // A worker that died with its keeper has lost its mount: that is made anew at once.
    let remounter = tokio::spawn({
        let control = control.clone();
        async move {
            loop {
                another_keeper.notified().await;
                control.reconcile().await;
            }
        }
    });

    if settings.detached {
        ready::tell_parent(&Readiness::Ready);
    }
    ready::tell_systemd("READY=1");
    tracing::info!("ready");

    tokio::select! {
        _ = terminate.recv() => tracing::info!("told to end by SIGTERM; mounts stay"),
        _ = interrupt.recv() => tracing::info!("told to end by SIGINT; mounts stay"),
        () = end.notified() => {}
    }
    ready::tell_systemd("STOPPING=1");
    reconciler.abort();
    remounter.abort();
    guard.abort();
    let _ = stop.send(true);
    let finish = async {
        let _ = local.await;
        if let Some(docker) = docker {
            let _ = docker.await;
        }
    };
    if tokio::time::timeout(GRACE, finish).await.is_err() {
        tracing::warn!("a call was still running at the end");
    }
    let _ = std::fs::remove_file(root.join("run/orlop.sock"));
    if let Some(lock) = name_lock {
        lock.release();
    }
    Ok(())
}

async fn told(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which ends the daemon as well.
    let _ = stopped.wait_for(|stop| *stop).await;
}
