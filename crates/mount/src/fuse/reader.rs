//! Who reads the kernel's requests: one thread at a time, the leader. docs/design/0003-reading-requests.md has the figures.
//!
//! The leader carries out what is light itself and reads on, so that one caller after another costs no thread's waking,
//! and after an answer it asks the device again for some microseconds before it sleeps, as long as that is rewarded.
//! Before work that takes long, and when requests pile up, it makes another thread the leader. Should work that
//! looked light take long all the same, the sentry does.

use super::buffer::{Message, Pool};
use super::request::{Header, Weight};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Threads that read. Those that wait go on elsewhere, so a few are enough.
const THREADS: usize = 4;
/// How long the device is asked again before the leader sleeps: what a busy caller needs from an answer to its next request.
const ASKING: Duration = Duration::from_micros(60);
/// After so many askings in vain, the longest pause: so many requests are waited for asleep.
const LONGEST_PAUSE: u32 = 256;
/// Requests in a row that lay ready, after which even light ones are shared out.
const PILE: u32 = 8;
/// Requests in a row of one thread alone, after which nobody else is taken to need the device.
const ALONE: u32 = 32;
/// Whose requests nobody waits for, such as those that write pages back.
const KERNEL: u32 = 0;
/// How long the leader may be at work on one request.
const PATIENCE: Duration = Duration::from_millis(2);
/// Looks without a new request after which the sentry sleeps.
const QUIET: u32 = 50;

/// A request as it was read.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) header: Header,
    pub(super) message: Message,
    /// Whether the thread that carries it out may wait for the disk: it leads no more, or nobody else is there.
    pub(super) may_wait: bool,
}

/// What the threads share.
#[derive(Debug)]
pub(super) struct Desk {
    device: Arc<OwnedFd>,
    pool: Arc<Pool>,
    /// Whether there is a leader.
    led: Mutex<bool>,
    /// A leader is wanted, or all is over.
    wanted: Condvar,
    /// Counts on with every step of the leader. Odd: it is at work on a request. Whoever makes an odd number even has
    /// the lead: the leader when it is done, or the sentry that takes it away.
    steps: AtomicU64,
    ended: AtomicBool,
    sentry: Sentry,
    /// Whether asking again can pay at all.
    may_ask: bool,
    /// The leader's alone, and handed from one to the next: bulk work makes a new leader for each request, and a new one
    /// knows no better than its predecessor whether asking pays.
    asking: Mutex<Asking>,
}

#[derive(Debug, Default)]
struct Sentry {
    asleep: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

/// What the leader remembers of the last requests.
#[derive(Debug, Default)]
struct Habits {
    /// Requests in a row that lay ready, each of another thread than the one before.
    ready: u32,
    /// The last request's thread, and how many in a row were its. What the kernel does for itself counts for nobody's.
    caller: (u32, u32),
}

/// Whether asking the device again was rewarded lately.
#[derive(Debug, Default)]
struct Asking {
    /// Askings in vain, one after the other, and for how many requests it is not tried again.
    vain: u32,
    pause: u32,
}

impl Asking {
    fn rewarded(&mut self) {
        (self.vain, self.pause) = (0, 0);
    }

    fn asked_in_vain(&mut self) {
        self.vain = (self.vain + 1).min(LONGEST_PAUSE.ilog2());
        self.pause = 1 << self.vain;
    }

    /// Whether to ask on now instead of sleeping.
    fn wants_to_ask(&mut self) -> bool {
        self.pause = self.pause.saturating_sub(1);
        self.pause == 0
    }
}

impl Habits {
    fn saw(&mut self, pid: u32, lay_ready: bool) {
        if pid == KERNEL {
            return;
        }
        self.ready = if lay_ready && self.caller.0 != pid { self.ready + 1 } else { 0 };
        self.caller = if self.caller.0 == pid { (pid, self.caller.1.saturating_add(1)) } else { (pid, 0) };
    }

