//! What control needs from the outside, in plain data: who mounts, who works on a volume's bytes, what time it is.
//!
//! The daemon wires these to the keeper and to chunkfs; tests wire them to a recording world. Obligations are
//! numbered because the reconciler relies on each of them.

use async_trait::async_trait;
use orlop_model::{
    CheckProgress, CheckReport, Error, ErrorKind, Examination, FoundVolume, GcReport, MountPlan, Result, Space, StoreSpec, Usage, VolumeId,
};
use time::OffsetDateTime;

/// What an attach came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The folder under which the volume is reachable; the plan's own.
    pub mountpoint: String,
    /// The process that serves it.
    pub worker_pid: u32,
}

/// A bind of a mounted volume onto a folder of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundDirectory {
    /// The folder, absolute.
    pub path: String,
    /// Whether it is read-only.
    pub read_only: bool,
}

/// A volume as the host has it mounted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedVolume {
    /// The plan with which it was mounted.
    pub plan: MountPlan,
    /// The process that serves it; 0 while it has none and gets another.
    pub worker_pid: u32,
    /// Whether that process answers. A volume that is mounted but not served is attached again, unless it gets another process anyhow.
    pub serving: bool,
    /// Its binds that exist now: one that somebody else unmounted is not in the list.
    pub binds: Vec<BoundDirectory>,
    /// Whether something other than Orlop holds it: a container's mount namespace, for one. When in doubt, true.
    pub in_use_elsewhere: bool,
}

/// Mounts volumes on this host.
///
/// 1. Every call is idempotent: repeating one that succeeded succeeds and changes nothing.
/// 2. `attach` returns only when the volume is mounted and served; if it fails, nothing of it is left.
/// 3. `detach` without force first makes every accepted write durable; it fails with kind Busy, leaving the volume
///    mounted and served, if something holds it or if that cannot be done. A volume that is not mounted: success. `settle`
///    does the first half alone, so that whoever holds it can be told before he lets go.
/// 4. `unbind` of a folder that is not bound succeeds, and never touches a mount that Orlop did not make.
/// 5. `attached` tells what is, not what was asked for, and never waits for a store.
#[async_trait]
pub trait Mounter: Send + Sync {
    /// Mounts a volume.
    async fn attach(&self, plan: &MountPlan) -> Result<Mounted>;
    /// Unmounts a volume; with force also one whose writes cannot be made durable now.
    async fn detach(&self, volume: VolumeId, force: bool) -> Result<()>;
    /// Makes every write that a mounted volume accepted durable, within a bound; changes nothing else.
    async fn settle(&self, volume: VolumeId) -> Result<()>;
    /// Binds a mounted volume onto a folder.
    async fn bind(&self, volume: VolumeId, dir: &str, read_only: bool) -> Result<()>;
    /// Undoes a bind.
    async fn unbind(&self, dir: &str) -> Result<()>;
    /// All volumes that are mounted on this host under this root.
    async fn attached(&self) -> Result<Vec<AttachedVolume>>;
}

/// What a format found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Formatted {
    /// Nothing; the volume is new and empty.
    Fresh,
    /// Of a plain volume: its folder, which is now the volume and stays as it is.
    Adopted,
}

