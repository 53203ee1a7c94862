//! Making things durable: `sync` for fsync, and the fold that moves rows from the journal to the namespace.
//!
//! Order is everything here (obligation 3). Sync: data files and their folder, then the journal's files and
//! their folder, then a marker. Fold: pending writes to a segment, cut, data files, rows and number in one
//! batch, and only when that is durable the old journal files and dead segments go.

use crate::change::{Change, Record};
use crate::fs::FileSystem;
use crate::host::HostFile;
use crate::key::Key;
use crate::log::ship::{Shipping, Waits};
use crate::row::{Row, Segment};
use crate::state::{Bases, Dead, State, host_error};
use crate::types::{FsError, FsResult, Ino};
use orlop_model::Durability;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{MutexGuard, Notify};

/// Weight of changed rows at which a fold is started.
const FOLD_WEIGHT: usize = 20 << 20;
/// Weight at which changes wait for the fold to end.
const STOP_WEIGHT: usize = 64 << 20;
/// Bytes of journal at which a fold is started.
const FOLD_JOURNAL: u64 = 64 << 20;
/// Changes that lie longer than this are synced in the background, which bounds what a power failure takes.
const SYNC_EVERY: Duration = Duration::from_secs(5);
/// A quiet volume is folded after this time.
const FOLD_EVERY: Duration = Duration::from_secs(60);

/// Removed files are gathered for so long before they are deleted.
const GATHER: Duration = Duration::from_millis(5);

/// How often a fold tries to sync, a second apart, before the volume is closed for writing.
const SYNC_ATTEMPTS: usize = 10;

/// How long closing a volume waits for its store.
const CLOSE_WITHIN: Duration = Duration::from_secs(60);
/// The same on this host's disk, which takes it at once unless it is full.
const FOLD_WITHIN: Duration = Duration::from_secs(20);

/// Stands in a volume's folder after a sync failed, until what was read since is written anew.
pub(crate) const FAILED_SYNC: &str = "failed-sync";

fn is_fold_due(st: &State) -> bool {
    st.overlay_weight >= FOLD_WEIGHT || st.journal.len() >= FOLD_JOURNAL
}

