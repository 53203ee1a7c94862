//! Who waits behind a sync that fails learns of it: what that one took to the disk is nobody else's to call durable.

use crate::disk::{Twist, Twisted};
use crate::world::World;
use orlop_chunkfs::{Caller, FileKind, FileSystem, ROOT_INO};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const CX: Caller = Caller { uid: 0, gid: 0, request: 0, keeps_times: false };

/// What a sick disk does with a sync.
#[derive(Debug, Default)]
struct Health {
    /// Syncs wait while this is set.
    holds: AtomicBool,
    /// Those that waited fail.
    fails: AtomicBool,
    waiting: AtomicUsize,
}

impl Twist for Health {
    fn sync(&self, really: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if !self.holds.load(Ordering::Acquire) {
            return really();
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
        while self.holds.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // As the kernel does it: told once, and whoever asks next finds nothing dirty.
        if self.fails.swap(false, Ordering::AcqRel) { Err(io::Error::from_raw_os_error(5)) } else { really() }
    }
}

impl Health {
    async fn until_one_waits(&self) {
        while self.waiting.load(Ordering::Acquire) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn on_a_sick_disk() -> (World, Arc<Health>, Arc<FileSystem>) {
    let (w, fs) = World::new().await;
    fs.close().await.expect("closed");
    let health = Arc::new(Health::default());
    let mut config = w.config();
    config.host = Arc::new(Twisted(health.clone()));
    let fs = FileSystem::open(config).await.expect("opened");
    let f = fs.mknod(&CX, ROOT_INO, b"f", FileKind::File, 0o644, 0).await.expect("made");
    fs.write(&CX, f.ino, 0, &[7; 40_000]).await.expect("written");
    (w, health, fs)
}

/// One sync that fails while `behind` waits for its turn: that must fail too, and nothing is lost for the next opening.
async fn behind_a_failing_sync<F>(behind: impl FnOnce(Arc<FileSystem>) -> F)
where
    F: Future<Output = bool> + Send + 'static,
{
    let (w, health, fs) = on_a_sick_disk().await;
    health.holds.store(true, Ordering::Release);
    health.fails.store(true, Ordering::Release);
    let first = tokio::spawn({
        let fs = fs.clone();
        async move { fs.sync_all().await }
    });
    health.until_one_waits().await;
    let second = tokio::spawn(behind(fs.clone()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    health.holds.store(false, Ordering::Release);
    first.await.expect("ends").expect_err("the disk failed");
    assert!(!second.await.expect("ends"), "it calls durable what a failed sync had taken");
    fs.sync_all().await.expect_err("and so does everybody after it");
    assert!(w.state_dir().join("failed-sync").exists());
    fs.abandon().await;
    drop(fs);
    let fs = w.open().await;
    let f = fs.lookup(ROOT_INO, b"f").await.expect("there");
    assert!(fs.read(f.ino, 0, 50_000).await.expect("reads") == [7; 40_000][..]);
    fs.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_behind_one_that_fails_fails() {
    behind_a_failing_sync(|fs| async move { fs.sync_all().await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fold_behind_a_sync_that_fails_fails() {
    behind_a_failing_sync(|fs| async move { fs.compact_all().await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_behind_a_sync_that_fails_fails() {
    behind_a_failing_sync(|fs| async move { fs.close().await.is_ok() }).await;
}
