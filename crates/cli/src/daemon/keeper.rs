//! The keeper's process as the daemon sees it: asked if it answers, started if it does not, and followed by another at
//! once when it dies, since a worker that dies without a keeper takes its mount along.

use orlop_model::{Error, Result};
use orlop_mount::KeeperClient;
use orlop_mount::keeper::{Launcher, has_workers, is_alive, may_listen};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long systemd may take to start a keeper that it started before.
const SYSTEMD: Duration = Duration::from_secs(3);
/// How long a keeper that lives may take to answer: it makes a socket that was removed anew within a second or two.
const ANSWER: Duration = Duration::from_secs(5);
/// Between looks, and before a start that failed is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// The keeper of a root.
pub(crate) struct Keeper {
    root: PathBuf,
    /// Only one start at a time; a second one would only find the first one's lock.
    starting: tokio::sync::Mutex<()>,
    /// Set while the daemon goes down: nothing is mounted behind its back, and a keeper that was ended is not started again
    /// by somebody who still asks for it.
    closing: AtomicBool,
    /// Whether a conversation with one is open, which ends with its process. One that lives makes what was removed of its files anew; another
    /// one that is started before has them, and nothing else.
    held: AtomicBool,
}

impl Keeper {
    pub(crate) fn new(root: &Path) -> Keeper {
        Keeper {
            root: root.to_owned(),
            starting: tokio::sync::Mutex::new(()),
            closing: AtomicBool::new(false),
            held: AtomicBool::new(false),
        }
    }

    /// The keeper if it answers.
    pub(crate) async fn answering(&self) -> Result<KeeperClient> {
        // What is in the place of its socket, rather than that nobody answers there.
        KeeperClient::connect(&self.root).await.map_err(|e| may_listen(&self.root).err().unwrap_or(e))
    }

    /// The keeper; `None` if there is none and nobody serves a volume. One that lives and does not answer is waited for, and an error in the
    /// end: whoever takes it for none leaves its mounts behind.
    pub(crate) async fn living(&self) -> Result<Option<KeeperClient>> {
        let began = Instant::now();
        loop {
            let e = match self.answering().await {
                Ok(client) => return Ok(Some(client)),
                Err(e) => e,
            };
            let lives = is_alive(&self.root) || self.held.load(Ordering::SeqCst);
            if !lives && !has_workers(&self.root) {
                return Ok(None);
            }
            // It does not go away by itself.
            may_listen(&self.root)?;
            if began.elapsed() > ANSWER {
                return Err(if lives {
                    self.silent(&e)
                } else {
                    Error::unavailable(format!("the keeper of {} has ended, and workers still serve volumes", self.root.display()))
                        .with_remedy("try again in a moment: another one is started, which takes them over")
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn silent(&self, e: &Error) -> Error {
        let root = self.root.display();
        Error::unavailable(format!("the keeper of {root} lives and does not answer: {}", e.message)).with_remedy(format!(
            "try again in a moment; if that goes on read {root}/log/keeper.log, and kill -9 the process \"keeper --root {root}\": another one \
             takes its mounts over"
        ))
    }

    /// The keeper, started if there is none.
    pub(crate) async fn client(&self) -> Result<KeeperClient> {
        if let Ok(client) = self.answering().await {
            return Ok(client);
        }
        let _one = self.starting.lock().await;
        self.goes_on()?;
        may_listen(&self.root)?;
        let began = Instant::now();
        while self.held.load(Ordering::SeqCst) {
            match self.answering().await {
                Ok(client) => return Ok(client),
                Err(e) if began.elapsed() > ANSWER => return Err(self.silent(&e)),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        let launcher = Launcher { program: super::this_program()?, args: vec!["keeper".into()], env: Vec::new() };
        KeeperClient::connect_or_start(&self.root, &launcher).await
    }

    /// Says that the daemon goes down, or does not after all.
    pub(crate) fn set_closing(&self, closing: bool) {
        self.closing.store(closing, Ordering::SeqCst);
    }

    /// Refuses while the daemon goes down.
    pub(crate) fn goes_on(&self) -> Result<()> {
        if self.is_closing() {
            return Err(Error::unavailable("Orlop is going down").with_remedy("start it again with: orlop up"));
        }
        Ok(())
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Never returns: sees to it that there is a keeper, unless the daemon goes down, and tells when another one is there.
    pub(crate) async fn guard(&self, another: &Notify) {
        // A service's process may be a keeper's brother: then systemd starts the keeper again, and two would quarrel.
        let grace = if std::env::var_os("INVOCATION_ID").is_some() { SYSTEMD } else { Duration::ZERO };
        let mut had_one = false;
        let mut said = String::new();
        loop {
            match self.answering().await {
                Ok(keeper) => {
                    if had_one {
                        another.notify_one();
                    }
                    self.held.store(true, Ordering::SeqCst);
                    keeper.ended().await;
                    self.held.store(false, Ordering::SeqCst);
                    had_one = true;
                }
                Err(_) if self.is_closing() => tokio::time::sleep(PAUSE).await,
                Err(_) => {
                    if self.wait_for_other(grace).await || self.is_closing() {
                        continue;
                    }
                    match self.client().await {
                        Ok(_) => tracing::warn!("the keeper had ended; another one has its mounts"),
                        Err(e) => {
                            let why = e.to_string();
                            if why != said {
                                tracing::error!(error = why, "no keeper");
                                said = why;
                            }
                            tokio::time::sleep(PAUSE).await;
                        }
                    }
                }
            }
        }
    }

    /// Whether somebody else started a keeper meanwhile.
    async fn wait_for_other(&self, grace: Duration) -> bool {
        let began = Instant::now();
        while began.elapsed() < grace {
            tokio::time::sleep(PAUSE).await;
            if self.answering().await.is_ok() {
                return true;
            }
        }
        false
    }
}
