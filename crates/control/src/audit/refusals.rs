//! Refusals of callers who may not use the local API at all. Each is a record; but whoever asks again and again must not fill the disk, nor
//! hide others. So within a minute only a few different calls of a few users are written; the rest is counted, and each count is a record.

use super::record::Draft;
use orlop_model::{Actor, AuditPhase, ErrorKind, VolumeRef};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// The verb of a call that was refused before it was looked at.
pub(super) const CALL_VERB: &str = "api.call";
/// What such a record is about where the call names no volume.
const API: &str = "api";

/// How long what was written is not written again.
const WINDOW: Duration = Duration::seconds(60);
/// Most calls of one user that are written in that time.
const CALLS: usize = 8;
/// Most users of whom some are.
const USERS: usize = 8;
/// A path may be of any length.
const CALL_MAX: usize = 200;

/// What was refused since the window began.
#[derive(Default)]
pub(super) struct Refusals {
    began: Option<OffsetDateTime>,
    users: BTreeMap<String, User>,
    /// Of users beyond those, not written.
    others: u64,
}

struct User {
    actor: Actor,
    written: BTreeSet<String>,
    /// Not written.
    counted: u64,
}

impl Refusals {
    /// Notes a refusal. Gives what is to be written now: the counts of a window that is over, and the refusal if it is not only counted.
    pub(super) fn note(&mut self, actor: &Actor, call: &str, volume: Option<&VolumeRef>, message: &str, now: OffsetDateTime) -> Vec<Draft> {
        let mut due = self.due(now);
        let call: String = call.chars().take(CALL_MAX).collect();
        let Some(user) = self.user(actor, now) else {
            self.others += 1;
            return due;
        };
        if user.written.len() >= CALLS || !user.written.insert(call.clone()) {
            user.counted += 1;
            return due;
        }
        let mut detail = json!({ "call": call, "kind": ErrorKind::Denied, "message": message });
        if let Some(volume) = volume {
            detail["volume"] = json!(volume.to_string());
        }
        let target = volume.map_or_else(|| API.to_owned(), ToString::to_string);
        due.push(record(actor.clone(), target, detail));
        due
    }

    /// The counts of a window that is over, if one is; also when the clock was set back.
    pub(super) fn due(&mut self, now: OffsetDateTime) -> Vec<Draft> {
        match self.began {
            Some(began) if now < began || now >= began + WINDOW => self.end(),
            _ => Vec::new(),
        }
    }

    /// Ends the window, and gives its counts.
    pub(super) fn end(&mut self) -> Vec<Draft> {
        let ended = std::mem::take(self);
        let since = ended.began.and_then(|t| t.format(&Rfc3339).ok());
        let of_users = ended.users.into_values().map(|user| (user.actor, user.counted));
        let counts = of_users.chain([(Actor::System, ended.others)]).filter(|(_, times)| *times > 0);
        let shown = |(actor, times): (Actor, u64)| {
            let message = match actor {
                Actor::System => format!("calls of further users were refused {times} times"),
                _ => format!("calls of {actor} were refused {times} more times"),
            };
            record(actor, API.to_owned(), json!({ "kind": ErrorKind::Denied, "message": message, "times": times, "since": since }))
        };
        counts.map(shown).collect()
    }

    /// Counts what could not be written, to be told later.
    pub(super) fn unwritten(&mut self, draft: &Draft, now: OffsetDateTime) {
        let times = draft.detail["times"].as_u64().unwrap_or(1);
        let user = if draft.actor == Actor::System { None } else { self.user(&draft.actor, now) };
        match user {
            Some(user) => user.counted += times,
            None => {
                self.began.get_or_insert(now);
                self.others += times;
            }
        }
    }

    /// The user in this window; `None` if there are too many.
    fn user(&mut self, actor: &Actor, now: OffsetDateTime) -> Option<&mut User> {
        self.began.get_or_insert(now);
        let who = actor.to_string();
        if self.users.len() >= USERS && !self.users.contains_key(&who) {
            return None;
        }
        Some(self.users.entry(who).or_insert_with(|| User { actor: actor.clone(), written: BTreeSet::new(), counted: 0 }))
    }
}

fn record(actor: Actor, target: String, detail: serde_json::Value) -> Draft {
    Draft { change: None, phase: AuditPhase::Failed, actor, verb: CALL_VERB.to_owned(), target, detail }
}
