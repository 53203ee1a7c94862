//! The one public error: a kind chosen by how the caller reacts, a message, and a remedy.
//!
//! Each front door maps the kind in one exhaustive table (HTTP status, exit code, Docker's Err string).
//! Detail goes into the message; it is not API.

use serde::{Deserialize, Serialize};

/// Result with Orlop's public error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about it. A kind is split only where callers would react differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The request itself is wrong: a name, an option, a size.
    InvalidArgument,
    /// Something uses it now; the same request may succeed later.
    Busy,
    /// The volume is protected; unprotect it first.
    Protected,
    /// The actor may not do this.
    Denied,
    /// The disk, the store or the quota is full.
    NoSpace,
    /// A daemon, a store or another process does not answer now; retry.
    Unavailable,
    /// Stored bytes are not what was written.
    Corrupt,
    /// Written by a newer version, or a capability that this host lacks.
    Unsupported,
    /// A defect of Orlop.
    Internal,
}

impl ErrorKind {
    /// Whether the same request may succeed later without any change by the caller.
    pub fn retryable(self) -> bool {
        match self {
            ErrorKind::Busy | ErrorKind::Unavailable => true,
            ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::InvalidArgument
            | ErrorKind::Protected
            | ErrorKind::Denied
            | ErrorKind::NoSpace
            | ErrorKind::Corrupt
            | ErrorKind::Unsupported
            | ErrorKind::Internal => false,
        }
    }
}

/// An error as a person meets it: what failed and why, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Error {
    /// How the caller reacts.
    pub kind: ErrorKind,
    /// What failed and why, naming the thing.
    pub message: String,
    /// What to do about it, a command where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Error {
    /// An error of this kind, with its message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), remedy: None }
    }

    /// The same error with a remedy.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The same error, saying first during what it happened: `context: message`.
    #[must_use]
    pub fn during(mut self, context: impl std::fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The named thing does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::NotFound, message)
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::InvalidArgument, message)
    }

    /// A defect, or an I/O error nobody can name better.
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Internal, message)
    }

    /// A peer does not answer now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Unavailable, message)
    }

    /// An operating system error, with what was being done to which path.
    pub fn io(what: impl std::fmt::Display, source: &std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            // No defect, and the same wherever it is met.
            std::io::ErrorKind::ReadOnlyFilesystem => {
                return Error::new(ErrorKind::Denied, format!("{what}: {source}"))
                    .with_remedy("mount the file system so that it can be written to (mount -o remount,rw), or use another place");
            }
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Internal,
        };
        Error::new(kind, format!("{what}: {source}"))
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        if let Some(remedy) = &self.remedy {
            write!(f, " ({remedy})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