    /// Whether another is to lead while a request of this weight is carried out.
    fn steps_down_for(&self, weight: Weight) -> bool {
        match weight {
            Weight::Light => self.ready >= PILE,
            Weight::Disk => self.ready > 0,
            Weight::Bulk => true,
            Weight::Sync => self.ready > 0 || self.caller.1 < ALONE,
        }
    }
}

impl Desk {
    pub(super) fn new(device: Arc<OwnedFd>, pool: Arc<Pool>) -> io::Result<Desk> {
        // The flag is the open device's own, and everybody who reads it from now on can live with it.
        let flags = OFlag::from_bits_retain(fcntl(&device, FcntlArg::F_GETFL)?);
        fcntl(&device, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let may_ask = std::thread::available_parallelism().is_ok_and(|n| n.get() > 1);
        Ok(Desk {
            device,
            pool,
            led: Mutex::new(false),
            wanted: Condvar::new(),
            steps: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            sentry: Sentry::default(),
            may_ask,
            asking: Mutex::default(),
        })
    }

    /// Starts the threads. Each ends when the connection has; the first error is one of theirs.
    pub(super) fn start(self: &Arc<Self>, handle: impl Fn(Received) + Clone + Send + 'static) -> io::Result<Vec<Thread>> {
        let mut threads = Vec::new();
        for n in 0..THREADS {
            let (desk, handle) = (self.clone(), handle.clone());
            let name = format!("fuse-{n}");
            threads.push(std::thread::Builder::new().name(name).spawn(move || desk.serve(&handle))?);
        }
        let desk = self.clone();
        threads.push(std::thread::Builder::new().name("fuse-sentry".to_owned()).spawn(move || {
            desk.keep_watch();
            Ok(())
        })?);
        Ok(threads)
    }

    /// A thread's life: follower, leader, follower.
    fn serve(&self, handle: &impl Fn(Received)) -> io::Result<()> {
        loop {
            {
                let mut led = self.led.lock();
                while *led && !self.is_over() {
                    self.wanted.wait(&mut led);
                }
                if self.is_over() {
                    return Ok(());
                }
                *led = true;
            }
            if let Err(e) = self.lead(handle) {
                self.end();
                return if e == Errno::ENODEV { Ok(()) } else { Err(e.into()) };
            }
        }
    }

    /// Reads and carries out, until the lead is given or taken away.
    fn lead(&self, handle: &impl Fn(Received)) -> nix::Result<()> {
        let mut habits = Habits::default();
        loop {
            let (message, lay_ready) = self.next(&mut self.asking.lock())?;
            let Some(header) = Header::read(message.bytes()) else {
                tracing::error!("the kernel sent {} bytes that are no request", message.bytes().len());
                return Err(Errno::EPROTO);
            };
            habits.saw(header.pid, lay_ready);
            let weight = header.weight(message.bytes());
            if habits.steps_down_for(weight) {
                self.step_down();
                handle(Received { header, message, may_wait: true });
                return Ok(());
            }
            let at_work = self.steps.fetch_add(1, Ordering::SeqCst) + 1;
            if self.sentry.asleep.load(Ordering::SeqCst) {
                let _held = self.sentry.lock.lock();
                self.sentry.wake.notify_one();
            }
            handle(Received { header, message, may_wait: weight == Weight::Sync });
            if self.steps.compare_exchange(at_work, at_work + 1, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                return Ok(());
            }
        }
    }

    /// The next request, and whether it lay ready.
    fn next(&self, asking: &mut Asking) -> nix::Result<(Message, bool)> {
        let mut message = Message::place(&self.pool);
        if self.ask(&mut message)? {
            asking.rewarded();
            return Ok((message, true));
        }
        if self.may_ask && asking.wants_to_ask() {
            let since = Instant::now();
            while since.elapsed() < ASKING {
                // Whoever else wants this core has it first.
                std::thread::yield_now();
                if self.ask(&mut message)? {
                    asking.rewarded();
                    return Ok((message, false));
                }
            }
            asking.asked_in_vain();
        }
        loop {
            // One who sleeps needs no buffer.
            drop(message);
            let since = Instant::now();
            match poll(&mut [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(e) => return Err(e),
            }
            if since.elapsed() < ASKING {
                asking.rewarded();
            }
            message = Message::place(&self.pool);
            if self.ask(&mut message)? {
                return Ok((message, false));
            }
        }
    }

    /// Reads a request if there is one.
    fn ask(&self, message: &mut Message) -> nix::Result<bool> {
        match nix::unistd::read(&self.device, message.space()) {
            Ok(n) => {
                message.filled(n);
                Ok(true)
            }
            // ENOENT: its caller gave it up while it was being read.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn step_down(&self) {
        *self.led.lock() = false;
        self.wanted.notify_one();
    }

    fn is_over(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        // Held once, so that nobody is between looking and falling asleep.
        drop(self.led.lock());
        self.wanted.notify_all();
        drop(self.sentry.lock.lock());
        self.sentry.wake.notify_one();
    }

    /// Takes the lead away from a thread that is at work on one request for long.
    fn keep_watch(&self) {
        let (mut seen, mut quiet) = (0, 0);
        while !self.is_over() {
            std::thread::sleep(PATIENCE);
            let now = self.steps.load(Ordering::SeqCst);
            let at_work = now % 2 == 1;
            if now != seen {
                (seen, quiet) = (now, 0);
                continue;
            }
            if at_work {
                if self.steps.compare_exchange(now, now + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                    self.step_down();
                }
                continue;
            }
            quiet += 1;
            if quiet >= QUIET {
                let mut held = self.sentry.lock.lock();
                self.sentry.asleep.store(true, Ordering::SeqCst);
                if self.steps.load(Ordering::SeqCst) == now && !self.is_over() {
                    self.sentry.wake.wait(&mut held);
                }
                self.sentry.asleep.store(false, Ordering::SeqCst);
                quiet = 0;
            }
        }
    }
}

/// A thread of the desk.
pub(super) type Thread = std::thread::JoinHandle<io::Result<()>>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::request;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::sync::mpsc;

    /// A desk on a socket in the device's place, whose other end is the kernel's part; what was carried out is told.
    struct Office {
        kernel: Option<OwnedFd>,
        threads: Vec<Thread>,
        done: mpsc::Receiver<(u32, bool)>,
        hold: Arc<Mutex<()>>,
    }

    impl Office {
        fn open() -> Office {
            let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("socketpair");
            let desk = Arc::new(Desk::new(Arc::new(ours), Arc::default()).expect("a desk"));
            let (tell, done) = mpsc::channel();
            let hold = Arc::new(Mutex::new(()));
            let held = hold.clone();
            let threads = desk
                .start(move |received: Received| {
                    // Requests of thread 1 wait for whoever holds this.
                    if received.header.pid == 1 {
                        drop(held.lock());
                    }
                    let _ = tell.send((received.header.pid, received.may_wait));
                })
                .expect("threads");
            Office { kernel: Some(theirs), threads, done, hold }
        }

        fn say(&self, example: usize, pid: u32) {
            let mut bytes = request::examples().swap_remove(example);
            bytes[32..36].copy_from_slice(&pid.to_ne_bytes());
            nix::unistd::write(self.kernel.as_ref().expect("open"), &bytes).expect("said");
        }

        fn next(&self) -> (u32, bool) {
            self.done.recv_timeout(Duration::from_secs(20)).expect("carried out")
        }

        /// A socket has no ENODEV; an empty message is no request, which ends the desk as well.
        fn close(mut self) -> Vec<io::Result<()>> {
            drop(self.kernel.take());
            self.threads.drain(..).map(|t| t.join().expect("no panic")).collect()
        }
    }

    const LOOKUP: usize = 0;
    const FSYNC: usize = 15;

    #[test]
    fn requests_are_carried_out_in_turn_and_the_threads_end_with_the_connection() {
        let office = Office::open();
        for pid in 10..200 {
            office.say(LOOKUP, pid);
            assert_eq!(office.next().0, pid);
        }
        let ended = office.close();
        assert_eq!(ended.iter().filter(|e| e.is_err()).count(), 1, "one has seen the end, the others are told: {ended:?}");
        assert_eq!(ended.len(), THREADS + 1);
    }

    #[test]
    fn a_request_that_takes_long_keeps_no_other_from_being_read() {
        let office = Office::open();
        for round in 0..20 {
            let held = office.hold.lock();
            office.say(LOOKUP, 1);
            office.say(LOOKUP, 2);
            assert_eq!(office.next().0, 2, "round {round}: the sentry makes another the leader");
            if round % 5 == 4 {
                // It has fallen asleep, and is woken again.
                std::thread::sleep(PATIENCE * (QUIET + 20));
            }
            drop(held);
            assert_eq!(office.next().0, 1);
        }
        office.close();
    }

    #[test]
    fn as_many_as_there_are_threads_may_wait_at_a_time() {
        let office = Office::open();
        let held = office.hold.lock();
        for _ in 0..THREADS - 1 {
            office.say(FSYNC, 1);
        }
        for pid in 5..15 {
            office.say(LOOKUP, pid);
            assert_eq!(office.next().0, pid);
        }
        drop(held);
        for _ in 0..THREADS - 1 {
            assert_eq!(office.next(), (1, true));
        }
        office.close();
    }

    #[test]
    fn a_flood_is_carried_out_whole() {
        let office = Office::open();
        for n in 0..5000 {
            office.say(if n % 7 == 0 { FSYNC } else { LOOKUP }, 3 + n % 3);
            if n % 64 == 63 {
                for _ in 0..64 {
                    office.next();
                }
            }
        }
        for _ in 0..5000 % 64 {
            office.next();
        }
        assert!(office.done.try_recv().is_err(), "each once");
        office.close();
    }

    #[test]
    fn asking_pauses_longer_the_longer_it_is_in_vain() {
        let mut asking = Asking::default();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let mut n = 0;
            while !asking.wants_to_ask() {
                n += 1;
            }
            pauses.push(n);
            asking.asked_in_vain();
        }
        assert_eq!(pauses, [0, 1, 3, 7, 15, 31, 63, 127, 255, 255, 255, 255]);
        asking.rewarded();
        assert!(asking.wants_to_ask());
    }

    #[test]
    fn who_is_alone_waits_for_the_disk_in_place() {
        let mut habits = Habits::default();
        for _ in 0..=ALONE {
            habits.saw(7, false);
        }
        assert!(!habits.steps_down_for(Weight::Sync) && !habits.steps_down_for(Weight::Disk) && habits.steps_down_for(Weight::Bulk));
        habits.saw(8, false);
        assert!(habits.steps_down_for(Weight::Sync), "another has come");
        for _ in 0..ALONE {
            habits.saw(8, true);
            habits.saw(KERNEL, true);
        }
        assert!(!habits.steps_down_for(Weight::Disk), "one thread that is fast, and the kernel's own writing, are no crowd");
        habits.saw(9, true);
        assert!(habits.steps_down_for(Weight::Disk) && !habits.steps_down_for(Weight::Light), "and requests pile up");
        for pid in 0..PILE {
            habits.saw(8 + pid % 2, true);
        }
        assert!(habits.steps_down_for(Weight::Light));
    }
}
