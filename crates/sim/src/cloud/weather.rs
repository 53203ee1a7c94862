//! The way from a host to its store: objects overtake each other, answers get lost, everything may stand still for a
//! while; and the planted bugs, each as if chunkfs or the store had done something wrong.

use crate::rng::Rng;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// A log object counts as arrived before it is: it arrives with the next one.
    AnsweredBeforeArrival,
    /// Later log objects count although an earlier one never arrives.
    AnsweredOutOfOrder,
    /// The log's objects are created over what is there: no fence holds.
    FenceDoesNotHold,
    /// What is not folded yet is deleted from the log.
    LogStartsTooLate,
    /// A fold's rows name packs that are not there.
    RowsBeforePack,
    /// The log is cut back although the rows of the fold are not there.
    LogCutBeforeRows,
    /// A log object travels without the data of its records.
    DataLeftOut,
    /// The owner record of somebody else is overwritten, and log objects that exist count as one's own.
    NobodyIsAsked,
}

/// When a pause begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Before(u64),
    After(u64),
}

#[derive(Debug)]
struct Inner {
    rng: Rng,
    plant: Option<Plant>,
    /// Answered and not there yet.
    held: Option<(Path, PutPayload)>,
    last_log: Option<Path>,
    puts: u64,
    mutations: u64,
    pause: Option<At>,
    paused: bool,
}

/// The store as it looks through the weather.
#[derive(Debug)]
pub(super) struct Weather {
    store: Arc<dyn ObjectStore>,
    inner: Mutex<Inner>,
    began: Notify,
    over: Notify,
}

impl Weather {
    pub(super) fn new(store: Arc<dyn ObjectStore>, seed: u64, plant: Option<Plant>, pause: Option<At>) -> Arc<Weather> {
        let inner = Inner { rng: Rng::new(seed), plant, held: None, last_log: None, puts: 0, mutations: 0, pause, paused: false };
        Arc::new(Weather { store, inner: Mutex::new(inner), began: Notify::new(), over: Notify::new() })
    }

    /// Comes back when the pause has begun.
    pub(super) async fn paused(&self) {
        while !self.inner.lock().paused {
            self.began.notified().await;
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.inner.lock().paused
    }

    /// The pause is over.
    pub(super) fn go_on(&self) {
        let mut inner = self.inner.lock();
        inner.pause = None;
        inner.paused = false;
        drop(inner);
        self.over.notify_waiters();
    }

    pub(super) fn mutations(&self) -> u64 {
        self.inner.lock().mutations
    }

    async fn pause_if(&self, at: At) {
        let over = self.over.notified();
        {
            let mut inner = self.inner.lock();
            // What else is under way stands still too: the process does.
            if inner.pause == Some(at) {
                inner.paused = true;
            }
            if !inner.paused {
                return;
            }
        }
        self.began.notify_one();
        over.await;
    }

    /// How long this object is under way, and whether its answer is lost.
    fn fortune(&self, location: &Path) -> (Duration, bool) {
        let mut inner = self.inner.lock();
        if location.as_ref().contains("/meta/") {
            return (Duration::ZERO, false);
        }
        let delay = Duration::from_millis(inner.rng.below(5) * 37);
        (delay, inner.rng.one_in(6))
    }
}

fn lost() -> Error {
    Error::Generic { store: "weather", source: "the answer was lost".into() }
}

impl std::fmt::Display for Weather {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("weather")
    }
}

impl Weather {
    async fn put(&self, location: &Path, payload: PutPayload, mut opts: PutOptions) -> Result<PutResult> {
        let (is_log, is_pack, is_meta) =
            (location.as_ref().contains("/log/"), location.as_ref().contains("/packs/"), location.as_ref().contains("/meta/"));
        let made = || Ok(PutResult { e_tag: Some("planted".to_owned()), version: None, extensions: Default::default() });
        let plant = {
            let mut inner = self.inner.lock();
            if inner.plant.is_some() && (is_log || is_pack || is_meta) {
                inner.puts += u64::from(is_log || is_pack);
            }
            inner.plant
        };
        match plant {
            Some(Plant::AnsweredBeforeArrival) if is_log => {
                let before = self.inner.lock().held.replace((location.clone(), payload));
                if let Some((at, bytes)) = before {
                    self.store.put(&at, bytes).await?;
                }
                return made();
            }
            Some(Plant::AnsweredOutOfOrder) if is_log && self.inner.lock().puts % 3 == 2 => {
                return made();
            }
            Some(Plant::FenceDoesNotHold) if is_log => {
                opts.mode = PutMode::Overwrite;
            }
            Some(Plant::NobodyIsAsked) if is_log || location.as_ref().ends_with("owner.json") => {
                opts.mode = PutMode::Overwrite;
            }
            Some(Plant::RowsBeforePack) if is_pack => {
                return made();
            }
            Some(Plant::LogCutBeforeRows) if is_meta && location.as_ref().contains("/compacted/") => {
                return made();
            }
            Some(Plant::DataLeftOut) if is_log => {
                let bytes: Bytes = payload.clone().into();
                if bytes.len() > 4096 {
                    let mut cut = bytes.to_vec();
                    let at = cut.len() - 4096;
                    cut[at..].fill(0);
                    return self.store.put_opts(location, cut.into(), opts).await;
                }
            }
            Some(Plant::LogStartsTooLate) if is_log => {
                let before = self.inner.lock().last_log.replace(location.clone());
                if let Some(before) = before {
                    // It may have been deleted rightly by then.
                    let _ = self.store.delete(&before).await;
                }
            }
            _ => {}
        }
        self.store.put_opts(location, payload, opts).await
    }
}

#[async_trait]
impl ObjectStore for Weather {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let n = {
            let mut inner = self.inner.lock();
            inner.mutations += 1;
            inner.mutations
        };
        let (delay, answer_lost) = self.fortune(location);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.pause_if(At::Before(n)).await;
        let done = self.put(location, payload, opts).await;
        self.pause_if(At::After(n)).await;
        if answer_lost && done.is_ok() { Err(lost()) } else { done }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.store.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
