//! From the object store's errors to Orlop's: the kind by how the caller reacts, the cause by name, and a remedy.

use orlop_model::{Error, ErrorKind};

/// What an object store's error means to a caller, saying first `what` was being done.
pub fn error(what: impl std::fmt::Display, source: &object_store::Error) -> Error {
    use object_store::Error as Os;
    let io = io_cause(source);
    if crate::wrap::BrokenSeal::find(source).is_some() {
        return Error::new(ErrorKind::Corrupt, format!("{what}: {source}"))
            .with_remedy("orlop check tells what is damaged; restore it from a copy of the store");
    }
    if let Some(refusal) = crate::s3::Refusal::find(source) {
        return Error::new(refusal.kind, format!("{what}: {refusal}")).with_remedy(refusal.remedy);
    }
    let kind = match source {
        Os::NotFound { .. } => ErrorKind::NotFound,
        Os::AlreadyExists { .. } => ErrorKind::AlreadyExists,
        Os::InvalidPath { .. } | Os::UnknownConfigurationKey { .. } => ErrorKind::InvalidArgument,
        // Both say that somebody else was faster: look again, then decide.
        Os::Precondition { .. } | Os::NotModified { .. } => ErrorKind::Busy,
        Os::NotSupported { .. } | Os::NotImplemented { .. } => ErrorKind::Unsupported,
        Os::PermissionDenied { .. } | Os::Unauthenticated { .. } => ErrorKind::Denied,
        _ => match io.map(|e| e.kind()) {
            Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) => ErrorKind::NoSpace,
            Some(std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem) => ErrorKind::Denied,
            // A disk that answers EIO does not heal by being asked again.
            Some(_) => ErrorKind::Internal,
            None => ErrorKind::Unavailable,
        },
    };
    let e = Error::new(kind, format!("{what}: {source}"));
    match kind {
        ErrorKind::NoSpace => e.with_remedy("free space on the file system that holds the store, or move the store to a larger one"),
        ErrorKind::Denied => e.with_remedy("check the owner and mode of the store's folder, or the credentials of the store"),
        ErrorKind::Unavailable => e.with_remedy("check that the store is reachable, then try again"),
        _ => e,
    }
}

/// The operating system's error at the bottom of it, if there is one.
pub(crate) fn io_cause(source: &object_store::Error) -> Option<&std::io::Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(source);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            return Some(io);
        }
        next = e.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(code: i32) -> object_store::Error {
        object_store::Error::Generic { store: "test", source: Box::new(std::io::Error::from_raw_os_error(code)) }
    }

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        assert_eq!(error("put x", &generic(28)).kind, ErrorKind::NoSpace);
        assert_eq!(error("put x", &generic(5)).kind, ErrorKind::Internal);
        assert_eq!(error("put x", &generic(13)).kind, ErrorKind::Denied);
        let away = object_store::Error::Generic { store: "test", source: "connection refused".into() };
        let e = error("put x", &away);
        assert_eq!(e.kind, ErrorKind::Unavailable);
        assert!(e.message.starts_with("put x: ") && e.remedy.is_some(), "{e}");
    }
}