/// Works on a volume's bytes: through its worker while it is mounted, by itself while it is not.
///
/// A plain volume is the folder that its plan has as mountpoint. It has a trash place of its own on the same file system.
///
/// 1. `format` makes an empty volume and is idempotent on a volume that nobody has written to. The folder of a plain
///    volume is made, or adopted if it is there.
/// 2. `destroy` deletes everything below the plan's prefix, its state folder and its mountpoint folder; it is
///    idempotent, goes on where an interrupted one stopped, and succeeds when nothing is there.
///    It is only called for a volume that is not mounted, and asks `may_destroy` by itself. Of a plain volume it deletes what is in its trash place, and
///    its folder only if `format` made it and it is empty.
/// 3. `usage`, `set_quota`, `set_store`, `check`, `space` and `collect` are only called for a mounted volume.
/// 4. `discard` moves the folder that `format` made for a plain volume to its trash place, `recover` takes it from there to
///    the plan's folder. Both are idempotent and succeed when there is nothing to move; neither ever touches a folder that
///    `format` did not make for this volume. `recover` fails with kind AlreadyExists if something is in its way.
/// 5. `examine` tries out what a store can do and leaves nothing behind. It fails if the store cannot be reached.
///    `is_same_place` puts an object there the new way, looks for it the old way, and removes it.
/// 6. `find` and `recognise` change nothing. `recognise` fails with kind NotFound if the plan's volume is not in its store,
///    and if it is encrypted and this host has no key for it.
/// 7. `forget` deletes what this host keeps of a volume (state folder, mountpoint folder) and leaves the store as it is.
/// 8. `look_closed` changes nothing, and works on a volume that cannot be opened.
#[async_trait]
pub trait VolumeWorker: Send + Sync {
    /// Makes an empty volume.
    async fn format(&self, plan: &MountPlan) -> Result<Formatted>;
    /// Deletes a volume's bytes for good.
    async fn destroy(&self, plan: &MountPlan) -> Result<()>;
    /// Whether a volume's bytes are this host's to delete: fails with kind Busy if another host has the volume, or had it last. What cannot
    /// be looked at is nobody's.
    async fn may_destroy(&self, _plan: &MountPlan) -> Result<()> {
        Ok(())
    }
    /// What a mounted volume takes.
    async fn usage(&self, volume: VolumeId) -> Result<Usage>;
    /// What a volume took when it was last brought to rest; `None` if that is not known, and while it is mounted.
    async fn usage_at_rest(&self, _volume: VolumeId) -> Option<Usage> {
        None
    }
    /// Changes the quota of a mounted volume.
    async fn set_quota(&self, volume: VolumeId, bytes: Option<u64>) -> Result<()>;
    /// Tells a mounted volume how its store, which is still the same place, is reached from now on.
    async fn set_store(&self, _volume: VolumeId, _store: &StoreSpec) -> Result<()> {
        Err(unable())
    }
    /// Moves a plain volume's folder to the trash.
    async fn discard(&self, plan: &MountPlan) -> Result<()>;
    /// Takes a plain volume's folder back from the trash.
    async fn recover(&self, plan: &MountPlan) -> Result<()>;
    /// Finds out what a store can do, and how fast it is.
    async fn examine(&self, store: &StoreSpec) -> Result<Examination>;
    /// Whether a store is the same place when it is reached another way; `None` if it can no longer be reached the old way.
    async fn is_same_place(&self, _old: &StoreSpec, _new: &StoreSpec) -> Result<Option<bool>> {
        Ok(None)
    }
    /// The volumes that lie in a store, whoever made them.
    async fn find(&self, store: &StoreSpec) -> Result<Vec<FoundVolume>>;
    /// What is known of the plan's volume, which was made elsewhere; the plan's option `encrypt` is not looked at.
    async fn recognise(&self, plan: &MountPlan) -> Result<FoundVolume>;
    /// Deletes this host's part of a volume that lives on elsewhere.
    async fn forget(&self, plan: &MountPlan) -> Result<()>;
    /// Reads all of a mounted volume; with `repair` sets right what can be.
    async fn check(&self, _volume: VolumeId, _repair: bool) -> Result<CheckReport> {
        Err(unable())
    }
    /// How far a check of a mounted volume is.
    async fn check_progress(&self, _volume: VolumeId) -> Option<CheckProgress> {
        None
    }
    /// Looks at a volume's objects and files without opening it.
    async fn look_closed(&self, _plan: &MountPlan) -> Result<CheckReport> {
        Err(unable())
    }
    /// Where the bytes of a mounted volume are.
    async fn space(&self, _volume: VolumeId) -> Result<Space> {
        Err(unable())
    }
    /// Deletes from a mounted volume's places what nothing refers to; in a rehearsal only tells.
    async fn collect(&self, _volume: VolumeId, _dry_run: bool) -> Result<GcReport> {
        Err(unable())
    }
}

fn unable() -> Error {
    Error::new(ErrorKind::Unsupported, "this host cannot look into a volume's bytes")
}

/// The time of day.
pub trait Clock: Send + Sync {
    /// Now, in UTC.
    fn now(&self) -> OffsetDateTime;
}

/// The host's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }
}
