//! What holds key material: it cannot be printed, copied by accident or left in memory, and seals other keys.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
pub(super) const NONCE_BYTES: usize = 12;
pub(super) const TAG_BYTES: usize = 16;

/// Random bytes from the operating system's generator.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the generator is seeded by the operating system and never fails after");
    bytes
}

/// The name of a key: eight random bytes, shown as hexadecimal digits. It says nothing about the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(pub [u8; 8]);

impl KeyId {
    /// A new random name.
    pub fn random() -> Self {
        KeyId(random())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = orlop_model::Error;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        unhex(s).map(KeyId).ok_or_else(|| orlop_model::Error::invalid("a key's name is 16 hexadecimal digits"))
    }
}

impl TryFrom<String> for KeyId {
    type Error = orlop_model::Error;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> String {
        id.to_string()
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        write!(text, "{b:02x}").expect("writing to a string cannot fail");
        text
    })
}

/// Exactly `N` bytes from hexadecimal digits.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

/// A key. Shows nothing of itself and is overwritten when dropped.
pub struct Secret(Zeroizing<[u8; KEY_BYTES]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// A new random key.
    pub fn random() -> Self {
        Secret(Zeroizing::new(random()))
    }

    /// The key with exactly these bytes.
    pub(crate) fn from_bytes(bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        Secret(bytes)
    }

    /// Its bytes, for the one file that holds it.
    pub(crate) fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// What keys for single purposes are derived from.
    pub(crate) fn derive(&self, purpose: &[u8]) -> Derived {
        Derived(Salt::new(HKDF_SHA256, purpose).extract(&*self.0))
    }

    /// Seals another key under this one. `context` must be the same to open it.
    pub(crate) fn wrap(&self, key: &Secret, context: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = random();
        let mut body = Zeroizing::new(key.0.to_vec());
        let wrapping = self.derive(WRAPPING).key(&[context]);
        let tag = wrapping
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut body)
            .expect("a key is far below the cipher's limit");
        // What is in `body` is sealed by now.
        [&nonce[..], &body[..], tag.as_ref()].concat()
    }

    /// Opens a key that was sealed under this one; `None` if it was not, or not with this context, or is damaged.
    pub(crate) fn unwrap(&self, sealed: &[u8], context: &[u8]) -> Option<Secret> {
        let (nonce, body) = sealed.split_at_checked(NONCE_BYTES)?;
        if body.len() != KEY_BYTES + TAG_BYTES {
            return None;
        }
        let mut body = Zeroizing::new(body.to_vec());
        let wrapping = self.derive(WRAPPING).key(&[context]);
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = wrapping.open_in_place(nonce, Aad::from(context), &mut body).ok()?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        key.copy_from_slice(opened);
        Some(Secret(key))
    }

    /// Vouches for a text: who has this key can tell that it was written by somebody who has it.
    pub(crate) fn sign(&self, text: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = random();
        let tag = self
            .derive(VOUCHING)
            .key(&[VOUCHING])
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(text), &mut [])
            .expect("a ring is far below the cipher's limit");
        [&nonce[..], tag.as_ref()].concat()
    }

    /// Whether somebody who has this key vouched for this text.
    pub(crate) fn verify(&self, text: &[u8], signature: &[u8]) -> bool {
        let Some((nonce, tag)) = signature.split_at_checked(NONCE_BYTES) else { return false };
        let Ok(nonce) = Nonce::try_assume_unique_for_key(nonce) else { return false };
        self.derive(VOUCHING).key(&[VOUCHING]).open_in_place(nonce, Aad::from(text), &mut tag.to_vec()).is_ok_and(|rest| rest.is_empty())
    }
}

const VOUCHING: &[u8] = b"orlop 1: the check of a key ring";
const WRAPPING: &[u8] = b"orlop 1: keys wrapped by a master key";

/// The root of many keys: a key for each `info`, none of which tells another.
pub(crate) struct Derived(Prk);

impl fmt::Debug for Derived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Derived(..)")
    }
}

/// The keys of a ring for one purpose: one for what is new, all for reading.
#[derive(Debug)]
pub(crate) struct DerivedRing {
    current: KeyId,
    keys: BTreeMap<KeyId, Derived>,
}

impl DerivedRing {
    /// `None` if the current key is not among them.
    pub(crate) fn new<'a>(purpose: &[u8], current: KeyId, keys: impl IntoIterator<Item = (KeyId, &'a Secret)>) -> Option<DerivedRing> {
        let keys: BTreeMap<_, _> = keys.into_iter().map(|(id, secret)| (id, secret.derive(purpose))).collect();
        keys.contains_key(&current).then_some(DerivedRing { current, keys })
    }

    pub(crate) fn current(&self) -> KeyId {
        self.current
    }

    pub(crate) fn get(&self, key: KeyId) -> Option<&Derived> {
        self.keys.get(&key)
    }
}

struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

impl Derived {
    /// The AES-256-GCM key for this `info`, whose parts must have lengths that cannot be confused.
    pub(crate) fn key(&self, info: &[&[u8]]) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*self.bytes(info)).expect("the key has the cipher's length"))
    }

    /// The same for another cipher.
    pub(super) fn bytes(&self, info: &[&[u8]]) -> Zeroizing<[u8; KEY_BYTES]> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        self.0.expand(info, KeyLength).and_then(|okm| okm.fill(&mut *bytes)).expect("32 bytes are within what HKDF gives");
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_key_opens_only_whole_with_its_master_and_context() {
        let (master, other, key) = (Secret::random(), Secret::random(), Secret::random());
        let sealed = master.wrap(&key, b"volume 1");
        assert_eq!(master.unwrap(&sealed, b"volume 1").expect("opens").expose(), key.expose());
        assert!(master.unwrap(&sealed, b"volume 2").is_none());
        assert!(other.unwrap(&sealed, b"volume 1").is_none());
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(master.unwrap(&bad, b"volume 1").is_none(), "byte {at}");
            assert!(master.unwrap(&sealed[..at], b"volume 1").is_none(), "cut at {at}");
        }
        assert!(!sealed.windows(8).any(|w| w == &key.expose()[..8]), "the key is in it in plain");
        assert_ne!(master.wrap(&key, b"volume 1"), sealed, "a nonce was used twice");
    }

    #[test]
    fn nothing_prints_a_key() {
        let key = Secret::from_bytes(Zeroizing::new([0xab; KEY_BYTES]));
        let shown = format!("{key:?} {:?}", key.derive(b"x"));
        assert!(!shown.contains("171") && !shown.to_lowercase().contains("ab, ") && !shown.contains("abab"), "{shown}");
    }
}
