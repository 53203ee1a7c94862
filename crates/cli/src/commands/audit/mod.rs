//! `orlop audit`: one file per command.

mod export;
mod list;
mod verify;

pub(crate) use verify::offline;

use crate::args::Context;
use orlop_model::Result;

/// Shows, exports and verifies the record of every change.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    #[command(visible_alias = "ls")]
    List(list::Args),
    Export(export::Args),
    Verify(verify::Args),
}

pub(crate) async fn run(command: Command, cx: &Context) -> Result<u8> {
    match command {
        Command::List(args) => list::run(&args, cx).await,
        Command::Export(args) => export::run(&args, cx).await,
        Command::Verify(args) => verify::run(&args, cx).await,
    }
}
