//! Where a root folder has what keeper and workers use.

use orlop_model::{Error, Result, VolumeId};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A root folder.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Layout { root: root.to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub(crate) fn mounts(&self) -> PathBuf {
        self.root.join("mnt")
    }

    pub(crate) fn keeper_socket(&self) -> PathBuf {
        self.run().join("keeper.sock")
    }

    pub(crate) fn keeper_lock(&self) -> PathBuf {
        self.run().join("keeper.lock")
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.run().join("keeper.json")
    }

    pub(crate) fn keeper_log(&self) -> PathBuf {
        self.root.join("log").join("keeper.log")
    }

    pub(crate) fn worker_socket(&self, volume: VolumeId) -> PathBuf {
        self.run().join(format!("worker-{volume}.sock"))
    }

    pub(crate) fn worker_log(&self, volume: VolumeId) -> PathBuf {
        self.root.join("log").join(format!("worker-{volume}.log"))
    }

    /// The volume whose worker's socket has this file name.
    pub(crate) fn volume_of_socket(name: &str) -> Option<VolumeId> {
        name.strip_prefix("worker-")?.strip_suffix(".sock")?.parse().ok()
    }

    /// Makes the folders. Only the way to the mountpoints is open to others, and closed to their eyes.
    pub(crate) fn prepare(&self) -> Result<()> {
        for (dir, mode) in [(self.root.clone(), 0o711), (self.run(), 0o700), (self.root.join("log"), 0o700), (self.mounts(), 0o711)] {
            if !dir.is_dir() {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(mode)
                    .create(&dir)
                    .and_then(|()| std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)))
                    .map_err(|e| Error::io(format_args!("making {}", dir.display()), &e))?;
            }
        }
        Ok(())
    }
}
