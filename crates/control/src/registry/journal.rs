//! What the registry knows of the audit journal: where it ended, and which changes are begun and not ended.

use super::Registry;
use orlop_model::{Actor, Result};
use sqlx::Row;

/// The end of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) seq: u64,
    pub(crate) hash: String,
}

/// A change whose start is in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenChange {
    pub(crate) change: u64,
    pub(crate) actor: Actor,
    pub(crate) verb: String,
    pub(crate) target: String,
}

impl Registry {
    /// The last end of the journal that was noted; none before the first record.
    pub(crate) async fn audit_head(&self) -> Result<Option<Head>> {
        let row = sqlx::query("SELECT seq, hash FROM audit_head")
            .fetch_optional(&self.pool)
            .await
            .map_err(|e| self.fail("reading the end of the journal", &e))?;
        Ok(row.map(|r| Head { seq: r.get::<i64, _>("seq") as u64, hash: r.get("hash") }))
    }

    /// Notes a new end, with the change that began and those that ended.
    pub(crate) async fn audit_advance(&self, head: &Head, opened: Option<&OpenChange>, closed: &[u64]) -> Result<()> {
        self.faults.at("registry.audit_advance").await?;
        let fail = |e: sqlx::Error| self.fail("noting the end of the journal", &e);
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(fail)?;
        sqlx::query(
            "INSERT INTO audit_head (one, seq, hash) VALUES (1, ?, ?)
             ON CONFLICT (one) DO UPDATE SET seq = excluded.seq, hash = excluded.hash",
        )
        .bind(head.seq as i64)
        .bind(&head.hash)
        .execute(&mut *tx)
        .await
        .map_err(fail)?;
        if let Some(open) = opened {
            sqlx::query("INSERT INTO audit_open (change, actor, verb, target) VALUES (?, ?, ?, ?)")
                .bind(open.change as i64)
                .bind(serde_json::to_string(&open.actor).expect("an actor is plain data"))
                .bind(&open.verb)
                .bind(&open.target)
                .execute(&mut *tx)
                .await
                .map_err(fail)?;
        }
        for change in closed {
            sqlx::query("DELETE FROM audit_open WHERE change = ?").bind(*change as i64).execute(&mut *tx).await.map_err(fail)?;
        }
        tx.commit().await.map_err(fail)?;
        self.faults.at("registry.audit_advance.after").await
    }

    /// The changes that were begun and not ended.
    pub(crate) async fn audit_open_changes(&self) -> Result<Vec<OpenChange>> {
        let rows = sqlx::query("SELECT change, actor, verb, target FROM audit_open ORDER BY change")
            .fetch_all(&self.pool)
            .await
            .map_err(|e| self.fail("reading open changes", &e))?;
        Ok(rows
            .into_iter()
            .map(|r| OpenChange {
                change: r.get::<i64, _>("change") as u64,
                actor: serde_json::from_str(&r.get::<String, _>("actor")).unwrap_or(Actor::System),
                verb: r.get("verb"),
                target: r.get("target"),
            })
            .collect())
    }
}
