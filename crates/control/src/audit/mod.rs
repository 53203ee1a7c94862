//! The audit journal: a chain of records that nobody can alter unseen.

use orlop_model::{Actor, AuditEvent, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use time::OffsetDateTime;

/// Which records to list. Absent fields match everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditFilter {
    /// Of this target: a volume's name or id as it was given.
    pub target: Option<String>,
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

/// A cut through the journal, to be written out with blocking reads.
#[derive(Debug)]
pub struct AuditExport {}

impl AuditExport {
    /// Writes all of it and tells how many records that were.
    pub fn write_to(self, _out: &mut dyn std::io::Write) -> Result<u64> {
        unimplemented!()
    }
}

/// The journal of one root.
pub struct AuditJournal {}

impl AuditJournal {
    /// The records that match, oldest first.
    pub async fn list(&self, _filter: &AuditFilter) -> Result<Vec<AuditEvent>> {
        unimplemented!()
    }

    /// A cut to be verified elsewhere. It ends with the record of its own export, so that a shortened file is noticed.
    pub async fn export(&self, _actor: &Actor) -> Result<AuditExport> {
        unimplemented!()
    }

    /// Reads the whole journal and checks every link, and its end against the registry.
    pub async fn verify(&self) -> Result<VerifyReport> {
        unimplemented!()
    }
}

/// Checks an exported file, without any daemon or root.
pub fn verify_file(_path: &Path) -> Result<VerifyReport> {
    unimplemented!()
}
