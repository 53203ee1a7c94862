//! A control on a temporary root, whose mounts are entries in a map.

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{Method, Request, StatusCode};
use orlop_api::Host;
use orlop_api::docker::Identity;
use orlop_api::rest::Peer;
use orlop_api::wire::{HostFacts, Listing, Shutdown, ShutdownReport};
use orlop_control::{AttachedVolume, BoundDirectory, Control, ControlConfig, Formatted, Mounted, Mounter, VolumeWorker};
use orlop_model::{Actor, Capabilities, Error, Examination, FoundVolume, MountPlan, Result, StoreSpec, Usage, VolumeId};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tower::ServiceExt;

/// Mounts that exist in name only; a file `hello` is in each.
#[derive(Default)]
pub(crate) struct FakeHost {
    mounted: Mutex<BTreeMap<VolumeId, AttachedVolume>>,
    pub shutdowns: Mutex<Vec<Shutdown>>,
}

#[async_trait]
impl Mounter for FakeHost {
    async fn attach(&self, plan: &MountPlan) -> Result<Mounted> {
        let volume = AttachedVolume { plan: plan.clone(), worker_pid: 1, serving: true, binds: Vec::new(), in_use_elsewhere: false };
        self.mounted.lock().expect("whole").entry(plan.volume).or_insert(volume);
        Ok(Mounted { mountpoint: plan.mountpoint.clone(), worker_pid: 1 })
    }
    async fn detach(&self, volume: VolumeId, _force: bool) -> Result<()> {
        self.mounted.lock().expect("whole").remove(&volume);
        Ok(())
    }
    async fn settle(&self, _volume: VolumeId) -> Result<()> {
        Ok(())
    }
    async fn bind(&self, volume: VolumeId, dir: &str, read_only: bool) -> Result<()> {
        let mut mounted = self.mounted.lock().expect("whole");
        let volume = mounted.get_mut(&volume).ok_or_else(|| Error::internal("bound before it was mounted"))?;
        volume.binds.push(BoundDirectory { path: dir.to_owned(), read_only });
        Ok(())
    }
    async fn unbind(&self, dir: &str) -> Result<()> {
        for volume in self.mounted.lock().expect("whole").values_mut() {
            volume.binds.retain(|b| b.path != dir);
        }
        Ok(())
    }
    async fn attached(&self) -> Result<Vec<AttachedVolume>> {
        Ok(self.mounted.lock().expect("whole").values().cloned().collect())
    }
}

#[async_trait]
impl VolumeWorker for FakeHost {
    async fn format(&self, _plan: &MountPlan) -> Result<Formatted> {
        Ok(Formatted::Fresh)
    }
    async fn destroy(&self, _plan: &MountPlan) -> Result<()> {
        Ok(())
    }
    async fn usage(&self, _volume: VolumeId) -> Result<Usage> {
        Ok(Usage { used_bytes: 4096, inodes: 2, unsynced_bytes: 0, unsent_bytes: 0, host_bytes: 8192, stopped: None })
    }
    async fn set_quota(&self, _volume: VolumeId, _bytes: Option<u64>) -> Result<()> {
        Ok(())
    }
    async fn discard(&self, _plan: &MountPlan) -> Result<()> {
        Ok(())
    }
    async fn recover(&self, _plan: &MountPlan) -> Result<()> {
        Ok(())
    }
    async fn examine(&self, store: &StoreSpec) -> Result<Examination> {
        if store.url.contains("unreachable") {
            return Err(Error::unavailable("nobody answers").with_remedy("check the endpoint"));
        }
        let careful = !store.url.contains("careless");
        let capabilities = Capabilities {
            conditional_create: careful,
            conditional_replace: careful,
            ranged_get: true,
            multipart: true,
            strong_list: true,
            ..Default::default()
        };
        Ok(Examination { capabilities: Some(capabilities), put_micros: Some(1200), get_micros: Some(700) })
    }
    async fn find(&self, _store: &StoreSpec) -> Result<Vec<FoundVolume>> {
        Ok(vec![FoundVolume { last_host: Some("elsewhere".to_owned()), ..there(VolumeId::from_bytes([7; 16])) }])
    }
    async fn recognise(&self, plan: &MountPlan) -> Result<FoundVolume> {
        Ok(there(plan.volume))
    }
    async fn forget(&self, _plan: &MountPlan) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Host for FakeHost {
    async fn list(&self, _mountpoint: &str, path: &Path) -> Result<Listing> {
        match path.to_str() {
            Some("/") => Ok(Listing::default()),
            _ => Err(Error::not_found(format!("{} does not exist in the volume", path.display()))),
        }
    }
    async fn open(&self, _mountpoint: &str, path: &Path) -> Result<File> {
        File::open(path).map_err(|e| Error::io(path.display(), &e))
    }
    async fn facts(&self) -> HostFacts {
        HostFacts { version: "test".to_owned(), ..HostFacts::default() }
    }
    async fn shutdown(&self, _actor: &Actor, request: Shutdown) -> Result<ShutdownReport> {
        self.shutdowns.lock().expect("whole").push(request);
        Ok(ShutdownReport::default())
    }
}

/// Control, its host, and both doors.
pub(crate) struct World {
    pub control: Arc<Control>,
    pub host: Arc<FakeHost>,
    pub rest: Router,
    pub docker: Router,
    pub root: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> World {
        let root = tempfile::tempdir().expect("temporary folder");
        let host = Arc::new(FakeHost::default());
        let control = Control::open(ControlConfig::new(root.path(), host.clone(), host.clone())).await.expect("control opens");
        let identity = Identity { root: root.path().display().to_string(), pid: 1 };
        let rest = orlop_api::rest::router(control.clone(), host.clone());
        let docker = orlop_api::docker::router(control.clone(), identity);
        World { control, host, rest, docker, root }
    }

    /// A call of the local API by a user; `None`: by nobody known.
    pub(crate) async fn call_as(&self, uid: Option<u32>, method: Method, path: &str, body: &str) -> (StatusCode, Vec<u8>) {
        let mut request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).expect("a request");
        let actor = uid.map(|uid| Actor::Local { uid, gid: uid, pid: 1 });
        request.extensions_mut().insert(ConnectInfo(Peer(actor)));
        send(&self.rest, request).await
    }

    /// The same by root, with the answer as JSON.
    pub(crate) async fn call(&self, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
        let (status, body) = self.call_as(Some(0), method, path, body).await;
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }
}

pub(crate) async fn send(door: &Router, request: Request<Body>) -> (StatusCode, Vec<u8>) {
    let response = door.clone().oneshot(request).await.expect("a router always answers");
    let status = response.status();
    let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    (status, body.to_vec())
}

fn there(id: VolumeId) -> FoundVolume {
    FoundVolume { id, name: None, made_at: None, encrypted: false, last_host: None, released: true, problem: None, known_as: None }
}
