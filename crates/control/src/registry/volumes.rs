//! Rows of volumes: reading them, and the few transitions between their phases, each one transaction.

use super::{Registry, from_micros, is_unique_violation, to_micros, unreadable};
use orlop_model::{Error, ErrorKind, Result, StoreName, VolumeId, VolumeKind, VolumeName, VolumeOptions};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// Where a volume is in its life, the hidden beginning included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its bytes may be there in part; nobody was told that it exists.
    Creating,
    Active,
    Removed,
    Purging,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Phase::Creating => "creating",
            Phase::Active => "active",
            Phase::Removed => "removed",
            Phase::Purging => "purging",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeRow {
    pub(crate) id: VolumeId,
    pub(crate) name: VolumeName,
    pub(crate) store: StoreName,
    pub(crate) kind: VolumeKind,
    pub(crate) phase: Phase,
    pub(crate) options: VolumeOptions,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) protected: bool,
    /// The quota was changed and the mounted worker may not know it.
    pub(crate) quota_pending: bool,
    /// Of a plain volume: its folder, where it is or would be.
    pub(crate) folder: Option<String>,
    /// Its folder was there before it, and is never moved or deleted.
    pub(crate) adopted: bool,
    /// Removed, and its folder may not be in the trash yet.
    pub(crate) discarding: bool,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) removed_at: Option<OffsetDateTime>,
    pub(crate) purge_at: Option<OffsetDateTime>,
}

impl VolumeRow {
    fn read(row: &SqliteRow) -> Result<VolumeRow> {
        let text = |column: &str| row.get::<String, _>(column);
        let time = |column: &str| row.get::<Option<i64>, _>(column).map(from_micros).transpose();
        Ok(VolumeRow {
            id: text("id").parse().map_err(|_| unreadable("volume id", &text("id")))?,
            name: text("name").parse().map_err(|_| unreadable("volume name", &text("name")))?,
            store: text("store").parse().map_err(|_| unreadable("store name", &text("store")))?,
            kind: match text("kind").as_str() {
                "chunked" => VolumeKind::Chunked,
                "plain" => VolumeKind::Plain,
                other => return Err(unreadable("volume kind", other)),
            },
            phase: match text("phase").as_str() {
                "creating" => Phase::Creating,
                "active" => Phase::Active,
                "removed" => Phase::Removed,
                "purging" => Phase::Purging,
                other => return Err(unreadable("volume phase", other)),
            },
            options: serde_json::from_str(&text("options")).map_err(|_| unreadable("set of options", &text("options")))?,
            labels: serde_json::from_str(&text("labels")).map_err(|_| unreadable("set of labels", &text("labels")))?,
            protected: row.get::<i64, _>("protected") != 0,
            quota_pending: row.get::<i64, _>("quota_pending") != 0,
            folder: row.get("folder"),
            adopted: row.get::<i64, _>("adopted") != 0,
            discarding: row.get::<i64, _>("discarding") != 0,
            created_at: from_micros(row.get("created_at"))?,
            removed_at: time("removed_at")?,
            purge_at: time("purge_at")?,
        })
    }
}

impl Registry {
    /// All volumes, by name and age.
    pub(crate) async fn volumes(&self) -> Result<Vec<VolumeRow>> {
        let rows = sqlx::query("SELECT * FROM volumes ORDER BY name, created_at, id")
            .fetch_all(&self.pool)
            .await
            .map_err(|e| self.fail("listing volumes", &e))?;
        rows.iter().map(VolumeRow::read).collect()
    }

