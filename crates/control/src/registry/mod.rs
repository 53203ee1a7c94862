//! The registry: what should be, in one SQLite file of the root. It decides nothing; rules live in the callers.
//!
//! Every commit is on the disk when it returns (WAL with synchronous=FULL). A file of a newer schema, of another
//! program or with broken pages is refused and not touched.

mod attachments;
mod journal;
mod open;
mod stores;
mod volumes;

pub(crate) use attachments::{AttachmentPhase, AttachmentRow};
pub(crate) use journal::{Head, OpenChange};
pub(crate) use open::noted_head;
pub(crate) use stores::StoreRow;
pub(crate) use volumes::{Phase, VolumeRow};

use crate::faults::Faults;
use orlop_model::{Error, ErrorKind, Result};
use sqlx::sqlite::SqlitePool;
use std::path::PathBuf;
use time::OffsetDateTime;

/// The registry of one root.
#[derive(Clone)]
pub(crate) struct Registry {
    pool: SqlitePool,
    path: PathBuf,
    faults: Faults,
}

impl Registry {
    /// Waits for running statements and closes the file.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    fn fail(&self, doing: &str, e: &sqlx::Error) -> Error {
        failure(&self.path, doing, e)
    }
}

/// The public error for a database error: the kind by SQLite's primary code.
fn failure(path: &std::path::Path, doing: &str, e: &sqlx::Error) -> Error {
    let primary = match e {
        sqlx::Error::Database(d) => d.code().and_then(|c| c.parse::<i32>().ok()).map(|c| c & 0xff),
        _ => None,
    };
    let what = format!("{doing} in the registry {}: {e}", path.display());
    match primary {
        Some(13) => Error::new(ErrorKind::NoSpace, what).with_remedy("free space on the disk of Orlop's root"),
        Some(5 | 6) => Error::unavailable(what).with_remedy("another process holds the registry; try again"),
        Some(8 | 14 | 23) => Error::new(ErrorKind::Denied, what).with_remedy("check owner and mode of the file and its folder"),
        Some(11 | 26) => Error::new(ErrorKind::Corrupt, what)
            .with_remedy("restore the file from a backup; the volumes' bytes are elsewhere and untouched"),
        _ if matches!(e, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed) => Error::unavailable(what),
        _ => Error::internal(what),
    }
}

fn is_unique_violation(e: &sqlx::Error) -> bool {
    matches!(e, sqlx::Error::Database(d) if d.is_unique_violation())
}

/// A stored value that no version of Orlop wrote.
fn unreadable(what: &str, value: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the registry holds a {what} that cannot be read: {value:?}"))
        .with_remedy("restore the registry from a backup")
}

fn to_micros(t: OffsetDateTime) -> i64 {
    // Holds until the year 294,000.
    (t.unix_timestamp_nanos() / 1000) as i64
}

fn from_micros(micros: i64) -> Result<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).map_err(|_| unreadable("time", &micros.to_string()))
}

/// A time as it comes back from the registry, which keeps microseconds.
pub(crate) fn rounded(t: OffsetDateTime) -> OffsetDateTime {
    from_micros(to_micros(t)).unwrap_or(t)
}
