//! A disk that is nearly full, under a kernel that gathers writes: who writes is made to ask first.
//!
//! Linux brings size and mode of a file up to date before it takes a write into its page cache, and fails if that fails. It
//! asks only if its attributes are stale, and is the only one that then asks as somebody who has the file open: `stat` has no open
//! file, and of a kernel that gathers writes readers and seekers take the size as they know it. So attributes are made stale
//! by a notice, after whatever makes them current and when gathered bytes arrive, and that question is answered ENOSPC where there
//! is no room. A change through a mapping is not asked for: it is told at `msync` or `close`.
//!
//! Nearly full is a disk with less room than the kernel may have taken already, which is a fifth of the memory. It is then held to
//! as little as is kept for it, and writers wait while it has more.

use super::adapter::{Adapter, Asked};
use super::pages::forget_attributes;
use crate::kernel::backing::Backing;
use orlop_chunkfs::{Attr, BLOCK, FileKind, Ino, Statfs};
use orlop_model::CacheMode;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// How long whoever was just told of an inode may take to know it.
const TRIES: u32 = 8;

/// How much the kernel may take, and may have taken.
#[derive(Debug)]
pub(crate) struct Scarcity {
    backing: Option<Backing>,
    /// Bytes that it may have when it is not held to less.
    most: u64,
    held: AtomicU8,
}

/// What the kernel was told last; whoever served the mount before may have told it anything.
const NOT_TOLD: u8 = 0;
const WIDE: u8 = 1;
const NARROW: u8 = 2;

impl Scarcity {
    pub(crate) fn of(point: &Path, cache: CacheMode) -> Arc<Scarcity> {
        let backing = if cache == CacheMode::Fast { Backing::at(point) } else { None };
        if let Some(backing) = backing {
            backing.widen();
        }
        Arc::new(Scarcity { backing, most: backing.map_or(0, Backing::most), held: AtomicU8::new(NOT_TOLD) })
    }

    /// Tells the kernel, if it was told otherwise.
    fn hold(&self, to: Option<u64>) {
        let held = if to.is_some() { NARROW } else { WIDE };
        let before = self.held.swap(held, Ordering::AcqRel);
        let Some(backing) = self.backing.filter(|_| before != held) else { return };
        match to {
            Some(bytes) => backing.narrow(bytes),
            // It is what the mount began with.
            None if before == NOT_TOLD => {}
            None => backing.widen(),
        }
    }
}

impl Adapter {
    /// Whether whoever writes has to ask.
    pub(super) fn is_scarce(&self) -> bool {
        if !self.is_fast() {
            return false;
        }
        let scarce = self.fs.is_scarce(self.scarcity.most);
        self.scarcity.hold(scarce.then(|| self.fs.gathered_at_most()));
        scarce
    }

    /// Has the kernel ask before it next takes a write to this file.
    pub(super) fn ask_again(&self, ino: Ino) {
        let device = self.device.clone();
        // Not on a thread that reads requests: the notice may drop the last use of an inode, whose pages are written then.
        self.runtime.spawn_blocking(move || {
            for n in 0..TRIES {
                match forget_attributes(&device, ino) {
                    // The answer that tells of it is on its way.
                    Err(e) if e.raw_os_error() == Some(libc::ENOENT) => std::thread::sleep(Duration::from_micros(100 << n)),
                    Err(e) => return tracing::debug!("inode {ino} is not asked for: {e}"),
                    Ok(()) => return,
                }
            }
        });
    }

    /// The same after an answer that made attributes current, if it is of a file and the disk is nearly full.
    pub(super) fn ask_again_if_scarce(&self, a: &Attr) {
        if a.kind == FileKind::File && self.is_scarce() {
            self.ask_again(a.ino);
        }
    }

    /// Attributes for somebody who has the file open, which is whoever is about to write where writes are gathered.
    pub(super) fn getattr_of_open(&self, asked: Asked) {
        let (fs, _, ino) = self.of(&asked);
        let (this, ttl, scarce) = (self.clone(), self.ttl, self.is_scarce());
        let work = async move {
            if scarce {
                fs.room_to_gather().await?;
            }
            fs.getattr(ino).await
        };
        self.answer(asked, "getattr", work, move |reply, a| {
            reply.attr(ttl, &a);
            this.ask_again_if_scarce(&a);
        });
    }

    /// Notes what came of a write that the kernel had gathered.
    pub(super) fn gathered_came(&self, ino: Ino) {
        if self.is_scarce() {
            self.ask_again(ino);
        }
    }

    /// What `df` shows as free is what a write is not refused for.
    pub(super) fn without_gathered(&self, mut s: Statfs) -> Statfs {
        if self.is_fast() {
            let kept = (self.fs.gathered_at_most() / BLOCK).min(s.free);
            s.free -= kept;
            s.blocks -= kept;
        }
        s
    }
}
