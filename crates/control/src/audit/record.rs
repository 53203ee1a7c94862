//! One record as bytes: its canonical line and its hash.
//!
//! Canonical JSON: object keys sorted, no spaces, as serde_json writes strings and integers. A record's hash is the hex
//! BLAKE3 of its canonical form without `hash`; its line is the canonical form with it. As a line must be equal, byte for
//! byte, to what its own contents encode to, nothing can hide in it: no unknown field, no second key, no space.

use orlop_model::{Actor, AuditEvent, AuditPhase};
use serde_json::Value;
use time::OffsetDateTime;

/// `prev` of the first record.
pub(super) const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A detail longer than this, as JSON, is replaced by its length and hash.
const DETAIL_MAX: usize = 64 << 10;

/// A record that has no place in the chain yet.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    /// The change it belongs to; its own number if absent.
    pub(crate) change: Option<u64>,
    pub(crate) phase: AuditPhase,
    pub(crate) actor: Actor,
    pub(crate) verb: String,
    pub(crate) target: String,
    pub(crate) detail: Value,
}

impl Draft {
    /// A record of its own, about the journal itself.
    pub(crate) fn note(verb: &str, detail: Value) -> Draft {
        Draft { change: None, phase: AuditPhase::Done, actor: Actor::System, verb: verb.to_owned(), target: "audit".to_owned(), detail }
    }

    /// The record at this place.
    pub(crate) fn seal(&self, seq: u64, prev: &str, at: OffsetDateTime) -> AuditEvent {
        let mut event = AuditEvent {
            seq,
            at,
            change: self.change.unwrap_or(seq),
            phase: self.phase,
            actor: self.actor.clone(),
            verb: self.verb.clone(),
            target: self.target.clone(),
            detail: bounded(self.detail.clone()),
            prev: prev.to_owned(),
            hash: String::new(),
        };
        event.hash = hash_of(&event);
        event
    }
}

fn bounded(detail: Value) -> Value {
    let mut text = String::new();
    write_canonical(&detail, &mut text);
    if text.len() <= DETAIL_MAX {
        return detail;
    }
    serde_json::json!({ "omitted_bytes": text.len(), "omitted_blake3": blake3::hash(text.as_bytes()).to_hex().as_str() })
}

/// The hash that a record with these contents must carry.
pub(super) fn hash_of(event: &AuditEvent) -> String {
    let mut value = serde_json::to_value(event).expect("a record is plain data");
    value.as_object_mut().expect("a record is an object").remove("hash");
    let mut text = String::new();
    write_canonical(&value, &mut text);
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// The record's line, without the newline.
pub(super) fn encode(event: &AuditEvent) -> String {
    let mut text = String::with_capacity(512);
    write_canonical(&serde_json::to_value(event).expect("a record is plain data"), &mut text);
    text
}

// Written here and not left to serde_json, whose order of keys depends on a feature that any crate can switch on.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (n, (key, item)) in entries.into_iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write_canonical(item, out);
            }
            out.push('}');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> AuditEvent {
        Draft {
            change: None,
            phase: AuditPhase::Start,
            actor: Actor::Local { uid: 1000, gid: 100, pid: 7 },
            verb: "volume.create".to_owned(),
            target: "mydata".to_owned(),
            detail: serde_json::json!({ "z": 1, "a": { "quote\"d\n": ["ä", null, true] } }),
        }
        .seal(3, ZEROS, OffsetDateTime::UNIX_EPOCH)
    }

    #[test]
    fn a_line_comes_back_as_the_same_record_and_the_same_line() {
        let event = sample();
        let line = encode(&event);
        assert!(!line.contains('\n'), "one record, one line");
        let back: AuditEvent = serde_json::from_str(&line).expect("valid");
        assert_eq!(back, event);
        assert_eq!(encode(&back), line);
        assert_eq!(hash_of(&back), event.hash);
    }

    #[test]
    fn the_form_is_fixed() {
        // Changing what is hashed would make every existing journal look altered.
        assert_eq!(
            encode(&sample()),
            concat!(
                r#"{"actor":{"gid":100,"kind":"local","pid":7,"uid":1000},"at":"1970-01-01T00:00:00Z","change":3,"#,
                r#""detail":{"a":{"quote\"d\n":["ä",null,true]},"z":1},"#,
                r#""hash":"HASH","phase":"start","#,
                r#""prev":"0000000000000000000000000000000000000000000000000000000000000000","seq":3,"target":"mydata","verb":"volume.create"}"#
            )
            .replace("HASH", &sample().hash)
        );
        let unhashed = encode(&sample()).replace(&format!(r#""hash":"{}","#, sample().hash), "");
        assert_eq!(sample().hash, blake3::hash(unhashed.as_bytes()).to_hex().as_str());
    }

    #[test]
    fn a_huge_detail_is_replaced_by_its_digest() {
        let mut draft = Draft::note("audit.test", serde_json::json!({ "x": "y".repeat(1 << 20) }));
        let event = draft.seal(1, ZEROS, OffsetDateTime::UNIX_EPOCH);
        assert!(encode(&event).len() < 1000);
        assert_eq!(event.detail["omitted_bytes"], (1 << 20) + 8);
        draft.detail = serde_json::json!({ "x": "y" });
        assert_eq!(draft.seal(1, ZEROS, OffsetDateTime::UNIX_EPOCH).detail["x"], "y");
    }
}
