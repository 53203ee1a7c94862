//! `orlop store remove`

use crate::args::Context;
use crate::failure::{exit_code, report};
use orlop_model::{Error, ErrorKind, Result, StoreName};
use serde::Serialize;

/// Forgets stores in which no volume lives; nothing in them is touched.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The stores, by name.
    #[arg(required = true, value_name = "STORE")]
    stores: Vec<String>,
    /// Only say what would be done.
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// What came of one name.
#[derive(Serialize)]
struct Removal {
    store: StoreName,
    /// Whether it is removed now, or would be.
    removed: bool,
    /// Whether nothing was really done.
    dry_run: bool,
    /// Why it is not removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error>,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    // A malformed name anywhere stops everything before anything is removed.
    let names: Vec<StoreName> = args.stores.iter().map(|s| s.parse()).collect::<Result<_, Error>>()?;
    let mut removals = Vec::with_capacity(names.len());
    for name in names {
        let error = one(&name, args, cx).await.err();
        if let (1, Some(e)) = (args.stores.len(), &error) {
            return Err(e.clone());
        }
        removals.push(Removal { store: name, removed: error.is_none(), dry_run: args.dry_run, error });
    }
    cx.ui.show(&removals, || {
        let verb = if args.dry_run { "would remove" } else { "removed" };
        removals.iter().filter(|r| r.removed).map(|r| format!("{verb} {}; nothing in it is touched\n", r.store)).collect()
    })?;
    let errors = removals.iter().filter_map(|r| r.error.as_ref());
    for e in errors.clone() {
        report(cx.ui.format(), e);
    }
    Ok(errors.map(|e| exit_code(e.kind)).next().unwrap_or(0))
}

async fn one(name: &StoreName, args: &Args, cx: &Context) -> Result<()> {
    if !args.dry_run {
        return cx.client.remove_store(name).await;
    }
    // What the daemon would answer now.
    let store = cx.client.store(name).await?;
    if *name == StoreName::default_store() {
        return Err(Error::invalid("the default store cannot be removed").with_remedy("nothing needs to be done"));
    }
    if store.volumes > 0 {
        return Err(Error::new(ErrorKind::Busy, format!("{} volumes live in store {name}", store.volumes))
            .with_remedy(format!("remove its volumes first; orlop volume list --all{} shows them", cx.root_flag())));
    }
    Ok(())
}
