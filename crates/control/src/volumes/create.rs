//! Creating a volume: a row that nobody sees, the empty file system, then the row is shown.
//!
//! Until it is shown nobody was told that it exists, so after a crash it is undone, by the next create of that name or by
//! the reconciler, whichever comes first.

use super::options::{check, check_labels, differing, split_protection};
use crate::apply::Changed;
use crate::inner::Inner;
use crate::ports::Formatted;
use crate::registry::{Phase, StoreRow, VolumeRow};
use crate::stores::folder::allowed_folder;
use crate::volumes::read::in_full;
use orlop_model::{Error, ErrorKind, Outcome, Result, StoreName, VolumeId, VolumeKind, VolumeName, VolumeOptions};
use std::collections::BTreeMap;

impl Inner {
    /// The store that the options name.
    async fn store_of(&self, options: &VolumeOptions) -> Result<StoreRow> {
        let name = options.store.clone().unwrap_or_else(StoreName::default_store);
        match self.registry.store(&name).await? {
            Some(store) => Ok(store),
            None => Err(Error::not_found(format!("option store={name}: no store has that name")).with_remedy(self.known_stores().await?)),
        }
    }

    pub(crate) async fn create(&self, name: VolumeName, mut options: VolumeOptions, labels: BTreeMap<String, String>) -> Result<Changed> {
        let store = self.store_of(&options).await?;
        check(&options, &store)?;
        check_labels(&labels)?;
        let protected = split_protection(&mut options).unwrap_or(false);
        let _name = self.locks.name(&name).await;
        if let Some(there) = self.registry.volume_named(&name).await? {
            if there.phase == Phase::Creating {
                let _volume = self.locks.volume(there.id).await;
                self.undo_create(&there).await.map_err(|e| e.during(format_args!("clearing an interrupted create of {name}")))?;
            } else {
                return self.created_before(there, &options, &labels, protected, &store).await;
            }
        }
        let plain = store.spec.is_plain();
        if !plain && let Some(reason) = store.refusal() {
            return Err(Error::new(ErrorKind::Unsupported, format!("store {} cannot hold volume {name}: {reason}", store.name))
                .with_remedy(format!("choose another store, or mend this one and look again with: orlop store test {}", store.name)));
        }
        let folder = if plain {
            let path = allowed_folder(&store.spec, &self.config.root)?.join(name.as_str()).display().to_string();
            self.clear_folder(&path).await?;
            Some(path)
        } else {
            None
        };
        let row = VolumeRow {
            id: VolumeId::random(),
            name,
            store: store.name,
            kind: if plain { VolumeKind::Plain } else { VolumeKind::Chunked },
            phase: Phase::Creating,
            options,
            labels,
            protected,
            quota_pending: false,
            folder,
            adopted: false,
            discarding: false,
            created_at: self.now(),
            removed_at: None,
            purge_at: None,
        };
        let _volume = self.locks.volume(row.id).await;
        match self.build(row.clone()).await {
            Ok(row) => Ok((Outcome::Volume(Box::new(in_full(self, &row, &[]).await)), Some(row.id))),
            Err(e) => {
                if let Err(undo) = self.undo_create(&row).await {
                    tracing::warn!(volume = %row.name, "an unfinished volume is left for the reconciler: {undo}");
                }
                Err(e)
            }
        }
    }

    async fn build(&self, mut row: VolumeRow) -> Result<VolumeRow> {
        self.registry.insert_volume(&row).await?;
        let plan = self.plan(&row).await?;
        // The ring of a sealed volume is made now; the master key stays the same meanwhile.
        let _making = self.keys.making.read().await;
        let formatted = self.port_format(&plan).await.map_err(|e| e.during(format_args!("creating volume {}", row.name)))?;
        row.adopted = formatted == Formatted::Adopted;
        row.phase = Phase::Active;
        self.registry.update_volume(&row).await?;
        Ok(row)
    }

    /// Takes an unfinished volume away again, bytes first. Its lock is held.
    pub(crate) async fn undo_create(&self, row: &VolumeRow) -> Result<()> {
        if self.registry.volume(row.id).await?.is_none() {
            return Ok(());
        }
        self.port_destroy(&self.plan(row).await?).await?;
        self.registry.delete_volume(row.id).await
    }

    /// Docker may send the same create twice at once: then both succeed. Anything else would hide a mistake.
    async fn created_before(
        &self,
        there: VolumeRow,
        options: &VolumeOptions,
        labels: &BTreeMap<String, String>,
        protected: bool,
        store: &StoreRow,
    ) -> Result<Changed> {
        let mut differs = differing(&there.options, options, &store.spec);
        if there.protected != protected {
            differs.push("protect".to_owned());
        }
        if there.labels != *labels {
            differs.push("labels".to_owned());
        }
        if differs.is_empty() {
            let attachments = self.registry.attachments_of(there.id).await?;
            return Ok((Outcome::Volume(Box::new(in_full(self, &there, &attachments).await)), Some(there.id)));
        }
        Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("a volume named {} exists, created with other options: {}", there.name, differs.join(", ")),
        )
        .with_remedy(format!("choose another name, or change it with orlop volume set {}", there.name)))
    }
}
