//! Removing a store: forgotten, never touched, and only when nothing lives there any more.

use crate::apply::Changed;
use crate::inner::Inner;
use crate::registry::Phase;
use orlop_model::{Error, ErrorKind, Outcome, Result, StoreName};

impl Inner {
    pub(crate) async fn remove_store(&self, name: &StoreName) -> Result<Changed> {
        let _guard = self.locks.store(name).await;
        self.find_store(name).await?;
        if *name == StoreName::default_store() {
            return Err(Error::invalid("the default store cannot be removed: volumes that name no store live there")
                .with_remedy("nothing needs to be done; an empty default store takes no space"));
        }
        if let Some(refusal) = self.lived_in(name).await? {
            return Err(refusal);
        }
        if !self.registry.delete_store(name).await? {
            // A volume came in between.
            return Err(self.lived_in(name).await?.unwrap_or_else(|| {
                Error::new(ErrorKind::Busy, format!("store {name} was just used")).with_remedy("look at it, and ask again")
            }));
        }
        Ok((Outcome::Done, None))
    }

    /// Why a store stays, if volumes live there.
    async fn lived_in(&self, name: &StoreName) -> Result<Option<Error>> {
        let all: Vec<_> = self.registry.volumes().await?.into_iter().filter(|v| v.store == *name).collect();
        if all.is_empty() {
            return Ok(None);
        }
        let mut names: Vec<String> = all
            .iter()
            .take(5)
            .map(|v| match v.phase {
                Phase::Removed => format!("{} (removed, can be restored)", v.name),
                Phase::Purging => format!("{} (being deleted)", v.name),
                Phase::Creating | Phase::Active => v.name.to_string(),
            })
            .collect();
        if all.len() > names.len() {
            names.push(format!("{} more", all.len() - names.len()));
        }
        let remedy = match all.iter().find(|v| v.phase == Phase::Removed) {
            Some(v) if all.iter().all(|v| v.phase == Phase::Removed) => {
                format!("wait until their time is over, or delete them for good: orlop volume remove --now {}", v.id)
            }
            _ => "remove its volumes first; orlop volume list --all shows them".to_owned(),
        };
        Ok(Some(Error::new(ErrorKind::Busy, format!("volumes live in store {name}: {}", names.join(", "))).with_remedy(remedy)))
    }
}
