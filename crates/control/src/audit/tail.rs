//! What the journal's end looks like when it is opened: sound, torn by a crash, or broken.
//!
//! Torn means: the last line of the last file is no whole record, and the registry never saw a record of that number.
//! Since the registry notes a record only after it was written and synced, a crash can leave nothing else.
//! All other damage is a break: it stays where it is for `verify` to name, and the journal goes on in a new file.

use super::chain::Chain;
use super::record::ZEROS;
use super::segment::{Segment, lines, segments};
use crate::registry::Head;
use orlop_model::{AuditEvent, Result};
use std::path::Path;

/// Bytes at the end of a file that are no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Torn {
    pub(super) offset: u64,
    pub(super) line: u64,
}

/// The journal's end.
#[derive(Debug)]
pub(super) struct Tail {
    /// The last file, with the length of its whole records; none in an empty journal.
    pub(super) segment: Option<(Segment, u64)>,
    pub(super) seq: u64,
    pub(super) hash: String,
    pub(super) torn: Option<Torn>,
    /// What is wrong, if the chain cannot simply go on.
    pub(super) broken: Option<String>,
    /// Records that the registry has not seen.
    pub(super) unseen: Vec<AuditEvent>,
}

/// Looks at the end of the journal in `dir`; `head` is what the registry noted last.
pub(super) fn inspect(dir: &Path, head: Option<&Head>) -> Result<Tail> {
    let all = segments(dir)?;
    let head_seq = head.map_or(0, |h| h.seq);
    let mut tail = Tail { segment: None, seq: 0, hash: ZEROS.to_owned(), torn: None, broken: None, unseen: Vec::new() };
    let mut hash_at_head = (head_seq == 0).then(|| ZEROS.to_owned());
    // The last file that is not empty: a crash between making a file and writing to it leaves an empty one.
    let filled = all.iter().rposition(|s| std::fs::metadata(&s.path).is_ok_and(|m| m.len() > 0)).unwrap_or(0);
    for segment in all.iter().skip(filled) {
        let good = read_end(segment, head_seq, &mut tail, &mut hash_at_head)?;
        tail.segment = Some((segment.clone(), good));
    }
    if hash_at_head.is_none() && tail.broken.is_none() && tail.seq > head_seq {
        // The registry lags behind by more than the last file: it could not be written for a while.
        hash_at_head = find(&all[..filled], head_seq)?;
    }
    if tail.broken.is_none() {
        if tail.seq < head_seq {
            tail.torn = None;
            tail.broken = Some(format!("the records {} to {head_seq} are missing at its end", tail.seq + 1));
        } else if hash_at_head.as_deref() != Some(head.map_or(ZEROS, |h| &h.hash)) {
            tail.torn = None;
            tail.broken = Some(format!("record {head_seq} is not the one that was written"));
        }
    }
    Ok(tail)
}

/// Reads one file into the tail; gives the length of its whole records.
fn read_end(segment: &Segment, head_seq: u64, tail: &mut Tail, hash_at_head: &mut Option<String>) -> Result<u64> {
    let mut chain = Chain::from_anywhere();
    let mut good = 0;
    let mut unsound: Option<Torn> = None;
    for line in lines(&segment.path, u64::MAX)? {
        let line = line?;
        if let Some(first) = &unsound {
            // Something after the first unsound line: no crash does that.
            tail.broken = Some(format!("line {} of {} is damaged", first.line, segment.name()));
            break;
        }
        let event = if line.ended { chain.line(&segment.name(), line.number, &line.bytes) } else { None };
        let Some(event) = event.filter(|_| chain.report().is_intact()) else {
            unsound = Some(Torn { offset: line.offset, line: line.number });
            continue;
        };
        if line.number == 1 && event.seq != segment.first {
            tail.broken = Some(format!("{} begins with record {} and not with its own", segment.name(), event.seq));
        }
        good = line.offset + line.bytes.len() as u64 + 1;
        if event.seq == head_seq {
            *hash_at_head = Some(event.hash.clone());
        } else if event.seq == head_seq.saturating_add(1) && hash_at_head.is_none() {
            *hash_at_head = Some(event.prev.clone());
        }
        tail.seq = event.seq;
        tail.hash.clone_from(&event.hash);
        if event.seq > head_seq {
            tail.unseen.push(event);
        }
    }
    if tail.broken.is_none() {
        tail.torn = unsound;
    }
    Ok(good)
}

/// The hash of a record in earlier files, if it is there.
fn find(earlier: &[Segment], seq: u64) -> Result<Option<String>> {
    for segment in earlier.iter().rev().filter(|s| s.first <= seq) {
        for line in lines(&segment.path, u64::MAX)? {
            if let Ok(event) = serde_json::from_slice::<AuditEvent>(&line?.bytes)
                && event.seq == seq
            {
                return Ok(Some(event.hash));
            }
        }
    }
    Ok(None)
}
