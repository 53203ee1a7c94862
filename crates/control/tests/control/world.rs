//! A host that exists in memory: volumes' bytes, mounts, binds. Stricter than the real one: it remembers every call that
//! the ports' obligations forbid, and a test ends with [`World::assert_respected`].

use async_trait::async_trait;
use orlop_control::{
    AttachedVolume, BoundDirectory, Clock, Control, ControlConfig, Formatted, Mounted, Mounter, VolumeFilter, VolumeWorker, faults::Faults,
};
use orlop_model::{
    Actor, AttachmentId, AttachmentKind, Capabilities, DetachBy, Error, ErrorKind, Examination, FoundVolume, Intent, MountPlan, Outcome,
    Result, Store, StoreSpec, StoreUpdate, Usage, Volume, VolumeId, VolumeOptions, VolumeRef,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// An endpoint behind which everything is once more.
pub const COPY: &str = "http://127.0.0.1:9/copy";
/// An endpoint where nothing is of what lies in stores.
pub const ELSEWHERE: &str = "http://127.0.0.1:9/elsewhere";

pub const ROOT: Actor = Actor::Local { uid: 0, gid: 0, pid: 1 };

#[derive(Default)]
pub struct State {
    /// Volumes with bytes, and what was written to them.
    pub bytes: BTreeMap<VolumeId, String>,
    /// Folders of plain stores: which volume made each, if one did, and what is in it.
    pub folders: BTreeMap<String, (Option<VolumeId>, String)>,
    /// Folders of plain volumes in the trash.
    pub trash: BTreeMap<VolumeId, String>,
    /// What mounted volumes take, where it is not one block.
    pub used: BTreeMap<VolumeId, u64>,
    /// Volumes that lie in a store and were made elsewhere.
    pub elsewhere: BTreeMap<VolumeId, FoundVolume>,
    /// URLs of stores that overwrite what they must not.
    pub careless: BTreeSet<String>,
    pub mounted: BTreeMap<VolumeId, AttachedVolume>,
    pub quotas: BTreeMap<VolumeId, Option<u64>>,
    pub in_use: BTreeSet<VolumeId>,
    /// Volumes whose processes take no changes any more, and why; until they are mounted anew.
    pub stopped: BTreeMap<VolumeId, String>,
    /// Whether a test has users cut off.
    pub may_force: bool,
    /// Calls that fail with this kind, until taken out.
    pub failing: BTreeMap<&'static str, ErrorKind>,
    /// Calls that never return.
    pub hanging: BTreeSet<&'static str>,
    /// Calls that take this long.
    pub slow: Option<Duration>,
    /// How many format calls ran at once, and the most ever.
    pub running: usize,
    pub most_running: usize,
    pub calls: Vec<String>,
    pub violations: Vec<String>,
}

#[derive(Clone, Default)]
pub struct World(pub Arc<Mutex<State>>);

impl World {
    async fn call(&self, name: &'static str, about: &str) -> Result<()> {
        let (slow, hangs) = {
            let mut state = self.0.lock();
            state.calls.push(format!("{name} {about}"));
            if let Some(kind) = state.failing.get(name) {
                return Err(Error::new(*kind, format!("{name} fails as planned")));
            }
            (state.slow, state.hanging.contains(name))
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        if let Some(slow) = slow {
            tokio::time::sleep(slow).await;
        }
        Ok(())
    }

    pub fn fail(&self, name: &'static str, kind: ErrorKind) {
        self.0.lock().failing.insert(name, kind);
    }

    pub fn heal(&self) {
        let mut state = self.0.lock();
        state.failing.clear();
        state.hanging.clear();
    }

    pub fn calls(&self, name: &str) -> usize {
        self.0.lock().calls.iter().filter(|c| c.split(' ').next() == Some(name)).count()
    }

    pub fn write(&self, id: VolumeId, text: &str) {
        let mut state = self.0.lock();
        assert!(state.mounted.contains_key(&id), "a test writes to a volume that is not mounted");
        state.bytes.insert(id, text.to_owned());
    }

    /// Everything that a reboot ends.
    pub fn reboot(&self) {
        let mut state = self.0.lock();
        state.mounted.clear();
        state.in_use.clear();
    }

    pub fn assert_respected(&self) {
        assert_eq!(self.0.lock().violations, Vec::<String>::new());
    }
}

#[async_trait]
impl Mounter for World {
    async fn attach(&self, plan: &MountPlan) -> Result<Mounted> {
        self.call("attach", plan.name.as_str()).await?;
        let mut state = self.0.lock();
        let there =
            if plan.store.is_plain() { state.folders.contains_key(&plan.mountpoint) } else { state.bytes.contains_key(&plan.volume) };
        if !there {
            state.violations.push(format!("attach of {} which was never formatted", plan.name));
        }
        let quota = plan.options.size.map(|s| s.0);
        if !state.mounted.contains_key(&plan.volume) {
            state.quotas.insert(plan.volume, quota);
        }
        let fresh = AttachedVolume { plan: plan.clone(), worker_pid: 7, serving: true, binds: vec![], in_use_elsewhere: false };
        state.mounted.entry(plan.volume).or_insert(fresh).serving = true;
        Ok(Mounted { mountpoint: plan.mountpoint.clone(), worker_pid: 7 })
    }

    async fn detach(&self, volume: VolumeId, force: bool) -> Result<()> {
        self.call("detach", &volume.to_string()).await?;
        let mut state = self.0.lock();
        if force && !state.may_force {
            state.violations.push("a forced detach".to_owned());
        }
        if let Some(mounted) = state.mounted.get(&volume)
            && !mounted.binds.is_empty()
            && !force
        {
            state.violations.push(format!("detach of {volume} with binds left"));
        }
        state.mounted.remove(&volume);
        state.stopped.remove(&volume);
        Ok(())
    }

    async fn settle(&self, volume: VolumeId) -> Result<()> {
        self.call("settle", &volume.to_string()).await
    }

    async fn bind(&self, volume: VolumeId, dir: &str, read_only: bool) -> Result<()> {
        self.call("bind", dir).await?;
        let mut state = self.0.lock();
        let elsewhere = state.mounted.iter().any(|(id, m)| *id != volume && m.binds.iter().any(|b| b.path == dir));
        if elsewhere {
            state.violations.push(format!("bind on {dir}, which another volume has"));
        }
        let mounted = state.mounted.get_mut(&volume).ok_or_else(|| Error::internal("bind of a volume that is not mounted"))?;
        mounted.binds.retain(|b| b.path != dir);
        mounted.binds.push(BoundDirectory { path: dir.to_owned(), read_only });
        Ok(())
    }

    async fn unbind(&self, dir: &str) -> Result<()> {
        self.call("unbind", dir).await?;
        for mounted in self.0.lock().mounted.values_mut() {
            mounted.binds.retain(|b| b.path != dir);
        }
        Ok(())
    }

    async fn attached(&self) -> Result<Vec<AttachedVolume>> {
        self.call("attached", "").await?;
        let state = self.0.lock();
        Ok(state.mounted.iter().map(|(id, m)| AttachedVolume { in_use_elsewhere: state.in_use.contains(id), ..m.clone() }).collect())
    }
}

#[async_trait]
impl VolumeWorker for World {
    async fn format(&self, plan: &MountPlan) -> Result<Formatted> {
        {
            let mut state = self.0.lock();
            state.running += 1;
            state.most_running = state.most_running.max(state.running);
        }
        let called = self.call("format", plan.name.as_str()).await;
        let mut state = self.0.lock();
        state.running -= 1;
        called?;
        if plan.store.is_plain() {
            let there = state.folders.entry(plan.mountpoint.clone()).or_insert((Some(plan.volume), String::new()));
            return Ok(if there.0 == Some(plan.volume) { Formatted::Fresh } else { Formatted::Adopted });
        }
        if state.bytes.get(&plan.volume).is_some_and(|b| !b.is_empty()) {
            state.violations.push(format!("format of {} over its data", plan.name));
        }
        state.bytes.insert(plan.volume, String::new());
        Ok(Formatted::Fresh)
    }

    async fn destroy(&self, plan: &MountPlan) -> Result<()> {
        self.call("destroy", plan.name.as_str()).await?;
        let mut state = self.0.lock();
        if state.mounted.contains_key(&plan.volume) {
            state.violations.push(format!("destroy of {} while it is mounted", plan.name));
        }
        state.bytes.remove(&plan.volume);
        state.trash.remove(&plan.volume);
        if state.folders.get(&plan.mountpoint).is_some_and(|(maker, text)| *maker == Some(plan.volume) && text.is_empty()) {
            state.folders.remove(&plan.mountpoint);
        }
        Ok(())
    }

    async fn usage(&self, volume: VolumeId) -> Result<Usage> {
        self.call("usage", &volume.to_string()).await?;
        let mut state = self.0.lock();
        if !state.mounted.contains_key(&volume) {
            state.violations.push("usage of a volume that is not mounted".to_owned());
        }
        let stopped = state.stopped.get(&volume).cloned();
        Ok(Usage { used_bytes: state.used.get(&volume).copied().unwrap_or(4096), inodes: 2, stopped, ..Usage::default() })
    }

    async fn set_store(&self, volume: VolumeId, store: &StoreSpec) -> Result<()> {
        self.call("set_store", &volume.to_string()).await?;
        let mut state = self.0.lock();
        match state.mounted.get_mut(&volume) {
            Some(m) if m.plan.store.url == store.url => m.plan.store = store.clone(),
            Some(m) => {
                let what = format!("{} is told of another place", m.plan.name);
                state.violations.push(what);
            }
            None => state.violations.push("set_store of a volume that is not mounted".to_owned()),
        }
        Ok(())
    }

    async fn set_quota(&self, volume: VolumeId, bytes: Option<u64>) -> Result<()> {
        self.call("set_quota", &volume.to_string()).await?;
        let mut state = self.0.lock();
        if !state.mounted.contains_key(&volume) {
            state.violations.push("set_quota of a volume that is not mounted".to_owned());
        }
        if bytes.is_some_and(|b| b < state.used.get(&volume).copied().unwrap_or(4096)) {
            return Err(Error::new(ErrorKind::NoSpace, "quota exceeded"));
        }
        state.quotas.insert(volume, bytes);
        Ok(())
    }

    async fn discard(&self, plan: &MountPlan) -> Result<()> {
        self.call("discard", plan.name.as_str()).await?;
        let mut state = self.0.lock();
        if state.mounted.contains_key(&plan.volume) {
            state.violations.push(format!("discard of {} while it is mounted", plan.name));
        }
        let ours = state.folders.get(&plan.mountpoint).is_some_and(|(maker, _)| *maker == Some(plan.volume));
        if ours && !state.trash.contains_key(&plan.volume) {
            let (_, text) = state.folders.remove(&plan.mountpoint).unwrap();
            state.trash.insert(plan.volume, text);
        }
        Ok(())
    }

    async fn recover(&self, plan: &MountPlan) -> Result<()> {
        self.call("recover", plan.name.as_str()).await?;
        let mut state = self.0.lock();
        let Some(text) = state.trash.get(&plan.volume).cloned() else { return Ok(()) };
        if state.folders.contains_key(&plan.mountpoint) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("{} is there", plan.mountpoint)));
        }
        state.folders.insert(plan.mountpoint.clone(), (Some(plan.volume), text));
        state.trash.remove(&plan.volume);
        Ok(())
    }

    async fn examine(&self, store: &StoreSpec) -> Result<Examination> {
        self.call("examine", &store.url).await?;
        if store.is_plain() {
            return Ok(Examination::default());
        }
        let careful = !self.0.lock().careless.contains(&store.url);
        let capabilities = Capabilities {
            conditional_create: careful,
            conditional_replace: careful,
            ranged_get: true,
            multipart: true,
            strong_list: true,
            ..Capabilities::default()
        };
        Ok(Examination { capabilities: Some(capabilities), put_micros: Some(900), get_micros: Some(500) })
    }

    async fn is_same_place(&self, old: &StoreSpec, new: &StoreSpec) -> Result<Option<bool>> {
        self.call("is_same_place", &new.url).await?;
        Ok(Some(new.url == old.url && new.settings.get("endpoint").is_none_or(|e| e != COPY)))
    }

    async fn find(&self, store: &StoreSpec) -> Result<Vec<FoundVolume>> {
        self.call("find", &store.url).await?;
        if store.settings.get("endpoint").is_some_and(|e| e == ELSEWHERE) {
            return Ok(Vec::new());
        }
        let state = self.0.lock();
        let blank = FoundVolume {
            id: VolumeId::random(),
            name: None,
            made_at: None,
            encrypted: false,
            last_host: None,
            released: true,
            problem: None,
            known_as: None,
        };
        let ours = state.bytes.keys().map(|id| state.elsewhere.get(id).cloned().unwrap_or(FoundVolume { id: *id, ..blank.clone() }));
        let others = state.elsewhere.iter().filter(|(id, _)| !state.bytes.contains_key(id)).map(|(_, v)| v.clone());
        Ok(ours.chain(others).collect())
    }

    async fn recognise(&self, plan: &MountPlan) -> Result<FoundVolume> {
        self.call("recognise", plan.name.as_str()).await?;
        let found = self.0.lock().elsewhere.get(&plan.volume).cloned();
        found.ok_or_else(|| Error::not_found(format!("the store holds no volume {}", plan.volume)))
    }

    async fn forget(&self, plan: &MountPlan) -> Result<()> {
        self.call("forget", plan.name.as_str()).await?;
        if self.0.lock().mounted.contains_key(&plan.volume) {
            self.0.lock().violations.push(format!("forget of {} while it is mounted", plan.name));
        }
        Ok(())
    }
}

