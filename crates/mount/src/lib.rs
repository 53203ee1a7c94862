//! The host side: FUSE sessions, the mount keeper and its workers, bind mounts, reading below a mountpoint.
//! The only crate with `unsafe` and mount(2).
//!
//! A **keeper** per root holds every FUSE descriptor and starts one **worker** per attached volume; both outlive the
//! daemon, which talks to the keeper through [`KeeperClient`]. What a volume's files are is [`orlop_chunkfs`]' matter.

mod client;
pub mod fuse;
#[doc(hidden)]
pub mod fuzz;
pub mod inside;
pub mod keeper;
mod kernel;
mod layout;
mod listening;
mod os;
pub mod plain;
mod process;
mod protocol;
mod wire;
pub mod worker;

pub use client::KeeperClient;
pub use protocol::{Attached, AttachedVolume, Bound, Renewed, WorkerState};
