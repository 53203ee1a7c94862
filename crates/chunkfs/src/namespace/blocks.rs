//! Blocks, indexes and filters of the namespace's objects, kept as they were read, under a cap.
//!
//! Without them every row that is not in memory would cost the index of each object that may hold it. Indexes and filters
//! have a room of their own: a walk over many rows pushes blocks out, and never what finds them.

use async_trait::async_trait;
use parking_lot::Mutex;
use slatedb::Error;
use slatedb::db_cache::{CachedEntry, CachedKey, DbCache};
use std::collections::HashMap;

/// Bytes of blocks, and of all else.
const BLOCKS: usize = 16 << 20;
const FINDERS: usize = 24 << 20;
/// What an entry costs beside its bytes.
const ENTRY: usize = 128;

/// Two generations: what is used moves to the young one; when that is half of the room the old one is dropped.
#[derive(Default)]
struct Room {
    young: HashMap<CachedKey, CachedEntry>,
    old: HashMap<CachedKey, CachedEntry>,
    young_bytes: usize,
}

impl Room {
    fn get(&mut self, key: &CachedKey, cap: usize) -> Option<CachedEntry> {
        if let Some(entry) = self.young.get(key) {
            return Some(entry.clone());
        }
        let entry = self.old.remove(key)?;
        self.put(key.clone(), entry.clone(), cap);
        Some(entry)
    }

    fn put(&mut self, key: CachedKey, entry: CachedEntry, cap: usize) {
        let cost = |e: &CachedEntry| e.size() + ENTRY;
        if cost(&entry) > cap / 2 {
            return;
        }
        if self.young_bytes + cost(&entry) > cap / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += cost(&entry);
        if let Some(before) = self.young.insert(key, entry) {
            self.young_bytes -= cost(&before);
        }
    }

    fn remove(&mut self, key: &CachedKey) -> Option<CachedEntry> {
        let young = self.young.remove(key);
        if let Some(before) = &young {
            self.young_bytes -= before.size() + ENTRY;
        }
        young.or(self.old.remove(key))
    }
}

/// The cache of one namespace.
#[derive(Default)]
pub(super) struct Blocks {
    blocks: Mutex<Room>,
    finders: Mutex<Room>,
}

impl Blocks {
    /// Drops all of it, and the room that it took.
    pub(super) fn clear(&self) {
        *self.blocks.lock() = Room::default();
        *self.finders.lock() = Room::default();
    }

    fn finder(&self, key: &CachedKey) -> Option<CachedEntry> {
        let mut finders = self.finders.lock();
        if let Some(entry) = finders.get(key, FINDERS) {
            return Some(entry);
        }
        let entry = self.blocks.lock().remove(key)?;
        finders.put(key.clone(), entry.clone(), FINDERS);
        Some(entry)
    }
}

#[async_trait]
impl DbCache for Blocks {
    async fn get_block(&self, key: &CachedKey) -> Result<Option<CachedEntry>, Error> {
        Ok(self.blocks.lock().get(key, BLOCKS))
    }

    async fn get_index(&self, key: &CachedKey) -> Result<Option<CachedEntry>, Error> {
        Ok(self.finder(key))
    }

    async fn get_filter(&self, key: &CachedKey) -> Result<Option<CachedEntry>, Error> {
        Ok(self.finder(key))
    }

    async fn get_stats(&self, key: &CachedKey) -> Result<Option<CachedEntry>, Error> {
        Ok(self.finder(key))
    }

    async fn insert(&self, key: CachedKey, value: CachedEntry) {
        // An entry does not say what it is; who looks for it does, and takes it where it belongs.
        self.blocks.lock().put(key, value, BLOCKS);
    }

    async fn remove(&self, key: &CachedKey) {
        self.blocks.lock().remove(key);
        self.finders.lock().remove(key);
    }

    fn entry_count(&self) -> u64 {
        let count = |room: &Mutex<Room>| {
            let room = room.lock();
            (room.young.len() + room.old.len()) as u64
        };
        count(&self.blocks) + count(&self.finders)
    }
}
