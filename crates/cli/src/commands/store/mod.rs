//! `orlop store`: one file per command.

mod add;
mod inspect;
mod list;
mod remove;
mod set;
mod test;

pub(crate) use add::settings;

use crate::args::Context;
use orlop_model::Result;

/// Adds, shows, changes, tests and removes stores: the places where the bytes of volumes live.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Add(add::Args),
    #[command(visible_alias = "ls")]
    List(list::Args),
    Inspect(inspect::Args),
    Set(set::Args),
    Test(test::Args),
    #[command(visible_alias = "rm")]
    Remove(remove::Args),
}

pub(crate) async fn run(command: Command, cx: &Context) -> Result<u8> {
    match command {
        Command::Add(args) => add::run(&args, cx).await,
        Command::List(args) => list::run(&args, cx).await,
        Command::Inspect(args) => inspect::run(&args, cx).await,
        Command::Set(args) => set::run(&args, cx).await,
        Command::Test(args) => test::run(&args, cx).await,
        Command::Remove(args) => remove::run(&args, cx).await,
    }
}
