//! Sending: log objects in order, packs beside them, the sign of life, and what an fsync waits for.
//!
//! A log object carries all records since the one before, and the blocks that they name unless these are in a pack
//! already; much data goes into packs first. Several objects may be under way; one counts as arrived only when all
//! before it have. So whatever counts is a prefix of the volume's history, and its data is there.

use super::Place;
use super::lease::{Lease, uptime_ms};
use super::object::{Body, Extent, Head, decode, encode_records};
use super::outbox::Parcel;
use super::packing::upload_loop;
use super::patience::Patience;
use crate::blocking::blocking;
use crate::buffers::Buffers;
use crate::fs::FileSystem;
use crate::host::HostFile;
use crate::open::{OpenConfig, Remote};
use crate::pack;
use crate::segment::{PACK_BLOCKS, offset_of};
use crate::state::host_error;
use crate::types::{BLOCK, FsError, FsResult};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use orlop_model::{Durability, OutagePolicy};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};

/// Log objects under way at most.
const IN_FLIGHT: usize = 4;
/// Packs under way at most; each is held in memory whole.
const UPLOADS: usize = 4;
/// Bytes of the blocks of a segment that is full.
const FULL_PACK: usize = PACK_BLOCKS as usize * BLOCK as usize;
/// Log objects, or bytes in them, after which a fold is due: whoever opens the volume reads all that were sent since the last
/// one, and a writer that syncs hundreds of times a second would leave him thousands.
const LONG_LOG: usize = 256;
const LARGE_LOG: u64 = 64 << 20;
/// Bytes of records at which they are sent without being asked for.
const SEND_AT: usize = 4 << 20;
/// Bytes of records that may wait in memory; changes wait above it.
const RECORDS_MAX: usize = 32 << 20;
/// How long an operation waits to learn whether somebody else took the volume, where it was known while the lease ran that the store
/// does not answer.
const DOUBT: Duration = Duration::from_millis(400);
/// The same after a pause of this process: a store that is only slow is waited for, since somebody else may have the volume by then.
const SURPRISE: Duration = Duration::from_secs(10);
/// How long a sign of life is under way until it is known that the store does not answer: so many looks, this far apart. Not by the clock, which goes on while
/// this process is paused.
const LOOKS: u32 = 3;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// By the host's running time in milliseconds: how long it is known since the last look. Who was paused for longer knows nothing.
const KNOWN_FOR: u64 = 3000;

/// How long somebody waits for the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    AsThePolicySays,
    ForEver,
}

/// How long after that nobody asks again: those who need nothing of the store are not to wait for it.
const EXCUSED_MS: u64 = 2000;

/// Where recovery found the log to end.
#[derive(Debug)]
pub(crate) struct LogEnd {
    pub(crate) next: Place,
    /// Objects that are not folded yet.
    pub(crate) places: Vec<Place>,
    /// Number of the last record that the store has.
    pub(crate) sent: u64,
}

/// A log object that no fold covers yet.
struct Sent {
    place: Place,
    /// Its last record.
    last: u64,
    /// About how long it is; of one that was there at the opening nothing is known.
    bytes: u64,
}

/// Extents, and the files that they are read from.
type Located = Vec<(Extent, Arc<dyn HostFile>)>;

/// The sending half of a volume whose home is the store.
pub(crate) struct Shipping {
    pub(crate) config: Remote,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) prefix: String,
    pub(super) volume: [u8; 16],
    pub(crate) lease: Arc<Lease>,
    pub(crate) patience: Arc<Patience>,
    /// Where the next log object goes.
    next: Mutex<Place>,
    /// Objects, under way or arrived, that are not folded, with the number of the last record in each.
    places: Mutex<Vec<Sent>>,
    /// Every record up to this number is in the store.
    arrived: watch::Sender<u64>,
    want: AtomicU64,
    wake: Notify,
    /// Why this writer must stop, once somebody else has the volume.
    fenced: watch::Sender<Option<String>>,
    /// Until when, by the host's running time, an unreachable store is not asked again by those who wait.
    excused_until: AtomicU64,
    /// When it was last seen, by the host's running time, that the store does not answer: first while the lease still ran, and since
    /// then again and again. 0: a sign of life got through.
    out_of_touch: AtomicU64,
    asking: tokio::sync::Mutex<()>,
    pub(super) uploading: Mutex<HashSet<u64>>,
    pub(super) uploaded: Notify,
    pub(super) upload_permits: Semaphore,
    /// What packs are put together in.
    pub(crate) buffers: Arc<Buffers>,
    pub(super) upload_wake: Arc<Notify>,
    /// How many wait for a sync, and above how many bytes in the outbox changes wait for them.
    syncs: AtomicUsize,
    pub(super) held_above: AtomicU64,
}

