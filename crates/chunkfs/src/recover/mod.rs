//! Recovery, first half: what the namespace, the store's log and the host's journal hold, and which of it counts.
//!
//! Records above the namespace's number apply in order. Records that no marker covers and that a power failure may have
//! torn are checked, with the data they name, and the log is cut before the first that fails: nothing after it was ever
//! acknowledged as durable. A break below a marker is damage: refused, unless the volume is only read out.

mod replay;

use crate::host::{HostDisk, HostFile};
use crate::journal::{Found, FoundFile, Scan, ScanError, scan};
use crate::key::Key;
use crate::log::Place;
use crate::log::chain::{self};
use crate::log::lease::Lease;
use crate::log::ship::LogEnd;
use crate::namespace::Namespace;
use crate::open::{OpenConfig, model_error};
use crate::row::{Row, Segment, Super};
use crate::state::State;
use crate::types::{FsError, FsResult, ROOT_INO};
use orlop_model::{Error, ErrorKind, Result};
use replay::{Log, Shell, keep_tail};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) struct Recovery;

/// What helps against damage to a log or to the namespace.
const REMEDY: &str = "restore it from a copy, or read out with orlop export what stands before the damage; nothing was changed";

/// Why a volume cannot be recovered.
pub(crate) fn refused(what: &str, e: FsError) -> Error {
    let is_damage = matches!(e, FsError::Corrupt(_));
    let error = model_error(what, e);
    if is_damage { error.with_remedy(REMEDY) } else { error }
}

pub(crate) type Failed = (Namespace, Error);

impl Recovery {
    pub(crate) async fn run(
        config: &OpenConfig,
        ns: Namespace,
        lease: Option<&Lease>,
        journal_dir: PathBuf,
        segment_dir: PathBuf,
    ) -> Result<(Namespace, State, Option<LogEnd>), Failed> {
        match Self::try_run(config, &ns, lease, journal_dir, segment_dir).await {
            Ok((state, log)) => Ok((ns, state, log)),
            Err(e) => Err((ns, e)),
        }
    }

    async fn try_run(
        config: &OpenConfig,
        ns: &Namespace,
        lease: Option<&Lease>,
        journal_dir: PathBuf,
        segment_dir: PathBuf,
    ) -> Result<(State, Option<LogEnd>)> {
        let read = |e| refused("reading the namespace", e);
        // Side by side: on a far store each is a round trip or several.
        let list = async {
            match lease {
                Some(_) => chain::list(&config.store, &config.prefix).await,
                None => Ok(Vec::new()),
            }
        };
        let (applied, sb, log_start, segments, listed) =
            tokio::join!(ns.get(Key::Applied), ns.get(Key::Super), ns.get(Key::LogStart), segments(ns), list);
        let applied = match applied.map_err(read)? {
            Some(Row::Applied(seq)) => seq,
            _ => 0,
        };
        let sb = match sb.map_err(read)? {
            Some(Row::Super(s)) => s,
            _ => Super { next_ino: ROOT_INO, next_segment: 1, used_blocks: 0, inodes: 0 },
        };
        let from = match log_start.map_err(read)? {
            Some(Row::LogStart(place)) => place,
            _ => Place::FIRST,
        };
        let segments = segments.map_err(read)?;
        let volume = *config.volume.as_bytes();
        // The database is open, so no older writer folds any more: what is read here stays the truth.
        let chain = match lease {
            None => None,
            Some(lease) => {
                let failed = |e| refused("reading the log on the store", e);
                let listed = listed.map_err(failed)?;
                let log = chain::Log { store: &config.store, prefix: &config.prefix, volume, salvage: config.salvage };
                let read = log.read(&listed, from, lease.arrived()).await.map_err(failed)?;
                // Before anything is written: a fence of an epoch that is not above the log's would make it unreadable.
                if read.1.epoch > lease.epoch() || (read.1.epoch == lease.epoch() && read.1 != Place::FIRST) {
                    lease.outrank(read.1.epoch, config.remote.as_ref().is_some_and(|r| r.abandon_unsynced)).await?;
                }
                Some(chain::take_over(&config.store, &config.prefix, volume, read, lease.epoch()).await.map_err(failed)?)
            }
        };
        let sent = chain.as_ref().and_then(|(c, _)| c.records.last()).map_or(applied, |(seq, _)| (*seq).max(applied));
        let found = scan(&*config.host, &journal_dir, volume, config.salvage).map_err(|e| scan_error(&e))?;
        let plan = Plan::make(&found, sent, &journal_dir, config.salvage)?;
        let (replay, finished, old_files) = plan.settle(&*config.host, found).map_err(|e| Error::io(journal_dir.display(), &e))?;
        let last_found = replay.iter().flat_map(|(_, r)| r).map(|r| r.seq).max().unwrap_or(0).max(sent);
        // The state needs a journal to be; the file it starts is for the record after the last good one.
        let hash_key = *blake3::hash(&volume).as_bytes();
        let mut shell = Shell { config, ns, volume, segment_dir, hash_key, sb, segments, baseless: HashSet::new(), dying: HashSet::new() };
        let (chain, next) = match chain {
            None => (None, None),
            Some((chain, next)) => (Some(chain), Some(next)),
        };
        let places = chain.as_ref().map(|c| c.places.clone()).unwrap_or_default();
        let state = shell.replay(Log { replay, finished, old_files, journal_dir, applied, sent, last_found, chain }).await?;
        Ok((state, next.map(|next| LogEnd { next, places, sent })))
    }
}

