//! Guards what goes into a store: what comes out is what went in, or an error that names the object.
//!
//! For objects whose own format leaves bytes unchecked. They are sealed under a key that is no secret, for the
//! authentication alone: that costs 16 bytes for each 64 KiB, and truncation, exchange and every flipped bit are found.

use super::{Seal, SealKeys};
use crate::keys::{KEY_BYTES, KeyId, Secret};
use object_store::ObjectStore;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The id of the key that everybody has.
const OPEN: KeyId = KeyId(*b"guard001");

/// Guards what is below `prefix` in a store. Two objects directly below it stay as they are, see [`Seal`].
pub fn guard(store: Arc<dyn ObjectStore>, prefix: &str) -> Arc<Seal> {
    let key = Secret::from_bytes(Zeroizing::new([0; KEY_BYTES]));
    let keys = SealKeys::new(OPEN, [(OPEN, &key)]).expect("the key is among the keys");
    Seal::wrap(store, prefix, keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrap::BrokenSeal;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{ObjectStoreExt, PutPayload};

    #[tokio::test]
    async fn every_flipped_byte_and_every_cut_is_an_error_that_names_the_object() {
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let at = Path::from("volumes/x/meta/manifest/1");
        let store = guard(inner.clone(), "volumes/x");
        let text: Vec<u8> = (0..700u32).map(|i| i as u8).collect();
        store.put(&at, PutPayload::from(text.clone())).await.expect("put");
        assert_eq!(store.get(&at).await.expect("there").bytes().await.expect("bytes"), text);
        let good = inner.get(&at).await.expect("there").bytes().await.expect("bytes").to_vec();
        let damaged = async |bytes: Vec<u8>| {
            inner.put(&at, bytes.into()).await.expect("put");
            // A reader that has seen nothing of the object yet.
            let got = async { guard(inner.clone(), "volumes/x").get(&at).await?.bytes().await };
            let e = got.await.expect_err("it is damaged");
            assert_eq!(BrokenSeal::find(&e).map(|b| b.path.as_str()), Some(at.as_ref()), "{e}");
        };
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            damaged(bad).await;
        }
        for cut in [0, 1, 39, 40, 56, 700, good.len() - 1] {
            damaged(good[..cut].to_vec()).await;
        }
    }

    /// Run by hand, in a release build: `cargo test --release -p orlop-store guard_costs -- --ignored --nocapture`.
    #[tokio::test]
    #[ignore = "a measurement"]
    async fn guard_costs() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let plain = crate::open(&format!("file://{}", dir.path().display())).expect("a store");
        let guarded: Arc<dyn ObjectStore> = guard(plain.clone(), "v");
        for (name, store) in [("plain", plain), ("guarded", guarded)] {
            let at = Path::from(format!("v/meta/{name}"));
            let began = std::time::Instant::now();
            for _ in 0..20 {
                store.put(&at, vec![7u8; 4 << 20].into()).await.expect("put");
            }
            let put = began.elapsed() / 20;
            let began = std::time::Instant::now();
            for i in 0..2000u64 {
                let from = (i * 7919 * 4096) % ((4 << 20) - 4096);
                store.get_range(&at, from..from + 4096).await.expect("read");
            }
            println!("{name}: 4 MiB put {put:?}, 4 KiB read {:?}", began.elapsed() / 2000);
        }
    }
}
