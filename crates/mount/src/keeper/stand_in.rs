//! Who answers while a volume has no worker and none comes, since its store does not answer or another host has had the volume.
//!
//! A worker cannot open its volume without the store, and requests that nobody reads wait for ever, whatever the volume's outage policy
//! says. So after a while the keeper reads them. Under every policy it answers `df`, with what that wants of the volume's root folder, and
//! those who are being killed; all others are put back for the next worker. Under the policies that end the waiting it answers EIO to all
//! of them once the outage has lasted as long as the policy says; and at once, under every policy, where no worker follows.
//!
//! What is answered is done with: neither the kernel nor the next worker knows of it any more, and as after every error of an outage what
//! the dead worker had begun of it may have taken effect. What the kernel only tells is lost, as it is with a worker that dies: the next
//! one takes all that its predecessors told the kernel of for held, and asks (`worker::doubts`).

use super::poison::request_number;
use super::volume::Volume;
use crate::fuse::is_doomed;
use crate::kernel::{abi, asking, init};
use crate::os::{fuse_device_is_dead, is_readable};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use orlop_chunkfs::{BLOCK, NAME_MAX, ROOT_INO, Remote};
use orlop_model::{Error, ErrorKind, OutagePolicy};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a volume has no worker before somebody stands in: a sound one that was killed is replaced long before.
const GRACE: Duration = Duration::from_secs(2);
/// How often it is looked for requests that are answered among those that are put back.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Looking takes this part of the time at most: what is put back is read again each time.
const PART: u32 = 20;
/// How often it is looked for requests where all are answered.
const REFUSE_EVERY: Duration = Duration::from_millis(50);
/// How long the kernel may take to tell what it knows.
const KNOWING: Duration = Duration::from_secs(1);
/// Requests answered without a look whether the next worker is there: whoever gets an error may ask again at once.
const MOST: usize = 1000;

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answering {
    /// `df`, and who is being killed; all others are put back.
    Few,
    /// Everybody, with an error if nothing else is known.
    All,
}

/// A thread that answers. Once it is dropped, nobody reads any more.
#[derive(Debug)]
pub(super) struct StandIn {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    is_away: Arc<AtomicBool>,
    is_lost: Arc<AtomicBool>,
}

impl StandIn {
    /// Begins, for a volume without a worker since then. `None` for one whose home is this host: nothing is kept from it that comes back by
    /// itself. The device is read by nobody else until this is dropped.
    pub(super) fn start(v: &Volume, since: Instant) -> Option<StandIn> {
        if v.plan.store.is_local() {
            return None;
        }
        let refusing = v.plan.options.outage.unwrap_or(OutagePolicy::Wait) != OutagePolicy::Wait;
        let (device, point, resends, name) = (v.device.clone(), v.mountpoint(), v.negotiated.resends(), v.plan.name.to_string());
        // Until the first try to open it has failed for another reason, the store is what keeps it.
        let is_away = Arc::new(AtomicBool::new(true));
        let is_lost = Arc::new(AtomicBool::new(false));
        let (away, lost) = (is_away.clone(), is_lost.clone());
        let (stop, stopped) = mpsc::channel();
        let begun = std::thread::Builder::new().name("stand-in".into()).stack_size(512 << 10).spawn(move || {
            let is_over = || refusing && away.load(Ordering::Relaxed) && since.elapsed() >= Remote::default().outage_deadline;
            let due = || lost.load(Ordering::Relaxed) || is_over();
            match stand_in(&device, &point, resends, &stopped, due) {
                Ok(0) => {}
                Ok(refused) => tracing::warn!(volume = %name, refused, "requests were answered EIO, since no worker could answer them"),
                Err(e) => tracing::error!(volume = %name, "nobody answers in the worker's place: {e}"),
            }
        });
        match begun {
            Ok(thread) => Some(StandIn { stop: Some(stop), thread: Some(thread), is_away, is_lost }),
            Err(e) => {
                tracing::error!(volume = %v.plan.name, "nobody stands in for the worker: {e}");
                None
            }
        }
    }

    /// No worker follows: everybody gets an error, whatever the policy is.
    pub(super) fn refuse_all(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
    }

    /// Told why another try to open the volume has failed. One that another host has taken meanwhile is as far away as its store was.
    pub(super) fn learn(&self, e: &Error) {
        self.is_away.store(matches!(e.kind, ErrorKind::Unavailable | ErrorKind::Busy), Ordering::Relaxed);
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has ended the process.
            let _ = thread.join();
        }
    }
}

