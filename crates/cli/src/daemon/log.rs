//! Where the daemon's log goes: `log/daemon.log`, and standard error too while somebody watches.
//!
//! Only messages and errors of Orlop's own types are logged, and those carry no secrets: stores are named by
//! URLs without credentials.

use orlop_model::{Error, Result};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// A log that has grown beyond this is put aside at the next start.
const ROTATE: u64 = 8 << 20;

/// Starts logging.
pub(crate) fn start(path: &Path, also_stderr: bool) -> Result<()> {
    if std::fs::metadata(path).is_ok_and(|m| m.len() > ROTATE) {
        // Best effort: a log that cannot be put aside just grows.
        let _ = std::fs::rename(path, path.with_extension("log.1"));
    }
    let file: File = OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(|e| Error::io(path.display(), &e))?;
    // A log that cannot be written, on a full disk, is no reason to end: the fallback to standard error panics where that fails too.
    let filter = EnvFilter::try_from_env("ORLOP_LOG").unwrap_or_else(|_| EnvFilter::new("info,slatedb=warn"));
    let to_file = fmt::layer().log_internal_errors(false).with_ansi(false).with_target(false).with_writer(Arc::new(file));
    let to_stderr =
        also_stderr.then(|| fmt::layer().log_internal_errors(false).with_ansi(false).with_target(false).with_writer(std::io::stderr));
    // Only a second call in one process could fail, and then logging is on already.
    let _ = tracing_subscriber::registry().with(filter).with(to_file).with(to_stderr).try_init();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!("a defect: {panic}");
        hook(panic);
    }));
    Ok(())
}
