//! `orlop check`

use crate::args::Context;
use crate::failure::FOUND;
use crate::progress::Progress;
use crate::ui::Table;
use orlop_model::{ByteSize, CheckReport, Finding, FindingKind, FindingState, Result, VolumeRef};

/// Reads every byte that a volume is made of, mounted or not, and names what is damaged and which files it hits; exit
/// code 1 when damage is left.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The volume, by name or id.
    volume: VolumeRef,
    /// Sets right what can be: wrong counts, and damaged copies of what is whole elsewhere. Deletes nothing.
    #[arg(long)]
    repair: bool,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let mut progress = Progress::new(&cx.ui);
    let report = cx.client.check(&args.volume, args.repair, |p| progress.show(&p.step, p.done, p.total)).await;
    progress.end();
    let report = report?;
    cx.ui.show(&report, || text(&report, args, cx))?;
    Ok(if report.clean { 0 } else { FOUND })
}

fn text(report: &CheckReport, args: &Args, cx: &Context) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        out.push_str(&one(finding));
    }
    if report.unlisted > 0 {
        out.push_str(&format!("... and {} more findings\n", report.unlisted));
    }
    let count = |state| report.findings.iter().filter(|f| f.state == state).count() as u64;
    let (left, repaired) = (count(FindingState::Left) + report.unlisted, count(FindingState::Repaired));
    let verdict = match (left, repaired) {
        (0, 0) => "all is well".to_owned(),
        (0, n) => format!("all is well now: {n} repaired"),
        (n, 0) => format!("{n} not as they should be"),
        (n, m) => format!("{n} not as they should be, {m} repaired"),
    };
    out.push_str(&format!(
        "{}: {verdict}; {} inodes, {} objects, {} files of the host, {} read\n",
        args.volume,
        report.inodes,
        report.objects,
        report.host_files,
        ByteSize(report.bytes)
    ));
    if !args.repair && report.findings.iter().any(|f| f.state == FindingState::Left && f.kind == FindingKind::Count) {
        out.push_str(&format!("wrong counts are set right by: orlop check{} --repair {}\n", cx.root_flag(), args.volume));
    }
    out
}

fn one(f: &Finding) -> String {
    let word = match (f.state, f.kind) {
        (FindingState::Repaired, _) => "repaired",
        (FindingState::Harmless, _) => "remains",
        (FindingState::Left, FindingKind::Count) => "wrong",
        (FindingState::Left, _) => "damaged",
    };
    let mut table = Table::bare();
    table.row([format!("{word}:"), f.at.clone()]);
    table.row([String::new(), f.what.clone()]);
    for path in &f.paths {
        table.row([String::new(), format!("hits {path}")]);
    }
    if let Some(remedy) = &f.remedy {
        table.row([String::new(), remedy.clone()]);
    }
    table.text()
}
