//! `orlop volume create`

use crate::args::Context;
use crate::commands::pairs;
use orlop_api::wire::CreateVolume;
use orlop_model::{Result, VolumeName, VolumeOptions};

/// Creates an empty volume.
#[derive(Debug, clap::Args)]
#[command(after_help = pairs::option_help())]
pub(crate) struct Args {
    /// Its name: a letter or digit, then letters, digits, '_', '.' and '-'.
    name: String,
    /// An option; may be given several times.
    #[arg(short, long = "opt", value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// A label; may be given several times.
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let options = pairs::read("-o", &args.options)?;
    // Checked here too, so that a mistake is told even while the daemon is away.
    args.name.parse::<VolumeName>()?;
    VolumeOptions::parse(options.iter().map(|(k, v)| (k.as_str(), v.as_str())))?;
    let request = CreateVolume { name: args.name.clone(), options, labels: pairs::read("--label", &args.labels)? };
    let volume = cx.client.create(&request).await?;
    cx.ui.show(&volume, || format!("{}\n", volume.name))?;
    super::note_loss_window(&volume, cx);
    Ok(0)
}
