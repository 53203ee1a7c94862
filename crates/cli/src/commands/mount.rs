//! `orlop mount`

use super::unmount::{looked_at, reached};
use crate::args::Context;
use orlop_api::wire::{Attach, Attached};
use orlop_model::{Error, ErrorKind, Result, VolumeRef};
use std::io::{BufRead, ErrorKind as Io, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Mounts a volume on a folder of this host; returns when it is mounted.
///
/// A volume that another host had is watched for a lease first (30 seconds), and mounted when that host is silent.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The volume, by name or id.
    volume: String,
    /// An existing folder.
    dir: PathBuf,
    /// Refuse writing through this folder.
    #[arg(long, visible_alias = "ro")]
    read_only: bool,
    /// Mount it although another host acknowledged changes under durability local that it never sent to the store:
    /// they are given up for good. Says what is known of them and asks.
    #[arg(long)]
    abandon_unsynced: bool,
    /// With --abandon-unsynced: do not ask.
    #[arg(short, long, requires = "abandon_unsynced")]
    yes: bool,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let volume: VolumeRef = args.volume.parse()?;
    let request = Attach { directory: existing_folder(&args.dir)?, read_only: args.read_only, abandon_unsynced: false };
    let attached = match args.abandon_unsynced {
        true => abandoning(&volume, &request, args.yes, cx).await?,
        false => cx.client.attach(&volume, &request).await?,
    };
    cx.ui.show(&attached, || {
        let how = if args.read_only { ", read-only" } else { "" };
        format!("{volume} is mounted on {}{how}\n", request.directory)
    })?;
    Ok(0)
}

/// First without giving anything up: mostly nothing has to be, and the refusal says what would be lost.
async fn abandoning(volume: &VolumeRef, request: &Attach, yes: bool, cx: &Context) -> Result<Attached> {
    let giving_up = Attach { abandon_unsynced: true, ..request.clone() };
    if yes {
        return cx.client.attach(volume, &giving_up).await;
    }
    let refused = match cx.client.attach(volume, request).await {
        Err(e) if e.kind == ErrorKind::Busy && e.remedy.as_deref().is_some_and(|r| r.contains("--abandon-unsynced")) => e,
        other => {
            if other.is_ok() {
                cx.ui.note("nothing had to be given up");
            }
            return other;
        }
    };
    if !std::io::stdin().is_terminal() {
        return Err(Error { remedy: Some("to give that up for good, say so again with --yes".to_owned()), ..refused });
    }
    let mut out = std::io::stderr();
    let asked = write!(out, "{}\nGive up for good what it never sent? Type yes: ", refused.message).and_then(|()| out.flush());
    asked.map_err(|e| Error::io("asking", &e))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|e| Error::io("reading the answer", &e))?;
    if answer.trim() != "yes" {
        return Err(Error::new(ErrorKind::Busy, "nothing was given up and nothing mounted").with_remedy(refused.remedy.unwrap_or_default()));
    }
    cx.client.attach(volume, &giving_up).await
}

/// The folder's real path: what the kernel's mount table will say.
fn existing_folder(dir: &Path) -> Result<String> {
    let shown = dir.display().to_string();
    // Something may be mounted there that answers nobody.
    let looked = looked_at(dir, |dir| Some(dir.canonicalize().and_then(|real| Ok((real.metadata()?.is_dir(), real)))));
    let looked = looked.ok_or_else(|| {
        Error::unavailable(format!(
            "the folder {shown} does not answer: something is mounted there, or on the way there, that nobody serves"
        ))
        .with_remedy("see what with: orlop status; orlop unmount --force takes a volume away whose store is away")
    })?;
    // What stands there answers with an error, as a volume does that another host has: the daemon knows what it is.
    let looked = looked.or_else(|e| match e.kind() {
        Io::NotFound | Io::NotADirectory | Io::NotConnected => Err(e),
        _ => std::path::absolute(dir).ok().and_then(|dir| reached(&dir)).map(|real| (true, real)).ok_or(e),
    });
    let (is_folder, real) = looked.map_err(|e| match e.kind() {
        Io::NotFound => {
            Error::not_found(format!("the folder {shown} does not exist")).with_remedy(format!("make it with: mkdir -p {shown}"))
        }
        Io::NotADirectory => Error::invalid(format!("{shown}: a part of the path is not a folder")).with_remedy("give an existing folder"),
        Io::NotConnected => {
            Error::new(ErrorKind::Busy, format!("{shown} is a dead mount")).with_remedy(format!("unmount it first with: umount -l {shown}"))
        }
        _ => Error::io(&shown, &e),
    })?;
    if !is_folder {
        return Err(Error::invalid(format!("{shown} is not a folder")).with_remedy("give an existing folder"));
    }
    real.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::invalid(format!("{shown}: the path is not UTF-8")).with_remedy("give another folder"))
}
