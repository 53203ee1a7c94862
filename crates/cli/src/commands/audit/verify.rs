//! `orlop audit verify`

use crate::args::Context;
use orlop_control::{VerifyReport, verify_file};
use orlop_model::{Error, ErrorKind, Result};
use std::path::PathBuf;

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
        Err(e) if e.kind == ErrorKind::Unavailable => crate::daemon::offline_audit(&cx.root).await,
        answer => answer,
    }
}

fn explained(e: Error) -> Error {
    if e.remedy.is_some() { e } else { e.with_remedy("give a file that was written by: orlop audit export --file F") }
}
