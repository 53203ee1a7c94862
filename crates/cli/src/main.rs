//! The one binary `orlop`: reads the command line, runs one command, ends with the exit code of what came of it.

mod args;
mod commands;
mod daemon;
mod failure;
mod found;
mod keeper;
mod progress;
#[cfg(test)]
mod reference;
mod ui;
mod worker;

use args::{Cli, Context};
use clap::Parser;
use clap::error::ErrorKind as Usage;
use orlop_model::Error;
use std::process::ExitCode;
use ui::Format;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let format = cli.output;
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            failure::report(format, &e);
            ExitCode::from(failure::exit_code(e.kind))
        }
    }
}

fn run(cli: Cli) -> orlop_model::Result<u8> {
    let context = Context::new(&cli.root, cli.output)?;
    commands::dispatch(cli.command, &context)
}

/// A command line that clap does not take: help and version are no failure; the rest is, in the form asked for.
fn usage(e: &clap::Error) -> ExitCode {
    // Any bytes may be an argument; those that are no text are among what clap refuses.
    let words = std::env::args_os().map(|a| a.to_string_lossy().into_owned());
    let wanted = words.skip_while(|a| !a.starts_with("--output")).take(2).collect::<Vec<_>>().join("=");
    let format = match wanted.strip_prefix("--output=").map(|w| w.split('=').next().unwrap_or_default().to_owned()).as_deref() {
        Some("json") => Format::Json,
        Some("yaml") => Format::Yaml,
        _ => Format::Table,
    };
    if matches!(e.kind(), Usage::DisplayHelp | Usage::DisplayVersion) {
        let _ = e.print();
        return ExitCode::SUCCESS;
    }
    if format == Format::Table {
        let _ = e.print();
    } else {
        let text = e.to_string();
        // What is missing or not taken stands in the lines below the first one.
        let lines: Vec<&str> = text.trim_start_matches("error: ").lines().map(str::trim).take_while(|l| !l.is_empty()).collect();
        let message = if lines.is_empty() { "the command line is wrong".to_owned() } else { lines.join(" ") };
        failure::report(format, &Error::invalid(message).with_remedy("see the command's --help"));
    }
    ExitCode::from(2)
}
