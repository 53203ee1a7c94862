//! What may be there after an end, given what was done, answered and synced.

use crate::posix::model::{BLOCK, Model};
use crate::posix::tree::{Entry, Names, Same, Tree, look, show};
use std::collections::{BTreeMap, BTreeSet};

/// What was done so far: the state before anything, and after each operation.
#[derive(Debug, Clone)]
pub struct History {
    states: Vec<Model>,
    /// Of each state whether the operation before it is done in several steps.
    stepped: Vec<bool>,
    /// What an operation would have left that was refused, and on which state: its record may have
    /// reached the disk whole before the error, and is then found by the next opening.
    perhaps: Vec<Refused>,
    /// The last state that was acknowledged.
    pub acknowledged: usize,
    /// The last state of which a sync was acknowledged.
    pub synced: usize,
    /// Whether the last state is of an operation that was not answered.
    pub in_flight: bool,
}

/// An operation that was refused.
#[derive(Debug, Clone)]
struct Refused {
    on: usize,
    after: Model,
    /// The disk took nothing any more, not even the cut of what it had called failed.
    uncut: bool,
}

impl History {
    /// Nothing was done yet.
    pub fn new(first: Model) -> Self {
        History { states: vec![first], stepped: vec![false], perhaps: Vec::new(), acknowledged: 0, synced: 0, in_flight: false }
    }

    /// The state that was acknowledged last.
    pub fn now(&self) -> &Model {
        &self.states[self.acknowledged]
    }

    /// An operation was answered.
    pub fn done(&mut self, after: Model, synced: bool, in_steps: bool) {
        self.stepped.push(in_steps);
        self.states.push(after);
        self.acknowledged = self.states.len() - 1;
        if synced {
            self.synced = self.acknowledged;
        }
    }

    /// An operation was under way when everything stopped.
    pub fn under_way(&mut self, after: Model, in_steps: bool) {
        self.states.push(after);
        self.in_flight = true;
        self.stepped.push(in_steps);
    }

    /// An operation was refused and nothing of it shows. `uncut`: nothing could take back what the disk may have of it.
    pub fn refused(&mut self, after: Model, uncut: bool) {
        self.perhaps.push(Refused { on: self.acknowledged, after, uncut });
    }

    /// An operation failed in part: this is what it left.
    pub fn left(&mut self, after: Model) {
        self.stepped.push(true);
        self.states.push(after);
        self.acknowledged = self.states.len() - 1;
    }

    /// The end was survived: what is there is what counts from here on.
    pub fn states(&self) -> &[Model] {
        &self.states
    }
}

/// Whether what is there is one of the states that may be there after the end; the number of the state, or why not.
///
/// After a power failure that is any state from the last sync on, else the last one that was acknowledged; and
/// what was under way may have happened or not.
pub fn judge(history: &History, found: &Tree, power: bool) -> Result<usize, String> {
    let lo = if power { history.synced } else { history.acknowledged };
    let mut whys = Vec::new();
    for (n, state) in history.states.iter().enumerate().skip(lo).rev() {
        match same_but_for_space(&Tree::of_model(state), found) {
            None => return Ok(n),
            Some(why) => whys.push(format!("state {n}: {why}")),
        }
    }
    // A refused operation may show if nothing came after it; or, where it could not be taken back, if nothing was changed after
    // it: a question whose answer was that there is no such name changes nothing.
    let unchanged = |on: usize| {
        let then = Tree::of_model(&history.states[on]);
        (on..lo).all(|n| same_but_for_space(&then, &Tree::of_model(&history.states[n + 1])).is_none())
    };
    let seen = |r: &Refused| (r.on >= lo || r.uncut && unchanged(r.on)) && same_but_for_space(&Tree::of_model(&r.after), found).is_none();
    if history.perhaps.iter().any(seen) {
        return Ok(history.states.len());
    }
    // Between two states, if what lies between was done in steps.
    for n in (lo + 1..history.states.len()).filter(|n| history.stepped[*n]) {
        match mixed(&history.states[n - 1], &history.states[n], found) {
            None => return Ok(n),
            Some(why) => whys.insert(0, format!("part of {n}: {why}")),
        }
    }
    whys.truncate(4);
    Err(format!("what is there is none of the states {lo} to {}: {}", history.states.len() - 1, whys.join("; ")))
}

/// Like [`Tree::difference`], but how much is allocated may differ: an operation that failed may have reserved space.
pub(super) fn same_but_for_space(expected: &Tree, found: &Tree) -> Option<String> {
    let strip = |t: &Tree| {
        let mut t = t.clone();
        for e in t.0.values_mut() {
            e.facts.blocks = 0;
        }
        t
    };
    strip(expected).difference(&strip(found), &mut Same::default())
}

/// Whether what is there lies between two states: names of either, data mixed by page.
pub(super) fn mixed(before: &Model, after: &Model, found: &Tree) -> Option<String> {
    let (a, b) = (Tree::of_model(before), Tree::of_model(after));
    let names: BTreeSet<&Names> = found.0.keys().collect();
    if names != a.0.keys().collect() && names != b.0.keys().collect() {
        return Some("the names are of neither state".to_owned());
    }
    for (name, e) in &found.0 {
        let (old, new) = (a.0.get(name), b.0.get(name));
        let sizes: Vec<u64> = [old, new].iter().flatten().map(|e| e.facts.size).collect();
        if !sizes.contains(&e.facts.size) {
            return Some(format!("{}: {} bytes, not one of {sizes:?}", show(name), e.facts.size));
        }
        if let Some(why) = pages_mixed(e, old, new) {
            return Some(format!("{}: {why}", show(name)));
        }
    }
    None
}

fn pages_mixed(found: &Entry, old: Option<&Entry>, new: Option<&Entry>) -> Option<String> {
    let none = BTreeMap::new();
    let (old, new) = (old.map_or(&none, |e| &e.pages), new.map_or(&none, |e| &e.pages));
    let all: BTreeSet<u64> = found.pages.keys().chain(old.keys()).chain(new.keys()).copied().collect();
    for n in all.into_iter().filter(|n| n * BLOCK < found.facts.size) {
        let page = found.pages.get(&n);
        if page != old.get(&n) && page != new.get(&n) {
            return Some(format!("block {n} is {}, neither {} nor {}", look(page), look(old.get(&n)), look(new.get(&n))));
        }
    }
    None
}
