//! Rows read from or folded into the namespace, under a cap on their weight.
//!
//! Two generations: what is used moves to the young one; when that is full the old one is dropped.

use crate::fs::FileSystem;
use crate::key::Key;
use crate::row::Row;
use std::collections::HashMap;

#[derive(Debug)]
pub(crate) struct RowCache {
    young: HashMap<Key, Option<Row>>,
    old: HashMap<Key, Option<Row>>,
    young_weight: usize,
    cap: usize,
}

impl FileSystem {
    /// Gives back the memory of rows that the namespace has as well, which are fetched again when they are asked for, and of
    /// reads and uploads that are over.
    pub fn forget_rows(&self) {
        self.lock().clean.clear();
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

fn weight(row: &Option<Row>) -> usize {
    32 + row.as_ref().map_or(0, Row::weight)
}

impl RowCache {
    /// Holds rows of at most this weight in all.
    pub(crate) fn new(cap: usize) -> Self {
        RowCache { young: HashMap::new(), old: HashMap::new(), young_weight: 0, cap }
    }

    /// The row, if it is known to be there (`Some(Some)`) or absent (`Some(None)`).
    pub(crate) fn get(&mut self, key: &Key) -> Option<Option<Row>> {
        if let Some(row) = self.young.get(key) {
            return Some(row.clone());
        }
        let row = self.old.remove(key)?;
        self.put(*key, row.clone());
        Some(row)
    }

    pub(crate) fn put(&mut self, key: Key, row: Option<Row>) {
        self.old.remove(&key);
        self.young_weight += weight(&row);
        if let Some(before) = self.young.insert(key, row) {
            self.young_weight -= weight(&before);
        }
        if self.young_weight > self.cap / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_weight = 0;
        }
    }

    /// Drops all of them, and the room they took.
    pub(crate) fn clear(&mut self) {
        *self = RowCache::new(self.cap);
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        if let Some(before) = self.young.remove(key) {
            self.young_weight -= weight(&before);
        }
        self.old.remove(key);
    }
}