/// A clock that stands still until it is moved.
#[derive(Clone)]
pub struct Hands(Arc<Mutex<OffsetDateTime>>);

impl Hands {
    pub fn forward(&self, by: Duration) {
        *self.0.lock() += by;
    }
}

impl Clock for Hands {
    fn now(&self) -> OffsetDateTime {
        *self.0.lock()
    }
}

/// A root folder with its host; outlives the controls opened on it.
pub struct Site {
    pub dir: tempfile::TempDir,
    pub world: World,
    pub clock: Hands,
}

impl Site {
    pub fn new() -> Site {
        // Hundreds of roots with thousands of syncs: in memory where the host has that.
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
        let clock = Hands(Arc::new(Mutex::new(OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap())));
        Site { dir, world: World::default(), clock }
    }

    pub fn config(&self) -> ControlConfig {
        let world = Arc::new(self.world.clone());
        ControlConfig { clock: Arc::new(self.clock.clone()), ..ControlConfig::new(self.dir.path(), world.clone(), world) }
    }

    pub async fn open(&self) -> Arc<Control> {
        self.open_with(Faults::default()).await
    }

    pub async fn open_with(&self, faults: Faults) -> Arc<Control> {
        // The control before may still be going down.
        for _ in 0..200 {
            match Control::open(ControlConfig { faults: faults.clone(), ..self.config() }).await {
                Err(e) if e.kind == ErrorKind::Busy => tokio::time::sleep(Duration::from_millis(10)).await,
                other => return other.expect("the root opens"),
            }
        }
        panic!("the root stays busy");
    }
}

