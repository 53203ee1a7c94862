//! Which options are accepted on which store: those whose feature exists there. A known option without its feature is refused with what
//! works instead; it is never silently taken, as the owner would rely on it.

use crate::inner::{default_cache, default_durability};
use crate::registry::StoreRow;
use orlop_model::{
    CACHE_SIZE, CacheMode, Compression, Durability, Error, ErrorKind, OutagePolicy, Result, STAGING_SIZE, StoreName, StoreSpec,
    VolumeOptions, VolumeUpdate,
};
use std::collections::BTreeMap;

const LABELS_MAX: usize = 64;
const LABEL_NAME_MAX: usize = 128;
const LABEL_VALUE_MAX: usize = 4096;

/// Refuses what cannot be kept on this store.
pub(super) fn check(options: &VolumeOptions, store: &StoreRow) -> Result<()> {
    if store.spec.is_plain() {
        return check_plain(options, store);
    }
    let refused = |option: &str, why: &str, remedy: &str| {
        Err(Error::new(ErrorKind::Unsupported, format!("option {option} is not supported {why}")).with_remedy(remedy.to_owned()))
    };
    if options.durability == Some(Durability::Remote) && store.spec.is_local() {
        return refused(
            "durability=remote",
            &format!("on store {}, which is this host's own disk", store.name),
            "leave it out or give durability=local: fsync reaches that disk already",
        );
    }
    for (option, given) in [("cache_size", options.cache_size), ("staging_size", options.staging_size)] {
        if given.is_some() && store.spec.is_local() {
            let why = format!("on store {}, which is this host's own disk: nothing is copied or sent", store.name);
            return refused(option, &why, &format!("leave out {option}"));
        }
    }
    if options.cache == Some(CacheMode::Fast) && !store.spec.is_local() {
        return refused(
            "cache=fast",
            &format!("on store {}, from which another host may take the volume over", store.name),
            "leave it out or give cache=strict, or choose a store on this host's disk",
        );
    }
    Ok(())
}

/// A plain volume is an ordinary folder: whatever the Orlop file system would have to do is refused. What says only
/// that it does not do it may be said.
fn check_plain(options: &VolumeOptions, store: &StoreRow) -> Result<()> {
    let refused = [
        ("size", options.size.is_some(), "a quota is the underlying file system's matter"),
        ("encrypt", options.encrypt == Some(true), "its files are stored as they are"),
        ("compression", options.compression.is_some_and(|c| c != Compression::None), "its files are stored as they are"),
        ("durability", options.durability.is_some(), "fsync promises what the underlying file system does"),
        ("outage", options.outage.is_some(), "an outage is the underlying file system's matter"),
        ("cache", options.cache.is_some(), "the kernel caches it as any folder"),
        ("cache_size", options.cache_size.is_some(), "the kernel caches it as any folder"),
        ("staging_size", options.staging_size.is_some(), "nothing of it is sent"),
    ];
    match refused.iter().find(|(_, given, _)| *given) {
        None => Ok(()),
        Some((option, _, why)) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("option {option} is not supported on store {}: its volumes are plain folders, and {why}", store.name),
        )
        .with_remedy(format!("leave out {option}, or choose a store that is no dir:// one"))),
    }
}

/// Takes the protection out of the options: it is a state of the volume, changed by other verbs too.
pub(super) fn split_protection(options: &mut VolumeOptions) -> Option<bool> {
    options.protect.take()
}

/// The options as they count on a store: defaults written out or left out are the same.
pub(super) fn effective(options: &VolumeOptions, store: &StoreSpec) -> VolumeOptions {
    VolumeOptions {
        store: Some(options.store.clone().unwrap_or_else(StoreName::default_store)),
        cache: Some(options.cache.unwrap_or_else(|| default_cache(options, store))),
        durability: Some(options.durability.unwrap_or_else(|| default_durability(store))),
        outage: Some(options.outage.unwrap_or(OutagePolicy::Wait)),
        encrypt: Some(options.encrypt.unwrap_or(false)),
        compression: Some(options.compression.unwrap_or(Compression::None)),
        uid: Some(options.uid.unwrap_or(0)),
        gid: Some(options.gid.unwrap_or(0)),
        mode: Some(options.mode.unwrap_or(0o755)),
        cache_size: options.cache_size.or_else(|| (!store.is_local()).then_some(CACHE_SIZE)),
        staging_size: options.staging_size.or_else(|| (!store.is_local()).then_some(STAGING_SIZE)),
        ..options.clone()
    }
}

/// The names of the options in which two volumes differ; `store` is the second one's.
pub(super) fn differing(a: &VolumeOptions, b: &VolumeOptions, store: &StoreSpec) -> Vec<String> {
    // A default that follows from the size is not another difference.
    let neither = a.cache.is_none() && b.cache.is_none();
    let (a, b) = (effective(a, store).to_pairs(), effective(b, store).to_pairs());
    let mut names: Vec<String> =
        a.keys().chain(b.keys()).filter(|k| a.get(*k) != b.get(*k) && !(neither && *k == "cache")).cloned().collect();
    names.sort();
    names.dedup();
    names
}

/// The options after an update. Those that only count when a volume is created are refused.
pub(super) fn updated(old: &VolumeOptions, update: &VolumeUpdate) -> Result<VolumeOptions> {
    let mut options = old.clone();
    for (key, value) in &update.options {
        let fixed =
            |why: &str, remedy: &str| Err(Error::invalid(format!("option {key} cannot be changed: {why}")).with_remedy(remedy.to_owned()));
        match key.as_str() {
            "uid" | "gid" | "mode" => {
                return fixed("it only says whose the root folder of a new volume is", "use chown and chmod on the mounted volume");
            }
            "store" => {
                return fixed("a volume's bytes stay where it was created", "create another volume on that store and copy the files");
            }
            "encrypt" => {
                return fixed("a volume is sealed from its first byte or not at all", "create another volume and copy the files");
            }
            _ => {}
        }
        if !value.is_empty() {
            options.set(key, value)?;
            continue;
        }
        match key.as_str() {
            "size" => options.size = None,
            "cache" => options.cache = None,
            "durability" => options.durability = None,
            "outage" => options.outage = None,
            "compression" => options.compression = None,
            "cache_size" => options.cache_size = None,
            "staging_size" => options.staging_size = None,
            "retention" => options.retention = None,
            "protect" => options.protect = Some(false),
            // Says that it is unknown, and which ones are known.
            _ => options.set(key, value)?,
        }
    }
    Ok(options)
}

/// Refuses labels that no table or line could show.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    let remedy =
        format!("{LABELS_MAX} labels at most, names up to {LABEL_NAME_MAX} bytes, values up to {LABEL_VALUE_MAX}, no control characters");
    let bad = |what: String| Err(Error::invalid(what).with_remedy(remedy.clone()));
    if labels.len() > LABELS_MAX {
        return bad(format!("{} labels are too many", labels.len()));
    }
    for (name, value) in labels {
        if name.is_empty() || name.len() > LABEL_NAME_MAX || name.chars().any(char::is_control) {
            return bad(format!("{:?} is not a label's name", name.chars().take(LABEL_NAME_MAX).collect::<String>()));
        }
        if value.len() > LABEL_VALUE_MAX || value.chars().any(char::is_control) {
            return bad(format!("the value of label {name} is too long or has control characters"));
        }
    }
    Ok(())
}
