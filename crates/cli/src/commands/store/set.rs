//! `orlop store set`

use super::add::{settings, warn};
use crate::args::Context;
use orlop_model::{Error, Result, StoreName, StoreSpec, StoreUpdate};

const HELP: &str = "\
The store is tried out the new way first; if that does not work nothing changes. Its URL stays, and so does the place:
a change under which the volumes that live there are not found is refused, and so is one that leads to a copy of them.
A copy can be told only while the store is still reached the old way, too.

Volumes that are mounted use the new way at once, without being unmounted. One whose worker is just being replaced
follows within a minute.

Settings and credentials are those of: orlop store add --help
";

/// Changes how a store is reached, while it is in use: its credentials and its settings.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The store, by name.
    store: String,
    /// Where its credentials are found from now on.
    #[arg(long, value_name = "REF")]
    credentials: Option<String>,
    /// Without credentials from now on.
    #[arg(long, conflicts_with = "credentials")]
    no_credentials: bool,
    /// A setting; may be given several times.
    #[arg(short, long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// A setting that goes back to its default; may be given several times.
    #[arg(long = "unset", value_name = "KEY")]
    unset: Vec<String>,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let name: StoreName = args.store.parse()?;
    let mut settings = settings(&args.settings)?;
    if settings.values().any(String::is_empty) {
        return Err(Error::invalid("a setting has no value").with_remedy("to have its default again, use --unset KEY"));
    }
    for key in &args.unset {
        if settings.insert(key.clone(), String::new()).is_some() {
            return Err(Error::invalid(format!("setting {key} is both set and unset")).with_remedy("leave one of them out"));
        }
    }
    let credentials = if args.no_credentials { Some(String::new()) } else { args.credentials.clone() };
    let update = StoreUpdate { credentials, settings };
    if update == StoreUpdate::default() {
        return Err(Error::invalid("nothing is to be changed").with_remedy("give --credentials, --set or --unset"));
    }
    // Checked here too, so that a secret given by mistake goes no further.
    update.applied_to(&StoreSpec::new("s3://any"))?;
    let store = cx.client.set_store(&name, &update).await?;
    cx.ui.show(&store, || format!("{}\n", store.name))?;
    warn(&store, cx);
    Ok(0)
}