pub fn opts(pairs: &[(&str, &str)]) -> VolumeOptions {
    VolumeOptions::parse(pairs.iter().copied()).unwrap()
}

pub fn create(name: &str, pairs: &[(&str, &str)]) -> Intent {
    Intent::CreateVolume { name: name.parse().unwrap(), options: opts(pairs), labels: BTreeMap::new() }
}

pub fn set_store(name: &str, credentials: Option<&str>, settings: &[(&str, &str)]) -> Intent {
    let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Intent::SetStore { name: name.parse().unwrap(), update: StoreUpdate { credentials: credentials.map(str::to_owned), settings } }
}

pub fn add_store(name: &str, url: &str) -> Intent {
    Intent::AddStore { name: name.parse().unwrap(), spec: StoreSpec::new(url) }
}

pub fn test_store(name: &str) -> Intent {
    Intent::TestStore { name: name.parse().unwrap() }
}

pub fn remove_store(name: &str) -> Intent {
    Intent::RemoveStore { name: name.parse().unwrap() }
}

pub fn store_of(outcome: Outcome) -> Store {
    match outcome {
        Outcome::Store(s) => *s,
        Outcome::Tested(t) => t.store,
        other => panic!("no store in {other:?}"),
    }
}

pub fn adopt(name: &str, store: &str, volume: VolumeId, pairs: &[(&str, &str)]) -> Intent {
    let (name, store) = (name.parse().unwrap(), store.parse().unwrap());
    Intent::AdoptVolume { name, store, volume, options: opts(pairs), labels: BTreeMap::new() }
}

