//! Listing records: reads the files from the newest back, until enough match.

use super::AuditFilter;
use super::segment::{lines, segments};
use super::subject::Subject;
use orlop_model::{AuditEvent, Result};
use std::path::Path;

const DEFAULT_LIMIT: usize = 1000;

/// The newest records that match, oldest first. Blocking. Lines that are no records are `verify`'s business.
pub(super) fn list(dir: &Path, filter: &AuditFilter) -> Result<Vec<AuditEvent>> {
    let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
    let subject = filter.volume.as_deref().map(|volume| Subject::find(dir, volume)).transpose()?;
    let mut found: Vec<AuditEvent> = Vec::new();
    for segment in segments(dir)?.into_iter().rev() {
        if found.len() >= limit {
            break;
        }
        let mut here = Vec::new();
        for line in lines(&segment.path, u64::MAX)? {
            let line = line?;
            if !line.ended {
                continue;
            }
            match serde_json::from_slice::<AuditEvent>(&line.bytes) {
                Ok(event) if matches(filter, &event) && subject.as_ref().is_none_or(|s| s.has(&event)) => here.push(event),
                Ok(_) => {}
                Err(e) => tracing::warn!(file = %segment.path.display(), line = line.number, "no audit record: {e}"),
            }
        }
        here.append(&mut found);
        found = here;
    }
    found.drain(..found.len().saturating_sub(limit));
    Ok(found)
}

fn matches(filter: &AuditFilter, event: &AuditEvent) -> bool {
    filter.target.as_ref().is_none_or(|t| *t == event.target)
        && filter.verb.as_ref().is_none_or(|v| *v == event.verb)
        && filter.actor.as_ref().is_none_or(|a| *a == event.actor.to_string())
        && filter.since.is_none_or(|t| event.at >= t)
        && filter.until.is_none_or(|t| event.at <= t)
        && filter.after_seq.is_none_or(|n| event.seq > n)
}
