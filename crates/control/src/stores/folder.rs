//! The folder of a store for plain volumes: which URLs name one, and which folders are refused.

use orlop_model::{Error, Result, StoreSpec};
use std::path::{Path, PathBuf};

/// The folder that a `dir://` store names.
pub fn folder_of(spec: &StoreSpec) -> Result<PathBuf> {
    let bad = |why: &str| {
        Error::invalid(format!("store URL {}: {why}", spec.url)).with_remedy("write three slashes and an absolute folder: dir:///srv/data")
    };
    let url = url::Url::parse(&spec.url).map_err(|e| bad(&e.to_string()))?;
    if url.host_str().is_some_and(|h| !h.is_empty() && h != "localhost") {
        return Err(bad("it names a host, but dir:// is this host's disk"));
    }
    // Through the scheme whose paths the library reads.
    let path = url::Url::parse(&format!("file://{}", url.path())).ok().and_then(|u| u.to_file_path().ok());
    let path = path.ok_or_else(|| bad("it names no absolute folder"))?;
    if path.parent().is_none() {
        return Err(bad("the root of the file system cannot be a store"));
    }
    if path.to_str().is_none_or(|p| p.chars().any(char::is_control)) {
        return Err(bad("its folder's name is not UTF-8, or has control characters"));
    }
    Ok(path)
}

/// The same, refusing a folder in which Orlop's own lies, or the other way round.
pub(crate) fn allowed_folder(spec: &StoreSpec, root: &Path) -> Result<PathBuf> {
    let folder = folder_of(spec)?;
    let (real, real_root) = (really(&folder), really(root));
    if real.starts_with(&real_root) || real_root.starts_with(&real) {
        return Err(Error::invalid(format!("{} and Orlop's root {} lie in one another", folder.display(), root.display()))
            .with_remedy("choose a folder elsewhere"));
    }
    Ok(folder)
}

/// Refuses a `file://` store among Orlop's own files: its objects would be taken for those, and the other way round.
pub(crate) fn refuse_own_folders(spec: &StoreSpec, root: &Path) -> Result<()> {
    let Some(folder) = spec.url.strip_prefix("file://").map(|folder| really(Path::new(folder))) else { return Ok(()) };
    let root = really(root);
    if folder.starts_with(&root) && !folder.starts_with(root.join("stores")) {
        return Err(Error::invalid(format!("store URL {}: the folder is Orlop's own, below {}", spec.url, root.display()))
            .with_remedy(format!("name a folder outside of it, or below {}", root.join("stores").display())));
    }
    Ok(())
}

/// Where a folder is, links followed; as it is written while it is not there.
pub(super) fn really(folder: &Path) -> PathBuf {
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_from_its_url() {
        let of = |url: &str| folder_of(&StoreSpec::new(url));
        assert_eq!(of("dir:///srv/data").expect("fine"), Path::new("/srv/data"));
        assert_eq!(of("dir:///srv/my%20data/").expect("fine"), Path::new("/srv/my data/"));
        assert_eq!(of("dir:///srv/%23a/../b").expect("fine"), Path::new("/srv/b"));
        for bad in ["dir:///", "dir://host/x", "dir:relative", "dir:", "dir:///a%00b"] {
            let e = of(bad).expect_err(bad);
            assert!(e.remedy.is_some(), "{e}");
        }
        let root = Path::new("/var/lib/orlop");
        for bad in ["dir:///var/lib/orlop/x", "dir:///var/lib", "dir:///var/lib/orlop"] {
            assert!(allowed_folder(&StoreSpec::new(bad), root).is_err(), "{bad}");
        }
        assert!(allowed_folder(&StoreSpec::new("dir:///var/lib/orlop2"), root).is_ok());
    }
}
