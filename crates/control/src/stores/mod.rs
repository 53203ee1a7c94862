//! Stores as people manage them: added after an examination, changed and examined again, removed when nothing lives there.

mod add;
pub(crate) mod folder;
mod read;
mod remove;
pub(crate) mod set;
mod test;