pub fn remove(volume: &str, now: bool) -> Intent {
    Intent::RemoveVolume { volume: volume.parse().unwrap(), now }
}

pub fn restore(volume: &str, rename: Option<&str>) -> Intent {
    Intent::RestoreVolume { volume: volume.parse().unwrap(), rename: rename.map(|n| n.parse().unwrap()) }
}

pub fn docker(volume: &str, mount_id: &str) -> Intent {
    Intent::Attach {
        volume: volume.parse().unwrap(),
        attachment: AttachmentKind::Docker { mount_id: mount_id.to_owned() },
        abandon_unsynced: false,
    }
}

pub fn undocker(volume: &str, mount_id: &str) -> Intent {
    Intent::Detach { volume: volume.parse().unwrap(), attachment: DetachBy::DockerMountId(mount_id.to_owned()), force: false }
}

pub fn folder(volume: &str, path: &str, read_only: bool) -> Intent {
    Intent::Attach {
        volume: volume.parse().unwrap(),
        attachment: AttachmentKind::Directory { path: path.to_owned(), read_only },
        abandon_unsynced: false,
    }
}

pub fn unfolder(volume: &str, path: &str) -> Intent {
    Intent::Detach { volume: volume.parse().unwrap(), attachment: DetachBy::Directory(path.to_owned()), force: false }
}