/// Answers until it is stopped or the connection has ended. Returns to how many it refused something.
fn stand_in(device: &OwnedFd, point: &Path, resends: bool, stopped: &mpsc::Receiver<()>, refuses: impl Fn() -> bool) -> io::Result<usize> {
    let device = device.as_fd();
    // A request may be taken back between the look and the reading, which must not wait for the next one then.
    let flags = OFlag::from_bits_retain(fcntl(device, FcntlArg::F_GETFL)?);
    fcntl(device, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    // As long as the longest request, or the kernel ends the one that does not fit.
    let mut buffer = Vec::new();
    let mut root = None;
    let (mut pause, mut taken_over, mut refused) = (GRACE, false, 0);
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) && !fuse_device_is_dead(device) {
        let answering = if refuses() { Answering::All } else { Answering::Few };
        if answering == Answering::Few && !resends {
            // What was read could not be put back.
            pause = LOOK_EVERY;
            continue;
        }
        buffer.resize(init::MAX_IO as usize + (64 << 10), 0);
        let began = Instant::now();
        if !taken_over {
            taken_over = true;
            root = attributes_of(point);
            if resends {
                // What the dead worker had read: its callers cannot even be killed until somebody takes care of it.
                init::resend(device)?;
            }
        }
        let swept = sweep(device, answering, root.as_ref(), &mut buffer);
        if resends && swept.as_ref().map_or(true, |s| s.kept > 0) && !fuse_device_is_dead(device) {
            init::resend(device)?;
        }
        refused += match swept {
            Ok(swept) => swept.refused,
            // The connection has ended meanwhile.
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => break,
            Err(e) => return Err(e),
        };
        pause = match answering {
            Answering::All => REFUSE_EVERY,
            Answering::Few => LOOK_EVERY.max(began.elapsed() * PART),
        };
    }
    Ok(refused)
}

/// What became of the requests that were read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Swept {
    refused: usize,
    /// Read and not answered.
    kept: usize,
}

