//! The commands: one file each, folders as the command tree has them.

mod audit;
mod cat;
mod check;
mod completion;
mod doctor;
mod down;
mod export;
mod gc;
mod key;
mod ls;
mod mount;
mod names;
mod pairs;
mod status;
mod store;
mod unmount;
mod up;
mod upgrade;
mod version;
mod volume;

use crate::args::Context;
use clap::Subcommand;
use orlop_model::{Error, Result};
use std::future::Future;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(up::Args),
    Down(down::Args),
    Upgrade(upgrade::Args),
    Status(status::Args),
    Doctor(doctor::Args),
    #[command(subcommand, visible_alias = "vol")]
    Volume(volume::Command),
    #[command(subcommand)]
    Store(store::Command),
    Mount(mount::Args),
    #[command(visible_alias = "umount")]
    Unmount(unmount::Args),
    Ls(ls::Args),
    Cat(cat::Args),
    Check(check::Args),
    Gc(gc::Args),
    Export(export::Args),
    #[command(subcommand)]
    Key(key::Command),
    #[command(subcommand)]
    Audit(audit::Command),
    Completion(completion::Args),
    Version(version::Args),
    #[command(hide = true)]
    Names(names::Args),
    /// Holds the mounts of a root; started by the daemon.
    #[command(hide = true)]
    Keeper,
    /// Serves one volume; started by the keeper.
    #[command(hide = true)]
    Worker(crate::worker::Args),
}

/// Runs a command to its exit code.
pub(crate) fn dispatch(command: Command, cx: &Context) -> Result<u8> {
    match command {
        Command::Up(args) => up::run(&args, cx),
        Command::Down(args) => client(down::run(&args, cx)),
        Command::Upgrade(args) => client(upgrade::run(&args, cx)),
        Command::Status(args) => client(status::run(&args, cx)),
        Command::Doctor(args) => client(doctor::run(&args, cx)),
        Command::Volume(command) => client(volume::run(command, cx)),
        Command::Store(command) => client(store::run(command, cx)),
        Command::Mount(args) => client(mount::run(&args, cx)),
        Command::Unmount(args) => client(unmount::run(&args, cx)),
        Command::Ls(args) => client(ls::run(&args, cx)),
        Command::Cat(args) => client(cat::run(&args, cx)),
        Command::Key(command) => client(key::run(command, cx)),
        Command::Check(args) => client(check::run(&args, cx)),
        Command::Gc(args) => client(gc::run(&args, cx)),
        Command::Export(args) => export::run(&args, cx),
        Command::Audit(command) => client(audit::run(command, cx)),
        Command::Completion(args) => completion::run(&args, cx),
        Command::Version(args) => version::run(&args, cx),
        Command::Names(args) => client(names::run(&args, cx)),
        Command::Keeper => crate::keeper::run(&cx.root),
        Command::Worker(args) => crate::worker::run(&args, &cx.root),
    }
}

/// Runs what talks to a daemon: one thread is enough for that.
pub(crate) fn client(work: impl Future<Output = Result<u8>>) -> Result<u8> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| Error::io("starting the runtime", &e))?.block_on(work)
}
