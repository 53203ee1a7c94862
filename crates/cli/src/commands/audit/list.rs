//! `orlop audit list`

use crate::args::Context;
use crate::ui::{Table, moment};
use orlop_control::AuditFilter;
use orlop_model::{AuditPhase, Error, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Lists who changed what and when, oldest first.
///
/// Who may not use Orlop and tried is listed too, with the call (verb api.call); of many tries within a minute the first few are, and how
/// many more there were.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only of this volume, by name or id.
    #[arg(long, value_name = "VOLUME")]
    volume: Option<String>,
    /// Only of this verb, such as volume.create, or api.call for calls that were refused.
    #[arg(long)]
    verb: Option<String>,
    /// Only of this actor: uid:0, docker or system.
    #[arg(long)]
    actor: Option<String>,
    /// Not before this time, such as 2026-01-31T12:00:00Z, or this long ago, such as 2h.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Not after this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// At most so many, the newest.
    #[arg(short = 'n', long, default_value_t = 1000, value_name = "N")]
    limit: usize,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let filter = AuditFilter {
        target: None,
        volume: args.volume.clone(),
        verb: args.verb.clone(),
        actor: args.actor.clone(),
        since: args.since.as_deref().map(|t| instant("--since", t)).transpose()?,
        until: args.until.as_deref().map(|t| instant("--until", t)).transpose()?,
        after_seq: None,
        limit: Some(args.limit),
    };
    let events = cx.client.audit(&filter).await?;
    cx.ui.show(&events, || {
        let mut table = Table::new(["SEQ", "AT", "ACTOR", "VERB", "TARGET", "PHASE", "DETAIL"]);
        for e in &events {
            let phase = match e.phase {
                AuditPhase::Start => "start",
                AuditPhase::Done => "done",
                AuditPhase::Failed => "failed",
                AuditPhase::Interrupted => "interrupted",
            };
            let detail = if e.detail.is_null() { String::new() } else { e.detail.to_string() };
            table.row([e.seq.to_string(), moment(e.at), e.actor.to_string(), e.verb.clone(), e.target.clone(), phase.to_owned(), detail]);
        }
        table.text()
    })?;
    Ok(0)
}

/// A time as RFC 3339, or as a distance back from now.
fn instant(flag: &str, text: &str) -> Result<OffsetDateTime> {
    if let Ok(t) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(t);
    }
    let ago = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let seconds: i64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86400,
            _ => return None,
        };
        let distance = number.parse::<u32>().ok().map(|n| time::Duration::seconds(i64::from(n).saturating_mul(seconds)))?;
        OffsetDateTime::now_utc().checked_sub(distance)
    };
    ago().ok_or_else(|| {
        Error::invalid(format!("{flag} {text:?} is not a time")).with_remedy("write 2026-01-31T12:00:00Z, or 30m, 2h, 7d for that long ago")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_a_distance() {
        assert_eq!(instant("--since", "1970-01-01T00:00:01Z").expect("fine").unix_timestamp(), 1);
        let ago = OffsetDateTime::now_utc() - instant("--since", "2h").expect("fine");
        assert!((ago - time::Duration::hours(2)).abs() < time::Duration::seconds(5));
        for bad in ["", "yesterday", "h", "-1h", "4294967295d", "ä"] {
            assert!(instant("--since", bad).expect_err(bad).remedy.is_some());
        }
    }
}
