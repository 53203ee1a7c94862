//! What the seal owes: the same answers as an unsealed twin, nothing plain below it, and no damage that goes unseen.

use super::format::{FRAME, HEADER, SEALED_FRAME, sealed_size};
use super::*;
use crate::keys::{KeyId, Secret};
use crate::wrap::{Damage, Fault, Meter, Plan};
use object_store::memory::InMemory;
use object_store::{Error, GetRange};

fn keys() -> SealKeys {
    let (id, secret) = (KeyId::random(), Secret::random());
    SealKeys::new(id, [(id, &secret)]).expect("it is among them")
}

fn pair() -> (Arc<InMemory>, Arc<Seal>) {
    let below = Arc::new(InMemory::new());
    (below.clone(), Seal::wrap(below, "volumes/v", keys()))
}

fn at(name: &str) -> Path {
    Path::from(format!("volumes/v/{name}"))
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .collect()
}

async fn read(store: &dyn ObjectStore, at: &Path) -> Result<Bytes> {
    store.get(at).await?.bytes().await
}

/// Sizes around every border that there is.
fn sizes() -> Vec<u64> {
    let mut all = vec![0, 1, 2, 15, 16, 17, 39, 40, 41, 1000];
    for frames in 1..=3 {
        all.extend([frames * FRAME - 1, frames * FRAME, frames * FRAME + 1, frames * FRAME + 16, frames * FRAME + 17]);
    }
    all
}

fn ranges(size: u64) -> Vec<GetRange> {
    let points =
        [0, 1, FRAME - 1, FRAME, FRAME + 1, 2 * FRAME - 1, 2 * FRAME, size / 2, size.saturating_sub(1), size, size + 1, size + FRAME];
    let mut all = Vec::new();
    for a in points {
        all.push(GetRange::Offset(a));
        all.push(GetRange::Suffix(a));
        all.extend(points.iter().map(|b| GetRange::Bounded(a..*b)));
    }
    all.push(GetRange::Suffix(u64::MAX));
    all.push(GetRange::Bounded(0..u64::MAX));
    all
}

/// An answer as far as a caller can tell it from another.
async fn answer(store: &dyn ObjectStore, at: &Path, range: &GetRange) -> Option<(Bytes, std::ops::Range<u64>, u64)> {
    let options = GetOptions { range: Some(range.clone()), ..GetOptions::default() };
    let got = store.get_opts(at, options).await.ok()?;
    let (range, size) = (got.range.clone(), got.meta.size);
    Some((got.bytes().await.expect("a good answer has its bytes"), range, size))
}

