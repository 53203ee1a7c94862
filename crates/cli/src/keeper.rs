//! `orlop keeper`: the process that holds the mounts of a root. Started by the daemon, and living on without it.

use orlop_model::Result;
use orlop_mount::keeper::{KeeperConfig, serve};
use std::path::Path;
use tracing_subscriber::EnvFilter;

/// Runs the keeper of a root until it is told to stop.
pub(crate) fn run(root: &Path) -> Result<u8> {
    log_to_standard_error();
    serve(KeeperConfig::new(root)?)?;
    Ok(0)
}

/// Log lines go to standard error, which whoever starts keeper and workers points at their log files.
pub(crate) fn log_to_standard_error() {
    let filter = EnvFilter::try_from_env("ORLOP_LOG").unwrap_or_else(|_| EnvFilter::new("info,slatedb=warn"));
    // A full disk takes no log: that is no reason to end, and saying so on standard error would panic.
    let log = tracing_subscriber::fmt().log_internal_errors(false).with_env_filter(filter).with_ansi(false);
    // Fails only where a log is set up already, which then is the one to use.
    let _ = log.with_writer(std::io::stderr).try_init();
}
