//! The folders of a root, and who may look into them.
//!
//! The root is 0711, and so is what lies on the way to a mounted volume (Docker with user namespaces walks it
//! as another user); the rest is for root alone. Folders that exist keep the mode that somebody gave them.

use orlop_model::{Error, ErrorKind, Result};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

const FOLDERS: [(&str, u32); 6] = [("run", 0o711), ("mnt", 0o711), ("log", 0o700), ("audit", 0o700), ("state", 0o700), ("stores", 0o700)];

/// Makes what is missing.
pub(crate) fn create(root: &Path) -> Result<()> {
    make(root, 0o711)?;
    for (name, mode) in FOLDERS {
        make(&root.join(name), mode)?;
    }
    make(&root.join("stores/default"), 0o700)
}

fn make(path: &Path, mode: u32) -> Result<()> {
    let built = DirBuilder::new().recursive(true).mode(mode).create(path);
    built.map_err(|e| match e.kind() {
        std::io::ErrorKind::PermissionDenied => Error::new(ErrorKind::Denied, format!("the folder {} cannot be made: {e}", path.display()))
            .with_remedy("run the command as root, or give a folder of yours with --root"),
        std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory => {
            Error::invalid(format!("{} is in the way: it, or a part of its path, is not a folder", path.display()))
                .with_remedy("give another folder with --root DIR")
        }
        std::io::ErrorKind::ReadOnlyFilesystem => {
            Error::invalid(format!("the folder {} cannot be made: {e}", path.display())).with_remedy("give another folder with --root DIR")
        }
        _ => Error::io(format_args!("making the folder {}", path.display()), &e).with_remedy("give another folder with --root DIR"),
    })
}
