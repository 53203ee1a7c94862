//! Typed ids: one type per kind of thing, so that a volume's id cannot stand where an attachment's is due.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new random id.
            pub fn random() -> Self {
                $name(Uuid::new_v4())
            }

            /// The id with exactly these bytes.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                $name(Uuid::from_bytes(bytes))
            }

            /// The sixteen bytes of the id.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = crate::Error;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(s)
                    .map($name)
                    .map_err(|_| crate::Error::invalid(format!("{s:?} is not an id")))
            }
        }
    };
}

id! {
    /// A volume, whatever its name is now.
    VolumeId
}
id! {
    /// One reason for a volume to stay mounted on a host.
    AttachmentId
}
id! {
    /// A long-running piece of work.
    OperationId
}

/// Which file it is on this host, whatever its name: a new one at the same path is another. A number is given again only when nobody holds
/// the file any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Of the file that was looked at.
    pub fn of(looked_at: &Metadata) -> Self {
        FileId { device: looked_at.dev(), inode: looked_at.ino() }
    }

    /// Whether it is what a look at its path found. What cannot be told counts as yes.
    pub fn is_still(self, found: &io::Result<Metadata>) -> bool {
        match found {
            Ok(there) => FileId::of(there) == self,
            Err(e) => e.kind() != io::ErrorKind::NotFound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::metadata;

    #[test]
    fn a_file_is_itself_until_its_path_leads_elsewhere() {
        let root = FileId::of(&metadata("/").expect("there"));
        assert!(root.is_still(&metadata("/")));
        assert!(!root.is_still(&metadata("/proc")) && !root.is_still(&metadata("/nonexistent")));
        assert!(root.is_still(&Err(io::ErrorKind::PermissionDenied.into())));
    }
}