#[tokio::test]
async fn every_size_and_range_answers_as_an_unsealed_twin() {
    let folder = tempfile::tempdir().expect("temp folder");
    let folder = crate::open(url::Url::from_directory_path(folder.path()).expect("absolute").as_str()).expect("opens");
    for below in [Arc::new(InMemory::new()) as Arc<dyn ObjectStore>, folder] {
        let keys = Arc::new(std::sync::Mutex::new(Some(keys())));
        let sealed = Seal::wrap(below.clone(), "volumes/v", keys.lock().expect("free").take().expect("once"));
        let twin = InMemory::new();
        let mut compared = 0;
        for size in sizes() {
            let (path, body) = (at(&format!("packs/{size}")), pattern(size as usize, size));
            sealed.put(&path, body.clone().into()).await.expect("puts");
            twin.put(&path, body.into()).await.expect("puts");
            assert_eq!(sealed.head(&path).await.expect("is there").size, size);
            assert_eq!(below.head(&path).await.expect("is there").size, sealed_size(size));
            assert_eq!(read(&*sealed, &path).await.expect("reads"), read(&twin, &path).await.expect("reads"), "{size}");
            for range in ranges(size) {
                let expected = answer(&twin, &path, &range).await;
                // As known, and as met for the first time.
                for fresh in [false, true] {
                    if fresh {
                        sealed.inner.headers.forget(path.as_ref());
                    }
                    assert_eq!(answer(&*sealed, &path, &range).await, expected, "{size} bytes, {range:?}, fresh {fresh}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 5_000, "only {compared} answers were compared");
        let mut listed: Vec<_> = sealed.list(None).map_ok(|m| (m.location, m.size)).try_collect().await.expect("lists");
        let mut expected: Vec<_> = twin.list(None).map_ok(|m| (m.location, m.size)).try_collect().await.expect("lists");
        listed.sort();
        expected.sort();
        assert_eq!(listed, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parts_of_any_size_give_the_same_object() {
    let (below, sealed) = pair();
    let mut seed = 1u64;
    for round in 0..12u64 {
        let path = at(&format!("meta/{round}"));
        let (mut whole, mut sent) = (Vec::new(), Vec::new());
        let mut upload = sealed.put_multipart(&path).await.expect("begins");
        for part in 0..round % 6 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Exactly the smallest part, a multiple of frames, odd ones, tiny ones.
            let len = match (round + part) % 4 {
                0 => 5 << 20,
                1 => (seed >> 40) as usize % (6 << 20) + (5 << 20),
                2 => (3 * FRAME) as usize,
                _ => (seed >> 40) as usize % 1000,
            };
            let body = pattern(len, seed);
            whole.extend_from_slice(&body);
            sent.push(upload.put_part(body.into()));
        }
        // They may be waited for in any order.
        sent.reverse();
        futures::future::try_join_all(sent).await.expect("sends");
        assert!(below.head(&path).await.is_err(), "visible before its end");
        upload.complete().await.expect("ends");
        assert_eq!(sealed.head(&path).await.expect("is there").size, whole.len() as u64);
        assert!(read(&*sealed, &path).await.expect("reads") == whole, "round {round}: other bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_reach_the_store_are_of_one_size_and_large_enough() {
    #[derive(Debug, Default)]
    struct Sizes(std::sync::Mutex<Vec<u64>>);
    #[async_trait]
    impl crate::wrap::Hook for Sizes {
        async fn before(&self, op: &crate::wrap::Op) -> Result<()> {
            if let crate::wrap::Op::Part { len, .. } = op {
                self.0.lock().expect("free").push(*len);
            }
            Ok(())
        }
    }
    for part in [5 << 20, 8 << 20, (5 << 20) + 7] {
        let below = crate::wrap::Hooked::new(Arc::new(InMemory::new()), Arc::new(Sizes::default()));
        let sealed = Seal::wrap(below.clone(), "volumes/v", keys());
        let mut upload = sealed.put_multipart(&at("packs/x")).await.expect("begins");
        for n in 0..4 {
            upload.put_part(pattern(part, n).into()).await.expect("sends");
        }
        upload.complete().await.expect("ends");
        let sizes = below.hook().0.lock().expect("free").clone();
        let (last, others) = sizes.split_last().expect("parts were sent");
        assert!(others.len() >= 3 && others.iter().all(|s| *s == part as u64) && *last < 2 * part as u64, "{sizes:?}");
        assert_eq!(sizes.iter().sum::<u64>(), sealed_size(4 * part as u64));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_given_up_leaves_nothing_and_ends_its_parts() {
    let (below, sealed) = pair();
    let mut upload = sealed.put_multipart(&at("packs/x")).await.expect("begins");
    let part = upload.put_part(pattern(12 << 20, 1).into());
    upload.abort().await.expect("gives up");
    let _ = tokio::time::timeout(std::time::Duration::from_secs(10), part).await.expect("a part of it waits for ever");
    assert_eq!(below.list(None).count().await, 0);
}

#[tokio::test]
async fn every_flipped_byte_and_every_cut_is_found() {
    let (below, sealed) = pair();
    for size in [0u64, 1, 50] {
        let path = at("log/1");
        sealed.put(&path, pattern(size as usize, 9).into()).await.expect("puts");
        let good = read(&*below, &path).await.expect("reads");
        assert_eq!(good.len() as u64, sealed_size(size));
        let mut bad: Vec<(String, Vec<u8>)> = Vec::new();
        for n in 0..good.len() {
            for bit in [1u8, 0x80] {
                let mut bytes = good.to_vec();
                bytes[n] ^= bit;
                bad.push((format!("byte {n} changed by {bit}"), bytes));
            }
            bad.push((format!("cut at {n}"), good[..n].to_vec()));
        }
        for more in [1usize, 16, 17, 4096] {
            bad.push((format!("{more} bytes more"), [&good[..], &vec![0; more]].concat()));
        }
        for (what, bytes) in bad {
            below.put(&path, bytes.into()).await.expect("puts");
            let e = read(&*sealed, &path).await.expect_err(&what);
            let broken = BrokenSeal::find(&e).unwrap_or_else(|| panic!("{size} bytes, {what}: {e}"));
            assert_eq!(broken.path, path.to_string());
            assert!(!slatedb_common::retry::should_retry(&e), "{what} is retried");
            assert_eq!(crate::error("reading", &e).kind, orlop_model::ErrorKind::Corrupt, "{what}");
            let tail = GetOptions { range: Some(GetRange::Suffix(1)), ..GetOptions::default() };
            if size > 0
                && let Ok(got) = sealed.get_opts(&path, tail).await
            {
                assert!(got.bytes().await.is_err(), "{size} bytes, {what}: the last byte was returned");
            }
            // Nobody is told that it is empty, unless it is.
            if let Ok(head) = sealed.head(&path).await {
                assert!(head.size > 0, "{size} bytes, {what}: head says that it is empty");
            }
            let listed: Vec<_> = sealed.list(None).try_collect().await.expect("lists");
            assert!(listed[0].size > 0, "{size} bytes, {what}: listed as empty");
        }
    }
}

#[tokio::test]
async fn frames_objects_and_kinds_cannot_be_exchanged() {
    let (below, sealed) = pair();
    let (a, b) = (at("packs/a"), at("packs/b"));
    let body = vec![0u8; 3 * FRAME as usize];
    for path in [&a, &b] {
        sealed.put(path, body.clone().into()).await.expect("puts");
    }
    let (of_a, of_b) = (read(&*below, &a).await.expect("reads"), read(&*below, &b).await.expect("reads"));
    let (h, f) = (HEADER as usize, SEALED_FRAME as usize);
    let (one, two, three) = (h..h + f, h + f..h + 2 * f, h + 2 * f..h + 3 * f);
    let cases = [
        ("two frames exchanged", [&of_a[..h], &of_a[two.clone()], &of_a[one.clone()], &of_a[three.clone()]].concat()),
        ("the end cut at a frame", of_a[..h + 2 * f].to_vec()),
        ("a frame left out", [&of_a[..h + f], &of_a[three.clone()]].concat()),
        ("a frame twice", [&of_a[..], &of_a[three.clone()]].concat()),
        ("a frame of another object", [&of_a[..h], &of_b[one], &of_a[two], &of_a[three]].concat()),
        ("another object's header", [&of_b[..h], &of_a[h..]].concat()),
    ];
    for (what, bytes) in cases {
        below.put(&a, bytes.into()).await.expect("puts");
        let e = read(&*sealed, &a).await.expect_err(what);
        assert!(BrokenSeal::find(&e).is_some(), "{what}: {e}");
    }
    // As a whole under a name of another kind; under one of its own kind it travels, as clones need it.
    below.put(&at("meta/a"), of_b.clone().into()).await.expect("puts");
    assert!(BrokenSeal::find(&read(&*sealed, &at("meta/a")).await.expect_err("moved")).is_some());
    sealed.copy(&b, &at("packs/c")).await.expect("copies");
    assert_eq!(read(&*below, &at("packs/c")).await.expect("reads"), of_b);
    assert_eq!(read(&*sealed, &at("packs/c")).await.expect("reads"), body);
    sealed.copy(&b, &at("meta/c")).await.expect("copies to another kind");
    assert_eq!(read(&*sealed, &at("meta/c")).await.expect("reads"), body);
    // A parent's file below another volume, as a clone reads it.
    below.copy(&b, &Path::from("volumes/w/packs/b")).await.expect("copies");
    assert_eq!(read(&*sealed, &Path::from("volumes/w/packs/b")).await.expect("reads"), body);
}

#[tokio::test]
async fn nothing_plain_reaches_the_store_and_two_objects_never_look_alike() {
    let (below, sealed) = pair();
    let marker = b"planted-marker-planted-marker";
    for name in ["log/1", "log/2", "owner.json", "meta/deep/er"] {
        sealed.put(&at(name), marker.to_vec().into()).await.expect("puts");
        let raw = read(&*below, &at(name)).await.expect("reads");
        assert!(!raw.windows(8).any(|w| w == &marker[..8]), "{name}");
    }
    let (one, two) = (read(&*below, &at("log/1")).await.expect("reads"), read(&*below, &at("log/2")).await.expect("reads"));
    assert_ne!(one[HEADER as usize..], two[HEADER as usize..]);
    for name in PLAIN {
        sealed.put(&at(name), marker.to_vec().into()).await.expect("puts");
        assert_eq!(read(&*below, &at(name)).await.expect("reads"), &marker[..], "{name}");
        assert_eq!(sealed.head(&at(name)).await.expect("is there").size, marker.len() as u64);
    }
    sealed.put(&at("meta/keys.json"), marker.to_vec().into()).await.expect("puts");
    assert_ne!(read(&*below, &at("meta/keys.json")).await.expect("reads"), &marker[..], "only the volume's own is plain");
}

#[tokio::test]
async fn requests_are_few() {
    let below = Meter::wrap(Arc::new(InMemory::new()));
    let keys = Secret::random();
    let id = KeyId::random();
    let open = || Seal::wrap(below.clone(), "volumes/v", SealKeys::new(id, [(id, &keys)]).expect("there"));
    let writer = open();
    let path = at("packs/x");
    writer.put(&path, pattern(40 * FRAME as usize, 3).into()).await.expect("puts");
    let mut before = below.hook().counts();
    let mut since = || {
        let now = below.hook().counts();
        let passed = (now.reads + now.heads - before.reads - before.heads, now.bytes_read - before.bytes_read);
        before = now;
        passed
    };
    let late = 30 * FRAME..30 * FRAME + 10;
    writer.get_range(&path, late.clone()).await.expect("reads");
    assert_eq!(since(), (1, SEALED_FRAME), "its own object");
    let reader = open();
    reader.get_range(&path, late.clone()).await.expect("reads");
    assert_eq!(since(), (2, HEADER + SEALED_FRAME), "the first range of an object");
    reader.get_range(&path, 3 * FRAME - 1..3 * FRAME + 1).await.expect("reads");
    assert_eq!(since(), (1, 2 * SEALED_FRAME), "the next one");
    let reader = open();
    reader.get_range(&path, 5..10).await.expect("reads");
    assert_eq!(since(), (1, HEADER + SEALED_FRAME), "a first range at the beginning");
    let reader = open();
    reader.get(&path).await.expect("reads").bytes().await.expect("reads");
    assert_eq!(since(), (1, sealed_size(40 * FRAME)), "the whole");
    // Replaced by somebody else: what was known is not used.
    open().put(&path, pattern(40 * FRAME as usize, 4).into()).await.expect("puts");
    let got = reader.get_range(&path, late.clone()).await.expect("reads");
    assert_eq!(got, pattern(40 * FRAME as usize, 4)[late.start as usize..late.end as usize]);
}

#[tokio::test]
async fn what_a_connection_garbles_heals_and_what_is_wrong_for_good_does_not() {
    let below = Arc::new(InMemory::new());
    let fault = Fault::wrap(below, Plan::default());
    let sealed = Seal::wrap(fault.clone(), "volumes/v", keys());
    let (path, body) = (at("packs/x"), pattern(5 * FRAME as usize, 8));
    sealed.put(&path, body.clone().into()).await.expect("puts");
    let (mut healed, mut refused) = (0, 0);
    for seed in 0..60 {
        fault.hook().set(Plan { seed, damage_one_in: Some((4, Damage::Flip)), ..Plan::default() });
        match read(&*sealed, &path).await {
            Ok(bytes) => {
                assert!(bytes == body, "wrong bytes were returned");
                healed += 1;
            }
            Err(e) => {
                assert!(BrokenSeal::find(&e).is_some(), "{e}");
                refused += 1;
            }
        }
    }
    assert!(fault.hook().injected() > 5 && healed > refused, "{} faults, {healed} healed, {refused} refused", fault.hook().injected());
    fault.hook().set(Plan { damage_one_in: Some((1, Damage::Truncate)), ..Plan::default() });
    let e = read(&*sealed, &path).await.expect_err("cut");
    assert!(BrokenSeal::find(&e).is_none(), "an answer that ended early says nothing about the object: {e}");
}

#[tokio::test]
async fn a_key_that_the_ring_does_not_have_is_named() {
    let below = Arc::new(InMemory::new());
    let (one, two) = ((KeyId::random(), Secret::random()), (KeyId::random(), Secret::random()));
    let first = Seal::wrap(below.clone(), "volumes/v", SealKeys::new(one.0, [(one.0, &one.1)]).expect("there"));
    first.put(&at("log/1"), "1".into()).await.expect("puts");
    let both = Seal::wrap(below.clone(), "volumes/v", SealKeys::new(two.0, [(one.0, &one.1), (two.0, &two.1)]).expect("there"));
    assert_eq!(read(&*both, &at("log/1")).await.expect("reads"), "1", "an older key");
    both.put(&at("log/2"), "2".into()).await.expect("puts");
    let e = read(&*first, &at("log/2")).await.expect_err("unknown");
    assert!(e.to_string().contains(&two.0.to_string()), "{e}");
    first.set_keys(SealKeys::new(two.0, [(one.0, &one.1), (two.0, &two.1)]).expect("there"));
    assert_eq!(read(&*first, &at("log/2")).await.expect("reads"), "2");
}

#[tokio::test]
async fn conditions_reach_the_store() {
    let (_, sealed) = pair();
    let path = at("meta/manifest/1");
    let create = PutMode::Create;
    sealed.put_opts(&path, "1".into(), create.clone().into()).await.expect("creates");
    let again = sealed.put_opts(&path, "2".into(), create.into()).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    assert_eq!(read(&*sealed, &path).await.expect("reads"), "1");
}
