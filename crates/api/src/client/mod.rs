//! The typed client of the local API: one method per call, errors as the daemon gave them.
//!
//! It also knows what to say when nobody answers: that is the commonest error of all.

mod content;
mod holder;
mod transport;

pub use content::Content;
pub use holder::{is_taken, is_there as has_daemon, journal_holder};
pub use transport::{Body, Endpoint, Transport};

use crate::wire::{
    AddStore, AdoptVolume, Attach, Attached, Check, CheckEvent, Collect, CreateVolume, Detach, Listing, Protect, Restore, RotateKeys,
    Shutdown, ShutdownReport, Status,
};
use hyper::Method;
use orlop_control::{AuditFilter, VerifyReport};
use orlop_model::{
    AuditEvent, CheckProgress, CheckReport, Error, ErrorKind, FoundVolume, GcReport, KeyReport, KeyRotation, Result, Space, Store,
    StoreName, StoreTest, StoreUpdate, Volume, VolumeRef, VolumeUpdate,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use time::format_description::well_known::Rfc3339;

/// How long a daemon that lives may have no socket: it makes one that was removed anew within a second or two.
const SOCKET: Duration = Duration::from_secs(4);
/// Between looks.
const PAUSE: Duration = Duration::from_millis(50);

/// The local API of the daemon of one root.
#[derive(Debug, Clone)]
pub struct Client {
    root: PathBuf,
    transport: Transport,
}

/// Where the daemon of a root answers.
fn socket_of(root: &Path) -> PathBuf {
    root.join("run/orlop.sock")
}

impl Client {
    /// The client of the daemon of a root folder. Nothing is connected before the first call.
    pub fn new(root: impl Into<PathBuf>) -> Client {
        let root = root.into();
        let transport = Transport::new(Endpoint::Unix(socket_of(&root)));
        Client { root, transport }
    }

    /// The root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The volumes, by name.
    pub async fn volumes(&self, all: bool, usage: bool) -> Result<Vec<Volume>> {
        self.get(&format!("/v1/volumes?all={all}&usage={usage}")).await
    }

    /// One volume.
    pub async fn volume(&self, volume: &VolumeRef) -> Result<Volume> {
        self.get(&format!("/v1/volumes/{volume}")).await
    }

    /// Creates a volume.
    pub async fn create(&self, request: &CreateVolume) -> Result<Volume> {
        self.send(Method::POST, "/v1/volumes", request).await
    }

    /// Changes options and labels.
    pub async fn set(&self, volume: &VolumeRef, update: &VolumeUpdate) -> Result<Volume> {
        self.send(Method::PATCH, &format!("/v1/volumes/{volume}"), update).await
    }

    /// Protects from removal, or ends that.
    pub async fn protect(&self, volume: &VolumeRef, protected: bool) -> Result<Volume> {
        self.send(Method::POST, &format!("/v1/volumes/{volume}/protect"), &Protect { protected }).await
    }

    /// Removes a volume; `None` if its data is gone already.
    pub async fn remove(&self, volume: &VolumeRef, now: bool) -> Result<Option<Volume>> {
        self.send(Method::DELETE, &format!("/v1/volumes/{volume}?now={now}"), &()).await
    }

    /// Takes a removed volume back.
    pub async fn restore(&self, volume: &VolumeRef, name: Option<String>) -> Result<Volume> {
        self.send(Method::POST, &format!("/v1/volumes/{volume}/restore"), &Restore { name }).await
    }

    /// Mounts a volume on a folder.
    pub async fn attach(&self, volume: &VolumeRef, request: &Attach) -> Result<Attached> {
        self.send(Method::POST, &format!("/v1/volumes/{volume}/attach"), request).await
    }

    /// Lets go of an attachment.
    pub async fn detach(&self, volume: &VolumeRef, request: &Detach) -> Result<Volume> {
        self.send(Method::POST, &format!("/v1/volumes/{volume}/detach"), request).await
    }

    /// What is in a folder of a volume.
    pub async fn list(&self, volume: &VolumeRef, path: &Path) -> Result<Listing> {
        self.get(&format!("/v1/volumes/{volume}/files?path={}", encode(path.as_os_str().as_bytes()))).await
    }

    /// A file of a volume, as a stream.
    pub async fn content(&self, volume: &VolumeRef, path: &Path) -> Result<Content> {
        let body = self.content_from(volume, path, 0).await?;
        Ok(Content::new(self.clone(), volume.clone(), path.to_owned(), body))
    }

    async fn content_from(&self, volume: &VolumeRef, path: &Path, offset: u64) -> Result<Body> {
        let from = if offset > 0 { format!("&offset={offset}") } else { String::new() };
        self.stream(&format!("/v1/volumes/{volume}/content?path={}{from}", encode(path.as_os_str().as_bytes()))).await
    }

    /// The keys of encrypted volumes, by their names.
    pub async fn keys(&self) -> Result<KeyReport> {
        self.get("/v1/keys").await
    }

    /// Has the master key rotated, or the data key of one volume.
    pub async fn rotate_keys(&self, volume: Option<&VolumeRef>) -> Result<KeyReport> {
        let request = RotateKeys { volume: volume.map(ToString::to_string) };
        self.send(Method::POST, "/v1/keys/rotate", &request).await
    }

    /// How far the rotation of the master key is.
    pub async fn key_rotation(&self) -> Result<Option<KeyRotation>> {
        self.get("/v1/keys/rotation").await
    }

    /// The stores, by name.
    pub async fn stores(&self) -> Result<Vec<Store>> {
        self.get("/v1/stores").await
    }

    /// One store.
    pub async fn store(&self, store: &StoreName) -> Result<Store> {
        self.get(&format!("/v1/stores/{store}")).await
    }

    /// Adds a store.
    pub async fn add_store(&self, request: &AddStore) -> Result<Store> {
        self.send(Method::POST, "/v1/stores", request).await
    }

    /// Changes how a store is reached.
    pub async fn set_store(&self, store: &StoreName, update: &StoreUpdate) -> Result<Store> {
        self.send(Method::PATCH, &format!("/v1/stores/{store}"), update).await
    }

    /// Examines a store again.
    pub async fn test_store(&self, store: &StoreName) -> Result<StoreTest> {
        self.send(Method::POST, &format!("/v1/stores/{store}/test"), &()).await
    }

    /// Forgets a store.
    pub async fn remove_store(&self, store: &StoreName) -> Result<()> {
        self.send::<_, Option<Store>>(Method::DELETE, &format!("/v1/stores/{store}"), &()).await.map(drop)
    }

    /// The volumes that lie in a store, whoever made them.
    pub async fn found(&self, store: &StoreName) -> Result<Vec<FoundVolume>> {
        self.get(&format!("/v1/stores/{store}/volumes")).await
    }

    /// Makes a volume known that lies in a store.
    pub async fn adopt(&self, store: &StoreName, request: &AdoptVolume) -> Result<Volume> {
        self.send(Method::POST, &format!("/v1/stores/{store}/volumes"), request).await
    }

    /// Reads all of a volume; with `repair` sets right what can be. `progress` is told how far it is.
    pub async fn check(&self, volume: &VolumeRef, repair: bool, mut progress: impl FnMut(&CheckProgress)) -> Result<CheckReport> {
        let body = serde_json::to_vec(&Check { repair }).map_err(|e| Error::internal(format!("the request is not JSON: {e}")))?;
        let path = format!("/v1/volumes/{volume}/check");
        let mut answer = self.checked(self.request(Method::POST, &path, Some(body)).await).await?;
        let mut rest = Vec::new();
        while let Some(piece) = answer.next().await? {
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let event = serde_json::from_slice(&line)
                    .map_err(|e| Error::internal(format!("the answer is not what this version expects: {e}")))?;
                match event {
                    CheckEvent::Progress(p) => progress(&p),
                    CheckEvent::Report(report) => return Ok(*report),
                    CheckEvent::Error(e) => return Err(e),
                }
            }
        }
        Err(Error::unavailable("the daemon broke the check off").with_remedy("see what it does with: orlop doctor, and check again"))
    }

    /// Where the bytes of a volume are.
    pub async fn space(&self, volume: &VolumeRef) -> Result<Space> {
        self.get(&format!("/v1/volumes/{volume}/space")).await
    }

    /// Deletes what lies in a volume's places and nothing refers to, or only tells what would go.
    pub async fn collect(&self, volume: &VolumeRef, dry_run: bool) -> Result<GcReport> {
        self.send(Method::POST, &format!("/v1/volumes/{volume}/gc"), &Collect { dry_run }).await
    }

    /// Records of the audit journal, oldest first.
    pub async fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditEvent>> {
        let mut query = Vec::new();
        let words = [("target", &filter.target), ("volume", &filter.volume), ("verb", &filter.verb), ("actor", &filter.actor)];
        for (key, value) in words {
            query.extend(value.as_ref().map(|v| format!("{key}={}", encode(v.as_bytes()))));
        }
        for (key, value) in [("since", filter.since), ("until", filter.until)] {
            query.extend(value.and_then(|t| t.format(&Rfc3339).ok()).map(|t| format!("{key}={}", encode(t.as_bytes()))));
        }
        query.extend(filter.after_seq.map(|n| format!("after_seq={n}")));
        query.extend(filter.limit.map(|n| format!("limit={n}")));
        self.get(&format!("/v1/audit?{}", query.join("&"))).await
    }

    /// The whole audit journal, as a stream.
    pub async fn audit_export(&self) -> Result<Body> {
        self.stream("/v1/audit/export").await
    }

    /// Has the audit journal checked.
    pub async fn audit_verify(&self) -> Result<VerifyReport> {
        self.get("/v1/audit/verify").await
    }

    /// What runs.
    pub async fn status(&self) -> Result<Status> {
        self.get("/v1/status").await
    }

    /// Brings the host in line with the registry now.
    pub async fn reconcile(&self) -> Result<Status> {
        self.send(Method::POST, "/v1/reconcile", &serde_json::json!({})).await
    }

    /// Ends the daemon.
    pub async fn shutdown(&self, request: &Shutdown) -> Result<ShutdownReport> {
        self.send(Method::POST, "/v1/shutdown", request).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.stream(path).await?.json().await
    }

    async fn stream(&self, path: &str) -> Result<Body> {
        self.checked(self.request(Method::GET, path, None).await).await
    }

    async fn send<B: Serialize, T: DeserializeOwned>(&self, method: Method, path: &str, body: &B) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|e| Error::internal(format!("the request is not JSON: {e}")))?;
        self.checked(self.request(method, path, Some(body)).await).await?.json().await
    }

    /// Waits for the socket of a daemon that lives. Nothing was sent before it is there.
    async fn request(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Body> {
        let began = Instant::now();
        loop {
            match self.transport.request(method.clone(), path, body.clone()).await {
                Err(e) if e.kind == ErrorKind::NotFound && began.elapsed() < SOCKET && holder::is_there(&self.root) => {
                    tokio::time::sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    async fn checked(&self, answer: Result<Body>) -> Result<Body> {
        let body = answer.map_err(|e| self.explained(e))?;
        if body.status.is_success() {
            return Ok(body);
        }
        let status = body.status;
        let bytes = body.bytes().await?;
        Err(serde_json::from_slice::<Error>(&bytes)
            .unwrap_or_else(|_| Error::internal(format!("the daemon answered {status}: {}", String::from_utf8_lossy(&bytes)))))
    }

    fn explained(&self, e: Error) -> Error {
        let root = self.root.display();
        let up = match self.root == Path::new("/var/lib/orlop") {
            true => "orlop up".to_owned(),
            false => format!("orlop up --root {root}"),
        };
        let socket = socket_of(&self.root);
        match e.kind {
            _ if socket.is_dir() => Error::unavailable(format!("a folder is in the place of the daemon's socket {}", socket.display()))
                .with_remedy(format!("remove it: rm -r {}; the socket is made within a second then", socket.display())),
            ErrorKind::NotFound if holder::is_there(&self.root) => {
                let (process, end) = match holder::process(&self.root) {
                    Some(pid) => (format!(" (process {pid})"), format!("end it with kill {pid} (mounts stay)")),
                    None => (String::new(), "end it (mounts stay)".to_owned()),
                };
                let what = format!("the daemon of the root folder {root} runs{process}, but nobody answers at its socket");
                Error::unavailable(what).with_remedy(format!(
                    "try again in a moment: it makes its socket anew, or just starts or ends; if that goes on {end}, and start another \
                     with: {up}"
                ))
            }
            ErrorKind::NotFound => {
                Error::unavailable(format!("Orlop is not running on the root folder {root}")).with_remedy(format!("start it with: {up}"))
            }
            ErrorKind::Denied => {
                Error::new(ErrorKind::Denied, format!("you may not use the Orlop of the root folder {root}: {}", e.message))
                    .with_remedy("run the command as root, or as the owner of that folder")
            }
            _ => e.with_remedy(format!("see what it does with: orlop doctor --root {root}")),
        }
    }
}

/// Percent-encodes all but the unreserved characters and the slash.
fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for b in bytes {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(char::from(*b)),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded_for_a_query() {
        assert_eq!(encode("/a b/ä&c=%".as_bytes()), "/a%20b/%C3%A4%26c%3D%25");
        assert_eq!(encode(b"/n\xffme"), "/n%FFme");
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_run_is_named_with_the_command_that_starts_it() {
        let root = tempfile::tempdir().expect("temporary folder");
        let absent = Client::new(root.path()).status().await.expect_err("nobody listens");
        assert_eq!(absent.kind, ErrorKind::Unavailable);
        assert!(absent.remedy.expect("remedy").contains("orlop up --root"));
        // A socket file that nobody listens on any more is the same to the user.
        std::fs::create_dir(root.path().join("run")).expect("folder");
        drop(std::os::unix::net::UnixListener::bind(root.path().join("run/orlop.sock")).expect("socket"));
        let dead = Client::new(root.path()).status().await.expect_err("nobody listens");
        assert_eq!(dead.kind, ErrorKind::Unavailable);
        assert!(dead.remedy.expect("remedy").contains("orlop up --root"));
    }

    #[tokio::test]
    async fn a_daemon_that_lives_is_waited_for_and_not_said_to_be_down() {
        let root = tempfile::tempdir().expect("temporary folder");
        let folder = root.path().canonicalize().expect("there").join("run");
        std::fs::create_dir(&folder).expect("folder");
        let pid = std::process::id();
        std::fs::write(folder.join("daemon.lock"), pid.to_string()).expect("written");
        let lock = std::fs::File::open(folder.join("daemon.lock")).expect("opens");
        lock.lock().expect("locked");
        let client = Client::new(folder.parent().expect("the root"));
        let began = Instant::now();
        let silent = client.status().await.expect_err("nobody listens");
        assert!(began.elapsed() >= SOCKET);
        assert_eq!(silent.kind, ErrorKind::Unavailable);
        assert!(silent.message.contains(&format!("runs (process {pid})")), "{silent}");
        assert!(silent.remedy.expect("remedy").contains(&format!("kill {pid} ")));
        drop(lock);
        let absent = client.status().await.expect_err("nobody listens");
        assert!(absent.message.contains("not running"), "{absent}");
    }
}
