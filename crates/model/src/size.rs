//! Byte sizes as people write them: `10G`, `512MiB`, `1.5t`. Units are binary, as Docker's are.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::invalid(format!("{text:?} is not a size: {why}"))
                .with_remedy("write a number of bytes or one with K, M, G, T or P, such as 10G or 512MiB")
        };
        let s = text.trim();
        let split = s.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(s.len());
        let (number, unit) = s.split_at(split);
        if number.is_empty() {
            return Err(bad("it does not start with a number"));
        }
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            "p" | "pb" | "pib" => 50,
            _ => return Err(bad("its unit is unknown")),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || fraction.len() > 9 || (whole.is_empty() && fraction.is_empty()) {
            return Err(bad("its number is malformed"));
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad("it is too large"))? };
        let mut bytes = whole.checked_mul(1 << shift).ok_or_else(|| bad("it is too large"))?;
        if !fraction.is_empty() {
            let digits: u128 = fraction.parse().map_err(|_| bad("its number is malformed"))?;
            let part = (digits << shift) / 10u128.pow(fraction.len() as u32);
            bytes = bytes.checked_add(part as u64).ok_or_else(|| bad("it is too large"))?;
        }
        if bytes > i64::MAX as u64 {
            return Err(bad("it is too large"));
        }
        Ok(ByteSize(bytes))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut unit = 0;
        let mut value = self.0 as f64;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        if unit == 0 || value.fract() == 0.0 { write!(f, "{value:.0} {}", UNITS[unit]) } else { write!(f, "{value:.1} {}", UNITS[unit]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [("0", 0), ("10G", 10 << 30), ("512MiB", 512 << 20), ("1.5k", 1536), ("7 b", 7), (".5m", 1 << 19)] {
            assert_eq!(text.parse::<ByteSize>().expect(text).0, bytes, "{text}");
        }
        for text in ["", "G", "-1", "1x", "1.2.3", "99999999999999999999", "9000P", "1e3", "."] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_short() {
        assert_eq!(ByteSize(10 << 30).to_string(), "10 GiB");
        assert_eq!(ByteSize(1536).to_string(), "1.5 KiB");
        assert_eq!(ByteSize(5).to_string(), "5 B");
    }
}
