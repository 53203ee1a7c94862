//! What control tells about itself: counts, the state of the audit journal, the last reconciliation.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// How many volumes are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VolumeCounts {
    /// Active ones.
    pub active: u64,
    /// Of these, the mounted ones.
    pub attached: u64,
    /// In the trash.
    pub removed: u64,
    /// Being deleted for good.
    pub purging: u64,
}

/// A store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StoreStatus {
    /// Its name.
    pub name: String,
    /// Its URL, without credentials.
    pub url: String,
    /// Volumes that live there, removed ones included.
    #[serde(default)]
    pub volumes: u64,
    /// Why chunked volumes are refused there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

/// The audit journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditStatus {
    /// The last record's number, 0 if there is none.
    pub last_seq: u64,
    /// Its hash.
    pub last_hash: String,
    /// Records that could not be written yet: of detaches, and ends of changes.
    pub owed: u64,
    /// Why the journal cannot be written now, if so. Changes are refused meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What was found wrong with the journal when it was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found_broken: Option<String>,
}

/// What a reconciliation did, and what it could not do and will try again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReconcileReport {
    /// When it ended.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<OffsetDateTime>,
    /// One line for each thing that it changed.
    pub done: Vec<String>,
    /// One line for each thing that it could not do, with the cause.
    pub failed: Vec<String>,
}

/// Control as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ControlStatus {
    /// Volumes by state.
    pub volumes: VolumeCounts,
    /// Attachments in all.
    pub attachments: u64,
    /// The stores.
    pub stores: Vec<StoreStatus>,
    /// The audit journal.
    pub audit: AuditStatus,
    /// The last reconciliation, if there was one since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reconcile: Option<ReconcileReport>,
}
