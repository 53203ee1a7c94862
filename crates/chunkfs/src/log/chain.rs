//! Reading the store's log at an opening, and ending it for whoever wrote it before.
//!
//! Objects follow each other without a gap. A writer counts an object as arrived only when all before it have, so
//! whatever stands after a gap was never acknowledged. The new writer puts a fence into the first gap: create-only,
//! so either the fence stands there, or the old writer's object does and is read like the others.

use super::Place;
use super::object::{Body, Extent, Head, decode, encode_fence};
use super::patience::Patience;
use crate::change::Record;
use crate::types::{FsError, FsResult};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use orlop_model::OutagePolicy;
use orlop_store::wrap::BrokenSeal;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long an opening waits for a store that does not answer; who asked for it tries again.
const OPENING: Duration = Duration::from_secs(20);
/// Log objects fetched at once: they are small, and there are some hundreds.
const FETCHES: usize = 32;

/// What the store's log holds above what is folded.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// Records by number, without a gap.
    pub(crate) records: Vec<(u64, Record)>,
    /// Data that travelled with them, oldest first.
    pub(crate) extents: Vec<(Extent, Bytes)>,
    /// Objects that count, fences included: they go when they are folded.
    pub(crate) places: Vec<Place>,
}

/// What a listing of the log shows.
pub(crate) async fn list(store: &Arc<dyn ObjectStore>, prefix: &str) -> FsResult<Vec<Place>> {
    let patience = Patience::new(OutagePolicy::Fail, OPENING);
    let folder = object_store::path::Path::from(format!("{prefix}/log"));
    let list = patience.as_the_policy_says(folder.as_ref(), || store.list(Some(&folder)).try_collect::<Vec<_>>());
    let listed = list.await?.map_err(|e| FsError::Io(format!("listing {folder}: {e}")))?;
    Ok(listed.iter().filter_map(|o| Place::parse(o.location.filename()?)).collect())
}

/// A log that is read.
pub(crate) struct Log<'a> {
    pub(crate) store: &'a Arc<dyn ObjectStore>,
    pub(crate) prefix: &'a str,
    pub(crate) volume: [u8; 16],
    /// A damage ends it: the object goes, so the store must be one that nobody keeps.
    pub(crate) salvage: bool,
}

