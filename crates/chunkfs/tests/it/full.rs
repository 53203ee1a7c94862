//! A host's disk that is full: data is refused, names are not, and what is removed can be used again at once.

use crate::disk::{Twist, Twisted};
use crate::world::World;
use orlop_chunkfs::{BLOCK, Caller, FileKind, FileSystem, FsError, Gathering, HostDisk, ROOT_INO, RealDisk};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const CX: Caller = Caller { uid: 0, gid: 0, request: 0, keeps_times: false };
const MIB: u64 = 1 << 20;

/// The real disk, as if it were small: what its folders hold is what is taken.
#[derive(Debug)]
struct Small {
    total: u64,
}

impl Twist for Small {
    fn space(&self, dir: &Path) -> io::Result<(u64, u64)> {
        let mut taken = 0;
        for name in RealDisk.list(dir)? {
            taken += std::fs::metadata(dir.join(name)).map_or(0, |m| m.len());
        }
        Ok((self.total, self.total.saturating_sub(taken)))
    }
}

/// Takes nothing more while the flag is set, as a disk that others have filled.
#[derive(Debug, Default)]
struct Filled(AtomicBool);

impl Twist for Filled {
    fn write(&self, really: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.0.load(Ordering::Acquire) { Err(io::ErrorKind::StorageFull.into()) } else { really() }
    }
}

/// Nobody has it open and nobody asks for it again: it is the volume that must come back to it.
#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_deleted_for_want_of_room_is_deleted_when_there_is_some() {
    let (w, fs) = World::new().await;
    fs.close().await.expect("closed");
    let filled = Arc::new(Filled::default());
    let mut config = w.config();
    config.host = Arc::new(Twisted(filled.clone()));
    let fs = FileSystem::open(config).await.expect("opened");
    let f = fs.mknod(&CX, ROOT_INO, b"big", FileKind::File, 0o644, 0).await.expect("made");
    fs.write(&CX, f.ino, 0, &vec![7u8; 20 * MIB as usize]).await.expect("written");
    fs.unlink(&CX, ROOT_INO, b"big").await.expect("removed, while there was room");
    filled.0.store(true, Ordering::Release);
    fs.forget(f.ino, 1);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(fs.usage().used_bytes >= 20 * MIB, "it was not deleted");
    filled.0.store(false, Ordering::Release);
    let began = Instant::now();
    while fs.usage().used_bytes > 0 {
        assert!(began.elapsed() < Duration::from_secs(15), "{} bytes are still taken", fs.usage().used_bytes);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    fs.close().await.expect("closed");
}

async fn on_a_small_disk() -> (World, Arc<FileSystem>) {
    let (w, fs) = World::new().await;
    fs.close().await.expect("closed");
    let mut config = w.config();
    config.host = Arc::new(Twisted(Arc::new(Small { total: 300 * MIB })));
    let fs = FileSystem::open(config).await.expect("opened");
    (w, fs)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_on_a_full_disk_can_be_used_again() {
    let (_w, fs) = on_a_small_disk().await;
    let block = vec![7u8; MIB as usize];
    for round in 0..3 {
        let f = fs.mknod(&CX, ROOT_INO, b"big", FileKind::File, 0o644, 0).await.expect("made");
        let mut n = 0;
        let refused = loop {
            match fs.write(&CX, f.ino, n * MIB, &block).await {
                Ok(_) => n += 1,
                Err(e) => break e,
            }
        };
        assert_eq!(refused, FsError::NoSpace);
        assert!(n > 200, "round {round}: only {n} MiB fitted");
        fs.mkdir(&CX, ROOT_INO, format!("d{round}").as_bytes(), 0o755).await.expect("names go on");
        assert!(fs.read(f.ino, (n - 1) * MIB, 1 << 20).await.expect("read") == block);
        fs.unlink(&CX, ROOT_INO, b"big").await.expect("removed");
        fs.forget(f.ino, 1);
    }
    // The check wants nobody to change anything meanwhile, the background included.
    for _ in 0..500 {
        if fs.usage().used_bytes == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(fs.check(true).await.expect("checked").problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_were_taken_already_find_the_room_that_was_kept_for_them() {
    let (_w, fs) = on_a_small_disk().await;
    assert_eq!(fs.gathering(100 * MIB), Gathering { most: None, asks: false }, "more is free than it would take");
    let held = fs.gathering(300 * MIB);
    assert!(!held.asks && held.most.is_some_and(|most| most > 15 * MIB && most < 40 * MIB), "{held:?}");
    let shown = [fs.statfs(false), fs.statfs(true)].map(|s| s.expect("asked").free * BLOCK);
    let kept = shown[0] - shown[1];
    assert!((20 * MIB..31 * MIB).contains(&kept), "{kept}");
    let f = fs.mknod(&CX, ROOT_INO, b"big", FileKind::File, 0o644, 0).await.expect("made");
    let block = vec![7u8; MIB as usize];
    let mut n = 0;
    while fs.room_to_gather().await.is_ok() {
        fs.write_gathered(&CX, f.ino, n * MIB, &block).await.expect("there is room");
        n += 1;
    }
    let held = fs.gathering(300 * MIB);
    assert!(n > 180 && held.asks && held.most == Some(kept / 4), "{n} MiB, {held:?}");
    // What a kernel has taken until it was refused.
    for _ in 0..kept / MIB {
        fs.write_gathered(&CX, f.ino, n * MIB, &block).await.expect("room was kept");
        n += 1;
    }
    // Nobody else has that room, and it ends too.
    let mut refused = false;
    for _ in 0..40 {
        refused |= fs.write(&CX, f.ino, n * MIB, &block).await == Err(FsError::NoSpace);
    }
    assert!(refused);
    let mut more = 0;
    while fs.write_gathered(&CX, f.ino, (n + 50 + more) * MIB, &block).await.is_ok() {
        more += 1;
        assert!(more < 40);
    }
    fs.mkdir(&CX, ROOT_INO, b"names go on", 0o755).await.expect("made");
    fs.unlink(&CX, ROOT_INO, b"big").await.expect("removed");
    fs.forget(f.ino, 1);
    fs.room_to_gather().await.expect("there is room again");
    fs.close().await.expect("closed");
}
