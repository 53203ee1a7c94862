//! Keys as every front door shows them: their names and who wraps whom, never what they are.

use crate::{Error, StoreName, VolumeId, VolumeName};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// A master key of this host, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MasterKeyInfo {
    /// Its name, 16 hexadecimal digits.
    pub id: String,
    /// Whether it wraps new key rings; older ones stay until no ring needs them.
    pub current: bool,
    /// Whether a backup was made of it with `orlop key export`; absent if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exported: Option<bool>,
}

/// A data key of a sealed volume, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DataKeyInfo {
    /// Its name, 16 hexadecimal digits.
    pub id: String,
    /// The master key that wraps it.
    pub master: String,
    /// Whether new objects are sealed with it.
    pub current: bool,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
}

/// The key ring of a sealed volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VolumeKeys {
    /// The volume.
    pub volume: VolumeId,
    /// Its name.
    pub name: VolumeName,
    /// Where it lives, and its ring with it.
    pub store: StoreName,
    /// Its keys, oldest first.
    pub keys: Vec<DataKeyInfo>,
    /// Why its ring could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
}

/// How far the rotation of the master key is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KeyRotation {
    /// Whether it goes on now.
    pub running: bool,
    /// Whether it goes on with one that was interrupted, instead of making another new key.
    pub resumed: bool,
    /// The new master key.
    pub master: String,
    /// Key rings to be wrapped anew.
    pub total: u64,
    /// Those that are.
    pub done: u64,
    /// Master keys that no ring needs any more and that were removed.
    #[serde(default)]
    pub retired: Vec<String>,
}

/// All keys of one root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KeyReport {
    /// The host's master keys, the current one first.
    pub masters: Vec<MasterKeyInfo>,
    /// The rings of sealed volumes, by name.
    pub volumes: Vec<VolumeKeys>,
    /// Whether a rotation was begun and not finished.
    pub rotation_open: bool,
    /// The last rotation since the daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<KeyRotation>,
}