/// Somebody waits for a sync.
struct Syncing<'a>(&'a Shipping);

impl Drop for Syncing<'_> {
    fn drop(&mut self) {
        self.0.syncs.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shipping {
    pub(crate) fn new(
        config: &OpenConfig,
        remote: Remote,
        lease: Arc<Lease>,
        end: LogEnd,
        patience: Option<Arc<Patience>>,
    ) -> Arc<Shipping> {
        lease.note_arrived(end.next.n);
        // Shared with those who read packs: whether the store is away is known once.
        let patience = patience.unwrap_or_else(|| Arc::new(Patience::new(remote.outage, remote.outage_deadline)));
        Arc::new(Shipping {
            store: config.store.clone(),
            prefix: config.prefix.clone(),
            volume: *config.volume.as_bytes(),
            lease,
            patience,
            next: Mutex::new(end.next),
            places: Mutex::new(end.places.into_iter().map(|place| Sent { place, last: end.sent, bytes: 0 }).collect()),
            arrived: watch::Sender::new(end.sent),
            want: AtomicU64::new(end.sent),
            wake: Notify::new(),
            fenced: watch::Sender::new(None),
            excused_until: AtomicU64::new(0),
            out_of_touch: AtomicU64::new(0),
            asking: tokio::sync::Mutex::new(()),
            uploading: Mutex::new(HashSet::new()),
            uploaded: Notify::new(),
            upload_permits: Semaphore::new(UPLOADS),
            buffers: Arc::new(Buffers::keeping(FULL_PACK / 2, FULL_PACK, UPLOADS)),
            upload_wake: Arc::new(Notify::new()),
            syncs: AtomicUsize::new(0),
            held_above: AtomicU64::new(u64::MAX),
            config: remote,
        })
    }

    /// The store does not answer. Where the lease has run out already, and nobody looked shortly before, this says nothing: the
    /// process may have been paused.
    fn lose_touch(&self) {
        if self.lease.is_valid() || self.is_out_of_touch() {
            self.out_of_touch.store(uptime_ms(), Ordering::Release);
        }
    }

    fn is_out_of_touch(&self) -> bool {
        match self.out_of_touch.load(Ordering::Acquire) {
            0 => false,
            at => uptime_ms().saturating_sub(at) < KNOWN_FOR,
        }
    }

    /// Number of the last record that the store has.
    pub(crate) fn arrived(&self) -> u64 {
        *self.arrived.borrow()
    }

    /// The first place whose object a recovery needs.
    pub(crate) fn first_unfolded(&self) -> Place {
        self.places.lock().first().map_or(*self.next.lock(), |s| s.place)
    }

    /// Asks for everything up to a record to be sent.
    pub(crate) fn ask(&self, seq: u64) {
        self.want.fetch_max(seq, Ordering::AcqRel);
        self.wake.notify_one();
    }

    /// A segment is full: it may go.
    pub(crate) fn segment_is_full(&self) {
        self.upload_wake.notify_one();
    }

    fn syncing(&self) -> Syncing<'_> {
        self.syncs.fetch_add(1, Ordering::AcqRel);
        Syncing(self)
    }

    /// Whether changes wait until a log object is made, so that a sync does not wait for what is written after it. For a store
    /// that is away, which may take hours, nobody waits.
    fn holds_back(&self, named_bytes: u64) -> bool {
        named_bytes > self.held_above.load(Ordering::Acquire) && self.syncs.load(Ordering::Acquire) > 0 && !self.patience.is_away()
    }

    /// Those who wait look again.
    pub(super) fn tell_waiters(&self) {
        self.arrived.send_modify(|_| {});
    }

    fn check_fenced(&self) -> FsResult<()> {
        match &*self.fenced.borrow() {
            Some(why) => Err(FsError::Fenced(why.clone())),
            None => Ok(()),
        }
    }

    /// Fails under the policies `fail` and `readonly` once the store has been away for the deadline.
    pub(crate) fn check_outage(&self) -> FsResult<()> {
        let away = self.patience.away_for();
        if self.config.outage == OutagePolicy::Wait || away < self.config.outage_deadline {
            return Ok(());
        }
        Err(FsError::Io(format!("the store has not answered for {} seconds", away.as_secs())))
    }

    /// How many objects the log has that an opening reads.
    pub(crate) fn objects(&self) -> usize {
        self.places.lock().len()
    }

    /// Whether an opening would have much to read.
    fn has_long_log(&self) -> bool {
        let places = self.places.lock();
        places.len() >= LONG_LOG || places.iter().map(|s| s.bytes).sum::<u64>() >= LARGE_LOG
    }

    /// Where the log object with this parcel goes; only the sending task calls it.
    fn take_place(&self, parcel: &Parcel, extents: &Located) -> Place {
        let blocks: u64 = extents.iter().map(|(e, _)| u64::from(e.blocks)).sum();
        let (last, bytes) = (parcel.last, parcel.frames.len() as u64 + blocks * BLOCK);
        // In the order in which everybody takes these two.
        let mut places = self.places.lock();
        let mut next = self.next.lock();
        let place = *next;
        *next = place.next();
        places.push(Sent { place, last, bytes });
        place
    }

    /// What a fold that covers records up to `cut` writes beside its rows: where recovery starts afterwards.
    pub(crate) fn start_after(&self, cut: u64) -> Place {
        let places = self.places.lock();
        match places.iter().find(|s| s.last > cut) {
            Some(s) => s.place,
            None => *self.next.lock(),
        }
    }

    /// Takes the objects that a durable fold has made superfluous.
    pub(crate) fn take_folded(&self, start: Place) -> Vec<object_store::path::Path> {
        let mut places = self.places.lock();
        let (gone, kept): (Vec<_>, Vec<_>) = places.drain(..).partition(|s| s.place.n < start.n);
        *places = kept;
        gone.into_iter().map(|s| s.place.path(&self.prefix)).collect()
    }

    /// Deletes objects that nothing refers to any more. One that stays costs space and is found by a collection.
    pub(crate) async fn delete(&self, paths: Vec<object_store::path::Path>) {
        // As many in a request as the store takes.
        let mut deleted = self.store.delete_stream(futures::stream::iter(paths.into_iter().map(Ok)).boxed());
        while let Some(done) = deleted.next().await {
            match done {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => tracing::warn!(error = %e, "an object that is no longer needed could not be deleted"),
            }
        }
    }

    /// Creates an object, or returns what is there already.
    async fn create(&self, path: &object_store::path::Path, bytes: Bytes) -> object_store::Result<Option<Bytes>> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(path, bytes.into(), options).await {
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                self.whole(path).await.map(Some).map_err(pack::undecided)
            }
            done => done.map(|_| None),
        }
    }

    async fn whole(&self, path: &object_store::path::Path) -> object_store::Result<Bytes> {
        self.store.get(path).await?.bytes().await
    }

    /// Sends one object; comes back only when it is there, when somebody else has the volume, or with a broken disk.
    async fn send(&self, place: Place, parcel: Parcel, extents: Located) -> FsResult<(u64, u64)> {
        let head = Head { volume: self.volume, place, nonce: rand::random() };
        let arrived = self.start_after(self.arrived()).n;
        let (first, last, weight, frames) = (parcel.first, parcel.last, parcel.weight, parcel.frames);
        let bytes: Bytes = blocking(move || {
            let list: Vec<Extent> = extents.iter().map(|(e, _)| *e).collect();
            encode_records(&head, arrived, first, &frames, &list, |out| {
                for (e, file) in &extents {
                    let from = out.len();
                    out.resize(from + e.blocks as usize * BLOCK as usize, 0);
                    // A block that is short here was never written whole, and no record names it.
                    file.read_at(&mut out[from..], offset_of(e.at))?;
                }
                Ok::<(), std::io::Error>(())
            })
        })
        .await
        .map_err(|e| host_error("reading a segment", &e))?;
        let path = place.path(&self.prefix);
        let put = self.patience.for_ever(path.as_ref(), || self.create(&path, bytes.clone()));
        let mut there = put.await?.map_err(|e| FsError::Io(format!("{path}: {e}")))?;
        if there.is_none() && !self.lease.is_valid() {
            // So long under way that somebody may have taken the volume meanwhile: on a store that does not decide between
            // two that create the same object at once, his fence may have replaced it.
            let look = self.patience.for_ever(path.as_ref(), || self.whole(&path)).await?;
            there = Some(look.map_err(|e| FsError::Fenced(format!("{path}: {e}")))?);
        }
        if let Some(there) = there {
            // An attempt of ours whose answer was lost, or the fence of a successor.
            let object = decode(&there, self.volume, place).map_err(|e| FsError::Corrupt(format!("{path}: {e}")))?;
            if object.head != head {
                let why = match object.body {
                    Body::Fence { next_epoch } => format!("another host has taken the volume (epoch {next_epoch})"),
                    Body::Records { .. } => format!("{path} was written by somebody else"),
                };
                return Err(FsError::Fenced(why));
            }
        }
        Ok((last, weight))
    }
}

