//! The clock that the namespace's database sees: the host's, but never behind what the database saw before.
//!
//! SlateDB stamps its writes and refuses, for good until it is opened again, to write when its clock is behind the
//! last stamp. A host's clock does step back: a dead battery, a restored virtual machine, a correction. Orlop
//! orders nothing by these stamps, so the clock is put forward by what is missing. Ids of tables and the ages that
//! collection compares them with come from this same clock, so the difference cancels out there.

use chrono::{DateTime, TimeDelta, Utc};
use slatedb_common::clock::{DefaultSystemClock, SystemClock, SystemClockTicker};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Ticks {
    host: DefaultSystemClock,
    /// Milliseconds by which it is put forward.
    ahead: AtomicI64,
}

impl Ticks {
    /// Puts the clock forward, if need be, so that it is not behind this stamp, in milliseconds since 1970.
    pub(crate) fn not_before(&self, stamp: i64) {
        let behind = stamp.saturating_sub(self.now().timestamp_millis());
        if behind > 0 {
            tracing::warn!(milliseconds = behind, "the host's clock stepped back since the namespace was last written");
            self.ahead.fetch_add(behind, Ordering::AcqRel);
        }
    }
}

impl Ticks {
    /// Whether an error is the refusal of a clock that is behind; if so, and if that helps, puts it forward.
    pub(crate) fn refused(&self, error: &str) -> bool {
        let Some((_, rest)) = error.split_once("last_tick=`") else { return false };
        let Some(stamp) = rest.split_once('`').and_then(|(n, _)| n.parse::<i64>().ok()) else { return false };
        let behind = stamp > self.now().timestamp_millis();
        self.not_before(stamp);
        behind
    }
}

impl SystemClock for Ticks {
    fn now(&self) -> DateTime<Utc> {
        let ahead = TimeDelta::milliseconds(self.ahead.load(Ordering::Acquire));
        let now = self.host.now();
        now.checked_add_signed(ahead).unwrap_or(now)
    }

    fn sleep<'a>(&'a self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        self.host.sleep(duration)
    }

    fn ticker<'a>(&'a self, duration: Duration) -> SystemClockTicker<'a> {
        SystemClockTicker::new(self, duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_put_forward_only_as_far_as_needed() {
        let ticks = Ticks::default();
        let now = ticks.now().timestamp_millis();
        ticks.not_before(i64::MIN);
        ticks.not_before(now - 1000);
        assert!(ticks.now().timestamp_millis() - now < 1000, "it moved without need");
        ticks.not_before(now + 86_400_000);
        let moved = ticks.now().timestamp_millis() - now;
        assert!((86_400_000..86_460_000).contains(&moved), "it moved by {moved} ms");
        let error = format!("invalid clock tick, must be monotonic. last_tick=`{}`, next_tick=`5`", now + 900_000_000);
        assert!(ticks.refused(&error), "the stamp is read from the refusal");
        assert!(!ticks.refused(&error) && !ticks.refused("disk full"), "nothing more can be done");
        assert!(ticks.now().timestamp_millis() >= now + 900_000_000);
    }
}
