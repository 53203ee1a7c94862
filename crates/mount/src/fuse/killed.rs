//! Whether somebody who waits for an answer is being killed.
//!
//! Once a request was read from the kernel, its caller waits for the answer even through SIGKILL: the kernel says so
//! with an interrupt, which is not spoken here, so nobody would learn of it. Requests that wait long are
//! therefore looked after here: one task looks at all their callers a few times a second, and ends when none is left.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a request waits before its caller is looked after. What takes less is none of a killer's business.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often callers are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// All callers that have waited long.
#[derive(Debug, Default)]
pub(super) struct Watch {
    callers: Mutex<Callers>,
}

#[derive(Debug, Default)]
struct Callers {
    next: u64,
    waiting: HashMap<u64, (u32, oneshot::Sender<()>)>,
    /// Whether the task runs that looks at them.
    watched: bool,
}

/// Takes a caller out again, however its waiting ends.
struct Entry<'a> {
    watch: &'a Watch,
    number: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.watch.callers.lock().waiting.remove(&self.number);
    }
}

impl Watch {
    /// Ends when the thread is being killed; never, if it is not known: the kernel's own requests have no caller, and
    /// neither have those of processes that this process' namespace does not show.
    pub(super) async fn killed(self: Arc<Self>, thread: u32) {
        tokio::time::sleep(PATIENCE).await;
        if thread == 0 {
            return std::future::pending().await;
        }
        let (send, seen) = oneshot::channel();
        let number = {
            let mut callers = self.callers.lock();
            let number = callers.next;
            callers.next += 1;
            callers.waiting.insert(number, (thread, send));
            if !std::mem::replace(&mut callers.watched, true) {
                tokio::spawn(self.clone().look());
            }
            number
        };
        let _entry = Entry { watch: &self, number };
        if seen.await.is_err() {
            // The sender goes only with the entry, and that is still here, or with the runtime.
            std::future::pending().await
        }
    }

    async fn look(self: Arc<Self>) {
        loop {
            let waiting: Vec<(u64, u32)> = {
                let mut callers = self.callers.lock();
                if callers.waiting.is_empty() {
                    callers.watched = false;
                    return;
                }
                callers.waiting.iter().map(|(number, (thread, _))| (*number, *thread)).collect()
            };
            for (number, thread) in waiting {
                if is_doomed(thread)
                    && let Some((_, told)) = self.callers.lock().waiting.remove(&number)
                {
                    let _ = told.send(());
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Whether a thread is on its way out: gone, ending, or with SIGKILL waiting for it. The kernel turns every other
/// signal that ends a process into a SIGKILL for each of its threads.
pub(crate) fn is_doomed(thread: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{thread}/status")) else { return true };
    if pending_kill(&status) {
        return true;
    }
    // A thread that ends has taken its signal already, and may still wait here for its last requests.
    std::fs::read_to_string(format!("/proc/{thread}/stat")).map_or(true, |stat| is_ending(&stat))
}

fn pending_kill(status: &str) -> bool {
    const BIT: u64 = 1 << (libc::SIGKILL - 1);
    let pending = |line: &str| {
        let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    status.lines().filter_map(pending).any(|mask| mask & BIT != 0)
}

fn is_ending(stat: &str) -> bool {
    // From the kernel's <linux/sched.h>: it is getting shut down.
    const PF_EXITING: u64 = 4;
    // The name in parentheses may hold anything; the flags are the seventh field after it.
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & PF_EXITING != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::process::Command;

    #[test]
    fn the_kernels_words_are_understood() {
        assert!(pending_kill("Name:\tcat\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"));
        assert!(pending_kill("SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n"));
        assert!(!pending_kill("SigPnd:\t0000000000004000\nShdPnd:\t0000000000000002\nSigBlk:\t0000000000000100\n"));
        assert!(is_ending("12 (a) b) Z 1 2 3 4 5 4194308 0"));
        assert!(!is_ending("12 (a) 4) S 1 4 4 4 4 4194304 0"));
    }

    #[tokio::test]
    async fn a_killed_caller_is_seen_soon_and_a_living_one_is_left_alone() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleeps");
        let watch = Arc::new(Watch::default());
        let living = tokio::time::timeout(PATIENCE + 3 * LOOK_EVERY, watch.clone().killed(child.id())).await;
        assert!(living.is_err(), "it lives");
        kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).expect("killed");
        let seen = tokio::time::timeout(PATIENCE + 4 * LOOK_EVERY, watch.clone().killed(child.id())).await;
        child.wait().expect("reaped");
        seen.expect("its end is seen");
        let nobody = tokio::time::timeout(PATIENCE + 2 * LOOK_EVERY, watch.clone().killed(0)).await;
        assert!(nobody.is_err(), "the kernel itself is never killed");
        tokio::time::sleep(2 * LOOK_EVERY).await;
        let callers = watch.callers.lock();
        assert!(callers.waiting.is_empty() && !callers.watched, "nobody is looked after for ever");
    }
}
