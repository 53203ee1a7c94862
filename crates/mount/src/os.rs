//! The few system calls that no safe wrapper offers: descriptors over a socket, process descriptors, process flags,
//! cloned FUSE devices, and the allocator's options. Decides nothing; all `unsafe` of the crate is here.
#![allow(unsafe_code)]

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr};
use std::io::{self, IoSlice, IoSliceMut};
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
