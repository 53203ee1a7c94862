//! What survives closing, a killed process, folding and compaction.

use crate::world::World;
use orlop_chunkfs::{Caller, FileKind, FileSystem, ROOT_INO};

const CX: Caller = Caller { uid: 0, gid: 0, request: 0, keeps_times: false };

/// Files in a folder of the volume's state, with their lengths.
fn files(w: &World, folder: &str) -> Vec<(String, u64)> {
    let dir = std::fs::read_dir(w.state_dir().join(folder)).expect("there").map(|e| e.expect("entry"));
    dir.map(|e| (e.file_name().into_string().expect("ASCII"), e.metadata().expect("there").len())).collect()
}

async fn fill(fs: &FileSystem, n: u32) {
    for i in 0..n {
        let f = fs.mknod(&CX, ROOT_INO, format!("f{i}").as_bytes(), FileKind::File, 0o644, 0).await.expect("made");
        let data: Vec<u8> = (0..1000 + i * 37).map(|b| (b ^ i) as u8).collect();
        fs.write(&CX, f.ino, 0, &data).await.expect("written");
        fs.write(&CX, f.ino, 10, &i.to_le_bytes()).await.expect("written");
        fs.forget(f.ino, 1);
    }
}

async fn verify(fs: &FileSystem, n: u32) {
    for i in 0..n {
        let f = fs.lookup(ROOT_INO, format!("f{i}").as_bytes()).await.expect("there");
        let mut data: Vec<u8> = (0..1000 + i * 37).map(|b| (b ^ i) as u8).collect();
        data[10..14].copy_from_slice(&i.to_le_bytes());
        assert!(fs.read(f.ino, 0, 1 << 20).await.expect("read") == data, "f{i}");
        fs.forget(f.ino, 1);
    }
    assert_eq!(fs.check(true).await.expect("checked").problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_volume_opens_as_it_was() {
    let (w, fs) = World::new().await;
    fill(&fs, 200).await;
    fs.close().await.expect("closed");
    assert!(fs.mkdir(&CX, ROOT_INO, b"late", 0o755).await.is_err());
    let fs = w.open().await;
    verify(&fs, 200).await;
    fs.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_nothing() {
    let (w, fs) = World::new().await;
    fill(&fs, 200).await;
    fs.abandon().await;
    for _ in 0..3 {
        let fs = w.open().await;
        verify(&fs, 200).await;
        fs.abandon().await;
    }
}

/// A file that is synced again and again, as a database's log is: its few bytes go where one sync takes all of them along.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_synced_often_lies_in_the_journal_until_a_fold_and_survives() {
    let (w, mut fs) = World::new().await;
    let staged = || files(&w, "staged").iter().map(|(_, len)| len).sum::<u64>();
    let ino = fs.mknod(&CX, ROOT_INO, b"log", FileKind::File, 0o644, 0).await.expect("made").ino;
    let mut expected: Vec<u8> = vec![7; 3 << 12];
    fs.write(&CX, ino, 0, &expected).await.expect("written");
    fs.fsync(ino, true).await.expect("synced");
    let before = staged();
    assert!(before > 3 << 12, "a first write goes to a segment");
    // Whole blocks, parts, both, over what is there, behind its end, and with a gap.
    let writes = [(3 << 12, 4096), (4 << 12, 16384), (100, 50), (4090, 5000), (8192, 4096), (50_000, 4097), (60_000, 1), (4096, 12288)];
    for round in 0..3u8 {
        for (n, (offset, length)) in writes.iter().enumerate() {
            let data: Vec<u8> = (0..*length).map(|b| (b as u8).wrapping_mul(31) ^ (round * 8 + n as u8)).collect();
            fs.write(&CX, ino, *offset as u64, &data).await.expect("written");
            fs.fsync(ino, true).await.expect("synced");
            expected.resize(expected.len().max(offset + length), 0);
            expected[*offset..offset + length].copy_from_slice(&data);
            assert!(fs.read(ino, 0, 1 << 20).await.expect("read") == expected, "round {round}, write {n}");
        }
        if round == 0 {
            assert_eq!(staged(), before, "nothing of it went to a segment");
        }
        fs.abandon().await;
        fs = w.open().await;
        assert!(fs.read(ino, 0, 1 << 20).await.expect("read") == expected, "killed after round {round}");
        fs.fsync(ino, true).await.expect("synced");
    }
    let used = fs.usage().used_bytes;
    assert_eq!(used, 11 * 4096, "each block counts once, the gap not at all");
    fs.close().await.expect("closed");
    let fs = w.open().await;
    assert!(fs.read(ino, 0, 1 << 20).await.expect("read") == expected, "closed, so folded");
    assert_eq!(fs.usage().used_bytes, used);
    assert_eq!(fs.check(true).await.expect("checked").problems, Vec::<String>::new());
}

/// Small writes that are pending go to a segment when there are many; that one has to be opened meanwhile is nothing special.
#[tokio::test(flavor = "multi_thread")]
async fn small_writes_move_to_a_segment_that_ends_among_them() {
    const SEGMENT: u64 = 16384;
    let (w, fs) = World::new().await;
    let segments = || files(&w, "staged").len();
    let ino = fs.mknod(&CX, ROOT_INO, b"f", FileKind::File, 0o644, 0).await.expect("made").ino;
    // All but 100 blocks of the first segment.
    for at in (0..SEGMENT - 256).step_by(256) {
        fs.write(&CX, ino, at * 4096, &[1; 1 << 20]).await.expect("written");
    }
    fs.write(&CX, ino, (SEGMENT - 256) * 4096, &[1; 156 << 12]).await.expect("written");
    assert_eq!(segments(), 1);
    for block in 0..2100 {
        fs.write(&CX, ino, block * 4096 + 7, &[2; 5]).await.expect("written");
    }
    assert_eq!(segments(), 2, "they began in the first and ended in another");
    fs.abandon().await;
    let fs = w.open().await;
    for block in [0, 99, 100, 255, 256, 2048, 2049, 2099] {
        let page = fs.read(ino, block * 4096, 4096).await.expect("read");
        assert!(page[..7] == [1; 7] && page[7..12] == [2; 5] && page[12..] == [1; 4084], "block {block}");
    }
    assert_eq!(fs.check(true).await.expect("checked").problems, Vec::<String>::new());
    fs.close().await.expect("closed");
}

/// A journal that is synced often is filled with zeros ahead of its frames: they are the remains of nothing, and go in time.
#[tokio::test(flavor = "multi_thread")]
async fn zeros_ahead_of_a_journal_are_no_damage() {
    let (w, mut fs) = World::new().await;
    let files = || files(&w, "journal");
    let ino = fs.mknod(&CX, ROOT_INO, b"log", FileKind::File, 0o644, 0).await.expect("made").ino;
    let mut expected = Vec::new();
    for round in 0..3u8 {
        for n in 0..200u8 {
            // Small ones, and now and then one that reaches behind all zeros.
            let data = vec![n ^ round; if n % 90 == 80 { 300_000 } else { 3000 }];
            fs.write(&CX, ino, expected.len() as u64, &data).await.expect("written");
            fs.fsync(ino, false).await.expect("synced");
            expected.extend_from_slice(&data);
        }
        assert!(files().iter().any(|(_, len)| *len > 500_000), "{:?}", files());
        assert_eq!(fs.check(true).await.expect("checked").problems, Vec::<String>::new());
        fs.abandon().await;
        assert!(files().iter().all(|(name, _)| name.ends_with(".journal")), "{:?}", files());
        fs = w.open().await;
        assert!(fs.read(ino, 0, u32::MAX).await.expect("read") == expected, "after round {round}");
        assert!(files().iter().all(|(name, _)| name.ends_with(".journal")), "nothing was cut off: {:?}", files());
        assert_eq!(fs.check(true).await.expect("checked").problems, Vec::<String>::new());
    }
    fs.close().await.expect("closed");
    assert!(files().iter().all(|(_, len)| *len < 256), "a header and a marker are left: {:?}", files());
}

/// Each successor of a killed process reads the whole journal: it may not grow from one to the next without an end.
#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_the_journal_stays_short() {
    let (w, mut fs) = World::new().await;
    let journal = || files(&w, "journal").iter().map(|(_, len)| len).sum::<u64>();
    let file = fs.mknod(&CX, ROOT_INO, b"f", FileKind::File, 0o644, 0).await.expect("made");
    let mut longest = 0;
    for round in 0..6u64 {
        for n in 0..12_000u64 {
            fs.write(&CX, file.ino, 0, &(round * 12_000 + n).to_le_bytes()).await.expect("written");
        }
        longest = longest.max(journal());
        fs.abandon().await;
        fs = w.open().await;
        let last = fs.read(file.ino, 0, 8).await.expect("read");
        assert_eq!(last[..], (round * 12_000 + 11_999).to_le_bytes(), "round {round}");
    }
    let grown = journal();
    // Two rounds fill a journal; six of them would make three times as much.
    assert!(longest > 1 << 20 && grown * 2 < longest * 3, "{longest} bytes at most, {grown} in the end");
    let one = longest;
    for n in 0..12_000u64 {
        fs.write(&CX, file.ino, 0, &n.to_le_bytes()).await.expect("written");
    }
    assert!(journal() <= one + (1 << 20), "still: {} bytes", journal());
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_moves_blocks_and_keeps_contents() {
    let (w, fs) = World::new().await;
    fill(&fs, 100).await;
    fs.close().await.expect("closed");
    let fs = w.open().await;
    for _ in 0..3 {
        fill_again(&fs, 100).await;
        fs.compact_all().await.expect("compacted");
    }
    verify(&fs, 100).await;
    fs.abandon().await;
    let fs = w.open().await;
    verify(&fs, 100).await;
    let staged = files(&w, "staged").len();
    assert!(staged <= 3, "{staged} staged files are left");
}

async fn fill_again(fs: &FileSystem, n: u32) {
    for i in 0..n {
        let f = fs.lookup(ROOT_INO, format!("f{i}").as_bytes()).await.expect("there");
        let data: Vec<u8> = (0..1000 + i * 37).map(|b| (b ^ i) as u8).collect();
        fs.write(&CX, f.ino, 0, &data).await.expect("written");
        fs.write(&CX, f.ino, 10, &i.to_le_bytes()).await.expect("written");
        fs.forget(f.ino, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_kept_out() {
    let (w, fs) = World::new().await;
    let e = FileSystem::open(w.config()).await.expect_err("refused");
    assert_eq!(e.kind, orlop_model::ErrorKind::Busy);
    fs.close().await.expect("closed");
    w.open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_an_error_and_never_wrong_bytes() {
    let (w, fs) = World::new().await;
    let f = fs.mknod(&CX, ROOT_INO, b"f", FileKind::File, 0o644, 0).await.expect("made");
    fs.write(&CX, f.ino, 0, &[5; 8192]).await.expect("written");
    fs.close().await.expect("closed");
    let staged = w.state_dir().join("staged");
    let path = std::fs::read_dir(&staged).expect("there").next().expect("one").expect("read").path();
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[4096 + 5000] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let fs = w.open().await;
    assert!(matches!(fs.read(f.ino, 4096, 10).await, Err(orlop_chunkfs::FsError::Corrupt(_))));
    assert_eq!(fs.read(f.ino, 0, 4096).await.expect("the other block").len(), 4096);
    assert_eq!(fs.check(true).await.expect("checked").problems.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_or_foreign_volume_is_refused_and_unchanged() {
    let (w, fs) = World::new().await;
    fs.close().await.expect("closed");
    let c = w.config();
    let path = object_store::path::Path::from(format!("{}/volume.json", c.prefix));
    use object_store::ObjectStoreExt;
    for (text, kind) in [
        (r#"{"format":99}"#, orlop_model::ErrorKind::Unsupported),
        ("not json", orlop_model::ErrorKind::Corrupt),
        (r#"{"format":2,"volume":"00000000-0000-0000-0000-000000000000"}"#, orlop_model::ErrorKind::Corrupt),
    ] {
        c.store.put(&path, text.into()).await.expect("put");
        let e = FileSystem::open(w.config()).await.expect_err("refused");
        assert_eq!(e.kind, kind, "{e}");
        assert!(e.remedy.is_some());
    }
}
