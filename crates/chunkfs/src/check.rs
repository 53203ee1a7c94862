//! Checking a whole volume: every byte of every object and file that it is made of, every name, every count.
//!
//! Others may write meanwhile. Rows and counters are those of one instant; a block that does not read is looked at
//! again in what is true now, and is no finding if nothing refers to it any more.

mod blocks;
mod mend;
mod paths;
pub(crate) mod places;
mod repair;
mod rows;
#[cfg(test)]
mod tests;

use crate::fs::FileSystem;
use crate::host::RealDisk;
use crate::sealing::KeyedDisk;
use crate::types::{BLOCK, FsError, FsResult, Ino};
use crate::view::View;
use object_store::{ObjectStore, ObjectStoreExt};
use orlop_model::{Error, Finding, FindingKind, FindingState, VolumeId};
use orlop_store::VolumeStore;
use parking_lot::Mutex;
use places::Places;
use repair::Fix;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// What a check found, in short: for those who only want to know whether all is well.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// One line per problem, naming the thing.
    pub problems: Vec<String>,
    /// Inodes looked at.
    pub inodes: u64,
    /// Blocks read.
    pub blocks: u64,
}

/// How far the check is, for whoever asks, and that there is one at a time.
#[derive(Debug, Default)]
pub(crate) struct Care {
    progress: Mutex<orlop_model::CheckProgress>,
    turn: tokio::sync::Mutex<()>,
}

impl Care {
    /// Keeps other long looks at the volume away.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    fn begin(&self, step: &str) {
        step.clone_into(&mut self.progress.lock().step);
    }

    fn expect(&self, bytes: u64) {
        self.progress.lock().total += bytes;
    }

    fn done(&self, bytes: u64) {
        let mut p = self.progress.lock();
        p.done += bytes;
        p.total = p.total.max(p.done);
    }
}

/// What is wrong with one object or file.
#[derive(Debug, Default)]
struct Damage {
    what: String,
    /// Which of its blocks; empty if it is not about blocks.
    blocks: BTreeSet<u32>,
    inos: BTreeSet<Ino>,
    /// Its segment, if another copy may be there.
    other_copy: Option<u64>,
    /// Of a pack: the blocks that another one in its place must have.
    named: Vec<blocks::Named>,
    /// Readers have noticed, and use the other copy.
    unused: bool,
    /// How it was set right.
    repaired: Option<String>,
    /// Why it could not be.
    failed: Option<String>,
}

/// A finding on its way into the report.
struct Draft {
    finding: Finding,
    inos: BTreeSet<Ino>,
    fix: Option<Fix>,
}

/// What helps where a part of the volume itself is damaged that is nowhere else.
const READ_OUT: &str = "no other copy is there: restore it from a copy of the store, or read out with orlop export what is left";

/// All that a check gathers.
#[derive(Default)]
struct Gathered {
    report: orlop_model::CheckReport,
    blocks: u64,
    damage: BTreeMap<(FindingKind, String), Damage>,
    drafts: Vec<Draft>,
    packs: blocks::PacksSeen,
    /// Rows that could not be read: what is counted over them says nothing.
    rows_missing: bool,
}

impl Gathered {
    fn damaged(&mut self, kind: FindingKind, at: String, what: impl Into<String>) -> &mut Damage {
        let d = self.damage.entry((kind, at)).or_default();
        if d.what.is_empty() {
            d.what = what.into();
        }
        d
    }

    fn draft(
        &mut self,
        kind: FindingKind,
        at: String,
        what: String,
        inos: impl IntoIterator<Item = Ino>,
        fix: Option<Fix>,
    ) -> &mut Finding {
        let finding = Finding { kind, at, what, paths: Vec::new(), state: FindingState::Left, remedy: None };
        self.drafts.push(Draft { finding, inos: inos.into_iter().collect(), fix });
        &mut self.drafts.last_mut().expect("one was just added").finding
    }

    /// Something that is kept and that nothing reads.
    fn remains(&mut self, at: String, what: &str) {
        let finding = Finding {
            kind: FindingKind::Remains,
            at,
            what: what.to_owned(),
            paths: Vec::new(),
            state: FindingState::Harmless,
            remedy: Some("remove it when you have looked at it".to_owned()),
        };
        self.drafts.push(Draft { finding, inos: BTreeSet::new(), fix: None });
    }

    /// What was found while the store does not answer says nothing of what it holds. The error says why it does not.
    async fn is_no_outage(&self, store: &Arc<dyn ObjectStore>, prefix: &str) -> Result<(), String> {
        if self.damage.is_empty() && self.drafts.is_empty() {
            return Ok(());
        }
        match store.head(&crate::open::header_path(prefix)).await {
            Err(e) if orlop_store::is_unreachable(&e) => Err(orlop_store::error("the store does not answer", &e).message),
            _ => Ok(()),
        }
    }

