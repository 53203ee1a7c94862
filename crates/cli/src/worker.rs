//! `orlop worker`: the process that serves one mounted volume. Started by the keeper, over its standard input.

use orlop_model::{Result, VolumeId};
use orlop_mount::worker::{WorkerConfig, serve};
use std::path::Path;

/// What the keeper tells a worker on its command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The volume's id.
    #[arg(long, value_name = "ID")]
    pub(crate) volume: VolumeId,
}

/// Serves a volume until it is unmounted.
pub(crate) fn run(args: &Args, root: &Path) -> Result<u8> {
    crate::keeper::log_to_standard_error();
    let served = serve(WorkerConfig { root: root.to_owned(), volume: args.volume, open_store: orlop_store::open });
    if let Err(e) = &served {
        tracing::error!("{e}");
    }
    served.map(|()| 0)
}
