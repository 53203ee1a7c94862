//! `orlop volume`: one file per command.

mod adopt;
mod create;
mod du;
mod inspect;
mod list;
mod protect;
mod remove;
mod restore;
mod set;

pub(crate) use adopt::found_table;

use crate::args::Context;
use orlop_model::{Result, Volume};

/// Creates, adopts, shows, changes, removes and restores volumes.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Create(create::Args),
    Adopt(adopt::Args),
    #[command(visible_alias = "ls")]
    List(list::Args),
    Inspect(inspect::Args),
    Set(set::Args),
    Protect(protect::Args),
    #[command(visible_alias = "rm")]
    Remove(remove::Args),
    Restore(restore::Args),
    Du(du::Args),
}

pub(crate) async fn run(command: Command, cx: &Context) -> Result<u8> {
    match command {
        Command::Create(args) => create::run(&args, cx).await,
        Command::Adopt(args) => adopt::run(&args, cx).await,
        Command::List(args) => list::run(&args, cx).await,
        Command::Inspect(args) => inspect::run(&args, cx).await,
        Command::Set(args) => set::run(&args, cx).await,
        Command::Protect(args) => protect::run(&args, cx).await,
        Command::Remove(args) => remove::run(&args, cx).await,
        Command::Restore(args) => restore::run(&args, cx).await,
        Command::Du(args) => du::run(&args, cx).await,
    }
}

/// Says of a volume whose fsync does not wait for its store what that can cost.
fn note_loss_window(volume: &Volume, cx: &Context) {
    if let Some(seconds) = volume.loss_window_seconds {
        cx.ui.note(&format!(
            "{}: fsync does not wait for its store; what the last {seconds} s changed, or more while the store is away, is lost if this host is",
            volume.name
        ));
    }
}
