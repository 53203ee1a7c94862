//! `orlop status`

use crate::args::Context;
use crate::ui::{Table, moment};
use orlop_api::wire::Status;
use orlop_model::{ByteSize, Result};

/// How much of a worker's state has room in the table; all of it is in the JSON.
const STATE: usize = 80;

/// Shows what runs, and which volumes are mounted.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) async fn run(_args: &Args, cx: &Context) -> Result<u8> {
    let status = cx.client.status().await?;
    cx.ui.show(&status, || text(&status))?;
    Ok(0)
}

fn text(s: &Status) -> String {
    let mut card = Table::bare();
    let mut line = |key: &str, value: String| card.row([format!("{key}:"), value]);
    let since = s.host.started_at.map(|t| format!(", since {}", moment(t))).unwrap_or_default();
    line("orlop", format!("{} on {} (process {}{since})", s.host.version, s.host.root, s.host.pid));
    line(
        "docker plugin",
        match (&s.host.plugin, &s.host.plugin_warning) {
            (Some(name), _) => format!("{name} on {}", s.host.plugin_socket.as_deref().unwrap_or("-")),
            (None, Some(warning)) => format!("not served: {warning}"),
            (None, None) => "off".to_owned(),
        },
    );
    line(
        "keeper",
        match (&s.host.keeper, &s.host.keeper_error) {
            (Some(_), _) => "answers".to_owned(),
            (None, why) => format!("does not answer: {}", why.as_deref().unwrap_or("unknown")),
        },
    );
    let counts = &s.control.volumes;
    line(
        "volumes",
        format!(
            "{}, of which {} are mounted; {} removed, {} being deleted",
            counts.active, counts.attached, counts.removed, counts.purging
        ),
    );
    let unsent = match s.usage.unsent_bytes {
        0 => String::new(),
        bytes => format!(", {} not in their stores yet", ByteSize(bytes)),
    };
    line(
        "used",
        format!("{} in the mounted ones, {} not yet safe{unsent}", ByteSize(s.usage.used_bytes), ByteSize(s.usage.unsynced_bytes)),
    );
    // What is removed lies there still, so these are more than the volumes above.
    let of_them = if counts.removed + counts.purging > 0 { ", removed ones included" } else { "" };
    for store in &s.control.stores {
        let refusal = store.refusal.as_ref().map(|r| format!("; takes no volumes: {r}")).unwrap_or_default();
        line("store", format!("{} at {}, {} volumes{of_them}{refusal}", store.name, store.url, store.volumes));
    }
    let audit = &s.control.audit;
    let trouble = audit.error.as_ref().or(audit.found_broken.as_ref()).map(|e| format!("; {e}")).unwrap_or_default();
    line("audit", format!("{} records{trouble}", audit.last_seq));
    for failure in s.control.last_reconcile.iter().flat_map(|r| &r.failed) {
        line("to be retried", failure.clone());
    }
    let mut text = card.text();
    if let Some(keeper) = s.host.keeper.as_ref().filter(|k| !k.workers.is_empty()) {
        let mut table = Table::new(["VOLUME", "WORKER", "STATE", "MOUNTED ON"]);
        for w in &keeper.workers {
            let mut places = vec![w.mountpoint.clone()];
            places.extend(w.binds.iter().cloned());
            let worker = w.process().map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            table.row([w.volume.to_string(), worker, shortened(&w.state), places.join(", ")]);
        }
        text.push('\n');
        text.push_str(&table.text());
    }
    text
}

/// The first line, and no more of it than has room.
fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line == text && line.chars().count() <= STATE {
        return text.to_owned();
    }
    let head: String = line.chars().take(STATE - 1).collect();
    format!("{}…", head.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_api::wire::{HostFacts, KeeperFacts, WorkerFacts};
    use orlop_control::{ControlStatus, StoreStatus, VolumeCounts};
    use orlop_model::Usage;

    #[test]
    fn volumes_are_counted_in_one_way() {
        let store = |volumes| StoreStatus { name: "default".to_owned(), url: "file:///s".to_owned(), volumes, refusal: None };
        let shown = |volumes: VolumeCounts| {
            let control = ControlStatus { volumes, stores: vec![store(volumes.active + volumes.removed)], ..ControlStatus::default() };
            let host = HostFacts { keeper: Some(KeeperFacts::default()), ..HostFacts::default() };
            text(&Status { host, usage: Usage::default(), control })
        };
        let some = shown(VolumeCounts { active: 3, attached: 2, removed: 1, purging: 0 });
        assert!(some.contains("3, of which 2 are mounted; 1 removed, 0 being deleted\n"), "{some}");
        assert!(some.contains("4 volumes, removed ones included\n"), "{some}");
        assert_eq!(some.lines().filter(|l| l.contains(" are mounted")).count(), 1, "{some}");
        let none = shown(VolumeCounts { active: 3, ..VolumeCounts::default() });
        assert!(none.contains("3 volumes\n"), "{none}");
    }

    #[test]
    fn a_long_state_is_one_line_that_says_that_there_is_more() {
        assert_eq!(shortened("serving"), "serving");
        assert_eq!(shortened(&"ä".repeat(STATE)), "ä".repeat(STATE));
        let long = format!("restarting, attempt 3: {}", "the store said much; ".repeat(20));
        let shown = shortened(&long);
        assert!(shown.chars().count() <= STATE && shown.starts_with("restarting, attempt 3: the store") && shown.ends_with('…'), "{shown}");
        assert_eq!(shortened("one\ntwo"), "one…");
    }

    #[test]
    fn a_worker_that_is_being_replaced_is_shown_without_a_process() {
        let worker = WorkerFacts {
            volume: "db".parse().expect("a name"),
            pid: 0,
            state: "restarting, attempt 1: killed".to_owned(),
            mountpoint: "/m".to_owned(),
            binds: Vec::new(),
            in_use_elsewhere: false,
        };
        let host = HostFacts { keeper: Some(KeeperFacts { workers: vec![worker] }), ..HostFacts::default() };
        let shown = text(&Status { host, usage: Usage::default(), control: ControlStatus::default() });
        let row = shown.lines().last().expect("a row");
        assert_eq!(row.split_whitespace().take(3).collect::<Vec<_>>(), ["db", "-", "restarting,"]);
    }
}
