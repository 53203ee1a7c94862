//! FUSE on one side, an open volume on the other: requests are unpacked, passed on, and answered. Nothing is
//! decided here but what the protocol itself asks for.

mod adapter;
mod convert;
mod killed;
mod operations;
mod session;

pub use session::{Mounted, mount};

pub(crate) use session::Session;
