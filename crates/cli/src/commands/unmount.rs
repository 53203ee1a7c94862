//! `orlop unmount`

use crate::args::Context;
use orlop_api::wire::Detach;
use orlop_model::{AttachmentKind, ByteSize, Error, ErrorKind, Result, Volume, VolumeRef};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// Unmounts a folder, or every folder that a volume is mounted on by `orlop mount`.
///
/// With its last folder a volume comes to rest; while its store does not have what was written that is refused, and the folder stays
/// mounted.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A folder (anything with a slash), or a volume by name or id.
    #[arg(value_name = "DIR|VOLUME")]
    target: String,
    /// Also while it is used, or while its store is away: users of the last folder are cut off, and what was acknowledged stays on this host
    /// until the volume is mounted here again.
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let (volume, folders) = find(&args.target, cx).await?;
    let by_id = VolumeRef::Id(volume.id);
    // A list is without what volumes take.
    let known = if volume.usage.is_some() { volume.usage.clone() } else { cx.client.volume(&by_id).await.ok().and_then(|v| v.usage) };
    let stopped = known.and_then(|usage| usage.stopped);
    for folder in &folders {
        cx.client.detach(&by_id, &Detach { directory: Some(folder.clone()), force: args.force, ..Detach::default() }).await?;
    }
    cx.ui.show(&json!({ "volume": volume.name, "unmounted": folders }), || {
        folders.iter().map(|f| format!("{} is unmounted from {f}\n", volume.name)).collect()
    })?;
    if let Some(why) = stopped {
        cx.ui.note(&format!("note: {} took no changes any more here: {why}", volume.name));
        return Ok(0);
    }
    // Somebody else may have removed it since: that is no failure of this.
    let left = cx.client.volume(&by_id).await.ok().filter(|v| v.mountpoint.is_none()).and_then(|v| v.usage);
    let unsent = match left {
        Some(usage) if usage.unsent_bytes > 0 => Some(ByteSize(usage.unsent_bytes).to_string()),
        None if args.force => Some("whatever".to_owned()),
        _ => None,
    };
    if let Some(what) = unsent {
        cx.ui.note(&format!(
            "note: {what} that was acknowledged and the store of {} does not have stays on this host, and is sent when it is mounted here again",
            volume.name
        ));
    }
    Ok(0)
}

async fn find(target: &str, cx: &Context) -> Result<(Volume, Vec<String>)> {
    let mut no_volume = None;
    if !target.contains('/') && !target.starts_with('.') {
        let named = async { cx.client.volume(&target.parse()?).await }.await;
        match named {
            Ok(volume) => {
                let folders = folders(&volume);
                if folders.is_empty() {
                    return Err(Error::not_found(format!("volume {target} is not mounted on any folder"))
                        .with_remedy(format!("see who uses it with: orlop volume inspect {target}{}", cx.root_flag())));
                }
                return Ok((volume, folders));
            }
            Err(e) if matches!(e.kind, ErrorKind::NotFound | ErrorKind::InvalidArgument) => no_volume = Some(e),
            Err(e) => return Err(e),
        }
    }
    let written = std::path::absolute(target).map_err(|e| Error::io(target, &e))?;
    let volumes = cx.client.volumes(false, false).await?;
    let holds = |path: &Path| {
        let wanted = path.to_string_lossy().into_owned();
        volumes.iter().find(|v| folders(v).contains(&wanted)).map(|v| (v.clone(), vec![wanted.clone()]))
    };
    // The folder itself is looked at last, for the sake of links to it: what is mounted there may answer nobody.
    if let Some(found) = holds(&written) {
        return Ok(found);
    }
    let reached = looked_at(&written, reached);
    if let Some(found) = reached.as_deref().and_then(holds) {
        return Ok(found);
    }
    let real = looked_at(&written, |path| path.canonicalize().ok());
    if let Some(found) = real.as_deref().and_then(holds) {
        return Ok(found);
    }
    if let (Some(e), None) = (no_volume, &real) {
        return Err(e);
    }
    let wanted = real.or(reached).unwrap_or(written);
    Err(Error::not_found(format!("no volume is mounted on {} by this Orlop", wanted.display()))
        .with_remedy(format!("list the mounts with: orlop status{}", cx.root_flag())))
}

/// The way to a folder without links in it; the folder itself is not looked at.
pub(super) fn reached(path: &Path) -> Option<PathBuf> {
    Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?))
}

/// How long a folder may take to answer.
const ANSWERING: Duration = Duration::from_secs(3);

/// What a look at a path tells, if it answers in time: a dead mount never does, and neither does whoever looks at it.
pub(super) fn looked_at<T: Send + 'static>(path: &Path, look: impl FnOnce(&Path) -> Option<T> + Send + 'static) -> Option<T> {
    let (tell, told) = mpsc::channel();
    let path = path.to_owned();
    // It ends with this process.
    std::thread::spawn(move || {
        // Nobody may be waiting any more.
        let _ = tell.send(look(&path));
    });
    told.recv_timeout(ANSWERING).ok().flatten()
}

fn folders(volume: &Volume) -> Vec<String> {
    let of = |kind: &AttachmentKind| match kind {
        AttachmentKind::Directory { path, .. } => Some(path.clone()),
        AttachmentKind::Docker { .. } | AttachmentKind::Internal { .. } => None,
    };
    volume.attachments.iter().filter_map(|a| of(&a.kind)).collect()
}
