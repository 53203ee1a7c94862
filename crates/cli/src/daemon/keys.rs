//! The master key of a root: made at the first start, and what has to be said about it.

use orlop_store::keys::MasterKeys;
use std::path::Path;

/// Makes the key if there is none. A key that cannot be used keeps nobody from the volumes that are not encrypted, so
/// it is a warning as well. True: the key was made by this start.
pub(super) fn prepare(root: &Path) -> (bool, Option<String>) {
    let dir = root.join("keys");
    match MasterKeys::ensure(&dir) {
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