/// The staged segments that the namespace knows.
async fn segments(ns: &Namespace) -> FsResult<HashMap<u64, Segment>> {
    let mut segments = HashMap::new();
    let mut from = Key::Segment(0);
    loop {
        let rows = ns.scan(from, Key::Orphan(0), 1024).await?;
        let Some((last, _)) = rows.last() else { return Ok(segments) };
        from = crate::fs::after(*last);
        for (key, row) in rows {
            if let (Key::Segment(n), Row::Segment(s)) = (key, row) {
                segments.insert(n, s);
            }
        }
    }
}

fn scan_error(e: &ScanError) -> Error {
    match e {
        ScanError::Io { .. } => Error::unavailable(e.to_string()),
        ScanError::Foreign(_) => {
            Error::new(ErrorKind::Corrupt, e.to_string()).with_remedy("move the file away; it was not written for this volume")
        }
        ScanError::Locked(_) => Error::new(ErrorKind::Denied, e.to_string())
            .with_remedy("put the volume's key ring back, or a master key that opens it; nothing was changed"),
        ScanError::Newer(_) => {
            Error::new(ErrorKind::Unsupported, e.to_string()).with_remedy("open it with a newer version of Orlop; nothing was changed")
        }
    }
}

/// What of the journal counts.
struct Plan {
    /// The last record that may count: the numbers run without a gap up to it.
    last: u64,
    durable: u64,
}

impl Plan {
    fn make(found: &Scan, applied: u64, dir: &Path, salvage: bool) -> Result<Plan> {
        let mut last = applied;
        for f in &found.files {
            if f.first > last + 1 {
                break;
            }
            last = last.max(f.records.last().map_or(f.first.saturating_sub(1), |r| r.seq));
        }
        let plan = Plan { last, durable: found.durable };
        if salvage {
            return Ok(plan);
        }
        if let Some(f) = found.files.iter().find(|f| f.same_boot && f.damaged && f.first <= last + 1) {
            let (path, end) = (f.path.display(), f.end);
            return Err(Error::new(ErrorKind::Corrupt, format!("{path}: the record at byte {end} is damaged")).with_remedy(REMEDY));
        }
        if last < found.durable {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "the journal in {} is damaged after record {last}: records up to {} were made durable",
                    dir.display(),
                    found.durable
                ),
            )
            .with_remedy(REMEDY));
        }
        Ok(plan)
    }

    /// Moves aside what does not count and returns per file what does.
    #[allow(clippy::type_complexity)]
    fn settle(
        &self,
        disk: &dyn HostDisk,
        found: Scan,
    ) -> std::io::Result<(Vec<(FileInfo, Vec<Found>)>, Vec<(u64, u64, PathBuf)>, Vec<Arc<dyn HostFile>>)> {
        let mut replay = Vec::new();
        let mut finished = Vec::new();
        let mut files = Vec::new();
        for path in found.headless {
            aside(disk, &path)?;
        }
        let durable = self.durable;
        let mut moved = None;
        for f in found.files {
            let FoundFile { path, file, first, records, same_boot, end, size, .. } = f;
            if first > self.last + 1 || (first == self.last + 1 && !records.is_empty()) {
                aside(disk, &path)?;
                moved = path.parent().map(Path::to_owned);
                continue;
            }
            let last = records.last().map_or(first - 1, |r| r.seq);
            if records.is_empty() {
                if size > end {
                    aside(disk, &path)?;
                    continue;
                }
                // It holds no record; its name is wanted for the next file.
                disk.remove(&path)?;
                continue;
            }
            if size > end {
                keep_tail(disk, &path, &*file, last + 1, end..size)?;
            }
            finished.push((first, last, path.clone()));
            files.push(file.clone());
            replay.push((FileInfo { path, file, checked: same_boot, durable }, records));
        }
        if let Some(dir) = moved {
            // Before another file takes the place of one that does not count.
            disk.sync_dir(&dir)?;
        }
        Ok((replay, finished, files))
    }
}

pub(super) struct FileInfo {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn HostFile>,
    /// Nothing in it can be torn.
    pub(super) checked: bool,
    pub(super) durable: u64,
}

/// Keeps a file that no longer counts, under a name that is not read.
fn aside(disk: &dyn HostDisk, path: &Path) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".cut");
    tracing::warn!(path = %path.display(), "journal file does not follow the log; set aside as .cut");
    disk.rename(path, Path::new(&name))
}
