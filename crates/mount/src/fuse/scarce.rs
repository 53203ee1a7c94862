//! A disk that fills up, under a kernel that gathers writes: who writes is made to ask first.
//!
//! Linux brings size and mode of a file up to date before it takes a write into its page cache, and fails if that fails. It
//! asks only if its attributes are not current. So while the disk is nearly full attributes are out of date as they are told, and of
//! inodes that were told of before a notice makes them so when their gathered bytes arrive. Who then asks with an open file is
//! answered ENOSPC where there is no room. That is whoever writes, and whoever reads at a file's end: which of them is seen by the system call
//! that waits for the answer. A change through a mapping is not asked for: it is told at `msync` or `close`.
//!
//! Before that, from when the disk has less room than the kernel might take, it is held to a part of what is free. Writers wait
//! while it has more.

use super::adapter::{Adapter, Asked};
use super::pages::forget_attributes;
use crate::kernel::asking::ask_within;
use crate::kernel::backing::Backing;
use orlop_chunkfs::{FileKind, FileSystem, Gathering, Ino};
use orlop_model::CacheMode;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// How often the kernel is told anew what it is held to: it keeps that as a part of the memory that is free just then.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long it may take to see what a thread does, and how often it is looked at that runs still.
const LOOK_AT_MOST: Duration = Duration::from_secs(1);
const LOOKS: u32 = 50;
/// How often the disk is looked at when nothing is written, held and not held: others use it too.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// How much the kernel may take, and who asks.
#[derive(Debug)]
pub(crate) struct Scarcity {
    backing: Option<Backing>,
    held: Mutex<Held>,
    asks: AtomicBool,
    notices: UnboundedSender<Ino>,
}

#[derive(Debug)]
struct Held {
    /// What it was held to, and when it was told; whoever served the mount before may have told it anything.
    to: Option<(Option<u64>, Instant)>,
    /// What it takes if nobody holds it, as it said when that was so.
    unbounded: u64,
}

impl Held {
    /// Whether the kernel was told so a short while ago, or so much less is not worth telling.
    fn is_known(&self, most: Option<u64>) -> bool {
        let Some((told, at)) = self.to else { return false };
        match (told, most) {
            (None, None) => at.elapsed() < LOOK_EVERY.1,
            (Some(told), Some(most)) => at.elapsed() < TELL_EVERY && most >= told / 4 * 3,
            _ => false,
        }
    }
}

impl Scarcity {
    pub(crate) fn start(
        fs: &Arc<FileSystem>,
        device: &Arc<OwnedFd>,
        point: &Path,
        cache: CacheMode,
        runtime: &tokio::runtime::Handle,
    ) -> Arc<Scarcity> {
        let backing = if cache == CacheMode::Fast { Backing::at(point) } else { None };
        let held = Mutex::new(Held { to: None, unbounded: Backing::UNKNOWN });
        let (notices, queue) = unbounded_channel();
        let this = Arc::new(Scarcity { backing, held, asks: AtomicBool::new(false), notices });
        if cache == CacheMode::Fast {
            // Before the first request; twice, since only a kernel that is not held says what it takes then.
            this.look(fs);
            this.look(fs);
            runtime.spawn(notify(queue, Arc::downgrade(device)));
            runtime.spawn(watch(Arc::downgrade(&this), Arc::downgrade(fs)));
        }
        this
    }

    /// Tells the kernel what it is allowed now, if it does not know. Returns whether writers have to ask.
    fn look(&self, fs: &FileSystem) -> bool {
        let mut held = self.held.lock();
        let Gathering { most, asks } = fs.gathering(held.unbounded);
        if let Some(backing) = self.backing
            && !held.is_known(most)
        {
            match most {
                Some(bytes) => backing.hold(bytes),
                None => {
                    backing.let_go();
                    held.unbounded = backing.most();
                }
            }
            held.to = Some((most, Instant::now()));
        }
        self.asks.store(asks, Ordering::Release);
        asks
    }

    fn is_held(&self) -> bool {
        self.held.lock().to.is_some_and(|(most, _)| most.is_some())
    }

    /// Whether writers had to ask when the disk was last looked at; never under a kernel that does not gather writes.
    fn asked(&self) -> bool {
        self.asks.load(Ordering::Acquire)
    }
}

