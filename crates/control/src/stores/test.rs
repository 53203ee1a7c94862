//! Examining a store again: what it can do may change with the server behind it.

use crate::apply::Changed;
use crate::inner::Inner;
use crate::registry::StoreRow;
use orlop_model::{Outcome, Result, StoreName, StoreTest};
use std::time::Duration;

/// How long somebody who only looks at a store waits for its first examination.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);

impl Inner {
    pub(crate) async fn test_store(&self, name: &StoreName) -> Result<Changed> {
        let _guard = self.locks.store(name).await;
        let mut row = self.find_store(name).await?;
        let found = self.port_examine(&row.spec).await.map_err(|e| {
            let remedy = e
                .remedy
                .clone()
                .unwrap_or_else(|| "the store, the network or the credentials: orlop store inspect shows the settings".into());
            e.during(format_args!("store {name}")).with_remedy(remedy)
        })?;
        row.capabilities = found.capabilities;
        row.examined_at = Some(self.now());
        self.registry.update_store(&row).await?;
        let test = StoreTest { store: self.shown_store(&row).await?, put_micros: found.put_micros, get_micros: found.get_micros };
        Ok((Outcome::Tested(Box::new(test)), None))
    }

    /// A store that nobody examined yet, which is only ever the default one, is examined when somebody looks at it.
    /// If that does not work the look still does.
    pub(crate) async fn examined(&self, mut row: StoreRow) -> StoreRow {
        if row.examined_at.is_some() || row.spec.is_plain() {
            return row;
        }
        match tokio::time::timeout(LOOK_DEADLINE, self.port_examine(&row.spec)).await {
            Ok(Ok(found)) => {
                row.capabilities = found.capabilities;
                row.examined_at = Some(self.now());
                if let Err(e) = self.registry.update_store(&row).await {
                    tracing::warn!(store = %row.name, "what was found is not kept: {e}");
                }
            }
            Ok(Err(e)) => tracing::warn!(store = %row.name, "cannot be examined: {e}"),
            Err(_) => tracing::warn!(store = %row.name, "cannot be examined in time"),
        }
        row
    }
}