    /// Damage to places becomes findings, one for each object and file.
    fn settle_damage(&mut self, is_open: bool) {
        for ((kind, at), d) in std::mem::take(&mut self.damage) {
            let mut what = d.what;
            if let (Some(first), n) = (d.blocks.first(), d.blocks.len()) {
                let more = if n > 1 { format!(" and {} more", n - 1) } else { String::new() };
                what = format!("block {first}{more}: {what}");
            }
            let left = |what: &str| (FindingState::Left, Some(what.to_owned()));
            let (state, remedy) = match (d.repaired, d.failed, d.other_copy, kind) {
                (Some(how), ..) => (FindingState::Repaired, Some(how)),
                (_, Some(why), ..) => left(&format!("it could not be mended: {why}")),
                (_, _, Some(_), _) if d.unused => {
                    (FindingState::Harmless, Some("readers noticed and use the store's copy; --repair sets this one aside".to_owned()))
                }
                (_, _, Some(_), _) => left("--repair mends it if the other copy is whole"),
                (_, _, _, FindingKind::Journal) if is_open => left("--repair brings what it says into the namespace"),
                (_, _, _, FindingKind::Journal) => {
                    left("restore it from a copy, or read out with orlop export what stands before the damage")
                }
                (_, _, _, FindingKind::Object) if d.inos.is_empty() => left(READ_OUT),
                _ if d.inos.is_empty() => (FindingState::Left, None),
                _ => left("no other copy is there: restore the files from a copy, or remove them to be rid of the damage"),
            };
            let finding = Finding { kind, at, what, paths: Vec::new(), state, remedy };
            self.drafts.push(Draft { finding, inos: d.inos, fix: None });
        }
    }
}

impl FileSystem {
    /// Checks everything; with `data` every block is read too. In short words.
    pub async fn check(&self, data: bool) -> FsResult<CheckReport> {
        let (report, blocks) = self.look_at_all(data, false).await?;
        let left = report.findings.iter().filter(|f| f.state == FindingState::Left);
        let problems = left.map(|f| {
            if f.paths.is_empty() { format!("{}: {}", f.at, f.what) } else { format!("{}: {} ({})", f.at, f.what, f.paths.join(", ")) }
        });
        Ok(CheckReport { problems: problems.collect(), inodes: report.inodes, blocks })
    }

    /// Checks everything that the volume is made of, on the host and in the store. With `repair` sets right what can
    /// be: counts, and damaged copies of what is whole elsewhere. Deletes nothing.
    pub async fn examine(&self, repair: bool) -> FsResult<orlop_model::CheckReport> {
        Ok(self.look_at_all(true, repair).await?.0)
    }

    /// How far a check is that runs now.
    pub fn check_progress(&self) -> orlop_model::CheckProgress {
        self.care.progress.lock().clone()
    }

    async fn look_at_all(&self, data: bool, repair: bool) -> FsResult<(orlop_model::CheckReport, u64)> {
        let _turn = self.care.turn().await;
        *self.care.progress.lock() = orlop_model::CheckProgress::default();
        let mut journal = Gathered::default();
        if repair {
            Places::of(self, &View::take(self)?).journal(&mut journal).await;
            // Small writes that wait in the journal come to rest, away from blocks that may be damaged.
            if let Err(e) = self.fold().await {
                tracing::warn!(error = %e, "a repair begins on a volume that cannot be folded");
            }
        }
        let view = View::take(self)?;
        let mut g = Gathered::default();
        if data {
            self.care.expect(view.sb.used_blocks * BLOCK);
            Places::of(self, &view).look(&mut g).await;
        }
        self.care.begin("reading files");
        self.look_at_rows(&view, data, &mut g).await;
        if data {
            g.is_no_outage(self.ns.raw(), self.ns.prefix()).await.map_err(FsError::Unavailable)?;
        }
        if repair {
            self.care.begin("repairing");
            self.mend(&mut g).await;
            for (key, mut d) in journal.damage {
                // What the fold made superfluous is gone.
                if key.0 == FindingKind::Journal && !g.damage.contains_key(&key) {
                    d.repaired = Some("what it says is in the namespace now, and the file is gone".to_owned());
                    g.damage.insert(key, d);
                }
            }
        }
        g.settle_damage(true);
        if repair {
            self.repair(&mut g).await?;
        }
        self.name_files(&view, &mut g).await;
        for d in g.drafts {
            g.report.add(d.finding);
        }
        g.report.conclude();
        Ok((g.report, g.blocks))
    }
}

/// Looks at a volume that is not open: each object, journal file and staged file by itself. Changes nothing.
pub async fn examine_closed(
    of: &VolumeStore,
    prefix: &str,
    volume: VolumeId,
    state_dir: &Path,
) -> orlop_model::Result<orlop_model::CheckReport> {
    let mut g = Gathered::default();
    let care = Care::default();
    let VolumeStore { store, keys } = of;
    let disk = KeyedDisk::over(Arc::new(RealDisk), keys.clone());
    Places { store, prefix, volume, disk: &*disk, state_dir, open: None, care: &care }.look(&mut g).await;
    g.is_no_outage(store, prefix).await.map_err(|e| Error::unavailable(e).with_remedy("ask again when the store answers"))?;
    g.settle_damage(false);
    for d in g.drafts {
        g.report.add(d.finding);
    }
    g.report.conclude();
    Ok(g.report)
}
