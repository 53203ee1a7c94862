//! Finding and showing stores.

use crate::inner::Inner;
use crate::registry::StoreRow;
use orlop_model::{Error, Result, Store, StoreName};

impl Inner {
    /// A store by its name; the error tells which there are.
    pub(crate) async fn find_store(&self, name: &StoreName) -> Result<StoreRow> {
        match self.registry.store(name).await? {
            Some(row) => Ok(row),
            None => Err(Error::not_found(format!("no store is named {name}")).with_remedy(self.known_stores().await?)),
        }
    }

    /// The names of the stores, as a remedy.
    pub(crate) async fn known_stores(&self) -> Result<String> {
        let known: Vec<String> = self.registry.stores().await?.into_iter().map(|s| s.name.to_string()).collect();
        Ok(format!("known stores: {}; orlop store add adds one", known.join(", ")))
    }

    pub(crate) async fn shown_store(&self, row: &StoreRow) -> Result<Store> {
        let counts = self.registry.volumes_by_store().await?;
        Ok(row.shown(counts.get(row.name.as_str()).copied().unwrap_or(0)))
    }

    /// All stores, by name, from the registry alone.
    pub(crate) async fn list_stores(&self) -> Result<Vec<Store>> {
        let counts = self.registry.volumes_by_store().await?;
        let rows = self.registry.stores().await?;
        Ok(rows.iter().map(|row| row.shown(counts.get(row.name.as_str()).copied().unwrap_or(0))).collect())
    }

    /// One store with what it can do.
    pub(crate) async fn one_store(&self, name: &StoreName) -> Result<Store> {
        let row = self.examined(self.find_store(name).await?).await;
        self.shown_store(&row).await
    }
}
