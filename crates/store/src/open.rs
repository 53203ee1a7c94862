//! How a URL becomes a store: which schemes there are, and what is refused before anything is touched.
//!
//! `file:///folder` is a folder on this host, made once, every acknowledged object on stable storage.
//! `mem://` is memory of this process, for tests: `mem://name` is the same store each time, a bare `mem://` a new one.
//! `s3://bucket/prefix` is a bucket on any server that speaks S3, or a part of it.

use crate::LocalStore;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use orlop_model::{Error, ErrorKind, Result, StoreSpec};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use url::Url;

/// The schemes that a store of an Orlop can have, with the form of their URLs.
pub const SCHEMES: &[(&str, &str)] =
    &[("file", "file:///srv/orlop"), ("s3", "s3://bucket/prefix"), ("dir", "dir:///srv/folder (plain folders)")];

static MEMORIES: LazyLock<Mutex<HashMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);

/// The store behind a URL that needs no settings. Makes the folder of a `file://` store; touches nothing else.
pub fn open(url: &str) -> Result<Arc<dyn ObjectStore>> {
    let spec = StoreSpec::new(url);
    make_folder(&spec)?;
    open_spec(&spec)
}

/// Makes the folder of a new `file://` store, with its parents. Other stores are made elsewhere.
pub fn make_folder(spec: &StoreSpec) -> Result<()> {
    match folder_of(spec) {
        Some(folder) => LocalStore::make(&folder).map(drop),
        None => Ok(()),
    }
}

/// The store that a specification describes. The folder of a `file://` store must be there: see [`make_folder`]. Reads credentials, which
/// for those that a command prints may take some seconds; sends no request.
pub fn open_spec(spec: &StoreSpec) -> Result<Arc<dyn ObjectStore>> {
    let url = &spec.url;
    let parsed = parse(url)?;
    match parsed.scheme() {
        "file" => {
            nothing_else(spec, "a file:// store")?;
            Ok(Arc::new(LocalStore::open(&folder(&parsed)?)?))
        }
        "mem" => {
            nothing_else(spec, "a mem:// store")?;
            let name = format!("{}{}", parsed.host_str().unwrap_or_default(), parsed.path().trim_end_matches('/'));
            if name.is_empty() {
                return Ok(Arc::new(InMemory::new()));
            }
            let mut all = MEMORIES.lock().expect("no code panics while it holds this lock");
            let store = Arc::clone(all.entry(name).or_default());
            Ok(store)
        }
        "s3" => Ok(Arc::new(crate::s3::open(spec, &parsed)?)),
        "dir" => Err(Error::new(ErrorKind::Unsupported, format!("store URL {url:?}: a dir:// store holds plain folders, not objects"))
            .with_remedy("plain volumes live there; for chunked volumes on the same disk use file:///folder")),
        other => Err(Error::new(ErrorKind::Unsupported, format!("store URL {url:?}: no backend for {other}://"))
            .with_remedy(format!("use {}", forms()))),
    }
}

/// The folder of a `file://` store.
pub fn folder_of(spec: &StoreSpec) -> Option<PathBuf> {
    let parsed = parse(&spec.url).ok().filter(|url| url.scheme() == "file")?;
    folder(&parsed).ok()
}

/// Refuses the name of a setting that a store with this URL does not have: one that is to go back to its default is not among those with
/// which the store is opened.
pub fn check_setting_names(url: &str, settings: &BTreeMap<String, String>) -> Result<()> {
    match parse(url)?.scheme() {
        "s3" => known_settings(settings, crate::s3::SETTINGS, "an s3:// store"),
        other => known_settings(settings, &[], &format!("a {other}:// store")),
    }
}

/// Refuses settings and credentials where there are none.
fn nothing_else(spec: &StoreSpec, what: &str) -> Result<()> {
    known_settings(&spec.settings, &[], what)?;
    if spec.credentials.is_some() {
        return Err(Error::invalid(format!("{what} has no credentials")).with_remedy("leave the credentials out"));
    }
    Ok(())
}

/// Refuses a setting that is not among the known ones, and says which there are.
pub(crate) fn known_settings(given: &BTreeMap<String, String>, known: &[(&str, &str)], what: &str) -> Result<()> {
    match given.keys().find(|name| known.iter().all(|(k, _)| k != name)) {
        None => Ok(()),
        Some(name) if known.is_empty() => {
            Err(Error::invalid(format!("unknown setting {name}: {what} has no settings")).with_remedy("leave it out"))
        }
        Some(name) => {
            let all: Vec<_> = known.iter().map(|(name, _)| *name).collect();
            Err(Error::invalid(format!("unknown setting {name} of {what}")).with_remedy(format!("the settings are {}", all.join(", "))))
        }
    }
}

