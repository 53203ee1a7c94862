//! `orlop store list`

use crate::args::Context;
use crate::ui::{Table, moment};
use orlop_model::{Result, Store};

/// Lists stores.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only names.
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let stores = cx.client.stores().await?;
    if args.quiet {
        let names: Vec<_> = stores.iter().map(|s| &s.name).collect();
        cx.ui.show(&names, || names.iter().map(|n| format!("{n}\n")).collect())?;
        return Ok(0);
    }
    cx.ui.show(&stores, || {
        let mut table = Table::new(["NAME", "URL", "TAKES", "VOLUMES", "CREATED"]);
        for s in &stores {
            table.row([s.name.to_string(), s.spec.url.clone(), takes(s).to_owned(), s.volumes.to_string(), moment(s.created_at)]);
        }
        table.text()
    })?;
    Ok(0)
}

/// Which volumes live there, in a word.
pub(super) fn takes(store: &Store) -> &'static str {
    match (store.spec.is_plain(), &store.refusal) {
        (true, _) => "plain volumes",
        (false, None) => "volumes",
        (false, Some(_)) => "nothing",
    }
}