impl FileSystem {
    /// Starts what sends, of a volume whose home is the store.
    pub(crate) fn start_shipping(self: &Arc<Self>) {
        let Some(shipping) = self.shipping.clone() else { return };
        self.lock().full = Some(shipping.upload_wake.clone());
        let mut tasks = self.background.lock();
        tasks.push(tokio::spawn(send_loop(Arc::downgrade(self), shipping.clone())));
        tasks.push(tokio::spawn(upload_loop(Arc::downgrade(self), shipping.clone())));
        tasks.push(tokio::spawn(lease_loop(Arc::downgrade(self), shipping)));
    }

    /// Bytes that a loss of this host would take: acknowledged and not in the store.
    pub fn unsent_bytes(&self) -> u64 {
        self.lock().outbox.as_ref().map_or(0, super::outbox::Outbox::unsent)
    }

    /// Ends when it is known that somebody else has the volume; `None` of a volume that nobody else can take.
    pub fn fenced(&self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let mut fenced = self.shipping.as_ref()?.fenced.subscribe();
        Some(async move {
            // The sender lives as long as the volume.
            if fenced.wait_for(Option::is_some).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }

    /// Returns once the store has every record up to this number, or as the outage policy says.
    pub(crate) async fn ship(&self, shipping: &Shipping, seq: u64, waits: Waits) -> FsResult<()> {
        let mut arrived = shipping.arrived.subscribe();
        let _syncing = (waits == Waits::AsThePolicySays).then(|| shipping.syncing());
        shipping.ask(seq);
        loop {
            // Also with nothing left to send: one who was succeeded promises nothing any more.
            shipping.check_fenced()?;
            if *arrived.borrow_and_update() >= seq {
                return Ok(());
            }
            self.lock().unbroken()?;
            if waits == Waits::AsThePolicySays {
                shipping.check_outage()?;
            }
            // Looked at again now and then: the policy's deadline may pass.
            let _ = tokio::time::timeout(Duration::from_millis(500), arrived.changed()).await;
        }
    }

    /// Before anything is answered: whether this process may still speak for the volume. After a pause longer than its
    /// lease it asks the store; if that does not answer it goes on with what it has, as the outage policy allows.
    pub(crate) async fn may_answer(&self) -> FsResult<()> {
        let Some(shipping) = &self.shipping else { return Ok(()) };
        if shipping.lease.is_valid() {
            return Ok(());
        }
        self.ask_whether_ours(shipping).await
    }

    #[cold]
    async fn ask_whether_ours(&self, shipping: &Shipping) -> FsResult<()> {
        shipping.check_fenced()?;
        let excused = || uptime_ms() < shipping.excused_until.load(Ordering::Acquire);
        if excused() {
            return Ok(());
        }
        let _turn = shipping.asking.lock().await;
        shipping.check_fenced()?;
        if shipping.lease.is_valid() || excused() {
            return Ok(());
        }
        let is_surprised = !shipping.is_out_of_touch();
        let ask = async {
            loop {
                match self.renew(shipping, None).await {
                    // Connections are the first to go in a pause.
                    Err(e) if is_surprised && !matches!(e, FsError::Fenced(_)) => tokio::time::sleep(LOOK_EVERY).await,
                    other => return other,
                }
            }
        };
        match tokio::time::timeout(if is_surprised { SURPRISE } else { DOUBT }, ask).await {
            Ok(Ok(())) => {}
            Ok(Err(e @ FsError::Fenced(_))) => return Err(e),
            Ok(Err(_)) | Err(_) => {
                shipping.patience.failed();
                shipping.out_of_touch.store(uptime_ms(), Ordering::Release);
                shipping.excused_until.store(uptime_ms() + EXCUSED_MS, Ordering::Release);
            }
        }
        Ok(())
    }

    /// An error of the namespace, heeded: that somebody else opened it means that somebody else has the volume.
    pub(crate) fn heed(&self, e: FsError) -> FsError {
        match (e, &self.shipping) {
            (FsError::Fenced(why), Some(shipping)) => self.fence(shipping, why),
            (e, _) => e,
        }
    }

    /// Stops for good: another host has the volume.
    fn fence(&self, shipping: &Shipping, why: String) -> FsError {
        // From now on everybody asks first, and is told.
        shipping.lease.run_out();
        shipping.fenced.send_if_modified(|told| {
            let first = told.is_none();
            told.get_or_insert_with(|| why.clone());
            first
        });
        self.lock().break_down(why.clone());
        shipping.tell_waiters();
        self.wake.folded.notify_waiters();
        FsError::Fenced(why)
    }

    /// Waits while more is unsent than may be, or fails as the outage policy says.
    pub(crate) async fn admit_unsent(&self, shipping: &Shipping) -> FsResult<()> {
        if shipping.config.outage == OutagePolicy::Readonly && shipping.check_outage().is_err() {
            return Err(FsError::ReadOnly("the store does not answer".to_owned()));
        }
        loop {
            let mut arrived = shipping.arrived.subscribe();
            arrived.borrow_and_update();
            {
                let st = self.lock();
                st.writable()?;
                let Some(outbox) = &st.outbox else { return Ok(()) };
                let last = st.journal.seq();
                if outbox.record_bytes() >= SEND_AT {
                    shipping.ask(last);
                }
                if outbox.record_bytes() >= RECORDS_MAX || st.unpacked_bytes() >= shipping.config.staged_bytes {
                    shipping.ask(last);
                    shipping.segment_is_full();
                    self.wake.fold.notify_one();
                } else if !shipping.holds_back(outbox.named_bytes()) {
                    return Ok(());
                }
            }
            shipping.check_fenced()?;
            shipping.check_outage()?;
            let _ = tokio::time::timeout(Duration::from_millis(200), arrived.changed()).await;
        }
    }

    /// Takes what waits and makes it ready to be sent; `None` if nothing waits.
    fn take_parcel(&self) -> FsResult<Option<(Parcel, Located)>> {
        let mut st = self.lock();
        let Some(outbox) = st.outbox.as_mut().filter(|o| !o.is_empty()) else { return Ok(None) };
        let parcel = outbox.take();
        let mut extents = Vec::with_capacity(parcel.extents.len());
        for (segment, at, blocks) in &parcel.extents {
            // One without a row lost it by a record of this parcel or of an earlier one, and all that its blocks were is replaced by then:
            // a recovery that reads that far asks for none of them.
            let Some(row) = st.segments.get(segment) else { continue };
            if row.pack.is_none() {
                let id = row.id;
                extents.push((Extent { segment: *segment, id, at: *at, blocks: *blocks }, st.segment_file(*segment)?));
            }
        }
        Ok(Some((parcel, extents)))
    }

    /// A log object has arrived: its last record and its weight.
    fn note_sent(&self, shipping: &Shipping, done: FsResult<(u64, u64)>) -> FsResult<()> {
        let (last, weight) = done?;
        if let Some(outbox) = self.lock().outbox.as_mut() {
            outbox.arrived(weight);
        }
        shipping.arrived.send_modify(|seq| *seq = (*seq).max(last));
        shipping.lease.note_arrived(shipping.start_after(shipping.arrived()).n);
        if shipping.has_long_log() {
            self.wake.fold.notify_one();
        }
        Ok(())
    }

    pub(super) fn sending_failed(&self, shipping: &Shipping, e: FsError) {
        match e {
            FsError::Fenced(why) => {
                self.fence(shipping, why);
            }
            e => {
                self.lock().break_down(e.to_string());
                shipping.tell_waiters();
            }
        }
    }
}

/// Makes and sends log objects, one after the other taken, several at once under way.
async fn send_loop(fs: std::sync::Weak<FileSystem>, shipping: Arc<Shipping>) {
    let mut under_way = FuturesOrdered::new();
    let mut taken = shipping.arrived();
    let every = shipping.config.ship_every;
    let mut next_turn = tokio::time::Instant::now() + every;
    loop {
        while under_way.len() < IN_FLIGHT && shipping.want.load(Ordering::Acquire) > taken {
            let Some(fs) = fs.upgrade() else { return };
            let packed = {
                let packing = fs.pack_what_is_much(&shipping);
                tokio::pin!(packing);
                // What is under way goes on beside it.
                loop {
                    tokio::select! {
                        biased;
                        Some(done) = under_way.next(), if !under_way.is_empty() => {
                            if let Err(e) = fs.note_sent(&shipping, done) {
                                return fs.sending_failed(&shipping, e);
                            }
                        }
                        packed = &mut packing => break packed,
                    }
                }
            };
            match packed.and_then(|()| fs.take_parcel()) {
                Ok(Some((parcel, extents))) => {
                    taken = parcel.last;
                    let (place, shipping) = (shipping.take_place(&parcel, &extents), shipping.clone());
                    under_way.push_back(async move { shipping.send(place, parcel, extents).await });
                }
                Ok(None) => taken = taken.max(shipping.want.load(Ordering::Acquire)),
                Err(e) => return fs.sending_failed(&shipping, e),
            }
        }
        tokio::select! {
            Some(done) = under_way.next(), if !under_way.is_empty() => {
                let Some(fs) = fs.upgrade() else { return };
                if let Err(e) = fs.note_sent(&shipping, done) {
                    return fs.sending_failed(&shipping, e);
                }
            }
            () = shipping.wake.notified() => {}
            () = tokio::time::sleep_until(next_turn) => {
                next_turn = tokio::time::Instant::now() + every;
                let Some(fs) = fs.upgrade() else { return };
                // What was not asked for goes too, so that a loss of this host takes no more than this time.
                let last = fs.lock().journal.seq();
                shipping.want.fetch_max(last, Ordering::AcqRel);
            }
        }
    }
}

/// Shows signs of life, and learns when somebody else has the volume.
async fn lease_loop(fs: std::sync::Weak<FileSystem>, shipping: Arc<Shipping>) {
    let every = shipping.lease.duration / 3;
    let mut pause = every;
    loop {
        tokio::time::sleep(pause).await;
        let Some(fs) = fs.upgrade() else { return };
        let renewed = fs.show_life(&shipping).await;
        if shipping.uploading.lock().is_empty() {
            // Where uploads are rare, their memory is not kept for the next one.
            shipping.buffers.clear();
        }
        pause = match renewed {
            Ok(()) => every,
            Err(FsError::Fenced(_)) => return,
            Err(e) => {
                tracing::warn!(error = %e, "no sign of life could be given");
                (every / 10).max(Duration::from_millis(20))
            }
        };
    }
}

impl FileSystem {
    /// One sign of life, now, and what it tells of the store and of the volume's owner is heeded.
    pub(crate) async fn renew(&self, shipping: &Shipping, unsent: Option<bool>) -> FsResult<()> {
        let renewal = shipping.lease.renew(unsent);
        tokio::pin!(renewal);
        let mut looks = 0;
        let renewed = loop {
            tokio::select! {
                renewed = &mut renewal => break renewed,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    looks += 1;
                    if looks >= LOOKS {
                        shipping.lose_touch();
                    }
                }
            }
        };
        match renewed {
            Ok(()) => {
                shipping.patience.answered();
                shipping.out_of_touch.store(0, Ordering::Release);
                Ok(())
            }
            Err(FsError::Fenced(why)) => Err(self.fence(shipping, why)),
            Err(e) => {
                shipping.patience.failed();
                shipping.lose_touch();
                Err(e)
            }
        }
    }

    async fn show_life(&self, shipping: &Shipping) -> FsResult<()> {
        if shipping.config.durability == Durability::Local
            && shipping.lease.says_unsent()
            && self.unsent_bytes() == 0
            && !shipping.patience.is_away()
        {
            // No fsync is answered meanwhile: one that is answered afterwards says again that there is something unsent. To
            // leave the record as it is needs no turn, and nobody waits for a store that is away.
            let _turn = self.sync_turn.lock().await;
            let unsent = self.unsent_bytes() > 0;
            return self.renew(shipping, Some(unsent)).await;
        }
        self.renew(shipping, None).await
    }

    /// Under durability `local`: before an fsync is answered, the owner record says that this host holds what the
    /// store does not have.
    pub(crate) async fn say_unsent(&self, shipping: &Shipping) -> FsResult<()> {
        while shipping.config.durability == Durability::Local && !shipping.lease.says_unsent() && self.unsent_bytes() > 0 {
            match self.renew(shipping, Some(true)).await {
                Ok(()) => {}
                Err(e @ FsError::Fenced(_)) => return Err(e),
                Err(_) => {
                    shipping.check_outage()?;
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
        Ok(())
    }
}
