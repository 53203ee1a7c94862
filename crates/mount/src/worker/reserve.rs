//! A little of the host's disk that is kept for opening a volume: who opens one writes a few kilobytes, and a worker that dies while others
//! have filled the disk to its last byte would have no successor until somebody makes room.

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

const FILE: &str = "reserve";
const SIZE: u64 = 1 << 20;
/// Free bytes below which the reserve is given up for an opening.
const SHORT: u64 = 2 * SIZE;
/// Free bytes from which on it is made: on a smaller disk, or a fuller one, others need them more.
const PLENTY: u64 = 32 * SIZE;
/// How soon it is tried again to make it, at first and at last.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(600));

fn free(dir: &Path) -> std::io::Result<u64> {
    let s = statvfs(dir)?;
    Ok(s.blocks_available() * s.fragment_size())
}

/// Before a volume is opened: gives the reserve up if there is next to nothing else.
pub(super) fn give(dir: &Path) {
    if !free(dir).is_ok_and(|free| free < SHORT) {
        return;
    }
    match std::fs::remove_file(dir.join(FILE)) {
        Ok(()) => {
            // Some file systems give blocks back with their next commit only.
            let _ = File::open(dir).and_then(|dir| dir.sync_all());
            tracing::warn!("the disk is full: what was kept for an opening is used for it");
        }
        Err(e) => tracing::warn!("the disk is full, and nothing is kept for an opening: {e}"),
    }
}

/// Once it is open: keeps a little for the next time, as soon as there is room.
pub(super) async fn keep(dir: PathBuf) {
    let mut pause = AGAIN.0;
    loop {
        let here = dir.clone();
        if tokio::task::spawn_blocking(move || is_kept(&here)).await.unwrap_or(true) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN.1);
    }
}

fn is_kept(dir: &Path) -> bool {
    let path = dir.join(FILE);
    if path.exists() {
        return true;
    }
    if !free(dir).is_ok_and(|free| free > PLENTY) {
        return false;
    }
    let made = File::create_new(&path).and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, SIZE as i64)?));
    if let Err(e) = &made {
        let _ = std::fs::remove_file(&path);
        tracing::debug!("nothing is kept for the next opening: {e}");
    }
    made.is_ok()
}