    /// The volume with this id, in whatever phase.
    pub(crate) async fn volume(&self, id: VolumeId) -> Result<Option<VolumeRow>> {
        let row = sqlx::query("SELECT * FROM volumes WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await
            .map_err(|e| self.fail("looking for a volume", &e))?;
        row.as_ref().map(VolumeRow::read).transpose()
    }

    /// The volume that holds this name: active, or being created.
    pub(crate) async fn volume_named(&self, name: &VolumeName) -> Result<Option<VolumeRow>> {
        let row = sqlx::query("SELECT * FROM volumes WHERE name = ? AND phase IN ('creating', 'active')")
            .bind(name.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(|e| self.fail("looking for a volume", &e))?;
        row.as_ref().map(VolumeRow::read).transpose()
    }

    /// The removed volumes that had this name, the last removed first.
    pub(crate) async fn removed_named(&self, name: &VolumeName) -> Result<Vec<VolumeRow>> {
        let rows = sqlx::query("SELECT * FROM volumes WHERE name = ? AND phase = 'removed' ORDER BY removed_at DESC, created_at DESC")
            .bind(name.as_str())
            .fetch_all(&self.pool)
            .await
            .map_err(|e| self.fail("looking for a removed volume", &e))?;
        rows.iter().map(VolumeRow::read).collect()
    }

    /// Adds a volume; its store must be there.
    pub(crate) async fn insert_volume(&self, v: &VolumeRow) -> Result<()> {
        self.faults.at("registry.insert_volume").await?;
        let done = sqlx::query(
            "INSERT INTO volumes (id, name, store, kind, phase, options, labels, protected, quota_pending, created_at, removed_at, purge_at,
                 folder, adopted, discarding)
             SELECT ?, ?, name, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM stores WHERE name = ?",
        )
        .bind(v.id.to_string())
        .bind(v.name.as_str())
        .bind(match v.kind {
            VolumeKind::Chunked => "chunked",
            VolumeKind::Plain => "plain",
        })
        .bind(v.phase.as_str())
        .bind(serde_json::to_string(&v.options).expect("options are plain data"))
        .bind(serde_json::to_string(&v.labels).expect("labels are plain data"))
        .bind(i64::from(v.protected))
        .bind(i64::from(v.quota_pending))
        .bind(to_micros(v.created_at))
        .bind(v.removed_at.map(to_micros))
        .bind(v.purge_at.map(to_micros))
        .bind(&v.folder)
        .bind(i64::from(v.adopted))
        .bind(i64::from(v.discarding))
        .bind(v.store.as_str())
        .execute(&self.pool)
        .await
        .map_err(|e| if is_unique_violation(&e) { taken(&v.name) } else { self.fail("adding a volume", &e) })?;
        if done.rows_affected() != 1 {
            return Err(Error::not_found(format!("store {} was just removed", v.store)).with_remedy("orlop store list shows the stores"));
        }
        self.faults.at("registry.insert_volume.after").await
    }

    /// Writes all of the row that can change.
    pub(crate) async fn update_volume(&self, v: &VolumeRow) -> Result<()> {
        self.faults.at("registry.update_volume").await?;
        let done = sqlx::query(
            "UPDATE volumes SET name = ?, phase = ?, options = ?, labels = ?, protected = ?, quota_pending = ?, removed_at = ?, purge_at = ?,
                 folder = ?, adopted = ?, discarding = ?
             WHERE id = ?",
        )
        .bind(v.name.as_str())
        .bind(v.phase.as_str())
        .bind(serde_json::to_string(&v.options).expect("options are plain data"))
        .bind(serde_json::to_string(&v.labels).expect("labels are plain data"))
        .bind(i64::from(v.protected))
        .bind(i64::from(v.quota_pending))
        .bind(v.removed_at.map(to_micros))
        .bind(v.purge_at.map(to_micros))
        .bind(&v.folder)
        .bind(i64::from(v.adopted))
        .bind(i64::from(v.discarding))
        .bind(v.id.to_string())
        .execute(&self.pool)
        .await
        .map_err(|e| if is_unique_violation(&e) { taken(&v.name) } else { self.fail("changing a volume", &e) })?;
        if done.rows_affected() != 1 {
            return Err(Error::internal(format!("volume {} vanished from the registry while it was changed", v.id)));
        }
        self.faults.at("registry.update_volume.after").await
    }

    /// Forgets a volume. Its attachments must be gone.
    pub(crate) async fn delete_volume(&self, id: VolumeId) -> Result<()> {
        self.faults.at("registry.delete_volume").await?;
        sqlx::query("DELETE FROM volumes WHERE id = ?")
            .bind(id.to_string())
            .execute(&self.pool)
            .await
            .map_err(|e| self.fail("forgetting a volume", &e))?;
        self.faults.at("registry.delete_volume.after").await
    }
}

fn taken(name: &VolumeName) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("a volume named {name} exists")).with_remedy("choose another name")
}
