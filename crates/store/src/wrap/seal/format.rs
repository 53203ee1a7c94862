//! The bytes of a sealed object: a header, then frames, each sealed for its place. No I/O.
//!
//! The key of an object is derived from the ring's key and the object's random id, so a frame's number can be its
//! nonce: no pair of key and nonce is ever used for two different texts. The header, the object's kind, the frame's
//! number and whether it is the last one are authenticated with each frame.

use crate::keys::{DerivedRing, KeyId, Secret, random};
use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use bytes::{Bytes, BytesMut};
use object_store::PutPayload;
use std::collections::VecDeque;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"ORLOPE01";
/// HKDF-SHA-256 and AES-256-GCM.
const CIPHER: u8 = 1;
const FRAME_LOG2: u8 = 16;
/// Plain bytes of every frame but the last.
pub const FRAME: u64 = 1 << FRAME_LOG2;
pub(super) const TAG: u64 = 16;
pub(super) const SEALED_FRAME: u64 = FRAME + TAG;
pub(super) const HEADER: u64 = 40;
const PURPOSE: &[u8] = b"orlop 1: objects of a sealed volume";

/// How many frames hold this many plain bytes; an empty object has one, so that its emptiness is authenticated.
pub(super) fn frames(plain: u64) -> u64 {
    plain.div_ceil(FRAME).max(1)
}

/// What this many plain bytes take.
pub(super) fn sealed_size(plain: u64) -> u64 {
    HEADER + plain + frames(plain) * TAG
}

/// How many plain bytes an object of this size holds; `None` if no sealed object has that size.
pub(super) fn plain_size(sealed: u64) -> Option<u64> {
    let body = sealed.checked_sub(HEADER)?;
    let (whole, rest) = (body / SEALED_FRAME, body % SEALED_FRAME);
    match rest {
        0 if whole > 0 => Some(whole * FRAME),
        TAG if whole == 0 => Some(0),
        _ if rest > TAG => Some(whole * FRAME + rest - TAG),
        _ => None,
    }
}

/// Where a frame begins in the sealed object.
pub(super) fn frame_at(frame: u64) -> u64 {
    HEADER.saturating_add(frame.saturating_mul(SEALED_FRAME))
}

/// The header as it stands in the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header([u8; HEADER as usize]);

impl Header {
    fn new(key: KeyId) -> Header {
        let mut h = [0; HEADER as usize];
        h[..8].copy_from_slice(MAGIC);
        h[8] = CIPHER;
        h[9] = FRAME_LOG2;
        h[16..24].copy_from_slice(&key.0);
        h[24..40].copy_from_slice(&random::<16>());
        Header(h)
    }

    /// Reads it; the error says what is wrong.
    pub(super) fn parse(bytes: &[u8]) -> Result<Header, String> {
        let h: [u8; HEADER as usize] = bytes.try_into().map_err(|_| "it is too short for a header".to_owned())?;
        if &h[..8] != MAGIC {
            return Err("it does not begin as a sealed object does".to_owned());
        }
        if h[8] != CIPHER || h[9] != FRAME_LOG2 || h[10..16] != [0; 6] {
            return Err("its header is damaged, or of a newer version".to_owned());
        }
        Ok(Header(h))
    }

    pub(super) fn key(&self) -> KeyId {
        KeyId(self.0[16..24].try_into().expect("the range has eight bytes"))
    }

    fn object(&self) -> &[u8] {
        &self.0[24..40]
    }

    pub(super) fn bytes(&self) -> &[u8; HEADER as usize] {
        &self.0
    }
}

/// The keys of a volume, ready for use: one for new objects, all for reading.
#[derive(Debug)]
pub struct SealKeys(DerivedRing);

impl SealKeys {
    /// From the ring. `None` if the current key is not among them.
    pub fn new<'a>(current: KeyId, keys: impl IntoIterator<Item = (KeyId, &'a Secret)>) -> Option<SealKeys> {
        DerivedRing::new(PURPOSE, current, keys).map(SealKeys)
    }

    /// The cipher of a new object.
    pub(super) fn begin(&self, kind: &str) -> Cipher {
        let header = Header::new(self.0.current());
        self.cipher(header, kind).expect("the current key is among the keys")
    }

    /// The cipher of an object that exists; `None` if its key is not known.
    pub(super) fn cipher(&self, header: Header, kind: &str) -> Option<Cipher> {
        let key = self.0.get(header.key())?.key(&[header.object()]);
        Some(Cipher { key, header, kind: kind.into() })
    }
}

/// Seals and opens the frames of one object.
#[derive(Debug)]
pub(super) struct Cipher {
    key: LessSafeKey,
    header: Header,
    kind: Arc<str>,
}

