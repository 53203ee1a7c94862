//! A proxy between a client and an HTTP server on loopback that breaks what it is told to break, when it is told to.
//!
//! It has a thread of its own, so it serves tests with and without a runtime, and stalls with none. What it does wrong
//! is set at run time ([`Faults`], [`Rule`], [`Fault`]) and the same for the same seed. It counts what passes. Requests
//! are read whole before they are passed on; answers stream.

mod relay;
mod rules;
mod wire;

pub use rules::{Fault, Faults, Rule};

use rules::Judge;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

/// The most requests that are remembered one by one; the counts go on.
const REMEMBERED: usize = 200_000;

/// What passed through a proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The method and target of each request, those that were refused included.
    pub requests: Vec<(String, String)>,
    /// How many there were.
    pub count: u64,
    /// Bytes of bodies towards the server.
    pub up: u64,
    /// Bytes of bodies towards the client.
    pub down: u64,
    /// How many faults were made. A test that expects some checks that this is not 0.
    pub injected: u64,
}

impl Seen {
    /// How many requests had this method and a target that contains this.
    pub fn of(&self, method: &str, part: &str) -> usize {
        self.requests.iter().filter(|(m, t)| m == method && t.contains(part)).count()
    }
}

/// A running proxy; it ends with its handle.
#[derive(Debug)]
pub struct FaultProxy {
    shared: Arc<Shared>,
    addr: SocketAddr,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What the handle and the proxy's thread share.
#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    judge: Mutex<Judge>,
    seen: Mutex<Seen>,
    /// Counts the changes of the faults; none means that the handle is gone.
    generation: watch::Sender<Option<u64>>,
    /// For [`Fault::OneAtATime`]: held by the one write that may pass, or by reads.
    turn: tokio::sync::RwLock<()>,
}

impl Shared {
    fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().expect("no code panics while it holds this lock")
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no code panics while it holds this lock")
    }

    fn generation(&self) -> Option<u64> {
        *self.generation.borrow()
    }

    /// Waits until the faults are not those of this generation any more.
    async fn changes(&self, since: Option<u64>) {
        // The sender is in the same place as this, and so outlives it.
        let _ = self.generation.subscribe().wait_for(|now| *now != since).await;
    }

    async fn goes_down(&self) {
        let _ = self.generation.subscribe().wait_for(|_| self.judge().down()).await;
    }

    /// A request is here: it is counted, and judged.
    fn arrives(&self, method: &str, target: &str) -> (Vec<Fault>, u64) {
        let (all, chance) = self.judge().judge(method, target);
        let mut seen = self.seen();
        seen.count += 1;
        if seen.requests.len() < REMEMBERED {
            seen.requests.push((method.to_owned(), target.to_owned()));
        }
        (all, chance)
    }

    fn moved(&self, up: u64, down: u64) {
        let mut seen = self.seen();
        seen.up += up;
        seen.down += down;
    }
}

impl FaultProxy {
    /// Starts a proxy, without faults, before the server at this address.
    ///
    /// # Panics
    /// If this host has no free loopback port or no threads left.
    pub fn start(upstream: SocketAddr) -> FaultProxy {
        let shared = Arc::new(Shared {
            upstream,
            judge: Mutex::default(),
            seen: Mutex::default(),
            generation: watch::Sender::new(Some(0)),
            turn: tokio::sync::RwLock::default(),
        });
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("fault-proxy".into())
            .spawn(move || {
                runtime.block_on(async {
                    let listener = TcpListener::from_std(listener).expect("the listener is non-blocking");
                    serve(theirs, listener, addr).await;
                });
            })
            .expect("a thread");
        FaultProxy { shared, addr, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// These faults from now on, and no others.
    pub fn set(&self, faults: Faults) {
        self.shared.judge().set(faults);
        self.shared.generation.send_modify(|n| *n = n.map(|n| n + 1));
    }

    /// Nothing goes wrong from now on.
    pub fn heal(&self) {
        self.set(Faults::none());
    }

    /// What passed since the start, or since [`FaultProxy::forget`].
    pub fn seen(&self) -> Seen {
        let injected = self.shared.judge().injected;
        Seen { injected, ..self.shared.seen().clone() }
    }

    /// Starts to count anew.
    pub fn forget(&self) {
        self.shared.judge().injected = 0;
        *self.shared.seen() = Seen::default();
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.generation.send_replace(None);
        if let Some(thread) = self.thread.take() {
            // It panicked then, and said so; the test is over anyway.
            let _ = thread.join();
        }
    }
}

async fn serve(shared: Arc<Shared>, listener: TcpListener, addr: SocketAddr) {
    let mut listener = Some(listener);
    loop {
        let now = shared.generation();
        if now.is_none() {
            return;
        }
        if shared.judge().down() {
            // Bound and not listening: connections are refused, and nobody else can take the port.
            drop(listener.take());
            let held = bind(addr).await;
            loop {
                // Read before the question: a change after it is then not missed.
                let now = shared.generation();
                if now.is_none() || !shared.judge().down() {
                    break;
                }
                shared.changes(now).await;
            }
            listener = Some(held.listen(1024).expect("a bound socket can listen"));
        }
        let open = listener.as_ref().expect("it is put back above");
        tokio::select! {
            accepted = open.accept() => if let Ok((stream, _)) = accepted {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move { relay::connection(&shared, stream).await });
            },
            () = shared.changes(now) => {}
        }
    }
}

async fn bind(addr: SocketAddr) -> TcpSocket {
    loop {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option that every socket has");
        if socket.bind(addr).is_ok() {
            return socket;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
