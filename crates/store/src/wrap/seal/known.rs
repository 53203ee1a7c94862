//! Headers of objects seen before, so that a ranged read of a known object is one request. Bounded, and never trusted
//! further than the object's version: whoever uses one compares it with what the store answers.

use super::format::Header;
use object_store::ObjectMeta;
use std::collections::HashMap;
use std::sync::Mutex;

/// Entries in one of two generations; about 250 bytes each.
const GENERATION: usize = 1024;

/// What tells one version of an object from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    size: u64,
    /// The store's tag, or the time if it gives none.
    mark: String,
}

impl Version {
    /// Of an object as the store answered for it: sizes are those of the sealed object.
    pub(super) fn of(raw: &ObjectMeta) -> Version {
        Version { size: raw.size, mark: raw.e_tag.clone().unwrap_or_else(|| raw.last_modified.to_rfc3339()) }
    }

    pub(super) fn written(size: u64, e_tag: String) -> Version {
        Version { size, mark: e_tag }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

/// An object seen before.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) version: Version,
    pub(super) header: Header,
    /// Whether it was opened and found to be empty indeed.
    pub(super) empty: bool,
}

#[derive(Debug, Default)]
pub(super) struct Headers(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<String, Known>,
    old: HashMap<String, Known>,
}

impl Headers {
    pub(super) fn get(&self, path: &str) -> Option<Known> {
        let mut all = self.0.lock().expect("no code panics while it holds this lock");
        if let Some(known) = all.young.get(path) {
            return Some(known.clone());
        }
        let known = all.old.remove(path)?;
        all.put(path.to_owned(), known.clone());
        Some(known)
    }

    pub(super) fn put(&self, path: &str, known: Known) {
        self.0.lock().expect("no code panics while it holds this lock").put(path.to_owned(), known);
    }

    pub(super) fn forget(&self, path: &str) {
        let mut all = self.0.lock().expect("no code panics while it holds this lock");
        all.young.remove(path);
        all.old.remove(path);
    }
}

impl Generations {
    fn put(&mut self, path: String, known: Known) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(path, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let headers = Headers::default();
        let header = Header::parse(&[&b"ORLOPE01\x01\x10"[..], &[0; 30]].concat()).expect("well-formed");
        let known = Known { version: Version::written(1, "1".into()), header, empty: false };
        headers.put("hot", known.clone());
        for n in 0..10 * GENERATION {
            headers.put(&n.to_string(), known.clone());
            assert!(headers.get("hot").is_some(), "dropped at {n}");
        }
        assert!(headers.get("0").is_none());
        let all = headers.0.lock().expect("free");
        assert!(all.young.len() + all.old.len() <= 2 * GENERATION);
    }
}
