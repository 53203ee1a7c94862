//! `orlop mount`

use crate::args::Context;
use orlop_api::wire::Attach;
use orlop_model::{Error, ErrorKind, Result, VolumeRef};
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};

/// Mounts a volume on a folder of this host; returns when it is mounted.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The volume, by name or id.
    volume: String,
    /// An existing folder.
    dir: PathBuf,
    /// Refuse writing through this folder.
    #[arg(long, visible_alias = "ro")]
    read_only: bool,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let volume: VolumeRef = args.volume.parse()?;
    let request = Attach { directory: existing_folder(&args.dir)?, read_only: args.read_only };
    let attached = cx.client.attach(&volume, &request).await?;
    cx.ui.show(&attached, || {
        let how = if args.read_only { ", read-only" } else { "" };
        format!("{volume} is mounted on {}{how}\n", request.directory)
    })?;
    Ok(0)
}

/// The folder's real path: what the kernel's mount table will say.
fn existing_folder(dir: &Path) -> Result<String> {
    let shown = dir.display().to_string();
    let real = dir.canonicalize().map_err(|e| match e.kind() {
        Io::NotFound => {
            Error::not_found(format!("the folder {shown} does not exist")).with_remedy(format!("make it with: mkdir -p {shown}"))
        }
        Io::NotADirectory => Error::invalid(format!("{shown}: a part of the path is not a folder")).with_remedy("give an existing folder"),
        Io::NotConnected => {
            Error::new(ErrorKind::Busy, format!("{shown} is a dead mount")).with_remedy(format!("unmount it first with: umount -l {shown}"))
        }
        _ => Error::io(&shown, &e),
    })?;
    if !real.is_dir() {
        return Err(Error::invalid(format!("{shown} is not a folder")).with_remedy("give an existing folder"));
    }
    real.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::invalid(format!("{shown}: the path is not UTF-8")).with_remedy("give another folder"))
}
