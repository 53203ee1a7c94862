//! The one real INIT exchange with the kernel, done by the keeper: which capabilities a connection has is decided
//! here, once, and handed from worker to worker for as long as the mount lives.

use super::abi::{InitReply, InitRequest, MAJOR, MINOR, error_reply, flag, resend_notice};
use orlop_model::{CacheMode, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::os::fd::BorrowedFd;

/// The longest read or write of one request.
pub(crate) const MAX_IO: u32 = 1 << 20;

const PAGE: u32 = 4096;
/// Readings ahead and writings back that the kernel has under way at a time. It keeps all others waiting behind them,
/// so those that wait for the store must not fill this.
const BACKGROUND: u16 = 4096;
/// The same where the kernel gathers writes: each of these may be in memory once more, here, until its turn comes. Such a
/// volume lies on this host, and none of its requests waits for a store.
const BACKGROUND_GATHERED: u16 = 32;

// Locks stay with the kernel (an attachment is one host), truncation on open comes as a request of its own (with the
// write-back cache the kernel would lose it otherwise), and the umask is applied by the kernel.
const WANTED: u64 = flag::ASYNC_READ
    | flag::BIG_WRITES
    | flag::DO_READDIRPLUS
    | flag::READDIRPLUS_AUTO
    | flag::ASYNC_DIO
    | flag::PARALLEL_DIROPS
    | flag::MAX_PAGES
    | flag::CACHE_SYMLINKS
    | flag::HANDLE_KILLPRIV_V2
    | flag::INIT_EXT
    | flag::HAS_RESEND;

/// What cache=fast needs on top, all of it or none: a kernel that cannot send requests again would fail what it still
/// has in its page cache when a worker is replaced.
const FAST: u64 = flag::WRITEBACK_CACHE | flag::NO_OPEN_SUPPORT | flag::NO_OPENDIR_SUPPORT | flag::HANDLE_KILLPRIV_V2 | flag::HAS_RESEND;

/// What kernel and keeper agreed on. Sticky: every later worker of the same mount has to live with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Negotiated {
    /// Minor version of the protocol in use.
    pub(crate) minor: u32,
    /// Capabilities in use, as the protocol numbers them.
    pub(crate) flags: u64,
    /// Most bytes that the kernel reads ahead.
    pub(crate) max_readahead: u32,
    /// Most bytes of a write.
    pub(crate) max_write: u32,
}

impl Negotiated {
    /// Whether unanswered requests can be asked for again.
    pub(crate) fn resends(&self) -> bool {
        self.flags & flag::HAS_RESEND != 0
    }

    /// How the kernel caches on this connection.
    pub(crate) fn cache(&self) -> CacheMode {
        cache_of(self.flags)
    }
}

fn cache_of(flags: u64) -> CacheMode {
    if flags & flag::WRITEBACK_CACHE != 0 { CacheMode::Fast } else { CacheMode::Strict }
}

/// How to negotiate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wishes {
    /// Negotiate that requests can be sent again, where the kernel can.
    pub(crate) resend: bool,
    /// How the kernel is to cache; strict where it cannot do what fast needs.
    pub(crate) cache: CacheMode,
}

impl Wishes {
    fn of_what(self, offered: u64) -> u64 {
        let offered = if self.resend { offered } else { offered & !flag::HAS_RESEND };
        let fast = self.cache == CacheMode::Fast && offered & FAST == FAST;
        offered & if fast { WANTED | FAST } else { WANTED }
    }
}

