//! Looking at what a volume is made of, thing by thing: each object below its prefix, each journal file, the head of
//! each staged file. Works on a volume that is open, and on one that cannot be opened.
//!
//! What is gone when it is about to be read went by right: folds and collections remove files while a check runs.

use super::{Care, Gathered};
use crate::blocking::blocking;
use crate::fs::FileSystem;
use crate::host::HostDisk;
use crate::journal::inspect;
use crate::log::Place;
use crate::segment::{inspect_header, parse_name};
use crate::types::{BLOCK, FsError};
use crate::view::View;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as StorePath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use orlop_model::{FindingKind, VolumeId};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Where the things are, and what is known of them if the volume is open.
pub(crate) struct Places<'a> {
    pub(crate) store: &'a Arc<dyn ObjectStore>,
    pub(crate) prefix: &'a str,
    pub(crate) volume: VolumeId,
    pub(crate) disk: &'a dyn HostDisk,
    pub(crate) state_dir: &'a Path,
    pub(crate) open: Option<(&'a FileSystem, &'a View)>,
    pub(super) care: &'a Care,
}

/// What an object's place below the prefix says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Header,
    Keys,
    Owner,
    Name,
    Namespace,
    Pack,
    Log(Place),
    /// Damaged and moved aside by a repair.
    Aside,
    Unknown,
}

/// What the object at a path below the prefix is.
pub(crate) fn kind_of(below: &str) -> Kind {
    match below.split_once('/') {
        _ if below.ends_with(super::mend::ASIDE) => Kind::Aside,
        None if below == "volume.json" => Kind::Header,
        None if below == "keys.json" => Kind::Keys,
        None if below == "owner.json" => Kind::Owner,
        None if below == "name.json" => Kind::Name,
        Some(("meta", _)) => Kind::Namespace,
        Some(("packs", _)) => Kind::Pack,
        Some(("log", name)) => Place::parse(name).map_or(Kind::Unknown, Kind::Log),
        _ => Kind::Unknown,
    }
}

