//! The verb `key.rotate`: of the master key, and of one volume's data key.

use super::{AT_ONCE, bounded};
use crate::apply::Changed;
use crate::inner::Inner;
use crate::registry::{Phase, VolumeRow};
use futures::StreamExt;
use orlop_model::{Error, ErrorKind, KeyRotation, Outcome, Result, VolumeRef};
use orlop_store::keys::{KeyId, MasterKeys, Rotation, add_key, rewrap};
use std::collections::BTreeSet;

impl Inner {
    pub(crate) async fn rotate_keys(&self, volume: Option<VolumeRef>) -> Result<Changed> {
        match volume {
            Some(volume) => self.rotate_volume_key(&volume).await,
            None => {
                let rotated = self.rotate_master_key().await;
                if let Some(progress) = self.keys.progress.lock().as_mut() {
                    progress.running = false;
                }
                rotated
            }
        }
    }

    /// A new data key for what is written from the volume's next mount on. What is there stays as it is.
    async fn rotate_volume_key(&self, volume: &VolumeRef) -> Result<Changed> {
        let (_guard, row) = self.lock_active(volume).await?;
        if row.options.encrypt != Some(true) {
            return Err(Error::invalid(format!("volume {} is not encrypted, so it has no keys", row.name))
                .with_remedy("create a volume with encrypt=on and copy the files"));
        }
        // Under the same hold as a new ring: it is wrapped by the master key of this moment.
        let _making = self.keys.making.read().await;
        let masters = MasterKeys::load(&self.keys_dir())?;
        let (store, prefix) = self.ring_of(&row).await?;
        let id = bounded(add_key(&*store, &prefix, &masters)).await.map_err(|e| e.during(format_args!("volume {}", row.name)))?;
        tracing::info!(volume = %row.name, key = %id, "has a new data key");
        Ok((Outcome::Done, Some(row.id)))
    }

    async fn rotate_master_key(&self) -> Result<Changed> {
        let Ok(_one) = self.keys.rotating.try_lock() else {
            return Err(
                Error::new(ErrorKind::Busy, "the master key is being rotated now").with_remedy("orlop key list shows how far it is")
            );
        };
        let dir = self.keys_dir();
        self.has_keys_of_all().await?;
        let (masters, how) = {
            let _alone = self.keys.making.write().await;
            MasterKeys::rotate(&dir)?
        };
        self.config.faults.at("keys.exchanged").await?;
        let current = masters.current().id();
        tracing::info!(key = %current, resumed = how == Rotation::Resumed, "the master key is another one; its rings follow");
        // Who made a volume decides which key wraps its ring: taken over here, its maker would be locked out.
        let (others, rows): (Vec<_>, Vec<_>) = self.sealed_volumes().await?.into_iter().partition(|row| row.adopted);
        *self.keys.progress.lock() = Some(KeyRotation {
            running: true,
            resumed: how == Rotation::Resumed,
            master: current.to_string(),
            total: rows.len() as u64,
            ..KeyRotation::default()
        });
        let total = rows.len();
        let mut work = futures::stream::iter(rows)
            .map(|row| {
                let masters = &masters;
                async move { self.rewrap(&row, masters).await.map_err(|e| e.during(format_args!("volume {}", row.name))) }
            })
            .buffer_unordered(AT_ONCE);
        let mut failed = Vec::new();
        while let Some(done) = work.next().await {
            match done {
                Ok(()) => {
                    if let Some(progress) = self.keys.progress.lock().as_mut() {
                        progress.done += 1;
                    }
                }
                Err(e) => {
                    tracing::warn!("a key ring is still wrapped by an older master key: {e}");
                    failed.push(e);
                }
            }
        }
        drop(work);
        if let Some(first) = failed.first() {
            let message = format!(
                "{} of {total} key rings could not be wrapped anew, so the older master key stays: {}",
                failed.len(),
                first.message
            );
            return Err(
                Error::new(first.kind, message).with_remedy("see to the stores of these volumes, then go on with: orlop key rotate")
            );
        }
        self.config.faults.at("keys.wrapped").await?;
        let gone = match self.masters_of(others).await {
            Ok(needed) => MasterKeys::retire(&dir, &needed)?,
            Err(e) => {
                tracing::warn!("keys before this one stay, since an adopted volume may need them: {e}");
                Vec::new()
            }
        };
        if let Some(progress) = self.keys.progress.lock().as_mut() {
            progress.retired = gone.iter().map(ToString::to_string).collect();
        }
        tracing::info!(key = %current, rings = total, "the rotation is complete");
        Ok((Outcome::Done, None))
    }

    /// Refuses, before anything is changed, if this host does not have the keys that its own volumes are under: it may be that another
    /// key was put in the place of the right one. A ring that cannot be read now says nothing.
    async fn has_keys_of_all(&self) -> Result<()> {
        let masters = MasterKeys::load(&self.keys_dir())?;
        let own = self.sealed_volumes().await?.into_iter().filter(|row| !row.adopted);
        let mut rings = futures::stream::iter(own).map(|row| async move { (self.ring(&row).await, row) }).buffer_unordered(AT_ONCE);
        while let Some((ring, row)) = rings.next().await {
            for key in ring.iter().flat_map(|ring| &ring.keys) {
                masters.get(key.master, row.name.as_str()).map_err(|e| e.during("rotating the master key: nothing was changed"))?;
            }
        }
        Ok(())
    }

    /// The master keys that these volumes' rings name.
    async fn masters_of(&self, rows: Vec<VolumeRow>) -> Result<BTreeSet<KeyId>> {
        let mut named = BTreeSet::new();
        for row in rows.into_iter().filter(|row| matches!(row.phase, Phase::Active | Phase::Removed)) {
            let ring = self.ring(&row).await.map_err(|e| e.during(format_args!("volume {}", row.name)))?;
            named.extend(ring.keys.iter().map(|key| key.master));
        }
        Ok(named)
    }

    async fn rewrap(&self, row: &VolumeRow, masters: &MasterKeys) -> Result<()> {
        let (store, prefix) = self.ring_of(row).await?;
        match bounded(rewrap(&*store, &prefix, masters)).await {
            // A volume that is being deleted loses its ring first, one that is being made gets it under the new key.
            Err(e) if e.kind == ErrorKind::NotFound && matches!(row.phase, Phase::Purging | Phase::Creating) => Ok(()),
            Err(e) => {
                // It may have been deleted for good since it was listed.
                if e.kind == ErrorKind::NotFound && self.registry.volume(row.id).await?.is_none_or(|now| now.phase == Phase::Purging) {
                    return Ok(());
                }
                Err(e)
            }
            Ok(_) => self.config.faults.at("keys.ring").await,
        }
    }
}
