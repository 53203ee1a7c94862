//! What daemon, keeper and workers say to each other.

use crate::kernel::init::Negotiated;
use orlop_model::{MountPlan, StoreSpec, VolumeId};
use serde::{Deserialize, Serialize};

/// A mounted volume, as attach answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Where it is mounted.
    pub mountpoint: String,
    /// The process that serves it.
    pub worker_pid: u32,
}

/// How a volume's worker is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum WorkerState {
    /// It serves.
    Serving,
    /// It died, and another is being started; requests wait meanwhile.
    Restarting {
        /// How often that was tried since it last served.
        attempts: u32,
        /// Why the last one did not come up, or how the old one ended.
        reason: String,
    },
    /// It died, and none follows: another host has had the volume since. Whoever asks for anything gets EIO, until the volume is
    /// unmounted.
    Lost {
        /// Which host that is.
        reason: String,
    },
    /// The volume is unmounted, and its worker brings everything to rest.
    Finishing,
}

/// The answer of a worker that was to go on where another one served and must not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lost {
    pub(crate) why: String,
}

/// A volume shown in another folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The folder.
    pub dir: String,
    /// Whether it is read-only there.
    pub read_only: bool,
}

/// A mounted volume, as list shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedVolume {
    /// By which plan.
    pub plan: MountPlan,
    /// The process that serves it; 0 while there is none.
    pub worker_pid: u32,
    /// How that process is.
    pub worker: WorkerState,
    /// Where it is shown besides its mountpoint.
    pub binds: Vec<Bound>,
    /// Whether it is mounted beyond mountpoint and binds, in a container for example.
    pub in_use_elsewhere: bool,
}

/// A worker that took the place of a sound one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// The process that serves the volume now.
    pub worker_pid: u32,
    /// How long nobody answered requests.
    pub paused_ms: u64,
    /// Why it is the old binary's all the same: what the new one said when it refused the volume.
    pub refused: Option<String>,
}

/// What the keeper is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum KeeperRequest {
    Attach { plan: Box<MountPlan> },
    Detach { volume: VolumeId, force: bool },
    Bind { volume: VolumeId, dir: String, read_only: bool },
    Unbind { dir: String },
    List,
    Usage { volume: VolumeId },
    SetQuota { volume: VolumeId, bytes: Option<u64> },
    SetStore { volume: VolumeId, store: Box<StoreSpec> },
    Sync { volume: VolumeId },
    Check { volume: VolumeId, repair: bool },
    CheckProgress { volume: VolumeId },
    Space { volume: VolumeId },
    Collect { volume: VolumeId, dry_run: bool },
    Renew { volume: VolumeId },
    Shutdown,
}

/// What a worker is asked: `Open` and then `Serve` by the keeper that started it, the others by any later one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum WorkerRequest {
    /// Opens the volume; answered with nothing, or [`Lost`].
    Open { plan: Box<MountPlan>, fresh_kernel: bool },
    /// Answers the FUSE device that comes with this.
    Serve { negotiated: Negotiated },
    /// Tells what it serves, and gives the FUSE device back.
    Adopt,
    /// What the volume takes.
    Usage,
    /// Changes the quota.
    SetQuota { bytes: Option<u64> },
    /// Says how the store is reached from now on.
    SetStore { store: Box<StoreSpec> },
    /// Makes everything durable.
    Sync,
    /// Has the kernel write the pages that only it knows of; answered when they have arrived.
    WritePages,
    /// Reads all of it, and sets right what can be if that is asked for.
    Check { repair: bool },
    /// How far that is.
    CheckProgress,
    /// Where its bytes are.
    Space,
    /// Deletes what nothing refers to, or tells what would go.
    Collect { dry_run: bool },
}

/// What a worker serves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Served {
    pub(crate) plan: MountPlan,
    pub(crate) negotiated: Negotiated,
}
