//! When a worker is not simply replaced: how long its successor waits, and when requests that nobody could answer are
//! refused.
//!
//! A worker that is killed from outside, however often, costs its volume no more than the start of the next one. A
//! request that ends every worker which reads it would keep the whole volume from being served: when workers fault in a
//! row, each soon after its start, what they left unanswered is answered EIO, and the next one starts without it.

use crate::kernel::{abi, init};
use crate::os::is_readable;
use nix::errno::Errno;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// A worker that served this long was sound, whatever ended it.
pub(super) const SOUND: Duration = Duration::from_secs(1);
/// A worker that faults later than this after its start did not do so by what its predecessor left.
pub(super) const SOON: Duration = Duration::from_secs(10);
/// Faults in a row after which what is unanswered is refused.
const TOO_MANY: u32 = 5;
/// Deaths soon after the start that cost no wait.
const FORGIVEN: u32 = 3;
/// With the start of a worker far below two seconds; enough that dying at once, for ever, takes little of a processor.
const LONGEST_WAIT: Duration = Duration::from_millis(400);
/// A worker that cannot open its volume is not tried more often: its store is away, or its disk full.
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// How long the next worker waits after one died; `deaths` counts those in a row that had hardly started.
pub(super) fn wait_after_death(deaths: u32) -> Duration {
    doubled(deaths.saturating_sub(FORGIVEN)).min(LONGEST_WAIT)
}

/// How long the next attempt waits after one that did not come to serving.
pub(super) fn wait_after_failure(attempts: u32) -> Duration {
    doubled(attempts).min(LONGEST_RETRY)
}

/// 0, 100 ms, 200 ms, 400 ms...
fn doubled(n: u32) -> Duration {
    match n {
        0 => Duration::ZERO,
        n => Duration::from_millis(100).saturating_mul(2u32.saturating_pow(n - 1)),
    }
}

/// Whether what the last workers left unanswered is what ends them.
pub(super) fn is_poisoned(faults: u32) -> bool {
    faults >= TOO_MANY
}

/// Answers EIO to all that was read and not answered. Only while no worker reads, and where requests can be sent again.
/// Returns how many it were.
pub(super) fn refuse_unanswered(device: BorrowedFd<'_>) -> io::Result<usize> {
    init::resend(device)?;
    // As long as the longest request, or the kernel ends the one that does not fit.
    let mut buffer = vec![0u8; init::MAX_IO as usize + (64 << 10)];
    let mut refused = 0;
    while is_readable(device) {
        let n = match nix::unistd::read(device, &mut buffer) {
            Ok(n) => n,
            // The request was taken back while it was read.
            Err(Errno::EINTR | Errno::ENOENT | Errno::EAGAIN) => continue,
            Err(e) => return Err(e.into()),
        };
        let Some(unique) = request_number(&buffer[..n]) else { continue };
        if unique & abi::RESENT == 0 {
            // Those that are sent again come first. This one is new and harmless: it is sent again with the next resend.
            break;
        }
        match nix::unistd::write(device, &abi::error_reply(unique, libc::EIO)) {
            Ok(_) => refused += 1,
            // Its caller was killed meanwhile.
            Err(Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(refused)
}

/// The number of a request that wants an answer; what the kernel only tells has none.
pub(super) fn request_number(bytes: &[u8]) -> Option<u64> {
    // FORGET, INTERRUPT, BATCH_FORGET.
    const TOLD: [u32; 3] = [2, 36, 42];
    let opcode = u32::from_ne_bytes(bytes.get(4..8)?.try_into().ok()?);
    let unique = u64::from_ne_bytes(bytes.get(8..16)?.try_into().ok()?);
    (bytes.len() >= abi::IN_HEADER && !TOLD.contains(&opcode)).then_some(unique)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::init::{Wishes, negotiate};
    use crate::kernel::mount;
    use std::os::fd::AsFd;
    use std::time::Instant;

    #[test]
    fn whoever_is_killed_is_replaced_within_two_seconds_for_ever() {
        assert_eq!(wait_after_death(1), Duration::ZERO);
        assert_eq!(wait_after_death(3), Duration::ZERO);
        assert_eq!(wait_after_death(4), Duration::from_millis(100));
        assert_eq!(wait_after_death(1_000_000), LONGEST_WAIT);
        assert_eq!(wait_after_failure(1), Duration::from_millis(100));
        assert_eq!(wait_after_failure(1_000_000), LONGEST_RETRY);
    }

    #[test]
    fn what_was_read_and_not_answered_ends_in_eio_and_what_is_new_waits() {
        if !std::path::Path::new("/dev/fuse").exists() || !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs /dev/fuse and root");
            return;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let device = mount::open_device().expect("a device");
        mount::mount_fuse(&device, "orlop-test", dir.path()).expect("mounts");
        let negotiated = negotiate(device.as_fd(), Wishes { resend: true, cache: orlop_model::CacheMode::Strict }).expect("agrees");
        if !negotiated.resends() {
            mount::unmount_by_force(dir.path()).expect("unmounts");
            eprintln!("skipped: this kernel cannot send requests again (Linux 6.9)");
            return;
        }
        let ask = |name: &str| {
            let path = dir.path().join(name);
            std::thread::spawn(move || std::fs::symlink_metadata(path).map(drop).expect_err("nobody has it").raw_os_error())
        };
        let asked = ask("poison");
        // The worker that dies of it has read it.
        let mut buffer = vec![0u8; 2 << 20];
        let n = nix::unistd::read(&device, &mut buffer).expect("read");
        let first = request_number(&buffer[..n]).expect("a request");
        assert_eq!(first & abi::RESENT, 0);
        let other = ask("other");
        let until = Instant::now() + Duration::from_secs(10);
        while !is_readable(device.as_fd()) {
            assert!(Instant::now() < until, "the second request comes");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(refuse_unanswered(device.as_fd()).expect("refuses"), 1);
        assert_eq!(asked.join().expect("returns"), Some(libc::EIO));
        // The other one is not lost: the next worker gets it by the resend that follows its start.
        init::resend(device.as_fd()).expect("asks again");
        let n = nix::unistd::read(&device, &mut buffer).expect("read");
        let second = request_number(&buffer[..n]).expect("a request");
        assert_ne!(second & !abi::RESENT, first);
        nix::unistd::write(&device, &abi::error_reply(second, libc::ENOENT)).expect("answers");
        assert_eq!(other.join().expect("returns"), Some(libc::ENOENT));
        mount::unmount_by_force(dir.path()).expect("unmounts");
    }
}
