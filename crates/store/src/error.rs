//! From the object store's errors to Orlop's: the kind by how the caller reacts, the cause by name, and a remedy.

use object_store::client::HttpError;
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
    if let Some(known) = orlop_cause(source) {
        return known.clone().during(what);
    }
    if chain(source).any(|e| e.is::<HttpError>()) {
        return unreachable(what, source);
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
    let text = without_queries(&source.to_string());
    let e = Error::new(kind, format!("{what}: {text}"));
    match kind {
        ErrorKind::NoSpace => e.with_remedy("free space on the file system that holds the store, or move the store to a larger one"),
        ErrorKind::Denied if text.contains("RequestTimeTooSkewed") => e.with_remedy("set this host's clock right"),
        ErrorKind::Denied if text.contains("SignatureDoesNotMatch") => {
            e.with_remedy("the secret key is not the one of this key id: correct what the credentials reference names, and the region")
        }
        ErrorKind::Denied if text.contains("InvalidAccessKeyId") => {
            e.with_remedy("the store does not know this key id: correct what the credentials reference names")
        }
        ErrorKind::Denied if text.contains("AccessDenied") => {
            e.with_remedy("give the store credentials that may read, write, list and delete in its bucket")
        }
        ErrorKind::Denied => e.with_remedy("check the owner and mode of the store's folder, or the credentials of the store"),
        ErrorKind::Unavailable => e.with_remedy("check that the store is reachable, then try again"),
        _ => e,
    }
}

/// Whether an error only says that the store does not answer now, and nothing of what it holds.
pub fn is_unreachable(source: &object_store::Error) -> bool {
    let refused = crate::s3::Refusal::find(source).map(|r| r.kind);
    refused == Some(ErrorKind::Unavailable) || (refused.is_none() && chain(source).any(|e| e.is::<HttpError>()))
}

/// A server that was not reached, or that broke off: the client names its last cause nowhere but at the end of the chain.
fn unreachable(what: impl std::fmt::Display, source: &object_store::Error) -> Error {
    let mut text = without_queries(&source.to_string());
    if let Some(last) = chain(source).last().map(ToString::to_string).filter(|last| !text.contains(last.as_str())) {
        text = format!("{text}: {last}");
    }
    let remedy = if text.contains("CaUsedAsEndEntity") {
        "the server's certificate says of itself that it is an authority, and no server may show such a one: make it anew with CA:FALSE \
         (openssl req -x509 -addext basicConstraints=critical,CA:FALSE ...), or have an authority sign it, and set ca_file to that"
    } else if text.contains("certificate") {
        "check that the endpoint is the right server; for a private authority set ca_file to its certificate"
    } else {
        "check that the store is reachable, then try again"
    };
    Error::unavailable(format!("{what}: {text}")).with_remedy(remedy)
}

/// Without what stands after `?` in addresses: it is long, says little, and signed addresses carry their signature there.
fn without_queries(text: &str) -> String {
    let cut = |word: &str| match word.find("://").and_then(|at| word[at..].find('?').map(|q| at + q)) {
        Some(end) => word[..end].to_owned(),
        None => word.to_owned(),
    };
    text.split(' ').map(cut).collect::<Vec<_>>().join(" ")
}

/// The error and its causes.
fn chain<'a>(source: &'a (dyn std::error::Error + 'static)) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(source), |e| e.source())
}

/// One of Orlop's own errors that travelled through the client, such as credentials that cannot be read.
fn orlop_cause(source: &object_store::Error) -> Option<&Error> {
    chain(source).find_map(|e| e.downcast_ref::<Error>())
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
    fn queries_are_not_repeated() {
        let text = "Error performing GET http://h/b?list-type=2&X-Amz-Signature=planted in 3ms - what? no";
        assert_eq!(without_queries(text), "Error performing GET http://h/b in 3ms - what? no");
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
