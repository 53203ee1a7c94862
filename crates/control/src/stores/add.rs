//! Adding a store: examined first, so that one that cannot be reached is never in the registry.

use super::folder::{allowed_folder, folder_of, really, refuse_own_folders};
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
        let made = spec.clone();
        let made = tokio::task::spawn_blocking(move || orlop_store::make_folder(&made)).await;
        made.map_err(|e| Error::new(ErrorKind::Internal, format!("making a store's folder: {e}")))?.map_err(|e| not_added(&name, e))?;
        let found = self.port_examine(&spec).await.map_err(|e| not_added(&name, e))?;
        if let Some(there) = self.at_same_place(&spec).await? {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("store {name} is not added: store {there} is at the same place"))
                .with_remedy(format!("use that one, or change how it is reached: orlop store set {there}")));
        }
        let now = self.now();
        let row = StoreRow { name, spec, capabilities: found.capabilities, created_at: now, examined_at: Some(now) };
        self.registry.insert_store(&row).await?;
        Ok((Outcome::Store(Box::new(row.shown(0))), None))
    }

    /// A store that is at the same place: each volume would live in two. Folders are compared where they really are, buckets
    /// of one name by an object that is put there. One that does not answer is not known to be the same, and keeps no other from being added.
    async fn at_same_place(&self, spec: &StoreSpec) -> Result<Option<StoreName>> {
        let others: Vec<StoreRow> = self.registry.stores().await?.into_iter().filter(|other| scheme(&other.spec) == scheme(spec)).collect();
        let same = futures::future::join_all(others.iter().map(async |other| {
            if spec.is_plain() {
                return matches!((folder_of(spec), folder_of(&other.spec)), (Ok(a), Ok(b)) if really(&a) == really(&b));
            }
            if let (Some(a), Some(b)) = (orlop_store::folder_of(spec), orlop_store::folder_of(&other.spec)) {
                return really(&a) == really(&b);
            }
            other.spec.url == spec.url && self.port_same_place(&other.spec, spec).await.is_ok_and(|same| same == Some(true))
        }))
        .await;
        Ok(others.into_iter().zip(same).find_map(|(other, same)| same.then_some(other.name)))
    }
}

fn scheme(spec: &StoreSpec) -> &str {
    spec.url.split(':').next().unwrap_or_default()
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
