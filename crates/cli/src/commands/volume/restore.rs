//! `orlop volume restore`

use crate::args::Context;
use orlop_model::{Result, VolumeName, VolumeRef};

/// Takes a removed volume back, with all its data.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The volume: its name (the newest removed one of that name) or its id.
    volume: String,
    /// Under this name, where its own is taken.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let reference: VolumeRef = args.volume.parse()?;
    if let Some(name) = &args.name {
        name.parse::<VolumeName>()?;
    }
    let volume = cx.client.restore(&reference, args.name.clone()).await?;
    cx.ui.show(&volume, || format!("{} is back\n", volume.name))?;
    Ok(0)
}