/// Answers the kernel's INIT on a fresh connection. The kernel sends it as soon as the file system is mounted.
pub(crate) fn negotiate(device: BorrowedFd<'_>, wishes: Wishes) -> Result<Negotiated> {
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        let n = match nix::unistd::read(device, &mut buffer) {
            Ok(n) => n,
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN | nix::errno::Errno::ENOENT) => continue,
            Err(e) => return Err(Error::internal(format!("reading the kernel's first FUSE request: {e}"))),
        };
        let Some(init) = InitRequest::parse(&buffer[..n]) else {
            return Err(Error::internal("the kernel's first FUSE request is not INIT"));
        };
        if init.major < MAJOR || (init.major == MAJOR && init.minor < 31) {
            let _ = send(device, &error_reply(init.unique, libc::EPROTO));
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the kernel speaks FUSE {}.{}, which is older than 7.31", init.major, init.minor),
            )
            .with_remedy("use Linux 5.4 or later"));
        }
        if init.major > MAJOR {
            // A kernel of a later protocol asks again in the one that it is told.
            let reply =
                InitReply { minor: MINOR, max_readahead: 0, flags: 0, max_background: 0, congestion: 0, max_write: 0, max_pages: 0 };
            send(device, &reply.encode(init.unique)).map_err(|e| Error::io("answering the kernel's FUSE version", &e))?;
            continue;
        }
        let flags = wishes.of_what(init.flags);
        let background = match cache_of(flags) {
            CacheMode::Fast => BACKGROUND_GATHERED,
            CacheMode::Strict => BACKGROUND,
        };
        let reply = InitReply {
            minor: MINOR.min(init.minor),
            max_readahead: init.max_readahead.max(MAX_IO),
            flags,
            max_background: background,
            congestion: background / 4 * 3,
            max_write: MAX_IO,
            max_pages: (MAX_IO / PAGE) as u16,
        };
        send(device, &reply.encode(init.unique)).map_err(|e| Error::io("answering the kernel's FUSE INIT", &e))?;
        return Ok(Negotiated { minor: reply.minor, flags, max_readahead: reply.max_readahead, max_write: reply.max_write });
    }
}

/// Asks the kernel to queue again what a dead worker had read and not answered.
pub(crate) fn resend(device: BorrowedFd<'_>) -> std::io::Result<()> {
    send(device, &resend_notice())
}

fn send(device: BorrowedFd<'_>, bytes: &[u8]) -> std::io::Result<()> {
    // A FUSE device takes a message whole or not at all.
    nix::unistd::write(device, bytes).map(|_| ()).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::os::fd::AsFd;

    const STRICT: Wishes = Wishes { resend: true, cache: CacheMode::Strict };

    fn exchange(kernel: InitRequest) -> (Result<Negotiated>, Vec<u8>) {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("socketpair");
        nix::unistd::write(&theirs, &kernel.encode()).expect("write");
        let negotiated = negotiate(ours.as_fd(), STRICT);
        let mut answer = vec![0u8; 200];
        let n = nix::unistd::read(&theirs, &mut answer).expect("read");
        answer.truncate(n);
        (negotiated, answer)
    }

    #[test]
    fn only_what_the_kernel_offers_is_taken() {
        let offered = flag::ASYNC_READ | flag::MAX_PAGES | flag::INIT_EXT | flag::HAS_RESEND | 1 << 16 | 1 << 3;
        let (negotiated, answer) = exchange(InitRequest { unique: 2, major: 7, minor: 44, max_readahead: 131_072, flags: offered });
        let negotiated = negotiated.expect("agreed");
        assert_eq!(negotiated.flags, flag::ASYNC_READ | flag::MAX_PAGES | flag::INIT_EXT | flag::HAS_RESEND);
        assert_eq!(negotiated.minor, 40);
        assert!(negotiated.resends());
        assert_eq!(answer.len(), 80);
    }

    #[test]
    fn fast_is_taken_whole_or_not_at_all() {
        let fast = Wishes { cache: CacheMode::Fast, ..STRICT };
        let mode = |wishes: Wishes, offered| {
            let flags = wishes.of_what(offered);
            Negotiated { minor: 40, flags, max_readahead: 0, max_write: 0 }.cache()
        };
        assert_eq!(mode(fast, u64::MAX), CacheMode::Fast);
        assert_eq!(mode(STRICT, u64::MAX), CacheMode::Strict);
        assert_eq!(mode(Wishes { resend: false, ..fast }, u64::MAX), CacheMode::Strict);
        for bit in (0..64).map(|b| 1u64 << b).filter(|b| FAST & b != 0) {
            let flags = fast.of_what(!bit);
            assert_eq!(flags & !WANTED, 0, "without {bit:#x}");
        }
        let atomic_truncation = 1 << 3;
        assert_eq!(fast.of_what(u64::MAX) & atomic_truncation, 0);
    }

    #[test]
    fn an_old_kernel_is_refused_by_name() {
        let (negotiated, answer) = exchange(InitRequest { unique: 2, major: 7, minor: 26, max_readahead: 0, flags: 1 });
        let error = negotiated.expect_err("too old");
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message.contains("7.26"), "{error}");
        assert_eq!(answer.len(), 16);
    }
}
