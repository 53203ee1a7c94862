//! `orlop volume list`

use crate::args::Context;
use crate::ui::{Table, moment};
use orlop_model::{AttachmentKind, ByteSize, Result, Volume, VolumeState};

/// Lists volumes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also the removed ones that can still be restored.
    #[arg(short, long)]
    all: bool,
    /// Only names.
    #[arg(short, long)]
    quiet: bool,
    /// Only volumes with this label.
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Option<String>,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let mut volumes = cx.client.volumes(args.all, !args.quiet).await?;
    if let Some(label) = &args.label {
        let (key, value) = label.split_once('=').map_or((label.as_str(), None), |(k, v)| (k, Some(v)));
        volumes.retain(|v| v.labels.get(key).is_some_and(|have| value.is_none_or(|want| want == have)));
    }
    if args.quiet {
        let names: Vec<_> = volumes.iter().map(|v| &v.name).collect();
        cx.ui.show(&names, || names.iter().map(|n| format!("{n}\n")).collect())?;
        return Ok(0);
    }
    cx.ui.show(&volumes, || {
        let mut table = Table::new(["NAME", "STATE", "USED", "SIZE", "USED BY", "STORE", "CREATED"]);
        for v in &volumes {
            table.row([
                v.name.to_string(),
                state(v),
                v.usage.as_ref().map_or_else(|| "-".to_owned(), |u| ByteSize(u.used_bytes).to_string()),
                v.options.size.map_or_else(|| "-".to_owned(), |s| s.to_string()),
                users(v),
                v.store.to_string(),
                moment(v.created_at),
            ]);
        }
        table.text()
    })?;
    Ok(0)
}

/// The state in a few words; for a removed volume until when it can be restored.
pub(crate) fn state(v: &Volume) -> String {
    let state = match v.state {
        VolumeState::Active if v.mountpoint.is_some() => match v.usage.as_ref().is_some_and(|u| u.stopped.is_some()) {
            true => "mounted, takes no changes".to_owned(),
            false => "mounted".to_owned(),
        },
        VolumeState::Active if !v.attachments.is_empty() => "not mounted".to_owned(),
        VolumeState::Active => "ready".to_owned(),
        VolumeState::Removed => match v.purge_at {
            Some(at) => format!("removed, kept until {}", moment(at)),
            None => "removed".to_owned(),
        },
        VolumeState::Purging => "being deleted".to_owned(),
    };
    if v.protected { state + ", protected" } else { state }
}

/// Who uses it, in short: Docker's mounts are counted, folders are named.
fn users(v: &Volume) -> String {
    let docker = v.attachments.iter().filter(|a| matches!(a.kind, AttachmentKind::Docker { .. })).count();
    let mut parts = Vec::new();
    match docker {
        0 => {}
        1 => parts.push("docker".to_owned()),
        n => parts.push(format!("docker ({n})")),
    }
    parts.extend(v.attachments.iter().filter_map(|a| match &a.kind {
        AttachmentKind::Directory { path, .. } => Some(path.clone()),
        AttachmentKind::Internal { purpose } => Some(purpose.clone()),
        AttachmentKind::Docker { .. } => None,
    }));
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}
