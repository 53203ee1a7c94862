//! A real S3 server for tests: `s3s-fs`, on a free loopback port, over a temporary folder, gone with its handle.

use orlop_model::{CredentialsRef, StoreSpec};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The key id that the server knows.
pub const ACCESS_KEY: &str = "orlop-test-key";
/// Its secret. Tests that look for leaks look for this.
pub const SECRET_KEY: &str = "orlop-test-planted-secret-b61f";

/// A running S3 server.
#[derive(Debug)]
pub struct S3Server {
    child: Child,
    dir: tempfile::TempDir,
    addr: SocketAddr,
    bucket: String,
}

/// The server ends with this process: when the pipe on descriptor 0 closes. The shell ends with the server.
const GUARD: &str = r#"exec 3<&0; "$@" 3<&- </dev/null & server=$!; (read -r _ <&3; kill -9 "$server" 2>/dev/null) & wait "$server""#;

impl S3Server {
    /// Starts a server with one empty bucket; without the server's program prints why the test is skipped.
    ///
    /// # Panics
    /// If the program is there and does not serve.
    pub fn start(bucket: &str) -> Option<S3Server> {
        S3Server::launch(bucket, None)
    }

    /// The same, for clients too that name the bucket before this domain in their `Host`.
    ///
    /// # Panics
    /// If the program is there and does not serve.
    pub fn start_hosted(bucket: &str, domain: &str) -> Option<S3Server> {
        S3Server::launch(bucket, Some(domain))
    }

    fn launch(bucket: &str, domain: Option<&str>) -> Option<S3Server> {
        let Some(program) = program() else {
            println!("skipped: s3s-fs is not installed; ./dev setup installs it");
            return None;
        };
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir_all(dir.path().join("data").join(bucket)).expect("a folder for the bucket");
        let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(dir.path().join("credentials"));
        let text = format!("[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
        file.as_mut().expect("the credentials file is new").write_all(text.as_bytes()).expect("writes credentials");

        // Between finding a port and using it another process may take it.
        for _ in 0..5 {
            let addr = free_port();
            let mut child = spawn(&program, dir.path(), addr, domain);
            if answers(&mut child, addr) {
                return Some(S3Server { child, dir, addr, bucket: bucket.to_owned() });
            }
            stop(&mut child);
        }
        panic!("s3s-fs did not serve: {}", std::fs::read_to_string(dir.path().join("log")).unwrap_or_default());
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The folder that holds the objects of its bucket, one file each.
    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("data").join(&self.bucket)
    }

    /// The file with its credentials, in the form of Amazon's tools.
    pub fn credentials_file(&self) -> PathBuf {
        self.dir.path().join("credentials")
    }

    /// A store in its bucket, under a prefix that may be empty.
    pub fn spec(&self, prefix: &str) -> StoreSpec {
        self.spec_at(self.addr, prefix)
    }

    /// The same store, reached through another address: that of a [`super::FaultProxy`].
    pub fn spec_at(&self, addr: SocketAddr, prefix: &str) -> StoreSpec {
        StoreSpec {
            url: format!("s3://{}/{}", self.bucket, prefix).trim_end_matches('/').to_owned(),
            settings: BTreeMap::from([("endpoint".to_owned(), format!("http://{addr}")), ("region".to_owned(), "us-east-1".to_owned())]),
            credentials: Some(CredentialsRef::File(self.credentials_file().display().to_string())),
        }
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

fn stop(child: &mut Child) {
    drop(child.stdin.take());
    // It ends by itself now; if it cannot be waited for there is nothing more to do here.
    let _ = child.wait();
}

fn program() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache")))
        .map(|c| c.join("orlop/tools/bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(cache).map(|folder| folder.join("s3s-fs")).find(|p| p.is_file())
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound listener has an address")
}

fn spawn(program: &Path, dir: &Path, addr: SocketAddr, domain: Option<&str>) -> Child {
    let log = std::fs::File::create(dir.join("log")).expect("a log file");
    Command::new("sh")
        .args(["-c", GUARD, "s3-server"])
        .arg(program)
        .args(["--host", &addr.ip().to_string(), "--port", &addr.port().to_string()])
        .args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY])
        .args(domain.iter().flat_map(|d| ["--domain", d]))
        .arg(dir.join("data"))
        .stdin(Stdio::piped())
        .stdout(log.try_clone().expect("a second handle of the log"))
        .stderr(log)
        .spawn()
        .expect("sh runs")
}

fn answers(child: &mut Child, addr: SocketAddr) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        if TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_ok() {
            return true;
        }
        if child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}
