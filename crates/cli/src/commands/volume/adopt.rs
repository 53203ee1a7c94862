//! `orlop volume adopt`

use crate::args::Context;
use crate::commands::pairs;
use crate::ui::{Table, moment};
use orlop_api::wire::AdoptVolume;
use orlop_model::{FoundVolume, Result, StoreName, VolumeId, VolumeName, VolumeOptions};

/// Makes a volume known here that lies in a store already, made on another host.
///
/// Without --id it lists the volumes of the store. One host at a time has a volume mounted; names and options are each
/// host's own. Removing an adopted volume forgets it on this host and leaves its data in the store.
#[derive(Debug, clap::Args)]
#[command(after_help = pairs::option_help())]
pub(crate) struct Args {
    /// Its name on this host.
    name: Option<String>,
    /// The store it lies in.
    #[arg(long)]
    store: String,
    /// Its id; without it the volumes of the store are listed.
    #[arg(long, requires = "name")]
    id: Option<String>,
    /// An option; may be given several times.
    #[arg(short, long = "opt", value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// A label; may be given several times.
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let store: StoreName = args.store.parse()?;
    let Some(id) = &args.id else { return list(args, &store, cx).await };
    let options = pairs::read("-o", &args.options)?;
    // Checked here too, so that a mistake is told even while the daemon is away.
    let name = args.name.as_deref().unwrap_or_default();
    name.parse::<VolumeName>()?;
    id.parse::<VolumeId>()
        .map_err(|e| e.with_remedy(format!("those that are there are listed by: orlop volume adopt --store {store}{}", cx.root_flag())))?;
    VolumeOptions::parse(options.iter().map(|(k, v)| (k.as_str(), v.as_str())))?;
    let request = AdoptVolume { name: name.to_owned(), id: id.clone(), options, labels: pairs::read("--label", &args.labels)? };
    let volume = cx.client.adopt(&store, &request).await?;
    cx.ui.show(&volume, || format!("{}\n", volume.name))?;
    super::note_loss_window(&volume, cx);
    Ok(0)
}

async fn list(args: &Args, store: &StoreName, cx: &Context) -> Result<u8> {
    let found = cx.client.found(store).await?;
    cx.ui.show(&found, || found_table(&found))?;
    if found.iter().any(|f| f.known_as.is_none()) {
        let name = args.name.as_deref().unwrap_or("NAME");
        cx.ui.note(&format!("nothing was adopted; choose one with: orlop volume adopt {name} --store {store} --id ID{}", cx.root_flag()));
    }
    Ok(0)
}

/// The volumes of a store, a line each.
pub(crate) fn found_table(found: &[FoundVolume]) -> String {
    let mut table = Table::new(["ID", "MADE AS", "MADE", "LAST ON", "KNOWN HERE AS", ""]);
    for f in found {
        table.row(line(f));
    }
    table.text()
}

fn line(f: &FoundVolume) -> [String; 6] {
    let last = match (&f.last_host, f.released) {
        (Some(host), true) => format!("{host}, let go"),
        (Some(host), false) => host.clone(),
        (None, _) => "-".to_owned(),
    };
    let mut remarks = Vec::new();
    if f.encrypted {
        remarks.push("encrypted".to_owned());
    }
    remarks.extend(f.problem.clone());
    [
        f.id.to_string(),
        f.name.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        f.made_at.map_or_else(|| "-".to_owned(), moment),
        last,
        f.known_as.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        remarks.join("; "),
    ]
}
