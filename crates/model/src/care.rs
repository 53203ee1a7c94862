//! What looking after a volume finds: the report of a check, where its bytes are, and what a collection took.

use serde::{Deserialize, Serialize};

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// An object in the store is damaged, missing, or not what its name says.
    Object,
    /// A file of the host's journal is damaged.
    Journal,
    /// A staged file of the host is damaged or missing.
    Staged,
    /// A counter is not what is counted. No byte of a file is concerned.
    Count,
    /// Names and inodes do not fit together.
    Structure,
    /// Something is kept that nothing needs. It is no damage.
    Remains,
}

/// What became of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FindingState {
    /// It is as it was found.
    Left,
    /// It was set right.
    Repaired,
    /// It needs nothing to be done.
    Harmless,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Finding {
    /// What it is about.
    pub kind: FindingKind,
    /// Where: the object's path in the store, the file's path on the host, or the inode.
    pub at: String,
    /// What is wrong with it.
    pub what: String,
    /// The files of the volume that are hit, as paths in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// What became of it.
    pub state: FindingState,
    /// What was done, or what can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CheckReport {
    /// Whether nothing damaged is left.
    pub clean: bool,
    /// What is not as it should be, or was not.
    pub findings: Vec<Finding>,
    /// Findings beyond those listed.
    #[serde(default)]
    pub unlisted: u64,
    /// Inodes looked at.
    pub inodes: u64,
    /// Objects read.
    pub objects: u64,
    /// Files of the host read.
    pub host_files: u64,
    /// Bytes read and compared.
    pub bytes: u64,
}

/// Findings that a report lists at most.
const LISTED: usize = 10_000;

impl CheckReport {
    /// Adds a finding.
    pub fn add(&mut self, finding: Finding) {
        if self.findings.len() < LISTED {
            self.findings.push(finding);
        } else {
            self.unlisted += 1;
        }
    }

    /// Says whether damage is left, from the findings.
    pub fn conclude(&mut self) {
        self.clean = self.unlisted == 0 && self.findings.iter().all(|f| f.state != FindingState::Left);
    }
}

/// How far a check is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CheckProgress {
    /// What it is doing, in words.
    pub step: String,
    /// Bytes read so far.
    pub done: u64,
    /// Bytes to be read in all, as far as is known.
    pub total: u64,
}

/// Bytes of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Share {
    /// Which kind, in one word.
    pub kind: String,
    /// Bytes.
    pub bytes: u64,
    /// Files or objects that hold them.
    pub items: u64,
    /// What they are for.
    pub why: String,
}

/// Where the bytes of a volume are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Space {
    /// Lengths of its files together, holes included.
    pub apparent_bytes: u64,
    /// What its files take, at 4 KiB granularity; what the quota counts.
    pub allocated_bytes: u64,
    /// Files, folders and all other inodes.
    pub inodes: u64,
    /// Inodes that have no name any more and are still open or not collected yet.
    pub unlinked_inodes: u64,
    /// What they take, within `allocated_bytes`.
    pub unlinked_bytes: u64,
    /// Segments that nothing refers to and that wait for the next fold.
    pub dead_segments: u64,
    /// On this host, by kind.
    pub host: Vec<Share>,
    /// On this host together: the sum of `host`.
    pub host_bytes: u64,
    /// In the store, by kind.
    pub store: Vec<Share>,
    /// In the store together: the sum of `store`.
    pub store_bytes: u64,
}

/// Something that nothing refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Stray {
    /// The object's path in the store, or the file's path on the host.
    pub at: String,
    /// Its bytes.
    pub bytes: u64,
    /// Why nothing needs it.
    pub why: String,
}

/// What a collection did to a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct GcReport {
    /// Deleted: found by an earlier run too, and still referred to by nothing.
    pub deleted: Vec<Stray>,
    /// Marked: a later run deletes them if nothing refers to them then.
    pub marked: Vec<Stray>,
    /// Kept, since it is not known what they are.
    pub unknown: Vec<Stray>,
    /// Bytes of what was deleted.
    pub deleted_bytes: u64,
    /// Whether this was only a rehearsal: nothing was deleted and nothing marked.
    pub dry_run: bool,
    /// Objects and files that were looked at.
    pub looked_at: u64,
}
