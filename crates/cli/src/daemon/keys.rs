//! The master key of a root: made at the first start, and what has to be said about it.

use orlop_control::{Control, VolumeFilter};
use orlop_model::{ErrorKind, Result};
use orlop_store::keys::MasterKeys;
use std::path::Path;

/// Makes the key if there is none and no volume was ever sealed under one: a new key would only hide that the old one is lost.
/// A key that cannot be used keeps nobody from the volumes that are not encrypted, so it is a warning as well.
/// True: the key was made by this start.
pub(super) async fn prepare(root: &Path, control: &Control) -> (bool, Option<String>) {
    let dir = root.join("keys");
    let made = match MasterKeys::load(&dir) {
        // Only then are the volumes looked at.
        Err(e) if e.kind == ErrorKind::NotFound => match sealed(control).await {
            Ok(true) => Err(e),
            Ok(false) => MasterKeys::ensure(&dir),
            Err(e) => Err(e),
        },
        there => there.map(|_| false),
    };
    match made {
        Ok(made) => {
            let warning = unsaved(root, made);
            if let Some(warning) = &warning {
                tracing::warn!("{warning}");
            }
            (made, warning)
        }
        Err(e) => {
            let warning = format!("encrypted volumes cannot be opened or made: {e}");
            tracing::error!("{warning}");
            (false, Some(warning))
        }
    }
}

/// Whether any volume is encrypted, removed ones too: they can be restored.
async fn sealed(control: &Control) -> Result<bool> {
    let volumes = control.volumes(VolumeFilter { include_removed: true, ..VolumeFilter::default() }).await?;
    Ok(volumes.iter().any(|v| v.options.encrypt == Some(true)))
}

/// The warning as long as nobody heeded it.
pub(super) fn unsaved(root: &Path, made: bool) -> Option<String> {
    let dir = root.join("keys");
    let keys = MasterKeys::load(&dir).ok().filter(|keys| made && !keys.was_exported(&dir))?;
    Some(format!(
        "the master key of encrypted volumes was made, {} in {}; without it nobody can read them: back it up with orlop key export",
        keys.current().id(),
        dir.display()
    ))
}