fn forms() -> String {
    SCHEMES.iter().map(|(_, form)| *form).collect::<Vec<_>>().join(" or ")
}

fn parse(text: &str) -> Result<Url> {
    let parsed =
        Url::parse(text).map_err(|e| Error::invalid(format!("store URL {text:?}: {e}")).with_remedy(format!("write it as {}", forms())))?;
    if !parsed.username().is_empty() || parsed.password().is_some() {
        // The text is not repeated: it holds a secret.
        return Err(Error::invalid(format!("the URL of the {}:// store carries credentials", parsed.scheme()))
            .with_remedy("take them out of the URL; a store's credentials are references (a file, a variable, a command)"));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(Error::invalid(format!("store URL {text:?}: has a query or fragment, which would be ignored"))
            .with_remedy("remove everything from ? or # on; write # in a folder's name as %23"));
    }
    Ok(parsed)
}

fn folder(url: &Url) -> Result<PathBuf> {
    if url.host_str().is_some_and(|h| !h.is_empty() && h != "localhost") {
        return Err(Error::invalid(format!("store URL {:?}: names a host, but file:// is this host's disk", url.as_str()))
            .with_remedy("write three slashes and an absolute folder: file:///srv/orlop"));
    }
    let path = url.to_file_path().map_err(|()| {
        Error::invalid(format!("store URL {:?}: not an absolute folder", url.as_str()))
            .with_remedy("write three slashes and an absolute folder: file:///srv/orlop")
    })?;
    if path.parent().is_none() {
        return Err(Error::invalid("store URL file:///: the root folder cannot be a store").with_remedy("name a folder of its own"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;
    use object_store::path::Path;

    #[test]
    fn bad_urls_are_refused_with_a_remedy() {
        for (url, kind) in [
            ("", ErrorKind::InvalidArgument),
            ("/srv/orlop", ErrorKind::InvalidArgument),
            ("file:///", ErrorKind::InvalidArgument),
            ("file://server/share", ErrorKind::InvalidArgument),
            ("file:///srv/a?sync=off", ErrorKind::InvalidArgument),
            ("file:///srv/a#1", ErrorKind::InvalidArgument),
            ("gopher://x/y", ErrorKind::Unsupported),
        ] {
            let e = open(url).err().unwrap_or_else(|| panic!("{url} was accepted"));
            assert_eq!(e.kind, kind, "{url}: {e}");
            assert!(e.remedy.is_some(), "{url}: {e}");
        }
    }

    #[test]
    fn a_setting_that_a_store_does_not_have_is_refused_by_name_though_it_has_no_value() {
        let names = |names: &[&str]| -> BTreeMap<String, String> { names.iter().map(|n| ((*n).to_owned(), String::new())).collect() };
        check_setting_names("s3://bucket", &names(&["region", "timeout"])).expect("known");
        check_setting_names("file:///srv/orlop", &names(&[])).expect("none");
        for (url, remedy) in [("s3://bucket/p", "endpoint"), ("file:///srv/orlop", "leave it out"), ("dir:///srv", "leave it out")] {
            let e = check_setting_names(url, &names(&["regoin"])).expect_err(url);
            assert!(e.message.contains("regoin") && e.remedy.as_ref().is_some_and(|r| r.contains(remedy)), "{url}: {e}");
        }
    }

    #[test]
    fn credentials_in_a_url_are_refused_and_not_repeated() {
        let e = open("s3://key:planted-secret@bucket/x").expect_err("refused");
        assert!(!format!("{e} {e:?}").contains("planted-secret"), "{e}");
    }

    #[tokio::test]
    async fn a_named_memory_is_one_store_and_a_bare_one_is_new() {
        let at = Path::from("x");
        let a = open("mem://open-test").expect("opens");
        a.put(&at, "1".into()).await.expect("puts");
        assert!(open("mem://open-test").expect("opens").head(&at).await.is_ok());
        assert!(open("mem://").expect("opens").head(&at).await.is_err());
    }

    #[test]
    fn a_file_where_the_folder_should_be_is_named() {
        let dir = tempfile::tempdir().expect("temp folder");
        let file = dir.path().join("plain file");
        std::fs::write(&file, "").expect("writes");
        let url = Url::from_file_path(&file).expect("absolute");
        let e = open(url.as_str()).expect_err("refused");
        assert!(e.message.contains("plain file"), "{e}");
    }
}
