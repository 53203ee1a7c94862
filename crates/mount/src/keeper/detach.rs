//! Detaching: refused while somebody uses the volume, unless by force; complete only when the worker has brought
//! everything to rest and ended.

use super::Keeper;
use super::volume::{DYING, Slot};
use crate::kernel::mount::{self, Unmounted};
use crate::kernel::{asking, holders, table};
use crate::os::{fuse_device_is_dead, sync_file_system};
use crate::protocol::{WorkerRequest, WorkerState};
use orlop_model::{Error, ErrorKind, Result, VolumeId};
use parking_lot::MutexGuard;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long the worker may take to bring everything to rest before the caller is told to come back.
const FOLDING: Duration = Duration::from_secs(600);
/// How long it may take for that where the volume was taken away by force: it gives a store that is away a minute by itself, and then
/// still notes what the store does not have.
const LAST_TRY: Duration = Duration::from_secs(75);
/// How long another worker may take to come before it is said that there is none: one that was only killed is replaced before.
const REPLACING: Duration = Duration::from_secs(5);
/// How often whoever waits for his turn looks what it is that he waits for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a use by others may take to pass before it counts.
const PASSING: Duration = Duration::from_secs(2);
/// How long a store may take to have what was written, before the volume is unmounted.
const SETTLING: Duration = Duration::from_secs(20);
/// How long pages that were changed through mappings may take to be written, before users are cut off.
const WRITING: Duration = Duration::from_secs(10);
/// How long the kernel may take to end a connection after its last unmount.
const ENDING: Duration = Duration::from_secs(10);

impl Keeper {
    pub(super) fn detach(&self, id: VolumeId, force: bool) -> Result<()> {
        let slot = self.slot(id);
        // Before the turn, for which the next worker waits: should this one die, only that one can take the pages. Where the next one has
        // failed already, nobody can.
        let to_write = slot.look(|v| {
            let has_nobody = matches!(v.state, WorkerState::Restarting { attempts: 1.., .. } | WorkerState::Lost { .. });
            (v.plan.name.clone(), v.mountpoint(), has_nobody || fuse_device_is_dead(v.device.as_fd()))
        });
        if let (true, Some((name, point, false))) = (force, to_write)
            && let Err(e) = self.write_pages(id, &point)
        {
            tracing::warn!(volume = %name, "what the kernel had taken and not written yet may be lost: {e}");
        }
        let _turn = turn(&slot, force)?;
        let Some((name, point, mounted, state, binds, points)) =
            slot.look(|v| (v.plan.name.clone(), v.mountpoint(), v.mounted, v.state.clone(), v.binds.clone(), v.points()))
        else {
            return self.may_count_as_detached(id);
        };
        let dead = slot.look(|v| fuse_device_is_dead(v.device.as_fd())).unwrap_or(true);
        if !dead && !force {
            let busy = |why: String| {
                Err(Error::new(ErrorKind::Busy, format!("volume {name} is in use: {why}"))
                    .with_remedy("stop what uses it and try again, or use --force, which cuts it off"))
            };
            if let Some(b) = binds.first() {
                return busy(format!("it is shown in {}", b.dir));
            }
            if let WorkerState::Restarting { reason, .. } = state {
                return Err(no_worker(name.as_str(), &reason));
            }
            let (own, elsewhere) = settled_use(mounted, &points)?;
            if !elsewhere.is_empty() {
                return busy(elsewhere.join(", "));
            }
            match table::topmost(&own, &point).map(|m| m.device) {
                Some(top) if top != mounted => return busy(format!("something is mounted over {}", point.display())),
                _ => {}
            }
            // The unmount itself has no way back, and a store that does not answer would keep the worker waiting.
            let settled = if self.is_away(id) { self.settle(id).err() } else { None };
            if let Some(e) = settled.as_ref().filter(|e| e.kind == ErrorKind::Busy) {
                // Another host has the volume: what was not sent never will be, and lies in the journal on this host.
                tracing::warn!(volume = %name, "unmounting a volume that another host has taken: {e}");
            } else if let Some(e) = settled {
                return Err(Error::unavailable(format!("volume {name} stays mounted, its store does not have what was written: {e}"))
                    .with_remedy(
                        "try again when the store answers; orlop unmount --force, or orlop down --force, takes it away now: what was \
                         acknowledged stays on this host and is sent when the volume is mounted here again",
                    ));
            }
            if mount::unmount(&point)? == Unmounted::Busy {
                let users = holders::of(mounted);
                return busy(if users.is_empty() { format!("the kernel says {} is busy", point.display()) } else { users.join(", ") });
            }
        } else if !dead {
            for b in &binds {
                mount::unmount_lazily(Path::new(&b.dir))?;
            }
            tracing::warn!(volume = %name, "cutting off whoever uses it");
            mount::unmount_by_force(&point)?;
        }
        self.await_end(&slot, force)
    }

