//! `orlop names`: what a shell's completion asks for. Which names fit is found out from the commands themselves, so that no script knows it.

use crate::args::{Cli, Context};
use clap::{Arg, Command, CommandFactory};
use orlop_api::Client;
use orlop_model::{Result, VolumeState};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long somebody who pressed a key waits for names.
const PATIENCE: Duration = Duration::from_millis(800);

/// Writes the names that may stand after these words of a command line; nothing if there are none or nobody tells.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The words before the one that is being typed, the program's own included.
    #[arg(last = true)]
    words: Vec<OsString>,
}

/// Names of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Volumes,
    Removed,
    Stores,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let Some((what, root)) = wanted(&args.words) else { return Ok(0) };
    let client = match root.map(|root| Context::new(&root, cx.ui.format())) {
        None => cx.client.clone(),
        Some(Ok(other)) => other.client,
        // The command itself will say what is wrong with it.
        Some(Err(_)) => return Ok(0),
    };
    if !may_ask(client.root()) {
        return Ok(0);
    }
    if let Ok(Ok(names)) = tokio::time::timeout(PATIENCE, names(&client, what)).await {
        cx.ui.raw(names.iter().map(|name| format!("{name}\n")).collect::<String>().as_bytes())?;
    }
    Ok(0)
}

/// Who is refused in any case, as before a `sudo`, leaves nothing in the audit journal for having pressed a key.
fn may_ask(root: &Path) -> bool {
    let user = nix::unistd::geteuid();
    user.is_root() || std::fs::metadata(root).is_ok_and(|m| m.uid() == user.as_raw())
}

async fn names(client: &Client, what: Names) -> Result<Vec<String>> {
    let mut names: Vec<String> = match what {
        Names::Stores => client.stores().await?.into_iter().map(|s| s.name.to_string()).collect(),
        Names::Volumes | Names::Removed => {
            let state = if what == Names::Removed { VolumeState::Removed } else { VolumeState::Active };
            let volumes = client.volumes(what == Names::Removed, false).await?;
            volumes.into_iter().filter(|v| v.state == state).map(|v| v.name.to_string()).collect()
        }
    };
    names.dedup();
    Ok(names)
}

/// What may stand after these words, and in which root, if they name one. A `=` may be a word of its own: bash cuts there.
fn wanted(words: &[OsString]) -> Option<(Names, Option<PathBuf>)> {
    let mut whole = Cli::command();
    whole.build();
    let (mut command, mut position, mut root) = (&whole, 0, None);
    let mut option: Option<&Arg> = None;
    for word in words.iter().skip(1) {
        let text = word.to_string_lossy();
        if let Some(open) = option {
            if text != "=" {
                if open.get_id().as_str() == "root" {
                    root = Some(PathBuf::from(word));
                }
                option = None;
            }
        } else if let Some(long) = text.strip_prefix("--") {
            let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            let named = command.get_arguments().find(|a| a.get_long() == Some(name) && a.get_action().takes_values());
            match value {
                Some(value) if name == "root" => root = Some(PathBuf::from(value)),
                Some(_) => {}
                None => option = named,
            }
        } else if let Some(short) = text.strip_prefix('-').filter(|short| short.chars().count() == 1) {
            option = command.get_arguments().find(|a| a.get_short() == short.chars().next() && a.get_action().takes_values());
        } else if let (0, Some(sub)) = (position, command.find_subcommand(word)) {
            command = sub;
        } else {
            position += 1;
        }
    }
    let takes_more = |a: &&Arg| a.get_num_args().is_some_and(|n| n.max_values() > 1);
    let place = || command.get_positionals().nth(position).or_else(|| command.get_positionals().last().filter(takes_more));
    names_of(command, option.or_else(place)?).map(|what| (what, root))
}

/// What an argument of a command names.
fn names_of(command: &Command, argument: &Arg) -> Option<Names> {
    match (command.get_name(), argument.get_id().as_str()) {
        // It reads stores by their URLs, where no daemon needs to be.
        ("export", _) => None,
        ("restore", "volume") => Some(Names::Removed),
        (_, "volume" | "volumes" | "target" | "place" | "places") => Some(Names::Volumes),
        (_, "store" | "stores") => Some(Names::Stores),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_takes_names_as_its_command_says() {
        let of = |line: &str| wanted(&line.split(' ').map(OsString::from).collect::<Vec<_>>()).map(|(what, _)| what);
        for line in [
            "orlop volume inspect",
            "orlop vol rm one",
            "orlop volume set -o size=1G",
            "orlop mount",
            "orlop mount --read-only",
            "orlop unmount",
            "orlop umount",
            "orlop ls",
            "orlop cat",
            "orlop cat one:/x",
            "orlop check --repair",
            "orlop gc",
            "orlop volume du",
            "orlop key rotate",
            "orlop audit list --volume",
            "orlop audit list --volume =",
            "orlop --output json volume protect --off",
        ] {
            assert_eq!(of(line), Some(Names::Volumes), "{line}");
        }
        assert_eq!(of("orlop volume restore"), Some(Names::Removed));
        for line in ["orlop store test", "orlop store set", "orlop store rm one", "orlop volume adopt x --store", "orlop store set -s a=b"]
        {
            assert_eq!(of(line), Some(Names::Stores), "{line}");
        }
        for line in [
            "orlop",
            "orlop volume",
            "orlop volume create",
            "orlop volume restore one",
            "orlop mount one",
            "orlop ls one : /x",
            "orlop volume list",
            "orlop volume set -o",
            "orlop store add",
            "orlop export",
            "orlop export --store",
            "orlop nothing",
            "orlop --root",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }

    #[test]
    fn a_root_that_is_named_is_the_one_that_is_asked() {
        let root = |line: &str| wanted(&line.split(' ').map(OsString::from).collect::<Vec<_>>()).and_then(|(_, root)| root);
        for line in ["orlop --root /r mount", "orlop mount --root=/r", "orlop --root = /r mount", "orlop volume --root /r inspect"] {
            assert_eq!(root(line), Some(PathBuf::from("/r")), "{line}");
        }
        assert_eq!(root("orlop mount"), None);
    }
}
