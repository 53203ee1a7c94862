//! `orlop key`: one file per command.

mod export;
pub(crate) mod list;
mod rotate;

use crate::args::Context;
use orlop_model::Result;

/// Backs up, shows and changes the keys of encrypted volumes.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    #[command(visible_alias = "ls")]
    List(list::Args),
    Export(export::Args),
    Rotate(rotate::Args),
}

pub(crate) async fn run(command: Command, cx: &Context) -> Result<u8> {
    match command {
        Command::List(args) => list::run(&args, cx).await,
        Command::Export(args) => export::run(&args, cx),
        Command::Rotate(args) => rotate::run(&args, cx).await,
    }
}
