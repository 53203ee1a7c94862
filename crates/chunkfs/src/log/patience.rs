//! Waiting for a store that is away, and knowing since when it is.
//!
//! Errors that say something about the object (not there, already there, changed meanwhile) are answers. Everything
//! else counts as being away: what a store refuses today, for want of credentials or space, it may take tomorrow, and
//! nothing that was accepted may be given up for it.

use crate::types::{FsError, FsResult};
use object_store::Error;
use orlop_model::OutagePolicy;
use orlop_store::wrap::BrokenSeal;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often a store that stays away is written about in the log.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// How long to wait, and since when the store is away.
#[derive(Debug)]
pub(crate) struct Patience {
    policy: OutagePolicy,
    deadline: Duration,
    away: Mutex<Option<Away>>,
}

#[derive(Debug)]
struct Away {
    since: Instant,
    told: Instant,
}

/// Whether an error is an answer about the object, and asking again would get the same: a broken seal was looked at twice.
pub(crate) fn is_answer(e: &Error) -> bool {
    matches!(
        e,
        Error::NotFound { .. }
            | Error::AlreadyExists { .. }
            | Error::Precondition { .. }
            | Error::NotModified { .. }
            | Error::InvalidPath { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
    ) || BrokenSeal::find(e).is_some()
}

impl Patience {
    pub(crate) fn new(policy: OutagePolicy, deadline: Duration) -> Patience {
        Patience { policy, deadline, away: Mutex::new(None) }
    }

    /// The store answered.
    pub(crate) fn answered(&self) {
        if let Some(away) = self.away.lock().take() {
            tracing::info!(seconds = away.since.elapsed().as_secs(), "the store answers again");
        }
    }

    /// The store did not answer.
    pub(crate) fn failed(&self) {
        let now = Instant::now();
        self.away.lock().get_or_insert(Away { since: now, told: now });
    }

    /// How long it has been away; zero if it is not.
    pub(crate) fn away_for(&self) -> Duration {
        self.away.lock().as_ref().map_or(Duration::ZERO, |a| a.since.elapsed())
    }

    pub(crate) fn is_away(&self) -> bool {
        self.away.lock().is_some()
    }

    fn failed_because(&self, what: &str, e: &Error) {
        let now = Instant::now();
        let mut away = self.away.lock();
        match away.as_mut() {
            None => {
                tracing::warn!(what, error = %e, "the store does not answer; trying again until it does");
                *away = Some(Away { since: now, told: now });
            }
            Some(a) if now - a.told >= TELL_EVERY => {
                tracing::warn!(what, error = %e, seconds = a.since.elapsed().as_secs(), "the store still does not answer");
                a.told = now;
            }
            Some(_) => {}
        }
    }

    /// Asks until there is an answer.
    pub(crate) async fn for_ever<T, F>(&self, what: &str, f: impl FnMut() -> F) -> FsResult<Result<T, Error>>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        self.ask(what, false, f).await
    }

    /// Asks until there is an answer, or as long as the outage policy allows.
    pub(crate) async fn as_the_policy_says<T, F>(&self, what: &str, f: impl FnMut() -> F) -> FsResult<Result<T, Error>>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        self.ask(what, self.policy != OutagePolicy::Wait, f).await
    }

    async fn ask<T, F>(&self, what: &str, bounded: bool, mut f: impl FnMut() -> F) -> FsResult<Result<T, Error>>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let (mut pause, began) = (FIRST_PAUSE, Instant::now());
        loop {
            let left = self.deadline.saturating_sub(self.away_for());
            // Even after the deadline it is asked once, shortly: so it is found to be back by whoever needs it.
            let limit = if bounded { left.max(FIRST_PAUSE * 4) } else { Duration::MAX };
            match tokio::time::timeout(limit, f()).await {
                Ok(Ok(it)) => {
                    self.answered();
                    return Ok(Ok(it));
                }
                Ok(Err(e)) if is_answer(&e) => {
                    self.answered();
                    return Ok(Err(e));
                }
                Ok(Err(e)) => self.failed_because(what, &e),
                Err(_) => self.failed(),
            }
            // Others may be answered all the time, and only this one never be.
            let in_vain = self.away_for().max(began.elapsed());
            if bounded && in_vain >= self.deadline {
                return Err(FsError::Io(format!("{what}: the store has not answered for {} seconds", in_vain.as_secs())));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn away() -> Error {
        Error::Generic { store: "test", source: "connection refused".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn it_asks_until_there_is_an_answer_and_keeps_to_the_deadline() {
        let patience = Patience::new(OutagePolicy::Fail, Duration::from_secs(10));
        let asked = Cell::new(0);
        let got = patience
            .for_ever("x", || {
                asked.set(asked.get() + 1);
                let n = asked.get();
                async move { if n < 30 { Err(away()) } else { Ok(7) } }
            })
            .await;
        assert_eq!(got.expect("for ever").expect("an answer"), 7);
        assert_eq!(patience.away_for(), Duration::ZERO);
        let missing = patience
            .as_the_policy_says("x", || async { Err::<(), _>(Error::NotFound { path: "x".into(), source: "gone".into() }) })
            .await
            .expect("answered");
        assert!(matches!(missing, Err(Error::NotFound { .. })));
    }

    #[tokio::test]
    async fn the_policy_ends_the_waiting() {
        let patience = Patience::new(OutagePolicy::Fail, Duration::from_millis(300));
        let began = Instant::now();
        let e = patience.as_the_policy_says("x", || async { Err::<(), _>(away()) }).await.expect_err("away");
        assert!(matches!(e, FsError::Io(_)));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        // A call that hangs counts as well.
        let began = Instant::now();
        let hung = patience.as_the_policy_says("x", std::future::pending::<object_store::Result<()>>).await;
        assert!(hung.is_err() && began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        // And one that fails while all others are answered.
        let began = Instant::now();
        let alone = patience.as_the_policy_says("x", || async {
            patience.answered();
            Err::<(), _>(away())
        });
        assert!(alone.await.is_err() && began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}
