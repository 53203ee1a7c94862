//! The decoders of this crate as fuzz targets: lines of the audit journal. `orlop_model::fuzz` says what they owe.

use crate::audit::{Draft, fuzz_chain};
use orlop_model::fuzz::Target;
use time::OffsetDateTime;

/// The targets of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "audit-line", run: line, seeds: || lines().into_iter().map(Vec::from).collect(), covered: true },
    Target { name: "audit-journal", run: journal, seeds: || vec![lines().join("\n").into()], covered: false },
];

fn lines() -> Vec<String> {
    let mut prev = "0".repeat(64);
    let draft = Draft::note("audit.test", serde_json::json!({ "z": 1, "a": { "quote\"d\n": ["ä", null, true] } }));
    (1..4)
        .map(|seq| {
            let event = draft.seal(seq, &prev, OffsetDateTime::UNIX_EPOCH);
            prev.clone_from(&event.hash);
            crate::audit::fuzz_line(&event)
        })
        .collect()
}

/// One line that follows from nothing.
fn line(bytes: &[u8]) -> bool {
    fuzz_chain(false, [bytes]).breaks.is_empty()
}

/// Lines from the very first.
fn journal(bytes: &[u8]) -> bool {
    let report = fuzz_chain(true, bytes.split(|b| *b == b'\n'));
    report.breaks.is_empty()
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_bytes_are_decoded_or_refused() {
        orlop_model::fuzz::exercise_all(super::TARGETS, 4000);
    }

    #[test]
    fn the_greatest_number_before_an_unreadable_line_is_a_break_like_any_other() {
        let draft = crate::audit::Draft::note("audit.test", serde_json::Value::Null);
        let event = draft.seal(u64::MAX, &"0".repeat(64), time::OffsetDateTime::UNIX_EPOCH);
        let line = crate::audit::fuzz_line(&event);
        assert!(!super::journal(format!("{line}\nnot a record\nneither").as_bytes()));
    }
}
