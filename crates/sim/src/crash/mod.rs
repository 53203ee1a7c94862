//! The crash matrix: a scripted workload, a fault at every step of it, an end, and then the question whether
//! everything that was promised is there.
//!
//! What is promised (obligations 1 to 4 of the design, for a volume on the host's disk):
//! - after the death of the process, everything that was acknowledged, synced or not;
//! - after a power failure, everything up to the last acknowledged sync, and after it a prefix of what was done;
//! - an operation under way is there or not; one of several steps may be there in part, its data old, new or mixed
//!   by 4 KiB page, never anything else;
//! - nothing is unreadable, every count is right, the volume opens and works, and opening it twice changes nothing.

mod oracle;
mod run;
mod workload;

pub use oracle::{History, judge};
pub use run::{End, Outcome, Plan, examine, steps_of};
pub use workload::{Workload, generated, workloads};
