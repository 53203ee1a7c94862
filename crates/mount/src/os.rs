//! The few system calls that no safe wrapper offers: descriptors over a socket, process descriptors, process flags,
//! cloned FUSE devices, the allocator's options, and the program's own pages. Decides nothing; all `unsafe` of the crate is here.
#![allow(unsafe_code)]

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr};
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Sends bytes with descriptors attached. Returns how many bytes went; the descriptors go with the first of them.
pub(crate) fn send_with(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let messages = if raw.is_empty() { Vec::new() } else { vec![ControlMessage::ScmRights(&raw)] };
    let iov = [IoSlice::new(bytes)];
    Ok(nix::sys::socket::sendmsg::<UnixAddr>(socket.as_raw_fd(), &iov, &messages, MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Receives bytes and the descriptors attached to them, four at most.
pub(crate) fn receive_with(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut iov = [IoSliceMut::new(bytes)];
    let message = nix::sys::socket::recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows their numbers.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, fds))
}

// From the kernel's public <linux/prctl.h>; the libc crate has no name for it.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl PidFd {
    /// Opens a living (or not yet reaped) process.
    pub(crate) fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, close-on-exec, and nobody else knows its number.
        Ok(PidFd(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// Ends the process at once.
    pub(crate) fn kill(&self) -> io::Result<()> {
        let none: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: pidfd_send_signal takes an open descriptor, which this borrows, and a null siginfo, which it allows.
        let rc = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), libc::SIGKILL, none, 0) };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits until the process has ended, all its threads and descriptors included. Returns whether it has.
    pub(crate) fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        let end = limit.map(|l| std::time::Instant::now() + l);
        loop {
            let timeout = match end {
                None => PollTimeout::NONE,
                Some(end) => {
                    let left = end.saturating_duration_since(std::time::Instant::now()).as_millis();
                    PollTimeout::try_from(left.min(60_000) as i32).expect("a minute in milliseconds fits")
                }
            };
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match nix::poll::poll(&mut fds, timeout) {
                Ok(0) if end.is_some_and(|end| std::time::Instant::now() >= end) => return Ok(false),
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Tells the kernel that this process is part of the way by which dirty pages are written, so that its own
/// allocations never wait for them. Needs CAP_SYS_RESOURCE.
pub(crate) fn become_io_flusher() -> io::Result<()> {
    // SAFETY: PR_SET_IO_FLUSHER takes an integer and touches no memory of ours.
    let rc = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A second descriptor of a FUSE connection. Closing it ends the requests that were read through it with an error,
/// which is what must happen to a dead worker's requests where the kernel cannot send them again.
pub(crate) fn clone_fuse_device(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fresh: OwnedFd = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse")?.into();
    let mut source = device.as_raw_fd() as u32;
    // FUSE_DEV_IOC_CLONE: _IOR(229, 0, uint32_t).
    let request = nix::request_code_read!(229, 0, size_of::<u32>());
    // SAFETY: this ioctl reads one u32 through the pointer, which points to a live local variable.
    let rc = unsafe { libc::ioctl(fresh.as_raw_fd(), request, &raw mut source) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(fresh) }
}

/// Whether a FUSE device has lost its connection: the file system was unmounted, or aborted.
pub(crate) fn fuse_device_is_dead(device: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(device, PollFlags::POLLIN)];
    match nix::poll::poll(&mut fds, PollTimeout::ZERO) {
        Ok(0) | Err(_) => false,
        Ok(_) => fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLERR)),
    }
}

/// Whether a descriptor has something to be read now.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    matches!(nix::poll::poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0)
        && fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLIN))
}

/// Writes the dirty pages of the file system that holds `file`.
pub(crate) fn sync_file_system(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: syncfs takes an open descriptor and touches no memory of ours.
    let rc = unsafe { libc::syncfs(file.as_raw_fd()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets this process have as many open files as the administrator's hard limit allows.
pub(crate) fn raise_file_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit through the pointer, which points to a live local variable.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: setrlimit reads one rlimit through the pointer, which points to a live local variable.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes the pages of the running program out of this process's memory; each comes back, from the page cache that all processes of the
/// program share, when it is used next. A worker uses most of them once, to open its volume.
pub(crate) fn give_back_code() -> io::Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    for part in unchanged_parts(&smaps, &program.to_string_lossy()) {
        let at = std::ptr::with_exposed_provenance_mut::<libc::c_void>(part.start);
        // SAFETY: the range is a whole mapping of the program's own file, which stays mapped at this place until the process ends.
        // `unchanged_parts` takes code and what lies before it, which no loader relocates and nothing makes writable after the start,
        // and of these only what has no page of this process's own, in memory or swapped out: so every page is what the file has, and
        // dropping one only means that it is mapped again.
        let done = unsafe { libc::madvise(at, part.len(), libc::MADV_DONTNEED) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The mappings of a program, among those of a process, that hold its code, or its constants in front of that, and whose pages are all the
/// file's. What lies behind the code may have been relocated, and is this process's own then.
fn unchanged_parts(smaps: &str, program: &str) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut code, mut entry) = (false, None);
    for line in smaps.lines() {
        if let Some((range, rest)) = mapping(line) {
            let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
            let ours = fields.get(4..).is_some_and(|path| path.join(" ") == program);
            let mode = fields.first().copied().unwrap_or_default();
            let taken = ours && (mode == "r-xp" || (mode == "r--p" && !code));
            code |= ours && mode == "r-xp";
            entry = taken.then_some((range, false));
        } else if let Some((_, none)) = &mut entry
            && let Some(own) = line.strip_prefix("Anonymous:")
        {
            *none = own.trim() == "0 kB";
        } else if let Some(swapped) = line.strip_prefix("Swap:")
            && swapped.trim() == "0 kB"
            && let Some((range, true)) = entry.take()
        {
            parts.push(range);
        }
    }
    parts
}

/// The first line of a mapping: where it is, and the rest.
fn mapping(line: &str) -> Option<(Range<usize>, &str)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?, rest))
}

