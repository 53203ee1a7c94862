//! The operations of the file system, one file per group. Each is a method of `FileSystem`.

mod ahead;
mod allocate;
pub(crate) mod attr;
mod create;
mod data;
mod folder;
mod remove;
mod rename;
mod room;
mod xattr;

pub(crate) use ahead::Sequences;
pub use room::Gathering;
