//! Adding a store: examined first, so that one that cannot be reached is never in the registry.

use super::folder::{allowed_folder, folder_of, really, refuse_own_folders};
use crate::apply::Changed;
use crate::inner::Inner;
use crate::registry::StoreRow;
use orlop_model::{Error, ErrorKind, Outcome, Result, StoreName, StoreSpec};
use std::path::PathBuf;

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
        self.refuse_anothers_folder(&name, &spec).await?;
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

    /// A store on the S3 of another that has it as well: each volume would live in two. Buckets of one name are compared by an object that is
    /// put there. One that does not answer is not known to be the same, and keeps no other from being added.
    async fn at_same_place(&self, spec: &StoreSpec) -> Result<Option<StoreName>> {
        if folder(spec).is_some() {
            return Ok(None);
        }
        let others: Vec<StoreRow> = self.registry.stores().await?.into_iter().filter(|other| other.spec.url == spec.url).collect();
        let same = others.iter().map(async |other| self.port_same_place(&other.spec, spec).await.is_ok_and(|same| same == Some(true)));
        let same = futures::future::join_all(same).await;
        Ok(others.into_iter().zip(same).find_map(|(other, same)| same.then_some(other.name)))
    }

    /// Refuses a folder that is another store's, and one that lies in it or has it inside: what one of them takes for its volumes would be
    /// the other's objects. Folders of plain volumes may lie in one another. They are compared where they really are.
    async fn refuse_anothers_folder(&self, name: &StoreName, spec: &StoreSpec) -> Result<()> {
        let Some(here) = folder(spec) else { return Ok(()) };
        for other in self.registry.stores().await? {
            let Some(there) = folder(&other.spec) else { continue };
            let nested = here.starts_with(&there) || there.starts_with(&here);
            if here != there && (!nested || spec.is_plain() && other.spec.is_plain()) {
                continue;
            }
            let (how, remedy) = match here == there {
                true => ("is at the same place", format!("use that one, or change how it is reached: orlop store set {}", other.name)),
                false => ("is in a folder above or below", "choose a folder elsewhere".to_owned()),
            };
            return Err(
                Error::new(ErrorKind::AlreadyExists, format!("store {name} is not added: store {} {how}", other.name)).with_remedy(remedy)
            );
        }
        Ok(())
    }
}

/// Where the folder of a store on this host really is.
fn folder(spec: &StoreSpec) -> Option<PathBuf> {
    let folder = if spec.is_plain() { folder_of(spec).ok() } else { orlop_store::folder_of(spec) };
    folder.map(|folder| really(&folder))
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