impl<'a> Places<'a> {
    /// Those of an open volume.
    pub(crate) fn of(fs: &'a FileSystem, view: &'a View) -> Places<'a> {
        Places {
            store: fs.ns.raw(),
            prefix: fs.ns.prefix(),
            volume: fs.volume,
            disk: &*fs.disk,
            state_dir: &fs.state_dir,
            open: Some((fs, view)),
            care: &fs.care,
        }
    }

    pub(super) async fn look(&self, g: &mut Gathered) {
        self.care.begin("reading objects");
        self.objects(g).await;
        self.care.begin("reading the host's files");
        self.journal(g).await;
        self.staged(g).await;
    }

    /// Every object below the prefix.
    pub(crate) async fn list(&self) -> Result<Vec<(String, ObjectMeta)>, object_store::Error> {
        let prefix = StorePath::from(self.prefix);
        let skip = self.prefix.len() + 1;
        self.store
            .list(Some(&prefix))
            .map_ok(|meta| (meta.location.as_ref().get(skip..).unwrap_or_default().to_owned(), meta))
            .try_collect()
            .await
    }

    async fn objects(&self, g: &mut Gathered) {
        let listed = match self.list().await {
            Ok(listed) => listed,
            Err(e) => {
                g.draft(FindingKind::Object, self.prefix.to_owned(), format!("the store cannot be listed: {e}"), [], None);
                return;
            }
        };
        if !listed.iter().any(|(below, _)| kind_of(below) == Kind::Header) {
            g.damaged(FindingKind::Object, format!("{}/volume.json", self.prefix), "it is missing");
        }
        let mut logs = self.missing(&listed, g).await;
        self.care.expect(listed.iter().map(|(_, m)| m.size).sum());
        for (below, meta) in listed {
            let at = meta.location.to_string();
            if kind_of(&below) == Kind::Aside {
                g.remains(at, "a repair moved it aside, damaged");
                continue;
            }
            let what = match kind_of(&below) {
                Kind::Log(place) => match logs.remove(&place) {
                    Some(known) => known,
                    None => self.object(Kind::Log(place), &meta).await,
                },
                kind => self.object(kind, &meta).await,
            };
            if kind_of(&below) != Kind::Pack || !self.is_named(&meta.location) {
                g.report.objects += 1;
                g.report.bytes += meta.size;
                self.care.done(meta.size);
            }
            match what {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => {
                    g.damaged(FindingKind::Object, at, words(&e));
                }
            }
        }
    }

    /// What should be among the objects and is not. Packs and the namespace's objects are missed by who is sent to them.
    /// What was read for that, and how it was, is returned.
    async fn missing(&self, listed: &[(String, ObjectMeta)], g: &mut Gathered) -> HashMap<Place, Result<(), object_store::Error>> {
        let kinds: Vec<Kind> = listed.iter().map(|(below, _)| kind_of(below)).collect();
        if !kinds.contains(&Kind::Owner) && kinds.iter().any(|k| matches!(k, Kind::Log(_) | Kind::Pack)) {
            g.damaged(FindingKind::Object, crate::log::lease::path(self.prefix).to_string(), "it is missing");
        }
        // An open volume read its log from where it begins; here that is not known, and what was folded went in no order.
        let mut looked = HashMap::new();
        if self.open.is_some() {
            return looked;
        }
        let mut arrived = match crate::log::lease::look(&**self.store, &crate::log::lease::path(self.prefix)).await {
            Ok(crate::log::lease::Look::Record(owner, _)) => owner.arrived(),
            _ => 0,
        };
        let mut expected: Option<Place> = None;
        let mut gone = Vec::new();
        let mut places: Vec<Place> = kinds.iter().filter_map(|k| if let Kind::Log(place) = k { Some(*place) } else { None }).collect();
        places.sort_unstable_by_key(|p| (p.n, p.epoch));
        for place in places {
            let object = match (async { self.store.get(&place.path(self.prefix)).await?.bytes().await }).await {
                Ok(bytes) => crate::log::object::decode(&bytes, *self.volume.as_bytes(), place).map_err(|e| wrong(e.to_string())),
                Err(e) => {
                    looked.insert(place, Err(e));
                    continue;
                }
            };
            let object = match object {
                Ok(object) => object,
                Err(e) => {
                    looked.insert(place, Err(e));
                    expected = Some(place.next());
                    continue;
                }
            };
            looked.insert(place, Ok(()));
            let mut at = expected.unwrap_or(place);
            while at.n < place.n {
                gone.push(at);
                at = at.next();
            }
            match object.body {
                crate::log::object::Body::Fence { next_epoch } => expected = Some(Place { epoch: next_epoch, n: place.n + 1 }),
                crate::log::object::Body::Records { arrived: a, .. } => {
                    arrived = arrived.max(a);
                    expected = Some(place.next());
                }
            }
        }
        if let Some(mut at) = expected {
            while at.n < arrived {
                gone.push(at);
                at = at.next();
            }
        }
        for at in gone.into_iter().filter(|at| at.n < arrived) {
            g.damaged(FindingKind::Object, at.path(self.prefix).to_string(), "it is missing, and had arrived");
        }
        looked
    }

    fn is_named(&self, at: &StorePath) -> bool {
        let Some((_, view)) = self.open else { return false };
        let id = at.filename().and_then(|n| u128::from_str_radix(n, 16).ok());
        view.segments.values().any(|s| s.pack.is_some() && id == Some(u128::from_be_bytes(s.id)))
    }

    /// Reads an object whole and says what is wrong with it.
    async fn object(&self, kind: Kind, meta: &ObjectMeta) -> Result<(), object_store::Error> {
        let at = &meta.location;
        match kind {
            Kind::Namespace => {
                let store = crate::namespace::guarded(self.store.clone(), self.prefix);
                let mut stream = store.get(at).await?.into_stream();
                while stream.next().await.transpose()?.is_some() {}
                Ok(())
            }
            Kind::Header => {
                let bytes = self.store.get(at).await?.bytes().await?;
                crate::open::inspect_header(&bytes, self.volume).map_err(|e| wrong(e.message))
            }
            Kind::Log(place) => {
                let bytes = self.store.get(at).await?.bytes().await?;
                let volume = *self.volume.as_bytes();
                crate::log::object::decode(&bytes, volume, place).map(drop).map_err(|e| wrong(e.to_string()))
            }
            Kind::Owner => match crate::log::lease::look(&**self.store, at).await? {
                crate::log::lease::Look::Damaged(why) => Err(wrong(why)),
                _ => Ok(()),
            },
            Kind::Name => {
                let bytes = self.store.get(at).await?.bytes().await?;
                crate::name::inspect(&bytes, self.volume).map_err(wrong)
            }
            Kind::Keys => {
                let bytes = self.store.get(at).await?.bytes().await?;
                serde_json::from_slice::<serde_json::Value>(&bytes).map(drop).map_err(|e| wrong(format!("it is not JSON: {e}")))
            }
            Kind::Aside => Ok(()),
            // One that a row names is read with the rows.
            Kind::Pack if self.is_named(at) => Ok(()),
            Kind::Pack => {
                let bytes = self.store.get(at).await?.bytes().await?;
                let whole = blocking(move || crate::pack::verify_whole(&bytes)).await.map_err(|e| wrong(e.to_string()))?;
                let named = at.filename().and_then(|n| u128::from_str_radix(n, 16).ok());
                if whole.of.volume != *self.volume.as_bytes() || named != Some(u128::from_be_bytes(whole.of.id)) {
                    return Err(wrong("it is the pack of another segment"));
                }
                Ok(())
            }
            Kind::Unknown => {
                let mut stream = self.store.get(at).await?.into_stream();
                while stream.next().await.transpose()?.is_some() {}
                Ok(())
            }
        }
    }

    pub(super) async fn journal(&self, g: &mut Gathered) {
        let dir = self.state_dir.join("journal");
        let mut names = match self.disk.list(&dir) {
            Ok(names) => names,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(e) => {
                g.draft(FindingKind::Journal, dir.display().to_string(), format!("it cannot be read: {e}"), [], None);
                return;
            }
        };
        names.sort();
        let live = self.open.map(|(_, view)| view.journal);
        for name in names {
            let path = dir.join(&name);
            let at = path.display().to_string();
            let Some(first) = name.strip_suffix(".journal").and_then(|n| u64::from_str_radix(n, 16).ok()) else {
                let what = if name.ends_with(".cut") || name.ends_with(".tail") {
                    "what a recovery cut off the log, and nothing reads it: not acknowledged as durable if the host had lost power, and damage if it had not"
                } else if name.contains(".journal.superseded-") {
                    "another host took the volume while this one had not sent everything: what it had acknowledged and not sent is here alone, and nothing reads it"
                } else {
                    "it is not a file of the journal, and nothing reads it"
                };
                g.remains(at, what);
                continue;
            };
            // Files made after the view are somebody else's present.
            if live.is_some_and(|(newest, _, _)| first > newest) {
                continue;
            }
            let end = live.filter(|(newest, _, _)| *newest == first).map(|(_, end, _)| end);
            let bytes = match self.disk.open(&path).and_then(|f| read_whole(&*f, end)) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => {
                    g.damaged(FindingKind::Journal, at, format!("it cannot be read: {e}"));
                    continue;
                }
            };
            g.report.host_files += 1;
            g.report.bytes += bytes.len() as u64;
            let volume = *self.volume.as_bytes();
            let keys = self.disk.keys().cloned();
            let (last, wrong) = blocking(move || inspect(&bytes, volume, first, keys.as_ref())).await;
            let lost = live.filter(|(newest, _, seq)| *newest == first && last.is_none_or(|l| l < *seq));
            match (wrong, lost) {
                (Some(why), _) => {
                    g.damaged(FindingKind::Journal, at, why);
                }
                (None, Some((_, _, seq))) => {
                    g.damaged(FindingKind::Journal, at, format!("it ends before record {seq}"));
                }
                (None, None) => {}
            }
        }
    }

    /// The heads of staged files; their blocks are read through the rows that name them.
    async fn staged(&self, g: &mut Gathered) {
        let dir = self.state_dir.join("staged");
        let names = match self.disk.list(&dir) {
            Ok(names) => names,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(e) => {
                g.draft(FindingKind::Staged, dir.display().to_string(), format!("it cannot be read: {e}"), [], None);
                return;
            }
        };
        for name in names {
            let path = dir.join(&name);
            let at = path.display().to_string();
            let Some((number, id)) = parse_name(&name) else {
                let aside = name.ends_with(super::mend::ASIDE);
                let what = if aside { "a repair moved it aside, damaged" } else { "it is not a staged file, and nothing reads it" };
                g.remains(at, what);
                continue;
            };
            let mut head = vec![0; BLOCK as usize];
            let got = match self.disk.open(&path).and_then(|f| f.read_at(&mut head, 0)) {
                Ok(got) => got,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => {
                    g.damaged(FindingKind::Staged, at, format!("it cannot be read: {e}"));
                    continue;
                }
            };
            g.report.host_files += 1;
            if let Some(why) = inspect_header(&head[..got], *self.volume.as_bytes(), number, id) {
                let packed =
                    self.open.is_some_and(|(fs, _)| fs.lock().segments.get(&number).is_some_and(|s| s.id == id && s.pack.is_some()));
                g.damaged(FindingKind::Staged, at, why).other_copy = packed.then_some(number);
            }
        }
    }
}

/// The error of who needs to know all objects.
pub(crate) fn not_listed(e: &object_store::Error) -> FsError {
    let text = orlop_store::error("listing the store", e).message;
    if orlop_store::is_unreachable(e) { FsError::Unavailable(text) } else { FsError::Io(text) }
}

fn read_whole(file: &dyn crate::host::HostFile, end: Option<u64>) -> io::Result<Vec<u8>> {
    let size = end.map_or_else(|| file.size(), Ok)?;
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    let got = file.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    Ok(bytes)
}

fn wrong(what: impl Into<String>) -> object_store::Error {
    object_store::Error::Generic { store: "orlop", source: what.into().into() }
}

/// What an error says, without the words that every one of them begins with.
fn words(e: &object_store::Error) -> String {
    match e {
        object_store::Error::Generic { source, .. } => source.to_string(),
        e => e.to_string(),
    }
}
