//! What a decoder owes when it meets any bytes, and how that is tried without a fuzzer: seeded changes of valid samples.
//!
//! Every crate that decodes bytes from a store, a socket or a disk has a list of targets. `./dev fuzz` gives the same
//! targets to libFuzzer; the tests of each crate run some thousand inputs through them.

use std::time::{Duration, Instant};

/// A decoder under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, as `./dev fuzz` takes it.
    pub name: &'static str,
    /// Decodes; true if the bytes were accepted. Panics if what it accepted does not keep its promises, such as coming
    /// back the same from being encoded again.
    pub run: fn(&[u8]) -> bool,
    /// Valid samples, all of which must be accepted.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// A checksum or seal covers every byte: whatever is not a sample must be refused.
    pub covered: bool,
}

/// How long to go on.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// So many inputs.
    Inputs(u64),
    /// So long.
    Time(Duration),
}

/// Shows the input that a decoder panicked on.
struct Shown<'a>(&'a Target, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} panicked on these {} bytes: {}", self.0.name, self.1.len(), self.1.escape_ascii());
        }
    }
}

impl Target {
    /// Runs changed samples through the decoder; equal seeds give equal inputs. Returns how many were run and accepted.
    ///
    /// # Panics
    /// If the decoder does, if it refuses a sample, and if it accepts other bytes under a checksum.
    pub fn exercise(&self, limit: Limit, seed: u64) -> (u64, u64) {
        let seeds = (self.seeds)();
        for sample in &seeds {
            let _shown = Shown(self, sample);
            assert!((self.run)(sample), "{} refuses a valid sample", self.name);
        }
        let (mut dice, began, mut ran, mut accepted) = (Dice(seed | 1), Instant::now(), 0, 0);
        loop {
            match limit {
                Limit::Inputs(n) if ran >= n => break,
                Limit::Time(t) if began.elapsed() >= t => break,
                _ => {}
            }
            let input = dice.input(&seeds);
            let _shown = Shown(self, &input);
            let taken = (self.run)(&input);
            assert!(!(self.covered && taken && !seeds.contains(&input)), "{} accepts bytes that were altered", self.name);
            ran += 1;
            accepted += u64::from(taken);
        }
        (ran, accepted)
    }
}

/// Numbers at the edges of what decoders compute with.
const EDGES: [u64; 14] = [0, 1, 2, 127, 128, 255, 256, 4095, 4096, 1 << 16, (1 << 31) - 1, 1 << 32, 1 << 63, u64::MAX];

/// A small generator, so that an input can be made again from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `n`; 0 for 0.
    fn below(&mut self, n: usize) -> usize {
        (self.roll() >> 16) as usize % n.max(1)
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.roll() as u8).collect()
    }

    fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        if seeds.is_empty() || self.below(20) == 0 {
            let n = self.below(300);
            return self.bytes(n);
        }
        let mut b = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(b.len());
            match self.below(9) {
                0 if !b.is_empty() => b[at] ^= 1 << self.below(8),
                1 if !b.is_empty() => b[at] = self.roll() as u8,
                2 => b.truncate(at),
                3 => {
                    let n = self.below(9);
                    let fresh = self.bytes(n);
                    b.splice(at..at, fresh);
                }
                4 => {
                    let to = (at + self.below(16)).min(b.len());
                    b.drain(at..to);
                }
                5 => {
                    let to = (at + self.below(64)).min(b.len());
                    let again = b[at..to].to_vec();
                    b.splice(at..at, again);
                }
                6 => {
                    let edge = EDGES[self.below(EDGES.len())].to_le_bytes();
                    let to = (at + [1, 2, 4, 8][self.below(4)]).min(b.len());
                    b[at..to].copy_from_slice(&edge[..to - at]);
                }
                7 => {
                    let mut edge = EDGES[self.below(EDGES.len())];
                    let mut varint = Vec::new();
                    while edge >= 0x80 {
                        varint.push(edge as u8 | 0x80);
                        edge >>= 7;
                    }
                    varint.push(edge as u8);
                    let to = (at + self.below(4)).min(b.len());
                    b.splice(at..to, varint);
                }
                _ => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len());
                    let to = (from + self.below(64)).min(other.len());
                    b.splice(at..at, other[from..to].iter().copied());
                }
            }
        }
        b
    }
}

/// So many inputs for each target, or as many seconds of them as the environment's ORLOP_FUZZ_SECONDS says. For the tests of
/// a crate.
///
/// # Panics
/// As [`Target::exercise`] does.
pub fn exercise_all(targets: &[Target], inputs: u64) {
    let seconds = std::env::var("ORLOP_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    for target in targets {
        let limit = seconds.map_or(Limit::Inputs(inputs), |s| Limit::Time(Duration::from_secs(s)));
        let (ran, accepted) = target.exercise(limit, 0x0A1_0B2);
        println!("{}: {ran} inputs, {accepted} accepted", target.name);
    }
}

