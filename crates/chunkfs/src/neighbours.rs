//! Rows that are asked for one by one and lie side by side: the second that is missed brings its neighbours along.
//!
//! A row from the namespace at rest costs tens of microseconds, those beside it one each. Files that were made one after the other have
//! numbers side by side, and whoever looks at one name of a folder often looks at more of them.

use crate::fs::FileSystem;
use crate::key::Key;
use crate::row::Row;
use crate::state::State;
use crate::types::{FsResult, Ino};

/// Inodes of a neighbourhood: so many numbers side by side.
const INODES: u64 = 128;
/// A folder with more names is read name by name.
const NAMES: u64 = 512;
/// Rows of one reading at most, and their bytes: a row of a large file's chunks has 5 KiB.
const ROWS: usize = 1024;
const BYTES: usize = 128 << 10;
/// Neighbourhoods of which misses are counted: of some 100,000 files at once, wherever they are looked at next.
const PLACES: usize = 4096;
/// Misses after which neighbours are read, once for so many.
const SECOND: u32 = 2;
const AGAIN: u32 = 64;

/// Rows that are read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Neighbours {
    /// Of so many inodes, by the number of the neighbourhood.
    Inodes(u64),
    Chunks(u64),
    Xattrs(u64),
    /// All names of a folder.
    Names(Ino),
}

/// Counts of misses; takes memory from the first one on.
#[derive(Debug, Default)]
pub(crate) struct Misses(Vec<Option<(Neighbours, u32)>>);

impl Misses {
    /// Whether it is time to read all of them.
    fn count(&mut self, what: Neighbours) -> bool {
        let place = self.place(what);
        let n = match place {
            Some((before, n)) if *before == what => n.saturating_add(1),
            _ => 1,
        };
        *place = Some((what, n));
        n < u32::MAX && n % AGAIN == SECOND
    }

    /// Never again, until another takes its place.
    fn give_up(&mut self, what: Neighbours) {
        *self.place(what) = Some((what, u32::MAX));
    }

    fn place(&mut self, what: Neighbours) -> &mut Option<(Neighbours, u32)> {
        let (kind, number) = match what {
            Neighbours::Inodes(n) => (0, n),
            Neighbours::Chunks(n) => (1, n),
            Neighbours::Xattrs(n) => (2, n),
            Neighbours::Names(n) => (3, n),
        };
        self.0.resize(PLACES, None);
        &mut self.0[(number as usize).wrapping_mul(4).wrapping_add(kind) % PLACES]
    }
}

impl Neighbours {
    fn of(key: Key) -> Option<Neighbours> {
        match key {
            Key::Inode(i) => Some(Neighbours::Inodes(i / INODES)),
            // Of a file's later chunks whoever reads it takes care.
            Key::Chunk(i, 0) => Some(Neighbours::Chunks(i / INODES)),
            Key::Xattrs(i) => Some(Neighbours::Xattrs(i / INODES)),
            Key::Dirent(folder, _) => Some(Neighbours::Names(folder)),
            _ => None,
        }
    }

    fn range(self) -> (Key, Key) {
        match self {
            Neighbours::Inodes(n) => (Key::Inode(n * INODES), Key::Inode((n + 1) * INODES)),
            Neighbours::Chunks(n) => (Key::Chunk(n * INODES, 0), Key::Chunk((n + 1) * INODES, 0)),
            Neighbours::Xattrs(n) => (Key::Xattrs(n * INODES), Key::Xattrs((n + 1) * INODES)),
            Neighbours::Names(folder) => (Key::Dirent(folder, 0), Key::Dirent(folder + 1, 0)),
        }
    }

    /// The rows that can be there and are asked for one by one, where they can be named.
    fn keys(self) -> Vec<Key> {
        let inodes = |n: u64| n * INODES..(n + 1) * INODES;
        match self {
            Neighbours::Inodes(n) => inodes(n).map(Key::Inode).collect(),
            Neighbours::Chunks(n) => inodes(n).map(|i| Key::Chunk(i, 0)).collect(),
            Neighbours::Xattrs(n) => inodes(n).map(Key::Xattrs).collect(),
            Neighbours::Names(_) => Vec::new(),
        }
    }
}

impl State {
    /// What to read instead of a row that memory does not have, if it is not the first of its neighbourhood.
    pub(crate) fn missed(&mut self, key: Key) -> Option<Neighbours> {
        let what = Neighbours::of(key).filter(|what| self.misses.count(*what))?;
        match what {
            Neighbours::Names(folder) => match self.row(Key::Inode(folder)) {
                Ok(Some(Row::Inode(i))) if i.size <= NAMES => Some(what),
                _ => None,
            },
            _ => Some(what),
        }
    }
}

impl FileSystem {
    /// Reads neighbours into memory, as they were when `folds` were made.
    pub(crate) async fn fetch_all(&self, what: Neighbours, folds: u64) -> FsResult<()> {
        let (from, to) = what.range();
        let (rows, is_all) = self.at_rest(self.ns.side_by_side(from, to, ROWS, BYTES, self.shipping.is_some())).await?;
        let mut st = self.lock();
        // A fold that ended meanwhile may have made rows newer than what was read.
        if st.folds != folds {
            return Ok(());
        }
        let since = st.clean.generation();
        for (key, row) in rows {
            st.learn(key, Some(row));
        }
        if !is_all {
            // Large ones: whoever wants one of them is better off without the others.
            st.misses.give_up(what);
            return Ok(());
        }
        // The others are known not to be there.
        for key in what.keys() {
            st.learn(key, self.ns.missing().stand_in(key));
        }
        // During a fold a name may be on its way that was not read, and not be put in again.
        if let Neighbours::Names(folder) = what
            && st.folding.is_none()
        {
            st.clean.has_all_names(folder, since);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_miss_of_a_neighbourhood_brings_it() {
        let mut misses = Misses::default();
        let (a, b) = (Neighbours::Inodes(3), Neighbours::Names(3));
        assert!(!misses.count(a));
        assert!(!misses.count(b));
        assert!(misses.count(a));
        assert!(misses.count(b));
        // Not each time after it.
        assert_eq!((0..128).filter(|_| misses.count(a)).count(), 2);
        misses.give_up(b);
        assert_eq!((0..128).filter(|_| misses.count(b)).count(), 0);
        // Another in its place begins anew.
        assert!(!misses.count(Neighbours::Inodes(3 + PLACES as u64)));
        assert!(!misses.count(a));
    }
}
