//! One lock per volume, one per name being created and one per store being changed, so that requests on one volume come one after the other
//! and those on different volumes run side by side.
//!
//! Order: a name's lock before a volume's; never two volumes, never two names at once.

use orlop_model::{StoreName, VolumeId, VolumeName};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Volume(VolumeId),
    Name(VolumeName),
    Store(StoreName),
}

/// Above so many keys the unused ones are dropped at the next request.
const SWEEP_FROM: usize = 256;

#[derive(Default)]
pub(crate) struct Locks(Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>);

impl Locks {
    pub(crate) async fn volume(&self, id: VolumeId) -> OwnedMutexGuard<()> {
        self.take(Key::Volume(id)).await
    }

    pub(crate) async fn name(&self, name: &VolumeName) -> OwnedMutexGuard<()> {
        self.take(Key::Name(name.clone())).await
    }

    /// Held by those who add, examine or remove it; never together with another.
    pub(crate) async fn store(&self, name: &StoreName) -> OwnedMutexGuard<()> {
        self.take(Key::Store(name.clone())).await
    }

    async fn take(&self, key: Key) -> OwnedMutexGuard<()> {
        let lock = {
            let mut map = self.0.lock();
            if map.len() >= SWEEP_FROM {
                // A count of one is the map's own: a holder or waiter has another, taken under this same mutex.
                map.retain(|_, lock| Arc::strong_count(lock) > 1);
            }
            map.entry(key).or_default().clone()
        };
        lock.lock_owned().await
    }
}
