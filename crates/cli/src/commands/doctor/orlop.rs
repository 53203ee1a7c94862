//! Checks of Orlop's own processes, sockets and records.

use super::Finding;
use crate::args::Context;
use crate::commands::key::list;
use crate::daemon;
use orlop_api::client::{Endpoint, Transport};
use orlop_api::docker::{IDENTIFY, Identity};
use orlop_api::wire::Status;
use orlop_model::{Error, ErrorKind, Result};
use orlop_store::keys::MasterKeys;
use std::time::Duration;

/// Everything about this Orlop.
pub(crate) async fn check(cx: &Context, status: &Result<Status>) -> Vec<Finding> {
    let mut findings = Vec::new();
    match status {
        Ok(status) => {
            findings.push(Finding::ok("daemon", format!("answers on {} (process {})", status.host.root, status.host.pid)));
            if status.host.version != env!("CARGO_PKG_VERSION") {
                findings.push(Finding::problem(
                    "daemon",
                    format!("the daemon is version {}, this command {}", status.host.version, env!("CARGO_PKG_VERSION")),
                    format!("restart the daemon with: orlop down --keep-mounts{root}, orlop up{root}", root = cx.root_flag()),
                ));
            }
            findings.extend(keeper(status));
            findings.extend(plugin(status).await);
            findings.extend(records(status));
        }
        Err(e) => findings.push(no_daemon(cx, e)),
    }
    findings.extend(keys(cx));
    if status.is_ok() {
        findings.extend(missing_keys(cx).await);
    }
    findings.push(audit(cx).await);
    findings
}

fn no_daemon(cx: &Context, e: &Error) -> Finding {
    if e.kind == ErrorKind::Unavailable && daemon::is_locked(&cx.root) {
        return Finding::problem(
            "daemon",
            format!("a daemon holds the root folder {} but does not answer: {}", cx.root.display(), e.message),
            format!("wait if it is just starting; else read {}/log/daemon.log", cx.root.display()),
        );
    }
    let mut finding = Finding::failed("daemon", e.clone(), "orlop up");
    if let Some(last) = last_failure(cx) {
        finding.message.push_str(&format!("; its last start ended with: {last}"));
    }
    finding
}

/// The last line of the daemon's log, if it tells of a failed start: a newer format, for one.
fn last_failure(cx: &Context) -> Option<String> {
    let log = std::fs::read(cx.root.join("log/daemon.log")).ok()?;
    let text = String::from_utf8_lossy(&log);
    let line = text.lines().rev().find(|l| !l.trim().is_empty())?;
    line.split_once("the daemon ends").map(|(_, why)| why.trim_start_matches(" error=").to_owned())
}

fn keeper(status: &Status) -> Vec<Finding> {
    let Some(keeper) = &status.host.keeper else {
        let why = status.host.keeper_error.as_deref().unwrap_or("unknown");
        return vec![Finding::problem(
            "keeper",
            format!("the keeper does not answer: {why}"),
            "look again in a moment: one that ended is started again, and a socket that was removed is made anew; if that does not help read \
             log/keeper.log, and kill -9 the process \"keeper --root DIR\" of this root: another one takes its mounts over",
        )];
    };
    let mut findings = vec![Finding::ok("keeper", format!("answers, and serves {} volumes", keeper.workers.len()))];
    for w in keeper.workers.iter().filter(|w| w.state != "serving") {
        let process = w.process().map(|pid| format!(" (process {pid})")).unwrap_or_default();
        findings.push(Finding::problem(
            "workers",
            format!("volume {} is not served as it should be: its worker{process} is {}", w.volume, w.state),
            "read the worker's log below the root folder, log/worker-<volume id>.log; one that takes no changes does so again once it was \
             unmounted and mounted; one that cannot be reached is taken over as soon as it answers, and orlop down --force ends it",
        ));
    }
    findings
}

