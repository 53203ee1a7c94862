//! Volumes that are served by workers whom the keeper cannot reach: who they are, and how they are taken away by force.

use super::record::{self, Entry};
use super::volume::DYING;
use crate::kernel::mount::{self, FSTYPE};
use crate::kernel::{asking, table};
use crate::layout::Layout;
use crate::os::{PidFd, sync_file_system};
use crate::process;
use orlop_model::{Error, Result, VolumeId, VolumeName};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long what the kernel alone has may take to be written before the mount goes: whoever does not even take that in this time does not
/// answer.
const WRITING: Duration = Duration::from_secs(10);
/// How much of it may pass while others go on writing.
const SETTLING: Duration = Duration::from_secs(5);
/// How long a worker that answered may take to end once its mount is gone: it gives a store that is away a minute by itself.
const LAST_TRY: Duration = Duration::from_secs(75);
/// The same for one that did not answer.
const SILENT: Duration = Duration::from_secs(5);

/// A volume whose worker lives and is not the keeper's: it is mounted and served, or being brought to rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreached {
    /// Which volume.
    pub volume: VolumeId,
    /// Its name, if a keeper left it.
    pub name: Option<VolumeName>,
    /// Where it is mounted.
    pub mountpoint: String,
    /// The process that serves it, if that is known.
    pub worker_pid: Option<u32>,
    /// Where else it was shown.
    pub binds: Vec<String>,
}

impl Unreached {
    pub(super) fn of(layout: &Layout, volume: VolumeId, entry: Option<&Entry>) -> Self {
        let recorded = entry.filter(|e| worker_lives(e)).map(|e| e.worker_pid);
        Unreached {
            volume,
            name: entry.map(|e| e.plan.name.clone()),
            mountpoint: mountpoint(layout, volume).to_string_lossy().into_owned(),
            worker_pid: recorded.or_else(|| started_for(layout, volume)),
            binds: entry.map(|e| e.binds.iter().map(|b| b.dir.clone()).collect()).unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Unreached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "volume {name}")?,
            None => write!(f, "volume {}", self.volume)?,
        }
        match self.worker_pid {
            Some(pid) => write!(f, " is served on {} by its worker (process {pid}), which cannot be reached", self.mountpoint),
            None => write!(f, " is served on {} by a worker that cannot be reached", self.mountpoint),
        }
    }
}

fn mountpoint(layout: &Layout, volume: VolumeId) -> PathBuf {
    layout.mounts().join(volume.to_string())
}

/// Whether the worker that a keeper recorded still runs.
pub(super) fn worker_lives(entry: &Entry) -> bool {
    entry.worker_started.is_some() && process::start_time(entry.worker_pid) == entry.worker_started && has_fuse(entry.worker_pid)
}

/// Whether a process has a FUSE device open. Number and start alone may come again after a reboot, and who has ended and was not reaped yet
/// still has both.
fn has_fuse(pid: u32) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.file_name().is_some_and(|name| name == "fuse")))
}

/// The process of this user that was started to serve a volume of this root, by its arguments.
fn started_for(layout: &Layout, volume: VolumeId) -> Option<u32> {
    let mut arguments = b"\0--root\0".to_vec();
    arguments.extend_from_slice(layout.root().as_os_str().as_bytes());
    arguments.extend_from_slice(format!("\0--volume\0{volume}\0").as_bytes());
    let me = nix::unistd::geteuid().as_raw();
    let is_it = move |pid: u32| {
        std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|m| m.uid() == me)
            && std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(&arguments))
            && has_fuse(pid)
    };
    asking::ask(move || table::processes().into_iter().find(|pid| is_it(*pid))).flatten()
}

/// The volumes of a root on whose mountpoints a mount of Orlop's stands, dead or not.
fn standing(layout: &Layout) -> Result<Vec<VolumeId>> {
    let own = table::own().map_err(|e| Error::io("reading the mount table", &e))?;
    let below = layout.mounts();
    let mut volumes: Vec<VolumeId> = table::orlops(&own)
        .filter(|m| m.root == Path::new("/") && m.point.parent() == Some(&*below))
        .filter_map(|m| m.point.file_name()?.to_str()?.parse().ok())
        .collect();
    volumes.sort_unstable();
    volumes.dedup();
    Ok(volumes)
}

