//! How daemon, keeper and workers talk: a Unix stream socket, frames of a length and JSON, descriptors beside a
//! frame, a greeting with a version first, and nobody let in but root and the process's own user.
//!
//! One connection carries one conversation; whoever listens serves each on a thread of its own.

use crate::os;
use nix::sys::socket::sockopt::PeerCredentials;
use orlop_model::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of the conversations; raised when an older peer could misread one.
const PROTOCOL: u32 = 1;
const LONGEST_FRAME: usize = 16 << 20;
const GREETING_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
struct Greeting {
    orlop: u32,
    pid: u32,
}

/// One end of a conversation.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    peer: u32,
}

// A socket's path has room for 107 bytes; a longer one is named through its folder's descriptor.
fn reachable(path: &Path) -> io::Result<(Option<File>, PathBuf)> {
    if path.as_os_str().as_bytes().len() < 108 {
        return Ok((None, path.to_owned()));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let dir = File::open(parent)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    Ok((Some(dir), short))
}

/// Listens on a path, in place of a stale socket that may be there: the new one appears whole, by renaming.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    let (_held, path) = reachable(path)?;
    let mut fresh = path.clone().into_os_string();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, &path)?;
    Ok(listener)
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_held, short) = reachable(path)?;
    UnixStream::connect(short)
}

/// Whether nobody will ever answer at a path: there is no socket, or the process that listened is gone. Whoever only does not
/// answer now is not gone.
pub(crate) fn is_deserted(path: &Path) -> bool {
    connect(path).is_err_and(|e| matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound))
}

impl Connection {
    /// Connects and greets.
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let stream = connect(path).map_err(|e| Error::unavailable(format!("nobody answers at {}: {e}", path.display())))?;
        Connection::new(stream)
    }

    /// A conversation after the greeting, for the fuzz targets.
    pub(crate) fn over(stream: UnixStream) -> Self {
        Connection { stream, peer: 0 }
    }

    /// Greets over a stream that is there already. Both ends do the same.
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        let io = |e: io::Error| Error::unavailable(format!("greeting a peer: {e}"));
        let credentials = nix::sys::socket::getsockopt(&stream, PeerCredentials).map_err(|e| io(e.into()))?;
        let me = nix::unistd::geteuid().as_raw();
        if credentials.uid() != 0 && credentials.uid() != me {
            return Err(Error::new(ErrorKind::Denied, format!("user {} may not talk to this process", credentials.uid())));
        }
        let mut connection = Connection { stream, peer: 0 };
        connection.limit(Some(GREETING_LIMIT));
        let sent = connection.send(&Greeting { orlop: PROTOCOL, pid: std::process::id() }, &[]);
        // A peer that refused us and left has still said why.
        let (greeting, _): (Greeting, _) = match connection.receive() {
            Ok(received) => received,
            Err(e) => return Err(sent.err().unwrap_or(e)),
        };
        if greeting.orlop != PROTOCOL {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("process {} speaks version {} and this one version {PROTOCOL}", greeting.pid, greeting.orlop),
            )
            .with_remedy("restart the older of the two: orlop down, orlop up"));
        }
        sent?;
        connection.peer = greeting.pid;
        connection.limit(None);
        Ok(connection)
    }

    /// The other process.
    pub(crate) fn peer(&self) -> u32 {
        self.peer
    }

    /// How long a later receive or send may take.
    pub(crate) fn limit(&self, limit: Option<Duration>) {
        // Fails only for a limit of zero, which nobody sets.
        let _ = self.stream.set_read_timeout(limit);
        let _ = self.stream.set_write_timeout(limit);
    }

    /// Sends a message with descriptors.
    pub(crate) fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let body = serde_json::to_vec(message).map_err(|e| Error::internal(format!("encoding a message: {e}")))?;
        let mut frame = Vec::with_capacity(4 + body.len());
        frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
        frame.extend_from_slice(&body);
        let send = || -> io::Result<()> {
            let sent = os::send_with(self.stream.as_fd(), &frame, fds)?;
            (&self.stream).write_all(&frame[sent..])
        };
        send().map_err(|e| Error::unavailable(format!("sending to process {}: {e}", self.peer)))
    }

    /// Receives a message with its descriptors.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>)> {
        let lost = |e: io::Error| {
            let why = match e.kind() {
                io::ErrorKind::UnexpectedEof => "it ended the conversation".to_owned(),
                io::ErrorKind::WouldBlock => "it does not answer in time".to_owned(),
                _ => e.to_string(),
            };
            Error::unavailable(format!("waiting for process {}: {why}", self.peer))
        };
        let mut header = [0u8; 4];
        let mut filled = 0;
        let mut fds = Vec::new();
        while filled < header.len() {
            match os::receive_with(self.stream.as_fd(), &mut header[filled..]) {
                Ok((0, _)) => return Err(lost(io::ErrorKind::UnexpectedEof.into())),
                Ok((n, more)) => {
                    filled += n;
                    fds.extend(more);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(lost(e)),
            }
        }
        let length = u32::from_le_bytes(header) as usize;
        if length > LONGEST_FRAME {
            return Err(Error::internal(format!("process {} sent a frame of {length} bytes", self.peer)));
        }
        let mut body = vec![0u8; length];
        (&self.stream).read_exact(&mut body).map_err(lost)?;
        let message = serde_json::from_slice(&body)
            .map_err(|e| Error::internal(format!("process {} sent a message that cannot be read: {e}", self.peer)))?;
        Ok((message, fds))
    }

    /// Sends a request and receives its answer.
    pub(crate) fn ask<Q: Serialize, A: DeserializeOwned>(&self, request: &Q, fds: &[BorrowedFd<'_>]) -> Result<(A, Vec<OwnedFd>)> {
        self.send(request, fds)?;
        let (answer, fds): (Result<A>, _) = self.receive()?;
        Ok((answer?, fds))
    }

    /// Answers a request.
    pub(crate) fn answer<A: Serialize>(&self, answer: &Result<A>, fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.send(answer, fds)
    }
}