impl Log<'_> {
    /// Walks the log from a place on, of which a listing showed some. Returns what it holds and the first place where nothing is.
    /// Places below `arrived` had arrived by what the owner record says: that one of them is empty is damage, not the end of the log.
    /// So it is if an object behind it says so.
    pub(crate) async fn read(&self, listed: &[Place], from: Place, arrived: u64) -> FsResult<(Chain, Place)> {
        let patience = Patience::new(OutagePolicy::Fail, OPENING);
        // Side by side one that is damaged would fail them all.
        let ahead = listed.iter().filter(|p| p.n >= from.n && !self.salvage);
        let mut found = fetch(&patience, self.store, self.prefix, ahead).await?;
        let mut chain = Chain::default();
        let mut place = from;
        loop {
            match self.next(&patience, &mut found, &mut chain, place, arrived).await {
                Ok(Some(next)) => place = next,
                Ok(None) => return Ok((chain, place)),
                Err(FsError::Corrupt(why)) if self.salvage => {
                    tracing::warn!(%why, "the log on the store ends here, for who only reads it out");
                    let path = place.path(self.prefix);
                    return match self.store.delete(&path).await {
                        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok((chain, place)),
                        Err(e) => Err(FsError::Io(format!("{path}: {e}"))),
                    };
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Adds what is at a place to the chain; `None` if nothing is there.
    async fn next(
        &self,
        patience: &Patience,
        found: &mut BTreeMap<Place, Bytes>,
        chain: &mut Chain,
        place: Place,
        arrived: u64,
    ) -> FsResult<Option<Place>> {
        let (prefix, volume) = (self.prefix, self.volume);
        let bytes = match found.remove(&place) {
            Some(bytes) => bytes,
            // It may have arrived after the listing.
            None => match get(patience, self.store, prefix, place).await? {
                Some(bytes) => bytes,
                None => {
                    let after =
                        found.iter().filter(|(p, _)| p.epoch >= place.epoch).filter_map(|(p, bytes)| says_arrived(bytes, volume, *p));
                    if after.max().unwrap_or(0).max(arrived) > place.n {
                        let path = place.path(prefix);
                        return Err(FsError::Corrupt(format!(
                            "{path}: it is missing: the log went on behind it, or the namespace is older than it was"
                        )));
                    }
                    return Ok(None);
                }
            },
        };
        step(chain, bytes, prefix, volume, place).map(Some)
    }
}

fn says_arrived(bytes: &Bytes, volume: [u8; 16], place: Place) -> Option<u64> {
    match decode(bytes, volume, place).ok()?.body {
        Body::Records { arrived, .. } => Some(arrived),
        Body::Fence { .. } => None,
    }
}

/// Takes the log, as it was read, over from the writer before: whatever he still sends no longer counts. Returns what it
/// holds and where the writer of `epoch` goes on, which must be above every epoch before.
pub(crate) async fn take_over(
    store: &Arc<dyn ObjectStore>,
    prefix: &str,
    volume: [u8; 16],
    (mut chain, mut place): (Chain, Place),
    epoch: u64,
) -> FsResult<(Chain, Place)> {
    let patience = Patience::new(OutagePolicy::Fail, OPENING);
    while place.epoch != epoch {
        let head = Head { volume, place, nonce: rand::random() };
        let (path, fence) = (place.path(prefix), encode_fence(&head, epoch));
        let put = patience.as_the_policy_says(path.as_ref(), || {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            store.put_opts(&path, fence.clone().into(), options)
        });
        match put.await? {
            Ok(_) => {}
            // The old writer was faster, or our own attempt arrived and its answer did not.
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {}
            Err(e) => return Err(FsError::Io(format!("{path}: {e}"))),
        }
        let bytes = get(&patience, store, prefix, place)
            .await?
            .ok_or_else(|| FsError::Corrupt(format!("{}: the store took it and does not have it", place.path(prefix))))?;
        place = step(&mut chain, bytes, prefix, volume, place)?;
    }
    Ok((chain, place))
}

/// Adds one object to the chain and returns the next place.
fn step(chain: &mut Chain, bytes: Bytes, prefix: &str, volume: [u8; 16], place: Place) -> FsResult<Place> {
    let corrupt = |why: &str| FsError::Corrupt(format!("{}: {why}", place.path(prefix)));
    let object = decode(&bytes, volume, place).map_err(|e| corrupt(&e.to_string()))?;
    let next = match object.body {
        Body::Fence { next_epoch } => Place { epoch: next_epoch, n: place.n + 1 },
        Body::Records { records, extents, .. } => {
            if let (Some((last, _)), Some((first, _))) = (chain.records.last(), records.first())
                && *first != last + 1
            {
                // After a takeover numbers may only go on, never start again.
                return Err(corrupt(&format!("it starts with record {first}, after record {last}")));
            }
            chain.records.extend(records);
            chain.extents.extend(extents);
            place.next()
        }
    };
    chain.places.push(place);
    Ok(next)
}

async fn get(patience: &Patience, store: &Arc<dyn ObjectStore>, prefix: &str, place: Place) -> FsResult<Option<Bytes>> {
    let path = place.path(prefix);
    let got = patience.as_the_policy_says(path.as_ref(), || async { store.get(&path).await?.bytes().await });
    match got.await? {
        Ok(bytes) => Ok(Some(bytes)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(e) => match BrokenSeal::find(&e) {
            Some(broken) => Err(FsError::Corrupt(format!("{path}: {}", broken.why))),
            None => Err(FsError::Io(format!("{path}: {e}"))),
        },
    }
}

/// These objects, fetched side by side.
async fn fetch(
    patience: &Patience,
    store: &Arc<dyn ObjectStore>,
    prefix: &str,
    places: impl Iterator<Item = &Place>,
) -> FsResult<BTreeMap<Place, Bytes>> {
    let all: Vec<Option<(Place, Bytes)>> = futures::stream::iter(places.copied())
        .map(|place| async move { Ok::<_, FsError>(get(patience, store, prefix, place).await?.map(|b| (place, b))) })
        .buffer_unordered(FETCHES)
        .try_collect()
        .await?;
    Ok(all.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;
    use crate::journal::encode_frame;
    use crate::key::Key;
    use crate::log::object::encode_records;
    use object_store::memory::InMemory;
    use std::convert::Infallible;

    const VOLUME: [u8; 16] = [1; 16];

    async fn send(store: &Arc<dyn ObjectStore>, place: Place, records: std::ops::Range<u64>) -> bool {
        send_since(store, place, 0, records).await
    }

    async fn read_listed(store: &Arc<dyn ObjectStore>, from: Place, arrived: u64) -> FsResult<(Chain, Place)> {
        log_of(store, false).read(&list(store, "v").await?, from, arrived).await
    }

    fn log_of(store: &Arc<dyn ObjectStore>, salvage: bool) -> Log<'_> {
        Log { store, prefix: "v", volume: VOLUME, salvage }
    }

    async fn over(store: &Arc<dyn ObjectStore>, from: Place, epoch: u64) -> FsResult<(Chain, Place)> {
        let found = read_listed(store, from, 0).await?;
        take_over(store, "v", VOLUME, found, epoch).await
    }

    async fn send_since(store: &Arc<dyn ObjectStore>, place: Place, arrived: u64, records: std::ops::Range<u64>) -> bool {
        let mut frames = Vec::new();
        for n in records.clone() {
            encode_frame(&mut frames, n, &Record { request: 0, answer: 0, changes: vec![Change::Delete(Key::Inode(n))] });
        }
        let head = Head { volume: VOLUME, place, nonce: [9; 16] };
        let bytes = encode_records(&head, arrived, records.start, &frames, &[], |_| Ok::<(), Infallible>(())).expect("infallible");
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        store.put_opts(&place.path("v"), bytes.into(), options).await.is_ok()
    }

    #[tokio::test]
    async fn a_takeover_ends_the_old_chain_and_nothing_after_the_gap_counts() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let at = |epoch, n| Place { epoch, n };
        assert!(send(&store, at(1, 1), 1..4).await);
        assert!(send(&store, at(1, 2), 4..6).await);
        // Sent side by side: this one arrived, the one before it did not.
        assert!(send(&store, at(1, 4), 8..9).await);
        let (chain, next) = over(&store, Place::FIRST, 2).await.expect("takes over");
        assert_eq!(next, at(2, 4));
        assert_eq!(chain.records.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(chain.places, [at(1, 1), at(1, 2), at(1, 3)]);
        assert!(!send(&store, at(1, 3), 6..8).await, "the old writer is refused where it would go on");
        // The new writer's object of the same number is another one.
        assert!(send(&store, next, 6..7).await);
        let (chain, next) = over(&store, Place::FIRST, 7).await.expect("again");
        assert_eq!(chain.records.last().map(|(n, _)| *n), Some(6));
        assert_eq!(next, at(7, 6));
        // Half a takeover is finished by the next one.
        let (_, again) = over(&store, at(2, 5), 8).await.expect("and again");
        assert_eq!(again, at(8, 7));
    }

    #[tokio::test]
    async fn damage_is_refused_by_name() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        assert!(send(&store, Place::FIRST, 1..2).await);
        let path = Place::FIRST.path("v");
        let mut bytes = store.get(&path).await.expect("there").bytes().await.expect("bytes").to_vec();
        bytes[20] ^= 1;
        store.put(&path, bytes.into()).await.expect("put");
        let e = read_listed(&store, Place::FIRST, 0).await.expect_err("damaged");
        assert!(matches!(&e, FsError::Corrupt(why) if why.contains("log/")), "{e}");
    }

    #[tokio::test]
    async fn one_that_had_arrived_and_is_gone_is_damage_and_not_the_end() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let at = |n| Place { epoch: 1, n };
        assert!(send_since(&store, at(1), 1, 1..2).await);
        // Under way beside each other: that the second never arrived is how a crash looks.
        assert!(send_since(&store, at(3), 2, 3..4).await);
        let (chain, end) = read_listed(&store, at(1), 2).await.expect("the second never arrived");
        assert_eq!((chain.records.len(), end), (1, at(2)));
        assert!(send_since(&store, at(4), 3, 4..5).await);
        let e = read_listed(&store, at(1), 0).await.expect_err("the fourth says that the second had arrived");
        assert!(matches!(&e, FsError::Corrupt(why) if why.contains(&*at(2).path("v").to_string())), "{e}");
        let e = read_listed(&store, at(5), 6).await.expect_err("the owner record says that the fifth had");
        assert!(matches!(&e, FsError::Corrupt(why) if why.contains(&*at(5).path("v").to_string())), "{e}");
    }
}
