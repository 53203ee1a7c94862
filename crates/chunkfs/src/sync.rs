//! Making changes durable on this host, for fsync, the background and folds.
//!
//! Order is everything here (obligation 3): data files and their folder, then the journal's files and their folder, then a
//! marker.

use crate::blocking::blocking;
use crate::fs::FileSystem;
use crate::host::HostFile;
use crate::log::ship::Waits;
use crate::state::{State, host_error};
use crate::types::{FsResult, Ino};
use orlop_model::Durability;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a fold tries to sync, a second apart, before the volume is closed for writing.
const SYNC_ATTEMPTS: usize = 10;

/// Stands in a volume's folder after a sync failed, until what was read since is written anew.
pub(crate) const FAILED_SYNC: &str = "failed-sync";

impl FileSystem {
    /// Makes every change so far durable.
    pub async fn sync_all(&self) -> FsResult<()> {
        self.may_answer().await?;
        let seq = {
            let st = self.lock();
            st.unbroken()?;
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
                // What a sync took that failed is lost: who waited behind it must not find nothing to do.
                st.unbroken()?;
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

    /// A fold that has begun must come to its end: what a sync misses for the moment, such as a descriptor, is waited for.
    pub(crate) async fn sync_for_fold(&self, cut: u64) -> FsResult<()> {
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
