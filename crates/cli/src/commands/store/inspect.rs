//! `orlop store inspect`

use super::list::takes;
use crate::args::Context;
use crate::ui::{Table, moment};
use orlop_model::{Capabilities, Error, Result, Store, StoreName};

/// Shows everything about stores; with `--output json` always a list, one element for each name.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The stores, by name.
    #[arg(required = true, value_name = "STORE")]
    stores: Vec<String>,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let names: Vec<StoreName> = args.stores.iter().map(|s| s.parse()).collect::<Result<_, Error>>()?;
    let mut stores = Vec::with_capacity(names.len());
    for name in &names {
        stores.push(cx.client.store(name).await?);
    }
    cx.ui.show(&stores, || stores.iter().map(|s| card(s).text()).collect::<Vec<_>>().join("\n"))?;
    Ok(0)
}

/// A store as lines.
pub(super) fn card(s: &Store) -> Table {
    let mut card = Table::bare();
    let mut line = |key: &str, value: String| card.row([format!("{key}:"), value]);
    line("name", s.name.to_string());
    line("url", s.spec.url.clone());
    for (key, value) in &s.spec.settings {
        line("setting", format!("{key}={value}"));
    }
    if let Some(credentials) = &s.spec.credentials {
        line("credentials", credentials.to_string());
    }
    line("created", moment(s.created_at));
    line("volumes", s.volumes.to_string());
    line("takes", takes(s).to_owned());
    if let Some(reason) = &s.refusal {
        line("because", reason.clone());
    }
    if let Some(c) = &s.capabilities {
        for (what, there) in abilities(c) {
            line(what, if there { "yes" } else { "no" }.to_owned());
        }
        if let Some(ms) = c.clock_skew_ms {
            line("clock", format!("{ms} ms ahead of this host's"));
        }
    }
    if let Some(at) = s.examined_at {
        line("examined", moment(at));
    }
    card
}

fn abilities(c: &Capabilities) -> [(&'static str, bool); 9] {
    [
        ("conditional create", c.conditional_create),
        ("conditional replace", c.conditional_replace),
        ("the same at the same moment", c.atomic_conditions),
        ("ranged reads", c.ranged_get),
        ("multipart", c.multipart),
        ("copy", c.copy),
        ("listing at once", c.strong_list),
        ("listing by folder", c.list_by_folder),
        ("repeatable delete", c.idempotent_delete),
    ]
}
