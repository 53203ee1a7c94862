//! Adopting: a volume that lies in a store already, made on another host, becomes known here.
//!
//! Its bytes stay the other host's to delete as well: here it is forgotten when its time in the trash is over.

use super::options::{check, check_labels, differing, split_protection};
use crate::apply::Changed;
use crate::inner::Inner;
use crate::registry::{Phase, StoreRow, VolumeRow};
use crate::volumes::read::in_full;
use orlop_model::{Error, ErrorKind, FoundVolume, Outcome, Result, StoreName, VolumeId, VolumeKind, VolumeName, VolumeOptions};
use std::collections::BTreeMap;

impl Inner {
    /// The volumes that lie in a store, oldest first; those that this Orlop knows are named.
    pub(crate) async fn found_volumes(&self, store: &StoreName) -> Result<Vec<FoundVolume>> {
        let store = self.find_store(store).await?;
        shareable(&store)?;
        let mut found = self.port_find(&store.spec).await?;
        for f in &mut found {
            f.known_as = self.registry.volume(f.id).await?.map(|row| row.name);
        }
        found.sort_by_key(|f| (f.made_at, f.id.to_string()));
        Ok(found)
    }

    pub(crate) async fn adopt(
        &self,
        name: VolumeName,
        store: StoreName,
        id: VolumeId,
        mut options: VolumeOptions,
        labels: BTreeMap<String, String>,
    ) -> Result<Changed> {
        let store = self.find_store(&store).await?;
        shareable(&store)?;
        if let Some(reason) = store.refusal() {
            return Err(Error::new(ErrorKind::Unsupported, format!("store {} cannot hold volume {name}: {reason}", store.name))
                .with_remedy(format!("mend it and look again with: orlop store test {}", store.name)));
        }
        if options.store.as_ref().is_some_and(|s| *s != store.name) {
            return Err(Error::invalid(format!("option store names another store than {}", store.name)).with_remedy("leave it out"));
        }
        options.store = Some(store.name.clone());
        check(&options, &store)?;
        check_labels(&labels)?;
        let protected = split_protection(&mut options).unwrap_or(false);
        let _name = self.locks.name(&name).await;
        let _volume = self.locks.volume(id).await;
        if let Some(there) = self.registry.volume(id).await? {
            return self.adopted_before(there, &name, &options, &store).await;
        }
        if self.registry.volume_named(&name).await?.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("a volume named {name} exists"))
                .with_remedy("give the adopted one another name; names are each host's own"));
        }
        let mut row = VolumeRow {
            id,
            name,
            store: store.name.clone(),
            kind: VolumeKind::Chunked,
            phase: Phase::Active,
            options,
            labels,
            protected,
            quota_pending: false,
            folder: None,
            adopted: true,
            discarding: false,
            created_at: self.now(),
            removed_at: None,
            purge_at: None,
        };
        let found = self.port_recognise(&self.plan(&row).await?).await.map_err(|e| e.during(format_args!("adopting volume {id}")))?;
        if row.options.encrypt.is_some_and(|asked| asked != found.encrypted) {
            let is = if found.encrypted { "is" } else { "is not" };
            return Err(Error::invalid(format!("volume {id} {is} encrypted, which was decided when it was made"))
                .with_remedy("leave out the option encrypt"));
        }
        row.options.encrypt = found.encrypted.then_some(true);
        self.registry.insert_volume(&row).await?;
        Ok((Outcome::Volume(Box::new(in_full(self, &row, &[]).await)), Some(id)))
    }

    /// The same asked for twice is one volume; anything else would hide a mistake.
    async fn adopted_before(&self, there: VolumeRow, name: &VolumeName, options: &VolumeOptions, store: &StoreRow) -> Result<Changed> {
        let id = there.id;
        if there.phase != Phase::Active {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("volume {id} was removed here as {}", there.name))
                .with_remedy(format!("take it back with: orlop volume restore {id}")));
        }
        let asked = VolumeOptions { encrypt: there.options.encrypt, ..options.clone() };
        if there.name != *name || !differing(&there.options, &asked, &store.spec).is_empty() {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("volume {id} is known here already, as {}", there.name))
                .with_remedy(format!("use that, or change it with: orlop volume set {}", there.name)));
        }
        let attachments = self.registry.attachments_of(id).await?;
        Ok((Outcome::Volume(Box::new(in_full(self, &there, &attachments).await)), Some(id)))
    }
}

/// Only what has its home in a store that other hosts reach can be adopted from it.
fn shareable(store: &StoreRow) -> Result<()> {
    if store.spec.is_plain() {
        return Err(Error::new(ErrorKind::Unsupported, format!("store {} holds plain folders, not volumes", store.name))
            .with_remedy(format!("a folder there is adopted by its name: orlop volume create FOLDER -o store={}", store.name)));
    }
    if store.spec.is_local() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("store {} is this host's own disk: a volume there keeps a part of itself in the root folder that made it", store.name),
        )
        .with_remedy("volumes can be adopted from stores that several hosts reach, such as s3://"));
    }
    Ok(())
}
