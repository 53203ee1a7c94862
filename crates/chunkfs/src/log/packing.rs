//! Making packs of segments: each by one task at a time, some side by side, as they fill up and before a log object is made.

use super::ship::Shipping;
use crate::change::{Change, Record};
use crate::fs::FileSystem;
use crate::key::Key;
use crate::pack;
use crate::row::{Pack, Row, Segment};
use crate::state::{Bases, host_error};
use crate::types::{BLOCK, FsError, FsResult};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Data that travels in a log object; more goes into packs first.
const INLINE: u64 = 4 << 20;
/// Data that may be added while a log object is made for which somebody waits: the rest of it waits until it is.
const ALLOWANCE: u64 = 64 << 20;

/// A log object is being made: changes do not go on without bounds if somebody waits for it.
struct Making<'a>(&'a Shipping);

impl Making<'_> {
    fn hold_above(&self, bytes: u64) {
        self.0.held_above.store(bytes, Ordering::Release);
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.hold_above(u64::MAX);
        self.0.tell_waiters();
    }
}

/// A segment that one task makes a pack of. A task that is given up half way, as its siblings are when one fails, leaves
/// it to those who wait for it.
struct Uploading<'a> {
    shipping: &'a Shipping,
    segment: u64,
}

impl Drop for Uploading<'_> {
    fn drop(&mut self) {
        self.shipping.uploading.lock().remove(&self.segment);
        self.shipping.uploaded.notify_waiters();
    }
}

impl Shipping {
    /// The right to make a pack of a segment, unless another task has it.
    fn take_upload(&self, segment: u64) -> Option<Uploading<'_>> {
        self.uploading.lock().insert(segment).then(|| Uploading { shipping: self, segment })
    }
}

impl FileSystem {
    /// Makes packs of segments, side by side, and notes each in the history.
    pub(crate) async fn pack_segments(&self, shipping: &Shipping, numbers: Vec<u64>) -> FsResult<()> {
        futures::future::try_join_all(numbers.into_iter().map(|n| self.pack_segment(shipping, n))).await.map(|_| ())
    }

    /// Makes a pack of a segment that is not filled any more; at most one at a time does it.
    async fn pack_segment(&self, shipping: &Shipping, number: u64) -> FsResult<()> {
        loop {
            let uploaded = shipping.uploaded.notified();
            tokio::pin!(uploaded);
            uploaded.as_mut().enable();
            if self.lock().segments.get(&number).is_none_or(|s| s.pack.is_some()) {
                return Ok(());
            }
            if let Some(_mine) = shipping.take_upload(number) {
                return self.pack_now(shipping, number).await;
            }
            uploaded.await;
        }
    }

    async fn pack_now(&self, shipping: &Shipping, number: u64) -> FsResult<()> {
        // Writes that were given room in it come to their end first. They may wait for something that another upload gives them.
        while self.lock().pins.contains_key(&number) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let _permit = shipping.upload_permits.acquire().await.expect("the semaphore is never closed");
        let (id, file) = {
            let mut st = self.lock();
            let Some(id) = st.segments.get(&number).map(|s| s.id) else { return Ok(()) };
            (id, st.segment_file(number)?)
        };
        let size = file.size().map_err(|e| host_error("asking for a segment's size", &e))?;
        let blocks = (size / BLOCK).saturating_sub(1) as u32;
        let target = pack::Target { store: &shipping.store, prefix: &shipping.prefix, volume: shipping.volume, buffers: &shipping.buffers };
        let packed = pack::upload(&shipping.patience, &target, number, &id, file, blocks, shipping.config.compression).await?;
        while let Err(e) = self.note_pack(number, packed) {
            if !matches!(e, FsError::NoSpace) {
                return Err(e);
            }
            // Others have filled the host's disk. What is in the store by now is what makes room.
            tracing::warn!(error = %e, "the journal has no room for the note of a pack; trying again");
            self.evict(0).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        shipping.tell_waiters();
        self.keep_to_budget().await;
        Ok(())
    }

    fn note_pack(&self, number: u64, packed: Pack) -> FsResult<()> {
        let mut st = self.lock();
        // Without a row all of it was overwritten or removed meanwhile. The object is left to a collection: until the
        // fold that says so is durable, a successor of this writer may still rely on it.
        let Some(row) = st.segments.get(&number).cloned() else { return Ok(()) };
        let row = Segment { pack: Some(packed), ..row };
        let changes = vec![Change::Put(Key::Segment(number), Row::Segment(row))];
        st.commit(Record { changes, ..Record::default() }, &Bases::new()).map(drop)
    }

    /// Before a log object is made: puts into packs what would be too much to travel in it.
    pub(super) async fn pack_what_is_much(&self, shipping: &Shipping) -> FsResult<()> {
        let making = Making(shipping);
        for round in 0.. {
            let numbers: Vec<u64> = {
                let mut st = self.lock();
                let Some(outbox) = &st.outbox else { return Ok(()) };
                let unpacked: Vec<(u64, u64)> =
                    outbox.segments().into_iter().filter(|(n, _)| st.segments.get(n).is_some_and(|s| s.pack.is_none())).collect();
                if unpacked.iter().map(|(_, blocks)| blocks * BLOCK).sum::<u64>() <= INLINE {
                    break;
                }
                making.hold_above(if round == 0 { outbox.named_bytes() + ALLOWANCE } else { 0 });
                let numbers: Vec<u64> = unpacked.iter().map(|(n, _)| *n).collect();
                if st.current.as_ref().is_some_and(|c| numbers.contains(&c.segment)) {
                    st.current = None;
                }
                numbers
            };
            self.pack_segments(shipping, numbers).await?;
        }
        Ok(())
    }
}

/// Sends full segments while they are still hot, so that an fsync finds little left to do.
pub(super) async fn upload_loop(fs: std::sync::Weak<FileSystem>, shipping: Arc<Shipping>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        // A slow upload keeps no other from beginning.
        tokio::select! {
            () = shipping.upload_wake.notified() => {}
            Some(done) = under_way.next(), if !under_way.is_empty() => {
                if let Err(e) = done {
                    if let Some(fs) = fs.upgrade() {
                        fs.sending_failed(&shipping, e);
                    }
                    return;
                }
                continue;
            }
        }
        let Some(fs) = fs.upgrade() else { return };
        let full: Vec<u64> = {
            let st = fs.lock();
            let uploading = shipping.uploading.lock();
            let current = st.current.as_ref().map(|c| c.segment);
            let waits = |(n, s): &(&u64, &Segment)| s.pack.is_none() && s.live > 0 && Some(**n) != current && !uploading.contains(n);
            st.segments.iter().filter(waits).map(|(n, _)| *n).collect()
        };
        for n in full {
            let (fs, shipping) = (fs.clone(), shipping.clone());
            under_way.push(async move { fs.pack_segment(&shipping, n).await });
        }
    }
}
