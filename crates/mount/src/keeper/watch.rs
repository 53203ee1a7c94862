//! A worker's end: expected after an unmount; otherwise another is put in its place on the same connection, and the
//! requests that the dead one left unanswered are asked for again.

use super::Keeper;
use super::launch::{Launched, Opening};
use super::poison::{self, SOON, SOUND};
use super::stand_in::StandIn;
use super::volume::{Slot, Worker};
use crate::kernel::init;
use crate::os::fuse_device_is_dead;
use crate::protocol::{Lost, WorkerState};
use nix::sys::signal::Signal;
use orlop_model::{Error, Result};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often it is looked whether a mount that no worker serves any more has ended.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How a worker ended.
struct End {
    how: String,
    /// Whether by a defect. Who is killed from outside has none; of a worker that an earlier keeper started nobody knows.
    fault: bool,
}

impl End {
    fn of(status: ExitStatus) -> Self {
        End { how: status.to_string(), fault: status.signal() != Some(Signal::SIGKILL as i32) }
    }

    fn unknown(how: impl ToString) -> Self {
        End { how: how.to_string(), fault: false }
    }
}

impl Keeper {
    /// Waits for a worker's end on a thread of its own. `child` is absent for workers of an earlier keeper.
    pub(super) fn watch(self: &Arc<Self>, slot: &Arc<Slot>, worker: &Worker, child: Option<Child>) {
        let (keeper, slot, worker) = (self.clone(), slot.clone(), worker.clone());
        let watched = super::spawn("watch", move || {
            let end = match child {
                Some(mut child) => child.wait().map(End::of),
                None => worker.process.wait(None).map(|_| End::unknown("it ended")),
            };
            keeper.worker_ended(&slot, &worker, &end.unwrap_or_else(End::unknown));
        });
        if let Err(e) = watched {
            tracing::error!("a worker is not watched: {e}");
        }
    }

    fn worker_ended(self: &Arc<Self>, slot: &Arc<Slot>, worker: &Worker, end: &End) {
        let (served, since) = (worker.since.elapsed(), Instant::now());
        // A child is reaped when its first thread is gone; the process descriptor tells when all are.
        let _ = worker.process.wait(None);
        let mut attempts = 0;
        let mut reason = format!("worker {} died: {}", worker.pid, end.how);
        let mut wait = Duration::ZERO;
        let mut counted = false;
        let mut opening: Option<Opening> = None;
        loop {
            // Without the turn: it takes as long as the store does, and who wants to unmount the volume meanwhile must not wait for that.
            let opened = opening.take().map(Opening::finish_or_lose);
            let turn = slot.turn.lock();
            let now = slot.look(|v| (v.worker.pid, fuse_device_is_dead(v.device.as_fd())));
            let Some((_, dead)) = now.filter(|(current, _)| *current == worker.pid) else {
                // Whoever took the volume away has ended what was to serve it.
                drop(turn);
                return give_up(opened);
            };
            let is_lost = slot.look(|v| matches!(v.state, WorkerState::Lost { .. })).unwrap_or(false);
            if dead {
                tracing::info!(volume = %slot.id, "its connection has ended, and so has its worker ({})", end.how);
                self.forget(slot);
                drop(turn);
                return give_up(opened);
            }
            if is_lost {
                // Its end alone is waited for: that of the mount.
                drop(turn);
                std::thread::sleep(LOOK_EVERY);
                continue;
            }
            slot.change(|v| v.state = WorkerState::Restarting { attempts, reason: reason.clone() });
            if !counted {
                counted = true;
                tracing::error!(volume = %slot.id, "{reason}");
                wait = count(slot, end, served);
                stand_in(slot, since);
            }
            let failed = match opened {
                None if wait.is_zero() => self.start_successor(slot).map(|started| opening = Some(started)).err(),
                None => None,
                Some(Ok(Err(lost))) => {
                    lose(slot, since, lost);
                    continue;
                }
                Some(Ok(Ok(launched))) => match self.hand_over(slot, launched) {
                    Ok((next, child)) => {
                        tracing::info!(volume = %slot.id, worker = next.pid, "another worker serves");
                        self.serves_now(slot, &next, child);
                        return;
                    }
                    Err(e) => Some(e),
                },
                Some(Err(e)) => Some(e),
            };
            if let Some(e) = failed {
                tracing::error!(volume = %slot.id, "no other worker yet: {e}");
                attempts += 1;
                reason = e.to_string();
                slot.change(|v| v.state = WorkerState::Restarting { attempts, reason: reason.clone() });
                wait = poison::wait_after_failure(attempts);
                stand_in(slot, since);
                if let Some(stand_in) = slot.stand_in.lock().as_ref() {
                    stand_in.learn(&e);
                }
            }
            drop(turn);
            if opening.is_none() {
                std::thread::sleep(std::mem::take(&mut wait));
            }
        }
    }