/// The targets of this crate: words that users write, and records as they are kept.
pub const TARGETS: &[Target] = &[
    Target { name: "options", run: options, seeds: option_seeds, covered: false },
    Target { name: "words", run: words, seeds: word_seeds, covered: false },
    Target { name: "rows", run: rows, seeds: row_seeds, covered: false },
];

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn options(bytes: &[u8]) -> bool {
    let Some(text) = text(bytes) else { return false };
    let Ok(options) = crate::VolumeOptions::parse(text.lines().filter_map(|l| l.split_once('='))) else { return false };
    let kept = serde_json::to_string(&options).expect("options are plain data");
    assert_eq!(serde_json::from_str::<crate::VolumeOptions>(&kept).expect("as they were kept"), options);
    true
}

fn option_seeds() -> Vec<Vec<u8>> {
    let all = "store=s3prod\nsize=10G\nuid=1000\ngid=7\nmode=0750\ncache=strict\ndurability=remote\noutage=fail\n\
               encrypt=on\ncompression=zstd\ncache_size=1G\nstaging_size=256M\nretention=7d\nprotect=on";
    std::iter::once(all.into()).chain(all.lines().map(Into::into)).collect()
}

/// What parses and shows the same again.
fn shows<T: std::str::FromStr + std::fmt::Display + PartialEq + std::fmt::Debug>(text: &str) -> bool {
    let Ok(word) = text.parse::<T>() else { return false };
    let again = word.to_string().parse::<T>().ok();
    assert_eq!(again.as_ref(), Some(&word), "{word} does not come back");
    true
}

fn words(bytes: &[u8]) -> bool {
    let Some(text) = text(bytes) else { return false };
    let as_words = shows::<crate::VolumeName>(text) | shows::<crate::StoreName>(text) | shows::<crate::VolumeId>(text);
    // A size is shown rounded, for people.
    as_words | shows::<crate::VolumeRef>(text) | text.parse::<crate::ByteSize>().is_ok() | text.parse::<crate::CredentialsRef>().is_ok()
}

fn word_seeds() -> Vec<Vec<u8>> {
    let samples = ["mydata", "a.b-c_d", "10G", "1536M", "18446744073709551615", "4096", "00000000-0000-4000-8000-000000000000"];
    let more = ["env:AWS_SECRET", "file:/etc/key", "command:/usr/bin/pass show s3"];
    samples.iter().chain(&more).map(|s| s.as_bytes().to_vec()).collect()
}

fn keeps<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> bool {
    let Ok(row) = serde_json::from_slice::<T>(bytes) else { return false };
    let kept = serde_json::to_vec(&row).expect("a row is plain data");
    assert_eq!(serde_json::from_slice::<T>(&kept).expect("as it was kept"), row);
    true
}

fn rows(bytes: &[u8]) -> bool {
    keeps::<crate::VolumeOptions>(bytes)
        | keeps::<crate::Capabilities>(bytes)
        | keeps::<crate::Actor>(bytes)
        | keeps::<crate::AuditEvent>(bytes)
        | keeps::<crate::Intent>(bytes)
        | keeps::<std::collections::BTreeMap<String, String>>(bytes)
}

fn row_seeds() -> Vec<Vec<u8>> {
    let options = crate::VolumeOptions::parse([("size", "10G"), ("retention", "7d"), ("mode", "0750")]).expect("valid options");
    let event = r#"{"seq":3,"at":"1970-01-01T00:00:00Z","change":3,"phase":"start","actor":{"kind":"local","uid":1,"gid":2,"pid":7},"verb":"volume.create","target":"d","detail":{"a":[null,1.5]},"prev":"00","hash":"ff"}"#;
    let text = [event, r#"{"kind":"docker"}"#, r#"{"a":"b","c":"d"}"#].map(|t| t.as_bytes().to_vec());
    text.into_iter().chain([serde_json::to_vec(&options).expect("plain data")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_decoded_or_refused() {
        exercise_all(TARGETS, 4000);
    }

    #[test]
    fn a_decoder_that_is_wrong_is_found() {
        let panics = |run: fn(&[u8]) -> bool, covered| {
            let target = Target { name: "wrong", run, seeds: || vec![b"orlop, a deck of a ship".to_vec()], covered };
            std::panic::catch_unwind(|| target.exercise(Limit::Inputs(4000), 7)).is_err()
        };
        assert!(panics(|b| b.iter().rposition(|c| *c == 255).is_none_or(|at| b[at + 1] > 0), false), "reads beyond the end");
        assert!(panics(|b| b.len() > 3, true), "takes altered bytes");
        assert!(panics(|_| false, false), "refuses a sample");
        assert!(!panics(|_| true, false));
    }
}
