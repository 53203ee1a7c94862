//! The ring of a volume's data keys: the object `keys.json` in its store, wrapped by a master key.
//!
//! It is replaced only by who has read what it replaces. It is checked as a whole under its current key, so nobody can
//! take a key out, or make an older one current, without being found out; and it is taken only byte for byte as written.

use super::host::HostKeys;
use super::master::{MasterKey, MasterKeys};
use super::secret::{KeyId, Secret, hex};
use crate::wrap::SealKeys;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, UpdateVersion};
use orlop_model::{Error, ErrorKind, Result, VolumeId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

const FORMAT: u32 = 1;
/// How often a ring that somebody else replaces meanwhile is tried anew.
const ATTEMPTS: usize = 16;

/// The object as it stands in the store. It holds nothing that is secret by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    format: u32,
    /// Whose it is.
    pub volume: VolumeId,
    /// The key of new objects.
    pub current: KeyId,
    /// All keys, oldest first.
    pub keys: Vec<RingKey>,
    check: String,
}

/// A data key, wrapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingKey {
    /// Its name.
    pub id: KeyId,
    /// The master key that wraps it.
    pub master: KeyId,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    wrapped: String,
}

/// A ring whose keys were unwrapped.
pub(super) struct OpenRing {
    ring: Ring,
    secrets: Vec<(KeyId, Secret)>,
}

/// Where a volume's ring is.
pub fn ring_path(prefix: &str) -> Path {
    Path::from(format!("{prefix}/keys.json"))
}

fn name(volume: VolumeId) -> String {
    format!("volume {volume}")
}

fn corrupt(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the key ring {path} is damaged: {why}"))
        .with_remedy("restore this one object from a copy of the store; nothing was changed")
}

fn context(volume: VolumeId, key: KeyId) -> Vec<u8> {
    [&volume.as_bytes()[..], &key.0].concat()
}

impl RingKey {
    fn new(volume: VolumeId, id: KeyId, secret: &Secret, master: &MasterKey, created: OffsetDateTime) -> RingKey {
        RingKey { id, master: master.id(), created, wrapped: hex(&master.secret.wrap(secret, &context(volume, id))) }
    }
}

impl Ring {
    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a plain struct is JSON")
    }

    /// What the check is over: all but itself.
    fn checked(&self) -> Vec<u8> {
        Ring { check: String::new(), ..self.clone() }.bytes()
    }
}

impl OpenRing {
    fn new(volume: VolumeId, master: &MasterKey) -> OpenRing {
        let (id, secret) = (KeyId::random(), Secret::random());
        let key = RingKey::new(volume, id, &secret, master, now());
        OpenRing { ring: Ring { format: FORMAT, volume, current: id, keys: vec![key], check: String::new() }, secrets: vec![(id, secret)] }
            .sealed()
    }

    fn sealed(mut self) -> OpenRing {
        let text = self.ring.checked();
        self.ring.check = hex(&self.current().sign(&text));
        self
    }

    fn current(&self) -> &Secret {
        self.secrets.iter().find(|(id, _)| *id == self.ring.current).map(|(_, s)| s).expect("an open ring has its current key")
    }

    fn open(ring: Ring, path: &Path, masters: &MasterKeys) -> Result<OpenRing> {
        let mut secrets = Vec::new();
        for key in &ring.keys {
            let master = masters.get(key.master, &name(ring.volume))?;
            let wrapped = unhex_any(&key.wrapped).ok_or_else(|| corrupt(path, "a wrapped key is not hexadecimal"))?;
            let secret = master
                .secret
                .unwrap(&wrapped, &context(ring.volume, key.id))
                .ok_or_else(|| corrupt(path, &format!("key {} does not open under master key {}", key.id, key.master)))?;
            secrets.push((key.id, secret));
        }
        if !secrets.iter().any(|(id, _)| *id == ring.current) {
            return Err(corrupt(path, "its current key is not in it"));
        }
        let open = OpenRing { ring, secrets };
        let check = unhex_any(&open.ring.check).ok_or_else(|| corrupt(path, "its check is not hexadecimal"))?;
        if !open.current().verify(&open.ring.checked(), &check) {
            return Err(corrupt(path, "it is not as it was written"));
        }
        Ok(open)
    }

    pub(super) fn seal_keys(&self) -> SealKeys {
        SealKeys::new(self.ring.current, self.secrets()).expect("an open ring has its current key")
    }

    pub(super) fn host_keys(&self) -> HostKeys {
        HostKeys::new(self.ring.current, self.secrets()).expect("an open ring has its current key")
    }

    fn secrets(&self) -> impl Iterator<Item = (KeyId, &Secret)> {
        self.secrets.iter().map(|(id, secret)| (*id, secret))
    }

    fn is_wrapped_by(&self, master: &MasterKey) -> bool {
        self.ring.keys.iter().all(|key| key.master == master.id())
    }

    fn wrapped_by(mut self, master: &MasterKey) -> OpenRing {
        let volume = self.ring.volume;
        for (key, (id, secret)) in self.ring.keys.iter_mut().zip(&self.secrets) {
            *key = RingKey::new(volume, *id, secret, master, key.created);
        }
        self.sealed()
    }

    /// The master key that wraps the current key.
    fn master(&self) -> KeyId {
        self.ring.keys.iter().find(|key| key.id == self.ring.current).map(|key| key.master).expect("an open ring has its current key")
    }

