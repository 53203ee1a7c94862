//! Rows of stores. A store goes only while no volume names it, and a volume comes only while its store is there: each
//! is one statement, so neither can slip past the other.

use super::{Registry, from_micros, to_micros, unreadable};
use orlop_model::{Capabilities, Result, Store, StoreName, StoreSpec};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use std::collections::BTreeMap;
use time::OffsetDateTime;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreRow {
    pub(crate) name: StoreName,
    pub(crate) spec: StoreSpec,
    pub(crate) capabilities: Option<Capabilities>,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) examined_at: Option<OffsetDateTime>,
}

impl StoreRow {
    /// Why chunked volumes cannot live there; a store that nobody examined yet is given the benefit of the doubt.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.capabilities.as_ref().and_then(Capabilities::refusal)
    }

    fn settings_column(&self) -> String {
        serde_json::to_string(&self.spec.settings).expect("settings are plain data")
    }

    fn credentials_column(&self) -> Option<String> {
        self.spec.credentials.as_ref().map(ToString::to_string)
    }

    fn capabilities_column(&self) -> Option<String> {
        self.capabilities.map(|c| serde_json::to_string(&c).expect("capabilities are plain data"))
    }

    /// The public record.
    pub(crate) fn shown(&self, volumes: u64) -> Store {
        Store {
            name: self.name.clone(),
            spec: self.spec.clone(),
            volumes,
            capabilities: self.capabilities,
            refusal: self.refusal(),
            created_at: self.created_at,
            examined_at: self.examined_at,
        }
    }

    fn read(row: &SqliteRow) -> Result<StoreRow> {
        let text = |column: &str| row.get::<String, _>(column);
        let maybe = |column: &str| row.get::<Option<String>, _>(column);
        Ok(StoreRow {
            name: text("name").parse().map_err(|_| unreadable("store name", &text("name")))?,
            spec: StoreSpec {
                url: text("url"),
                settings: serde_json::from_str(&text("settings")).map_err(|_| unreadable("set of settings", &text("settings")))?,
                // Not repeated in the error: whoever edited it by hand may have put a secret there.
                credentials: maybe("credentials")
                    .map(|c| c.parse())
                    .transpose()
                    .map_err(|_| unreadable("credentials reference of store", &text("name")))?,
            },
            capabilities: maybe("capabilities")
                .map(|c| serde_json::from_str(&c).map_err(|_| unreadable("set of capabilities", &c)))
                .transpose()?,
            created_at: from_micros(row.get("created_at"))?,
            examined_at: row.get::<Option<i64>, _>("examined_at").map(from_micros).transpose()?,
        })
    }
}

impl Registry {
    /// All stores, by name.
    pub(crate) async fn stores(&self) -> Result<Vec<StoreRow>> {
        let rows =
            sqlx::query("SELECT * FROM stores ORDER BY name").fetch_all(&self.pool).await.map_err(|e| self.fail("listing stores", &e))?;
        rows.iter().map(StoreRow::read).collect()
    }

    /// The store of this name.
    pub(crate) async fn store(&self, name: &StoreName) -> Result<Option<StoreRow>> {
        let row = sqlx::query("SELECT * FROM stores WHERE name = ?")
            .bind(name.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(|e| self.fail("looking for a store", &e))?;
        row.as_ref().map(StoreRow::read).transpose()
    }

    /// How many volumes, in whatever phase, each store holds; a store with none is not in the map.
    pub(crate) async fn volumes_by_store(&self) -> Result<BTreeMap<String, u64>> {
        let rows = sqlx::query("SELECT store, count(*) AS n FROM volumes GROUP BY store")
            .fetch_all(&self.pool)
            .await
            .map_err(|e| self.fail("counting volumes", &e))?;
        Ok(rows.iter().map(|r| (r.get("store"), r.get::<i64, _>("n").unsigned_abs())).collect())
    }

    /// Makes sure that the default store is there and is reached as it is now: the root may have moved.
    pub(crate) async fn seed_store(&self, row: &StoreRow) -> Result<()> {
        if self.store(&row.name).await?.is_some_and(|there| there.spec == row.spec) {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO stores (name, url, settings, credentials, capabilities, created_at, examined_at)
             VALUES (?, ?, '{}', NULL, NULL, ?, NULL)
             ON CONFLICT (name) DO UPDATE SET url = excluded.url, settings = '{}', credentials = NULL",
        )
        .bind(row.name.as_str())
        .bind(&row.spec.url)
        .bind(to_micros(row.created_at))
        .execute(&self.pool)
        .await
        .map_err(|e| self.fail("adding the default store", &e))?;
        Ok(())
    }

    /// Adds a store; its name must be free.
    pub(crate) async fn insert_store(&self, s: &StoreRow) -> Result<()> {
        self.faults.at("registry.insert_store").await?;
        sqlx::query(
            "INSERT INTO stores (name, url, settings, credentials, capabilities, created_at, examined_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(s.name.as_str())
        .bind(&s.spec.url)
        .bind(s.settings_column())
        .bind(s.credentials_column())
        .bind(s.capabilities_column())
        .bind(to_micros(s.created_at))
        .bind(s.examined_at.map(to_micros))
        .execute(&self.pool)
        .await
        .map_err(|e| self.fail("adding a store", &e))?;
        self.faults.at("registry.insert_store.after").await
    }

    /// Notes what an examination found.
    pub(crate) async fn update_store(&self, s: &StoreRow) -> Result<()> {
        self.faults.at("registry.update_store").await?;
        sqlx::query("UPDATE stores SET capabilities = ?, examined_at = ? WHERE name = ?")
            .bind(s.capabilities_column())
            .bind(s.examined_at.map(to_micros))
            .bind(s.name.as_str())
            .execute(&self.pool)
            .await
            .map_err(|e| self.fail("changing a store", &e))?;
        self.faults.at("registry.update_store.after").await
    }

    /// Notes how a store is reached from now on, and what an examination found there.
    pub(crate) async fn set_store(&self, s: &StoreRow) -> Result<()> {
        self.faults.at("registry.set_store").await?;
        sqlx::query("UPDATE stores SET settings = ?, credentials = ?, capabilities = ?, examined_at = ? WHERE name = ?")
            .bind(s.settings_column())
            .bind(s.credentials_column())
            .bind(s.capabilities_column())
            .bind(s.examined_at.map(to_micros))
            .bind(s.name.as_str())
            .execute(&self.pool)
            .await
            .map_err(|e| self.fail("changing a store", &e))?;
        self.faults.at("registry.set_store.after").await
    }

    /// Forgets a store in which no volume lives. Gives whether it is gone.
    pub(crate) async fn delete_store(&self, name: &StoreName) -> Result<bool> {
        self.faults.at("registry.delete_store").await?;
        let done = sqlx::query("DELETE FROM stores WHERE name = ? AND NOT EXISTS (SELECT 1 FROM volumes WHERE store = stores.name)")
            .bind(name.as_str())
            .execute(&self.pool)
            .await
            .map_err(|e| self.fail("removing a store", &e))?;
        self.faults.at("registry.delete_store.after").await?;
        Ok(done.rows_affected() == 1)
    }
}