    fn is_away(&self, id: VolumeId) -> bool {
        self.slot(id).look(|v| !v.plan.store.is_local()).unwrap_or(false)
    }

    /// Has the worker make durable what it accepted. A store may be away, a disk only slow.
    pub(super) fn settle(&self, id: VolumeId) -> Result<()> {
        self.ask_worker(id, &WorkerRequest::Sync, self.is_away(id).then_some(SETTLING))
    }

    /// Has the kernel write what it alone has, as far as that comes to an end soon. A worker that is being replaced is waited for:
    /// only its successor can take it, and needs the turn for that, which the caller must not hold.
    pub(super) fn write_pages(&self, id: VolumeId, point: &Path) -> Result<()> {
        let until = Instant::now() + WRITING;
        let is_ending =
            || self.slot(id).look(|v| v.state == WorkerState::Finishing || fuse_device_is_dead(v.device.as_fd())).unwrap_or(true);
        let is_restarting = || self.slot(id).look(|v| matches!(v.state, WorkerState::Restarting { .. })).unwrap_or(false);
        loop {
            while is_restarting() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
            start_writing(point, until);
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
            match self.ask_worker::<()>(id, &WorkerRequest::WritePages, Some(left)) {
                // It died meanwhile.
                Err(_) if Instant::now() < until && !is_ending() => std::thread::sleep(Duration::from_millis(50)),
                answer => return answer,
            }
        }
    }

