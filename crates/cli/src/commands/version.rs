//! `orlop version`

use crate::args::Context;
use orlop_model::Result;
use serde_json::json;

/// Shows the version of this binary.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args, cx: &Context) -> Result<u8> {
    let version = env!("CARGO_PKG_VERSION");
    cx.ui.show(&json!({ "version": version }), || format!("orlop {version}\n"))?;
    Ok(0)
}
