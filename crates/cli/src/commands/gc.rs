//! `orlop gc`

use crate::args::Context;
use crate::found::{self, Keys};
use crate::ui::Table;
use orlop_model::{ByteSize, Error, FoundVolume, GcReport, Result, Store, StoreName, Stray, VolumeId, VolumeKind, VolumeName, VolumeRef};
use serde::Serialize;
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

/// What was done, and what was only seen.
#[derive(Debug, Default, Serialize)]
struct Done {
    /// By the volume's name.
    volumes: BTreeMap<String, GcReport>,
    /// Volumes in stores that this Orlop does not know: somebody else's perhaps, and never touched.
    unknown: Vec<Unknown>,
}

#[derive(Debug, Serialize)]
struct Unknown {
    store: StoreName,
    #[serde(flatten)]
    volume: FoundVolume,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let mut done = Done::default();
    let mut failed = None;
    match &args.volume {
        Some(volume) => {
            done.volumes.insert(volume.to_string(), cx.client.collect(volume, args.dry_run).await?);
        }
        None => {
            for v in cx.client.volumes(false, false).await?.into_iter().filter(|v| v.kind == VolumeKind::Chunked) {
                // One volume that cannot be opened keeps none of the others from being looked at.
                match cx.client.collect(&VolumeRef::Id(v.id), args.dry_run).await {
                    Ok(report) => drop(done.volumes.insert(v.name.to_string(), report)),
                    Err(e) => failed = Some(note(cx, &format!("volume {}", v.name), e)),
                }
            }
            for store in cx.client.stores().await?.into_iter().filter(|s| !s.spec.is_plain()) {
                let found = match store.spec.is_local() {
                    true => on_this_host(&store, cx).await,
                    false => cx.client.found(&store.name).await,
                };
                match found {
                    Ok(found) => {
                        let unknown = found.into_iter().filter(|v| v.known_as.is_none());
                        done.unknown.extend(unknown.map(|volume| Unknown { store: store.name.clone(), volume }));
                    }
                    Err(e) => failed = Some(note(cx, &format!("store {}", store.name), e)),
                }
            }
        }
    }
    cx.ui.show(&done, || text(&done.volumes) + &strangers(&done.unknown))?;
    failed.map_or(Ok(0), Err)
}

/// The volumes in a folder of this host.
async fn on_this_host(store: &Store, cx: &Context) -> Result<Vec<FoundVolume>> {
    let known: BTreeMap<VolumeId, VolumeName> = cx.client.volumes(true, false).await?.into_iter().map(|v| (v.id, v.name)).collect();
    let mut there = found::find(&orlop_store::open_spec(&store.spec)?, &Keys::Nowhere).await?;
    for found in &mut there {
        found.known_as = known.get(&found.id).cloned();
    }
    Ok(there)
}

fn note(cx: &Context, what: &str, e: Error) -> Error {
    cx.ui.note(&format!("{what}: {e}"));
    e.during(what)
}

fn strangers(unknown: &[Unknown]) -> String {
    let line = |u: &Unknown| {
        let host = u.volume.last_host.as_ref().map(|h| format!(", last used on {h}")).unwrap_or_default();
        let name = u.volume.name.as_ref().map(|n| format!(" ({n})")).unwrap_or_default();
        format!("kept: volume {}{name} in store {} is not known here{host}; orlop export reads it out\n", u.volume.id, u.store)
    };
    unknown.iter().map(line).collect()
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
