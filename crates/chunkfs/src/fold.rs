//! The fold, which moves rows from the journal to the namespace.
//!
//! Order is everything here (obligation 3): pending writes to a segment, cut, data files, rows and number in one
//! batch, and only when that is durable the old journal files and dead segments go.

use crate::change::{Change, Record};
use crate::fs::FileSystem;
use crate::key::Key;
use crate::log::ship::{Shipping, Waits};
use crate::row::{Row, Segment};
use crate::state::{Bases, Dead, State, host_error};
use crate::types::{FsError, FsResult};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::MutexGuard;

/// Weight of changed rows at which a fold is started.
const FOLD_WEIGHT: usize = 20 << 20;
/// Weight at which changes wait for the fold to end.
const STOP_WEIGHT: usize = 64 << 20;
/// Bytes of journal at which a fold is started.
const FOLD_JOURNAL: u64 = 64 << 20;

/// Objects of the log on the store that openings leave which change nothing.
const OPENINGS: usize = 16;

/// Where room is scarce a fold comes sooner: until then every change takes its room twice, and what is kept for folds is small.
pub(crate) fn is_fold_due(st: &State) -> bool {
    let most = if st.is_scarce() { st.floor() / 8 } else { u64::MAX };
    st.overlay_weight as u64 >= most.min(FOLD_WEIGHT as u64) || st.journal.len() >= most.min(FOLD_JOURNAL)
}

impl FileSystem {
    /// Waits until there is room for more changed rows.
    pub(crate) async fn admit(&self) -> FsResult<()> {
        if let Some(shipping) = &self.shipping {
            self.admit_unsent(shipping).await?;
        }
        loop {
            let folded = self.wake.folded.notified();
            tokio::pin!(folded);
            folded.as_mut().enable();
            {
                let st = self.lock();
                st.writable()?;
                if !is_fold_due(&st) {
                    return Ok(());
                }
                self.wake.fold.notify_one();
                if st.overlay_weight < STOP_WEIGHT {
                    return Ok(());
                }
            }
            folded.await;
        }
    }

    /// The same for whoever compacts: the task that folds may be the one that asks, so it folds itself.
    pub(crate) async fn fold_if_due(&self) -> FsResult<()> {
        if let Some(shipping) = &self.shipping {
            self.admit_unsent(shipping).await?;
        }
        let is_due = {
            let st = self.lock();
            st.writable()?;
            is_fold_due(&st)
        };
        match is_due {
            false => Ok(()),
            // Whoever moves data to make room cannot wait for it.
            true if self.shipping.is_none() => self.fold_for_room().await,
            true => self.fold().await,
        }
    }

    /// Moves all changed rows into the namespace.
    pub(crate) async fn fold(&self) -> FsResult<()> {
        self.fold_in(self.fold_turn.lock().await).await
    }

    /// The same in a turn. It must not be dropped before its end: what it has begun would block every later one.
    pub(crate) async fn fold_in(&self, _turn: MutexGuard<'_, ()>) -> FsResult<()> {
        let (rows, cut, folds_nothing) = {
            let mut st = self.lock();
            match st.folding.clone() {
                // An earlier fold failed half-way: it is tried again as it was.
                Some(_) => (None, 0, true),
                None => {
                    st.writable()?;
                    st.flush_dirty()?;
                    self.drop_dead(&mut st)?;
                    if self.shipping.is_some() && st.current.as_ref().is_some_and(|c| c.next > 0) {
                        // What the rows name becomes packs now: nothing more goes into it.
                        st.current = None;
                    }
                    let cut = st.journal.seq();
                    st.journal.rotate().map_err(|e| host_error("starting a journal file", &e))?;
                    st.overlay_weight = 0;
                    let rows = Arc::new(std::mem::take(&mut st.overlay));
                    st.folding = Some(rows.clone());
                    st.stored_below = st.sb.next_ino;
                    // A record may change nothing, and still be the last one that the namespace has to know of. And a log in which
                    // there are only the beginnings of openings would grow, and each of them read all of it.
                    let many = self.shipping.as_ref().is_some_and(|s| s.objects() >= OPENINGS);
                    let folds_nothing = rows.is_empty() && cut == st.folded_upto && !many;
                    (Some(rows), cut, folds_nothing)
                }
            }
        };
        let Some(rows) = rows else {
            return Err(FsError::Io("an earlier fold is still unfinished".to_owned()));
        };
        // Data before the rows that name it.
        let beside = match &self.shipping {
            None => {
                self.sync_for_fold(cut).await?;
                Vec::new()
            }
            Some(shipping) => self.bring_to_store(shipping, &rows, cut).await?,
        };
        if !folds_nothing {
            loop {
                match self.ns.fold(&rows, &beside, cut).await {
                    Ok(()) => break,
                    Err(e @ (FsError::Fenced(_) | FsError::Corrupt(_))) => {
                        self.lock().break_down(e.to_string());
                        return Err(e);
                    }
                    Err(e) => {
                        tracing::warn!(error = %e, "the namespace could not be written; trying again");
                        if self.wake.stop.load(Ordering::Acquire) {
                            self.lock().break_down(e.to_string());
                            return Err(e);
                        }
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        // Opening it would fence whoever has the volume now.
                        self.may_reopen().await?;
                        if let Err(e) = self.ns.reopen().await {
                            tracing::warn!(error = %e, "the namespace could not be opened again");
                        }
                    }
                }
            }
        }
        // What was just folded stays in memory: in small steps, while the fold's own rows still stand before it. Nobody asks for the rest
        // of what was removed.
        let is_gone = |key: &Key| rows[key].is_none() && key.ino().is_some_and(|i| matches!(rows.get(&Key::Inode(i)), Some(None)));
        let keys: Vec<Key> = rows.keys().copied().collect();
        for part in keys.chunks(512) {
            let mut st = self.lock();
            for key in part {
                if is_gone(key) {
                    st.clean.remove(key);
                } else if !st.overlay.contains_key(key) {
                    st.clean.put(*key, rows[key].clone());
                }
            }
        }
        let (dead, gone) = {
            let mut st = self.lock();
            st.folding = None;
            st.folded_upto = cut;
            st.folds += 1;
            let mut gone = st.journal.take_folded(cut);
            // All of them lost their rows before the cut: only a fold takes rows away.
            let dead = std::mem::take(&mut st.dead);
            for segment in &dead {
                st.files.forget(segment.number);
                gone.push(st.files.path(segment.number, &segment.id));
                st.trimmed.remove(&segment.number);
            }
            (dead, gone)
        };
        self.note_weight();
        self.wake.folded.notify_waiters();
        // A fold of nothing wrote nothing: recovery still starts where it did, and needs the log from there on.
        if let Some(shipping) = self.shipping.as_ref().filter(|_| !folds_nothing) {
            let packs = dead.iter().filter(|d| d.packed).map(|d| crate::pack::path(&shipping.prefix, &d.id));
            let mut objects: Vec<_> = packs.collect();
            for (key, row) in &beside {
                if let (Key::LogStart, Row::LogStart(start)) = (key, row) {
                    objects.extend(shipping.take_folded(*start));
                }
            }
            shipping.delete(objects).await;
        }
        for path in gone {
            if let Err(e) = self.disk.remove(&path)
                // The copy of a pack may have been evicted, or never been here.
                && !(self.shipping.is_some() && e.kind() == std::io::ErrorKind::NotFound)
            {
                tracing::warn!(path = %path.display(), error = %e, "a file that is no longer needed could not be removed");
            }
        }
        Ok(())
    }