/// Wakes the background task and those who wait for it.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    pub(crate) fold: Notify,
    pub(crate) folded: Notify,
    pub(crate) reap: Notify,
    pub(crate) compact: Notify,
    /// The volume is being closed: nothing is moved any more.
    pub(crate) ending: AtomicBool,
    pub(crate) stop: AtomicBool,
    pub(crate) stopped: Notify,
    pub(crate) reap_queue: parking_lot::Mutex<Vec<Ino>>,
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

    /// Makes every change so far durable.
    pub async fn sync_all(&self) -> FsResult<()> {
        self.may_answer().await?;
        let seq = {
            let st = self.lock();
            if let Some(why) = &st.broken {
                return Err(FsError::Io(why.clone()));
            }
            st.journal.seq()
        };
        match &self.shipping {
            Some(shipping) if self.syncs_go_to_the_store() => self.ship(shipping, seq, Waits::AsThePolicySays).await,
            _ => self.sync(seq).await,
        }
    }

    /// Whether a sync waits for the store and not for this host's disk.
    pub(crate) fn syncs_go_to_the_store(&self) -> bool {
        self.shipping.as_ref().is_some_and(|s| s.config.durability == Durability::Remote)
    }

    /// Makes a file's changes durable, and with them all earlier ones.
    pub async fn fsync(&self, ino: Ino, _datasync: bool) -> FsResult<()> {
        {
            let mut st = self.lock();
            st.synced.note(ino);
            st.journal.note_waiting();
        }
        self.sync_all().await
    }

    pub(crate) async fn sync(&self, seq: u64) -> FsResult<()> {
        if self.durable.load(Ordering::Acquire) >= seq {
            return Ok(());
        }
        let _turn = self.sync_turn.lock().await;
        if self.durable.load(Ordering::Acquire) >= seq {
            return Ok(());
        }
        // Everything written until here is taken along, so those who wait behind this sync find it done.
        let (upto, work) = loop {
            {
                let mut st = self.lock();
                let unsent = st.outbox.as_ref().is_some_and(|o| o.unsent() > 0);
                if !unsent || self.shipping.as_ref().is_none_or(|s| s.lease.says_unsent()) {
                    let work = self.take_unsynced(&mut st)?;
                    st.unsynced_bytes = 0;
                    break (st.journal.seq(), work);
                }
            }
            if let Some(shipping) = &self.shipping {
                self.say_unsent(shipping).await?;
            }
        };
        let disk = self.disk.clone();
        let done = blocking(move || work.run(&*disk)).await;
        let mut st = self.lock();
        if let Err(e) = done {
            // The kernel may have dropped the dirty pages: what is on disk is not known any more.
            let e = host_error("syncing to the host's disk", &e);
            st.break_down(e.to_string());
            // The next opening must not trust what it reads: it may be in memory only, and count as written.
            let _ = self.disk.create(&self.state_dir.join(FAILED_SYNC)).and_then(|_| self.disk.sync_dir(&self.state_dir));
            return Err(e);
        }
        self.durable.fetch_max(upto, Ordering::AcqRel);
        if !self.doubtful.load(Ordering::Acquire) {
            // A marker that cannot be written only makes a later look at the journal more cautious.
            let _ = st.journal.mark(upto);
        }
        Ok(())
    }

    /// After an opening that follows a failed sync: writes everything that no earlier fold made durable anew, into
    /// files that no failed sync has touched, before anything of it is acknowledged.
    pub(crate) async fn write_anew(&self) -> FsResult<()> {
        let mark = self.state_dir.join(FAILED_SYNC);
        let names = self.disk.list(&self.state_dir).map_err(|e| host_error("reading the volume's folder", &e))?;
        if !names.iter().any(|n| n == FAILED_SYNC) {
            return Ok(());
        }
        tracing::warn!("a sync had failed: what was recovered is written anew");
        // A marker would vouch for the old journal files.
        self.doubtful.store(true, Ordering::Release);
        let recovered = self.lock().unsynced.iter().copied().collect();
        self.empty(&recovered).await?;
        self.fold().await?;
        self.doubtful.store(false, Ordering::Release);
        self.disk.remove(&mark).map_err(|e| host_error("removing a mark", &e))
    }

    fn take_unsynced(&self, st: &mut State) -> FsResult<SyncWork> {
        let mut data: Vec<Arc<dyn HostFile>> = Vec::new();
        let numbers: Vec<u64> = st.unsynced.iter().copied().collect();
        for number in numbers {
            // One that is a pack may have no file here. Of one that is dead the records before its death still read.
            let row = st.segments.get(&number).filter(|s| s.pack.is_none() || st.copies.is_staged(number)).map(|s| s.id);
            let dead = || st.dead.iter().find(|d| d.number == number && !d.packed).map(|d| d.id);
            if let Some(id) = row.or_else(dead) {
                match st.files.get(number, &id) {
                    Ok(file) => data.push(file),
                    // It died on another host, and nothing of it was sent.
                    Err(e) if row.is_none() && e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => return Err(host_error("opening a segment", &e)),
                }
            }
        }
        st.unsynced.clear();
        let data_dir = std::mem::take(&mut st.segment_dir_unsynced).then(|| st.files.dir().to_owned());
        let (journal, journal_dir) = st.journal.take_unsynced();
        let journal_dir = journal_dir.then(|| st.journal.dir().to_owned());
        Ok(SyncWork { data, data_dir, journal, journal_dir })
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
                    // A record may change nothing, and still be the last one that the namespace has to know of.
                    let folds_nothing = rows.is_empty() && cut == st.folded_upto;
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

    /// A fold that has begun must come to its end: what a sync misses for the moment, such as a descriptor, is waited for.
    async fn sync_for_fold(&self, cut: u64) -> FsResult<()> {
        for _ in 0..SYNC_ATTEMPTS {
            let Err(e) = self.sync(cut).await else { return Ok(()) };
            if self.lock().broken.is_some() {
                return Err(e);
            }
            tracing::warn!(error = %e, "a fold could not sync; trying again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.sync(cut).await.inspect_err(|e| self.lock().break_down(e.to_string()))
    }

    /// Whether a fold would give segments back to the host.
    fn has_dead(&self) -> bool {
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

    /// Starts the work that goes on by itself. Ends when the volume is closed or dropped.
    pub(crate) fn start_background(self: &Arc<Self>) {
        let mut tasks = self.background.lock();
        let (fs, wake) = (Arc::downgrade(self), self.wake.clone());
        tasks.push(tokio::spawn(async move {
            let mut quiet = Duration::ZERO;
            while !wake.stop.load(Ordering::Acquire) {
                let asked = tokio::select! {
                    () = wake.fold.notified() => true,
                    () = wake.stopped.notified() => break,
                    () = tokio::time::sleep(SYNC_EVERY) => false,
                };
                let Some(fs) = fs.upgrade() else { break };
                quiet += SYNC_EVERY;
                if !wake.reap_queue.lock().is_empty() {
                    // What could not be deleted while the store was away.
                    wake.reap.notify_one();
                }
                let due = asked || fs.has_dead() || (quiet >= FOLD_EVERY && !fs.lock().overlay.is_empty());
                let done = if due { fs.fold().await } else { fs.sync_all().await };
                if due {
                    quiet = Duration::ZERO;
                    if done.is_ok() {
                        wake.compact.notify_one();
                    }
                }
                if let Err(e) = done {
                    tracing::warn!(error = %e, "background work failed");
                    // Those who wait must learn of it.
                    wake.folded.notify_waiters();
                    drop(fs);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }));
        // Beside it: what is written meanwhile is synced as ever.
        let (fs, wake) = (Arc::downgrade(self), self.wake.clone());
        tasks.push(tokio::spawn(async move {
            while !wake.stop.load(Ordering::Acquire) {
                tokio::select! {
                    () = wake.compact.notified() => {}
                    () = wake.stopped.notified() => break,
                }
                let Some(fs) = fs.upgrade() else { break };
                if let Err(e) = fs.compact().await {
                    tracing::warn!(error = %e, "compaction stopped");
                }
            }
        }));
        let (fs, wake) = (Arc::downgrade(self), self.wake.clone());
        tasks.push(tokio::spawn(async move {
            while !wake.stop.load(Ordering::Acquire) {
                tokio::select! {
                    () = wake.reap.notified() => {}
                    () = wake.stopped.notified() => break,
                }
                // Whoever removes a tree is not held up by a waking for each file.
                tokio::time::sleep(GATHER).await;
                let Some(fs) = fs.upgrade() else { break };
                fs.reap_queued().await;
            }
        }));
    }

    /// Makes everything durable, moves it into the namespace and lets go of the volume. Later calls fail.
    ///
    /// When the store is away this ends after a while all the same: what was not sent stays in the journal on this host,
    /// and the owner record goes on to say whose the volume is. So it does on a disk that has no room to fold anything: all is in the
    /// journal, and durable there.
    pub async fn close(&self) -> FsResult<()> {
        self.reap_queued().await;
        // What is moved after the last fold would be in the journal alone.
        self.wake.ending.store(true, Ordering::Release);
        let _turn = tokio::time::timeout(FOLD_WITHIN, self.room_turn.lock()).await;
        let broken = self.lock().broken.clone();
        let mut unfolded = false;
        let result = match (broken, &self.shipping) {
            (None, None) => match tokio::time::timeout(FOLD_WITHIN, self.fold()).await {
                Ok(done) => done,
                Err(_) => {
                    tracing::warn!("the store's disk did not take what was to be folded in time; the journal keeps it");
                    unfolded = true;
                    self.sync_all().await
                }
            },
            (None, Some(_)) => match tokio::time::timeout(CLOSE_WITHIN, self.fold()).await {
                Ok(done) => done,
                Err(_) => Err(FsError::Io(format!("the store did not take {} bytes in time; they stay on this host", self.unsent_bytes()))),
            },
            // What was acknowledged before is in the journal, but nobody may take it for durable.
            (Some(why), _) => Err(FsError::Io(format!("the volume was closed for writing after an error: {why}"))),
        };
        self.stop().await;
        let closed = match (&result, &self.shipping) {
            // A database that cannot reach its store would wait for it.
            (Err(_), Some(_)) => Ok(()),
            _ if unfolded => Ok(()),
            _ => self.ns.close().await,
        };
        let released = match (&result, &closed, &self.shipping) {
            (Ok(()), Ok(()), Some(shipping)) => shipping.lease.release().await,
            _ => Ok(()),
        };
        if let Err(e) = released {
            // All is in the store; the next host only has to wait for the lease.
            tracing::warn!(error = %e, "the volume is closed, and its owner record does not say so");
        }
        self.host_lock.lock().take();
        result.and(closed)
    }

    /// Stops at once, as a killed process would: nothing is synced or folded. For tests.
    pub async fn abandon(&self) {
        self.stop().await;
        self.host_lock.lock().take();
        self.ns.abandon().await;
    }

    async fn stop(&self) {
        self.lock().closed = true;
        self.wake.stop.store(true, Ordering::Release);
        self.wake.stopped.notify_waiters();
        let tasks = std::mem::take(&mut *self.background.lock());
        for t in tasks {
            t.abort();
            let _ = t.await;
        }
    }
}

struct SyncWork {
    data: Vec<Arc<dyn HostFile>>,
    data_dir: Option<PathBuf>,
    journal: Vec<Arc<dyn HostFile>>,
    journal_dir: Option<PathBuf>,
}

impl SyncWork {
    fn run(self, disk: &dyn crate::host::HostDisk) -> std::io::Result<()> {
        for f in &self.data {
            f.sync_data()?;
        }
        if let Some(dir) = &self.data_dir {
            disk.sync_dir(dir)?;
        }
        for f in &self.journal {
            f.sync_data()?;
        }
        if let Some(dir) = &self.journal_dir {
            disk.sync_dir(dir)?;
        }
        Ok(())
    }
}

thread_local! {
    /// Whether this thread may wait for the disk just now.
    static IN_PLACE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs `f` on a thread that may wait for the disk, as one of the operating system's own that nobody else needs: what
/// would be handed to such a thread runs right here instead.
pub fn waiting_in_place<T>(f: impl FnOnce() -> T) -> T {
    /// As it was, also when `f` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            IN_PLACE.set(self.0);
        }
    }
    let _restore = Restore(IN_PLACE.replace(true));
    f()
}

/// Runs what blocks on the disk away from the threads that answer, unless this one may wait. Where there is but one
/// thread, as in a simulation, it runs right there: on another it would end at a moment that no seed decides.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    if IN_PLACE.get() || Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return f();
    }
    match tokio::task::spawn_blocking(f).await {
        Ok(out) => out,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}
