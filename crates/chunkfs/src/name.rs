//! The object `name.json`: what its maker called a volume, for whoever has nothing but the store.
//!
//! Names are each host's own, and Orlop itself goes by ids: nothing but a reader without a registry looks here. On an
//! encrypted volume it is sealed as all else.

use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use orlop_model::{Error, ErrorKind, Result, VolumeId, VolumeName};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    version: u32,
    volume: VolumeId,
    name: VolumeName,
    /// Digest of the rest, this field empty.
    check: String,
}

fn path(prefix: &str) -> StorePath {
    StorePath::from(format!("{prefix}/name.json"))
}

/// The bytes of the object.
pub(crate) fn encode(volume: VolumeId, name: &VolumeName) -> Vec<u8> {
    let bare = Named { version: VERSION, volume, name: name.clone(), check: String::new() };
    let digest = blake3::hash(&serde_json::to_vec(&bare).expect("a plain struct is JSON")).to_hex();
    serde_json::to_vec(&Named { check: digest[..32].to_owned(), ..bare }).expect("a plain struct is JSON")
}

/// Why there is no name in the object's bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoName {
    #[error("it is of version {0}; this version of Orlop reads {VERSION}")]
    Newer(u64),
    #[error("{0}; the volume's next mount writes it anew")]
    Damaged(String),
}

/// Reads the object, or says why it has no name.
pub(crate) fn decode(bytes: &[u8], volume: VolumeId) -> std::result::Result<VolumeName, NoName> {
    let damaged = |why: &str| NoName::Damaged(why.to_owned());
    // The version is read first and alone: a newer one may hold anything else.
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| NoName::Damaged(format!("it is not JSON: {e}")))?;
    let version = value.get("version").and_then(serde_json::Value::as_u64).ok_or_else(|| damaged("it has no version"))?;
    if version > u64::from(VERSION) {
        return Err(NoName::Newer(version));
    }
    let named: Named = serde_json::from_value(value).map_err(|e| NoName::Damaged(e.to_string()))?;
    if named.volume != volume {
        return Err(NoName::Damaged(format!("it is the name of volume {}", named.volume)));
    }
    if encode(volume, &named.name) == bytes { Ok(named.name) } else { Err(damaged("it is not as it was written")) }
}

/// What is wrong with the object's bytes, if anything. One of a later version is nobody's damage.
pub(crate) fn inspect(bytes: &[u8], volume: VolumeId) -> std::result::Result<(), String> {
    match decode(bytes, volume) {
        Ok(_) | Err(NoName::Newer(_)) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

/// What its maker called the volume at a prefix, if that was noted. `store` has the seal taken off.
pub async fn name_of(store: &dyn ObjectStore, prefix: &str, volume: VolumeId) -> Result<Option<VolumeName>> {
    let at = path(prefix);
    let bytes = match async { store.get(&at).await?.bytes().await }.await {
        Ok(bytes) => bytes,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(orlop_store::error(&at, &e)),
    };
    decode(&bytes, volume).map(Some).map_err(|e| {
        let kind = if matches!(e, NoName::Newer(_)) { ErrorKind::Unsupported } else { ErrorKind::Corrupt };
        Error::new(kind, format!("{at}: {e}")).with_remedy("give the volume's id: nothing else refers to its name")
    })
}

/// Notes what a volume is called, unless something is noted already.
pub async fn note_name(store: &dyn ObjectStore, prefix: &str, volume: VolumeId, name: &VolumeName) -> Result<()> {
    let at = path(prefix);
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(&at, encode(volume, name).into(), options).await {
        Ok(_) | Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(()),
        Err(e) => Err(orlop_store::error(&at, &e)),
    }
}

/// Notes what a volume is called where nothing is noted, or where that is damaged.
pub async fn keep_name(store: &dyn ObjectStore, prefix: &str, volume: VolumeId, name: &VolumeName) -> Result<()> {
    let is_damaged = |e: &Error| e.kind == ErrorKind::Corrupt;
    match name_of(store, prefix, volume).await {
        Ok(Some(_)) => return Ok(()),
        Ok(None) => return note_name(store, prefix, volume, name).await,
        // Perhaps only what came: it is read once more before it is replaced.
        Err(e) if is_damaged(&e) => match name_of(store, prefix, volume).await {
            Err(e) if is_damaged(&e) => tracing::warn!(error = %e, "the volume's name is noted anew"),
            other => return other.map(drop),
        },
        // Whoever wrote it knows more.
        Err(e) if e.kind == ErrorKind::Unsupported => return Ok(()),
        Err(e) => return Err(e),
    }
    let at = path(prefix);
    store.put(&at, encode(volume, name).into()).await.map(drop).map_err(|e| orlop_store::error(&at, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    fn named(text: &str) -> VolumeName {
        text.parse().expect("a name")
    }

    #[tokio::test]
    async fn a_name_is_noted_once_and_written_anew_when_damaged() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let id = VolumeId::random();
        assert_eq!(name_of(&*store, "v", id).await.expect("looks"), None);
        keep_name(&*store, "v", id, &named("orders")).await.expect("noted");
        keep_name(&*store, "v", id, &named("elsewhere")).await.expect("there already");
        assert_eq!(name_of(&*store, "v", id).await.expect("looks"), Some(named("orders")), "its maker's name stays");
        assert_eq!(name_of(&*store, "v", VolumeId::random()).await.expect_err("another's").kind, ErrorKind::Corrupt);
        let whole = encode(id, &named("orders"));
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(decode(&bytes, id).is_err(), "byte {at}");
            assert!(decode(&whole[..at], id).is_err(), "cut at {at}");
        }
        store.put(&path("v"), whole[1..].to_vec().into()).await.expect("damaged");
        assert_eq!(name_of(&*store, "v", id).await.expect_err("damaged").kind, ErrorKind::Corrupt);
        keep_name(&*store, "v", id, &named("orders")).await.expect("anew");
        assert_eq!(name_of(&*store, "v", id).await.expect("looks"), Some(named("orders")));
    }

    #[tokio::test]
    async fn what_a_later_version_wrote_stays_and_is_no_damage() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let id = VolumeId::random();
        let later: &[u8] = br#"{"version":2,"more":[]}"#;
        store.put(&path("v"), later.to_vec().into()).await.expect("put");
        assert_eq!(name_of(&*store, "v", id).await.expect_err("not read").kind, ErrorKind::Unsupported);
        assert_eq!(inspect(later, id), Ok(()));
        keep_name(&*store, "v", id, &named("orders")).await.expect("left alone");
        note_name(&*store, "v", id, &named("orders")).await.expect("left alone");
        assert_eq!(store.get(&path("v")).await.expect("there").bytes().await.expect("bytes"), later);
    }
}
