//! Collection of what nothing refers to: objects and files that a crash, an interrupted upload or another writer left.
//!
//! Two phases. A run marks what it finds, by name, in a list beside the journal; a later run deletes what is marked and
//! still referred to by nothing. Only the volume's one writer collects, and names are never used twice, so what no row
//! of his names can come to be named by nobody. Before he deletes he makes sure that he still is the writer, after he
//! listed: what was there then is not of a later one. What is not known is kept.

use crate::check::places::{Kind, Places, kind_of, not_listed};
use crate::fs::FileSystem;
use crate::host::replace;
use crate::segment::parse_name;
use crate::state::host_error;
use crate::types::{FsError, FsResult};
use crate::view::View;
use object_store::ObjectStoreExt;
use orlop_model::{GcReport, Stray};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;

/// The list of what was found by an earlier run.
const MARKS: &str = "gc.json";

#[derive(Debug, Default, Serialize, Deserialize)]
struct Marks {
    marked: BTreeSet<String>,
}

/// Something that nothing refers to, and how it is deleted.
struct Found {
    stray: Stray,
    host: Option<std::path::PathBuf>,
}

impl FileSystem {
    /// Marks what nothing refers to, and deletes what an earlier run marked. In a rehearsal only tells.
    pub async fn collect(&self, dry_run: bool) -> FsResult<GcReport> {
        let _turn = self.care.turn().await;
        let mut report = GcReport { dry_run, ..GcReport::default() };
        // Listed first: what appears later is not looked at, and the rows of what is listed are there by then.
        let found = self.strays(&mut report).await?;
        let before = self.read_marks()?;
        let (old, new): (Vec<Found>, Vec<Found>) = found.into_iter().partition(|f| before.marked.contains(&f.stray.at));
        if dry_run {
            report.deleted_bytes = old.iter().map(|f| f.stray.bytes).sum();
            report.deleted = old.into_iter().map(|f| f.stray).collect();
            report.marked = new.into_iter().map(|f| f.stray).collect();
            return Ok(report);
        }
        if !old.is_empty() {
            self.still_the_writer().await?;
        }
        let mut marks = Marks::default();
        for f in old {
            match self.delete(&f).await {
                Ok(()) => {
                    tracing::info!(at = %f.stray.at, bytes = f.stray.bytes, "collected: nothing refers to it");
                    report.deleted_bytes += f.stray.bytes;
                    report.deleted.push(f.stray);
                }
                Err(e) => {
                    tracing::warn!(at = %f.stray.at, error = %e, "what nothing refers to could not be deleted");
                    marks.marked.insert(f.stray.at.clone());
                    report.marked.push(f.stray);
                }
            }
        }
        for f in new {
            marks.marked.insert(f.stray.at.clone());
            report.marked.push(f.stray);
        }
        self.write_marks(&marks)?;
        Ok(report)
    }

    async fn strays(&self, report: &mut GcReport) -> FsResult<Vec<Found>> {
        let view = View::take(self)?;
        let listed = Places::of(self, &view).list().await.map_err(|e| not_listed(&e))?;
        // A fold takes rows away before that is durable, and until then a recovery may need what they named. Between
        // folds every segment that a recovery can ask for has its row in memory, or had it in what was replayed.
        let _no_fold = self.fold_turn.lock().await;
        let staged_dir = self.state_dir.join("staged");
        let names = self.disk.list(&staged_dir).map_err(|e| host_error("reading staged files", &e))?;
        report.looked_at = (names.len() + listed.len()) as u64;
        // Now, after the listings: whatever they show has its row by now or never.
        let (segments, log_start) = {
            let st = self.lock();
            if st.folding.is_some() {
                return Err(FsError::Io("a fold is unfinished; collect when the store takes it".to_owned()));
            }
            let ids = st.segments.values().map(|s| s.id).chain(st.dead.iter().map(|d| d.id));
            (ids.collect::<BTreeSet<[u8; 16]>>(), self.log_start())
        };
        let mut found = Vec::new();
        for name in names {
            if let Some((_, id)) = parse_name(&name)
                && !segments.contains(&id)
            {
                let path = staged_dir.join(&name);
                let bytes = self.disk.open(&path).and_then(|f| f.size()).unwrap_or(0);
                let stray = Stray { at: path.display().to_string(), bytes, why: "no row names this staged file".to_owned() };
                found.push(Found { stray, host: Some(path) });
            }
        }
        for (below, meta) in listed {
            let at = meta.location.to_string();
            let stray = |why: &str| Stray { at: at.clone(), bytes: meta.size, why: why.to_owned() };
            match kind_of(&below) {
                Kind::Pack => match below.rsplit('/').next().and_then(pack_id) {
                    Some(id) if segments.contains(&id) => {}
                    Some(_) => found.push(Found { stray: stray("no row names this pack"), host: None }),
                    None => report.unknown.push(stray("its name is not a pack's")),
                },
                Kind::Log(place) if log_start.is_some_and(|start| place.n < start) => {
                    found.push(Found { stray: stray("the namespace holds all that this log object says"), host: None });
                }
                Kind::Aside => report.unknown.push(stray("a repair moved it aside, damaged")),
                Kind::Unknown => report.unknown.push(stray("it is not known what it is")),
                // The namespace's own collector looks after its objects.
                Kind::Header | Kind::Keys | Kind::Owner | Kind::Name | Kind::Namespace | Kind::Log(_) => {}
            }
        }
        Ok(found)
    }

    /// The number of the first log object that recovery needs, on a volume that has a log in the store.
    fn log_start(&self) -> Option<u64> {
        self.shipping.as_ref().map(|s| s.first_unfolded().n)
    }

    /// Fails unless this process still is the volume's writer.
    async fn still_the_writer(&self) -> FsResult<()> {
        self.lock().writable()?;
        match &self.shipping {
            Some(shipping) => shipping.lease.renew(None).await,
            // The host's lock keeps every other process out.
            None => Ok(()),
        }
    }

    async fn delete(&self, f: &Found) -> FsResult<()> {
        match &f.host {
            Some(path) => match self.disk.remove(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(host_error("removing a file", &e)),
                _ => Ok(()),
            },
            None => match self.ns.raw().delete(&f.stray.at.as_str().into()).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(e) => Err(FsError::Io(e.to_string())),
            },
        }
    }

    /// A list that cannot be read marks nothing: everything waits one run longer.
    fn read_marks(&self) -> FsResult<Marks> {
        let path = self.state_dir.join(MARKS);
        let read = self.disk.open(&path).and_then(|f| {
            let mut bytes = vec![0; usize::try_from(f.size()?).map_err(io::Error::other)?];
            let got = f.read_at(&mut bytes, 0)?;
            bytes.truncate(got);
            Ok(bytes)
        });
        match read {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Marks::default()),
            Err(e) => Err(host_error("reading the list of what was found", &e)),
        }
    }

    fn write_marks(&self, marks: &Marks) -> FsResult<()> {
        let failed = |e: io::Error| host_error("writing the list of what was found", &e);
        let path = self.state_dir.join(MARKS);
        if marks.marked.is_empty() {
            return match self.disk.remove(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(e)),
                _ => Ok(()),
            };
        }
        let bytes = serde_json::to_vec(marks).expect("names are JSON");
        replace(&*self.disk, &self.state_dir, MARKS, &bytes).map_err(failed)
    }
}

/// The random id that a pack's name says.
fn pack_id(name: &str) -> Option<[u8; 16]> {
    u128::from_str_radix(name, 16).ok().filter(|_| name.len() == 32).map(u128::to_be_bytes)
}