    /// Waits for the worker's end after the unmount, and clears the place.
    fn await_end(&self, slot: &Slot, force: bool) -> Result<()> {
        let Some((name, worker, device)) = slot.look(|v| (v.plan.name.clone(), v.worker.clone(), v.device.clone())) else { return Ok(()) };
        let before = slot.look(|v| v.state.clone()).unwrap_or(WorkerState::Serving);
        slot.change(|v| v.state = WorkerState::Finishing);
        let until = Instant::now() + ENDING;
        while !fuse_device_is_dead(device.as_fd()) {
            if Instant::now() > until {
                slot.change(|v| v.state = before);
                return Err(Error::new(ErrorKind::Busy, format!("volume {name} was unmounted, but somebody took hold of it meanwhile"))
                    .with_remedy("stop what uses it and try again, or use --force, which cuts it off"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut ended = worker.process.wait(Some(if force { LAST_TRY } else { FOLDING }));
        if force && matches!(ended, Ok(false)) {
            // What it acknowledged is in its journal, and is sent when the volume is mounted here again.
            tracing::warn!(volume = %name, worker = worker.pid, "it does not come to an end with its store, and is killed");
            // One that has ended meanwhile cannot be killed, and need not.
            let _ = worker.process.kill();
            ended = worker.process.wait(Some(DYING));
        }
        match ended {
            Ok(true) => {
                self.forget(slot);
                tracing::info!(volume = %name, "detached");
                Ok(())
            }
            Ok(false) => Err(Error::unavailable(format!(
                "volume {name} is unmounted, but its worker (process {}) still brings it to rest",
                worker.pid
            ))
            .with_remedy("try again later")),
            Err(e) => Err(Error::io("waiting for a worker's end", &e)),
        }
    }

    /// Clears the place of a volume that is no longer mounted.
    pub(super) fn forget(&self, slot: &Slot) {
        let Some(volume) = slot.volume.lock().take() else { return };
        slot.stand_in.lock().take();
        // Whoever hears that it is detached may delete its files, or open them.
        if !slot.end_opening() {
            tracing::error!(volume = %volume.plan.name, "a worker that was to serve it does not end although it was killed");
        }
        let _ = std::fs::remove_file(self.layout.worker_socket(slot.id));
        slot.faults.store(0, Ordering::Relaxed);
        *slot.program.lock() = None;
        for point in volume.points() {
            // Dead mounts may remain where the connection was cut while they were busy.
            let own = table::own().unwrap_or_default();
            if table::topmost(&own, &point).is_some_and(|m| m.device == volume.mounted)
                && let Err(e) = mount::unmount_lazily(&point)
            {
                tracing::error!("{e}");
            }
        }
        if let Err(e) = std::fs::remove_dir(volume.mountpoint()) {
            tracing::debug!("removing {}: {e}", volume.plan.mountpoint);
        }
        self.save();
    }
}

/// The place's turn. Whoever detaches without force waits for a worker that is being replaced, and is refused if none comes; whoever does it
/// by force takes the turn from one that only opens the volume.
fn turn(slot: &Slot, force: bool) -> Result<MutexGuard<'_, ()>> {
    let until = Instant::now() + REPLACING;
    loop {
        if !force && slot.is_unserved() {
            let restarting = slot.look(|v| match &v.state {
                WorkerState::Restarting { reason, .. } => Some(no_worker(v.plan.name.as_str(), reason)),
                WorkerState::Serving | WorkerState::Lost { .. } | WorkerState::Finishing => None,
            });
            match restarting.flatten() {
                Some(refused) if Instant::now() > until => return Err(refused),
                _ => std::thread::sleep(LOOK_EVERY),
            }
            continue;
        }
        if let Some(turn) = slot.turn.try_lock_for(LOOK_EVERY) {
            return Ok(turn);
        }
        if force && slot.is_unserved() {
            slot.end_opening();
        }
    }
}

fn no_worker(name: &str, reason: &str) -> Error {
    Error::unavailable(format!("volume {name} has no worker that could bring it to rest: {reason}"))
        .with_remedy("try again when its worker is back, or use --force: what was acknowledged stays in its journal")
}

/// The mount table, and who else uses a file system once those had a moment who only pass: a container that starts
/// has all mounts of the host until it has a root of its own, and one that ends lets go a little after its last process.
fn settled_use(mounted: table::Device, points: &[PathBuf]) -> Result<(Vec<table::Mount>, Vec<String>)> {
    let until = Instant::now() + PASSING;
    loop {
        let own = table::own().map_err(|e| Error::io("reading the mount table", &e))?;
        let others = table::others().map_err(|e| {
            Error::unavailable(format!("whether somebody uses the volume is not known: {e}"))
                .with_remedy("try again; a process waits for a volume without a worker, which orlop status shows")
        })?;
        let elsewhere = table::elsewhere(mounted, points, &own, &others);
        if elsewhere.is_empty() || Instant::now() > until {
            return Ok((own, elsewhere));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Has the kernel start to write all that is dirty at once. That it has arrived is the worker's to say: for a FUSE file
/// system syncfs returns before the writes are answered.
fn start_writing(point: &Path, until: Instant) {
    let point = point.to_owned();
    // The end of the connection sets its thread free.
    let done = asking::within(until.saturating_duration_since(Instant::now()), "sync-pages", move || {
        let synced = File::open(&point).and_then(|dir| sync_file_system(dir.as_fd()));
        if let Err(e) = synced {
            tracing::warn!("writing what is dirty on {}: {e}", point.display());
        }
    });
    if done.is_none() {
        tracing::warn!("the kernel does not come to an end with what is dirty");
    }
}
