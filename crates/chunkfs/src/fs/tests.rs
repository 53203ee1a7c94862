//! States that a volume meets seldom, made by hand: nothing hangs in them, and nothing old comes back.

use super::*;
use crate::ops::attr::set_size;
use crate::testing::{CX, volume};
use crate::tx::Tx;
use crate::types::{BLOCK, FileKind, ROOT_INO, SetAttr};

/// As much changed as nobody may add to.
const MUCH: usize = 1 << 30;

async fn make(fs: &FileSystem, name: &str) -> Ino {
    fs.mknod(&CX, ROOT_INO, name.as_bytes(), FileKind::File, 0o644, 0).await.expect("made").ino
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_compacts_folds_himself_when_changes_have_to_wait_for_a_fold() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let fs = volume(dir.path()).await;
    let ino = make(&fs, "f").await;
    for round in 0..4u8 {
        fs.write(&CX, ino, u64::from(round) * BLOCK, &vec![round; 8 * BLOCK as usize]).await.expect("written");
    }
    fs.fold().await.expect("folded");
    let before = fs.read(ino, 0, 11 * BLOCK as u32).await.expect("read");
    // The one task that folds in the background is the one that compacts: here there is none besides.
    std::mem::take(&mut *fs.background.lock()).iter().for_each(tokio::task::JoinHandle::abort);
    fs.lock().overlay_weight = MUCH;
    let done = tokio::time::timeout(Duration::from_secs(20), fs.compact_all()).await;
    done.expect("it waits for nobody").expect("compacted");
    assert_eq!(fs.read(ino, 0, 11 * BLOCK as u32).await.expect("read"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_read_too_slowly_is_not_taken_for_a_newer_one() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let fs = volume(dir.path()).await;
    let ino = make(&fs, "f").await;
    let key = Key::Inode(ino);
    fs.fold().await.expect("folded");
    let old = fs.ns.get(key).await.expect("read");
    fs.write(&CX, ino, 0, b"longer by this").await.expect("written");
    // While it waits to be folded, and when it was folded and the fold is not yet said to be over.
    for _ in 0..2 {
        fs.lock().learn(key, old.clone());
        assert_eq!(fs.getattr(ino).await.expect("there").size, 14);
        fs.fold().await.expect("folded");
    }
    assert_eq!(fs.lookup(ROOT_INO, b"f").await.expect("there").size, 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_cut_that_an_error_stopped_nothing_old_comes_back() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let fs = volume(dir.path()).await;
    let sized = |size| SetAttr { size: Some(size), ..SetAttr::default() };
    for name in ["written", "whole blocks", "resized"] {
        let ino = make(&fs, name).await;
        let places = [0, 40 << 20, 90 << 20];
        for at in places {
            fs.write(&CX, ino, at, &[7; BLOCK as usize]).await.expect("written");
        }
        // The shortening is committed, and what it begins is not brought to its end.
        let (_, more) = fs.run(|st| set_size(Tx::of(st, &CX), &CX, ino, 0, &sized(0), None)).await.expect("cut");
        assert!(more, "too much for one record");
        fs.half_cut.lock().insert(ino);
        let end = 100 << 20;
        match name {
            "written" => fs.write(&CX, ino, end - 1, b"x").await.map(drop),
            "whole blocks" => fs.write(&CX, ino, end - BLOCK, &[1; BLOCK as usize]).await.map(drop),
            _ => fs.setattr(&CX, ino, &sized(end)).await.map(drop),
        }
        .expect("grown");
        for at in places {
            let got = fs.read(ino, at, BLOCK as u32).await.expect("read");
            assert!(got.iter().all(|b| *b == 0), "{name}: at {at} stands what was cut off");
        }
        assert!(fs.half_cut.lock().is_empty());
    }
    fs.close().await.expect("closed");
}
