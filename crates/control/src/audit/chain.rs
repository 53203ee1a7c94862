//! Judges lines one after the other: does each follow from the one before?

use super::record::{ZEROS, encode, hash_of};
use super::{AuditBreak, VerifyReport};
use orlop_model::AuditEvent;

/// More breaks than this are not listed.
const LISTED_MAX: usize = 100;

/// What is due next.
#[derive(Debug, Clone)]
struct Due {
    seq: u64,
    prev: String,
}

/// A walk along the chain.
#[derive(Debug, Default)]
pub(super) struct Chain {
    due: Option<Due>,
    report: VerifyReport,
}

impl Chain {
    /// From the very first record.
    pub(super) fn from_the_start() -> Self {
        Chain { due: Some(Due { seq: 1, prev: ZEROS.to_owned() }), report: VerifyReport::default() }
    }

    /// From whatever comes first, which is believed.
    pub(super) fn from_anywhere() -> Self {
        Chain::default()
    }

    /// Judges a line. Gives the record if the line can be read as one, whether or not it belongs there.
    pub(super) fn line(&mut self, file: &str, number: u64, bytes: &[u8]) -> Option<AuditEvent> {
        let event: AuditEvent = match serde_json::from_slice(bytes) {
            Ok(event) => event,
            Err(e) => {
                let seq = self.due.as_ref().map_or(0, |d| d.seq);
                self.broken(seq, file, number, format!("the line is no audit record: {e}"));
                // The next one is then judged as the one after this.
                if let Some(due) = &mut self.due {
                    due.seq = due.seq.saturating_add(1);
                    due.prev.clear();
                }
                return None;
            }
        };
        if let Some(reason) = self.judge(&event, bytes) {
            self.broken(event.seq, file, number, reason);
        }
        if self.report.first_seq == 0 {
            self.report.first_seq = event.seq;
        }
        self.report.events += 1;
        self.report.last_seq = event.seq;
        self.report.last_hash.clone_from(&event.hash);
        self.due = Some(Due { seq: event.seq.saturating_add(1), prev: event.hash.clone() });
        Some(event)
    }

    fn judge(&self, event: &AuditEvent, bytes: &[u8]) -> Option<String> {
        if hash_of(event) != event.hash {
            return Some("its contents were altered: they do not have its hash".to_owned());
        }
        if encode(event).as_bytes() != bytes {
            return Some("the line is not as it was written: it has other bytes for the same contents".to_owned());
        }
        let due = self.due.as_ref()?;
        if event.seq > due.seq {
            let missing = if event.seq - due.seq == 1 {
                format!("record {} is missing before it", due.seq)
            } else {
                format!("records {} to {} are missing before it", due.seq, event.seq - 1)
            };
            return Some(missing);
        }
        if event.seq < due.seq {
            return Some(format!("record {} is due here: this one is repeated or out of order", due.seq));
        }
        // Cleared after an unreadable line, whose hash is not known.
        if !due.prev.is_empty() && event.prev != due.prev {
            return Some("it does not follow the record before it: that one was replaced".to_owned());
        }
        None
    }

    /// Notes a break that is not in a line.
    pub(super) fn broken(&mut self, seq: u64, file: &str, line: u64, reason: String) {
        if self.report.breaks.len() < LISTED_MAX {
            self.report.breaks.push(AuditBreak { seq, file: file.to_owned(), line, reason });
        }
    }

    pub(super) fn report(&self) -> &VerifyReport {
        &self.report
    }

    pub(super) fn into_report(self) -> VerifyReport {
        self.report
    }
}
