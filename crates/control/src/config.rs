//! What a control is made of: its root folder, its default store, the ports, and the times it keeps.

use crate::faults::Faults;
use crate::ports::{Clock, Mounter, SystemClock, VolumeWorker};
use orlop_model::StoreSpec;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Settings and components of a [`Control`](crate::Control).
#[derive(Clone)]
pub struct ControlConfig {
    /// The root folder; must exist. Its owner may do everything, as uid 0 may.
    pub root: PathBuf,
    /// The store named `default`, which is always there; the others are in the registry.
    pub default_store: StoreSpec,
    /// Who mounts.
    pub mounter: Arc<dyn Mounter>,
    /// Who works on a volume's bytes.
    pub worker: Arc<dyn VolumeWorker>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How long a mount may take before the caller is told that it does not answer.
    pub attach_deadline: Duration,
    /// How long an attachment of a Docker that went away is kept although nothing uses the volume.
    pub suspect_grace: Duration,
    /// How long a removed volume is kept without the option `retention`.
    pub retention: Duration,
    /// The same for a volume whose name Docker made up.
    pub anonymous_retention: Duration,
    /// Size from which the audit journal goes on in a new file.
    pub audit_segment_bytes: u64,
    /// For tests: what goes wrong where.
    #[doc(hidden)]
    pub faults: Faults,
}

impl ControlConfig {
    /// The usual settings on a root folder, with the default store in `<root>/stores/default`.
    pub fn new(root: impl Into<PathBuf>, mounter: Arc<dyn Mounter>, worker: Arc<dyn VolumeWorker>) -> Self {
        let root = root.into();
        let root = std::path::absolute(&root).unwrap_or(root);
        let folder = root.join("stores/default");
        let url = url::Url::from_file_path(&folder).map_or_else(|()| format!("file://{}", folder.display()), String::from);
        ControlConfig {
            default_store: StoreSpec::new(url),
            root,
            mounter,
            worker,
            clock: Arc::new(SystemClock),
            attach_deadline: Duration::from_secs(60),
            suspect_grace: Duration::from_secs(60),
            retention: Duration::from_secs(7 * 86400),
            anonymous_retention: Duration::from_secs(3600),
            audit_segment_bytes: 16 << 20,
            faults: Faults::default(),
        }
    }
}
