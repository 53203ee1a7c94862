//! `orlop key rotate`

use crate::args::Context;
use orlop_model::{ErrorKind, KeyReport, KeyRotation, Result, VolumeRef};
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Makes a new master key and wraps the key ring of every encrypted volume with it, while they are in use.
///
/// The data is not written anew. Killed at any step, it goes on where it stopped when it is run again; the old master
/// key stays on the host until no ring needs it. With a volume, adds a new data key to its ring instead.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Give this volume a new data key, for what is written from its next mount on.
    #[arg(value_name = "VOLUME")]
    volume: Option<String>,
    /// Only say what would be done.
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    // A malformed name stops here, before anything is asked for.
    let volume = args.volume.as_deref().map(|v| v.parse::<VolumeRef>()).transpose()?;
    if args.dry_run {
        return dry_run(volume, cx).await;
    }
    let Some(volume) = volume else { return rotate_master(cx).await };
    let report = cx.client.rotate_keys(Some(&volume)).await?;
    let ring = report.volumes.iter().find(|v| VolumeRef::Id(v.volume) == volume || VolumeRef::Name(v.name.clone()) == volume);
    cx.ui.show(&ring, || {
        let id = ring.and_then(|r| r.keys.iter().find(|k| k.current)).map(|k| k.id.clone()).unwrap_or_default();
        format!("volume {volume} has the new data key {id}; it is used from the next mount on\n")
    })?;
    Ok(0)
}

async fn dry_run(volume: Option<VolumeRef>, cx: &Context) -> Result<u8> {
    if let Some(volume) = volume {
        let found = cx.client.volume(&volume).await?;
        let encrypted = found.options.encrypt == Some(true);
        cx.ui.show(&json!({ "dry_run": true, "volume": found.name, "encrypted": encrypted }), || match encrypted {
            true => format!("volume {} would get a new data key, used from its next mount on\n", found.name),
            false => format!("volume {} is not encrypted, so it has no keys\n", found.name),
        })?;
        return Ok(0);
    }
    let report = cx.client.keys().await?;
    let current = report.masters.iter().find(|m| m.current).map(|m| m.id.clone()).unwrap_or_default();
    let rings = report.volumes.len();
    cx.ui.show(&json!({ "dry_run": true, "resume": report.rotation_open, "rings": rings, "replaces": current }), || {
        match report.rotation_open {
            true => format!("the rotation to master key {current} would go on: {rings} key rings\n"),
            false => format!("a new master key would replace {current}, and wrap {rings} key rings\n"),
        }
    })?;
    Ok(0)
}

async fn rotate_master(cx: &Context) -> Result<u8> {
    let work = cx.client.rotate_keys(None);
    tokio::pin!(work);
    let mut shown = Progress::new(cx);
    let mut answer = loop {
        tokio::select! {
            done = &mut work => break done,
            () = tokio::time::sleep(Duration::from_millis(300)) => shown.show(cx.client.key_rotation().await.ok().flatten().as_ref()),
        }
    };
    // It takes longer than an answer may: the daemon goes on, and so does the watching.
    while let Err(e) = &answer {
        let running =
            e.kind == ErrorKind::Unavailable && matches!(cx.client.key_rotation().await, Ok(Some(KeyRotation { running: true, .. })));
        if !running {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = cx.client.key_rotation().await?;
        shown.show(now.as_ref());
        if now.is_some_and(|r| !r.running) {
            answer = cx.client.keys().await;
        }
    }
    shown.end();
    let report = answer?;
    cx.ui.show(&report, || text(&report))?;
    cx.ui.note(&format!("warning: the new master key has no backup yet; make one with: orlop key export{}", cx.root_flag()));
    Ok(0)
}

fn text(report: &KeyReport) -> String {
    let Some(r) = &report.rotation else { return String::new() };
    let how = if r.resumed { "the rotation that was begun is complete: " } else { "" };
    let rings = if r.total == 1 { "key ring is" } else { "key rings are" };
    let mut text = format!("{how}{} {rings} wrapped by master key {}\n", r.total, r.master);
    for id in &r.retired {
        text.push_str(&format!("master key {id} is not needed any more and was removed from this host\n"));
    }
    if r.resumed {
        text.push_str("to make another new key, run the command again\n");
    }
    text
}

/// A line that counts, for people at a terminal.
struct Progress {
    on: bool,
    drawn: bool,
}

impl Progress {
    fn new(cx: &Context) -> Progress {
        Progress { on: cx.ui.format() == crate::ui::Format::Table && std::io::stderr().is_terminal(), drawn: false }
    }

    fn show(&mut self, at: Option<&KeyRotation>) {
        let Some(at) = at.filter(|r| self.on && r.running) else { return };
        self.drawn = true;
        let _ = write!(std::io::stderr(), "\r{} of {} key rings are wrapped anew", at.done, at.total);
    }

    fn end(&self) {
        if self.drawn {
            let _ = writeln!(std::io::stderr());
        }
    }
}
