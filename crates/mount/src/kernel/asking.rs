//! Questions to the kernel that may stay without an answer, and a bound for whoever asks them.
//!
//! Of a process in the middle of an exec /proc tells nothing until the exec is done, and that waits for the worker of every
//! file that it closes. The keeper, which puts another worker in the place of one that is gone, must never wait so.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// How long such a question may take. A host with tens of thousands of processes takes a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions without an answer at once: each has a thread.
const MOST: usize = 8;

static OPEN: AtomicUsize = AtomicUsize::new(0);

/// One question; however it ends, it is open no longer.
struct Open;

impl Open {
    fn new() -> Option<Open> {
        OPEN.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < MOST).then_some(n + 1)).ok().map(|_| Open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The answer, if it comes in time.
pub(crate) fn ask<T: Send + 'static>(question: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    ask_within(PATIENCE, question)
}

/// The same, with a limit of its own.
pub(crate) fn ask_within<T: Send + 'static>(limit: Duration, question: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let open = Open::new()?;
    within(limit, "asking", move || {
        let _open = open;
        question()
    })
}

/// What `f` returns, if it does in time: on a thread of this name, which stays behind if the kernel keeps it.
pub(crate) fn within<T: Send + 'static>(limit: Duration, name: &str, f: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = mpsc::channel();
    let work = move || {
        // Nobody may be waiting any more.
        let _ = tell.send(f());
    };
    std::thread::Builder::new().name(name.to_owned()).stack_size(512 << 10).spawn(work).ok()?;
    told.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_answered_keeps_nobody_and_threads_are_bounded() {
        assert_eq!(ask_within(PATIENCE, || 7), Some(7));
        let (answer, wait) = mpsc::channel::<()>();
        let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
        for _ in 0..MOST {
            let wait = wait.clone();
            let question = move || drop(wait.lock().map(|w| w.recv()));
            assert_eq!(ask_within(Duration::from_millis(20), question), None);
        }
        assert_eq!(ask_within(PATIENCE, || 7), None, "too many are open");
        drop(answer);
        while OPEN.load(Ordering::Acquire) > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(ask_within(PATIENCE, || 7), Some(7));
    }
}
