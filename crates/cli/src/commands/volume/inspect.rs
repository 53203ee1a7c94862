//! `orlop volume inspect`

use super::list::state;
use crate::args::Context;
use crate::ui::{Table, moment};
use orlop_model::{AttachmentKind, ByteSize, Error, Result, Volume, VolumeOptions, VolumeRef};

/// Shows everything about volumes; with `--output json` always a list, one element for each name.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The volumes, by name or id.
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let references: Vec<VolumeRef> = args.volumes.iter().map(|v| v.parse()).collect::<Result<_, Error>>()?;
    let mut volumes = Vec::with_capacity(references.len());
    for reference in &references {
        volumes.push(cx.client.volume(reference).await?);
    }
    cx.ui.show(&volumes, || volumes.iter().map(card).collect::<Vec<_>>().join("\n"))?;
    Ok(0)
}

fn card(v: &Volume) -> String {
    let mut card = Table::bare();
    let mut line = |key: &str, value: String| card.row([format!("{key}:"), value]);
    line("name", v.name.to_string());
    line("id", v.id.to_string());
    line("state", state(v));
    line("store", v.store.to_string());
    line("created", moment(v.created_at));
    if let Some(at) = v.removed_at {
        line("removed", moment(at));
    }
    if let Some(folder) = &v.folder {
        line("folder", if v.adopted { format!("{folder}, adopted") } else { folder.clone() });
    }
    if let Some(mountpoint) = &v.mountpoint {
        line("mountpoint", mountpoint.clone());
    }
    let given = v.options.to_pairs();
    for (key, value) in &given {
        line("option", format!("{key}={value}"));
    }
    for (key, value) in v.effective.iter().flat_map(VolumeOptions::to_pairs) {
        // The store has its own line, and the owner of the folder is whoever it was given to since.
        if !["store", "uid", "gid", "mode"].contains(&key.as_str()) && !given.contains_key(&key) {
            line("by default", format!("{key}={value}"));
        }
    }
    if let Some(seconds) = v.loss_window_seconds {
        line("loss window", format!("{seconds} s: what is younger is on this host alone, and longer while the store is away"));
    }
    for (key, value) in &v.labels {
        line("label", format!("{key}={value}"));
    }
    if let Some(usage) = &v.usage {
        if v.mountpoint.is_none() {
            line("at rest", "not mounted; what follows was so when it was last mounted here".to_owned());
        }
        if let Some(why) = &usage.stopped {
            line("takes no changes", format!("until it is unmounted and mounted again: {why}"));
        }
        line("used", format!("{} in {} inodes", ByteSize(usage.used_bytes), usage.inodes));
        line("on the host", ByteSize(usage.host_bytes).to_string());
        line("not yet safe", ByteSize(usage.unsynced_bytes).to_string());
        if usage.unsent_bytes > 0 || v.loss_window_seconds.is_some() {
            line("not in the store yet", ByteSize(usage.unsent_bytes).to_string());
        }
    }
    for a in &v.attachments {
        let who = match &a.kind {
            AttachmentKind::Docker { mount_id } => format!("docker, mount id {mount_id}"),
            AttachmentKind::Directory { path, read_only: true } => format!("{path}, read-only"),
            AttachmentKind::Directory { path, read_only: false } => path.clone(),
            AttachmentKind::Internal { purpose } => format!("orlop {purpose}"),
        };
        line("used by", format!("{who}, since {}", moment(a.since)));
    }
    card.text()
}
