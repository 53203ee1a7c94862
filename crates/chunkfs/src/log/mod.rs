//! The log of a volume whose home is the store: what is sent there, in which order, and who may send.
//!
//! The host's journal and staged segments remain what changes go to first; the store's log is the same records,
//! in objects that are created once, in a chain without gaps. docs/design/0002-log-on-the-store.md has the reasons.

pub(crate) mod chain;
pub(crate) mod facts;
pub(crate) mod holder;
pub(crate) mod lease;
pub(crate) mod object;
pub(crate) mod outbox;
mod packing;
pub(crate) mod patience;
pub(crate) mod ship;

use object_store::path::Path as StorePath;

/// A place in the chain: which writer, and the how-manieth object of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) epoch: u64,
    pub(crate) n: u64,
}

impl Place {
    /// Where a new volume's log begins.
    pub(crate) const FIRST: Place = Place { epoch: 1, n: 1 };

    pub(crate) fn next(self) -> Place {
        Place { n: self.n + 1, ..self }
    }

    /// The object's name. Names sort by number, so a listing is in the order of the chain.
    pub(crate) fn path(self, prefix: &str) -> StorePath {
        StorePath::from(format!("{prefix}/log/{:016x}-{:08x}", self.n, self.epoch))
    }

    /// The place that a name says, if it is a log object's.
    pub(crate) fn parse(name: &str) -> Option<Place> {
        let (n, epoch) = name.split_once('-')?;
        if n.len() != 16 || epoch.len() < 8 {
            return None;
        }
        Some(Place { epoch: u64::from_str_radix(epoch, 16).ok()?, n: u64::from_str_radix(n, 16).ok()? })
    }
}
