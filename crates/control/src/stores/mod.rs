//! Stores as people manage them: added after an examination, examined again, removed when nothing lives there.

mod add;
pub(crate) mod folder;
mod read;
mod remove;
mod test;
