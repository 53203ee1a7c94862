//! A worker's end: expected after an unmount; otherwise another is put in its place on the same connection, and the
//! requests that the dead one left unanswered are asked for again.

use super::Keeper;
use super::launch::Launched;
use super::volume::{Slot, Worker};
use crate::kernel::init;
use crate::os::fuse_device_is_dead;
use crate::protocol::WorkerState;
use orlop_model::Result;
use std::os::fd::AsFd;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

/// A worker that served this long was sound: the next one starts at once.
const SOUND: Duration = Duration::from_secs(60);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

fn wait_before_start(deaths: u32) -> Duration {
    match deaths {
        0 | 1 => Duration::ZERO,
        n => LONGEST_WAIT.min(Duration::from_millis(100) * 2u32.saturating_pow(n - 2)),
    }
}

impl Keeper {
    /// Waits for a worker's end on a thread of its own. `child` is absent for workers of an earlier keeper.
    pub(super) fn watch(self: &Arc<Self>, slot: &Arc<Slot>, worker: &Worker, child: Option<Child>) {
        let (keeper, slot, worker) = (self.clone(), slot.clone(), worker.clone());
        let watched = super::spawn("watch", move || {
            let how = match child {
                Some(mut child) => child.wait().map(|status| status.to_string()),
                None => worker.process.wait(None).map(|_| "it ended".to_owned()),
            };
            keeper.worker_ended(&slot, &worker, how.unwrap_or_else(|e| e.to_string()));
        });
        if let Err(e) = watched {
            tracing::error!("a worker is not watched: {e}");
        }
    }

    fn worker_ended(self: &Arc<Self>, slot: &Arc<Slot>, worker: &Worker, how: String) {
        // A child is reaped when its first thread is gone; the process descriptor tells when all are.
        let _ = worker.process.wait(None);
        let mut attempts = 0;
        let mut reason = format!("worker {} died: {how}", worker.pid);
        loop {
            let turn = slot.turn.lock();
            let Some((current, dead)) = slot.look(|v| (v.worker.pid, fuse_device_is_dead(v.device.as_fd()))) else { return };
            if current != worker.pid {
                return;
            }
            if dead {
                tracing::info!(volume = %slot.id, "its connection has ended, and so has its worker ({how})");
                self.forget(slot);
                return;
            }
            if attempts == 0 {
                tracing::error!(volume = %slot.id, "{reason}");
                let sound = worker.since.elapsed() > SOUND;
                slot.change(|v| v.deaths = if sound { 1 } else { v.deaths + 1 });
            }
            slot.change(|v| v.state = WorkerState::Restarting { attempts, reason: reason.clone() });
            let deaths = slot.look(|v| v.deaths).unwrap_or(0);
            if attempts > 0 || wait_before_start(deaths).is_zero() {
                match self.replace_worker(slot) {
                    Ok((next, child)) => {
                        tracing::info!(volume = %slot.id, worker = next.pid, "another worker serves");
                        self.save();
                        self.watch(slot, &next, Some(child));
                        return;
                    }
                    Err(e) => {
                        tracing::error!(volume = %slot.id, "no other worker yet: {e}");
                        reason = e.to_string();
                        slot.change(|v| {
                            v.deaths += 1;
                            v.state = WorkerState::Restarting { attempts: attempts + 1, reason: reason.clone() };
                        });
                    }
                }
            }
            attempts += 1;
            drop(turn);
            std::thread::sleep(wait_before_start(slot.look(|v| v.deaths).unwrap_or(0)));
        }
    }

    fn replace_worker(&self, slot: &Slot) -> Result<(Worker, Child)> {
        let Some((plan, negotiated, device)) = slot.look(|v| (v.plan.clone(), v.negotiated, v.device.clone())) else {
            return Err(orlop_model::Error::internal("the volume is gone"));
        };
        // The kernel still knows inodes of this volume, unlinked ones included.
        let launched = Launched::start(self, &plan, false)?;
        let (worker, child) = launched.serve(&device, &negotiated)?;
        if negotiated.resends()
            && let Err(e) = init::resend(device.as_fd())
        {
            tracing::error!(volume = %plan.name, "asking for unanswered requests again: {e}");
        }
        slot.change(|v| {
            v.worker = worker.clone();
            v.state = WorkerState::Serving;
        });
        Ok((worker, child))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_death_is_forgiven_and_the_wait_is_bounded() {
        assert_eq!(wait_before_start(1), Duration::ZERO);
        assert_eq!(wait_before_start(2), Duration::from_millis(100));
        assert_eq!(wait_before_start(4), Duration::from_millis(400));
        assert_eq!(wait_before_start(1000), LONGEST_WAIT);
    }
}
