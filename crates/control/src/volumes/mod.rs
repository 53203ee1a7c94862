//! The life of a volume: created, set, protected, removed to the trash, restored, deleted for good.

pub(crate) mod adopt;
mod care;
mod create;
mod options;
mod plain;
pub(crate) mod read;
pub(crate) mod remove;
mod restore;
mod set;
