//! Who acts, and what the audit journal says about it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Who asks for a change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Actor {
    /// A process on this host, known by its socket's peer credentials.
    Local {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its process, for the record only.
        pid: i32,
    },
    /// dockerd on its plugin socket; it names no user.
    Docker,
    /// A reconciler of Orlop itself.
    System,
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Actor::Local { uid, .. } => write!(f, "uid:{uid}"),
            Actor::Docker => f.write_str("docker"),
            Actor::System => f.write_str("system"),
        }
    }
}

/// Which of its two records an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditPhase {
    /// Written before the change runs; if it cannot be written, the change is refused.
    Start,
    /// The change succeeded.
    Done,
    /// The change failed, or was refused.
    Failed,
    /// The process died in between; a reconciler closed the record.
    Interrupted,
}

/// One link of the journal's chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditEvent {
    /// Position in the journal, from 1, without gaps.
    pub seq: u64,
    /// When it was written.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    /// Which change; both records of a change carry the same number, the `seq` of its start.
    pub change: u64,
    /// Which of its records.
    pub phase: AuditPhase,
    /// Who.
    pub actor: Actor,
    /// What, as the verb of the intent: `volume.create`.
    pub verb: String,
    /// To what: the volume's name, or its id where it has none.
    pub target: String,
    /// The intent's parameters, without secrets; on a failure the error.
    pub detail: serde_json::Value,
    /// Hex BLAKE3 of the record before, 64 zeros at the first.
    pub prev: String,
    /// Hex BLAKE3 of this record with its `hash` absent.
    pub hash: String,
}
