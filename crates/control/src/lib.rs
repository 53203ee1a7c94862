//! Desired state: the registry of stores, volumes and attachments, the one audited door through which everything changes,
//! the reconcilers that finish what a crash left, and the audit journal.
//!
//! [`Control::apply`] is the only way to change anything: it authorises, writes the audit record (and refuses if it
//! cannot), runs, completes the record. Control knows neither mounts nor file systems; it hands plans, which are
//! plain data, to two [ports](crate::Mounter).

mod apply;
mod attachments;
pub mod audit;
mod config;
mod control;
#[doc(hidden)]
pub mod faults;
#[doc(hidden)]
pub mod fuzz;
mod inner;
mod keys;
mod locks;
mod ports;
mod reconcile;
mod registry;
mod status;
mod stores;
mod volumes;

pub use audit::{AuditBreak, AuditExport, AuditFilter, AuditJournal, VerifyReport, verify_file, verify_root};
pub use config::ControlConfig;
pub use control::{Control, VolumeFilter};
pub use ports::{AttachedVolume, BoundDirectory, Clock, Formatted, Mounted, Mounter, SystemClock, VolumeWorker};
pub use status::{AuditStatus, ControlStatus, ReconcileReport, StoreStatus, VolumeCounts};
pub use stores::folder::folder_of as plain_folder;

/// The time, as exactly as the registry keeps it.
fn now(clock: &dyn Clock) -> time::OffsetDateTime {
    registry::rounded(clock.now())
}