    fn with_new_key(mut self, master: &MasterKey) -> OpenRing {
        let (id, secret) = (KeyId::random(), Secret::random());
        self.ring.keys.push(RingKey::new(self.ring.volume, id, &secret, master, now()));
        self.ring.current = id;
        self.secrets.push((id, secret));
        self.wrapped_by(master)
    }
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc().replace_nanosecond(0).expect("0 is a nanosecond")
}

fn unhex_any(text: &str) -> Option<Vec<u8>> {
    // Only as it is written: a letter in the other case is a changed byte.
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()).collect()
}

/// The ring of a volume as it stands in the store, nothing unwrapped; the version is for who replaces it.
pub async fn read_ring(store: &dyn ObjectStore, prefix: &str) -> Result<(Ring, UpdateVersion)> {
    let path = ring_path(prefix);
    let failed = |e: StoreError| match e {
        StoreError::NotFound { .. } => {
            Error::not_found(format!("there is no key ring {path}: its volume was shredded, or never was sealed"))
                .with_remedy("see whether the store is the right one; without its ring a sealed volume cannot be read")
        }
        e => crate::error(format_args!("reading the key ring {path}"), &e),
    };
    let got = store.get(&path).await.map_err(failed)?;
    let version = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
    let bytes = got.bytes().await.map_err(failed)?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|_| corrupt(&path, "it is not JSON"))?;
    let format = value.get("format").and_then(serde_json::Value::as_u64).ok_or_else(|| corrupt(&path, "it has no format number"))?;
    if format > u64::from(FORMAT) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the key ring {path} is of format {format}; this version reads up to {FORMAT}"),
        )
        .with_remedy("open it with a newer version of Orlop; nothing was changed"));
    }
    let ring: Ring = serde_json::from_value(value).map_err(|_| corrupt(&path, "it is not a key ring"))?;
    if ring.bytes() != bytes {
        return Err(corrupt(&path, "it is not as it was written"));
    }
    // A ring of another volume opens nothing here: its keys are bound to that one.
    if prefix.rsplit('/').next() != Some(ring.volume.to_string().as_str()) {
        return Err(corrupt(&path, &format!("it is the ring of volume {}", ring.volume)));
    }
    Ok((ring, version))
}

pub(super) async fn open_ring(store: &dyn ObjectStore, prefix: &str, masters: &MasterKeys) -> Result<(OpenRing, UpdateVersion)> {
    let (ring, version) = read_ring(store, prefix).await?;
    Ok((OpenRing::open(ring, &ring_path(prefix), masters)?, version))
}

/// Makes the ring of a new volume, with one key. One that is there already is checked and kept.
pub async fn create_ring(store: &dyn ObjectStore, prefix: &str, masters: &MasterKeys) -> Result<()> {
    let volume: VolumeId = prefix
        .rsplit('/')
        .next()
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| Error::internal(format!("the prefix {prefix:?} does not end in a volume's id")))?;
    let path = ring_path(prefix);
    let ring = OpenRing::new(volume, masters.current());
    match store.put_opts(&path, ring.ring.bytes().into(), PutMode::Create.into()).await {
        Ok(_) => Ok(()),
        Err(StoreError::AlreadyExists { .. }) => open_ring(store, prefix, masters).await.map(drop),
        Err(e) => Err(crate::error(format_args!("writing the key ring {path}"), &e)),
    }
}

async fn change(
    store: &dyn ObjectStore,
    prefix: &str,
    masters: &MasterKeys,
    change: impl Fn(OpenRing) -> Result<Option<OpenRing>>,
) -> Result<Option<Ring>> {
    let path = ring_path(prefix);
    for _ in 0..ATTEMPTS {
        let (open, version) = open_ring(store, prefix, masters).await?;
        let Some(new) = change(open)? else { return Ok(None) };
        match store.put_opts(&path, new.ring.bytes().into(), PutMode::Update(version).into()).await {
            Ok(_) => return Ok(Some(new.ring)),
            Err(StoreError::Precondition { .. }) => {}
            Err(e) => return Err(crate::error(format_args!("replacing the key ring {path}"), &e)),
        }
    }
    Err(Error::new(ErrorKind::Busy, format!("the key ring {path} is being changed by others")).with_remedy("try again"))
}

/// Wraps all keys of a ring by the current master key. False: they were already.
pub async fn rewrap(store: &dyn ObjectStore, prefix: &str, masters: &MasterKeys) -> Result<bool> {
    let master = masters.current();
    change(store, prefix, masters, |ring| Ok((!ring.is_wrapped_by(master)).then(|| ring.wrapped_by(master)))).await.map(|new| new.is_some())
}

/// Adds a new key, which seals new objects of whoever opens the volume from now on. Returns its name. The ring stays with the master key
/// that wraps it: who shares the volume with this host goes on having that one.
pub async fn add_key(store: &dyn ObjectStore, prefix: &str, masters: &MasterKeys) -> Result<KeyId> {
    let add = |ring: OpenRing| {
        let master = masters.get(ring.master(), &name(ring.ring.volume))?;
        Ok(Some(ring.with_new_key(master)))
    };
    let new = change(store, prefix, masters, add).await?;
    Ok(new.expect("the change is never declined").current)
}

/// Deletes the ring: what is left of the volume in any place cannot be read any more. There being none is success.
pub async fn shred(store: &dyn ObjectStore, prefix: &str) -> Result<()> {
    let path = ring_path(prefix);
    match store.delete(&path).await {
        Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(e) => Err(crate::error(format_args!("deleting the key ring {path}"), &e)),
    }
}
