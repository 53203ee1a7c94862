//! Everything that can be asked to change. `control::apply(actor, intent)` is the only way to have it done.

use crate::{
    AttachmentId, AttachmentKind, Error, Store, StoreName, StoreSpec, StoreTest, StoreUpdate, Volume, VolumeId, VolumeName, VolumeOptions,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::str::FromStr;

/// A volume by its name, or by its id where names are not enough (removed volumes).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum VolumeRef {
    /// By id.
    Id(VolumeId),
    /// By name, among the volumes that are not removed; `Restore` looks among the removed ones, newest first.
    Name(VolumeName),
}

impl FromStr for VolumeRef {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s.parse::<VolumeId>() {
            // Only the hyphenated form is an id: 32 bare hex digits are a legal name.
            Ok(id) if s.len() == 36 => Ok(VolumeRef::Id(id)),
            _ => s.parse().map(VolumeRef::Name),
        }
    }
}

impl std::fmt::Display for VolumeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            VolumeRef::Id(id) => id.fmt(f),
            VolumeRef::Name(name) => name.fmt(f),
        }
    }
}

/// What `orlop volume set` changes; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeUpdate {
    /// Options by name; the empty value resets one to its default.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Labels by name; the empty value removes one.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A change that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb")]
pub enum Intent {
    /// Creates an empty volume.
    #[serde(rename = "volume.create")]
    CreateVolume {
        /// Its name.
        name: VolumeName,
        /// Its options.
        options: VolumeOptions,
        /// Its labels.
        labels: BTreeMap<String, String>,
    },
    /// Makes a volume known here that lies in a store already, made on another host.
    #[serde(rename = "volume.adopt")]
    AdoptVolume {
        /// Its name on this host.
        name: VolumeName,
        /// The store it lies in.
        store: StoreName,
        /// Which of those in the store.
        volume: VolumeId,
        /// Its options on this host.
        options: VolumeOptions,
        /// Its labels.
        labels: BTreeMap<String, String>,
    },
    /// Changes options and labels.
    #[serde(rename = "volume.set")]
    SetVolume {
        /// Which.
        volume: VolumeRef,
        /// What.
        update: VolumeUpdate,
    },
    /// Sets or clears the protection from removal.
    #[serde(rename = "volume.protect")]
    ProtectVolume {
        /// Which.
        volume: VolumeRef,
        /// Set or clear.
        protected: bool,
    },
    /// Moves a volume to the trash, or deletes it at once.
    #[serde(rename = "volume.remove")]
    RemoveVolume {
        /// Which.
        volume: VolumeRef,
        /// Delete at once, without a way back.
        now: bool,
    },
    /// Takes a removed volume back.
    #[serde(rename = "volume.restore")]
    RestoreVolume {
        /// Which, among the removed ones.
        volume: VolumeRef,
        /// Under another name, where its own is taken.
        rename: Option<VolumeName>,
    },
    /// Holds a volume mounted. Idempotent per Docker mount id and per folder.
    #[serde(rename = "volume.attach")]
    Attach {
        /// Which.
        volume: VolumeRef,
        /// For whom.
        attachment: AttachmentKind,
        /// Gives up what another host acknowledged under durability `local` and never sent to the store.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        abandon_unsynced: bool,
    },
    /// Lets go of one attachment; the last one unmounts the volume. Unknown ones succeed, since calls get lost.
    #[serde(rename = "volume.detach")]
    Detach {
        /// Which.
        volume: VolumeRef,
        /// By id, or by what the holder knows.
        attachment: DetachBy,
        /// Also while it is used, or while its store does not have what was written: with the last attachment its users are cut off.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    },
    /// Checks a volume and sets right what can be.
    #[serde(rename = "volume.repair")]
    RepairVolume {
        /// Which.
        volume: VolumeRef,
    },
    /// Deletes what lies in a volume's part of the store and of the host and nothing refers to.
    #[serde(rename = "volume.gc")]
    CollectVolume {
        /// Which.
        volume: VolumeRef,
    },
    /// Deletes removed volumes whose time is over; asked for by the reconciler.
    #[serde(rename = "volume.purge")]
    PurgeVolume {
        /// Which.
        volume: VolumeId,
    },
    /// Makes a new master key and wraps every key ring with it; of one volume: adds a new data key to its ring.
    #[serde(rename = "key.rotate")]
    RotateKeys {
        /// Which volume; the master key if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        volume: Option<VolumeRef>,
    },
    /// Adds a store, after an examination. Adding it again as it stands changes nothing.
    #[serde(rename = "store.add")]
    AddStore {
        /// Its name.
        name: StoreName,
        /// How it is reached.
        spec: StoreSpec,
    },
    /// Changes how a store is reached, after an examination.
    #[serde(rename = "store.set")]
    SetStore {
        /// Which.
        name: StoreName,
        /// What.
        update: StoreUpdate,
    },
    /// Examines a store again and keeps what was found.
    #[serde(rename = "store.test")]
    TestStore {
        /// Which.
        name: StoreName,
    },
    /// Forgets a store in which no volume lives. Nothing in it is touched.
    #[serde(rename = "store.remove")]
    RemoveStore {
        /// Which.
        name: StoreName,
    },
}

/// How a holder names its attachment when it lets go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DetachBy {
    /// By its id.
    Id(AttachmentId),
    /// By Docker's mount id.
    DockerMountId(String),
    /// By the folder.
    Directory(String),
}

