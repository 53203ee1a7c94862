//! Reconciliation: compares what should be with what is, and finishes or undoes the difference.
//!
//! It takes no input and can run at any time. One thing that fails keeps nothing else from being done, and is tried again
//! after a while that doubles, up to an hour, so that what fails for a day does not fill the journal; up to half a minute where a store is
//! away.

mod mounts;
mod trash;

pub(crate) use mounts::mounting_again;

use crate::inner::Inner;
use crate::status::ReconcileReport;
use orlop_model::{Error, ErrorKind, Result};
use std::sync::atomic::Ordering;
use std::time::Duration;
use time::OffsetDateTime;

const PATIENCE_FIRST: Duration = Duration::from_secs(15);
const PATIENCE_LAST: Duration = Duration::from_secs(3600);
/// The same for what fails since a store or a process is away: it heals by itself soon after that is back.
const PATIENCE_AWAY: Duration = Duration::from_secs(30);

/// What failed, and is not tried again for a while.
#[derive(Debug)]
pub(crate) struct Failed {
    until: OffsetDateTime,
    wait: Duration,
    why: String,
}

impl Inner {
    pub(crate) async fn reconcile(&self) -> ReconcileReport {
        let _one_at_a_time = self.reconciling.lock().await;
        let mut report = ReconcileReport::default();
        if let Err(e) = self.audit.tend().await {
            report.failed.push(format!("writing owed audit records: {e}"));
        }
        if self.unmarked.load(Ordering::Relaxed) {
            match self.registry.suspect_docker(self.now()).await {
                Ok(()) => self.unmarked.store(false, Ordering::Relaxed),
                Err(e) => report.failed.push(e.to_string()),
            }
        }
        if let Err(e) = self.reconcile_trash(&mut report).await {
            report.failed.push(e.to_string());
        }
        if let Err(e) = self.reconcile_mounts(&mut report).await {
            report.failed.push(e.to_string());
        }
        let now = self.now();
        // What has not been tried for so long is no longer there to be tried.
        self.patience.lock().retain(|_, failed| now - failed.until < 2 * PATIENCE_LAST);
        report.at = Some(now);
        *self.last_reconcile.lock() = Some(report.clone());
        report
    }

    /// Does one thing, unless it failed a short while ago. `Ok(false)` means that there was nothing to do.
    async fn attempt(&self, report: &mut ReconcileReport, what: &str, work: impl Future<Output = Result<bool>>) {
        let now = self.now();
        if let Some(failed) = self.patience.lock().get(what).filter(|failed| now < failed.until) {
            report.failed.push(format!("{what}, tried again later: {}", failed.why));
            return;
        }
        match work.await {
            Ok(did) => {
                self.patience.lock().remove(what);
                if did {
                    report.done.push(what.to_owned());
                }
            }
            Err(e) => self.failed(report, what, &e),
        }
    }

    /// Somebody else has done it: it is no longer to be tried, nor told as such.
    pub(crate) fn is_done(&self, what: &str) {
        self.patience.lock().remove(what);
        if let Some(report) = self.last_reconcile.lock().as_mut() {
            report.failed.retain(|line| !line.strip_prefix(what).is_some_and(|rest| rest.starts_with([',', ':'])));
        }
    }

    fn failed(&self, report: &mut ReconcileReport, what: &str, e: &Error) {
        let mut patience = self.patience.lock();
        let longest = if e.kind == ErrorKind::Unavailable { PATIENCE_AWAY } else { PATIENCE_LAST };
        let wait = patience.get(what).map_or(PATIENCE_FIRST, |last| (last.wait * 2).min(longest));
        patience.insert(what.to_owned(), Failed { until: self.now() + wait, wait, why: e.to_string() });
        report.failed.push(format!("{what}: {e}"));
    }
}
