//! Rows read from or folded into the namespace, under a cap on their weight.
//!
//! Two generations: what is used moves to the young one; when that is full the old one is dropped. The root's inode is kept: the mount
//! itself is entered and looked at though the store is away and nobody was there for long.

use crate::fs::FileSystem;
use crate::key::Key;
use crate::neighbours::Misses;
use crate::row::{Row, weight};
use crate::types::{Ino, ROOT_INO};
use std::collections::HashMap;

/// Folders that are known whole, at most.
const WHOLE: usize = 4096;

#[derive(Debug)]
pub(crate) struct RowCache {
    young: HashMap<Key, Option<Row>>,
    old: HashMap<Key, Option<Row>>,
    young_weight: usize,
    cap: usize,
    /// How often the old generation was dropped.
    dropped: u64,
    /// Folders of which every name that is there was put in, and since when.
    whole: HashMap<Ino, u64>,
    root: Option<Row>,
}

const ROOT: Key = Key::Inode(ROOT_INO);

impl FileSystem {
    /// Gives back the memory of rows that the namespace has as well, which are fetched again when they are asked for, and of
    /// reads and uploads that are over.
    pub fn forget_rows(&self) {
        {
            let mut st = self.lock();
            st.clean.clear();
            st.misses = Misses::default();
        }
        self.buffers.clear();
        if let Some(shipping) = &self.shipping {
            shipping.buffers.clear();
        }
        self.ns.forget();
    }

    /// Gives back blocks of the namespace alone: whoever waits in a test for the store must not find his answer there.
    #[doc(hidden)]
    pub fn forget_blocks(&self) {
        self.ns.forget();
    }
}

impl RowCache {
    /// Holds rows of at most this weight in all.
    pub(crate) fn new(cap: usize) -> Self {
        RowCache { young: HashMap::new(), old: HashMap::new(), young_weight: 0, cap, dropped: 0, whole: HashMap::new(), root: None }
    }

    /// The row, if it is known to be there (`Some(Some)`) or absent (`Some(None)`).
    pub(crate) fn get(&mut self, key: &Key) -> Option<Option<Row>> {
        if *key == ROOT && self.root.is_some() {
            return Some(self.root.clone());
        }
        if let Some(row) = self.young.get(key) {
            return Some(row.clone());
        }
        let Some(row) = self.old.remove(key) else { return self.is_no_name(key).then_some(None) };
        self.put(*key, row.clone());
        Some(row)
    }

    /// Whether it is a name of a folder all of whose names are here, and not one of them.
    fn is_no_name(&self, key: &Key) -> bool {
        let Key::Dirent(folder, _) = key else { return false };
        self.whole.get(folder).is_some_and(|since| self.lasts(*since))
    }

    /// Whether nothing was dropped of what was put in since: what is young becomes old first.
    fn lasts(&self, since: u64) -> bool {
        self.dropped <= since + 1
    }

    /// For `has_all_names`: to be asked for before the names are put in.
    pub(crate) fn generation(&self) -> u64 {
        self.dropped
    }

    /// Every name that the folder has at rest was put in since.
    pub(crate) fn has_all_names(&mut self, folder: Ino, since: u64) {
        if self.whole.len() >= WHOLE {
            let dropped = self.dropped;
            self.whole.retain(|_, since| dropped <= *since + 1);
        }
        if self.whole.len() < WHOLE {
            self.whole.insert(folder, since);
        }
    }

    pub(crate) fn put(&mut self, key: Key, row: Option<Row>) {
        if key == ROOT {
            self.root = row;
            return;
        }
        self.old.remove(&key);
        self.young_weight += weight(row.as_ref());
        if let Some(before) = self.young.insert(key, row) {
            self.young_weight -= weight(before.as_ref());
        }
        if self.young_weight > self.cap / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_weight = 0;
            self.dropped += 1;
        }
    }

    /// Drops all of them but the root's inode, and the room they took.
    pub(crate) fn clear(&mut self) {
        *self = RowCache { root: self.root.take(), ..RowCache::new(self.cap) };
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        if *key == ROOT {
            self.root = None;
        }
        if let Some(before) = self.young.remove(key) {
            self.young_weight -= weight(before.as_ref());
        }
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Orphan;

    fn full(cache: &mut RowCache, from: u64) {
        let before = cache.dropped;
        for n in from.. {
            cache.put(Key::Orphan(n), Some(Row::Orphan(Orphan::Unlinked)));
            if cache.dropped > before {
                return;
            }
        }
    }

    #[test]
    fn a_folder_is_known_whole_for_as_long_as_all_its_names_are() {
        let mut cache = RowCache::new(1000);
        let (name, other) = (Key::Dirent(7, 100), Key::Dirent(7, 200));
        assert_eq!(cache.get(&other), None);
        full(&mut cache, 1000);
        let since = cache.generation();
        cache.put(name, Some(Row::Orphan(Orphan::Unlinked)));
        cache.has_all_names(7, since);
        assert_eq!(cache.get(&other), Some(None));
        assert_eq!(cache.get(&Key::Dirent(8, 200)), None);
        assert_eq!(cache.get(&Key::Inode(7)), None);
        // The names are old now, and still there.
        full(&mut cache, 2000);
        assert_eq!(cache.get(&other), Some(None));
        // Now they are gone.
        full(&mut cache, 3000);
        assert_eq!(cache.get(&name), None);
        assert_eq!(cache.get(&other), None);
        cache.has_all_names(7, cache.generation());
        cache.clear();
        assert_eq!(cache.get(&other), None);
    }

    #[test]
    fn the_roots_inode_is_never_given_up() {
        let mut cache = RowCache::new(1000);
        let row = || Some(Row::Orphan(Orphan::Unlinked));
        assert_eq!(cache.get(&ROOT), None);
        cache.put(ROOT, row());
        full(&mut cache, 1000);
        full(&mut cache, 2000);
        cache.clear();
        assert_eq!(cache.get(&ROOT), Some(row()));
        // It changes: what is at rest is not what it is.
        cache.remove(&ROOT);
        assert_eq!(cache.get(&ROOT), None);
        // That there is none is asked anew.
        cache.put(ROOT, None);
        assert_eq!(cache.get(&ROOT), None);
    }
}
