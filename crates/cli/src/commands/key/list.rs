//! `orlop key list`

use crate::args::Context;
use crate::ui::{Table, moment};
use orlop_model::{KeyReport, Result, VolumeKeys};
use std::collections::BTreeSet;

/// Volumes that are named.
const NAMED: usize = 5;

/// Lists the master keys of this host and the key ring of every encrypted volume, by their names only.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) async fn run(_args: &Args, cx: &Context) -> Result<u8> {
    let report = cx.client.keys().await?;
    cx.ui.show(&report, || text(&report))?;
    if report.rotation_open && !report.rotation.as_ref().is_some_and(|r| r.running) {
        cx.ui.note(&format!("warning: a rotation was begun and not finished; go on with: orlop key rotate{}", cx.root_flag()));
    }
    if let Some((what, remedy)) = missing(&report) {
        cx.ui.note(&format!("warning: {what}; {remedy}"));
    }
    if report.masters.iter().any(|m| m.exported == Some(false)) {
        cx.ui.note(&format!("warning: the current master key was never backed up; do it with: orlop key export{}", cx.root_flag()));
    }
    Ok(0)
}

/// What encrypted volumes need and this host does not have, and what helps.
pub(crate) fn missing(report: &KeyReport) -> Option<(String, &'static str)> {
    if report.masters.is_empty() && !report.volumes.is_empty() {
        return Some((
            "this host has no master key, so no encrypted volume can be opened".to_owned(),
            "put the backup back as keys/master.key (mode 0600)",
        ));
    }
    let here = |id: &String| report.masters.iter().any(|m| m.id == *id);
    let of_volume = |v: &VolumeKeys| v.keys.iter().find(|k| !here(&k.master)).map(|k| (k.master.clone(), v.name.to_string()));
    let (keys, volumes): (BTreeSet<String>, Vec<String>) = report.volumes.iter().filter_map(of_volume).unzip();
    let more = if volumes.len() > NAMED { format!(" and {} more", volumes.len() - NAMED) } else { String::new() };
    (!volumes.is_empty()).then(|| {
        let keys = keys.into_iter().collect::<Vec<_>>().join(", ");
        let names = volumes[..volumes.len().min(NAMED)].join(", ");
        (
            format!("this host does not have master key {keys}, which volumes need: {names}{more}"),
            "put its backup into keys/ as other-<id>.key (mode 0600)",
        )
    })
}

fn text(report: &KeyReport) -> String {
    let mut masters = Table::new(["MASTER KEY", "STATE", "BACKUP"]);
    for key in &report.masters {
        let backup = match key.exported {
            Some(true) => "exported",
            Some(false) => "none",
            None => "",
        };
        masters.row([key.id.clone(), if key.current { "current" } else { "old" }.to_owned(), backup.to_owned()]);
    }
    let mut text = masters.text();
    if report.volumes.is_empty() {
        text.push_str("\nNo volume is encrypted.\n");
        return text;
    }
    let mut rings = Table::new(["VOLUME", "STORE", "DATA KEY", "STATE", "MASTER KEY", "CREATED"]);
    for volume in &report.volumes {
        if let Some(e) = &volume.error {
            let what = format!("unreadable: {}", e.message);
            rings.row([volume.name.to_string(), volume.store.to_string(), String::new(), what, String::new(), String::new()]);
        }
        for key in &volume.keys {
            let state = if key.current { "current" } else { "old" }.to_owned();
            rings.row([
                volume.name.to_string(),
                volume.store.to_string(),
                key.id.clone(),
                state,
                key.master.clone(),
                moment(key.created_at),
            ]);
        }
    }
    text.push('\n');
    text.push_str(&rings.text());
    text
}
