//! What the front doors ask of the host: files below a mountpoint, what runs, and the way down.

use super::plain::Plain;
use super::ports::Ports;
use async_trait::async_trait;
use futures::StreamExt;
use orlop_api::Host;
use orlop_api::wire::{HostFacts, KeeperFacts, Listing, Shutdown, ShutdownReport, WorkerFacts};
use orlop_control::{Control, VolumeFilter};
use orlop_model::{Actor, Attachment, AttachmentKind, DetachBy, Error, ErrorKind, Intent, Result, Volume, VolumeId, VolumeName, VolumeRef};
use orlop_mount::keeper::{self, Unreached};
use orlop_mount::{KeeperClient, WorkerState};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::sync::Notify;

/// How many volumes are unmounted at a time. What they have to fold is little; what they wait for is the store.
const AT_ONCE: usize = 64;
/// An attachment of Docker this young counts as in use although no container shows its mount yet.
const YOUNG: time::Duration = time::Duration::seconds(60);

/// How long the keeper may take to see that a worker is gone which it could not reach.
const SEEN: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(100);

/// The daemon as the front doors know it.
pub(crate) struct DaemonHost {
    pub(crate) root: PathBuf,
    pub(crate) started_at: OffsetDateTime,
    pub(crate) plugin: Option<(String, PathBuf)>,
    pub(crate) plugin_warning: Option<String>,
    /// Whether this start made the master key, and what was wrong with it then.
    pub(crate) key_made: bool,
    pub(crate) key_warning: Option<String>,
    pub(crate) ports: Arc<Ports>,
    pub(crate) control: Arc<Control>,
    /// Told when the process shall end.
    pub(crate) end: Arc<Notify>,
}

#[async_trait]
impl Host for DaemonHost {
    async fn list(&self, mountpoint: &str, path: &Path) -> Result<Listing> {
        super::files::list(mountpoint.to_owned(), path.to_owned()).await
    }

    async fn open(&self, mountpoint: &str, path: &Path) -> Result<File> {
        super::files::open(mountpoint.to_owned(), path.to_owned()).await
    }

    async fn facts(&self) -> HostFacts {
        let mut facts = HostFacts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            root: self.root.display().to_string(),
            pid: std::process::id(),
            started_at: Some(self.started_at),
            plugin: self.plugin.as_ref().map(|(name, _)| name.clone()),
            plugin_socket: self.plugin.as_ref().map(|(_, socket)| socket.display().to_string()),
            plugin_warning: self.plugin_warning.clone(),
            key_warning: if self.key_made { super::keys::unsaved(&self.root, true) } else { self.key_warning.clone() },
            ..HostFacts::default()
        };
        match tokio::time::timeout(Duration::from_millis(1500), self.workers()).await {
            Ok(Ok(workers)) => facts.keeper = Some(KeeperFacts { workers }),
            Ok(Err(e)) => facts.keeper_error = Some(e.to_string()),
            Err(_) => facts.keeper_error = Some("it does not answer in time".to_owned()),
        }
        facts
    }

    async fn shutdown(&self, actor: &Actor, request: Shutdown) -> Result<ShutdownReport> {
        tracing::info!(%actor, force = request.force, keep_mounts = request.keep_mounts, "asked to go down");
        let mut report = ShutdownReport { pid: std::process::id(), ..ShutdownReport::default() };
        if request.keep_mounts {
            report.kept = self.workers().await.map(|w| w.into_iter().map(|w| w.volume.to_string()).collect()).unwrap_or_default();
        } else {
            let closing = self.ports.close();
            self.unmount_all(actor, request.force, &mut report).await?;
            closing.keep();
        }
        self.settle_plugin_socket(&request, &mut report).await;
        // The answer leaves first: the server finishes what is in flight.
        self.end.notify_one();
        Ok(report)
    }
}

