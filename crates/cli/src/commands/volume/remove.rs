//! `orlop volume remove`

use crate::args::Context;
use crate::failure::{exit_code, report};
use crate::ui::moment;
use orlop_model::{AttachmentKind, Error, ErrorKind, Result, Volume, VolumeRef};
use serde::Serialize;

/// Removes volumes; their data is kept for a while and can be restored.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The volumes, by name or id.
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
    /// Delete the data at once, without a way back.
    #[arg(long)]
    now: bool,
    /// Only say what would be done.
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// What came of one name.
#[derive(Serialize)]
struct Removal {
    /// As it was given.
    volume: String,
    /// Whether it is removed now, or would be.
    removed: bool,
    /// Whether nothing was really done.
    dry_run: bool,
    /// Until when it can be restored; absent if its data is gone.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    restorable_until: Option<time::OffsetDateTime>,
    /// Of an adopted folder: it stays, and only the volume is forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    folder_stays: Option<String>,
    /// The command that takes it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    restore_with: Option<String>,
    /// Why it is not removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error>,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    // A malformed name anywhere stops everything before anything is removed.
    let references: Vec<VolumeRef> = args.volumes.iter().map(|v| v.parse()).collect::<Result<_, Error>>()?;
    let mut removals = Vec::with_capacity(references.len());
    for reference in &references {
        removals.push(match one(reference, args, cx).await {
            Ok(removal) => removal,
            // Without a daemon each name would fail the same way.
            Err(e) if e.kind == ErrorKind::Unavailable && references.len() == 1 => return Err(e),
            Err(e) => failed(reference, args.dry_run, e),
        });
    }
    let code = removals.iter().filter_map(|r| r.error.as_ref()).map(|e| exit_code(e.kind)).next().unwrap_or(0);
    if let ([only], true) = (&removals[..], code != 0)
        && let Some(e) = &only.error
    {
        return Err(e.clone());
    }
    cx.ui.show(&removals, || removals.iter().filter(|r| r.error.is_none()).map(line).collect())?;
    for e in removals.iter().filter_map(|r| r.error.as_ref()) {
        report(cx.ui.format(), e);
    }
    Ok(code)
}

async fn one(reference: &VolumeRef, args: &Args, cx: &Context) -> Result<Removal> {
    let mut folder_stays = None;
    let mut is_kept = !args.now;
    let removed = if args.dry_run {
        let volume = cx.client.volume(reference).await?;
        refused(&volume, cx)?;
        is_kept &= volume.options.retention != Some(0);
        folder_stays = volume.folder.filter(|_| volume.adopted);
        None
    } else {
        cx.client.remove(reference, args.now).await?
    };
    if let Some(volume) = removed.as_ref().filter(|v| v.adopted) {
        folder_stays.clone_from(&volume.folder);
    }
    // With retention=0 its time is over with the removal: nothing brings it back.
    is_kept &= removed.as_ref().is_none_or(|v| v.purge_at > v.removed_at);
    let until = removed.as_ref().and_then(|v| v.purge_at).filter(|_| is_kept);
    let restore_with = match (&removed, args.dry_run) {
        _ if folder_stays.is_some() || !is_kept => None,
        (Some(volume), false) => Some(format!("orlop volume restore {}{}", volume.name, cx.root_flag())),
        (None, true) => Some(format!("orlop volume restore {reference}{}", cx.root_flag())),
        _ => None,
    };
    Ok(Removal {
        volume: reference.to_string(),
        removed: true,
        dry_run: args.dry_run,
        restorable_until: until,
        folder_stays,
        restore_with,
        error: None,
    })
}

/// What the daemon would answer now.
fn refused(volume: &Volume, cx: &Context) -> Result<()> {
    let name = &volume.name;
    if volume.protected {
        return Err(Error::new(ErrorKind::Protected, format!("volume {name} is protected"))
            .with_remedy(format!("unprotect it with: orlop volume protect --off {name}{}", cx.root_flag())));
    }
    let holders: Vec<String> = volume
        .attachments
        .iter()
        .map(|a| match &a.kind {
            AttachmentKind::Docker { mount_id } => format!("docker (mount id {mount_id})"),
            AttachmentKind::Directory { path, .. } => path.clone(),
            AttachmentKind::Internal { purpose } => format!("orlop {purpose}"),
        })
        .collect();
    if !holders.is_empty() {
        return Err(Error::new(ErrorKind::Busy, format!("volume {name} is in use by {}", holders.join(", ")))
            .with_remedy("stop its containers and unmount its folders first"));
    }
    Ok(())
}

fn failed(reference: &VolumeRef, dry_run: bool, e: Error) -> Removal {
    Removal {
        volume: reference.to_string(),
        removed: false,
        dry_run,
        restorable_until: None,
        folder_stays: None,
        restore_with: None,
        error: Some(e),
    }
}

fn line(r: &Removal) -> String {
    if let Some(folder) = &r.folder_stays {
        let verb = if r.dry_run { "would forget" } else { "forgot" };
        return format!("{verb} {}; its folder {folder} was there before and stays as it is\n", r.volume);
    }
    match (r.dry_run, r.restorable_until, &r.restore_with) {
        (true, _, Some(command)) => format!("would remove {}; its data would be kept, and taken back with: {command}\n", r.volume),
        (true, _, None) => format!("would delete {} for good\n", r.volume),
        (false, Some(until), Some(command)) => {
            format!("removed {}; its data is kept until {}, take it back with: {command}\n", r.volume, moment(until))
        }
        (false, _, _) => format!("deleted {} for good\n", r.volume),
    }
}
