//! The bodies of the local API that are not types of the model: requests, listings, status.
//!
//! Names arrive as plain text and are parsed by the handlers, so that a bad one is answered with Orlop's own
//! error and remedy and not with a decoder's.

use orlop_control::ControlStatus;
use orlop_model::{AttachmentId, CheckProgress, CheckReport, Error, Usage, VolumeName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// Asks for a new, empty volume.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// Its name: a letter or digit, then letters, digits, `_`, `.` and `-`.
    pub name: String,
    /// Options by name, as `docker volume create -o key=value` has them.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Free text of the owner.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Asks for a store to be added.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddStore {
    /// Its name: a letter or digit, then letters, digits, `_`, `.` and `-`.
    pub name: String,
    /// Its URL, without credentials: `s3://bucket/prefix`, `file:///folder`, or `dir:///folder` for plain volumes.
    pub url: String,
    /// Settings by name, such as `endpoint` or `region`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// Where its credentials are found: `env:PREFIX`, `file:/path`, `command:/program`, `instance`, `container` or `web-identity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
}

/// Sets or clears the protection from removal.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Protect {
    /// Removal is refused while this is set.
    pub protected: bool,
}

/// Takes a removed volume back.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// Another name for it, where its own is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Asks for other keys.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKeys {
    /// The volume that gets a new data key; without it there is a new master key for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
}

/// Asks for a volume to be mounted on a folder of the host.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The absolute path of an existing folder.
    pub directory: String,
    /// Whether writing through that folder is refused.
    #[serde(default)]
    pub read_only: bool,
    /// Gives up for good what another host acknowledged under durability `local` and never sent to the store.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abandon_unsynced: bool,
}

/// Makes a volume known here that lies in a store already.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdoptVolume {
    /// Its name here.
    pub name: String,
    /// Its id, as the list of the store's volumes shows it.
    pub id: String,
    /// Options by name, as it shall be used here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Free text of the owner.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What came of an attach.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Attached {
    /// The attachment.
    pub attachment: AttachmentId,
    /// The folder to use.
    pub mountpoint: String,
}

/// Lets go of one attachment: exactly one of the fields that name it is given.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// By its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<AttachmentId>,
    /// By the folder it is mounted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// By the id that Docker gave, for attachments that dockerd lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_mount_id: Option<String>,
    /// Also while it is used, or while its store does not have what was written: with the last attachment its users are cut off. What
    /// was acknowledged stays on the host, and is sent when the volume is mounted there again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Asks for a volume to be read whole.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Set right what can be.
    #[serde(default)]
    pub repair: bool,
}

/// One line of the answer to a check.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckEvent {
    /// How far it is.
    Progress(CheckProgress),
    /// What was found; the last line.
    Report(Box<CheckReport>),
    /// Why it could not be done; the last line.
    Error(Error),
}

/// Asks for what nothing refers to to be deleted.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Collect {
    /// Only tell what would go.
    #[serde(default)]
    pub dry_run: bool,
}

/// What an entry of a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// Regular file.
    File,
    /// Folder.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// One file, folder or other entry of a volume.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FileEntry {
    /// Its name; bytes that are not UTF-8 are shown as replacement characters.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Number of names.
    pub links: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Last change of contents.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub modified: OffsetDateTime,
    /// Where a symbolic link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// A folder's entries in the order of their names.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Listing {
    /// The entries.
    pub entries: Vec<FileEntry>,
}

/// What runs on the host, and where. Plain facts; judging them is for `orlop doctor`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostFacts {
    /// Version of the daemon.
    pub version: String,
    /// Its root folder.
    pub root: String,
    /// Its process.
    pub pid: u32,
    /// Since when it runs.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<OffsetDateTime>,
    /// The keeper, if it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeper: Option<KeeperFacts>,
    /// Why the keeper does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeper_error: Option<String>,
    /// The Docker plugin's name, if it is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// The plugin's socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_socket: Option<String>,
    /// Why the plugin is not served although it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_warning: Option<String>,
    /// What has to be done about the master key: it was just made and has no backup, or it cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_warning: Option<String>,
}

/// The keeper and what it holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KeeperFacts {
    /// The volumes it serves.
    pub workers: Vec<WorkerFacts>,
}

/// A volume that is being served.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WorkerFacts {
    /// Its name.
    pub volume: VolumeName,
    /// The worker's process; null while a new one is on its way.
    #[serde(with = "no_process")]
    #[schema(value_type = Option<u32>)]
    pub pid: u32,
    /// Whether the worker serves, in the keeper's words.
    pub state: String,
    /// Where it is mounted.
    pub mountpoint: String,
    /// Further folders it is mounted on.
    pub binds: Vec<String>,
    /// Whether some process sees the mount elsewhere, such as a container.
    pub in_use_elsewhere: bool,
}

impl WorkerFacts {
    /// The worker's process, if there is one now.
    pub fn process(&self) -> Option<u32> {
        (self.pid != 0).then_some(self.pid)
    }
}

/// The keeper's 0 for no process, which is one that exists to whoever reads a number, as null.
mod no_process {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(pid: &u32, to: S) -> Result<S::Ok, S::Error> {
        (*pid != 0).then_some(*pid).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
        Ok(Option::<u32>::deserialize(from)?.unwrap_or(0))
    }
}

/// What the daemon knows of itself and its volumes.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Status {
    /// Processes and sockets.
    #[serde(flatten)]
    pub host: HostFacts,
    /// What the mounted volumes take together.
    pub usage: Usage,
    /// Volumes, attachments, stores, the audit journal, the last reconciliation.
    #[schema(value_type = Object)]
    pub control: ControlStatus,
}

/// Asks the daemon to end.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// Also while volumes are in use.
    #[serde(default)]
    pub force: bool,
    /// Only the daemon ends; mounts, workers and keeper go on.
    #[serde(default)]
    pub keep_mounts: bool,
    /// Removes the plugin's socket file too. Without this it stays while volumes exist, so that Docker
    /// refuses to start a container on a volume of that name instead of silently making a local one.
    #[serde(default)]
    pub remove_plugin_socket: bool,
}

/// What the end did.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ShutdownReport {
    /// The daemon's process, which ends after this answer.
    pub pid: u32,
    /// The volumes that were unmounted.
    pub unmounted: Vec<String>,
    /// The volumes that stay mounted.
    pub kept: Vec<String>,
    /// What the caller should know.
    pub notes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_is_being_replaced_has_no_process() {
        for (pid, shown) in [(0, serde_json::Value::Null), (7, 7.into())] {
            let facts = WorkerFacts {
                volume: "db".parse().expect("a name"),
                pid,
                state: "serving".to_owned(),
                mountpoint: "/m".to_owned(),
                binds: Vec::new(),
                in_use_elsewhere: false,
            };
            let value = serde_json::to_value(&facts).expect("plain data");
            assert_eq!(value["pid"], shown);
            let back: WorkerFacts = serde_json::from_value(value).expect("the same");
            assert_eq!((back.pid, back.process()), (pid, (pid != 0).then_some(pid)));
        }
    }
}
