//! What the kernel holds of a mounted file system in its page cache: how far it reads ahead, and how much it takes before writers wait.

use super::mount::FSTYPE;
use super::table::{self, Device};
use orlop_model::CacheMode;
use std::path::Path;

/// The backing device of a mount, as the kernel names it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backing(Device);

impl Backing {
    /// What a kernel is taken to hold that does not say it.
    pub(crate) const UNKNOWN: u64 = 1 << 30;

    pub(crate) fn of(mounted: Device) -> Backing {
        Backing(mounted)
    }

    /// That of the volume that is mounted there, as far as this process sees it.
    pub(crate) fn at(point: &Path) -> Option<Backing> {
        let own = table::own().ok()?;
        table::topmost(&own, point).filter(|m| m.fstype == FSTYPE).map(|m| Backing(m.device))
    }

    fn path(self, what: &str) -> String {
        format!("/sys/class/bdi/{}:{}/{what}", self.0.major, self.0.minor)
    }

    fn set(self, what: &str, value: &str) {
        let path = self.path(what);
        if let Err(e) = std::fs::write(&path, value) {
            // Read-only in some containers, and older kernels have less of it.
            tracing::debug!("{path}: {e}");
        }
    }

    /// For a fresh mount. A sequential reader has several requests under way, each as long as the protocol allows, instead of 128 KiB.
    pub(crate) fn set_up(self, cache: CacheMode) {
        self.set("read_ahead_kb", "8192");
        if cache == CacheMode::Fast {
            self.let_go();
        }
    }

    /// A write-back cache may hold as much as that of any disk: by default the kernel lets a FUSE file system have one percent of it,
    /// and has writers wait from there on.
    pub(crate) fn let_go(self) {
        self.set("strict_limit", "0");
        self.set("max_ratio", "100");
    }

    /// Writers wait from so many bytes on. The kernel keeps that as a part of the memory that is free now.
    pub(crate) fn hold(self, bytes: u64) {
        self.set("max_bytes", &bytes.to_string());
        self.set("strict_limit", "1");
    }

    /// Bytes from which on writers wait.
    pub(crate) fn most(self) -> u64 {
        let told = std::fs::read_to_string(self.path("max_bytes")).ok();
        told.and_then(|text| text.trim().parse().ok()).unwrap_or(Self::UNKNOWN)
    }
}
