//! How long a request with a large body may take: longer, after one ran out of time on a line that is slow and not dead.
//!
//! The setting `timeout` bounds a whole request, and 16 MiB need 4.5 Mbit/s to be sent within half a minute. On a slower line
//! the same bytes would be sent again and again and never arrive. That the line is slow shows in others' answers: if some
//! came while one request ran out of time, the next may take twice as long, up to sixteen times; where none came, the store
//! is away, and a longer time would only mean to learn later that it is back.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Bodies from this length on are large.
pub(super) const LARGE: usize = 256 << 10;
/// How many times the timeout a request may take at most.
pub(super) const MOST: u32 = 16;

#[derive(Debug)]
pub(super) struct Pace {
    timeout: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    times: u32,
    answered: Option<Instant>,
}

impl Pace {
    pub(super) fn new(timeout: Duration) -> Pace {
        Pace { timeout, state: Mutex::new(State { times: 1, answered: None }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    /// How many times the timeout a large request may take now.
    pub(super) fn times(&self) -> u32 {
        self.state().times
    }

    pub(super) fn limit(&self) -> Duration {
        self.timeout * self.times()
    }

    /// The store answered something.
    pub(super) fn answered(&self) {
        self.state().answered = Some(Instant::now());
    }

    /// The store answered a large request, which took so long.
    pub(super) fn took(&self, time: Duration) {
        let mut state = self.state();
        state.answered = Some(Instant::now());
        if state.times > 1 && time < self.timeout / 2 {
            state.times /= 2;
        }
    }

    /// A large request ran out of its time, which was so many times the timeout.
    pub(super) fn ran_out(&self, times: u32) {
        let mut state = self.state();
        // Answers from before an outage are older than that.
        let is_slow = state.answered.is_some_and(|at| at.elapsed() < self.timeout / 2);
        // Of several that ran out side by side, the first counts.
        if is_slow && state.times == times && times < MOST {
            state.times *= 2;
            tracing::info!(
                seconds = (self.timeout * state.times).as_secs(),
                "the line to the store is slow: large requests may take longer"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_line_that_is_slow_gets_more_time() {
        let pace = Pace::new(Duration::from_secs(10));
        pace.ran_out(1);
        assert_eq!(pace.limit(), Duration::from_secs(10), "nothing was answered: the store is away");
        pace.answered();
        for _ in 0..10 {
            pace.ran_out(1);
        }
        assert_eq!(pace.limit(), Duration::from_secs(20), "of those that ran out together one counts");
        for _ in 0..10 {
            pace.ran_out(pace.times());
        }
        assert_eq!(pace.limit(), Duration::from_secs(160), "at most");
        pace.took(Duration::from_secs(100));
        assert_eq!(pace.times(), MOST);
        for _ in 0..10 {
            pace.took(Duration::from_secs(1));
        }
        assert_eq!(pace.times(), 1, "a fast line gets the old time back");
    }
}
