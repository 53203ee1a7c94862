//! Keys on disk and in the store: killed at any step nothing is lost, wrong or damaged ones are named, nothing is shown.

use super::master::{MasterKeys, Rotation};
use super::ring::{add_key, create_ring, read_ring, rewrap, ring_path, shred};
use super::volume::{create_volume_store, sealed_store, volume_store};
use crate::wrap::{Fault, Plan, Record};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use orlop_model::{ErrorKind, StoreSpec};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

const PREFIX: &str = "volumes/7f000000-0000-4000-8000-000000000001";

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temp folder");
    assert!(MasterKeys::ensure(dir.path()).expect("makes a key"));
    dir
}

fn load(dir: &tempfile::TempDir) -> MasterKeys {
    MasterKeys::load(dir.path()).expect("loads")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("is there").permissions().mode() & 0o777
}

fn copy_folder(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("temp folder");
    for entry in fs::read_dir(from).expect("reads") {
        let path = entry.expect("reads").path();
        fs::copy(&path, to.path().join(path.file_name().expect("has one"))).expect("copies");
    }
    to
}

#[test]
fn the_first_key_is_made_once_for_its_owner_only() {
    let dir = folder();
    let path = dir.path().join("master.key");
    assert_eq!(mode(&path), 0o600);
    let before = fs::read_to_string(&path).expect("reads");
    assert!(!MasterKeys::ensure(dir.path()).expect("is there"));
    assert_eq!(fs::read_to_string(&path).expect("reads"), before);
    assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 1, "a draft was left");
    let keys = load(&dir);
    assert!(before.contains(&keys.current().id().to_string()));
    assert!(!keys.was_exported(dir.path()));
    keys.note_export(dir.path()).expect("notes");
    assert!(keys.was_exported(dir.path()));
}

#[test]
fn every_wrong_digit_is_found_and_none_is_repeated() {
    let dir = folder();
    let path = dir.path().join("master.key");
    let text = fs::read_to_string(&path).expect("reads");
    let secret = text.lines().nth(2).expect("the key's line").trim_start_matches("key ").to_owned();
    for (at, c) in text.char_indices().filter(|(_, c)| c.is_ascii_hexdigit()) {
        let mut wrong = text.clone();
        wrong.replace_range(at..=at, if c == '0' { "1" } else { "0" });
        fs::write(&path, &wrong).expect("writes");
        let Err(e) = MasterKeys::load(dir.path()) else { panic!("a wrong digit at {at} was taken") };
        assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
        assert!(e.remedy.is_some() && e.message.contains("master.key"), "{e}");
        let shown = format!("{e} {e:?}");
        assert!(!secret.as_bytes().windows(8).any(|w| shown.contains(std::str::from_utf8(w).expect("digits"))), "{shown}");
    }
    for cut in 0..text.len() - 1 {
        fs::write(&path, &text[..cut]).expect("writes");
        assert!(MasterKeys::load(dir.path()).is_err(), "cut at {cut}");
    }
    fs::write(&path, format!("# a remark\n\n{text}")).expect("writes");
    assert_eq!(load(&dir).export().matches(&secret).count(), 1);
}

