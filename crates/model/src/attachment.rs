//! Why a volume is mounted on a host, and the plan by which it gets mounted.

use crate::{AttachmentId, StoreSpec, VolumeId, VolumeName, VolumeOptions};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Who holds an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum AttachmentKind {
    /// dockerd, by the random id of its Mount call. Ids outlive this process and may come twice.
    Docker {
        /// The caller's id.
        mount_id: String,
    },
    /// `orlop mount VOLUME DIR`.
    Directory {
        /// The absolute folder.
        path: String,
        /// Whether the bind is read-only.
        read_only: bool,
    },
    /// A short internal use, such as `orlop ls`.
    Internal {
        /// What for.
        purpose: String,
    },
}

/// One reason for a volume to stay mounted on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Attachment {
    /// Its id.
    pub id: AttachmentId,
    /// Who holds it.
    #[serde(flatten)]
    pub kind: AttachmentKind,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub since: OffsetDateTime,
}

/// All that a keeper and a worker need to know to serve a volume: plain data, no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// Which volume.
    pub volume: VolumeId,
    /// Its name, for messages and the mount table.
    pub name: VolumeName,
    /// How its store is reached.
    pub store: StoreSpec,
    /// The volume's path below the store's root.
    pub prefix: String,
    /// The host folder for its journal and staged extents.
    pub state_dir: String,
    /// The folder it is mounted on.
    pub mountpoint: String,
    /// As created or set.
    pub options: VolumeOptions,
    /// Asked for by name: what another host acknowledged under durability `local` and never sent is given up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abandon_unsynced: bool,
}