/// Accepts conversations for ever, each on a thread of its own; returns when the listener fails for good.
pub(crate) fn accept_all<F>(listener: &UnixListener, name: &str, serve: F)
where
    F: Fn(Connection) + Clone + Send + 'static,
{
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let serve = serve.clone();
                let spawned =
                    std::thread::Builder::new().name(name.to_owned()).stack_size(512 << 10).spawn(move || match Connection::new(stream) {
                        Ok(connection) => serve(connection),
                        Err(e) => tracing::debug!("a conversation ended before it began: {e}"),
                    });
                if let Err(e) = spawned {
                    tracing::error!("no thread for a conversation: {e}");
                }
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::ECONNABORTED)) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)) => {
                tracing::error!("accepting a conversation: {e}");
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(e) => {
                tracing::debug!("no more conversations: {e}");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors_cross_a_socket_with_a_long_path() {
        let dir = std::env::temp_dir().join(format!("orlop-wire-{}", std::process::id())).join("x".repeat(120));
        std::fs::create_dir_all(&dir).expect("folder");
        let path = dir.join("a.sock");
        assert!(is_deserted(&path));
        let listener = listen(&path).expect("listens");
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("accepts");
            let c = Connection::new(stream).expect("greets");
            let (n, mut fds): (u32, _) = c.receive().expect("a number");
            let mut file = File::from(fds.pop().expect("a descriptor"));
            let mut text = String::new();
            file.read_to_string(&mut text).expect("reads");
            c.answer(&Ok::<_, Error>(format!("{n} {text}")), &[]).expect("answers");
            let (_, _): (u32, _) = c.receive().expect("another");
            c.answer(&Err::<String, _>(Error::not_found("no such thing")), &[]).expect("answers");
        });
        let file = dir.join("f");
        std::fs::write(&file, "hello").expect("writes");
        let c = Connection::connect(&path).expect("connects");
        assert_eq!(c.peer(), std::process::id());
        let file = File::open(&file).expect("opens");
        let (answer, _): (String, _) = c.ask(&7u32, &[file.as_fd()]).expect("answered");
        assert_eq!(answer, "7 hello");
        let error = c.ask::<_, String>(&8u32, &[]).expect_err("refused");
        assert_eq!(error, Error::not_found("no such thing"));
        server.join().expect("server");
        std::fs::remove_dir_all(dir.parent().expect("parent")).expect("removed");
        assert_eq!(Connection::connect(&path).expect_err("gone").kind, ErrorKind::Unavailable);
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let (a, b) = UnixStream::pair().expect("pair");
        let other = std::thread::spawn(move || {
            let c = Connection { stream: b, peer: 0 };
            c.send(&Greeting { orlop: 99, pid: 5 }, &[]).expect("sends");
        });
        let error = Connection::new(a).expect_err("another version");
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message.contains("99") && error.remedy.is_some(), "{error}");
        other.join().expect("peer");
    }
}
