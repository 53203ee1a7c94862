//! Adding a store: examined first, so that one that cannot be reached is never in the registry.

use super::folder::{allowed_folder, refuse_own_folders};
use crate::apply::Changed;
use crate::inner::Inner;
use crate::registry::StoreRow;
use orlop_model::{Error, ErrorKind, Outcome, Result, StoreName, StoreSpec};

impl Inner {
    pub(crate) async fn add_store(&self, name: StoreName, mut spec: StoreSpec) -> Result<Changed> {
        spec.check()?;
        // One spelling, so that the same store is known again.
        while spec.url.ends_with('/') && !spec.url.ends_with("//") {
            spec.url.pop();
        }
        let _guard = self.locks.store(&name).await;
        if let Some(there) = self.registry.store(&name).await? {
            if there.spec == spec {
                return Ok((Outcome::Store(Box::new(self.shown_store(&there).await?)), None));
            }
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("a store named {name} exists, at {}, with {}", there.spec.url, differing(&there.spec, &spec)),
            )
            .with_remedy(match name == StoreName::default_store() {
                true => "choose another name".to_owned(),
                false => format!("choose another name, or remove it first: orlop store remove {name}"),
            }));
        }
        refuse_own_folders(&spec, &self.config.root)?;
        if spec.is_plain() {
            if !spec.settings.is_empty() || spec.credentials.is_some() {
                return Err(Error::invalid(format!("store {name}: a folder takes neither settings nor credentials"))
                    .with_remedy("leave out --set and --credentials"));
            }
            allowed_folder(&spec, &self.config.root)?;
        }
        let found = self.port_examine(&spec).await.map_err(|e| not_added(&name, e))?;
        let now = self.now();
        let row = StoreRow { name, spec, capabilities: found.capabilities, created_at: now, examined_at: Some(now) };
        self.registry.insert_store(&row).await?;
        Ok((Outcome::Store(Box::new(row.shown(0))), None))
    }
}

fn not_added(name: &StoreName, e: Error) -> Error {
    let remedy = e.remedy.clone().unwrap_or_else(|| {
        "check the URL, the settings (--set endpoint=..., region=...) and that the credentials are those of this store".to_owned()
    });
    e.during(format_args!("store {name} is not added")).with_remedy(remedy)
}

/// In what two specifications differ, by name only.
fn differing(a: &StoreSpec, b: &StoreSpec) -> String {
    let mut what = Vec::new();
    if a.url != b.url {
        what.push("another URL");
    }
    if a.settings != b.settings {
        what.push("other settings");
    }
    if a.credentials != b.credentials {
        what.push("another credentials reference");
    }
    what.join(" and ")
}