async fn plugin(status: &Status) -> Option<Finding> {
    if let Some(warning) = &status.host.plugin_warning {
        return Some(Finding::problem("plugin", warning.clone(), "start again with: orlop up --plugin-name NAME"));
    }
    let (name, socket) = (status.host.plugin.as_ref()?, status.host.plugin_socket.as_ref()?);
    let transport = Transport::new(Endpoint::Unix(socket.into())).patient(Duration::from_secs(5));
    let answer = async { transport.request(hyper::Method::POST, IDENTIFY, Some(Vec::new())).await?.json::<Identity>().await }.await;
    Some(match answer {
        Ok(identity) if identity.pid == status.host.pid => Finding::ok("plugin", format!("Docker finds this Orlop as {name} on {socket}")),
        Ok(identity) => Finding::problem(
            "plugin",
            format!("{socket} is served by the Orlop of {}", identity.root),
            "stop one of the two, or start one with --plugin-name NAME",
        ),
        Err(e) => Finding::problem(
            "plugin",
            format!("Docker cannot reach this Orlop: {e}"),
            "make the socket anew with: orlop down --keep-mounts, orlop up",
        ),
    })
}

fn records(status: &Status) -> Vec<Finding> {
    let mut findings = Vec::new();
    let audit = &status.control.audit;
    if let Some(e) = &audit.error {
        findings.push(Finding::problem(
            "audit",
            format!("the audit journal cannot be written, so changes are refused: {e}"),
            "free disk space, or mend the folder audit/ below the root",
        ));
    }
    for failure in status.control.last_reconcile.iter().flat_map(|r| &r.failed) {
        findings.push(Finding::problem("reconcile", failure.clone(), "it is tried again every half minute; see log/daemon.log"));
    }
    findings
}

/// The master key, looked at in its file: encrypted volumes need it when the daemon does not run, too.
fn keys(cx: &Context) -> Option<Finding> {
    let dir = cx.root.join("keys");
    // A root that was never up has none.
    if !dir.exists() && !cx.root.join("orlop.db").exists() {
        return None;
    }
    let root = cx.root_flag();
    Some(match MasterKeys::load(&dir) {
        Err(e) if e.kind == ErrorKind::Denied => Finding::failed("keys", e, "ask as root"),
        Err(e) => Finding::failed("keys", e, "put a backup of the master key back"),
        Ok(_) if MasterKeys::rotation_is_open(&dir) => {
            Finding::note("keys", "a rotation of the master key was begun and not finished", format!("go on with: orlop key rotate{root}"))
        }
        Ok(keys) if !keys.was_exported(&dir) => Finding::note(
            "keys",
            format!("master key {} was never backed up; without it nobody can read encrypted volumes", keys.current().id()),
            format!("orlop key export{root}, and keep the file away from this host"),
        ),
        Ok(keys) => Finding::ok("keys", format!("master key {} is there and was backed up", keys.current().id())),
    })
}

/// A master key of this host's is no use where volumes are under another.
async fn missing_keys(cx: &Context) -> Option<Finding> {
    let report = match cx.client.keys().await {
        Ok(report) => report,
        // Told by the file itself, or by the daemon's own finding.
        Err(_) => return None,
    };
    let (what, remedy) = list::missing(&report)?;
    Some(Finding::problem("keys", what, remedy))
}

async fn audit(cx: &Context) -> Finding {
    let report = match cx.client.audit_verify().await {
        Err(e) if e.kind == ErrorKind::Unavailable => crate::commands::audit::offline(cx).await,
        answer => answer,
    };
    match report {
        Ok(report) => match report.breaks.first() {
            None => Finding::ok("audit", format!("the journal is intact: {} records", report.events)),
            Some(b) => Finding::problem(
                "audit",
                format!("the journal was altered: record {} ({}, line {}): {}", b.seq, b.file, b.line, b.reason),
                "compare it with an earlier export, and find out who could write to the host",
            ),
        },
        Err(e) if e.kind == ErrorKind::NotFound => Finding::ok("audit", "there is no journal yet"),
        Err(e) => Finding::failed("audit", e, "see orlop audit verify"),
    }
}
