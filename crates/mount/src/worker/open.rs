//! How a plan becomes an open volume: its store, its quota, and for a home in the cloud what it promises there.

use super::{WorkerConfig, at_rest, reserve};
use crate::protocol::Lost;
use orlop_chunkfs::{FileSystem, FsResult, OpenConfig, Remote};
use orlop_model::{CACHE_SIZE, Compression, Durability, Error, ErrorKind, MountPlan, OutagePolicy, Result, STAGING_SIZE};
use orlop_store::wrap::Swap;
use orlop_store::{ObjectStore, VolumeStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// An open volume, and its store, which may be reached another way one day.
pub(super) struct Opened {
    pub(super) fs: Arc<FileSystem>,
    pub(super) store: Arc<Swap>,
    naming: JoinHandle<()>,
    keeping: JoinHandle<()>,
    state_dir: PathBuf,
}

impl Opened {
    /// Brings everything to rest, and asks the store for nothing afterwards.
    pub(super) async fn close(self) -> FsResult<()> {
        self.keeping.abort();
        self.naming.abort();
        let _ = self.naming.await;
        let closed = self.fs.close().await;
        let mut usage = self.fs.usage();
        if closed.is_ok() {
            // All is folded; what the journal says beside that are this host's own notes.
            (usage.unsynced_bytes, usage.unsent_bytes) = (0, 0);
        }
        usage.stopped = None;
        at_rest::note(&self.state_dir, &usage);
        closed
    }
}

/// Opens it, unless the kernel that is to be gone on with was told what is not true any more.
pub(super) async fn open(plan: &MountPlan, worker: &WorkerConfig, fresh_kernel: bool) -> Result<Result<Opened, Lost>> {
    let VolumeStore { store, keys } = (worker.open_store)(plan, &worker.root).await?;
    let store = Swap::new(store);
    std::fs::create_dir_all(&plan.state_dir).map_err(|e| Error::io(format_args!("making {}", plan.state_dir), &e))?;
    let mut config = OpenConfig::new(plan.volume, store.clone(), &plan.prefix, Path::new(&plan.state_dir)).sealed(keys);
    config.quota_bytes = plan.options.size.map(|s| s.0);
    config.root_uid = plan.options.uid.unwrap_or(0);
    config.root_gid = plan.options.gid.unwrap_or(0);
    config.root_mode = plan.options.mode.unwrap_or(0o755);
    config.fresh_kernel = fresh_kernel;
    if !plan.store.is_local() {
        config.remote = Some(Remote {
            durability: plan.options.durability.unwrap_or(Durability::Remote),
            outage: plan.options.outage.unwrap_or(OutagePolicy::Wait),
            compression: plan.options.compression.unwrap_or(Compression::None),
            cache_bytes: plan.options.cache_size.unwrap_or(CACHE_SIZE).0,
            staged_bytes: plan.options.staging_size.unwrap_or(STAGING_SIZE).0,
            holder: host_name(),
            lease: lease()?,
            abandon_unsynced: plan.abandon_unsynced,
            ..Remote::default()
        });
    }
    let state_dir = PathBuf::from(&plan.state_dir);
    reserve::give(&state_dir);
    let of_store: Arc<dyn ObjectStore> = store.clone();
    let fs = match FileSystem::open(config).await {
        Err(e) if !fresh_kernel && e.kind == ErrorKind::Busy => {
            let lost = orlop_chunkfs::lost(&of_store, &plan.prefix, plan.volume, &state_dir).await;
            return lost.map(|why| Err(Lost { why })).ok_or(e);
        }
        opened => opened?,
    };
    at_rest::forget(&state_dir);
    let keeping = tokio::spawn(reserve::keep(state_dir.clone()));
    Ok(Ok(Opened { fs, naming: tokio::spawn(keep_name(store.clone(), plan.clone())), keeping, store, state_dir }))
}

/// Notes the volume's name in its store, if it was made before names were noted, or if what is noted is damaged. Nothing here needs it, so
/// nobody waits.
async fn keep_name(store: Arc<Swap>, plan: MountPlan) {
    if let Err(e) = orlop_chunkfs::keep_name(&*store, &plan.prefix, plan.volume, &plan.name).await {
        tracing::info!("the volume's name is not noted in its store: {e}");
    }
}

/// What others are told when they find the volume in use.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "an unnamed host".to_owned() } else { name.trim().to_owned() }
}

/// The environment variable that says how long a silent host still counts as alive, in seconds.
pub const LEASE_VARIABLE: &str = "ORLOP_LEASE";

/// The lease that the environment asks for, or the default. Daemon, keeper and workers inherit it from one another.
pub fn lease() -> Result<Duration> {
    let Some(text) = std::env::var_os(LEASE_VARIABLE) else { return Ok(Remote::default().lease) };
    parse_lease(&text.to_string_lossy())
}

fn parse_lease(text: &str) -> Result<Duration> {
    match text.parse() {
        Ok(seconds) if (5..=600).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => Err(Error::invalid(format!("{LEASE_VARIABLE}={text:?} is not a number of seconds from 5 to 600"))
            .with_remedy(format!("set {LEASE_VARIABLE} to such a number, or unset it for {} seconds", Remote::default().lease.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_five_seconds_to_ten_minutes() {
        assert_eq!(parse_lease("5").expect("short"), Duration::from_secs(5));
        assert_eq!(parse_lease("600").expect("long"), Duration::from_secs(600));
        for bad in ["", "4", "601", "-5", "30s", "1e2", "99999999999999999999"] {
            let e = parse_lease(bad).expect_err(bad);
            assert!(e.message.contains(LEASE_VARIABLE) && e.remedy.is_some(), "{e}");
        }
    }
}
