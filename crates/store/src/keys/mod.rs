//! Keys of sealed volumes: what holds them, where they are kept, how they change.

mod secret;

pub(crate) use secret::{Derived, random};
pub use secret::{KEY_BYTES, KeyId, Secret};