pub fn set(volume: &str, pairs: &[(&str, &str)]) -> Intent {
    let options = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Intent::SetVolume { volume: volume.parse().unwrap(), update: orlop_model::VolumeUpdate { options, labels: BTreeMap::new() } }
}

pub fn protect(volume: &str, protected: bool) -> Intent {
    Intent::ProtectVolume { volume: volume.parse().unwrap(), protected }
}

pub fn named(name: &str) -> VolumeRef {
    name.parse().unwrap()
}

pub fn volume_of(outcome: Outcome) -> Volume {
    match outcome {
        Outcome::Volume(v) => *v,
        other => panic!("no volume in {other:?}"),
    }
}

pub fn attachment_of(outcome: Outcome) -> (AttachmentId, String) {
    match outcome {
        Outcome::Attached { attachment, mountpoint } => (attachment, mountpoint),
        other => panic!("no attachment in {other:?}"),
    }
}

/// What a person would see, without ids and times: for comparing states.
pub async fn picture(control: &Control) -> Vec<String> {
    let mut lines: Vec<String> = control
        .volumes(VolumeFilter { include_removed: true, with_usage: false })
        .await
        .unwrap()
        .iter()
        .map(|v| {
            let mut holders: Vec<String> = v.attachments.iter().map(|a| format!("{:?}", a.kind)).collect();
            holders.sort();
            format!("{} {:?} {:?} protected={} {holders:?}", v.name, v.state, v.options.to_pairs(), v.protected)
        })
        .collect();
    let stores = control.stores().await.unwrap();
    lines.extend(stores.iter().filter(|s| s.name.as_str() != "default").map(|s| format!("store {} {} {}", s.name, s.spec.url, s.volumes)));
    lines.sort();
    lines
}

/// The error of a request that must fail, with a remedy in it.
pub fn refused(outcome: Result<Outcome>, kind: ErrorKind) -> Error {
    let e = outcome.expect_err("must be refused");
    assert_eq!(e.kind, kind, "{e}");
    assert!(e.remedy.is_some(), "no remedy: {e}");
    e
}
