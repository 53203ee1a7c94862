//! The daemon's way to the keeper.

use crate::keeper::{Launcher, start_keeper};
use crate::layout::Layout;
use crate::protocol::{Attached, AttachedVolume, KeeperRequest, Renewed};
use crate::wire::Connection;
use orlop_model::{CheckProgress, CheckReport, Error, GcReport, MountPlan, Result, Space, StoreSpec, Usage, VolumeId};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Talks to the keeper of a root. Cheap to copy; each call is a conversation of its own, so that a long one keeps
/// none of the others waiting, and a keeper that was replaced in between is no matter.
#[derive(Debug, Clone)]
pub struct KeeperClient {
    socket: PathBuf,
}

impl KeeperClient {
    /// A client of the root's keeper, if one answers.
    pub async fn connect(root: &Path) -> Result<Self> {
        let client = KeeperClient { socket: Layout::new(root).keeper_socket() };
        client.blocking(|c| Connection::connect(&c.socket).map(drop)).await?;
        Ok(client)
    }

    /// The same, after starting a keeper if none answers.
    pub async fn connect_or_start(root: &Path, launcher: &Launcher) -> Result<Self> {
        if let Ok(client) = Self::connect(root).await {
            return Ok(client);
        }
        let (root, launcher) = (root.to_owned(), launcher.clone());
        let client = KeeperClient { socket: Layout::new(&root).keeper_socket() };
        client.blocking(move |_| start_keeper(&launcher, &root)).await?;
        Ok(client)
    }

    async fn blocking<T: Send + 'static>(&self, f: impl FnOnce(&KeeperClient) -> Result<T> + Send + 'static) -> Result<T> {
        let client = self.clone();
        tokio::task::spawn_blocking(move || f(&client)).await.map_err(|e| Error::internal(format!("a call to the keeper was lost: {e}")))?
    }

    async fn ask<A: DeserializeOwned + Send + 'static>(&self, request: KeeperRequest) -> Result<A> {
        self.blocking(move |c| {
            let connection = Connection::connect(&c.socket).map_err(|e| e.during("asking the keeper").with_remedy("start it: orlop up"))?;
            connection.ask(&request, &[]).map(|(a, _)| a)
        })
        .await
    }

    /// Mounts a volume. Returns when it is served; a second time it changes nothing.
    pub async fn attach(&self, plan: &MountPlan) -> Result<Attached> {
        self.ask(KeeperRequest::Attach { plan: Box::new(plan.clone()) }).await
    }

    /// Unmounts a volume, and returns when its worker has brought everything to rest. Refused as busy while somebody
    /// uses it; by force its users are cut off instead. Of one that is not attached: succeeds.
    pub async fn detach(&self, volume: VolumeId, force: bool) -> Result<()> {
        self.ask(KeeperRequest::Detach { volume, force }).await
    }

    /// Shows an attached volume in another folder.
    pub async fn bind(&self, volume: VolumeId, dir: &str, read_only: bool) -> Result<()> {
        self.ask(KeeperRequest::Bind { volume, dir: dir.to_owned(), read_only }).await
    }

    /// Takes a volume out of a folder. Where none is: succeeds.
    pub async fn unbind(&self, dir: &str) -> Result<()> {
        self.ask(KeeperRequest::Unbind { dir: dir.to_owned() }).await
    }

    /// The attached volumes.
    pub async fn list(&self) -> Result<Vec<AttachedVolume>> {
        self.ask(KeeperRequest::List).await
    }

    /// What an attached volume takes.
    pub async fn usage(&self, volume: VolumeId) -> Result<Usage> {
        self.ask(KeeperRequest::Usage { volume }).await
    }

    /// Changes the quota of an attached volume.
    pub async fn set_quota(&self, volume: VolumeId, bytes: Option<u64>) -> Result<()> {
        self.ask(KeeperRequest::SetQuota { volume, bytes }).await
    }

    /// Says how the store of an attached volume is reached from now on.
    pub async fn set_store(&self, volume: VolumeId, store: &StoreSpec) -> Result<()> {
        self.ask(KeeperRequest::SetStore { volume, store: Box::new(store.clone()) }).await
    }

    /// Makes everything durable that was written to an attached volume.
    pub async fn sync(&self, volume: VolumeId) -> Result<()> {
        self.ask(KeeperRequest::Sync { volume }).await
    }

    /// Reads all of an attached volume; with `repair` sets right what can be.
    pub async fn check(&self, volume: VolumeId, repair: bool) -> Result<CheckReport> {
        self.ask(KeeperRequest::Check { volume, repair }).await
    }

    /// How far the check of an attached volume is.
    pub async fn check_progress(&self, volume: VolumeId) -> Result<CheckProgress> {
        self.ask(KeeperRequest::CheckProgress { volume }).await
    }

    /// Where the bytes of an attached volume are.
    pub async fn space(&self, volume: VolumeId) -> Result<Space> {
        self.ask(KeeperRequest::Space { volume }).await
    }

    /// Deletes from an attached volume's places what nothing refers to; in a rehearsal only tells.
    pub async fn collect(&self, volume: VolumeId, dry_run: bool) -> Result<GcReport> {
        self.ask(KeeperRequest::Collect { volume, dry_run }).await
    }

    /// The keeper's process.
    pub async fn pid(&self) -> Result<u32> {
        self.blocking(|c| Connection::connect(&c.socket).map(|connection| connection.peer())).await
    }

    /// Returns when the keeper has ended, however it ended; at once if none answers.
    pub async fn ended(&self) {
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let socket = self.socket.clone();
        // A thread of its own and not the runtime's, whose end would wait for it.
        let watching = std::thread::Builder::new().name("keeper-watch".into()).stack_size(256 << 10).spawn(move || {
            if let Ok(connection) = Connection::connect(&socket) {
                // It says nothing unasked, so this ends with its process.
                let _ = connection.receive::<serde_json::Value>();
            }
            drop(tell);
        });
        if let Err(e) = watching {
            tracing::error!("the keeper is not watched: {e}");
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        let _ = told.await;
    }

    /// Puts a worker of the binary that is on disk now in the place of an attached volume's worker. Whoever uses the
    /// volume waits for that long and notices nothing else. A binary that refuses the volume leaves it to the old one.
    pub async fn renew(&self, volume: VolumeId) -> Result<Renewed> {
        self.ask(KeeperRequest::Renew { volume }).await
    }

    /// Ends the keeper; refused while volumes are attached. Returns when its process has ended.
    pub async fn shutdown(&self) -> Result<()> {
        self.blocking(|c| {
            let connection = Connection::connect(&c.socket)?;
            let ((), _) = connection.ask(&KeeperRequest::Shutdown, &[])?;
            connection.limit(Some(Duration::from_secs(30)));
            // The conversation ends with the process.
            let _ = connection.receive::<serde_json::Value>();
            Ok(())
        })
        .await
    }
}