    /// Puts another worker in the place of one that is gone, with the turn.
    pub(super) fn replace_worker(&self, slot: &Slot) -> Result<(Worker, Child)> {
        let launched = self.start_successor(slot)?.finish()?;
        self.hand_over(slot, launched)
    }

    /// Has a worker that has opened the volume serve it, with the turn.
    fn hand_over(&self, slot: &Slot, launched: Launched) -> Result<(Worker, Child)> {
        let Some((name, negotiated, device)) = slot.look(|v| (v.plan.name.clone(), v.negotiated, v.device.clone())) else {
            launched.give_up();
            return Err(Error::internal("the volume is gone"));
        };
        let mut stand_in = slot.stand_in.lock();
        drop(stand_in.take());
        if negotiated.resends() && poison::is_poisoned(slot.faults.load(Ordering::Relaxed)) {
            match poison::refuse_unanswered(device.as_fd()) {
                Ok(n) => tracing::error!(
                    volume = %name,
                    "{} workers in a row died soon after their start: the {n} requests that they left unanswered were answered EIO",
                    slot.faults.swap(0, Ordering::Relaxed)
                ),
                Err(e) => tracing::error!(volume = %name, "refusing the requests that workers die of: {e}"),
            }
        }
        let (worker, child) = launched.serve(&device, &negotiated)?;
        if negotiated.resends()
            && let Err(e) = init::resend(device.as_fd())
        {
            tracing::error!(volume = %name, "asking for unanswered requests again: {e}");
        }
        slot.opening.lock().take();
        slot.change(|v| {
            v.worker = worker.clone();
            v.state = WorkerState::Serving;
        });
        Ok((worker, child))
    }
}

/// A worker that was started for a volume which is no longer there, or no longer its own, and that was ended for it.
fn give_up(opened: Option<Result<Result<Launched, Lost>>>) {
    if let Some(Ok(Ok(launched))) = opened {
        launched.give_up();
    }
}

/// No worker follows: what this mount was told of the volume is not true any more. All that is asked ends in an error until it is
/// unmounted, as it does where the worker lives that learned of it.
fn lose(slot: &Slot, since: Instant, lost: Lost) {
    tracing::error!(volume = %slot.id, "no worker follows: {}", lost.why);
    slot.opening.lock().take();
    slot.change(|v| v.state = WorkerState::Lost { reason: lost.why });
    stand_in(slot, since);
    if let Some(stand_in) = slot.stand_in.lock().as_ref() {
        stand_in.refuse_all();
    }
}

/// Has somebody stand in for the worker, if nobody does, since it is gone.
fn stand_in(slot: &Slot, since: Instant) {
    let mut place = slot.stand_in.lock();
    if place.is_none() {
        *place = slot.look(|v| StandIn::start(v, since)).flatten();
    }
}

/// Counts a death, and tells how long the next worker waits.
fn count(slot: &Slot, end: &End, served: Duration) -> Duration {
    if end.fault && served < SOON {
        slot.faults.fetch_add(1, Ordering::Relaxed);
    } else {
        slot.faults.store(0, Ordering::Relaxed);
    }
    slot.change(|v| v.deaths = if served < SOUND { v.deaths.saturating_add(1) } else { 1 });
    poison::wait_after_death(slot.look(|v| v.deaths).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_model::VolumeId;

    #[test]
    fn only_faults_soon_after_the_start_make_a_request_suspect() {
        let slot = Slot::new(VolumeId::random());
        let fault = End::of(ExitStatus::from_raw(Signal::SIGABRT as i32));
        let killed = End::of(ExitStatus::from_raw(Signal::SIGKILL as i32));
        assert!(fault.fault && !killed.fault && End::of(ExitStatus::from_raw(1 << 8)).fault);
        let faults = |end: &End, served| {
            count(&slot, end, served);
            slot.faults.load(Ordering::Relaxed)
        };
        for n in 1..=4 {
            assert_eq!(faults(&fault, Duration::from_millis(5)), n);
            assert!(!poison::is_poisoned(n));
        }
        assert_eq!(faults(&killed, Duration::from_millis(5)), 0, "somebody killed it: nothing to suspect");
        assert_eq!(faults(&fault, SOON), 0, "it served well before");
        for _ in 0..5 {
            count(&slot, &fault, Duration::ZERO);
        }
        assert!(poison::is_poisoned(slot.faults.load(Ordering::Relaxed)));
    }
}
