//! The options of a volume, as Docker's `-o key=value` and `orlop volume create` give them.
//!
//! An unknown or malformed option is refused with its name and the known ones: Docker drops the options
//! of a second create silently, so this is the only place where a mistake can be seen.

use crate::{ByteSize, Error, Result, StoreName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $option:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $($(#[$vdoc])* $variant),+
        }

        impl $name {
            /// The word for it in options.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $word),+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;
            fn from_str(s: &str) -> Result<Self> {
                match s {
                    $($word => Ok($name::$variant),)+
                    _ => Err(Error::invalid(format!("{} is not a value of option {}", format_args!("{s:?}"), $option))
                        .with_remedy(format!("use one of: {}", [$($word),+].join(", ")))),
                }
            }
        }
    };
}

words! {
    /// How the kernel may cache: strict asks the volume each time, fast owes what docs/SEMANTICS.md lists.
    CacheMode, "cache" {
        /// Ordinary opens, no writeback cache.
        Strict = "strict",
        /// Zero-message opens, writeback, long-lived caches.
        Fast = "fast",
    }
}
words! {
    /// What an acknowledged fsync survives.
    Durability, "durability" {
        /// Loss of the process and of power: the host's disk has it.
        Local = "local",
        /// Loss of the host: the object store has it.
        Remote = "remote",
    }
}
words! {
    /// What a request does while the store is away.
    OutagePolicy, "outage" {
        /// Waits until the store is back.
        Wait = "wait",
        /// Fails after a deadline.
        Fail = "fail",
        /// Reads go on from the cache, writes fail.
        Readonly = "readonly",
    }
}
words! {
    /// How packs are compressed.
    Compression, "compression" {
        /// As they are.
        None = "none",
        /// With Zstandard.
        Zstd = "zstd",
    }
}

/// What a volume takes at most of the host's disk for copies of what its store has, unless it is told otherwise.
pub const CACHE_SIZE: ByteSize = ByteSize(4 << 30);
/// The same for what its store does not have yet.
pub const STAGING_SIZE: ByteSize = ByteSize(4 << 30);

/// What a volume was created or set with. `None` means the default of the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeOptions {
    /// The store it lives in; the default store if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreName>,
    /// The most bytes its files may take, at 4 KiB granularity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
    /// Owner of a fresh root folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group of a fresh root folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Permission bits of a fresh root folder, 0755 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Kernel caching.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheMode>,
    /// What fsync promises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// What happens while the store is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<OutagePolicy>,
    /// Whether the volume is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypt: Option<bool>,
    /// How its packs are compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// The most bytes of the host's disk for copies of what its store has, 4 GiB if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_size: Option<ByteSize>,
    /// The most bytes of the host's disk for what its store does not have yet, 4 GiB if absent; then writers wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staging_size: Option<ByteSize>,
    /// How many seconds a removed volume can be restored; 7 days if absent, an hour for anonymous ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<u64>,
    /// Whether removal is refused until it is unprotected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protect: Option<bool>,
}

/// Every option with the form of its value, in the order in which help shows them.
pub const OPTION_HELP: &[(&str, &str)] = &[
    ("store", "NAME of the store it lives in"),
    ("size", "most bytes its files may take, such as 10G"),
    ("uid", "owner of a fresh root folder, a number"),
    ("gid", "group of a fresh root folder, a number"),
    ("mode", "permission bits of a fresh root folder, octal"),
    ("cache", "fast or strict; fast by default on this host's disk without a size"),
    ("durability", "local or remote"),
    ("outage", "wait, fail or readonly"),
    ("encrypt", "on or off"),
    ("compression", "none or zstd"),
    ("cache_size", "most bytes of this host's disk for copies of what its store has, 4G by default"),
    ("staging_size", "most bytes of this host's disk for what its store does not have yet, 4G by default"),
    ("retention", "how long a removed volume can be restored, such as 7d, 12h, 30m or 0"),
    ("protect", "on or off"),
];

fn number(key: &str, value: &str) -> Result<u32> {
    value.parse::<u32>().ok().filter(|n| *n != u32::MAX).ok_or_else(|| {
        Error::invalid(format!("option {key}={value}: not a number from 0 to 4294967294"))
            .with_remedy(format!("write {key}=1000, for example"))
    })
}

fn at_least(mib: u64, key: &str, value: &str) -> Result<ByteSize> {
    let size: ByteSize = value.parse()?;
    if size.0 < mib << 20 {
        return Err(Error::invalid(format!("option {key}={value}: less than {mib} MiB")).with_remedy(format!("give at least {key}={mib}M")));
    }
    Ok(size)
}

fn switch(key: &str, value: &str) -> Result<bool> {
    match value {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err(Error::invalid(format!("option {key}={value}: neither on nor off")).with_remedy(format!("write {key}=on or {key}=off"))),
    }
}

fn seconds(key: &str, value: &str) -> Result<u64> {
    let bad = || {
        Error::invalid(format!("option {key}={value}: not a duration"))
            .with_remedy(format!("write {key}=7d, {key}=12h, {key}=30m, {key}=45s or {key}=0"))
    };
    let split = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (n, unit) = value.split_at(split);
    let n: u64 = n.parse().map_err(|_| bad())?;
    let unit = match unit {
        "s" => 1,
        // A bare number may be meant in days.
        "" if n == 0 => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        "w" => 7 * 86400,
        _ => return Err(bad()),
    };
    // A hundred years is for ever, and keeps every later sum far from overflow.
    n.checked_mul(unit).filter(|s| *s <= 100 * 366 * 86400).ok_or_else(|| {
        Error::invalid(format!("option {key}={value}: that is longer than a hundred years"))
            .with_remedy(format!("write at most {key}=36500d, which nobody outlives"))
    })
}