/// Whether a worker of this root lives that has no socket: one that was recorded, or one whose mount stands.
pub(super) fn has_others(layout: &Layout) -> bool {
    record::read(&layout.record()).volumes.iter().any(worker_lives)
        || standing(layout).unwrap_or_default().into_iter().any(|volume| started_for(layout, volume).is_some())
}

/// What the keeper of a root knows to be served and cannot reach. It says so in its record, so that this is true once it answers.
pub fn unreached(root: &Path) -> Vec<Unreached> {
    let layout = Layout::new(root);
    let record = record::read(&layout.record());
    record.unreached.iter().map(|id| Unreached::of(&layout, *id, record.volumes.iter().find(|e| e.plan.volume == *id))).collect()
}

/// The volumes of a root that are mounted and whose mounts live, whoever serves them.
pub fn still_mounted(root: &Path) -> Result<Vec<Unreached>> {
    let layout = Layout::new(root);
    let record = record::read(&layout.record());
    let living = standing(&layout)?.into_iter().filter(|id| !super::adopt::is_dead(&mountpoint(&layout, *id)));
    Ok(living.map(|id| Unreached::of(&layout, id, record.volumes.iter().find(|e| e.plan.volume == id))).collect())
}

/// Takes away a volume whose worker cannot be reached: its mounts by force, and the process if it does not end. What that acknowledged is in
/// its journal. Returns when both are gone.
pub fn take_away(root: &Path, it: &Unreached) -> Result<()> {
    let layout = Layout::new(root);
    let point = mountpoint(&layout, it.volume);
    let record = record::read(&layout.record());
    let entry = record.volumes.iter().find(|e| e.plan.volume == it.volume);
    // The number may have become another's before it was opened.
    let process = it
        .worker_pid
        .and_then(|pid| PidFd::open(pid as i32).ok())
        .filter(|_| Unreached::of(&layout, it.volume, entry).worker_pid == it.worker_pid);
    let own = table::own().map_err(|e| Error::io("reading the mount table", &e))?;
    let device = table::topmost(&own, &point).filter(|m| m.fstype == FSTYPE).map(|m| m.device);
    let answers = device.is_none_or(|device| writes_pages(&point, device));
    if let Some(device) = device {
        tracing::warn!(volume = %it.volume, "its worker cannot be reached: cutting off whoever uses it");
        for m in own.iter().rev().filter(|m| m.device == device && m.point != point) {
            mount::unmount_lazily(&m.point)?;
        }
        mount::unmount_by_force(&point)?;
    }
    let Some(process) = process else { return Ok(()) };
    let ended = process.wait(Some(if answers { LAST_TRY } else { SILENT })).and_then(|ended| {
        if ended {
            return Ok(true);
        }
        tracing::warn!(volume = %it.volume, worker = ?it.worker_pid, "it does not come to an end, and is killed");
        // One that has ended meanwhile cannot be killed, and need not.
        let _ = process.kill();
        process.wait(Some(DYING))
    });
    match ended {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::unavailable(format!("{it}, and does not end although it was killed")).with_remedy("try again later")),
        Err(e) => Err(Error::io("waiting for a worker's end", &e)),
    }
}

/// Has the kernel write what it alone has. Returns whether the worker took it.
fn writes_pages(point: &Path, device: table::Device) -> bool {
    let point = point.to_owned();
    // The end of the connection sets its thread free.
    let written = asking::within(WRITING, "sync-pages", move || {
        let synced = File::open(&point).and_then(|dir| sync_file_system(dir.as_fd())).is_ok();
        // The kernel says that it is done before the writes are answered.
        let waiting = format!("/sys/fs/fuse/connections/{}/waiting", device.minor);
        let until = Instant::now() + SETTLING;
        while Instant::now() < until && std::fs::read_to_string(&waiting).is_ok_and(|n| n.trim() != "0") {
            std::thread::sleep(Duration::from_millis(10));
        }
        synced
    });
    written.unwrap_or(false)
}
