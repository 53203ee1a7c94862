//! The Orlop file system on an object store: inodes, segments, journal, collection, check. No FUSE.
//!
//! A volume's namespace is rows in SlateDB on the volume's store; data blocks are in append-only segments;
//! under durability `local` one journal on the host is the log of both. docs/design/0001-format.md has the
//! reasons, docs/FORMAT.md every byte.

mod background;
mod blocking;
mod buffers;
mod cache;
mod change;
mod check;
mod chunk;
mod codec;
mod collect;
mod compact;
mod explain;
mod fold;
mod fs;
#[doc(hidden)]
pub mod fuzz;
mod host;
mod journal;
mod key;
mod log;
mod lookups;
mod name;
mod namespace;
mod neighbours;
mod open;
mod ops;
mod pack;
mod reap;
mod recover;
mod remote;
pub mod rescue;
mod room;
mod row;
mod sealing;
mod segment;
mod state;
mod sync;
mod synced;
#[cfg(test)]
mod testing;
mod ticks;
mod trim;
mod tx;
mod types;
mod view;

pub use blocking::waiting_in_place;
pub use check::{CheckReport, examine_closed};
pub use fs::FileSystem;
pub use host::{Clock, HostDisk, HostFile, RealDisk, SystemClock};
pub use log::facts::{OwnerFacts, as_if_released, holder_of, lost, owner_of};
pub use name::{keep_name, name_of, note_name};
pub use open::{OpenConfig, Remote, format_volume};
pub use ops::Gathering;
pub use types::*;