impl VolumeOptions {
    /// Reads options as Docker sends them. The error names the option and the remedy.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut o = VolumeOptions::default();
        for (key, value) in pairs {
            o.set(key, value).map_err(|e| if e.message.contains("option") { e } else { e.during(format_args!("option {key}={value}")) })?;
        }
        Ok(o)
    }

    /// Sets one option by its name.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "store" => self.store = Some(value.parse()?),
            "size" => self.size = Some(at_least(1, key, value)?),
            "uid" => self.uid = Some(number(key, value)?),
            "gid" => self.gid = Some(number(key, value)?),
            "mode" => {
                let digits = value.strip_prefix("0o").unwrap_or(value);
                let mode = u32::from_str_radix(digits, 8).ok().filter(|m| *m <= 0o7777 && !digits.starts_with('+'));
                self.mode = Some(mode.ok_or_else(|| {
                    Error::invalid(format!("option mode={value}: not octal permission bits")).with_remedy("write mode=0755 or mode=1777")
                })?);
            }
            "cache" => self.cache = Some(value.parse()?),
            "durability" => self.durability = Some(value.parse()?),
            "outage" => self.outage = Some(value.parse()?),
            "encrypt" => self.encrypt = Some(switch(key, value)?),
            "compression" => self.compression = Some(value.parse()?),
            "cache_size" => self.cache_size = Some(at_least(64, key, value)?),
            // A few segments: one that is filled, one that is full and one on its way.
            "staging_size" => self.staging_size = Some(at_least(256, key, value)?),
            "retention" => self.retention = Some(seconds(key, value)?),
            "protect" => self.protect = Some(switch(key, value)?),
            _ => {
                let known: Vec<&str> = OPTION_HELP.iter().map(|(k, _)| *k).collect();
                return Err(
                    Error::invalid(format!("option {key:?} is unknown")).with_remedy(format!("known options: {}", known.join(", ")))
                );
            }
        }
        Ok(())
    }

    /// The options that were given, as text, the way Docker's inspect shows them.
    pub fn to_pairs(&self) -> BTreeMap<String, String> {
        let mut m = BTreeMap::new();
        let mut put = |k: &str, v: Option<String>| {
            if let Some(v) = v {
                m.insert(k.to_owned(), v);
            }
        };
        let onoff = |b: bool| if b { "on" } else { "off" }.to_owned();
        put("store", self.store.as_ref().map(ToString::to_string));
        put("size", self.size.map(|s| s.0.to_string()));
        put("uid", self.uid.map(|n| n.to_string()));
        put("gid", self.gid.map(|n| n.to_string()));
        put("mode", self.mode.map(|m| format!("{m:04o}")));
        put("cache", self.cache.map(|c| c.to_string()));
        put("durability", self.durability.map(|c| c.to_string()));
        put("outage", self.outage.map(|c| c.to_string()));
        put("encrypt", self.encrypt.map(onoff));
        put("compression", self.compression.map(|c| c.to_string()));
        put("cache_size", self.cache_size.map(|s| s.0.to_string()));
        put("staging_size", self.staging_size.map(|s| s.0.to_string()));
        put("retention", self.retention.map(|s| format!("{s}s")));
        put("protect", self.protect.map(onoff));
        m
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_survives_the_round_trip() {
        let given = [
            ("store", "default"),
            ("size", "10G"),
            ("uid", "999"),
            ("gid", "0"),
            ("mode", "1777"),
            ("cache", "strict"),
            ("durability", "local"),
            ("outage", "fail"),
            ("encrypt", "on"),
            ("compression", "zstd"),
            ("cache_size", "64M"),
            ("staging_size", "1G"),
            ("retention", "2d"),
            ("protect", "off"),
        ];
        assert_eq!(given.len(), OPTION_HELP.len());
        let o = VolumeOptions::parse(given).expect("valid");
        assert_eq!(o.mode, Some(0o1777));
        assert_eq!(o.retention, Some(172_800));
        let pairs = o.to_pairs();
        let again = VolumeOptions::parse(pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()))).expect("valid");
        assert_eq!(o, again);
    }

    #[test]
    fn bad_options_are_named() {
        for (k, v) in [
            ("sise", "1G"),
            ("size", "big"),
            ("size", "0"),
            ("cache_size", "63M"),
            ("staging_size", "255M"),
            ("uid", "-1"),
            ("uid", "root"),
            ("mode", "999"),
            ("mode", "77777"),
            ("cache", "Fast"),
            ("encrypt", "maybe"),
            ("retention", "7 days"),
            ("retention", "7"),
            ("retention", "99999999999d"),
            ("store", "a/b"),
            ("retention", "99999999999999999999d"),
        ] {
            let e = VolumeOptions::parse([(k, v)]).expect_err(k);
            assert!(e.message.contains(k), "{e}");
            assert!(e.remedy.is_some(), "{e}");
        }
        let too_long = VolumeOptions::parse([("retention", "999999d")]).expect_err("too long");
        assert!(too_long.message.contains("a hundred years"), "{too_long}");
        assert!(VolumeOptions::parse([("retention", "36500d")]).is_ok(), "what the remedy says is taken");
    }
}
