//! Which options are accepted: those whose feature exists. A known option without its feature is refused with what
//! works instead; it is never silently taken, as the owner would rely on it.

use crate::config::StoreConfig;
use orlop_model::{CacheMode, Compression, Durability, Error, ErrorKind, OutagePolicy, Result, StoreName, VolumeOptions, VolumeUpdate};
use std::collections::BTreeMap;

const LABELS_MAX: usize = 64;
const LABEL_NAME_MAX: usize = 128;
const LABEL_VALUE_MAX: usize = 4096;

/// Refuses what cannot be kept.
pub(super) fn check(options: &VolumeOptions, stores: &BTreeMap<StoreName, StoreConfig>) -> Result<()> {
    if let Some(store) = &options.store
        && !stores.contains_key(store)
    {
        let known: Vec<&str> = stores.keys().map(StoreName::as_str).collect();
        return Err(Error::not_found(format!("option store={store}: no store has that name"))
            .with_remedy(format!("known stores: {}", known.join(", "))));
    }
    let unbuilt = |option: String, remedy: &str| {
        Err(Error::new(ErrorKind::Unsupported, format!("option {option} is not supported by this version")).with_remedy(remedy.to_owned()))
    };
    if options.encrypt == Some(true) {
        return unbuilt("encrypt=on".to_owned(), "leave it out, and encrypt the disk below the root if the data must be sealed");
    }
    if options.compression == Some(Compression::Zstd) {
        return unbuilt("compression=zstd".to_owned(), "leave it out or give compression=none");
    }
    if options.durability == Some(Durability::Remote) {
        return unbuilt("durability=remote".to_owned(), "leave it out or give durability=local: fsync reaches the host's disk");
    }
    if options.cache == Some(CacheMode::Fast) {
        return unbuilt("cache=fast".to_owned(), "leave it out or give cache=strict");
    }
    if let Some(policy @ (OutagePolicy::Fail | OutagePolicy::Readonly)) = options.outage {
        return unbuilt(format!("outage={policy}"), "leave it out or give outage=wait");
    }
    Ok(())
}

/// Takes the protection out of the options: it is a state of the volume, changed by other verbs too.
pub(super) fn split_protection(options: &mut VolumeOptions) -> Option<bool> {
    options.protect.take()
}

/// The options as they count: defaults written out or left out are the same.
pub(super) fn effective(options: &VolumeOptions) -> VolumeOptions {
    VolumeOptions {
        store: Some(options.store.clone().unwrap_or_else(StoreName::default_store)),
        cache: Some(options.cache.unwrap_or(CacheMode::Strict)),
        durability: Some(options.durability.unwrap_or(Durability::Local)),
        outage: Some(options.outage.unwrap_or(OutagePolicy::Wait)),
        encrypt: Some(options.encrypt.unwrap_or(false)),
        compression: Some(options.compression.unwrap_or(Compression::None)),
        uid: Some(options.uid.unwrap_or(0)),
        gid: Some(options.gid.unwrap_or(0)),
        mode: Some(options.mode.unwrap_or(0o755)),
        ..options.clone()
    }
}

/// The names of the options in which two volumes differ.
pub(super) fn differing(a: &VolumeOptions, b: &VolumeOptions) -> Vec<String> {
    let (a, b) = (effective(a).to_pairs(), effective(b).to_pairs());
    let mut names: Vec<String> = a.keys().chain(b.keys()).filter(|k| a.get(*k) != b.get(*k)).cloned().collect();
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
