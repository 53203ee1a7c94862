//! `orlop completion`

use crate::args::{Cli, Context};
use clap::CommandFactory;
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
    clap_complete::generate(args.shell, &mut Cli::command(), "orlop", &mut script);
    cx.ui.raw(&script)?;
    Ok(0)
}
