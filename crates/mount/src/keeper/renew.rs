//! Moving to another binary under living mounts: a worker makes everything durable, dies, and one of the new binary
//! takes its place; a keeper lets go, and one of the new binary takes over. What the new binary refuses goes on with
//! the old one, whose file is held open for that, since on disk it is gone.

use super::launch::Opening;
use super::volume::{Slot, Worker};
use super::{Keeper, Launcher, start_keeper};
use crate::layout::Layout;
use crate::os::{PidFd, fuse_device_is_dead};
use crate::protocol::{AttachedVolume, KeeperRequest, Renewed, WorkerRequest, WorkerState};
use crate::wire::Connection;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orlop_model::{Error, ErrorKind, FileId, Result, VolumeId};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a worker may take to make everything durable before it is left as it is.
const SETTLING: Duration = Duration::from_secs(60);
/// How long a process that was ended may take to be gone.
const ENDING: Duration = Duration::from_secs(30);
/// How soon after the old worker's end a second try with the new binary is still a short pause.
const SOON: Duration = Duration::from_secs(2);
/// How long a volume may have no worker before the keeper is left as it is.
const PASSING: Duration = Duration::from_secs(5);

/// The binary that a process runs, also when its file was replaced.
fn binary_of(pid: u32) -> Result<Arc<File>> {
    File::open(format!("/proc/{pid}/exe")).map(Arc::new).map_err(|e| Error::io(format_args!("opening the binary of process {pid}"), &e))
}

/// The binary that a process runs if it is another one than this process's, held open.
pub(super) fn other_binary_of(pid: u32) -> Result<Option<Arc<File>>> {
    let (its, own) = (binary_of(pid)?, binary_of(std::process::id())?);
    let of = |file: &File| file.metadata().map(|m| FileId::of(&m)).map_err(|e| Error::io("looking at a binary", &e));
    Ok((of(&its)? != of(&own)?).then_some(its))
}

/// The path of an open file for a process that this one starts.
pub(super) fn path_of(binary: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", binary.as_raw_fd()))
}

/// Whether a worker did not refuse its volume but was gone before it had said anything.
fn ended_early(e: &Error) -> bool {
    matches!(e.kind, ErrorKind::Unavailable | ErrorKind::Internal)
}

impl Keeper {
    /// Replaces a sound worker by one of the keeper's own program.
    pub(super) fn renew(self: &Arc<Self>, id: VolumeId) -> Result<Renewed> {
        let slot = self.slot(id);
        let _turn = slot.turn.lock();
        let not_attached = || Error::not_found(format!("volume {id} is not attached"));
        let Some((name, worker, resends, state)) =
            slot.look(|v| (v.plan.name.clone(), v.worker.clone(), v.negotiated.resends(), v.state.clone()))
        else {
            return Err(not_attached());
        };
        if let WorkerState::Lost { reason } = &state {
            return Err(Error::new(ErrorKind::Busy, format!("volume {name} takes no changes any more: {reason}"))
                .with_remedy("unmount it here; no worker serves it, so none is to be moved"));
        }
        if state != WorkerState::Serving || slot.look(|v| fuse_device_is_dead(v.device.as_fd())).unwrap_or(true) {
            return Err(Error::unavailable(format!("volume {name} is not being served now")).with_remedy("try again later"));
        }
        if !resends {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("volume {name}: this kernel cannot send requests again, so those under way would fail"),
            )
            .with_remedy("unmount the volume and mount it again, or use Linux 6.9 or later"));
        }
        let old = binary_of(worker.pid)?;
        // Requests are served on meanwhile; what is left to be read again at the start is little then. A worker that
        // cannot reach its store is not exchanged for one that could not open it.
        self.ask_worker::<serde_json::Value>(id, &WorkerRequest::Sync, Some(SETTLING))?;

        slot.change(|v| v.state = WorkerState::Restarting { attempts: 0, reason: "it moves to another binary".into() });
        let began = Instant::now();
        worker.process.kill().map_err(|e| Error::io("ending a worker", &e))?;
        match worker.process.wait(Some(ENDING)) {
            Ok(true) => {}
            // Its watcher replaces it as soon as it is gone.
            Ok(false) => return Err(Error::unavailable(format!("volume {name}: process {} does not end", worker.pid))),
            Err(e) => return Err(Error::io("waiting for a worker's end", &e)),
        }
        let before = slot.program.lock().take();
        // One that ends before it has said anything may have been killed, which is no word against its binary.
        let mut replaced = self.replace_worker(&slot);
        if began.elapsed() < SOON && replaced.as_ref().is_err_and(ended_early) {
            replaced = self.replace_worker(&slot);
        }
        let (next, child, refused) = match replaced {
            Ok((next, child)) => (next, child, None),
            Err(e) => {
                tracing::error!(volume = %name, "the new binary does not serve it, the old one goes on: {e}");
                *slot.program.lock() = Some(before.unwrap_or(old));
                // If that fails too, the dead worker's watcher is next in turn and tries on: with the new binary if the old one cannot
                // read what that has written meanwhile.
                let (next, child) = self.replace_worker(&slot).inspect_err(|worse| {
                    if worse.kind == ErrorKind::Unsupported {
                        slot.program.lock().take();
                    }
                })?;
                (next, child, Some(e.to_string()))
            }
        };
        let paused_ms = began.elapsed().as_millis() as u64;
        tracing::info!(volume = %name, worker = next.pid, paused_ms, "renewed");
        let worker_pid = next.pid;
        self.serves_now(&slot, &next, child);
        Ok(Renewed { worker_pid, paused_ms, refused })
    }

    /// Starts a worker for a volume that has one already or had one; whoever takes the volume away finds it in the slot.
    pub(super) fn start_successor(&self, slot: &Slot) -> Result<Opening> {
        let plan = slot.look(|v| v.plan.clone()).ok_or_else(|| Error::internal("the volume is gone"))?;
        let held = slot.program.lock().clone();
        // The kernel still knows inodes of this volume, unlinked ones included.
        let opening = match held {
            None => Opening::start(self, &self.config.worker, &plan, false),
            Some(binary) => {
                let launcher = Launcher { program: path_of(&binary), ..self.config.worker.clone() };
                Opening::start(self, &launcher, &plan, false)
            }
        }?;
        *slot.opening.lock() = Some(opening.process().clone());
        Ok(opening)
    }

    pub(super) fn serves_now(self: &Arc<Self>, slot: &Arc<Slot>, next: &Worker, child: Child) {
        self.save();
        self.watch(slot, next, Some(child));
    }
}

