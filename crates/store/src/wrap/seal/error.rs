//! What a reader of a sealed object is told when its bytes are not what was written: an error that nobody retries.

use object_store::Error;
use object_store::path::Path;
use slatedb_common::retry::NonRetryable;

/// A sealed object is not what was written, or is sealed with a key that the ring does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sealed object {path}: {why}")]
pub struct BrokenSeal {
    /// The object.
    pub path: String,
    /// What is wrong with it.
    pub why: String,
}

impl BrokenSeal {
    /// Finds it in an error or its causes, whoever wrapped them.
    pub fn find<'a>(mut error: &'a (dyn std::error::Error + 'static)) -> Option<&'a BrokenSeal> {
        loop {
            if let Some(found) = error.downcast_ref::<BrokenSeal>() {
                return Some(found);
            }
            error = match error.downcast_ref::<std::io::Error>() {
                Some(io) => io.get_ref()?,
                None => error.source()?,
            };
        }
    }
}

pub(super) fn broken(path: &Path, why: impl Into<String>) -> Error {
    let broken = BrokenSeal { path: path.to_string(), why: why.into() };
    Error::Generic { store: "seal", source: Box::new(NonRetryable(Box::new(broken))) }
}

/// What may be well the next time: a body that ended early, an object replaced while it was read.
pub(super) fn disturbed(path: &Path, why: &str) -> Error {
    Error::Generic { store: "seal", source: format!("sealed object {path}: {why}").into() }
}
