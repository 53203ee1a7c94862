//! `orlop completion`

use crate::args::{Cli, Context};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use orlop_model::Result;

/// Writes a completion script for a shell.
///
/// For bash: `orlop completion bash > /usr/share/bash-completion/completions/orlop`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// For which shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args, cx: &Context) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut visible(&Cli::command()), "orlop", &mut script);
    cx.ui.raw(&script)?;
    Ok(0)
}

/// The same command without what is not for people; the generators would offer it all the same.
fn visible(whole: &Command) -> Command {
    let shared = whole.get_arguments().filter(|a| !a.is_hide_set()).cloned();
    let commands = whole.get_subcommands().filter(|c| !c.is_hide_set()).cloned();
    let about = whole.get_about().cloned().unwrap_or_default();
    Command::new("orlop").about(about).version(env!("CARGO_PKG_VERSION")).args(shared).subcommands(commands)
}
