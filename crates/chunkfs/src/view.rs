//! The whole volume as it was at one instant, while others go on writing: what a check or a summary walks over.
//!
//! Rows in memory are cloned (they are shared, not copied) and the namespace at rest is pinned, both under the state's
//! lock. So rows and the counters over them belong together. Blocks do not stand still: a segment that nothing refers
//! to any more may go, and whoever finds one missing looks again at what is true now.

use crate::fs::FileSystem;
use crate::key::Key;
use crate::namespace::Pinned;
use crate::row::{Row, Segment, Super};
use crate::types::FsResult;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub(crate) struct View {
    pinned: Pinned,
    /// Newer rows over older ones.
    layers: Vec<Arc<BTreeMap<Key, Option<Row>>>>,
    pub(crate) sb: Super,
    pub(crate) segments: HashMap<u64, Segment>,
    /// The segment that is being filled, and its next free block.
    pub(crate) current: Option<(u64, u32)>,
    /// The newest journal file: number of its first record, bytes that count, number of its last record.
    pub(crate) journal: (u64, u64, u64),
}

impl View {
    pub(crate) fn take(fs: &FileSystem) -> FsResult<View> {
        let st = fs.lock();
        let mut layers = vec![Arc::new(st.overlay.clone())];
        layers.extend(st.folding.clone());
        Ok(View {
            pinned: fs.ns.pin()?,
            layers,
            sb: st.sb.clone(),
            segments: st.segments.clone(),
            current: st.current.as_ref().map(|c| (c.segment, c.next)),
            journal: st.journal.place(),
        })
    }

    /// Rows from `from` up to and excluding `to`, in order, at most about `limit`; and where to go on, if anywhere.
    pub(crate) async fn scan(&self, from: Key, to: Key, limit: usize) -> FsResult<(Vec<(Key, Row)>, Option<Key>)> {
        let stored = self.pinned.scan(from, to, limit).await?;
        // Only so far is known what is stored.
        let next = if stored.len() < limit { None } else { stored.last().map(|(k, _)| crate::fs::after(*k)) };
        let end = next.unwrap_or(to);
        let mut rows: BTreeMap<Key, Option<Row>> = stored.into_iter().map(|(k, r)| (k, Some(r))).collect();
        for layer in self.layers.iter().rev() {
            if from < end {
                rows.extend(layer.range(from..end).map(|(k, r)| (*k, r.clone())));
            }
        }
        Ok((rows.into_iter().filter_map(|(k, r)| Some((k, r?))).collect(), next))
    }
}
