//! The decoders of this crate as fuzz targets: sealed objects, key rings, key files, credentials, settings.
//! `orlop_model::fuzz` says what they owe.

use crate::keys::{KeyId, MasterKeys, Secret, create_ring, ring_path, sealed_store};
use crate::wrap::{Seal, SealKeys};
use bytes::Bytes;
use futures::executor::block_on;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use orlop_model::fuzz::Target;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use zeroize::Zeroizing;

const PREFIX: &str = "volumes/00000000-0000-4000-8000-000000000000";

/// The targets of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "sealed-object", run: sealed_object, seeds: sealed_seeds, covered: true },
    Target { name: "key-ring", run: key_ring, seeds: ring_seeds, covered: true },
    Target { name: "master-key-file", run: master_key_file, seeds: || vec![MasterKeys::fixed().file().into()], covered: false },
    Target { name: "credentials", run: credentials, seeds: credentials_seeds, covered: false },
    Target { name: "s3-settings", run: s3_settings, seeds: settings_seeds, covered: false },
];

fn sealed(inner: Arc<dyn ObjectStore>) -> Arc<Seal> {
    let (id, secret) = (KeyId([9; 8]), Secret::from_bytes(Zeroizing::new([7; 32])));
    Seal::wrap(inner, PREFIX, SealKeys::new(id, [(id, &secret)]).expect("its key is there"))
}

fn at() -> Path {
    Path::from(format!("{PREFIX}/packs/x"))
}

fn sealed_seeds() -> Vec<Vec<u8>> {
    // Made once: an object has a random id.
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let make = |n: usize| {
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        block_on(async {
            sealed(inner.clone()).put(&at(), vec![3; n].into()).await.expect("memory takes it");
            inner.get(&at()).await.expect("it is there").bytes().await.expect("memory gives it").to_vec()
        })
    };
    SEEDS.get_or_init(|| [0, 1, 300, 70_000].map(make).to_vec()).clone()
}

fn sealed_object(bytes: &[u8]) -> bool {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    block_on(async {
        inner.put(&at(), Bytes::copy_from_slice(bytes).into()).await.expect("memory takes it");
        let seal = sealed(inner);
        let _ = seal.head(&at()).await;
        let _ = seal.get_range(&at(), 1..9).await;
        let Ok(got) = seal.get(&at()).await else { return false };
        let size = got.meta.size;
        let Ok(plain) = got.bytes().await else { return false };
        assert_eq!(plain.len() as u64, size, "the size that was told");
        true
    })
}

fn ring_seeds() -> Vec<Vec<u8>> {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let make = || {
        let inner = InMemory::new();
        block_on(async {
            create_ring(&inner, PREFIX, &MasterKeys::fixed()).await.expect("memory takes it");
            inner.get(&ring_path(PREFIX)).await.expect("it is there").bytes().await.expect("memory gives it").to_vec()
        })
    };
    SEEDS.get_or_init(|| vec![make()]).clone()
}

fn key_ring(bytes: &[u8]) -> bool {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    block_on(async {
        inner.put(&ring_path(PREFIX), Bytes::copy_from_slice(bytes).into()).await.expect("memory takes it");
        sealed_store(inner, PREFIX, &MasterKeys::fixed()).await.is_ok()
    })
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn master_key_file(bytes: &[u8]) -> bool {
    text(bytes).is_some_and(MasterKeys::reads)
}

fn credentials(bytes: &[u8]) -> bool {
    text(bytes).is_some_and(crate::s3::reads_credentials)
}

fn credentials_seeds() -> Vec<Vec<u8>> {
    let json = r#"{"AccessKeyId":"a","SecretAccessKey":"b","SessionToken":"c"}"#;
    let ini = "# x\n[other]\naws_access_key_id=z\n[default]\naws_access_key_id = a\naws_secret_access_key = \"b\"\n";
    [json, ini, "export AWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=b"].map(|s| s.as_bytes().to_vec()).to_vec()
}

/// The URL in the first line, a setting in each other.
fn s3_settings(bytes: &[u8]) -> bool {
    let Some(text) = text(bytes) else { return false };
    let (url, rest) = text.split_once('\n').unwrap_or((text, ""));
    // Schemes that reach for the disk are not tried.
    if !url.starts_with("s3://") {
        return false;
    }
    let settings: BTreeMap<_, _> = rest.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    crate::s3::reads_settings(&settings) && url::Url::parse(url).is_ok()
}

fn settings_seeds() -> Vec<Vec<u8>> {
    vec![b"s3://bucket/p\nendpoint=http://127.0.0.1:9000\nregion=eu-central-1\ntimeout=3s\nallow_http=true".to_vec()]
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_bytes_are_decoded_or_refused() {
        orlop_model::fuzz::exercise_all(super::TARGETS, 2000);
    }
}
