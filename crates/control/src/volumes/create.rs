//! Creating a volume: a row that nobody sees, the empty file system, then the row is shown.
//!
//! Until it is shown nobody was told that it exists, so after a crash it is undone, by the next create of that name or by
//! the reconciler, whichever comes first.

use super::options::{check, check_labels, differing, split_protection};
use crate::apply::Changed;
use crate::inner::Inner;
use crate::registry::{Phase, VolumeRow};
use crate::volumes::read::shown;
use orlop_model::{Error, ErrorKind, Outcome, Result, StoreName, VolumeId, VolumeKind, VolumeName, VolumeOptions};
use std::collections::BTreeMap;

impl Inner {
    pub(crate) async fn create(&self, name: VolumeName, mut options: VolumeOptions, labels: BTreeMap<String, String>) -> Result<Changed> {
        check(&options, &self.config.stores)?;
        check_labels(&labels)?;
        let protected = split_protection(&mut options).unwrap_or(false);
        let _name = self.locks.name(&name).await;
        if let Some(there) = self.registry.volume_named(&name).await? {
            if there.phase == Phase::Creating {
                let _volume = self.locks.volume(there.id).await;
                self.undo_create(&there).await.map_err(|e| e.during(format_args!("clearing an interrupted create of {name}")))?;
            } else {
                return self.created_before(there, &options, &labels, protected).await;
            }
        }
        let row = VolumeRow {
            id: VolumeId::random(),
            name,
            store: options.store.clone().unwrap_or_else(StoreName::default_store),
            kind: VolumeKind::Chunked,
            phase: Phase::Creating,
            options,
            labels,
            protected,
            quota_pending: false,
            created_at: self.now(),
            removed_at: None,
            purge_at: None,
        };
        let _volume = self.locks.volume(row.id).await;
        match self.build(row.clone()).await {
            Ok(row) => Ok((Outcome::Volume(Box::new(shown(self, &row, &[]))), Some(row.id))),
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
        // The ring of a sealed volume is made now; the master key stays the same meanwhile.
        let _making = self.keys.making.read().await;
        self.port_format(&self.plan(&row)?).await.map_err(|e| e.during(format_args!("creating volume {}", row.name)))?;
        row.phase = Phase::Active;
        self.registry.update_volume(&row).await?;
        Ok(row)
    }

    /// Takes an unfinished volume away again, bytes first. Its lock is held.
    pub(crate) async fn undo_create(&self, row: &VolumeRow) -> Result<()> {
        if self.registry.volume(row.id).await?.is_none() {
            return Ok(());
        }
        self.port_destroy(&self.plan(row)?).await?;
        self.registry.delete_volume(row.id).await
    }

    /// Docker may send the same create twice at once: then both succeed. Anything else would hide a mistake.
    async fn created_before(
        &self,
        there: VolumeRow,
        options: &VolumeOptions,
        labels: &BTreeMap<String, String>,
        protected: bool,
    ) -> Result<Changed> {
        let mut differs = differing(&there.options, options);
        if there.protected != protected {
            differs.push("protect".to_owned());
        }
        if there.labels != *labels {
            differs.push("labels".to_owned());
        }
        if differs.is_empty() {
            let attachments = self.registry.attachments_of(there.id).await?;
            return Ok((Outcome::Volume(Box::new(shown(self, &there, &attachments))), Some(there.id)));
        }
        Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("a volume named {} exists, created with other options: {}", there.name, differs.join(", ")),
        )
        .with_remedy(format!("choose another name, or change it with orlop volume set {}", there.name)))
    }
}
