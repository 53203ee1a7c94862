//! How often the kernel was told of each inode: it keeps the inode until as many have been forgotten.
//!
//! A volume that was walked has a million of them, mostly numbers in a row that were told once: a byte each, sixteen
//! side by side, instead of a table's row each.

use crate::types::Ino;
use std::collections::HashMap;

const SIDE_BY_SIDE: u64 = 16;
/// A count that no longer fits its byte; it stands among the large ones.
const LARGE: u8 = u8::MAX;

/// Counts by inode; what is not there is zero.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    small: HashMap<u64, [u8; SIDE_BY_SIDE as usize]>,
    large: HashMap<Ino, u64>,
}

impl Lookups {
    /// Counts one more.
    pub(crate) fn told(&mut self, ino: Ino) {
        let count = &mut self.small.entry(ino / SIDE_BY_SIDE).or_default()[place(ino)];
        match *count {
            LARGE => *self.large.entry(ino).or_default() += 1,
            _ => {
                *count += 1;
                if *count == LARGE {
                    self.large.insert(ino, u64::from(LARGE));
                }
            }
        }
    }

    /// Takes `n` off the count; whether nothing is left of one that was there.
    pub(crate) fn forget(&mut self, ino: Ino, n: u64) -> bool {
        let Some(counts) = self.small.get_mut(&(ino / SIDE_BY_SIDE)) else { return false };
        let count = &mut counts[place(ino)];
        if *count == 0 {
            return false;
        }
        let before = if *count == LARGE { self.large.remove(&ino).unwrap_or(u64::from(LARGE)) } else { u64::from(*count) };
        let left = before.saturating_sub(n);
        *count = match u8::try_from(left) {
            Ok(small) if small < LARGE => small,
            _ => {
                self.large.insert(ino, left);
                LARGE
            }
        };
        if counts.iter().all(|c| *c == 0) {
            self.small.remove(&(ino / SIDE_BY_SIDE));
            self.give_back();
        }
        left == 0
    }

    /// Whether the kernel holds the inode.
    pub(crate) fn holds(&self, ino: Ino) -> bool {
        self.small.get(&(ino / SIDE_BY_SIDE)).is_some_and(|counts| counts[place(ino)] > 0)
    }

    /// The inodes from `from` on that the kernel holds, in no order.
    pub(crate) fn from(&self, from: Ino) -> Vec<Ino> {
        let side_by_side = |(block, counts): (&u64, &[u8; SIDE_BY_SIDE as usize])| {
            let (first, counts) = (block * SIDE_BY_SIDE, *counts);
            (first..).zip(counts).filter(|(_, c)| *c > 0).map(|(ino, _)| ino)
        };
        self.small.iter().flat_map(side_by_side).filter(|ino| *ino >= from).collect()
    }

    /// A table that became far too large is made anew.
    fn give_back(&mut self) {
        if self.small.capacity() > 1024 && self.small.len() < self.small.capacity() / 8 {
            self.small.shrink_to(self.small.len() * 2);
        }
    }
}

fn place(ino: Ino) -> usize {
    (ino % SIDE_BY_SIDE) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    /// Counted beside a plain table.
    #[test]
    fn counts_are_what_a_plain_table_has() {
        for seed in 0..20 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut lookups, mut plain) = (Lookups::default(), HashMap::<Ino, u64>::new());
            for _ in 0..20_000 {
                let ino = rng.random_range(1..64);
                if rng.random_bool(0.7) {
                    lookups.told(ino);
                    *plain.entry(ino).or_default() += 1;
                } else {
                    let n = if rng.random_bool(0.01) { rng.random_range(1..2000) } else { rng.random_range(1..4) };
                    let before = plain.get(&ino).copied().unwrap_or(0);
                    let left = before.saturating_sub(n);
                    assert_eq!(lookups.forget(ino, n), before > 0 && left == 0, "seed {seed}: {before} - {n}");
                    if left == 0 {
                        plain.remove(&ino)
                    } else {
                        plain.insert(ino, left)
                    };
                }
                assert_eq!(lookups.holds(ino), plain.contains_key(&ino));
            }
            let mut held = lookups.from(20);
            held.sort_unstable();
            let mut expected: Vec<Ino> = plain.keys().copied().filter(|i| *i >= 20).collect();
            expected.sort_unstable();
            assert_eq!(held, expected);
            for (ino, n) in plain {
                assert!(lookups.forget(ino, n));
            }
            assert!(lookups.small.is_empty() && lookups.large.is_empty());
        }
    }

    #[test]
    fn a_million_in_a_row_take_a_few_megabytes_and_give_them_back() {
        let mut lookups = Lookups::default();
        (1..=1_000_000).for_each(|ino| lookups.told(ino));
        let row = size_of::<(u64, [u8; SIDE_BY_SIDE as usize])>() + 1;
        assert!(lookups.small.capacity() * row < 8 << 20, "{} rows", lookups.small.capacity());
        assert!((1..=1_000_000).all(|ino| lookups.forget(ino, 1)));
        assert!(lookups.small.capacity() <= 1024 * 2, "{} rows", lookups.small.capacity());
    }
}
