//! The top of the command line: what every command shares, and the context that a command runs in.

use crate::commands::Command;
use crate::ui::{Format, Ui};
use clap::Parser;
use orlop_api::Client;
use orlop_model::{Error, Result};
use std::path::{Path, PathBuf};

/// Where Orlop lives unless it is told otherwise.
pub(crate) const DEFAULT_ROOT: &str = "/var/lib/orlop";

/// Keeps the data of containers: volumes that outlive them, with an audited record and a way back.
#[derive(Debug, Parser)]
#[command(name = "orlop", version, max_term_width = 100, disable_help_subcommand = true, after_long_help = crate::failure::exit_code_help())]
pub(crate) struct Cli {
    /// The folder that holds everything of one Orlop; several live side by side.
    #[arg(long, global = true, env = "ORLOP_ROOT", hide_env_values = true, default_value = DEFAULT_ROOT, value_name = "DIR", value_parser = any_path)]
    pub root: PathBuf,
    /// How results and errors are written.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Any text; an empty one is refused later, with the other roots that cannot be used.
fn any_path(text: &str) -> Result<PathBuf, std::convert::Infallible> {
    Ok(PathBuf::from(text))
}

/// What a command runs in.
pub(crate) struct Context {
    /// The root folder, absolute.
    pub root: PathBuf,
    /// Where results go.
    pub ui: Ui,
    /// The daemon of that root.
    pub client: Client,
}

impl Context {
    /// The context that the shared arguments ask for.
    pub(crate) fn new(root: &Path, output: Format) -> Result<Context> {
        let root = absolute_root(root)?;
        Ok(Context { client: Client::new(&root), ui: Ui::new(output), root })
    }

    /// `--root DIR` as it has to stand in a command that is suggested to the user; empty for the default root.
    pub(crate) fn root_flag(&self) -> String {
        if self.root == Path::new(DEFAULT_ROOT) { String::new() } else { format!(" --root {}", self.root.display()) }
    }
}

/// A root folder that every part can work with: absolute, plain text, short enough for socket paths.
fn absolute_root(root: &Path) -> Result<PathBuf> {
    let refuse = |why: &str| {
        Error::invalid(format!("the root folder {:?} cannot be used: {why}", root.display().to_string()))
            .with_remedy("give another folder with --root DIR or ORLOP_ROOT")
    };
    if root.as_os_str().is_empty() {
        return Err(refuse("it is empty"));
    }
    let absolute = std::path::absolute(root).map_err(|e| refuse(&e.to_string()))?;
    // The folder itself may be reached over links; everything else compares paths, so the links go away here.
    let absolute = absolute.canonicalize().unwrap_or(absolute);
    let text = absolute.to_str().ok_or_else(|| refuse("its path is not UTF-8"))?;
    if text == "/" {
        return Err(refuse("it is the root of the file system"));
    }
    // The path becomes part of store URLs and of the kernel's mount table.
    if let Some(c) = text.chars().find(|c| c.is_control() || matches!(c, '#' | '?' | '%' | '\\' | ',' | '"')) {
        return Err(refuse(&format!("its path contains {c:?}")));
    }
    Ok(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_that_no_part_could_use_are_refused_with_the_reason() {
        for (bad, word) in
            [("", "empty"), ("/", "root of the file system"), ("/tmp/a#b", "'#'"), ("/tmp/a\nb", "'\\n'"), ("/tmp/50%", "'%'")]
        {
            let e = absolute_root(Path::new(bad)).expect_err(bad);
            assert!(e.message.contains(word), "{e}");
            assert!(e.remedy.is_some());
        }
        assert!(absolute_root(Path::new("some/where")).expect("fine").is_absolute());
    }
}
