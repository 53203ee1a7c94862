//! An attached volume as the keeper holds it, and what its place remembers of the workers that died there.

use super::stand_in::StandIn;
use crate::kernel::init::Negotiated;
use crate::kernel::table::Device;
use crate::os::{PidFd, fuse_device_is_dead};
use crate::protocol::{Bound, WorkerState};
use orlop_model::{MountPlan, VolumeId};
use parking_lot::Mutex;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

/// How long a process that was killed may take to be gone.
pub(super) const DYING: Duration = Duration::from_secs(10);

/// The place of a volume. `turn` is held by whoever attaches, detaches, binds or renews the worker, for as long
/// as that takes, and by whoever replaces a dead one, but for the opening, which takes as long as its store does; `volume` only for a
/// moment, so that looking never waits.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: VolumeId,
    pub(super) turn: Mutex<()>,
    pub(super) volume: Mutex<Option<Volume>>,
    /// Workers in a row that ended by a fault of their own soon after their start.
    pub(super) faults: AtomicU32,
    /// The binary that serves this volume in place of the keeper's own, which refused it; its file may be gone.
    pub(super) program: Mutex<Option<Arc<File>>>,
    /// A worker that was started to serve it and does not yet. It has the volume's files open, so whoever takes the volume away ends it.
    pub(super) opening: Mutex<Option<Arc<PidFd>>>,
    /// Who answers while there is no worker. Held by whoever hands the mount to one, until that is known as the volume's: nobody may begin
    /// to read beside it.
    pub(super) stand_in: Mutex<Option<StandIn>>,
}

impl Slot {
    pub(super) fn new(id: VolumeId) -> Self {
        Slot {
            id,
            turn: Mutex::new(()),
            volume: Mutex::new(None),
            faults: AtomicU32::new(0),
            program: Mutex::new(None),
            opening: Mutex::new(None),
            stand_in: Mutex::new(None),
        }
    }

    /// A look at the volume, if it is attached.
    pub(super) fn look<T>(&self, f: impl FnOnce(&Volume) -> T) -> Option<T> {
        self.volume.lock().as_ref().map(f)
    }

    /// Whether its worker is gone and no other one serves yet, while the mount lives.
    pub(super) fn is_unserved(&self) -> bool {
        self.look(|v| matches!(v.state, WorkerState::Restarting { .. }) && !fuse_device_is_dead(v.device.as_fd())).unwrap_or(false)
    }

    /// Ends a worker that was started to serve it and does not yet. Returns whether there is none any more.
    pub(super) fn end_opening(&self) -> bool {
        let Some(process) = self.opening.lock().clone() else { return true };
        // One that has ended by itself cannot be killed, and need not.
        let _ = process.kill();
        process.wait(Some(DYING)).unwrap_or(false)
    }

    /// Changes the volume, if it is attached.
    pub(super) fn change(&self, f: impl FnOnce(&mut Volume)) {
        if let Some(v) = self.volume.lock().as_mut() {
            f(v);
        }
    }
}

/// A process that serves a volume.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    pub(super) pid: u32,
    pub(super) started: Option<u64>,
    pub(super) process: Arc<PidFd>,
    pub(super) since: Instant,
}

/// An attached volume.
#[derive(Debug)]
pub(super) struct Volume {
    pub(super) plan: MountPlan,
    pub(super) negotiated: Negotiated,
    /// The FUSE connection. It lives as long as the keeper or a worker holds it.
    pub(super) device: Arc<OwnedFd>,
    /// The mounted file system's number.
    pub(super) mounted: Device,
    pub(super) worker: Worker,
    pub(super) state: WorkerState,
    /// Deaths in quick succession; decides how long the next start is put off.
    pub(super) deaths: u32,
    pub(super) binds: Vec<Bound>,
}

impl Volume {
    pub(super) fn mountpoint(&self) -> PathBuf {
        PathBuf::from(&self.plan.mountpoint)
    }

    /// Whether the keeper's descriptor is the only one of a living mount, its worker being gone, noticed or not.
    pub(super) fn hangs_on_keeper(&self) -> bool {
        let gone = match self.state {
            WorkerState::Restarting { .. } | WorkerState::Lost { .. } => true,
            WorkerState::Serving => self.worker.process.wait(Some(Duration::ZERO)).unwrap_or(false),
            WorkerState::Finishing => false,
        };
        gone && !fuse_device_is_dead(self.device.as_fd())
    }

    /// The mounts that are ours.
    pub(super) fn points(&self) -> Vec<PathBuf> {
        std::iter::once(self.mountpoint()).chain(self.binds.iter().map(|b| PathBuf::from(&b.dir))).collect()
    }
}
