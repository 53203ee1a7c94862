//! The crash matrix of a volume whose home is the store: what an fsync answered outlives its host.
//!
//! A script runs while log objects are under way out of order and some answers are lost; it is struck at a step of the
//! disk or the store, and then asked three times over, each time on a copy of everything: the host is lost with its disk;
//! only the process died; the power failed. A second matrix pauses a writer before or after each thing that it does to the
//! store, has another host take the volume over and write, and lets the first one go on. Promised is:
//! - on another host: a state no older than the last fsync that was answered, and a prefix of what was done;
//! - on the same host: everything that was answered, after a power failure as on another host;
//! - of a writer that was succeeded: no fsync is answered unless its successor has what it promised, nothing of what the
//!   successor wrote is harmed, and when its host comes back it has what the successor has.
//!
//! Not played here is the waiting for a lease: it goes by the host's running time. The owner record is marked as let go.

mod cell;
mod scripts;
mod takeover;
mod weather;

pub use cell::{Strike, steps_of, strike};
pub use scripts::{Script, generated, scripts};
pub use takeover::{Pause, mutations_of, take_over};
pub use weather::Plant;