impl Cipher {
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    fn bind(&self, frame: u64, last: bool) -> (Nonce, Aad<Vec<u8>>) {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&frame.to_be_bytes());
        let mut data = Vec::with_capacity(HEADER as usize + 9 + self.kind.len());
        data.extend_from_slice(self.header.bytes());
        data.extend_from_slice(&frame.to_be_bytes());
        data.push(u8::from(last));
        data.extend_from_slice(self.kind.as_bytes());
        (Nonce::assume_unique_for_key(nonce), Aad::from(data))
    }

    /// Seals a frame in its place.
    pub(super) fn seal(&self, frame: u64, last: bool, text: &mut BytesMut) {
        let (nonce, data) = self.bind(frame, last);
        self.key.seal_in_place_append_tag(nonce, data, text).expect("a frame is far below the cipher's limit");
    }

    /// Opens a frame in its place, and cuts the tag off; false if it is not what was sealed for this place.
    pub(super) fn open(&self, frame: u64, last: bool, text: &mut BytesMut) -> bool {
        let (nonce, data) = self.bind(frame, last);
        let Ok(plain) = self.key.open_in_place(nonce, data, text).map(|plain| plain.len()) else { return false };
        text.truncate(plain);
        true
    }

    /// Seals a whole object.
    pub(super) fn seal_all(&self, payload: PutPayload) -> PutPayload {
        let mut plain = Plain::default();
        plain.push(payload);
        let count = frames(plain.len());
        let mut sealed = vec![Bytes::copy_from_slice(self.header.bytes())];
        sealed.extend((0..count).map(|frame| self.seal_next(frame, frame + 1 == count, &mut plain)));
        sealed.into_iter().collect()
    }

    /// Seals the next frame of a text.
    pub(super) fn seal_next(&self, frame: u64, last: bool, plain: &mut Plain) -> Bytes {
        let len = plain.len().min(FRAME) as usize;
        let mut text = BytesMut::with_capacity(len + TAG as usize);
        plain.take(len, &mut text);
        self.seal(frame, last, &mut text);
        text.freeze()
    }
}

/// Plain bytes in pieces, as they were given: kept without a copy, cut at any place.
#[derive(Debug, Clone, Default)]
pub(super) struct Plain {
    pieces: VecDeque<Bytes>,
    len: u64,
}

impl Plain {
    pub(super) fn push(&mut self, payload: PutPayload) {
        self.len += payload.content_length() as u64;
        self.pieces.extend(payload.into_iter().filter(|piece| !piece.is_empty()));
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Moves the first `n` bytes to the end of `to`; there are that many.
    fn take(&mut self, mut n: usize, to: &mut BytesMut) {
        self.len -= n as u64;
        while n > 0 {
            let piece = self.pieces.front_mut().expect("there are as many bytes as its length says");
            let now = piece.len().min(n);
            to.extend_from_slice(&piece.split_to(now));
            n -= now;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    /// Drops the first `n` bytes; there are that many.
    pub(super) fn skip(&mut self, mut n: u64) {
        self.len -= n;
        while n > 0 {
            let piece = self.pieces.front_mut().expect("there are as many bytes as its length says");
            let now = (piece.len() as u64).min(n);
            let _ = piece.split_to(now as usize);
            n -= now;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn sizes_go_there_and_back_and_no_other_size_is_taken() {
        let mut expected = BTreeMap::new();
        for plain in 0..3 * FRAME + 50 {
            expected.insert(sealed_size(plain), plain);
        }
        for sealed in 0..sealed_size(3 * FRAME + 49) {
            assert_eq!(plain_size(sealed), expected.get(&sealed).copied(), "{sealed}");
        }
    }

    #[test]
    fn a_frame_opens_only_in_its_place() {
        let secret = Secret::random();
        let keys = SealKeys::new(KeyId([7; 8]), [(KeyId([7; 8]), &secret)]).expect("it is there");
        let cipher = keys.begin("packs");
        let sealed = |frame, last| {
            let mut text = BytesMut::from(&b"what was written"[..]);
            cipher.seal(frame, last, &mut text);
            text
        };
        assert!(cipher.open(3, false, &mut sealed(3, false)));
        assert!(!cipher.open(4, false, &mut sealed(3, false)), "moved within the object");
        assert!(!cipher.open(3, true, &mut sealed(3, false)), "an earlier frame as the end");
        let other = keys.begin("packs");
        assert!(!other.open(3, false, &mut sealed(3, false)), "moved to another object");
        let elsewhere = keys.cipher(*cipher.header(), "log").expect("known");
        assert!(!elsewhere.open(3, false, &mut sealed(3, false)), "moved to another kind");
        assert!(SealKeys::new(KeyId([8; 8]), [(KeyId([7; 8]), &secret)]).is_none());
    }
}
