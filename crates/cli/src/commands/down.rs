//! `orlop down`

use super::up;
use crate::args::Context;
use crate::daemon;
use orlop_api::wire::{Shutdown, ShutdownReport};
use orlop_model::{Error, ErrorKind, Result};
use orlop_mount::keeper::has_workers;
use std::time::{Duration, Instant};

/// Stops Orlop cleanly: unmounts every volume and ends all its processes. Refused while volumes are in use.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also while containers or folders use volumes: they lose their mounts.
    #[arg(long)]
    force: bool,
    /// Only end the daemon; volumes stay mounted, containers notice nothing, `orlop up` goes on.
    #[arg(long, conflicts_with = "force")]
    keep_mounts: bool,
    /// Remove the plugin's socket file too. It stays otherwise while volumes exist, so that Docker refuses
    /// to start their containers instead of silently giving them empty local volumes.
    #[arg(long)]
    remove_plugin_socket: bool,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let request = Shutdown { force: args.force, keep_mounts: args.keep_mounts, remove_plugin_socket: args.remove_plugin_socket };
    let report = match cx.client.shutdown(&request).await {
        Err(e)
            if e.kind == ErrorKind::Unavailable && !args.keep_mounts && (daemon::keeper_lives(&cx.root).await || has_workers(&cx.root)) =>
        {
            // The daemon died, its mounts live on. Only a daemon can end them properly; it starts a keeper if there is none.
            up::spawn(cx, &["--no-docker-plugin".to_owned()]).await?;
            cx.client.shutdown(&request).await?
        }
        Err(e) if e.kind == ErrorKind::Unavailable && !daemon::is_locked(&cx.root) => {
            let report =
                ShutdownReport { notes: vec![format!("Orlop is not running on {}", cx.root.display())], ..ShutdownReport::default() };
            cx.ui.show(&report, || text(&report))?;
            return Ok(0);
        }
        answer => answer?,
    };
    wait(cx, &report).await?;
    cx.ui.show(&report, || text(&report) + &format!("Orlop is down on {}\n", cx.root.display()))?;
    Ok(0)
}

/// Until the daemon has let go of the root: another may start then.
async fn wait(cx: &Context, report: &ShutdownReport) -> Result<()> {
    let start = Instant::now();
    while daemon::is_locked(&cx.root) {
        if start.elapsed() > Duration::from_secs(30) {
            return Err(Error::unavailable(format!("the daemon (process {}) does not end", report.pid))
                .with_remedy(format!("read {}/log/daemon.log", cx.root.display())));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn text(report: &ShutdownReport) -> String {
    let mut text = String::new();
    for volume in &report.unmounted {
        text.push_str(&format!("unmounted {volume}\n"));
    }
    if !report.kept.is_empty() {
        text.push_str(&format!("still mounted: {}\n", report.kept.join(", ")));
    }
    for note in &report.notes {
        text.push_str(&format!("{note}\n"));
    }
    text
}
