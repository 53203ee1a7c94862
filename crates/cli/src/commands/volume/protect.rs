//! `orlop volume protect`

use crate::args::Context;
use orlop_model::{Error, Result, VolumeRef};

/// Protects volumes from removal, by Docker too.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The volumes, by name or id.
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
    /// End the protection.
    #[arg(long)]
    off: bool,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let references: Vec<VolumeRef> = args.volumes.iter().map(|v| v.parse()).collect::<Result<_, Error>>()?;
    let mut volumes = Vec::with_capacity(references.len());
    for reference in &references {
        volumes.push(cx.client.protect(reference, !args.off).await?);
    }
    let what = if args.off { "can be removed" } else { "is protected from removal" };
    cx.ui.show(&volumes, || volumes.iter().map(|v| format!("{} {what}\n", v.name)).collect())?;
    Ok(0)
}
