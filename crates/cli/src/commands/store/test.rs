//! `orlop store test`

use super::add::warn;
use super::inspect::card;
use crate::args::Context;
use orlop_model::{Result, StoreName};

/// Tries out a store again, keeps what it can do, and measures how fast it is.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The store, by name.
    store: String,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let name: StoreName = args.store.parse()?;
    cx.ui.note(&format!("trying out store {name}: objects are written, read and deleted under a prefix of their own"));
    let test = cx.client.test_store(&name).await?;
    cx.ui.show(&test, || {
        let mut card = card(&test.store);
        for (what, micros) in [("put takes", test.put_micros), ("get takes", test.get_micros)] {
            if let Some(micros) = micros {
                card.row([format!("{what}:"), format!("{:.1} ms (median)", micros as f64 / 1000.0)]);
            }
        }
        card.text()
    })?;
    warn(&test.store, cx);
    Ok(0)
}
