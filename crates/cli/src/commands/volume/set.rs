//! `orlop volume set`

use crate::args::Context;
use crate::commands::pairs;
use orlop_model::{Error, Result, VolumeOptions, VolumeRef, VolumeUpdate};

/// Changes options and labels of a volume, also while it is mounted.
#[derive(Debug, clap::Args)]
#[command(after_help = pairs::option_help())]
pub(crate) struct Args {
    /// The volume, by name or id.
    volume: String,
    /// An option; the empty value (KEY=) resets it to its default.
    #[arg(short, long = "opt", value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// A label; the empty value (KEY=) removes it.
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let volume: VolumeRef = args.volume.parse()?;
    let options = pairs::read("-o", &args.options)?;
    VolumeOptions::parse(options.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.as_str(), v.as_str())))?;
    let update = VolumeUpdate { options, labels: pairs::read("--label", &args.labels)? };
    if update == VolumeUpdate::default() {
        return Err(Error::invalid("there is nothing to set").with_remedy("give -o KEY=VALUE or --label KEY=VALUE"));
    }
    let volume = cx.client.set(&volume, &update).await?;
    cx.ui.show(&volume, || {
        let options: Vec<String> = volume.options.to_pairs().iter().map(|(k, v)| format!("{k}={v}")).collect();
        let options = if options.is_empty() { "all options at their defaults".to_owned() } else { options.join(" ") };
        format!("{}: {options}\n", volume.name)
    })?;
    if update.options.contains_key("durability") {
        super::note_loss_window(&volume, cx);
    }
    let later: Vec<&str> = ["cache", "durability", "outage", "compression", "cache_size", "staging_size"]
        .into_iter()
        .filter(|k| update.options.contains_key(*k))
        .collect();
    if volume.mountpoint.is_some() && !later.is_empty() {
        cx.ui.note(&format!("{} is mounted: {} count from its next mount on", volume.name, later.join(", ")));
    }
    if volume.mountpoint.is_some() && update.options.contains_key("size") && volume.options.cache.is_none() {
        cx.ui.note(&format!(
            "{} is mounted: if that is with cache=fast, what does not fit is told by close or fsync until its next mount",
            volume.name
        ));
    }
    Ok(0)
}
