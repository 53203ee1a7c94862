//! Which records are about which volume. A record names it as the caller did: by its name of then or by its id; what came of the
//! change tells the id. So the journal is walked from its beginning, and each change gets the volume that its two records, and the
//! ones before, tell of.

use super::refusals::CALL_VERB;
use super::segment::{lines, segments};
use orlop_model::{AuditEvent, AuditPhase, Result, VolumeId, VolumeRef};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// The records of one volume, or of all that ever had one name.
pub(super) struct Subject {
    asked: String,
    volumes: HashSet<VolumeId>,
    /// The volume of each change that was asked of one; `None` where nothing tells, as of a name that nobody has.
    changes: HashMap<u64, Option<VolumeId>>,
    /// Who has which name at this point of the walk.
    holders: HashMap<String, VolumeId>,
    /// The last name of each volume, removed ones included.
    names: HashMap<VolumeId, String>,
    /// The names that volumes are being restored under, by change.
    renames: HashMap<u64, String>,
}

impl Subject {
    /// Reads the journal in `dir` for the volume with this name or id. Blocking.
    pub(super) fn find(dir: &Path, asked: &str) -> Result<Subject> {
        let mut subject = Subject {
            asked: asked.to_owned(),
            volumes: id_of(asked).into_iter().collect(),
            changes: HashMap::new(),
            holders: HashMap::new(),
            names: HashMap::new(),
            renames: HashMap::new(),
        };
        for segment in segments(dir)? {
            for line in lines(&segment.path, u64::MAX)? {
                let line = line?;
                if let (true, Ok(event)) = (line.ended, serde_json::from_slice::<AuditEvent>(&line.bytes)) {
                    subject.walk(&event);
                }
            }
        }
        Ok(subject)
    }

    /// Whether the record is about what was asked for.
    pub(super) fn has(&self, event: &AuditEvent) -> bool {
        match self.changes.get(&event.change) {
            Some(Some(id)) => self.volumes.contains(id),
            Some(None) => event.target == self.asked,
            None => false,
        }
    }

    fn walk(&mut self, event: &AuditEvent) {
        if !self.changes.contains_key(&event.change) && !is_of_a_volume(event) {
            return;
        }
        let named = id_of(&event.target);
        let told = [&event.detail["volume"], &event.detail["outcome"]["volume"]].into_iter().find_map(|v| id_of(v.as_str()?));
        let before = self.changes.get(&event.change).copied().flatten();
        let volume = named.or(told).or(before).or_else(|| self.holders.get(&event.target).copied());
        self.changes.insert(event.change, volume);
        if let (AuditPhase::Start, Some(rename)) = (event.phase, event.detail["rename"].as_str()) {
            self.renames.insert(event.change, rename.to_owned());
        }
        let (AuditPhase::Done, Some(id)) = (event.phase, volume) else { return };
        let mut has_name = event.verb == "volume.restore";
        let of_then = named.is_none().then(|| event.target.clone());
        for name in of_then.into_iter().chain(self.renames.remove(&event.change)) {
            has_name = true;
            if name == self.asked {
                self.volumes.insert(id);
            }
            self.names.insert(id, name);
        }
        let Some(name) = self.names.get(&id) else { return };
        if matches!(event.verb.as_str(), "volume.remove" | "volume.uncreate" | "volume.purge") {
            if self.holders.get(name) == Some(&id) {
                self.holders.remove(name);
            }
        } else if has_name {
            self.holders.insert(name.clone(), id);
        }
    }
}

/// Stores have names as well, and the master key has a target that a volume could be named.
fn is_of_a_volume(event: &AuditEvent) -> bool {
    event.verb.starts_with("volume.")
        || (event.verb == CALL_VERB && event.detail["volume"].is_string())
        || (event.verb == "key.rotate" && (event.target != "master-key" || event.detail["volume"].is_string()))
}

fn id_of(text: &str) -> Option<VolumeId> {
    match text.parse::<VolumeRef>() {
        Ok(VolumeRef::Id(id)) => Some(id),
        _ => None,
    }
}
