//! The handover record, `run/keeper.json`: what a next keeper cannot learn from the workers, and what a person
//! wants to read when all of them are dead. Replaced as a whole, durably.

use super::Keeper;
use crate::kernel::init::Negotiated;
use crate::protocol::Bound;
use orlop_model::{MountPlan, VolumeId};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::Path;

const VERSION: u32 = 1;

/// The whole record.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    keeper_pid: u32,
    pub(super) volumes: Vec<Entry>,
    /// Those that are served by workers whom the keeper cannot reach.
    #[serde(default)]
    pub(super) unreached: Vec<VolumeId>,
}

/// One attached volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) plan: MountPlan,
    pub(super) negotiated: Negotiated,
    pub(super) worker_pid: u32,
    pub(super) worker_started: Option<u64>,
    /// The mounted file system, `major:minor`.
    pub(super) device: String,
    pub(super) binds: Vec<Bound>,
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let fresh = path.with_extension("json.new");
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Whether these bytes are a record, for the fuzz targets.
pub(crate) fn reads(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Record>(bytes).is_ok_and(|r| r.version == VERSION)
}

/// Reads the last keeper's record. A missing one is empty, and so is one that cannot be read: workers and mount
/// table say the rest.
pub(super) fn read(path: &Path) -> Record {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Record::default(),
        Err(e) => {
            tracing::error!("reading {}: {e}", path.display());
            return Record::default();
        }
    };
    match serde_json::from_slice::<Record>(&bytes) {
        Ok(record) if record.version == VERSION => record,
        Ok(record) => {
            tracing::error!("{} has version {}, not {VERSION}; going by the workers", path.display(), record.version);
            Record::default()
        }
        Err(e) => {
            tracing::error!("{} cannot be read: {e}; going by the workers", path.display());
            Record::default()
        }
    }
}

impl Keeper {
    /// Writes the record as things are now. A failure is said in the log and lived with: the workers know the rest.
    pub(super) fn save(&self) {
        let _one = self.record.lock();
        let mut volumes: Vec<Entry> = self
            .all()
            .iter()
            .filter_map(|slot| {
                slot.look(|v| Entry {
                    plan: v.plan.clone(),
                    negotiated: v.negotiated,
                    worker_pid: v.worker.pid,
                    worker_started: v.worker.started,
                    device: format!("{}:{}", v.mounted.major, v.mounted.minor),
                    binds: v.binds.clone(),
                })
            })
            .collect();
        let mut unreached: Vec<VolumeId> = {
            let unadopted = self.unadopted.lock();
            volumes.extend(unadopted.values().flatten().cloned());
            unadopted.keys().copied().collect()
        };
        volumes.sort_by_key(|e| e.plan.volume);
        unreached.sort_unstable();
        let record = Record { version: VERSION, keeper_pid: std::process::id(), volumes, unreached };
        let path = self.layout.record();
        let bytes = serde_json::to_vec_pretty(&record).expect("plain data has a JSON form");
        if let Err(e) = write(&path, &bytes) {
            tracing::error!("writing {}: {e}", path.display());
        }
    }
}