impl DaemonHost {
    async fn workers(&self) -> Result<Vec<WorkerFacts>> {
        let list = self.ports.keeper.answering().await?.list().await?;
        let mut workers: Vec<WorkerFacts> = list
            .into_iter()
            .map(|v| WorkerFacts {
                state: in_words(&v.worker),
                volume: v.plan.name,
                pid: v.worker_pid,
                mountpoint: v.plan.mountpoint,
                binds: v.binds.into_iter().map(|b| b.dir).collect(),
                in_use_elsewhere: v.in_use_elsewhere,
            })
            .collect();
        for it in self.ask_host(|root| Ok(keeper::unreached(root))).await? {
            // Taken over since it was written down.
            if workers.iter().any(|w| w.mountpoint == it.mountpoint) {
                continue;
            }
            let Some(volume) = self.name_of(&it).await else { continue };
            workers.push(WorkerFacts {
                volume,
                pid: it.worker_pid.unwrap_or(0),
                state: "not to be reached: it serves, and the keeper asks it again and again".to_owned(),
                mountpoint: it.mountpoint,
                binds: it.binds,
                in_use_elsewhere: false,
            });
        }
        workers.sort_by(|a, b| a.volume.cmp(&b.volume));
        Ok(workers)
    }

    /// What the host itself tells, which may take a while.
    async fn ask_host<T: Send + 'static>(&self, f: impl FnOnce(&Path) -> Result<T> + Send + 'static) -> Result<T> {
        let root = self.root.clone();
        let asked = tokio::task::spawn_blocking(move || f(&root)).await;
        asked.unwrap_or_else(|e| Err(Error::internal(format!("a question to the host was lost: {e}"))))
    }

    /// The name of a volume whose keeper may not have left it.
    async fn name_of(&self, it: &Unreached) -> Option<VolumeName> {
        if let Some(name) = &it.name {
            return Some(name.clone());
        }
        let all = self.control.volumes(VolumeFilter { include_removed: true, with_usage: false }).await.ok()?;
        all.into_iter().find(|v| v.id == it.volume).map(|v| v.name)
    }

    async fn unmount_all(&self, actor: &Actor, force: bool, report: &mut ShutdownReport) -> Result<()> {
        let volumes: BTreeMap<_, _> =
            self.control.volumes(VolumeFilter { include_removed: true, with_usage: false }).await?.into_iter().map(|v| (v.id, v)).collect();
        self.release_plain(actor, force, &volumes, report).await?;
        let Some(keeper) = self.ports.keeper.living().await? else { return Ok(()) };
        let mounted = keeper.list().await?;
        let unreached = self.ask_host(|root| Ok(keeper::unreached(root))).await?;
        // One that was taken over since it was written down is mounted as any other.
        let unreached: Vec<_> = unreached.into_iter().filter(|it| mounted.iter().all(|m| m.plan.volume != it.volume)).collect();
        if !force {
            let mut users = Vec::new();
            for m in &mounted {
                let of_this = volumes.get(&m.plan.volume).map(|v| users_of(v, m.in_use_elsewhere)).unwrap_or_default();
                users.extend(of_this);
                if m.in_use_elsewhere && !users.iter().any(|u| u.starts_with(&format!("{}:", m.plan.name))) {
                    users.push(format!("{}: a process in another mount namespace", m.plan.name));
                }
            }
            if !unreached.is_empty() {
                return Err(cannot_be_reached(&unreached, &users));
            }
            if !users.is_empty() {
                return Err(Error::new(ErrorKind::Busy, format!("volumes are in use: {}", users.join("; "))).with_remedy(
                    "stop the containers and unmount the folders first; --keep-mounts ends the daemon alone, --force takes the mounts away",
                ));
            }
        }
        self.take_away(&keeper, actor, unreached, &volumes, report).await?;
        // What lost its mount and could not be mounted again is held on; what is left of it in its folders goes.
        let lost = volumes.values().filter(|v| mounted.iter().all(|m| m.plan.volume != v.id)).flat_map(|v| &v.attachments);
        for a in lost {
            if let AttachmentKind::Directory { path, .. } = &a.kind
                && let Err(e) = keeper.unbind(path).await
            {
                tracing::warn!(error = %e, "what may be left of a mount on {path} stays there");
            }
        }
        // Side by side: each may wait for a store that is away, and together they wait as long as one.
        let (volumes, keeper_of) = (&volumes, &keeper);
        let ended: Vec<(String, Result<()>)> = futures::stream::iter(mounted)
            .map(|m| async move {
                let attachments = volumes.get(&m.plan.volume).map(|v| v.attachments.as_slice()).unwrap_or_default();
                let done = self.unmount(keeper_of, actor, m.plan.volume, attachments, force).await;
                (m.plan.name.to_string(), done)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        tell(ended, report)?;
        // Whatever the keeper knows: nothing of this root is left behind in silence.
        let left = self.ask_host(keeper::still_mounted).await?;
        if !force && !left.is_empty() {
            return Err(cannot_be_reached(&left, &[]));
        }
        self.take_away(&keeper, actor, left, volumes, report).await?;
        keeper.shutdown().await
    }

    /// By force: what the keeper cannot reach goes with its worker, and the keeper is waited for until it sees that.
    async fn take_away(
        &self,
        keeper: &KeeperClient,
        actor: &Actor,
        unreached: Vec<Unreached>,
        volumes: &BTreeMap<VolumeId, Volume>,
        report: &mut ShutdownReport,
    ) -> Result<()> {
        let ended: Vec<(String, Result<()>)> = futures::stream::iter(unreached)
            .map(|it| async move {
                let known = volumes.get(&it.volume);
                let name = it.name.as_ref().or(known.map(|v| &v.name)).map_or_else(|| it.volume.to_string(), ToString::to_string);
                let (id, attachments) = (it.volume, known.map(|v| v.attachments.as_slice()).unwrap_or_default());
                let done = async {
                    self.ask_host(move |root| keeper::take_away(root, &it)).await?;
                    let began = Instant::now();
                    while let Err(e) = keeper.detach(id, true).await {
                        if began.elapsed() > SEEN {
                            return Err(e);
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                    self.unmount(keeper, actor, id, attachments, true).await
                };
                (name, done.await)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        tell(ended, report)
    }

    /// Folders are given back through the audited door; what Docker holds it will give back itself.
    async fn unmount(&self, keeper: &KeeperClient, actor: &Actor, id: VolumeId, attachments: &[Attachment], force: bool) -> Result<()> {
        for a in attachments {
            if matches!(a.kind, AttachmentKind::Directory { .. } | AttachmentKind::Internal { .. }) {
                let detach = Intent::Detach { volume: VolumeRef::Id(id), attachment: DetachBy::Id(a.id), force };
                match self.control.apply(actor, detach).await {
                    Err(e) if !force => return Err(e),
                    Err(e) => tracing::warn!(error = %e, "going down although a folder could not be given back"),
                    Ok(_) => {}
                }
            }
        }
        keeper.detach(id, force).await
    }

    /// Plain volumes need nobody to serve them, so containers go on; only folders that Orlop bound are given back.
    async fn release_plain(
        &self,
        actor: &Actor,
        force: bool,
        volumes: &BTreeMap<VolumeId, Volume>,
        report: &mut ShutdownReport,
    ) -> Result<()> {
        let attached = self.ports.plain.run(Plain::attached).await?;
        let bound: Vec<_> = attached.iter().flat_map(|m| m.binds.iter().map(|b| format!("{}: {}", m.plan.name, b.path))).collect();
        if !force && !bound.is_empty() {
            return Err(Error::new(ErrorKind::Busy, format!("volumes are in use: {}", bound.join("; ")))
                .with_remedy("unmount the folders first; --keep-mounts ends the daemon alone, --force takes the mounts away"));
        }
        for m in attached {
            for a in volumes.get(&m.plan.volume).map(|v| v.attachments.as_slice()).unwrap_or_default() {
                if matches!(a.kind, AttachmentKind::Directory { .. } | AttachmentKind::Internal { .. }) {
                    let detach = Intent::Detach { volume: VolumeRef::Id(m.plan.volume), attachment: DetachBy::Id(a.id), force };
                    if let Err(e) = self.control.apply(actor, detach).await {
                        tracing::warn!(error = %e, "going down although a folder could not be given back");
                    }
                }
            }
            let volume = m.plan.volume;
            self.ports.plain.run(move |p| p.detach(volume, true)).await?;
            report.unmounted.push(m.plan.name.to_string());
        }
        Ok(())
    }

    /// Without the socket Docker would make local volumes of our names without a word; with a dead one it
    /// waits and fails. So it stays as long as there is a name to protect.
    async fn settle_plugin_socket(&self, request: &Shutdown, report: &mut ShutdownReport) {
        let Some((name, socket)) = &self.plugin else { return };
        let volumes = self.control.volumes(VolumeFilter::default()).await.map_or(1, |v| v.len());
        if request.remove_plugin_socket || (volumes == 0 && !request.keep_mounts) {
            if let Err(e) = std::fs::remove_file(socket) {
                report.notes.push(format!("{} could not be removed: {e}", socket.display()));
            }
        } else if !request.keep_mounts {
            report.notes.push(format!(
                "{} stays, so that Docker does not silently make local volumes in place of the {volumes} of {name}; \
                 remove it if Orlop does not come back",
                socket.display()
            ));
        }
    }
}

/// Tells which volumes are unmounted, in the order of their names, or why some are not.
fn tell(ended: Vec<(String, Result<()>)>, report: &mut ShutdownReport) -> Result<()> {
    let mut failed = Vec::new();
    for (name, done) in ended {
        match done {
            Ok(()) => report.unmounted.push(name),
            Err(e) => failed.push(e),
        }
    }
    report.unmounted.sort();
    all_of_them(failed)
}

/// One error for all volumes that could not be unmounted; its kind and remedy are those of the first.
fn all_of_them(mut failed: Vec<Error>) -> Result<()> {
    failed.sort_by(|a, b| a.message.cmp(&b.message));
    let messages: Vec<_> = failed.iter().map(|e| e.message.clone()).collect();
    match failed.into_iter().next() {
        None => Ok(()),
        Some(first) => {
            let all = Error::new(first.kind, messages.join("; "));
            Err(if let Some(remedy) = first.remedy { all.with_remedy(remedy) } else { all })
        }
    }
}

/// Why going down is refused where workers serve that the keeper cannot reach.
fn cannot_be_reached(unreached: &[Unreached], users: &[String]) -> Error {
    let mut what: Vec<String> = unreached.iter().map(ToString::to_string).collect();
    if !users.is_empty() {
        what.push(format!("volumes are in use: {}", users.join("; ")));
    }
    Error::new(ErrorKind::Busy, what.join("; ")).with_remedy(
        "try again in a moment: a worker is taken over as soon as it answers; --force ends one that does not and takes its mount away: what was \
         acknowledged stays in its journal. --keep-mounts ends the daemon alone",
    )
}

/// A worker's state; `serving` is the word for all being well.
fn in_words(state: &WorkerState) -> String {
    match state {
        WorkerState::Serving => "serving".to_owned(),
        WorkerState::Restarting { attempts, reason } => format!("restarting, attempt {attempts}: {reason}"),
        WorkerState::Lost { reason } => format!("none follows the one that died: {reason}"),
        WorkerState::Finishing => "finishing".to_owned(),
    }
}

/// Who uses a mounted volume, in words.
fn users_of(v: &Volume, in_use_elsewhere: bool) -> Vec<String> {
    let young = |since: OffsetDateTime| OffsetDateTime::now_utc() - since < YOUNG;
    let mut users = Vec::new();
    for a in &v.attachments {
        match &a.kind {
            AttachmentKind::Docker { mount_id } if in_use_elsewhere || young(a.since) => {
                users.push(format!("{}: docker (mount id {})", v.name, &mount_id[..mount_id.len().min(12)]));
            }
            // A dockerd that was killed never said that it let go, and nothing holds the mount.
            AttachmentKind::Docker { .. } => {}
            AttachmentKind::Directory { path, .. } => users.push(format!("{}: {path}", v.name)),
            AttachmentKind::Internal { purpose } => users.push(format!("{}: orlop {purpose}", v.name)),
        }
    }
    users
}
