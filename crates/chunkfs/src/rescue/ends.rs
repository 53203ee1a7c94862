//! Where the logs of a volume go on whose namespace has lost the rows that say it: at what is left of them.
//!
//! A file of the journal, and an object of the log, goes when all of it is folded and not before. So what is left begins with what is
//! not folded, or with some of what is: to apply that once more changes nothing.

use super::Rescue;
use crate::log::Place;
use crate::log::chain;
use crate::log::lease::Owner;
use crate::log::object::{Body, decode};
use crate::open::model_error;
use object_store::ObjectStoreExt;
use orlop_model::Result;
use std::collections::BTreeMap;

/// Objects of a log that are read to find its first record: those before it are fences.
const FENCES: usize = 64;
/// Objects at the end of a log that are asked how far it had arrived: more than are ever under way side by side.
const LATEST: usize = 8;

/// What rows say that may be older than those that are lost.
#[derive(Debug)]
pub(super) struct Said<T> {
    pub(super) value: T,
    /// Nothing newer is lost.
    pub(super) is_sure: bool,
}

/// The last record that counts as folded, and where the log on the store begins that goes on from there, if there is one.
pub(super) async fn find(
    rescue: &Rescue,
    owner: Option<&Owner>,
    applied: &Said<u64>,
    start: &Said<Option<Place>>,
) -> Result<(u64, Option<Place>)> {
    let journal = if applied.is_sure { None } else { first_on_host(rescue) };
    if !rescue.remote {
        return Ok((before(applied.value, journal), None));
    }
    let start = match (start.is_sure, start.value) {
        (true, said) => said,
        (false, said) => {
            let listed = chain::list(&rescue.of.store, &rescue.prefix).await.map_err(|e| model_error("listing the log on the store", e))?;
            let arrived = arrived(rescue, owner, &listed).await;
            let said = said.unwrap_or(Place::FIRST);
            // Of an empty log all had arrived that ever did.
            let end = Place { epoch: owner.map_or(said.epoch, |o| o.epoch.max(said.epoch)), n: arrived.map_or(said.n, |n| n.max(said.n)) };
            Some(beginning(&listed, arrived).unwrap_or(end))
        }
    };
    if applied.is_sure {
        return Ok((applied.value, start));
    }
    let sent = first_sent(rescue, start.unwrap_or(Place::FIRST)).await;
    Ok((before(applied.value, [sent, journal].into_iter().flatten().min()), start))
}

/// The record before the first of those that are left; at least the one that is known to be folded.
fn before(known: u64, first: Option<u64>) -> u64 {
    first.map_or(known, |first| known.max(first.saturating_sub(1)))
}

/// The first record of the host's journal, by the names of its files.
fn first_on_host(rescue: &Rescue) -> Option<u64> {
    let files = std::fs::read_dir(rescue.state_dir.as_ref()?.join("journal")).ok()?;
    let first = |name: &str| u64::from_str_radix(name.strip_suffix(".journal")?, 16).ok();
    files.flatten().filter_map(|entry| first(&entry.file_name().to_string_lossy())).min()
}

/// Below which place all of a log had arrived, as far as anybody says it: the owner record does only now and then.
async fn arrived(rescue: &Rescue, owner: Option<&Owner>, listed: &[Place]) -> Option<u64> {
    let mut latest = listed.to_vec();
    latest.sort_unstable_by_key(|place| std::cmp::Reverse((place.n, place.epoch)));
    let mut below = owner.map_or(0, Owner::arrived);
    for place in latest.into_iter().take(LATEST) {
        if let Some(Body::Records { arrived, .. }) = object(rescue, place).await {
            below = below.max(arrived);
        }
    }
    (below > 0).then_some(below)
}

/// What an object of the log holds, if it is as it was written.
async fn object(rescue: &Rescue, place: Place) -> Option<Body> {
    let bytes = rescue.of.store.get(&place.path(&rescue.prefix)).await.ok()?.bytes().await.ok()?;
    Some(decode(&bytes, *rescue.volume.as_bytes(), place).ok()?.body)
}

/// Where objects of a log begin that follow each other. Some that are folded may be left before them, and some that never counted, since
/// those before them did not arrive, behind them.
fn beginning(listed: &[Place], arrived: Option<u64>) -> Option<Place> {
    // Of one number the highest epoch counts: whoever had it put an end to the one before.
    let mut places: BTreeMap<u64, u64> = BTreeMap::new();
    for place in listed {
        let epoch = places.entry(place.n).or_default();
        *epoch = place.epoch.max(*epoch);
    }
    let mut runs: Vec<(Place, u64)> = Vec::new();
    for (n, epoch) in places {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => runs.push((Place { epoch, n }, n)),
        }
    }
    let run = match arrived {
        // The last that had arrived, or what follows it.
        Some(end) => runs.iter().find(|(first, last)| first.n <= end && end <= last + 1),
        None => runs.iter().max_by_key(|(first, last)| (last - first.n, first.n)),
    };
    run.map(|(first, _)| *first)
}

/// The first record of a log that begins at a place.
async fn first_sent(rescue: &Rescue, mut place: Place) -> Option<u64> {
    for _ in 0..FENCES {
        place = match object(rescue, place).await? {
            Body::Fence { next_epoch } => Place { epoch: next_epoch, n: place.n + 1 },
            Body::Records { records, .. } => match records.first() {
                Some((number, _)) => return Some(*number),
                None => place.next(),
            },
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(all: &[(u64, u64)]) -> Vec<Place> {
        all.iter().map(|(epoch, n)| Place { epoch: *epoch, n: *n }).collect()
    }

    #[test]
    fn a_log_begins_where_objects_follow_each_other_up_to_what_had_arrived() {
        let at = |epoch, n| Some(Place { epoch, n });
        assert_eq!(beginning(&[], Some(7)), None);
        assert_eq!(beginning(&[], None), None);
        // One is left that was folded, and one that never counted.
        let log = places(&[(1, 3), (1, 7), (1, 8), (2, 9), (1, 9), (2, 11)]);
        assert_eq!(beginning(&log, Some(10)), at(1, 7));
        assert_eq!(beginning(&log, Some(8)), at(1, 7));
        assert_eq!(beginning(&log, None), at(1, 7));
        // All is folded, and what follows had not arrived when that was said.
        assert_eq!(beginning(&places(&[(2, 12), (2, 13)]), Some(12)), at(2, 12));
        assert_eq!(beginning(&places(&[(2, 13)]), Some(12)), None);
        assert_eq!(beginning(&places(&[(3, 5), (1, 5), (3, 6)]), None), at(3, 5));
        assert_eq!((before(10, None), before(10, Some(5)), before(10, Some(21))), (10, 10, 20));
    }
}
