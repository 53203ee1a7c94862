//! How fast a store is: small objects written and read one after the other, the median of a few.

use object_store::{ObjectStore, ObjectStoreExt};
use orlop_model::{Result, VolumeId};
use orlop_store::Path;
use std::time::Instant;

/// Enough that one slow answer does not decide.
const ROUNDS: usize = 5;
/// About what a small commit takes.
const BYTES: usize = 4096;

/// Microseconds that a put and a get take.
pub(crate) async fn measure(store: &dyn ObjectStore) -> Result<(u64, u64)> {
    let (mut puts, mut gets) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let at = Path::from(format!("orlop-probe-{}/speed", VolumeId::random()));
        let failed = |what: &str, e: object_store::Error| orlop_store::error(format_args!("{what} {at}"), &e);
        let begun = Instant::now();
        store.put(&at, vec![0x5a; BYTES].into()).await.map_err(|e| failed("put", e))?;
        puts.push(begun.elapsed());
        let begun = Instant::now();
        let read = async { store.get(&at).await?.bytes().await }.await;
        gets.push(begun.elapsed());
        let deleted = store.delete(&at).await;
        read.map_err(|e| failed("get", e))?;
        deleted.map_err(|e| failed("delete", e))?;
    }
    let median = |mut times: Vec<std::time::Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_micros() as u64
    };
    Ok((median(puts), median(gets)))
}
