//! Keys of sealed volumes: what holds them, where they are kept, how they change.
//!
//! Each volume has a ring of data keys in its store, `keys.json`, wrapped by a master key that is a file on the host.
//! Who has the store alone has nothing; who has the host alone has nothing of a volume whose ring is gone. Rotating the
//! master key wraps the rings anew and touches no data.

mod host;
mod master;
mod ring;
mod secret;
#[cfg(test)]
mod tests;
mod volume;

pub use host::{BlockCipher, HostKeys, RecordCipher};
pub use master::{MasterKey, MasterKeys, Rotation};
pub use ring::{Ring, RingKey, add_key, create_ring, read_ring, rewrap, ring_path, shred};
pub use secret::{KEY_BYTES, KeyId, Secret};
pub use volume::{VolumeStore, create_volume_store, sealed_store, sealed_volume, volume_store};

pub(crate) use secret::{DerivedRing, random, unhex};