/// Reads what is there, and answers of it what is to be answered.
fn sweep(device: BorrowedFd<'_>, answering: Answering, root: Option<&Attributes>, buffer: &mut [u8]) -> io::Result<Swept> {
    let mut swept = Swept::default();
    let mut answered = 0;
    while answered < MOST && is_readable(device) {
        let n = match nix::unistd::read(device, buffer) {
            Ok(n) => n,
            // The request was taken back while it was read.
            Err(Errno::EINTR | Errno::ENOENT | Errno::EAGAIN) => continue,
            Err(e) => return Err(e.into()),
        };
        let Some(unique) = request_number(&buffer[..n]) else { continue };
        let Some(answer) = answer(&buffer[..n], unique, answering, root) else {
            swept.kept += 1;
            continue;
        };
        answered += 1;
        match nix::unistd::write(device, &answer) {
            Ok(_) => swept.refused += usize::from(answering == Answering::All && answer.len() == abi::OUT_HEADER),
            // Its caller was killed meanwhile.
            Err(Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(swept)
}

/// The answer to a request that wants one, if it gets one here.
fn answer(request: &[u8], unique: u64, answering: Answering, root: Option<&Attributes>) -> Option<Vec<u8>> {
    const GETATTR: u32 = 3;
    const STATFS: u32 = 17;
    const OPENDIR: u32 = 27;
    const STATX: u32 = 52;
    // RELEASE, RELEASEDIR: sent for somebody who does not wait for them, and may be gone.
    const SENT_AND_FORGOTTEN: [u32; 2] = [18, 29];
    let (opcode, node, thread) = (abi::u32_at(request, 4), abi::u64_at(request, 16), abi::u32_at(request, 32));
    match (opcode, root) {
        (STATFS, _) => return Some(success(unique, &room_not_known())),
        // With these `df` begins, and whoever only looks whether the folder is there.
        (GETATTR, Some(root)) if node == ROOT_INO => return Some(success(unique, root)),
        // As every worker answers: nothing is kept for what is open.
        (OPENDIR, _) if node == ROOT_INO => return Some(success(unique, &[0; 16])),
        // No worker knows it either: the kernel asks for attributes then.
        (STATX, _) => return Some(abi::error_reply(unique, libc::ENOSYS).to_vec()),
        _ => {}
    }
    if answering == Answering::All {
        return Some(abi::error_reply(unique, libc::EIO).to_vec());
    }
    let killed = thread != 0 && !SENT_AND_FORGOTTEN.contains(&opcode) && is_doomed(thread);
    killed.then(|| abi::error_reply(unique, libc::EINTR).to_vec())
}

fn success(unique: u64, body: &[u8]) -> Vec<u8> {
    [&abi::out_header(abi::OUT_HEADER + body.len(), 0, unique), body].concat()
}

/// What `df` is told by somebody who does not know how much room there is: no blocks, as of a file system that has no size.
fn room_not_known() -> [u8; 80] {
    // Behind five counts: the sizes of a block, of a name, and of a fragment.
    const SIZES: usize = 40;
    let mut body = [0; 80];
    for (n, size) in [BLOCK as u32, NAME_MAX as u32, BLOCK as u32].into_iter().enumerate() {
        body[SIZES + 4 * n..SIZES + 4 * (n + 1)].copy_from_slice(&size.to_ne_bytes());
    }
    body
}

/// The body of the answer to a request for attributes, not to be relied on for any time.
type Attributes = [u8; 104];

/// What the kernel was last told of a volume's root folder. It is asked for without a message to the worker, which would be one to whoever
/// asks here; should it send one all the same, it is not known.
fn attributes_of(point: &Path) -> Option<Attributes> {
    let point = point.to_owned();
    let known = asking::ask_within(KNOWING, move || statx(CWD, point.as_path(), AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS));
    let known = known?.inspect_err(|e| tracing::debug!("the attributes of a volume's root folder are not known: {e}")).ok()?;
    let mut body = [0; 104];
    // Behind how long they hold: 16 bytes of zero.
    let times = [known.stx_atime, known.stx_mtime, known.stx_ctime];
    let longs = [ROOT_INO, known.stx_size, known.stx_blocks].into_iter().chain(times.iter().map(|t| t.tv_sec as u64));
    for (n, long) in longs.enumerate() {
        body[16 + 8 * n..24 + 8 * n].copy_from_slice(&long.to_ne_bytes());
    }
    let ids = [u32::from(known.stx_mode), known.stx_nlink, known.stx_uid, known.stx_gid, 0, BLOCK as u32];
    for (n, word) in times.iter().map(|t| t.tv_nsec).chain(ids).enumerate() {
        body[64 + 4 * n..68 + 4 * n].copy_from_slice(&word.to_ne_bytes());
    }
    Some(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::init::{Wishes, negotiate};
    use crate::kernel::mount;

    fn until(what: &str, mut f: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !f() {
            assert!(Instant::now() < end, "it did not come true that {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the mount before its folder is removed, also when a test fails: whoever waits there would wait for ever.
    struct Unmounted(std::path::PathBuf);

    impl Drop for Unmounted {
        fn drop(&mut self) {
            let _ = mount::unmount_by_force(&self.0);
        }
    }

    /// A mount without a worker, if this host can have one that sends requests again.
    fn deserted(dir: &Path) -> Option<Arc<OwnedFd>> {
        if !Path::new("/dev/fuse").exists() || !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs /dev/fuse and root");
            return None;
        }
        let device = mount::open_device().expect("a device");
        mount::mount_fuse(&device, "orlop-test", dir).expect("mounts");
        let negotiated = negotiate(device.as_fd(), Wishes { resend: true, cache: orlop_model::CacheMode::Strict }).expect("agrees");
        if !negotiated.resends() {
            mount::unmount_by_force(dir).expect("unmounts");
            eprintln!("skipped: this kernel cannot send requests again (Linux 6.9)");
            return None;
        }
        Some(Arc::new(device))
    }

    #[test]
    fn df_and_the_killed_are_answered_the_others_are_put_back_and_refused_when_it_is_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let Some(device) = deserted(dir.path()) else { return };
        let _unmounted = Unmounted(dir.path().to_owned());
        let refusing = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = mpsc::channel();
        let (of_it, point, refuses) = (device.clone(), dir.path().to_owned(), refusing.clone());
        let thread = std::thread::spawn(move || stand_in(&of_it, &point, true, &stopped, || refuses.load(Ordering::Relaxed)));
        let path = dir.path().join("asked");
        let asked = std::thread::spawn(move || std::fs::symlink_metadata(path).map(drop).expect_err("nobody has it").raw_os_error());
        let mut killed = std::process::Command::new("stat").arg(dir.path().join("killed")).spawn().expect("runs");

        let df = nix::sys::statvfs::statvfs(dir.path()).expect("df is answered");
        assert_eq!((df.blocks(), df.block_size(), df.name_max()), (0, 4096, 255));
        let root = std::fs::File::open(dir.path()).expect("df opens it first");
        assert!(root.metadata().expect("and looks at it").is_dir());
        std::thread::sleep(LOOK_EVERY * 3);
        assert!(!asked.is_finished() && killed.try_wait().expect("asks").is_none(), "who wants something else waits");
        killed.kill().expect("killed");
        until("who is killed is gone", || killed.try_wait().expect("asks").is_some());
        assert!(!asked.is_finished());

        refusing.store(true, Ordering::Relaxed);
        until("the waiting ends", || asked.is_finished());
        assert_eq!(asked.join().expect("returns"), Some(libc::EIO));
        drop(stop);
        assert!(thread.join().expect("no panic").expect("no error") >= 1);

        // What is put back is there for the next worker, once.
        let path = dir.path().join("next");
        let next = std::thread::spawn(move || std::fs::symlink_metadata(path).map(drop).expect_err("nobody has it").raw_os_error());
        until("it is asked", || is_readable(device.as_fd()));
        let mut buffer = vec![0u8; 2 << 20];
        assert_eq!(sweep(device.as_fd(), Answering::Few, None, &mut buffer).expect("swept"), Swept { refused: 0, kept: 1 });
        assert!(!is_readable(device.as_fd()));
        init::resend(device.as_fd()).expect("asks again");
        let n = nix::unistd::read(&*device, &mut buffer).expect("read");
        let unique = request_number(&buffer[..n]).expect("a request");
        nix::unistd::write(&*device, &abi::error_reply(unique, libc::ENOENT)).expect("answers");
        assert_eq!(next.join().expect("returns"), Some(libc::ENOENT));
    }
}
