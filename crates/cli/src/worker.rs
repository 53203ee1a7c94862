//! `orlop worker`: the process that serves one mounted volume. Started by the keeper, over its standard input.

use futures::future::BoxFuture;
use orlop_model::{MountPlan, Result, VolumeId};
use orlop_mount::worker::{WorkerConfig, serve};
use orlop_store::VolumeStore;
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
    let served = serve(WorkerConfig { root: root.to_owned(), volume: args.volume, open_store });
    if let Err(e) = &served {
        tracing::error!("{e}");
    }
    served.map(|()| 0)
}

/// The volume's store, sealed with the keys of its ring if it is encrypted.
fn open_store<'a>(plan: &'a MountPlan, root: &'a Path) -> BoxFuture<'a, Result<VolumeStore>> {
    Box::pin(async move {
        let encrypt = plan.options.encrypt == Some(true);
        orlop_store::volume_store(&plan.store, &plan.prefix, &root.join("keys"), encrypt).await
    })
}