/// Refuses while a volume has no worker: the keeper's descriptor is then the only one of its mount, which would end with the
/// keeper. One whose worker is just being replaced is waited for.
pub fn may_change_over(root: &Path) -> Result<()> {
    let until = Instant::now() + PASSING;
    loop {
        let keeper = Connection::connect(&Layout::new(root).keeper_socket())?;
        keeper.limit(Some(ENDING));
        let (volumes, _): (Vec<AttachedVolume>, _) = keeper.ask(&KeeperRequest::List, &[])?;
        let unserved: Vec<_> =
            volumes.iter().filter(|v| matches!(v.worker, WorkerState::Restarting { .. })).map(|v| v.plan.name.as_str()).collect();
        if unserved.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Error::unavailable(format!(
                "without the keeper these volumes would lose their mounts, they have no worker now: {}",
                unserved.join(", ")
            ))
            .with_remedy("try again when orlop status shows them serving, or unmount them first"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Puts a keeper of another program in the place of the one that serves a root; its workers serve on meanwhile. Should
/// the new one not start, the old one's binary does again, and the error says why. Refused as by [`may_change_over`].
pub fn change_over(root: &Path, launcher: &Launcher) -> Result<u32> {
    may_change_over(root)?;
    let socket = Layout::new(root).keeper_socket();
    let pid = Connection::connect(&socket)?.peer();
    let old = binary_of(pid)?;
    let process = PidFd::open(pid as i32).map_err(|e| Error::io("opening the keeper's process descriptor", &e))?;
    kill(Pid::from_raw(pid as i32), Signal::SIGTERM).map_err(|e| Error::io("ending the keeper", &e.into()))?;
    match process.wait(Some(ENDING)) {
        Ok(true) => {}
        Ok(false) => return Err(Error::unavailable(format!("the keeper (process {pid}) does not end"))),
        Err(e) => return Err(Error::io("waiting for the keeper's end", &e)),
    }
    if let Err(e) = start_keeper(launcher, root) {
        let again = Launcher { program: path_of(&old), ..launcher.clone() };
        return Err(match start_keeper(&again, root) {
            Ok(()) => e.during("the old keeper goes on: starting a new one"),
            Err(worse) => worse.during(format_args!("no keeper starts, the new one neither ({e})")),
        });
    }
    Ok(Connection::connect(&socket)?.peer())
}