impl Intent {
    /// The verb under which it stands in the audit journal and in policies.
    pub fn verb(&self) -> &'static str {
        match self {
            Intent::CreateVolume { .. } => "volume.create",
            Intent::AdoptVolume { .. } => "volume.adopt",
            Intent::SetVolume { .. } => "volume.set",
            Intent::ProtectVolume { .. } => "volume.protect",
            Intent::RemoveVolume { .. } => "volume.remove",
            Intent::RestoreVolume { .. } => "volume.restore",
            Intent::Attach { .. } => "volume.attach",
            Intent::Detach { .. } => "volume.detach",
            Intent::RepairVolume { .. } => "volume.repair",
            Intent::CollectVolume { .. } => "volume.gc",
            Intent::PurgeVolume { .. } => "volume.purge",
            Intent::RotateKeys { .. } => "key.rotate",
            Intent::AddStore { .. } => "store.add",
            Intent::SetStore { .. } => "store.set",
            Intent::TestStore { .. } => "store.test",
            Intent::RemoveStore { .. } => "store.remove",
        }
    }

    /// What it is done to, for the audit journal.
    pub fn target(&self) -> String {
        match self {
            Intent::CreateVolume { name, .. } | Intent::AdoptVolume { name, .. } => name.to_string(),
            Intent::SetVolume { volume, .. }
            | Intent::ProtectVolume { volume, .. }
            | Intent::RemoveVolume { volume, .. }
            | Intent::RestoreVolume { volume, .. }
            | Intent::Attach { volume, .. }
            | Intent::RepairVolume { volume }
            | Intent::CollectVolume { volume }
            | Intent::Detach { volume, .. } => volume.to_string(),
            Intent::PurgeVolume { volume } => volume.to_string(),
            Intent::RotateKeys { volume: Some(volume) } => volume.to_string(),
            Intent::RotateKeys { volume: None } => "master-key".to_owned(),
            Intent::AddStore { name, .. } | Intent::SetStore { name, .. } | Intent::TestStore { name } | Intent::RemoveStore { name } => {
                name.to_string()
            }
        }
    }
}

/// What came of an intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The volume as it is now.
    Volume(Box<Volume>),
    /// Attached: which attachment, and the host's folder to use (the volume's mountpoint, or the bound folder).
    Attached {
        /// Its id.
        attachment: AttachmentId,
        /// The folder.
        mountpoint: String,
    },
    /// The store as it is now.
    Store(Box<Store>),
    /// The store as it was just found.
    Tested(Box<StoreTest>),
    /// Checked, and set right what could be.
    Checked(Box<crate::CheckReport>),
    /// Collected.
    Collected(Box<crate::GcReport>),
    /// Done, with nothing to show.
    Done,
}
