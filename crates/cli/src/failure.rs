//! How a command fails: the error on standard error with its remedy, and one exit code for each kind.
//!
//! The codes are part of the interface and stand in docs/cli.md.

use crate::ui::{Format, encode};
use orlop_model::{Error, ErrorKind};
use std::io::Write;

/// Exit code of a command that found something wrong without failing itself: `doctor`, `check`, `export`.
pub(crate) const FOUND: u8 = 1;

/// The exit code for a kind of error.
pub(crate) fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Internal => 1,
        ErrorKind::InvalidArgument => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::AlreadyExists => 4,
        ErrorKind::Busy => 5,
        ErrorKind::Protected => 6,
        ErrorKind::Denied => 7,
        ErrorKind::NoSpace => 8,
        ErrorKind::Unavailable => 9,
        ErrorKind::Corrupt => 10,
        ErrorKind::Unsupported => 11,
    }
}

/// The codes with their meaning, for the reference.
pub(crate) const EXIT_CODES: &[(u8, &str)] = &[
    (0, "success"),
    (1, "a defect of Orlop, or `doctor` or `check` found something wrong"),
    (2, "the command itself is wrong: a name, an option, a size"),
    (3, "the named thing does not exist"),
    (4, "the name is taken"),
    (5, "something uses it now"),
    (6, "the volume is protected"),
    (7, "you may not do this"),
    (8, "the disk, the store or the quota is full"),
    (9, "a daemon or a store does not answer now"),
    (10, "stored bytes or the audit journal are not what was written"),
    (11, "written by a newer version, or not supported here"),
];

/// The codes as help text.
pub(crate) fn exit_code_help() -> String {
    let mut text = "Exit codes:\n".to_owned();
    for (code, meaning) in EXIT_CODES {
        text.push_str(&format!("  {code:>2}  {meaning}\n"));
    }
    text
}

/// Writes an error to standard error.
pub(crate) fn report(format: Format, error: &Error) {
    let text = match format {
        Format::Table => {
            let mut text = format!("error: {}\n", error.message);
            if let Some(remedy) = &error.remedy {
                text.push_str(&format!("hint: {remedy}\n"));
            }
            text
        }
        Format::Json | Format::Yaml => encode(format, error).unwrap_or_else(|e| format!("error: {e}\n")),
    };
    // If even standard error is closed there is nobody left to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_documented_code() {
        use ErrorKind::*;
        let kinds =
            [Internal, InvalidArgument, NotFound, AlreadyExists, Busy, Protected, Denied, NoSpace, Unavailable, Corrupt, Unsupported];
        let mut codes: Vec<u8> = kinds.into_iter().map(exit_code).collect();
        codes.push(0);
        codes.sort_unstable();
        assert_eq!(codes, EXIT_CODES.iter().map(|(code, _)| *code).collect::<Vec<_>>());
    }
}
