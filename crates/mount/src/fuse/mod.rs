//! FUSE on one side, an open volume on the other: requests are read, unpacked, passed on, and answered. Nothing is
//! decided here but what the protocol itself asks for.

mod adapter;
mod buffer;
mod convert;
mod killed;
mod listing;
mod operations;
mod pages;
mod reader;
mod reply;
mod request;
mod scarce;
mod session;

pub use session::{Mounted, mount};

pub(crate) use killed::is_doomed;
pub(crate) use pages::{forget_attributes, write_pages};
pub(crate) use request::{examples, reads};
pub(crate) use session::Session;
