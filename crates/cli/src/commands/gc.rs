//! `orlop gc`

use crate::args::Context;
use crate::ui::Table;
use orlop_model::{ByteSize, GcReport, Result, Stray, VolumeRef};
use std::collections::BTreeMap;

/// Deletes what lies among a volume's objects and files and nothing refers to. What is found first is only marked; a
/// later run deletes it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The volume, by name or id; all of them if none is given.
    volume: Option<VolumeRef>,
    /// Only tells what would be deleted and what marked.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let mut reports: BTreeMap<String, GcReport> = BTreeMap::new();
    match &args.volume {
        Some(volume) => {
            reports.insert(volume.to_string(), cx.client.collect(volume, args.dry_run).await?);
        }
        None => {
            let mut failed = None;
            for v in cx.client.volumes(false, false).await? {
                // One volume that cannot be opened keeps none of the others from being looked at.
                match cx.client.collect(&VolumeRef::Id(v.id), args.dry_run).await {
                    Ok(report) => drop(reports.insert(v.name.to_string(), report)),
                    Err(e) => {
                        cx.ui.note(&format!("volume {}: {e}", v.name));
                        failed = Some(e.during(format_args!("volume {}", v.name)));
                    }
                }
            }
            if let Some(e) = failed {
                cx.ui.show(&reports, || text(&reports))?;
                return Err(e);
            }
        }
    }
    cx.ui.show(&reports, || text(&reports))?;
    Ok(0)
}

fn text(reports: &BTreeMap<String, GcReport>) -> String {
    let mut out = String::new();
    for (volume, r) in reports {
        let mut table = Table::bare();
        let mut all = |word: &str, strays: &[Stray]| {
            for s in strays {
                table.row([word.to_owned(), format!("{:>10}", ByteSize(s.bytes).to_string()), s.at.clone(), s.why.clone()]);
            }
        };
        all(if r.dry_run { "would delete" } else { "deleted" }, &r.deleted);
        all(if r.dry_run { "would mark" } else { "marked" }, &r.marked);
        all("kept", &r.unknown);
        out.push_str(&table.text());
        let (deleted, marked) = if r.dry_run { ("would go", "would be marked") } else { ("deleted", "marked for a later run") };
        out.push_str(&format!(
            "{volume}: {} looked at, {} {deleted} ({}), {} {marked}\n",
            r.looked_at,
            r.deleted.len(),
            ByteSize(r.deleted_bytes),
            r.marked.len()
        ));
    }
    out
}
