//! Keys of sealed volumes, as far as they are desired state: who has which, and the rotation.
//!
//! Rotating the master key is: a new key beside the old one, every ring wrapped anew where it lies, and only when no ring
//! names the old key any more does its file go. Each step can be repeated, so a rotation that was killed goes on
//! with the next `key.rotate`. Volumes stay mounted: their data keys do not change.

mod rotate;

use crate::inner::Inner;
use crate::registry::{Phase, VolumeRow};
use futures::StreamExt;
use orlop_model::{DataKeyInfo, Error, ErrorKind, KeyReport, KeyRotation, MasterKeyInfo, Result, VolumeKeys};
use orlop_store::ObjectStore;
use orlop_store::keys::{MasterKeys, Ring, read_ring};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long one ring may take; a store that is away must not hold the others up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rings that are worked on at once.
const AT_ONCE: usize = 4;

/// What is known of keys in memory.
#[derive(Default)]
pub(crate) struct KeyState {
    /// Rings are made under a shared hold, and the master key is exchanged under the whole one: after an exchange no
    /// ring appears that the key before wraps.
    pub(crate) making: tokio::sync::RwLock<()>,
    /// One rotation at a time.
    rotating: tokio::sync::Mutex<()>,
    progress: Mutex<Option<KeyRotation>>,
}

/// Runs what may wait for a store.
async fn bounded<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| {
        Err(Error::unavailable(format!("the store did not answer for {} seconds", PATIENCE.as_secs()))
            .with_remedy("see whether it is reachable, then ask again"))
    })
}

impl Inner {
    pub(crate) fn keys_dir(&self) -> PathBuf {
        self.config.root.join("keys")
    }

    /// How far the rotation is.
    pub(crate) fn key_rotation(&self) -> Option<KeyRotation> {
        self.keys.progress.lock().clone()
    }

    /// Every volume that is sealed, removed ones too.
    async fn sealed_volumes(&self) -> Result<Vec<VolumeRow>> {
        Ok(self.registry.volumes().await?.into_iter().filter(|v| v.options.encrypt == Some(true)).collect())
    }

    /// The store of a volume, and where its ring is in it.
    async fn ring_of(&self, row: &VolumeRow) -> Result<(Arc<dyn ObjectStore>, String)> {
        let plan = self.plan(row).await?;
        let store = tokio::task::spawn_blocking(move || orlop_store::open_spec(&plan.store)).await;
        let store = store.unwrap_or_else(|e| Err(Error::internal(format!("opening the store ended early: {e}"))))?;
        Ok((store, plan.prefix))
    }

    /// A volume's ring as it is in its store.
    async fn ring(&self, row: &VolumeRow) -> Result<Ring> {
        let (store, prefix) = self.ring_of(row).await?;
        bounded(read_ring(&*store, &prefix)).await.map(|(ring, _)| ring)
    }

    /// All keys by their names.
    pub(crate) async fn key_report(&self) -> Result<KeyReport> {
        let dir = self.keys_dir();
        let masters = match MasterKeys::load(&dir) {
            // Then it matters all the more which ones the rings need.
            Err(e) if e.kind == ErrorKind::NotFound => None,
            loaded => Some(loaded?),
        };
        let rows = self.sealed_volumes().await?.into_iter().filter(|v| matches!(v.phase, Phase::Active | Phase::Removed));
        let rings = futures::stream::iter(rows).map(|row| async move {
            let ring = self.ring(&row).await;
            shown(row, ring)
        });
        let mut volumes: Vec<VolumeKeys> = rings.buffer_unordered(AT_ONCE).collect().await;
        volumes.sort_by(|a, b| (&a.name, a.volume).cmp(&(&b.name, b.volume)));
        let exported = masters.as_ref().is_some_and(|masters| masters.was_exported(&dir));
        let masters = masters.iter().flat_map(MasterKeys::all).enumerate().map(|(n, key)| MasterKeyInfo {
            id: key.id().to_string(),
            current: n == 0,
            exported: (n == 0).then_some(exported),
        });
        Ok(KeyReport {
            masters: masters.collect(),
            volumes,
            rotation_open: MasterKeys::rotation_is_open(&dir),
            rotation: self.key_rotation(),
        })
    }
}

fn shown(row: VolumeRow, ring: Result<Ring>) -> VolumeKeys {
    let (keys, error) = match ring {
        Ok(ring) => {
            let info = |key: &orlop_store::keys::RingKey| DataKeyInfo {
                id: key.id.to_string(),
                master: key.master.to_string(),
                current: key.id == ring.current,
                created_at: key.created,
            };
            (ring.keys.iter().map(info).collect(), None)
        }
        Err(e) => (Vec::new(), Some(e)),
    };
    VolumeKeys { volume: row.id, name: row.name, store: row.store, keys, error }
}