/// Keeps the allocator from holding on to memory: a few arenas for all threads, and thresholds that do not grow with
/// what was once asked for. Before other threads start.
#[cfg(target_env = "gnu")]
pub(crate) fn bound_allocator() {
    // Buffers of one request stay below the first and are reused; what is larger is mapped, and goes when it is freed.
    const LARGE: libc::c_int = 2 << 20;
    for (name, value) in [(libc::M_ARENA_MAX, 4), (libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, 2 * LARGE)] {
        // SAFETY: mallopt takes two integers. It is thread-safe, and a name that it does not know changes nothing.
        let taken = unsafe { libc::mallopt(name, value) };
        if taken == 0 {
            tracing::debug!("the allocator does not take option {name}");
        }
    }
}

/// Gives the system back what the allocator holds and nobody uses.
#[cfg(target_env = "gnu")]
pub(crate) fn give_back_memory() {
    // SAFETY: malloc_trim may be called from any thread at any time; it only touches memory that is not allocated.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators look after themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn bound_allocator() {}

/// Other allocators look after themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_back_memory() {}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(head: &str, own: u32, swapped: u32) -> String {
        format!("{head}\nRss: 328 kB\nAnonymous: {own} kB\nKSM: 0 kB\nSwap: {swapped} kB\nSwapPss: 0 kB\nVmFlags: rd mr mw me\n")
    }

    #[test]
    fn only_what_the_program_has_and_nobody_changes_is_given_back() {
        let smaps = [
            entry("00400000-00452000 r--p 00000000 fd:00 173521 /usr/bin/orlop", 0, 0),
            entry("00452000-00900000 r-xp 00052000 fd:00 173521 /usr/bin/orlop", 0, 0),
            // Relocated, and then swapped out: nothing of it is in memory, and the file has something else.
            entry("00900000-00910000 r--p 00500000 fd:00 173521 /usr/bin/orlop", 0, 64),
            entry("00910000-00918000 r--p 00510000 fd:00 173521 /usr/bin/orlop", 0, 0),
            entry("00918000-00920000 rw-p 00518000 fd:00 173521 /usr/bin/orlop", 0, 0),
            entry("00920000-00930000 rw-p 00000000 00:00 0 [heap]", 0, 0),
            entry("7f0000000000-7f0000010000 r-xp 00000000 fd:00 99 /usr/lib/libc.so.6", 0, 0),
            entry("7f0000020000-7f0000030000 r--p 00000000 00:00 0", 0, 0),
        ];
        assert_eq!(unchanged_parts(&smaps.concat(), "/usr/bin/orlop"), [0x0040_0000..0x0045_2000, 0x0045_2000..0x0090_0000]);
        assert_eq!(unchanged_parts(&smaps.concat(), "/usr/bin/other"), []);
        // Changed by a debugger, in memory or swapped out; and a kernel that does not tell.
        let code = "00452000-00900000 r-xp 00052000 fd:00 173521 /usr/bin/orlop";
        for told in [entry(code, 4, 0), entry(code, 0, 4), format!("{code}\nRss: 1 kB\nSwap: 0 kB\n"), format!("{code}\nAnonymous: 0 kB\n")]
        {
            assert_eq!(unchanged_parts(&told, "/usr/bin/orlop"), [], "{told}");
        }
    }

    #[test]
    fn a_program_goes_on_without_its_pages() {
        let program = std::fs::read_link("/proc/self/exe").expect("a program").display().to_string();
        let resident = || -> u64 {
            let smaps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
            let (mut sum, mut ours) = (0, false);
            for line in smaps.lines() {
                if let Some((_, rest)) = mapping(line) {
                    ours = rest.starts_with("r-xp") && rest.ends_with(&program);
                } else if let Some(kib) = line.strip_prefix("Rss:").filter(|_| ours) {
                    sum += kib.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
                }
            }
            sum
        };
        let before = resident();
        give_back_code().expect("given back");
        let after = resident();
        assert!(after < before, "{before} KiB of code before, {after} after");
        assert!("7,6,5".split(',').map(|n| n.parse::<u32>().expect("a number")).sum::<u32>() == 18, "and runs on");
    }
}
