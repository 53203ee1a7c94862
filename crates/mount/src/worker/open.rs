//! How a plan becomes an open volume: its store, its quota, and for a home in the cloud what it promises there.

use super::WorkerConfig;
use orlop_chunkfs::{FileSystem, OpenConfig, Remote};
use orlop_model::{Compression, Durability, Error, MountPlan, OutagePolicy, Result};
use std::path::Path;
use std::sync::Arc;

pub(super) async fn open(plan: &MountPlan, worker: &WorkerConfig, fresh_kernel: bool) -> Result<Arc<FileSystem>> {
    let store = (worker.open_store)(plan, &worker.root).await?;
    std::fs::create_dir_all(&plan.state_dir).map_err(|e| Error::io(format_args!("making {}", plan.state_dir), &e))?;
    let mut config = OpenConfig::new(plan.volume, store, &plan.prefix, Path::new(&plan.state_dir));
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
            holder: host_name(),
            ..Remote::default()
        });
    }
    FileSystem::open(config).await
}

/// What others are told when they find the volume in use.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "an unnamed host".to_owned() } else { name.trim().to_owned() }
}