#[test]
fn a_file_that_others_can_read_is_refused() {
    let dir = folder();
    let path = dir.path().join("master.key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("sets");
    let e = MasterKeys::load(dir.path()).expect_err("refused");
    assert!(e.kind == ErrorKind::Denied && e.remedy.as_ref().is_some_and(|r| r.contains("chmod 600")), "{e}");
    fs::remove_file(&path).expect("removes");
    let e = MasterKeys::load(dir.path()).expect_err("absent");
    assert!(e.kind == ErrorKind::NotFound && e.remedy.is_some(), "{e}");
}

#[test]
fn an_export_opens_by_itself_and_overwrites_nothing() {
    let dir = folder();
    MasterKeys::rotate(dir.path()).expect("rotates");
    let keys = load(&dir);
    let out = tempfile::tempdir().expect("temp folder");
    let file = out.path().join("backup.key");
    keys.export_to(&file).expect("writes");
    assert_eq!(mode(&file), 0o600);
    let again = MasterKeys::from_file(&file).expect("reads");
    let ids = |k: &MasterKeys| k.all().map(super::MasterKey::id).collect::<Vec<_>>();
    assert_eq!(ids(&again), ids(&keys));
    assert_eq!(ids(&again).len(), 2);
    let e = keys.export_to(&file).expect_err("exists");
    assert_eq!(e.kind, ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn a_ring_opens_only_whole_for_its_volume_and_with_its_master() {
    let (dir, store) = (folder(), Arc::new(InMemory::new()));
    let masters = load(&dir);
    create_ring(&*store, PREFIX, &masters).await.expect("makes");
    let (ring, _) = read_ring(&*store, PREFIX).await.expect("reads");
    create_ring(&*store, PREFIX, &masters).await.expect("is there");
    assert_eq!(read_ring(&*store, PREFIX).await.expect("reads").0, ring, "a second create changed it");

    let good = store.get(&ring_path(PREFIX)).await.expect("gets").bytes().await.expect("reads");
    for at in 0..good.len() {
        for bit in [1u8, 4, 0x20, 0x80] {
            let mut bad = good.to_vec();
            bad[at] ^= bit;
            store.put(&ring_path(PREFIX), bad.into()).await.expect("puts");
            assert!(sealed_store(store.clone(), PREFIX, &masters).await.is_err(), "byte {at} changed by {bit} was taken");
        }
        store.put(&ring_path(PREFIX), good.slice(..at).into()).await.expect("puts");
        assert!(sealed_store(store.clone(), PREFIX, &masters).await.is_err(), "cut at {at}");
    }
    store.put(&ring_path(PREFIX), good.clone().into()).await.expect("puts");
    sealed_store(store.clone(), PREFIX, &masters).await.expect("opens");

    let other = "volumes/7f000000-0000-4000-8000-000000000002";
    store.put(&ring_path(other), good.clone().into()).await.expect("puts");
    assert_eq!(sealed_store(store.clone(), other, &masters).await.expect_err("another volume's").kind, ErrorKind::Corrupt);

    let stranger = folder();
    let e = sealed_store(store.clone(), PREFIX, &load(&stranger)).await.expect_err("another master");
    let wanted = masters.current().id().to_string();
    assert!(e.kind == ErrorKind::Denied && e.message.contains(&wanted), "{e}");
    let remedy = e.remedy.expect("has one");
    assert!(remedy.contains(&format!("other-{wanted}.key")), "{remedy}");
    // The remedy is one.
    let put_back = stranger.path().join(format!("other-{wanted}.key"));
    fs::copy(dir.path().join("master.key"), put_back).expect("copies");
    sealed_store(store.clone(), PREFIX, &load(&stranger)).await.expect("opens with the key put back");

    shred(&*store, PREFIX).await.expect("shreds");
    shred(&*store, PREFIX).await.expect("again");
    assert_eq!(sealed_store(store, PREFIX, &masters).await.expect_err("shredded").kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_key_taken_out_or_made_current_again_is_found_out() {
    let (dir, store) = (folder(), Arc::new(InMemory::new()));
    let masters = load(&dir);
    create_ring(&*store, PREFIX, &masters).await.expect("makes");
    let first = read_ring(&*store, PREFIX).await.expect("reads").0.current;
    let second = add_key(&*store, PREFIX, &masters).await.expect("adds");
    let (ring, _) = read_ring(&*store, PREFIX).await.expect("reads");
    assert!(ring.current == second && ring.keys.len() == 2 && first != second);
    let mut back = ring.clone();
    back.current = first;
    let mut fewer = ring.clone();
    fewer.keys.remove(0);
    for bad in [back, fewer] {
        store.put(&ring_path(PREFIX), serde_json::to_vec(&bad).expect("is JSON").into()).await.expect("puts");
        assert_eq!(sealed_store(store.clone(), PREFIX, &masters).await.expect_err("refused").kind, ErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn a_new_key_seals_new_objects_and_old_ones_stay_readable() {
    let (dir, store) = (folder(), Arc::new(InMemory::new()));
    let masters = load(&dir);
    create_ring(&*store, PREFIX, &masters).await.expect("makes");
    let path = |n: &str| StorePath::from(format!("{PREFIX}/packs/{n}"));
    let before = sealed_store(store.clone(), PREFIX, &masters).await.expect("opens");
    before.put(&path("1"), "old".into()).await.expect("puts");
    let id = add_key(&*store, PREFIX, &masters).await.expect("adds");
    let after = sealed_store(store.clone(), PREFIX, &masters).await.expect("opens");
    after.put(&path("2"), "new".into()).await.expect("puts");
    for (name, text) in [("1", "old"), ("2", "new")] {
        assert_eq!(after.get(&path(name)).await.expect("gets").bytes().await.expect("reads"), text);
    }
    let raw = store.get(&path("2")).await.expect("gets").bytes().await.expect("reads");
    assert_eq!(raw[16..24], id.0);
}

#[tokio::test]
async fn a_rotation_killed_at_any_step_is_finished_later_and_loses_nothing() {
    let (dir, below) = (folder(), Arc::new(InMemory::new()));
    let first = load(&dir).current().id();
    for n in 1..=3 {
        let prefix = format!("volumes/7f000000-0000-4000-8000-00000000000{n}");
        create_ring(&*below, &prefix, &load(&dir)).await.expect("makes");
        let store = sealed_store(below.clone(), &prefix, &load(&dir)).await.expect("opens");
        store.put(&StorePath::from(format!("{prefix}/log/1")), "kept".into()).await.expect("puts");
    }
    let record = Record::wrap(below.clone());
    let prefixes: Vec<String> = (1..=3).map(|n| format!("volumes/7f000000-0000-4000-8000-00000000000{n}")).collect();
    let readable = async |store: Arc<InMemory>, dir: &Path, when: &str| {
        let masters = MasterKeys::load(dir).expect("loads");
        for prefix in &prefixes {
            let sealed = sealed_store(store.clone(), prefix, &masters).await.unwrap_or_else(|e| panic!("{when}: {e}"));
            let got = sealed.get(&StorePath::from(format!("{prefix}/log/1"))).await.expect("gets").bytes().await.expect("reads");
            assert_eq!(got, "kept", "{when}");
        }
    };
    // Killed before the new key is current: one prepared, then one of the two names made.
    let killed = copy_folder(dir.path());
    let spare = folder();
    fs::copy(spare.path().join("master.key"), killed.path().join("next.key")).expect("copies");
    readable(below.clone(), killed.path(), "with a prepared key").await;
    assert!(MasterKeys::rotation_is_open(killed.path()));
    fs::hard_link(killed.path().join("master.key"), killed.path().join(format!("old-{first}.key"))).expect("links");
    readable(below.clone(), killed.path(), "with the old name").await;
    let (keys, how) = MasterKeys::rotate(killed.path()).expect("goes on");
    assert_eq!((keys.current().id(), how), (load(&spare).current().id(), Rotation::Resumed));
    readable(below.clone(), killed.path(), "exchanged").await;

    // Killed after each ring.
    let (keys, how) = MasterKeys::rotate(dir.path()).expect("rotates");
    assert_eq!(how, Rotation::Started);
    let second = keys.current().id();
    for (done, prefix) in prefixes.iter().enumerate() {
        readable(below.clone(), dir.path(), &format!("{done} rings done")).await;
        let (again, how) = MasterKeys::rotate(dir.path()).expect("goes on");
        assert_eq!((again.current().id(), how), (second, Rotation::Resumed));
        // Too early to retire: the others need it.
        let named: BTreeSet<_> = futures::future::join_all(prefixes.iter().map(|p| read_ring(&*record, p)))
            .await
            .into_iter()
            .flat_map(|r| r.expect("reads").0.keys)
            .map(|k| k.master)
            .collect();
        assert!(MasterKeys::retire(dir.path(), &named).expect("keeps").is_empty());
        assert!(rewrap(&*record, prefix, &again).await.expect("wraps"));
        assert!(!rewrap(&*record, prefix, &again).await.expect("is wrapped"), "wrapped twice");
    }
    assert_eq!(record.hook().log().len(), 3, "one replacement a ring");
    assert_eq!(MasterKeys::retire(dir.path(), &BTreeSet::from([second])).expect("retires"), [first]);
    assert!(!MasterKeys::rotation_is_open(dir.path()));
    readable(below.clone(), dir.path(), "done").await;
    assert_eq!(MasterKeys::rotate(dir.path()).expect("rotates again").1, Rotation::Started);
}

#[tokio::test]
async fn a_lost_answer_does_not_wrap_or_add_twice() {
    let (dir, below) = (folder(), Arc::new(InMemory::new()));
    create_ring(&*below, PREFIX, &load(&dir)).await.expect("makes");
    let (keys, _) = MasterKeys::rotate(dir.path()).expect("rotates");
    let fault = Fault::wrap(below.clone(), Plan { lose_answer: Some(1), ..Plan::default() });
    assert!(rewrap(&*fault, PREFIX, &keys).await.is_err());
    assert!(!rewrap(&*fault, PREFIX, &keys).await.expect("was made"));
    sealed_store(below, PREFIX, &keys).await.expect("opens");
}

#[tokio::test]
async fn a_volumes_store_is_sealed_if_asked_and_as_it_is_if_not() {
    let (dir, data) = (folder(), tempfile::tempdir().expect("temp folder"));
    let spec = StoreSpec::new(url::Url::from_directory_path(data.path()).expect("absolute").to_string());
    crate::make_folder(&spec).expect("makes");
    let at = StorePath::from(format!("{PREFIX}/packs/x"));
    let marker = "planted-marker";
    let sealed = create_volume_store(&spec, PREFIX, dir.path(), true).await.expect("makes");
    sealed.put(&at, marker.into()).await.expect("puts");
    let on_disk = fs::read(data.path().join(at.as_ref())).expect("reads");
    assert!(!on_disk.windows(marker.len()).any(|w| w == marker.as_bytes()));
    let again = volume_store(&spec, PREFIX, dir.path(), true).await.expect("opens");
    assert!(again.keys.is_some(), "its files on a host are sealed too");
    assert_eq!(again.store.get(&at).await.expect("gets").bytes().await.expect("reads"), marker);
    let e = volume_store(&spec, PREFIX, Path::new("/nonexistent"), true).await.expect_err("there is no key");
    let wanted = load(&dir).current().id().to_string();
    assert!(e.kind == ErrorKind::NotFound && e.message.contains(&wanted), "{e}");
    let plain = volume_store(&spec, PREFIX, Path::new("/nonexistent"), false).await.expect("needs no keys");
    assert!(plain.keys.is_none());
    assert_eq!(plain.store.get(&at).await.expect("gets").bytes().await.expect("reads"), on_disk);
    shred(&*plain.store, PREFIX).await.expect("shreds");
    assert_eq!(volume_store(&spec, PREFIX, dir.path(), true).await.expect_err("shredded").kind, ErrorKind::NotFound);
}
