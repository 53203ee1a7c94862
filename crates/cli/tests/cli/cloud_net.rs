//! A host's network: a namespace with one cable to this one, and at this end of it a relay to the S3 server on loopback.

use crate::world::World;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_orlop");

/// A network namespace and its cable; both are gone with the handle.
pub(crate) struct Net {
    name: String,
    cable: String,
    addr: SocketAddr,
    over: Arc<AtomicBool>,
}

fn ip(words: &[&str]) {
    let done = Command::new("ip").args(words).output().expect("ip runs");
    assert!(done.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr));
}

impl Net {
    /// Whether namespaces can be made here; a test that cannot run says so.
    pub(crate) fn possible(test: &str) -> bool {
        let name = format!("orlop-try-{}-{:?}", std::process::id(), std::thread::current().id()).replace(['(', ')'], "");
        let made = Command::new("ip").args(["netns", "add", &name]).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
        if made {
            ip(&["netns", "del", &name]);
        } else {
            eprintln!("SKIPPED {test}: needs ip and the right to make network namespaces");
        }
        made
    }

    /// A namespace from which the server can be reached through a cable.
    pub(crate) fn new(n: u8, server: SocketAddr) -> Net {
        // Tests run side by side in processes of their own, each with two hosts.
        let pid = std::process::id();
        let (name, cable, peer) = (format!("orlop-{pid}-{n}"), format!("o{pid}h{n}"), format!("o{pid}p{n}"));
        let (high, low) = ((pid >> 6 & 0xff) as u8, (pid & 0x3f) as u8 * 4);
        // Addresses that are for private links; the two hosts of a test differ in the second byte.
        let (here, there) = (Ipv4Addr::new(10, 200 + n, high, low + 1), Ipv4Addr::new(10, 200 + n, high, low + 2));
        ip(&["netns", "add", &name]);
        let mut net = Net { name, cable, addr: SocketAddr::from((here, 0)), over: Arc::default() };
        ip(&["link", "add", &net.cable, "type", "veth", "peer", "name", &peer, "netns", &net.name]);
        ip(&["addr", "add", &format!("{here}/30"), "dev", &net.cable]);
        ip(&["link", "set", &net.cable, "up"]);
        ip(&["-n", &net.name, "addr", "add", &format!("{there}/30"), "dev", &peer]);
        ip(&["-n", &net.name, "link", "set", &peer, "up"]);
        ip(&["-n", &net.name, "link", "set", "lo", "up"]);
        let listener = TcpListener::bind((here, 0)).expect("the cable's address");
        net.addr = listener.local_addr().expect("a bound listener has an address");
        let over = net.over.clone();
        std::thread::spawn(move || relay(&listener, server, &over));
        net
    }

    /// Where the server is, seen from inside.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The cable is cut: nothing is refused, nothing arrives.
    pub(crate) fn cut(&self) {
        ip(&["link", "set", &self.cable, "down"]);
    }

    /// It is whole again.
    pub(crate) fn mend(&self) {
        ip(&["link", "set", &self.cable, "up"]);
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // The cable goes with the namespace; who still runs in it is ended by the world's own end.
        for words in [["link", "del", &self.cable], ["netns", "del", &self.name]] {
            let _ = Command::new("ip").args(words).stderr(Stdio::null()).status();
        }
    }
}

fn relay(listener: &TcpListener, server: SocketAddr, over: &Arc<AtomicBool>) {
    listener.set_nonblocking(true).expect("a listener can be made so");
    while !over.load(Ordering::SeqCst) {
        let Ok((near, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        let Ok(far) = TcpStream::connect(server) else { continue };
        let _ = near.set_nonblocking(false);
        let (_, _) = (near.set_nodelay(true), far.set_nodelay(true));
        if let (Ok(a), Ok(b)) = (near.try_clone(), far.try_clone()) {
            std::thread::spawn(move || pass(a, b));
            std::thread::spawn(move || pass(far, near));
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0 || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let (_, _) = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// The binary in a namespace, in the same mount namespace as everybody else.
pub(crate) fn enter(net: &Net, world: &World, words: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", Path::new("/run/netns").join(&net.name).display())).arg(PROGRAM).args(words);
    command.env("ORLOP_ROOT", &world.root).env_remove("DOCKER_HOST").stdin(Stdio::null());
    command
}
