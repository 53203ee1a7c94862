//! The audit journal: a chain of records that nobody can alter unseen.
//!
//! Each record is one line of canonical JSON that carries the hash of the record before it and its own (see `record`).
//! A change has two: `start`, synced to the disk before anything is done, and `done`, `failed` or `interrupted`.
//! The registry keeps the number and hash of the last record, so that a cut end is noticed as well.
//! What a crash tore is cut aside and recorded (`audit.repair`); any other damage stays as it is for `verify` to name,
//! and the journal goes on after it in a new file, beginning with a record of what was found (`audit.break`).
//! Who is refused by the local API at its door has a record too (`api.call`, see `refusals`).

mod chain;
mod export;
mod journal;
mod list;
mod record;
mod refusals;
mod segment;
mod subject;
mod tail;
mod verify;
mod writer;

pub use export::AuditExport;
pub use journal::AuditJournal;
pub(crate) use journal::has_records;
pub(crate) use record::Draft;
pub use verify::{verify_file, verify_root};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// A record as its line, for the fuzz targets.
pub(crate) fn fuzz_line(event: &orlop_model::AuditEvent) -> String {
    record::encode(event)
}

/// Judges lines, for the fuzz targets.
pub(crate) fn fuzz_chain<'a>(from_the_start: bool, lines: impl IntoIterator<Item = &'a [u8]>) -> VerifyReport {
    let mut chain = if from_the_start { chain::Chain::from_the_start() } else { chain::Chain::from_anywhere() };
    for (number, line) in (1..).zip(lines) {
        chain.line("fuzz", number, line);
    }
    chain.into_report()
}

/// The verb of the record that ends an exported file.
pub const EXPORT_VERB: &str = "audit.export";

/// Which records to list. Absent fields match everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditFilter {
    /// Of this target: a name or id as it was given.
    pub target: Option<String>,
    /// Of this volume, by name or id, whichever its records have; by name: of every volume that ever had it.
    pub volume: Option<String>,
    /// Of this verb, such as `volume.create`.
    pub verb: Option<String>,
    /// Of this actor, as it is shown: `uid:0`, `docker`, `system`.
    pub actor: Option<String>,
    /// Not before.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<OffsetDateTime>,
    /// Not after.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<OffsetDateTime>,
    /// Only with a greater number.
    pub after_seq: Option<u64>,
    /// At most so many, the newest; 1000 if absent.
    pub limit: Option<usize>,
}

/// Where the chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditBreak {
    /// The record's number, or the one that is due there.
    pub seq: u64,
    /// The file.
    pub file: String,
    /// The line in the file, from 1; 0 where a whole file is meant.
    pub line: u64,
    /// What is wrong.
    pub reason: String,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VerifyReport {
    /// How many records were read.
    pub events: u64,
    /// Number of the first, 0 if there is none.
    pub first_seq: u64,
    /// Number of the last.
    pub last_seq: u64,
    /// Hash of the last; note it elsewhere to notice later that a whole journal was replaced.
    pub last_hash: String,
    /// Where the chain does not hold; empty if it does. The first hundred.
    pub breaks: Vec<AuditBreak>,
}

impl VerifyReport {
    /// Whether nobody altered the record.
    pub fn is_intact(&self) -> bool {
        self.breaks.is_empty()
    }
}
