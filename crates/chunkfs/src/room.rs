//! Making room on the host's disk when a write finds none: what was removed goes, then garbage; on a volume whose home is the
//! store what the store has goes too.
//!
//! Nobody waits here for room that does not come. A fold that finds none tries until there is some: none is begun without it, one
//! under way is waited for only so long, and who was refused learns of it.

use crate::fs::FileSystem;
use crate::log::ship::Shipping;
use crate::types::{FsError, FsResult};
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::timeout;

/// How long others that make room are waited for, and a fold under way.
const WAIT: Duration = Duration::from_secs(10);
/// Free bytes without which no fold is begun, beside what it has to write.
const FOLD_ROOM: u64 = 1 << 20;
/// Segments that are moved at most before a write is tried again.
const MOVES: usize = 4;

impl FileSystem {
    /// When the host's disk is short of `wanted` bytes: waits for what was just removed to go, and gives back what is garbage.
    /// Tells whether trying again makes sense.
    pub(crate) async fn make_room(&self, wanted: u64) -> bool {
        self.free_orphans().await;
        if let Some(shipping) = &self.shipping {
            return self.send_for_room(shipping).await;
        }
        let before = self.host_free();
        let made = match timeout(WAIT, self.room_turn.lock()).await {
            // Whoever had the turn before may have made enough.
            Ok(_turn) => self.has_room(wanted) || self.give_back(wanted).await,
            Err(_) => false,
        };
        made || self.host_free() > before || self.has_room(wanted)
    }

    async fn give_back(&self, wanted: u64) -> bool {
        let mut made = self.lock().dead_blocks() > 0 && self.fold_for_room().await.is_ok();
        if self.has_room(wanted) {
            return true;
        }
        match self.trim_for_room().await {
            Ok(blocks) => made |= blocks > 0,
            Err(e) => tracing::warn!(error = %e, "garbage could not be given back"),
        }
        // One segment at a time, the emptiest first, so that little room is needed to gain some.
        for _ in 0..MOVES {
            let Some(victim) = self.emptiest() else { break };
            if self.may_fold().is_err() || self.empty(&HashSet::from([victim])).await.is_err() || self.fold_for_room().await.is_err() {
                break;
            }
            made = true;
        }
        made
    }

    /// A fold by somebody who cannot wait until there is room for it.
    pub(crate) async fn fold_for_room(&self) -> FsResult<()> {
        self.may_fold()?;
        match timeout(WAIT, self.fold_turn.lock()).await {
            Ok(turn) => self.fold_in(turn).await,
            Err(_) => Err(FsError::NoSpace),
        }
    }

    /// Refuses when the disk has no room for what a fold writes: others may have taken what is kept for it.
    pub(crate) fn may_fold(&self) -> FsResult<()> {
        let mut st = self.lock();
        st.look()?;
        if st.host_free < st.owed() + FOLD_ROOM { Err(FsError::NoSpace) } else { Ok(()) }
    }

    fn has_room(&self, wanted: u64) -> bool {
        let mut st = self.lock();
        st.look().is_ok() && st.host_free >= st.kept() + st.owed() + wanted
    }

    /// Bytes free on the host's disk; none if it cannot be asked.
    fn host_free(&self) -> u64 {
        let mut st = self.lock();
        st.look().map_or(0, |()| st.host_free)
    }

    /// The same on a volume whose home is the store: copies go, and what is only here is sent first.
    async fn send_for_room(&self, shipping: &Shipping) -> bool {
        loop {
            if self.evict(0).await > 0 {
                return true;
            }
            if self.lock().unpacked_bytes() == 0 || shipping.check_outage().is_err() {
                return false;
            }
            let folded = self.wake.folded.notified();
            self.wake.fold.notify_one();
            let _ = timeout(Duration::from_secs(1), folded).await;
        }
    }
}
