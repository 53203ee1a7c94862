//! The port behind which the front doors find what only the process on the host can do.
//!
//! Obligations of an implementation:
//! 1. `list` and `open` never leave the tree below `mountpoint`, whatever links and `..` stand in the path, and take any bytes for a name.
//! 2. `facts` answers within a second or two, whatever a keeper or worker does.
//! 3. `shutdown` refuses with kind `Busy`, naming the users, unless it is forced or keeps the mounts; it
//!    returns before the process ends, so that the answer reaches the caller.

use crate::wire::{HostFacts, Listing, Shutdown, ShutdownReport};
use orlop_model::{Actor, Result};
use std::path::Path;

/// What the daemon can do on its host.
#[async_trait::async_trait]
pub trait Host: Send + Sync + 'static {
    /// The entries of a folder below `mountpoint`, or the one entry of a file.
    async fn list(&self, mountpoint: &str, path: &Path) -> Result<Listing>;
    /// A file below `mountpoint`, open for reading.
    async fn open(&self, mountpoint: &str, path: &Path) -> Result<std::fs::File>;
    /// What runs, and where.
    async fn facts(&self) -> HostFacts;
    /// Ends the daemon; unless the mounts are kept, the workers and the keeper before it.
    async fn shutdown(&self, actor: &Actor, request: Shutdown) -> Result<ShutdownReport>;
}
