//! Attaching: a worker opens the volume first, then it is mounted, then the worker is handed the mount. A volume
//! that cannot be opened is never mounted, and a second attach of one that is attached changes nothing.

use super::Keeper;
use super::adopt::clear_dead;
use super::launch::Launched;
use super::volume::{Slot, Volume};
use crate::kernel::backing::Backing;
use crate::kernel::init::{Negotiated, Wishes, negotiate};
use crate::kernel::mount::{self, FSTYPE};
use crate::kernel::table::{self, Device};
use crate::os::fuse_device_is_dead;
use crate::protocol::{Attached, WorkerState};
use orlop_model::{CacheMode, Error, ErrorKind, MountPlan, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long attach waits for a worker that is being replaced, or for one that is just finishing.
const PATIENCE: Duration = Duration::from_secs(60);

/// The same once another worker has failed to open the volume, which takes a while by itself where the store does not answer: whoever wants
/// to unmount it waits behind who attaches it.
const SHORTLY: Duration = Duration::from_secs(10);

enum Now {
    Free,
    Serving(Attached),
    Wait { why: String, patience: Duration },
}

fn wait(why: impl Into<String>) -> Now {
    Now::Wait { why: why.into(), patience: PATIENCE }
}

impl Keeper {
    pub(super) fn attach(self: &Arc<Self>, plan: MountPlan) -> Result<Attached> {
        let point = PathBuf::from(&plan.mountpoint);
        if !point.is_absolute() {
            return Err(Error::invalid(format!("the mountpoint {:?} is not an absolute path", plan.mountpoint)));
        }
        let slot = self.slot(plan.volume);
        let since = Instant::now();
        loop {
            let turn = slot.turn.lock();
            match self.state_now(&slot, &plan)? {
                Now::Serving(attached) => return Ok(attached),
                Now::Free => {
                    let attached = self.attach_fresh(&slot, plan);
                    drop(turn);
                    return attached;
                }
                Now::Wait { why, patience } if since.elapsed() > patience => {
                    return Err(Error::unavailable(format!("volume {} is not being served: {why}", plan.name))
                        .with_remedy(format!("its worker's log is {}", self.layout.worker_log(plan.volume).display())));
                }
                Now::Wait { .. } => {}
            }
            drop(turn);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn state_now(&self, slot: &Slot, plan: &MountPlan) -> Result<Now> {
        let Some((mounted, dead, worker, state, point)) =
            slot.look(|v| (v.mounted, fuse_device_is_dead(v.device.as_fd()), v.worker.clone(), v.state.clone(), v.mountpoint()))
        else {
            return Ok(match self.unadopted.lock().contains_key(&plan.volume) {
                true => wait("its worker was started by an earlier keeper and could not be taken over yet"),
                false => Now::Free,
            });
        };
        if dead {
            // Unmounted; the watcher clears the place when the worker has brought everything to rest.
            return Ok(wait("it was unmounted, and its worker is finishing"));
        }
        let own = table::own().map_err(|e| Error::io("reading the mount table", &e))?;
        if table::topmost(&own, &point).map(|m| m.device) != Some(mounted) {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("volume {} was unmounted from {} by somebody else and is still in use", plan.name, point.display()),
            )
            .with_remedy("stop what uses it, or detach it with --force"));
        }
        if point != Path::new(&plan.mountpoint) {
            return Err(Error::new(ErrorKind::Busy, format!("volume {} is mounted on {}", plan.name, point.display())));
        }
        match state {
            WorkerState::Serving => Ok(Now::Serving(Attached { mountpoint: plan.mountpoint.clone(), worker_pid: worker.pid })),
            // Mounted it is; whoever asks what it takes is told that it takes no changes.
            WorkerState::Lost { .. } => Ok(Now::Serving(Attached { mountpoint: plan.mountpoint.clone(), worker_pid: 0 })),
            WorkerState::Restarting { attempts: 0, reason } => Ok(wait(reason)),
            WorkerState::Restarting { reason, .. } => Ok(Now::Wait { why: reason, patience: SHORTLY }),
            WorkerState::Finishing => Ok(wait("its worker is finishing")),
        }
    }

    fn attach_fresh(self: &Arc<Self>, slot: &Arc<Slot>, plan: MountPlan) -> Result<Attached> {
        let point = PathBuf::from(&plan.mountpoint);
        make_mountpoint(&point)?;
        clear_mountpoint(&point)?;
        let launched = Launched::start(self, &plan, true)?;
        let (device, negotiated, mounted) = match self.mount(&plan, &point) {
            Ok(it) => it,
            Err(e) => {
                launched.give_up();
                return Err(e.during(format_args!("mounting volume {}", plan.name)));
            }
        };
        match launched.serve(&device, &negotiated) {
            Ok((worker, child)) => {
                let attached = Attached { mountpoint: plan.mountpoint.clone(), worker_pid: worker.pid };
                tracing::info!(volume = %plan.name, id = %plan.volume, worker = worker.pid, "attached");
                let volume = Volume {
                    // Said once, for this opening: a later worker asks anew.
                    plan: MountPlan { abandon_unsynced: false, ..plan },
                    negotiated,
                    device: Arc::new(device),
                    mounted,
                    worker: worker.clone(),
                    state: WorkerState::Serving,
                    deaths: 0,
                    binds: Vec::new(),
                };
                *slot.volume.lock() = Some(volume);
                self.save();
                self.watch(slot, &worker, Some(child));
                Ok(attached)
            }
            Err(e) => {
                let _ = mount::unmount_by_force(&point);
                Err(e)
            }
        }
    }

    fn mount(&self, plan: &MountPlan, point: &Path) -> Result<(OwnedFd, Negotiated, Device)> {
        let device = mount::open_device()?;
        mount::mount_fuse(&device, &format!("orlop:{}", plan.name), point)?;
        let wanted = plan.options.cache.unwrap_or(CacheMode::Strict);
        let agreed = || {
            let negotiated = negotiate(device.as_fd(), Wishes { resend: self.config.resend, cache: wanted })?;
            let own = table::own().map_err(|e| Error::io("reading the mount table", &e))?;
            let mounted = table::topmost(&own, point).map(|m| m.device);
            mounted
                .map(|mounted| (negotiated, mounted))
                .ok_or_else(|| Error::internal(format!("{} is mounted and not in the mount table", point.display())))
        };
        match agreed() {
            Ok((negotiated, mounted)) => {
                if negotiated.cache() != wanted {
                    tracing::warn!(volume = %plan.name, "this kernel cannot do cache={wanted}: it is mounted with cache={}", negotiated.cache());
                }
                Backing::of(mounted).set_up(negotiated.cache());
                Ok((device, negotiated, mounted))
            }
            Err(e) => {
                let _ = mount::unmount_by_force(point);
                Err(e)
            }
        }
    }
}

fn make_mountpoint(point: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(point) {
        Ok(()) => Ok(()),
        // The folder is there, under a mount whose server is gone: cleared next.
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) || e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(Error::io(format_args!("making the mountpoint {}", point.display()), &e)),
    }
}

/// Takes away dead mounts of earlier lives from a mountpoint; a living mount there is somebody's and is refused.
fn clear_mountpoint(point: &Path) -> Result<()> {
    clear_dead(point)?;
    let own = table::own().map_err(|e| Error::io("reading the mount table", &e))?;
    match table::topmost(&own, point) {
        None => Ok(()),
        Some(top) if top.fstype == FSTYPE => Err(Error::new(
            ErrorKind::Busy,
            format!("{} is mounted already, by a worker of this volume that cannot be reached", point.display()),
        )
        .with_remedy("end that worker with kill -9 (orlop status shows it), or take everything away with: orlop down --force")),
        Some(top) => Err(Error::new(ErrorKind::Busy, format!("something else is mounted on {} ({})", point.display(), top.fstype))
            .with_remedy(format!("umount {}", point.display()))),
    }
}
