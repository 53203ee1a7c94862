//! `orlop audit verify`

use crate::args::Context;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use orlop_control::{VerifyReport, verify_file, verify_root};
use orlop_model::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// Checks that nobody altered the record of changes; exit code 10 if somebody did.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An exported file; needs no daemon. Without it the journal of the root folder is checked.
    #[arg(long, value_name = "F")]
    file: Option<PathBuf>,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let (report, what) = match &args.file {
        Some(file) => (verify_file(file).map_err(explained)?, file.display().to_string()),
        None => (journal(cx).await?, "the audit journal".to_owned()),
    };
    if let Some(first) = report.breaks.first() {
        cx.ui.show(&report, || {
            report.breaks.iter().map(|b| format!("record {} ({}, line {}): {}\n", b.seq, b.file, b.line, b.reason)).collect()
        })?;
        return Err(Error::new(ErrorKind::Corrupt, format!("{what} is not as it was written: record {}: {}", first.seq, first.reason))
            .with_remedy("compare it with an earlier export, and find out who could write to the host"));
    }
    cx.ui.show(&report, || {
        format!("{what} is intact: {} records, the last is number {} with hash {}\n", report.events, report.last_seq, report.last_hash)
    })?;
    Ok(0)
}

/// Through the daemon, which also knows how long the journal has to be; from the files if it does not run.
async fn journal(cx: &Context) -> Result<VerifyReport> {
    match cx.client.audit_verify().await {
        Err(e) if e.kind == ErrorKind::Unavailable => offline(cx).await,
        answer => answer,
    }
}

/// From the files of a root whose daemon does not run. A disk that cannot be written to is only read.
pub(crate) async fn offline(cx: &Context) -> Result<VerifyReport> {
    match crate::daemon::offline_audit(&cx.root).await {
        Err(e) if e.kind == ErrorKind::Denied && cannot_be_written(&cx.root) => {
            let report = verify_root(&cx.root).await?;
            cx.ui.note(&format!(
                "note: {} cannot be written to, so its journal was only read, without keeping a daemon from starting meanwhile",
                cx.root.display()
            ));
            Ok(report)
        }
        answer => answer,
    }
}

/// Whether the lock of a root cannot be taken here, since its disk is read-only or somebody else's.
fn cannot_be_written(root: &Path) -> bool {
    let run = root.join("run");
    let folder = if run.exists() { run.as_path() } else { root };
    let lock = run.join("daemon.lock");
    let place = if lock.exists() { lock.as_path() } else { folder };
    matches!(access(place, AccessFlags::W_OK), Err(Errno::EROFS | Errno::EACCES))
}

fn explained(e: Error) -> Error {
    if e.remedy.is_some() { e } else { e.with_remedy("give a file that was written by: orlop audit export --file F") }
}
