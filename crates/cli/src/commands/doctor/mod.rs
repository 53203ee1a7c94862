//! `orlop doctor`: looks at everything that can be wrong on this host, and says what to do about it.

mod docker;
mod host;
mod orlop;
mod stores;

use crate::args::Context;
use crate::failure::FOUND;
use crate::ui::Table;
use orlop_model::{Error, Result};
use serde::Serialize;

/// Checks this host and this Orlop; exit code 1 when something is wrong.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only show what is not right.
    #[arg(short, long)]
    quiet: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Works, with a limit worth knowing.
    Note,
    /// Wrong; decides the exit code.
    Problem,
}

/// What one check found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    /// Which check.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found, and why it matters.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// All is well.
    pub(crate) fn ok(check: &'static str, message: impl Into<String>) -> Finding {
        Finding { check, level: Level::Ok, message: message.into(), remedy: None }
    }

    /// A limit worth knowing.
    pub(crate) fn note(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { check, level: Level::Note, message: message.into(), remedy: Some(remedy.into()) }
    }

    /// Something is wrong.
    pub(crate) fn problem(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { check, level: Level::Problem, message: message.into(), remedy: Some(remedy.into()) }
    }

    /// An error as a finding.
    pub(crate) fn failed(check: &'static str, e: Error, otherwise: &str) -> Finding {
        Finding::problem(check, e.message, e.remedy.unwrap_or_else(|| otherwise.to_owned()))
    }
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let status = cx.client.status().await;
    let volumes = if status.is_ok() { cx.client.volumes(false, false).await } else { Ok(Vec::new()) };
    let mut findings = host::check(cx, status.as_ref().ok());
    findings.extend(orlop::check(cx, &status).await);
    match volumes {
        Ok(volumes) => {
            if status.is_ok() {
                findings.extend(stores::check(cx, &volumes).await);
            }
            findings.extend(docker::check(status.as_ref().ok(), &volumes).await);
        }
        Err(e) => findings.push(Finding::failed("volumes", e, "see orlop status")),
    }
    let wrong = findings.iter().any(|f| f.level == Level::Problem);
    if args.quiet {
        findings.retain(|f| f.level != Level::Ok);
    }
    cx.ui.show(&findings, || {
        let mut table = Table::bare();
        for f in &findings {
            let mark = match f.level {
                Level::Ok => "ok",
                Level::Note => "note",
                Level::Problem => "WRONG",
            };
            table.row([mark.to_owned(), f.check.to_owned(), f.message.clone()]);
            if let Some(remedy) = &f.remedy {
                table.row([String::new(), String::new(), format!("-> {remedy}")]);
            }
        }
        table.text()
    })?;
    Ok(if wrong { FOUND } else { 0 })
}
