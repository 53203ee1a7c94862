//! `orlop cat`

use super::ls::place;
use crate::args::Context;
use orlop_model::Result;
use std::ffi::OsString;

/// Writes files of a volume to standard output.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Volumes and the paths in them.
    #[arg(value_name = "VOLUME:/PATH", required = true)]
    places: Vec<OsString>,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    for text in &args.places {
        let (volume, path) = place(text)?;
        let mut content = cx.client.content(&volume, &path).await?;
        while let Some(piece) = content.next().await? {
            cx.ui.raw(&piece)?;
        }
    }
    Ok(0)
}
