//! What a volume took when it was brought to rest, for whoever asks while it is not mounted: above all what its store does not have.

use orlop_model::Usage;
use std::fs::{self, File};
use std::path::Path;

const FILE: &str = "at-rest.json";

/// Once the volume is open: what was noted holds no longer, and is not to be found after a crash either.
pub(super) fn forget(dir: &Path) {
    match fs::remove_file(dir.join(FILE)) {
        Ok(()) => drop(File::open(dir).and_then(|dir| dir.sync_all())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => tracing::warn!("{FILE} cannot be removed: {e}"),
    }
}

/// Once it is closed. Nothing depends on it, so a full disk goes without.
pub(super) fn note(dir: &Path, usage: &Usage) {
    let new = dir.join(format!("{FILE}.new"));
    let text = serde_json::to_vec(usage).expect("numbers are JSON");
    if let Err(e) = fs::write(&new, text).and_then(|()| fs::rename(&new, dir.join(FILE))) {
        tracing::info!("what the volume takes at rest is not noted: {e}");
        let _ = fs::remove_file(new);
    }
}

/// What a volume took when it was last brought to rest, given its folder on this host. `None` while it is open, after a crash, and if
/// it never was open here.
pub fn usage_at_rest(state_dir: &Path) -> Option<Usage> {
    serde_json::from_slice(&fs::read(state_dir.join(FILE)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_from_the_end_of_one_opening_to_the_begin_of_the_next() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(usage_at_rest(dir.path()), None);
        let usage = Usage { used_bytes: 1, inodes: 2, unsynced_bytes: 3, unsent_bytes: 4, host_bytes: 5, stopped: None };
        note(dir.path(), &usage);
        assert_eq!(usage_at_rest(dir.path()), Some(usage));
        fs::write(dir.path().join(FILE), b"").expect("cut off by a power failure");
        assert_eq!(usage_at_rest(dir.path()), None);
        forget(dir.path());
        forget(dir.path());
        assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 0);
    }
}