/// Looks at the disk for as long as the volume is served.
async fn watch(scarcity: Weak<Scarcity>, fs: Weak<FileSystem>) {
    loop {
        let Some(this) = scarcity.upgrade() else { return };
        let pause = if this.is_held() { LOOK_EVERY.0 } else { LOOK_EVERY.1 };
        drop(this);
        tokio::time::sleep(pause).await;
        let (Some(this), Some(fs)) = (scarcity.upgrade(), fs.upgrade()) else { return };
        this.look(&fs);
    }
}

/// Sends notices of inodes that nobody may use any more: not on a thread that answers requests, for which such an inode's end may wait.
async fn notify(mut queue: UnboundedReceiver<Ino>, device: Weak<OwnedFd>) {
    let mut some = Vec::new();
    while queue.recv_many(&mut some, 256).await > 0 {
        let inodes: HashSet<Ino> = some.drain(..).collect();
        let Some(device) = device.upgrade() else { return };
        let sent = tokio::task::spawn_blocking(move || {
            for ino in inodes {
                // ENOENT: it is forgotten, and its name is looked up before anybody writes to it.
                if let Err(e) = forget_attributes(&device, ino) {
                    tracing::debug!("inode {ino} is not asked for: {e}");
                }
            }
        });
        if sent.await.is_err() {
            return;
        }
    }
}

/// Whether a thread waits in a call that reads the file. Who cannot be looked at counts as a writer.
fn is_reading(pid: u32, ino: Ino) -> bool {
    const READS: [libc::c_long; 8] = [
        libc::SYS_read,
        libc::SYS_pread64,
        libc::SYS_readv,
        libc::SYS_preadv,
        libc::SYS_preadv2,
        libc::SYS_lseek,
        libc::SYS_mmap,
        libc::SYS_execve,
    ];
    let look = || std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let mut call = look();
    // It has asked and is not asleep yet.
    for _ in 0..LOOKS {
        if !call.starts_with("running") {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
        call = look();
    }
    let mut words = call.split_ascii_whitespace();
    let Some(number) = words.next().and_then(|word| word.parse::<libc::c_long>().ok()) else { return false };
    // Those that move bytes from one file to another, and which of their arguments names the other.
    let to = match number {
        n if READS.contains(&n) => return true,
        libc::SYS_sendfile => words.next(),
        libc::SYS_splice | libc::SYS_copy_file_range => words.nth(2),
        _ => None,
    };
    let Some(to) = to.and_then(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()) else { return false };
    let about = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{to}")).unwrap_or_default();
    let other = about.lines().find_map(|line| line.strip_prefix("ino:")?.trim().parse::<u64>().ok());
    other.is_some_and(|other| other != ino)
}

impl Adapter {
    /// Whether whoever writes has to ask, by a look at the disk.
    fn writers_ask(&self) -> bool {
        self.is_fast() && self.scarcity.look(&self.fs)
    }

    /// How long attributes that are told now are current.
    pub(super) fn attributes_for(&self, kind: FileKind) -> Duration {
        if kind == FileKind::File && self.scarcity.asked() { Duration::ZERO } else { self.ttl }
    }

    /// Attributes for somebody who has the file open, which is whoever is about to write where writes are gathered.
    pub(super) fn getattr_of_open(&self, asked: Asked) {
        let (fs, _, ino) = self.of(&asked);
        let (asks, pid) = (self.writers_ask(), asked.header.pid);
        let work = async move {
            if asks && let Err(e) = fs.room_to_gather().await {
                // A look that hangs, while the process is in an exec that waits for a volume, is given up.
                let look = tokio::task::spawn_blocking(move || ask_within(LOOK_AT_MOST, move || is_reading(pid, ino)));
                if !look.await.is_ok_and(|reads| reads == Some(true)) {
                    return Err(e);
                }
            }
            fs.getattr(ino).await
        };
        self.attr(asked, "getattr", work);
    }

    /// Notes that bytes which the kernel had gathered came, whatever becomes of them.
    pub(super) fn gathered_came(&self, ino: Ino) {
        if self.writers_ask() {
            // Its receiver goes with the mount.
            let _ = self.scarcity.notices.send(ino);
        }
    }
}
