//! `orlop up`

use super::client;
use crate::args::Context;
use crate::daemon::{self, Settings};
use orlop_api::wire::Status;
use orlop_model::{Error, ErrorKind, Result};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// Starts Orlop and returns when it is ready. Already running: says so.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Stay in the foreground, for systemd and debugging.
    #[arg(long)]
    foreground: bool,
    /// The name under which Docker knows this Orlop: `docker volume create -d NAME`.
    #[arg(long, value_name = "NAME", default_value = "orlop", env = "ORLOP_PLUGIN_NAME", hide_env_values = true)]
    plugin_name: String,
    /// Do not serve Docker.
    #[arg(long)]
    no_docker_plugin: bool,
    /// This process is the daemon, in a session of its own; says on standard output when it is ready.
    #[arg(long, hide = true)]
    detached: bool,
}

/// How long a start may take. Restoring many mounts after a reboot goes on in the background.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &Args, cx: &Context) -> Result<u8> {
    daemon::check_plugin_name(&args.plugin_name)?;
    // Workers read it much later, where nobody sees a mistake.
    orlop_mount::worker::lease()?;
    if args.foreground || args.detached {
        let plugin = (!args.no_docker_plugin).then(|| args.plugin_name.clone());
        daemon::run(&cx.root, Settings { plugin, detached: args.detached })?;
        return Ok(0);
    }
    client(start(args, cx))
}

async fn start(args: &Args, cx: &Context) -> Result<u8> {
    if let Ok(status) = cx.client.status().await {
        return report(&status, true, args, cx);
    }
    let mut words = vec!["--plugin-name".to_owned(), args.plugin_name.clone()];
    if args.no_docker_plugin {
        words.push("--no-docker-plugin".to_owned());
    }
    let already = !spawn(cx, &words).await?;
    report(&wait_for_status(cx).await?, already, args, cx)
}

/// Starts a daemon and waits until it is ready. False: another one was faster.
pub(crate) async fn spawn(cx: &Context, words: &[String]) -> Result<bool> {
    spawn_with(cx, words, Vec::new()).await
}

/// The same, with more in its environment.
pub(crate) async fn spawn_with(cx: &Context, words: &[String], environment: Vec<(OsString, OsString)>) -> Result<bool> {
    daemon::prepare(&cx.root)?;
    let log = cx.root.join("log/daemon.log");
    let stderr = OpenOptions::new().create(true).append(true).open(&log).map_err(|e| Error::io(log.display(), &e))?;
    let program = daemon::this_program()?;
    let mut child = Command::new(&program)
        .arg("--root")
        .arg(&cx.root)
        .args(["up", "--detached"])
        .args(words)
        .envs(environment)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .map_err(|e| Error::io(format_args!("starting {}", program.display()), &e))?;
    let stdout = child.stdout.take().expect("piped above");
    let mut line = String::new();
    let read = tokio::time::timeout(PATIENCE, BufReader::new(stdout).read_line(&mut line)).await;
    let look = || format!("read {}", log.display());
    match read {
        Err(_) => {
            Err(Error::unavailable(format!("the daemon (process {}) is not ready after {} s", child.id().unwrap_or(0), PATIENCE.as_secs()))
                .with_remedy(look()))
        }
        Ok(Err(e)) => Err(Error::io("waiting for the daemon", &e).with_remedy(look())),
        Ok(Ok(0)) => {
            let how = child.wait().await.map(|s| s.to_string()).unwrap_or_default();
            Err(Error::internal(format!("the daemon ended before it was ready ({how})")).with_remedy(look()))
        }
        Ok(Ok(_)) => match serde_json::from_str::<daemon::Readiness>(&line) {
            Ok(daemon::Readiness::Ready) => Ok(true),
            Ok(daemon::Readiness::Taken) => Ok(false),
            Ok(daemon::Readiness::Failed(e)) => Err(e),
            Err(_) => Err(Error::internal(format!("the daemon said {line:?}")).with_remedy(look())),
        },
    }
}

/// The status of a daemon that another `orlop up` may still be starting.
async fn wait_for_status(cx: &Context) -> Result<Status> {
    let start = Instant::now();
    loop {
        match cx.client.status().await {
            Err(e) if e.kind == ErrorKind::Unavailable && start.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(30)).await,
            answer => return answer,
        }
    }
}

fn report(status: &Status, already: bool, args: &Args, cx: &Context) -> Result<u8> {
    let host = &status.host;
    cx.ui.show(status, || {
        let verb = if already { "is already running" } else { "is up" };
        let mut text = format!("Orlop {verb} on {} (process {})\n", host.root, host.pid);
        if let Some(name) = &host.plugin {
            text.push_str(&format!("Docker: docker volume create -d {name} mydata\n"));
        }
        text
    })?;
    if let Some(warning) = &host.plugin_warning {
        cx.ui.note(&format!("warning: {warning}"));
    }
    if let Some(warning) = &host.key_warning {
        cx.ui.note(&format!("warning: {warning}"));
    }
    if let Some(why) = &host.keeper_error {
        cx.ui.note(&format!("warning: the keeper does not answer, so nothing can be mounted: {why}"));
    }
    let asked = (!args.no_docker_plugin).then_some(args.plugin_name.as_str());
    if already && host.plugin_warning.is_none() && host.plugin.as_deref() != asked {
        cx.ui.note(&format!(
            "warning: it serves Docker {}, not as asked; to change that: orlop down --keep-mounts{root}, then orlop up{root} again",
            host.plugin.as_ref().map_or_else(|| "not at all".to_owned(), |n| format!("as {n}")),
            root = cx.root_flag(),
        ));
    }
    Ok(0)
}
