//! The words of Orlop as types, the same in paths, types, command line and API.
//!
//! This crate does no I/O and knows no protocol: it holds ids, names, options, records, intents,
//! audit events and the one public error. Every other crate may use it; it uses none of them.

mod attachment;
mod audit;
mod care;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod id;
mod intent;
mod key;
mod name;
mod options;
mod size;
mod store;
mod volume;

pub use attachment::{Attachment, AttachmentKind, MountPlan};
pub use audit::{Actor, AuditEvent, AuditPhase};
pub use care::{CheckProgress, CheckReport, Finding, FindingKind, FindingState, GcReport, Share, Space, Stray};
pub use error::{Error, ErrorKind, Result};
pub use id::{AttachmentId, FileId, OperationId, VolumeId};
pub use intent::{DetachBy, Intent, Outcome, VolumeRef, VolumeUpdate};
pub use key::{DataKeyInfo, KeyReport, KeyRotation, MasterKeyInfo, VolumeKeys};
pub use name::{StoreName, VolumeName};
pub use options::{CACHE_SIZE, CacheMode, Compression, Durability, OPTION_HELP, OutagePolicy, STAGING_SIZE, VolumeOptions};
pub use size::ByteSize;
pub use store::{Capabilities, CredentialsRef, Examination, Store, StoreSpec, StoreTest, StoreUpdate};
pub use volume::{FoundVolume, LOSS_WINDOW, Usage, Volume, VolumeKind, VolumeState};
