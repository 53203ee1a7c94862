//! Rows of attachments: who holds which volume mounted.

use super::{Registry, from_micros, is_unique_violation, to_micros, unreadable};
use orlop_model::{Attachment, AttachmentId, AttachmentKind, Error, ErrorKind, Result, VolumeId};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

/// Whether the holder was told that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttachmentPhase {
    /// Being attached; after a crash nobody was told, so it is undone.
    Pending,
    Held,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttachmentRow {
    pub(crate) id: AttachmentId,
    pub(crate) volume: VolumeId,
    pub(crate) kind: AttachmentKind,
    pub(crate) phase: AttachmentPhase,
    pub(crate) since: OffsetDateTime,
    /// Since when its Docker may have forgotten it.
    pub(crate) suspect_since: Option<OffsetDateTime>,
}

impl AttachmentRow {
    pub(crate) fn shown(&self) -> Attachment {
        Attachment { id: self.id, kind: self.kind.clone(), since: self.since }
    }

    fn read(row: &SqliteRow) -> Result<AttachmentRow> {
        let text = |column: &str| row.get::<String, _>(column);
        Ok(AttachmentRow {
            id: text("id").parse().map_err(|_| unreadable("attachment id", &text("id")))?,
            volume: text("volume").parse().map_err(|_| unreadable("volume id", &text("volume")))?,
            kind: match text("kind").as_str() {
                "docker" => AttachmentKind::Docker { mount_id: text("holder") },
                "directory" => AttachmentKind::Directory { path: text("holder"), read_only: row.get::<i64, _>("read_only") != 0 },
                "internal" => AttachmentKind::Internal { purpose: text("holder") },
                other => return Err(unreadable("attachment kind", other)),
            },
            phase: match text("phase").as_str() {
                "pending" => AttachmentPhase::Pending,
                "held" => AttachmentPhase::Held,
                other => return Err(unreadable("attachment phase", other)),
            },
            since: from_micros(row.get("since"))?,
            suspect_since: row.get::<Option<i64>, _>("suspect_since").map(from_micros).transpose()?,
        })
    }
}

impl Registry {
    /// All attachments, the oldest first.
    pub(crate) async fn attachments(&self) -> Result<Vec<AttachmentRow>> {
        let rows = sqlx::query("SELECT * FROM attachments ORDER BY since, id")
            .fetch_all(&self.pool)
            .await
            .map_err(|e| self.fail("listing attachments", &e))?;
        rows.iter().map(AttachmentRow::read).collect()
    }

    /// The attachments of a volume, the oldest first.
    pub(crate) async fn attachments_of(&self, volume: VolumeId) -> Result<Vec<AttachmentRow>> {
        let rows = sqlx::query("SELECT * FROM attachments WHERE volume = ? ORDER BY since, id")
            .bind(volume.to_string())
            .fetch_all(&self.pool)
            .await
            .map_err(|e| self.fail("listing attachments", &e))?;
        rows.iter().map(AttachmentRow::read).collect()
    }

    /// The attachment onto this folder, of whatever volume.
    pub(crate) async fn attachment_at(&self, directory: &str) -> Result<Option<AttachmentRow>> {
        let row = sqlx::query("SELECT * FROM attachments WHERE kind = 'directory' AND holder = ?")
            .bind(directory)
            .fetch_optional(&self.pool)
            .await
            .map_err(|e| self.fail("looking for an attachment", &e))?;
        row.as_ref().map(AttachmentRow::read).transpose()
    }

    pub(crate) async fn insert_attachment(&self, a: &AttachmentRow) -> Result<()> {
        self.faults.at("registry.insert_attachment").await?;
        let (kind, holder, read_only) = match &a.kind {
            AttachmentKind::Docker { mount_id } => ("docker", mount_id, false),
            AttachmentKind::Directory { path, read_only } => ("directory", path, *read_only),
            AttachmentKind::Internal { purpose } => ("internal", purpose, false),
        };
        sqlx::query(
            "INSERT INTO attachments (id, volume, kind, holder, read_only, phase, since, suspect_since)
             VALUES (?, ?, ?, ?, ?, 'pending', ?, NULL)",
        )
        .bind(a.id.to_string())
        .bind(a.volume.to_string())
        .bind(kind)
        .bind(holder)
        .bind(i64::from(read_only))
        .bind(to_micros(a.since))
        .execute(&self.pool)
        .await
        .map_err(|e| {
            if is_unique_violation(&e) {
                Error::new(ErrorKind::AlreadyExists, format!("{holder} holds a volume already"))
                    .with_remedy("orlop volume inspect shows who holds what")
            } else {
                self.fail("adding an attachment", &e)
            }
        })?;
        self.faults.at("registry.insert_attachment.after").await
    }

    /// The mount works: the attachment is held, and above suspicion.
    pub(crate) async fn hold_attachment(&self, id: AttachmentId) -> Result<()> {
        self.faults.at("registry.hold_attachment").await?;
        sqlx::query("UPDATE attachments SET phase = 'held', suspect_since = NULL WHERE id = ?")
            .bind(id.to_string())
            .execute(&self.pool)
            .await
            .map_err(|e| self.fail("holding an attachment", &e))?;
        self.faults.at("registry.hold_attachment.after").await
    }

    pub(crate) async fn delete_attachment(&self, id: AttachmentId) -> Result<()> {
        self.faults.at("registry.delete_attachment").await?;
        sqlx::query("DELETE FROM attachments WHERE id = ?")
            .bind(id.to_string())
            .execute(&self.pool)
            .await
            .map_err(|e| self.fail("letting go of an attachment", &e))?;
        self.faults.at("registry.delete_attachment.after").await
    }

    /// Marks every attachment of Docker as one that may have been forgotten; those marked already stay as they are.
    pub(crate) async fn suspect_docker(&self, now: OffsetDateTime) -> Result<()> {
        self.faults.at("registry.suspect_docker").await?;
        sqlx::query("UPDATE attachments SET suspect_since = ? WHERE kind = 'docker' AND suspect_since IS NULL")
            .bind(to_micros(now))
            .execute(&self.pool)
            .await
            .map_err(|e| self.fail("marking attachments", &e))?;
        self.faults.at("registry.suspect_docker.after").await
    }
}
