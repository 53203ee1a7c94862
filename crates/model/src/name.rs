//! Names that people give: volumes and stores. The rule is Docker's, so every name works on both sides.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const MAX: usize = 255;

fn check(what: &str, s: &str) -> Result<()> {
    let rule = "a name starts with a letter or digit and goes on with letters, digits, '_', '.' and '-', 255 in all at most";
    if s.is_empty() {
        return Err(Error::invalid(format!("the {what} name is empty")).with_remedy(rule));
    }
    if s.len() > MAX {
        return Err(Error::invalid(format!("the {what} name of {} characters is too long", s.len())).with_remedy(rule));
    }
    let mut bytes = s.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !first || !bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')) {
        return Err(Error::invalid(format!("{s:?} is not a {what} name")).with_remedy(rule));
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(s: &str) -> Result<Self> {
                check($what, s)?;
                Ok($name(s.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(s: String) -> Result<Self> {
                check($what, &s)?;
                Ok($name(s))
            }
        }

        impl From<$name> for String {
            fn from(n: $name) -> String {
                n.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// The name of a volume, unique among the volumes that are not removed.
    VolumeName, "volume"
}
name! {
    /// The name of a store.
    StoreName, "store"
}

impl VolumeName {
    /// Whether Docker made this name up for an anonymous volume: 64 hexadecimal digits.
    pub fn is_anonymous(&self) -> bool {
        self.0.len() == 64 && self.0.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }
}

impl StoreName {
    /// The store that exists without configuration: a folder below the root.
    pub fn default_store() -> Self {
        StoreName("default".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dockers_rule() {
        for good in ["a", "mydata", "a.b-c_d", "0", &"x".repeat(255)] {
            assert!(good.parse::<VolumeName>().is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "_a", "a/b", "a b", "..", "ä", "a\0", &"x".repeat(256)] {
            let e = bad.parse::<VolumeName>().expect_err(bad);
            assert_eq!(e.kind, crate::ErrorKind::InvalidArgument);
            assert!(e.remedy.is_some());
        }
    }

    #[test]
    fn sixty_four_hex_digits_are_anonymous() {
        assert!("0f".repeat(32).parse::<VolumeName>().expect("valid").is_anonymous());
        assert!(!"0g".repeat(32).parse::<VolumeName>().expect("valid").is_anonymous());
        assert!(!"mydata".parse::<VolumeName>().expect("valid").is_anonymous());
    }
}
