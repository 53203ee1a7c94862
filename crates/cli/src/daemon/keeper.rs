//! The keeper's process as the daemon sees it: asked if it answers, started if it does not.

use orlop_model::Result;
use orlop_mount::KeeperClient;
use orlop_mount::keeper::Launcher;
use std::path::{Path, PathBuf};

/// The keeper of a root.
pub(crate) struct Keeper {
    root: PathBuf,
    /// Only one start at a time; a second one would only find the first one's lock.
    starting: tokio::sync::Mutex<()>,
}

impl Keeper {
    pub(crate) fn new(root: &Path) -> Keeper {
        Keeper { root: root.to_owned(), starting: tokio::sync::Mutex::new(()) }
    }

    /// The keeper if it answers.
    pub(crate) async fn answering(&self) -> Result<KeeperClient> {
        KeeperClient::connect(&self.root).await
    }

    /// The keeper, started if none answers.
    pub(crate) async fn client(&self) -> Result<KeeperClient> {
        if let Ok(client) = self.answering().await {
            return Ok(client);
        }
        let _one = self.starting.lock().await;
        let launcher = Launcher { program: super::this_program()?, args: vec!["keeper".into()], env: Vec::new() };
        KeeperClient::connect_or_start(&self.root, &launcher).await
    }
}
