//! A volume as the registry knows it and every front door shows it.

use crate::{Attachment, StoreName, VolumeId, VolumeName, VolumeOptions};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use time::OffsetDateTime;

/// What a volume is made of, chosen by its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VolumeKind {
    /// The Orlop file system over an object store.
    Chunked,
    /// An ordinary folder, bind-mounted.
    Plain,
}

/// Where a volume is in its life. No state is final but the purged record's absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VolumeState {
    /// In use or ready to be.
    Active,
    /// Removed, kept until `purge_at`; its name is free for another.
    Removed,
    /// Being deleted for good; finished by a reconciler after any crash.
    Purging,
}

/// Under durability `local` on a store that is no disk of this host: how old what the store does not have yet gets, while it answers.
pub const LOSS_WINDOW: Duration = Duration::from_secs(10);

/// What a volume takes, read from the volume itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Usage {
    /// Bytes that its files take, at 4 KiB granularity; what the quota counts.
    pub used_bytes: u64,
    /// Files, folders and all other inodes.
    pub inodes: u64,
    /// Bytes acknowledged but not yet safe in the volume's durability class.
    pub unsynced_bytes: u64,
    /// Bytes acknowledged that the volume's store does not have yet, and a loss of this host would take. Of a volume whose home is this
    /// host's disk there are none.
    #[serde(default)]
    pub unsent_bytes: u64,
    /// Bytes of the host's disk that it takes, garbage included.
    pub host_bytes: u64,
    /// Why it takes no changes any more: another host has taken it, or the host's disk failed to sync. It is for good until the volume is
    /// mounted anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// A named file tree that containers mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Volume {
    /// What never changes.
    pub id: VolumeId,
    /// What people call it.
    pub name: VolumeName,
    /// Where its bytes live.
    pub store: StoreName,
    /// What it is made of.
    pub kind: VolumeKind,
    /// Where it is in its life.
    pub state: VolumeState,
    /// As created or set.
    pub options: VolumeOptions,
    /// Of one volume that is asked for: the options with the defaults of its store written out. Owner, mode and encryption counted
    /// when it was created, the others do with its next mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<VolumeOptions>,
    /// Of one volume that is asked for, if fsync does not wait for its store: how old, in seconds, what a loss of the host takes can be
    /// while the store answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_window_seconds: Option<u64>,
    /// Free text of the owner.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Removal is refused while this is set.
    pub protected: bool,
    /// Of a plain volume: its folder on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// Of a plain volume: its folder was there before, so that removing the volume leaves it as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// When it was removed.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub removed_at: Option<OffsetDateTime>,
    /// When its removed data is deleted for good.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub purge_at: Option<OffsetDateTime>,
    /// Why it is mounted now.
    #[serde(default)]
    pub attachments: Vec<Attachment>,
    /// Where it is mounted on this host, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mountpoint: Option<String>,
    /// What it takes, if its worker could be asked; while it is not mounted, what it took when it was last brought to rest on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// A volume that was found in a store, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FoundVolume {
    /// Its id.
    pub id: VolumeId,
    /// What it was called by who made it, if that was noted and can be read here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<VolumeName>,
    /// When it was made, by the store's clock.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub made_at: Option<OffsetDateTime>,
    /// Whether it is encrypted: then this host needs the master key that wraps its ring.
    pub encrypted: bool,
    /// The host that had it last, if anybody had it and it can be read here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_host: Option<String>,
    /// Whether that host let go of it in an orderly way.
    #[serde(default)]
    pub released: bool,
    /// Why more cannot be told, such as a missing key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Its name here, if this Orlop knows it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_as: Option<VolumeName>,
}
