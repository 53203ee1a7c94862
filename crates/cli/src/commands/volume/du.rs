//! `orlop volume du`

use crate::args::Context;
use crate::ui::Table;
use orlop_model::{ByteSize, Result, Share, Space, VolumeRef};

/// Shows where the bytes of a volume are: in its files, on this host and in its store.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The volume, by name or id.
    volume: VolumeRef,
    /// Shows each kind of bytes, and why they are there.
    #[arg(long)]
    explain: bool,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let space = cx.client.space(&args.volume).await?;
    cx.ui.show(&space, || text(&space, args.explain))?;
    Ok(0)
}

fn text(s: &Space, explain: bool) -> String {
    let mut table = Table::bare();
    let mut line = |what: &str, bytes: u64, why: String| table.row([what.to_owned(), format!("{:>10}", ByteSize(bytes).to_string()), why]);
    line("in files", s.apparent_bytes, "the lengths of all files".to_owned());
    line("allocated", s.allocated_bytes, format!("what {} inodes take; what the quota counts", s.inodes));
    if s.unlinked_inodes > 0 {
        line("  unlinked", s.unlinked_bytes, format!("{} inodes without a name, still open somewhere", s.unlinked_inodes));
    }
    line("on this host", s.host_bytes, String::new());
    if explain {
        for share in &s.host {
            line(&format!("  {}", share.kind), share.bytes, why(share, "files"));
        }
    }
    line("in the store", s.store_bytes, String::new());
    if explain {
        for share in &s.store {
            line(&format!("  {}", share.kind), share.bytes, why(share, "objects"));
        }
    }
    let mut out = table.text();
    if explain && s.dead_segments > 0 {
        out.push_str(&format!("{} segments hold nothing any more and go with the next fold\n", s.dead_segments));
    }
    out
}

fn why(share: &Share, items: &str) -> String {
    if share.items > 0 { format!("{} ({} {items})", share.why, share.items) } else { share.why.clone() }
}
