//! Starting processes: a worker over a socket that is its standard input, and the keeper itself.

use super::{Keeper, Launcher, is_locked};
use crate::keeper::volume::Worker;
use crate::kernel::init::Negotiated;
use crate::layout::Layout;
use crate::os::{PidFd, clone_fuse_device};
use crate::process;
use crate::protocol::{Lost, WorkerRequest};
use crate::wire::Connection;
use orlop_model::{Error, ErrorKind, MountPlan, Result};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a worker may take to open its volume: a long journal to replay, a slow store.
const OPENING: Duration = Duration::from_secs(300);
const SERVING: Duration = Duration::from_secs(60);
/// How long a worker that did not open its volume may take to end by itself.
const GIVEN_UP: Duration = Duration::from_secs(5);
/// How long a keeper may take to listen: it asks every worker for its descriptor first.
const KEEPER: Duration = Duration::from_secs(60);

/// Where a process writes its log. One that cannot be opened keeps no volume from being served: the lines go where those of this
/// process go.
fn outputs(log: &Path) -> (Stdio, Stdio) {
    let open = || {
        let out = File::options().create(true).append(true).mode(0o600).open(log)?;
        std::io::Result::Ok((out.try_clone()?, out))
    };
    match open() {
        Ok((out, err)) => (out.into(), err.into()),
        Err(e) => {
            tracing::warn!(log = %log.display(), error = %e, "a log could not be opened; its lines come here");
            (Stdio::null(), Stdio::inherit())
        }
    }
}