    /// Notes what the namespace takes of a disk of this host: so much is kept for its merges.
    pub(crate) fn note_weight(&self) {
        if self.shipping.is_none() {
            let weight = self.ns.weight();
            let mut st = self.lock();
            st.weight = weight;
            let _ = st.look();
        }
    }

    /// Whether a fold would give segments back to the host.
    pub(crate) fn has_dead(&self) -> bool {
        self.lock().dead_blocks() > 0
    }

    /// Takes segments that nothing refers to out of the namespace; their files go after the fold.
    fn drop_dead(&self, st: &mut State) -> FsResult<()> {
        // One that is being filled and holds nothing but garbage is given up too.
        if let Some(c) = &st.current
            && c.next > 0
            && !st.pins.contains_key(&c.segment)
            && st.segments.get(&c.segment).is_some_and(|s| s.live == 0)
        {
            st.current = None;
        }
        let current = st.current.as_ref().map(|c| c.segment);
        let dead = st.segments.iter().filter(|(n, s)| s.live == 0 && Some(**n) != current && !st.pins.contains_key(n));
        let mut dead: Vec<Dead> = dead.map(|(n, s)| Dead::new(*n, s)).collect();
        if !dead.is_empty() {
            let changes = dead.iter().map(|d| Change::Delete(Key::Segment(d.number))).collect();
            st.commit(Record { changes, ..Record::default() }, &Bases::new())?;
            st.dead.append(&mut dead);
        }
        Ok(())
    }

    /// On a volume whose home is the store: puts into packs what the rows of a fold name, and sends the log up to its
    /// cut, however long that takes. Returns the rows that are written beside: the packs, and where recovery starts.
    async fn bring_to_store(&self, shipping: &Shipping, rows: &BTreeMap<Key, Option<Row>>, cut: u64) -> FsResult<Vec<(Key, Row)>> {
        let unpacked: Vec<(u64, Segment)> = rows
            .iter()
            .filter_map(|(key, row)| match (key, row) {
                (Key::Segment(n), Some(Row::Segment(s))) if s.pack.is_none() && s.live > 0 => Some((*n, s.clone())),
                _ => None,
            })
            .collect();
        let packed = self.pack_segments(shipping, unpacked.iter().map(|(n, _)| *n).collect()).await;
        let done = match packed {
            Ok(()) => self.ship(shipping, cut, Waits::ForEver).await,
            Err(e) => Err(e),
        };
        if let Err(e) = done {
            // The rows of this fold stay in memory and in the journal; the next opening starts it anew.
            self.lock().break_down(e.to_string());
            return Err(e);
        }
        let mut beside = vec![(Key::LogStart, Row::LogStart(shipping.start_after(cut)))];
        let st = self.lock();
        for (n, s) in unpacked {
            let pack = st.segments.get(&n).and_then(|now| now.pack);
            let pack = pack.ok_or_else(|| FsError::Io(format!("segment {n:016x} lost its row during a fold")))?;
            beside.push((Key::Segment(n), Row::Segment(Segment { pack: Some(pack), ..s })));
        }
        Ok(beside)
    }

    /// Whether the namespace may be opened anew: that fences whoever has it open, so nobody else may have the volume.
    async fn may_reopen(&self) -> FsResult<()> {
        let Some(shipping) = &self.shipping else { return Ok(()) };
        while !self.wake.stop.load(Ordering::Acquire) {
            match self.renew(shipping, None).await {
                Ok(()) => return Ok(()),
                Err(e @ FsError::Fenced(_)) => return Err(e),
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
        Err(FsError::Io("the volume is being closed".to_owned()))
    }
}
