//! Taking over from a keeper that is gone: living workers give their FUSE descriptors back, and what is left of dead
//! ones is cleared away. One that lives and does not answer is asked again until it does or has ended; till then its volume
//! counts as mounted.

use super::Keeper;
use super::record::{self, Entry};
use super::renew::other_binary_of;
use super::unreached::{self, Unreached};
use super::volume::{Slot, Volume, Worker};
use crate::kernel::asking;
use crate::kernel::mount::{self, FSTYPE};
use crate::kernel::table;
use crate::layout::Layout;
use crate::os::{PidFd, clone_fuse_device, fuse_device_is_dead};
use crate::process;
use crate::protocol::{Bound, Served, WorkerRequest, WorkerState};
use crate::wire::{self, Connection};
use nix::errno::Errno;
use orlop_model::{Error, MountPlan, Result, VolumeId};
use std::collections::{BTreeSet, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a worker may take to answer, and a mount to say that it is dead.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before a worker that could not be taken over is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether a FUSE mount's server is gone for good. One that does not answer is not dead.
pub(super) fn is_dead(point: &Path) -> bool {
    let point = point.to_owned();
    asking::within(PATIENCE, "ask-mount", move || says_dead(&point)).unwrap_or(false)
}

/// The same, for as long as the answer takes.
fn says_dead(point: &Path) -> bool {
    matches!(nix::sys::statvfs::statvfs(point), Err(Errno::ENOTCONN | Errno::ECONNABORTED))
}

/// Whether what stands on a folder is a mount of ours that nobody serves any more.
pub(super) fn is_dead_mount(point: &Path) -> Result<bool> {
    let own = table::own().map_err(|e| Error::io("reading the mount table", &e))?;
    let is_ours = table::topmost(&own, point).is_some_and(|top| table::orlops(std::slice::from_ref(top)).next().is_some());
    Ok(is_ours && is_dead(point))
}

/// Takes away what is left on a folder of mounts that lost their worker and their keeper at once.
pub(super) fn clear_dead(point: &Path) -> Result<()> {
    while is_dead_mount(point)? {
        mount::unmount_lazily(point)?;
        tracing::warn!("took away the dead mount on {}", point.display());
    }
    Ok(())
}

fn worker_sockets(layout: &Layout) -> Vec<VolumeId> {
    let Ok(dir) = std::fs::read_dir(layout.run()) else { return Vec::new() };
    dir.filter_map(|e| Layout::volume_of_socket(e.ok()?.file_name().to_str()?)).collect()
}

/// Whether workers live under a root, with a keeper or without.
pub fn has_workers(root: &Path) -> bool {
    let layout = Layout::new(root);
    worker_sockets(&layout).into_iter().any(|volume| !wire::is_deserted(&layout.worker_socket(volume))) || unreached::has_others(&layout)
}

impl Keeper {
    /// Finds what earlier keepers left. Never fails: what cannot be taken over is said in the log and left alone.
    pub(super) fn take_over(self: &Arc<Self>) {
        let recorded = record::read(&self.layout.record()).volumes;
        let mut living: HashSet<VolumeId> = HashSet::new();
        // A worker whose socket was removed is known by the record.
        let volumes: BTreeSet<VolumeId> = worker_sockets(&self.layout).into_iter().chain(recorded.iter().map(|e| e.plan.volume)).collect();
        for volume in volumes {
            let entry = recorded.iter().find(|e| e.plan.volume == volume);
            match self.adopt(volume, entry) {
                Ok(true) => {
                    living.insert(volume);
                }
                Ok(false) => {
                    let _ = std::fs::remove_file(self.layout.worker_socket(volume));
                }
                Err(e) => {
                    tracing::error!(%volume, "its worker lives and cannot be taken over yet: {e}");
                    living.insert(volume);
                    self.unadopted.lock().insert(volume, entry.cloned());
                }
            }
        }
        for volume in self.clear_dead_mounts(&recorded, &living) {
            tracing::error!(%volume, "it is mounted and served, and its worker cannot be reached");
            self.unadopted.lock().insert(volume, None);
        }
        self.save();
        let later = self.unadopted.lock().clone();
        for (volume, entry) in later {
            self.adopt_later(volume, entry);
        }
    }

    /// Goes on asking a worker that lives, on a thread of its own.
    fn adopt_later(self: &Arc<Self>, volume: VolumeId, entry: Option<Entry>) {
        let (keeper, slot) = (self.clone(), self.slot(volume));
        let spawned = super::spawn("adopt", move || {
            loop {
                std::thread::sleep(PAUSE);
                // Without the turn: a mount whose server stands still keeps nobody but this thread.
                let is_served = entry.is_none() && keeper.stands(volume) && !says_dead(&keeper.mountpoint(volume));
                // Nobody attaches or detaches the volume meanwhile.
                let _turn = slot.turn.lock();
                let adopted = match keeper.adopt(volume, entry.as_ref()) {
                    Ok(false) if is_served => continue,
                    Ok(adopted) => adopted,
                    Err(e) => {
                        tracing::debug!(%volume, "its worker cannot be taken over yet: {e}");
                        continue;
                    }
                };
                keeper.unadopted.lock().remove(&volume);
                if !adopted {
                    tracing::error!(%volume, "its worker ended before it was taken over");
                    let _ = std::fs::remove_file(keeper.layout.worker_socket(volume));
                    let living = keeper.unadopted.lock().keys().copied().collect();
                    keeper.clear_dead_mounts(entry.as_slice(), &living);
                }
                keeper.save();
                return;
            }
        });
        if let Err(e) = spawned {
            tracing::error!(%volume, "its worker is not asked again: {e}");
        }
    }

    /// Of a volume that this keeper does not hold: succeeds if it is not mounted. Whoever hears so may delete its bytes, which
    /// must not happen under a worker that lives.
    pub(super) fn may_count_as_detached(&self, volume: VolumeId) -> Result<()> {
        let entry = self.unadopted.lock().get(&volume).cloned();
        if entry.is_none() && (!self.stands(volume) || is_dead(&self.mountpoint(volume))) {
            return Ok(());
        }
        let it = Unreached::of(&self.layout, volume, entry.flatten().as_ref());
        let process = it.worker_pid.map_or_else(|| format!("\"worker --volume {volume}\""), |pid| pid.to_string());
        Err(Error::unavailable(format!("{it}: this keeper could not take it over yet")).with_remedy(format!(
            "try again in a moment; if that goes on, kill -9 the process {process}: what was acknowledged stays in its journal"
        )))
    }

    fn mountpoint(&self, volume: VolumeId) -> PathBuf {
        self.layout.mounts().join(volume.to_string())
    }

    /// Whether a mount of Orlop stands on the volume's mountpoint. What cannot be told counts as yes.
    fn stands(&self, volume: VolumeId) -> bool {
        table::own().map_or(true, |own| table::topmost(&own, &self.mountpoint(volume)).is_some_and(|m| m.fstype == FSTYPE))
    }

    /// Whether a living worker was taken over; false if it is gone, or was never recorded and nobody listens.
    fn adopt(self: &Arc<Self>, volume: VolumeId, entry: Option<&Entry>) -> Result<bool> {
        let socket = self.layout.worker_socket(volume);
        let connection = match Connection::connect(&socket) {
            Ok(connection) => connection,
            Err(_) if wire::is_deserted(&socket) => {
                return match entry.filter(|e| unreached::worker_lives(e)) {
                    None => Ok(false),
                    Some(e) => {
                        Err(Error::unavailable(format!("nobody listens at {}, and process {} lives", socket.display(), e.worker_pid)))
                    }
                };
            }
            Err(e) => return Err(e),
        };
        connection.limit(Some(PATIENCE));
        let pid = connection.peer();
        // Before it is asked: if it ends after it has given its descriptor, this keeper's is the only one, and whoever watches
        // the process has to see it.
        let process = PidFd::open(pid as i32).map_err(|e| Error::io("opening a worker's process descriptor", &e))?;
        // What it runs has served the volume; the keeper's own program, if that is another, perhaps cannot.
        let program = other_binary_of(pid)?;
        let (served, mut fds): (Served, Vec<OwnedFd>) = connection.ask(&WorkerRequest::Adopt, &[])?;
        let mut device = fds.pop().ok_or_else(|| Error::internal("it sent no FUSE device"))?;
        if !served.negotiated.resends() {
            // The worker's own descriptor must close with it alone.
            device = clone_fuse_device(device.as_fd()).map_err(|e| Error::io("cloning a FUSE device", &e))?;
        }
        let finishing = fuse_device_is_dead(device.as_fd());
        let own = table::own().map_err(|e| Error::io("reading the mount table", &e))?;
        let point = PathBuf::from(&served.plan.mountpoint);
        let recorded = entry.and_then(|e| {
            let (major, minor) = e.device.split_once(':')?;
            Some(table::Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
        });
        let mounted = table::topmost(&own, &point)
            .map(|m| m.device)
            .or(recorded)
            .ok_or_else(|| Error::internal(format!("{} is not mounted", point.display())))?;
        let binds: Vec<Bound> = entry
            .map(|e| e.binds.clone())
            .unwrap_or_default()
            .into_iter()
            .filter(|b| own.iter().any(|m| m.device == mounted && m.point == Path::new(&b.dir)))
            .collect();
        // Whoever bound it died before it was read-only.
        for b in binds.iter().filter(|b| b.read_only) {
            let point = Path::new(&b.dir);
            if table::topmost(&own, point).is_some_and(|m| m.device == mounted && !m.read_only)
                && let Err(e) = mount::make_read_only(point)
            {
                tracing::error!("{e}");
            }
        }
        let worker = Worker { pid, started: process::start_time(pid), process: Arc::new(process), since: Instant::now() };
        tracing::info!(volume = %served.plan.name, worker = pid, "taken over");
        let slot: Arc<Slot> = self.slot(volume);
        // The worker says with which plan it was opened; quota and the way to the store may have changed since.
        let plan = entry.map_or(served.plan, |e| e.plan.clone());
        *slot.program.lock() = program;
        *slot.volume.lock() = Some(Volume {
            plan: MountPlan { abandon_unsynced: false, ..plan },
            negotiated: served.negotiated,
            device: Arc::new(device),
            mounted,
            worker: worker.clone(),
            state: if finishing { WorkerState::Finishing } else { WorkerState::Serving },
            deaths: 0,
            binds,
        });
        self.watch(&slot, &worker, None);
        Ok(true)
    }

    /// Takes away mounts of ours whose servers are gone. Those in the folders where they were bound stay until the volume is bound there anew
    /// or let go of: a bare folder would take what programs write, and hide it later. Returns the volumes that are neither the keeper's nor
    /// among the `living`, and whose mounts are not dead.
    fn clear_dead_mounts(&self, recorded: &[Entry], living: &HashSet<VolumeId>) -> BTreeSet<VolumeId> {
        let mut served = BTreeSet::new();
        let Ok(own) = table::own() else { return served };
        let ours: HashSet<table::Device> = self.all().iter().filter_map(|s| s.look(|v| v.mounted)).collect();
        let untouchable: HashSet<String> = living.iter().map(ToString::to_string).collect();
        let below = self.layout.mounts();
        let is_bind =
            |point: &Path| recorded.iter().any(|e| !living.contains(&e.plan.volume) && e.binds.iter().any(|b| Path::new(&b.dir) == point));
        let mut dead = HashSet::new();
        for m in table::orlops(&own).filter(|m| !ours.contains(&m.device)) {
            let on_mountpoint =
                m.point.parent() == Some(&*below) && !m.point.file_name().is_some_and(|n| untouchable.contains(&*n.to_string_lossy()));
            if (on_mountpoint || is_bind(&m.point)) && (dead.contains(&m.device) || is_dead(&m.point)) {
                dead.insert(m.device);
            } else if on_mountpoint && m.root == Path::new("/") {
                served.extend(m.point.file_name().and_then(|name| name.to_str()?.parse::<VolumeId>().ok()));
            }
        }
        // A dead connection serves nobody, wherever else it is mounted in this namespace. Newest first: mounts pile up.
        for m in own.iter().rev().filter(|m| dead.contains(&m.device) && !is_bind(&m.point)) {
            match mount::unmount_lazily(&m.point) {
                Ok(()) => tracing::warn!("took away the dead mount on {}", m.point.display()),
                Err(e) => tracing::error!("{e}"),
            }
            if m.point.parent() == Some(&*below) {
                let _ = std::fs::remove_dir(&m.point);
            }
        }
        served
    }
}