fn command(launcher: &Launcher, root: &Path, log: &Path) -> Command {
    let (out, err) = outputs(log);
    let mut command = Command::new(&launcher.program);
    command
        .args(&launcher.args)
        .arg("--root")
        .arg(root)
        .envs(launcher.env.iter().map(|(k, v)| (k, v)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err);
    command
}

/// A worker that was started and is to open its volume, which takes as long as its store does.
pub(super) struct Opening {
    child: Child,
    process: Arc<PidFd>,
    socket: UnixStream,
    plan: MountPlan,
    fresh_kernel: bool,
    log: PathBuf,
}

impl Opening {
    /// Starts a worker, and does not wait for it.
    pub(super) fn start(keeper: &Keeper, launcher: &Launcher, plan: &MountPlan, fresh_kernel: bool) -> Result<Self> {
        let log = keeper.layout.worker_log(plan.volume);
        let (socket, theirs) = UnixStream::pair().map_err(|e| Error::io("making a socket for a worker", &e))?;
        let mut command = command(launcher, keeper.layout.root(), &log);
        command.arg("--volume").arg(plan.volume.to_string()).stdin(OwnedFd::from(theirs));
        let mut child = command.spawn().map_err(|e| Error::io(format_args!("starting {}", launcher.program.display()), &e))?;
        // The command holds the worker's end of the socket; without it, a worker's death is seen at once.
        drop(command);
        match PidFd::open(child.id() as i32) {
            Ok(process) => Ok(Opening { child, process: Arc::new(process), socket, plan: plan.clone(), fresh_kernel, log }),
            Err(e) => {
                drop(socket);
                end(&mut child, GIVEN_UP);
                Err(Error::io("opening a worker's process descriptor", &e))
            }
        }
    }

    /// The process, for whoever cannot wait for it.
    pub(super) fn process(&self) -> &Arc<PidFd> {
        &self.process
    }

    /// Returns when it has opened the volume.
    pub(super) fn finish(self) -> Result<Launched> {
        self.finish_or_lose()?.map_err(|lost| Error::new(ErrorKind::Busy, lost.why).with_remedy("unmount it here, and mount it again"))
    }

    /// The same for whoever can do something where no worker may serve the mount any more.
    pub(super) fn finish_or_lose(self) -> Result<Result<Launched, Lost>> {
        let Opening { mut child, process, socket, plan, fresh_kernel, log } = self;
        let open = || -> Result<(Connection, Option<Lost>)> {
            let connection = Connection::new(socket)?;
            connection.limit(Some(OPENING));
            let request = WorkerRequest::Open { plan: Box::new(plan.clone()), fresh_kernel };
            let (lost, _) = connection.ask(&request, &[])?;
            Ok((connection, lost))
        };
        match open() {
            Ok((connection, None)) => Ok(Ok(Launched { child, process, connection })),
            Ok((connection, Some(lost))) => {
                drop(connection);
                end(&mut child, GIVEN_UP);
                Ok(Err(lost))
            }
            Err(e) => {
                // Its socket is closed, by which it ends; one that hangs in the store is ended: nothing is mounted
                // yet, and what it had in its journal stays there.
                end(&mut child, GIVEN_UP);
                let e = e.during(format_args!("opening volume {}", plan.name));
                Err(if e.remedy.is_some() { e } else { e.with_remedy(format!("its worker's log is {}", log.display())) })
            }
        }
    }
}

/// A worker that has opened its volume and does not serve it yet.
pub(super) struct Launched {
    child: Child,
    process: Arc<PidFd>,
    connection: Connection,
}

impl Launched {
    /// Starts a worker, and returns when it has opened the volume.
    pub(super) fn start(keeper: &Keeper, plan: &MountPlan, fresh_kernel: bool) -> Result<Self> {
        Opening::start(keeper, &keeper.config.worker, plan, fresh_kernel)?.finish()
    }

    /// Hands it the FUSE connection, and returns when it answers there.
    pub(super) fn serve(self, device: &OwnedFd, negotiated: &Negotiated) -> Result<(Worker, Child)> {
        self.connection.limit(Some(SERVING));
        let serve = || -> Result<()> {
            let request = WorkerRequest::Serve { negotiated: *negotiated };
            // Where the kernel cannot send requests again, a dead worker's must end: they do with its own descriptor.
            let own = if negotiated.resends() {
                None
            } else {
                Some(clone_fuse_device(device.as_fd()).map_err(|e| Error::io("cloning a FUSE device", &e))?)
            };
            self.connection.ask(&request, &[own.as_ref().unwrap_or(device).as_fd()]).map(|((), _)| ())
        };
        match serve() {
            Ok(()) => {
                let pid = self.child.id();
                let worker = Worker { pid, started: process::start_time(pid), process: self.process, since: Instant::now() };
                Ok((worker, self.child))
            }
            Err(e) => {
                self.give_up();
                Err(e.during("handing a mount to its worker"))
            }
        }
    }

    /// Lets the worker close the volume and end.
    pub(super) fn give_up(mut self) {
        drop(self.connection);
        end(&mut self.child, OPENING);
    }
}

fn end(child: &mut Child, patience: Duration) {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        match child.try_wait() {
            Ok(Some(_)) | Err(_) => return,
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Starts a keeper and returns when it answers.
pub(crate) fn start_keeper(launcher: &Launcher, root: &Path) -> Result<()> {
    let layout = Layout::new(root);
    layout.prepare()?;
    let log = layout.keeper_log();
    let mut child =
        command(launcher, root, &log).spawn().map_err(|e| Error::io(format_args!("starting {}", launcher.program.display()), &e))?;
    let until = Instant::now() + KEEPER;
    loop {
        let last = match Connection::connect(&layout.keeper_socket()) {
            Ok(_) => {
                // It outlives this process; should it not, somebody must hear of its end.
                let _ = std::thread::Builder::new().name("keeper-end".into()).spawn(move || child.wait());
                return Ok(());
            }
            Err(e) => e,
        };
        match child.try_wait() {
            _ if Instant::now() > until => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(last.during("starting the keeper").with_remedy(format!("its log is {}", log.display())));
            }
            // Another one was faster, and answers when it has the mounts.
            Ok(Some(_)) if is_locked(&layout) => std::thread::sleep(Duration::from_millis(20)),
            Ok(Some(status)) => {
                return Err(
                    Error::internal(format!("the keeper ended at once: {status}")).with_remedy(format!("its log is {}", log.display()))
                );
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::lock_root;
    use crate::wire;

    #[test]
    fn a_start_waits_for_another_keeper_that_has_the_root_and_does_not_answer_yet() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(dir.path());
        layout.prepare().expect("prepared");
        let refused = Launcher { program: "/bin/false".into(), args: Vec::new(), env: Vec::new() };
        let error = start_keeper(&refused, dir.path()).expect_err("nobody has the root");
        assert!(error.message.contains("ended at once"), "{error}");

        let other = lock_root(&layout).expect("locked");
        let socket = layout.keeper_socket();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            let listener = wire::listen(&socket).expect("listens");
            wire::accept_all(&listener, "request", |connection| drop(connection.receive::<serde_json::Value>()));
        });
        start_keeper(&refused, dir.path()).expect("the other one answers");
        drop(other);
    }
}
