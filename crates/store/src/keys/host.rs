//! Keys for the files that a host keeps of a sealed volume beside its store: derived from the same ring as those of its objects.
//!
//! There are two ways to seal, since two kinds of files are written. A file of blocks is written once at each place, read
//! at any place, and has no room for tags: a stream that depends on file and place is laid over it, and whether a block is
//! what was written is for the checksum that its reader has. A log is sealed record by record, each with a tag of its own.

use super::secret::{DerivedRing, KEY_BYTES, KeyId, NONCE_BYTES, Secret, random};
use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use zeroize::Zeroizing;

const PURPOSE: &[u8] = b"orlop 1: files of a host of a sealed volume";
const BLOCKS: &[u8] = b"blocks";
const RECORDS: &[u8] = b"records";
/// Bytes of the stream that are made at once.
const STEP: usize = 16;

/// The keys of a volume for files on a host: one for new files, all for reading.
#[derive(Debug)]
pub struct HostKeys(DerivedRing);

impl HostKeys {
    /// From the ring. `None` if the current key is not among them.
    pub fn new<'a>(current: KeyId, keys: impl IntoIterator<Item = (KeyId, &'a Secret)>) -> Option<HostKeys> {
        DerivedRing::new(PURPOSE, current, keys).map(HostKeys)
    }

    /// Keys that are always the same, for simulations and fuzz targets.
    #[doc(hidden)]
    pub fn fixed() -> HostKeys {
        let secret = Secret::from_bytes(Zeroizing::new([5; KEY_BYTES]));
        HostKeys::new(KeyId([4; 8]), [(KeyId([4; 8]), &secret)]).expect("it is there")
    }

    /// The key of new files.
    pub fn current(&self) -> KeyId {
        self.0.current()
    }

    /// Whether the ring has this key.
    pub fn has(&self, key: KeyId) -> bool {
        self.0.get(key).is_some()
    }

    /// The cipher of a file of blocks. No two files may have the same `file`, and no place of one is written twice with different
    /// bytes. `None` if the ring does not have the key.
    pub fn blocks(&self, key: KeyId, file: &[u8]) -> Option<BlockCipher> {
        let bytes = self.0.get(key)?.bytes(&[BLOCKS, file]);
        let key = UnboundCipherKey::new(&AES_256, &*bytes).and_then(EncryptingKey::ctr);
        Some(BlockCipher(key.expect("the key has the cipher's length")))
    }

    /// The cipher of a log's file. `None` if the ring does not have the key.
    pub fn records(&self, key: KeyId, file: &[u8]) -> Option<RecordCipher> {
        Some(RecordCipher(self.0.get(key)?.key(&[RECORDS, file])))
    }
}

/// Lays the stream of one file over its bytes, or takes it off: both are the same. AES-256 in counter mode.
#[derive(Debug)]
pub struct BlockCipher(EncryptingKey);

impl BlockCipher {
    /// Over the bytes at an offset of the file, in place.
    pub fn apply(&self, offset: u64, bytes: &mut [u8]) {
        let (step, within) = (offset / STEP as u64, (offset % STEP as u64) as usize);
        if within == 0 {
            return self.lay(step, bytes);
        }
        let (head, rest) = bytes.split_at_mut(bytes.len().min(STEP - within));
        let mut whole = [0; STEP];
        whole[within..within + head.len()].copy_from_slice(head);
        self.lay(step, &mut whole);
        head.copy_from_slice(&whole[within..within + head.len()]);
        self.lay(step + 1, rest);
    }

    fn lay(&self, step: u64, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        let counter = EncryptionContext::Iv128(FixedLength::from(u128::from(step).to_be_bytes()));
        self.0.less_safe_encrypt(bytes, counter).expect("counter mode takes bytes of any length");
    }
}

/// Seals the records of one file of a log. AES-256-GCM with random nonces: a file holds far fewer records than those allow.
#[derive(Debug)]
pub struct RecordCipher(LessSafeKey);

impl RecordCipher {
    /// Appends the sealed text. Only with the same `context` does it open.
    pub fn seal(&self, context: &[u8], text: &[u8], out: &mut Vec<u8>) {
        let nonce: [u8; NONCE_BYTES] = random();
        out.extend_from_slice(&nonce);
        let from = out.len();
        out.extend_from_slice(text);
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut out[from..])
            .expect("a record is far below the cipher's limit");
        out.extend_from_slice(tag.as_ref());
    }

    /// The text; `None` if it is not what was sealed, here and with this context.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, body) = sealed.split_at_checked(NONCE_BYTES)?;
        let mut text = body.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let len = self.0.open_in_place(nonce, Aad::from(context), &mut text).ok()?.len();
        text.truncate(len);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::secret::TAG_BYTES;
    use super::*;

    fn keys() -> HostKeys {
        let secrets = [(KeyId([1; 8]), Secret::random()), (KeyId([2; 8]), Secret::random())];
        HostKeys::new(KeyId([2; 8]), secrets.iter().map(|(id, s)| (*id, s))).expect("it is there")
    }

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let keys = keys();
        let cipher = keys.blocks(keys.current(), b"a").expect("known");
        let plain: Vec<u8> = (0..10_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
        let mut whole = plain.clone();
        cipher.apply(4096, &mut whole);
        assert_ne!(whole, plain);
        for (from, to) in [(0, 1), (0, 16), (3, 5), (15, 17), (16, 48), (1, 10_000), (4095, 8193), (9_999, 10_000), (7, 7)] {
            let mut part = whole[from..to].to_vec();
            cipher.apply(4096 + from as u64, &mut part);
            assert!(part == plain[from..to], "{from}..{to}");
        }
        // What counter mode is, at a place whose counter does not fit 32 bits.
        let mut far = vec![0; 48];
        cipher.apply(16 * ((1 << 32) - 1), &mut far);
        let mut next = vec![0; 16];
        cipher.apply(16 << 32, &mut next);
        assert_eq!(far[16..32], next);
    }

    #[test]
    fn no_two_files_and_no_two_keys_have_the_same_stream() {
        let keys = keys();
        let stream = |key: u8, file: &[u8]| {
            let mut zeros = vec![0; 64];
            keys.blocks(KeyId([key; 8]), file).expect("known").apply(0, &mut zeros);
            zeros
        };
        assert_eq!(stream(1, b"a"), stream(1, b"a"));
        assert_ne!(stream(1, b"a"), stream(1, b"b"));
        assert_ne!(stream(1, b"a"), stream(2, b"a"));
        assert!(keys.blocks(KeyId([3; 8]), b"a").is_none() && keys.records(KeyId([3; 8]), b"a").is_none() && !keys.has(KeyId([3; 8])));
    }

    #[test]
    fn a_record_opens_only_whole_in_its_file_and_context() {
        let keys = keys();
        let cipher = keys.records(keys.current(), b"a").expect("known");
        let mut sealed = Vec::new();
        cipher.seal(b"7", b"a text", &mut sealed);
        assert_eq!(sealed.len(), NONCE_BYTES + 6 + TAG_BYTES);
        assert_eq!(cipher.open(b"7", &sealed).expect("opens"), b"a text");
        assert!(cipher.open(b"8", &sealed).is_none(), "moved");
        assert!(keys.records(keys.current(), b"b").expect("known").open(b"7", &sealed).is_none(), "of another file");
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(cipher.open(b"7", &bad).is_none(), "byte {at}");
            assert!(cipher.open(b"7", &sealed[..at]).is_none(), "cut at {at}");
        }
    }
}
