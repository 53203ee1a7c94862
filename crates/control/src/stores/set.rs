//! Changing how a store is reached: other credentials, other settings. Where it is stays: a change under which the volumes
//! that live there are not found is refused, and so is one that leads to a copy of them. Mounted volumes are told at once,
//! without being unmounted.

use crate::apply::Changed;
use crate::inner::Inner;
use crate::registry::{Phase, StoreRow};
use orlop_model::{Error, ErrorKind, Outcome, Result, StoreName, StoreUpdate, VolumeId};

impl Inner {
    pub(crate) async fn set_store(&self, name: &StoreName, update: &StoreUpdate) -> Result<Changed> {
        let _guard = self.locks.store(name).await;
        let old = self.find_store(name).await?;
        let unchanged = |e: Error| e.during(format_args!("store {name} is not changed"));
        let spec = update.applied_to(&old.spec)?;
        orlop_store::check_setting_names(&old.spec.url, &update.settings).map_err(unchanged)?;
        if spec == old.spec {
            return Ok((Outcome::Store(Box::new(self.shown_store(&old).await?)), None));
        }
        if spec.is_plain() {
            return Err(unchanged(Error::invalid("a folder takes neither settings nor credentials").with_remedy("leave them out")));
        }
        let found = self.port_examine(&spec).await.map_err(|e| {
            let remedy = e.remedy.clone();
            let remedy = remedy.unwrap_or_else(|| "check the settings, and that the credentials are those of this store".to_owned());
            unchanged(e).with_remedy(remedy)
        })?;
        let new = StoreRow { spec, capabilities: found.capabilities, examined_at: Some(self.now()), ..old.clone() };
        self.still_fits(&old, &new).await.map_err(unchanged)?;
        self.registry.set_store(&new).await?;
        tracing::info!(store = %name, "it is reached another way now");
        self.tell_mounted(&new).await;
        Ok((Outcome::Store(Box::new(self.shown_store(&new).await?)), None))
    }

    /// Refuses a change that takes the volumes of the store away from under those who use them.
    async fn still_fits(&self, old: &StoreRow, new: &StoreRow) -> Result<()> {
        // One that is being created or deleted need not be there whole.
        let whole = |p| matches!(p, Phase::Active | Phase::Removed);
        let living: Vec<_> = self.registry.volumes().await?.into_iter().filter(|v| v.store == old.name && whole(v.phase)).collect();
        if living.is_empty() {
            return Ok(());
        }
        if let (None, Some(why)) = (old.refusal(), new.refusal()) {
            return Err(Error::new(ErrorKind::Unsupported, format!("volumes live there, and reached that way {why}"))
                .with_remedy("reach the server itself, not something before it that drops conditions"));
        }
        let there: Vec<VolumeId> = self.port_find(&new.spec).await?.into_iter().map(|v| v.id).collect();
        let missing: Vec<String> = living.iter().filter(|v| !there.contains(&v.id)).map(|v| v.name.to_string()).collect();
        let what = if missing.is_empty() {
            // All volumes are there in a copy of the place as well, with what they held when it was made.
            match self.port_same_place(&old.spec, &new.spec).await? {
                Some(false) => "what is written there is not seen the old way, as if it were a copy".to_owned(),
                Some(true) => return Ok(()),
                None => {
                    tracing::warn!(store = %old.name, "it is not reached the old way any more: a copy of the place would not be noticed");
                    return Ok(());
                }
            }
        } else {
            format!("these volumes are not there: {}", missing.join(", "))
        };
        Err(Error::invalid(format!("reached that way it is another place: {what}"))
            .with_remedy(format!("add the other place as a store of its own: orlop store add NAME {}", new.spec.url)))
    }

    /// Best effort: whoever could not be told now is told by the reconciler.
    async fn tell_mounted(&self, store: &StoreRow) {
        let mounted = match self.port_attached().await {
            Ok(mounted) => mounted,
            Err(e) => return tracing::warn!(store = %store.name, "mounted volumes are told later how it is reached: {e}"),
        };
        for m in mounted {
            let lives_there = self.registry.volume(m.plan.volume).await.is_ok_and(|v| v.is_some_and(|v| v.store == store.name));
            if lives_there && let Err(e) = self.port_set_store(m.plan.volume, &store.spec).await {
                tracing::warn!(volume = %m.plan.name, "is told later how its store is reached: {e}");
            }
        }
    }

    /// Tells the worker of a mounted volume how its store is reached, if it does not know.
    pub(crate) async fn push_store(&self, volume: VolumeId, store: &StoreName) -> Result<bool> {
        let Some(store) = self.registry.store(store).await? else { return Ok(false) };
        let stale = |m: &crate::ports::AttachedVolume| m.plan.volume == volume && reached_otherwise(&m.plan.store, &store.spec);
        if !self.port_attached().await?.iter().any(stale) {
            return Ok(false);
        }
        self.port_set_store(volume, &store.spec).await?;
        Ok(true)
    }
}

/// Whether a mounted volume reaches its store another way than the registry says. Another URL is no other way: the default
/// store's is that of the root, which may have moved since.
pub(crate) fn reached_otherwise(now: &orlop_model::StoreSpec, should: &orlop_model::StoreSpec) -> bool {
    now.url == should.url && now != should
}
