//! Files without a name that an earlier worker told the kernel of: whether somebody still has one open, only the kernel knows. It is asked,
//! and what it does not hold goes. Without that a file that was there when a worker was replaced would take its room, once removed,
//! until the volume is mounted anew.

use crate::fuse::forget_attributes;
use orlop_chunkfs::{FileSystem, Ino};
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long removals are gathered before the kernel is asked.
const GATHERING: Duration = Duration::from_millis(5);
/// How soon it is asked again of those that it holds, at first and at last: the end of a use is told by nothing else.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Goes on until the volume or the connection has ended.
pub(super) async fn ask(fs: Weak<FileSystem>, device: Arc<OwnedFd>) {
    // Those that go, and are there until they are gone.
    let mut going: HashSet<Ino> = HashSet::new();
    let mut pause = None;
    loop {
        let Some(doubt) = fs.upgrade().map(|fs| fs.doubt()) else { return };
        let is_new = match pause {
            None => {
                doubt.await;
                true
            }
            Some(pause) => tokio::time::timeout(pause, doubt).await.is_ok(),
        };
        tokio::time::sleep(GATHERING).await;
        let Some(doubted) = fs.upgrade().map(|fs| fs.doubted()) else { return };
        let (still, asked): (Vec<Ino>, Vec<Ino>) = doubted.into_iter().partition(|ino| going.contains(ino));
        going = still.into_iter().collect();
        if asked.is_empty() {
            pause = None;
            continue;
        }
        let device = device.clone();
        let Ok(Some(gone)) = tokio::task::spawn_blocking(move || not_held(&device, asked)).await else { return };
        let Some(fs) = fs.upgrade() else { return };
        let before = going.len();
        going.extend(gone.into_iter().filter(|ino| fs.not_held(*ino)));
        let is_better = is_new || going.len() > before;
        pause = Some(if is_better { AGAIN.0 } else { pause.map_or(AGAIN.0, |p| (p * 2).min(AGAIN.1)) });
    }
}

/// Of these inodes those that the kernel does not hold; `None` if there is nobody to ask any more.
fn not_held(device: &OwnedFd, inodes: Vec<Ino>) -> Option<Vec<Ino>> {
    let mut gone = Vec::new();
    for ino in inodes {
        // That attributes are not to be relied on is told for nothing: the answer says whether there are any.
        match forget_attributes(device, ino).map_err(|e| e.raw_os_error()) {
            Err(Some(libc::ENOENT)) => gone.push(ino),
            Err(Some(libc::ENODEV)) => return None,
            _ => {}
        }
    }
    Some(gone)
}
