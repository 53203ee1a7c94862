//! Opening the registry: creates it, checks whose file it is and of which version, migrates an older one.

use super::{Head, Registry, failure};
use crate::faults::Faults;
use orlop_model::{Error, ErrorKind, Result};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, Executor, Row, SqliteConnection};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// "ORLP", in the file's header: it is ours.
const APPLICATION_ID: i64 = 0x4f52_4c50;

/// One script per schema version, in order; version n is after the n-th.
const MIGRATIONS: &[&str] = &[include_str!("schema/0001.sql"), include_str!("schema/0002.sql")];

impl Registry {
    /// Opens or creates the registry in this file.
    pub(crate) async fn open(path: &Path, faults: Faults) -> Result<Registry> {
        check_header(path)?;
        // Created here and not by SQLite, so that it is never readable by others; its side files inherit the mode.
        std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| Error::io(format_args!("opening the registry {}", path.display()), &e))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let fail = |doing: &'static str| move |e: sqlx::Error| failure(path, doing, &e);
        // Looked at before the journal mode is set, which writes to the file.
        let plain = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(10));
        let mut look = SqliteConnection::connect_with(&plain).await.map_err(fail("opening"))?;
        judge_inside(&mut look, path).await?;
        look.close().await.map_err(fail("opening"))?;
        let mut first = SqliteConnection::connect_with(&options).await.map_err(fail("opening"))?;
        migrate(&mut first, path).await?;
        let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut first).await.map_err(fail("checking"))?;
        if verdict != "ok" {
            return Err(Error::new(ErrorKind::Corrupt, format!("the registry {} is damaged: {verdict}", path.display()))
                .with_remedy("restore the file from a backup; the volumes' bytes are elsewhere and untouched"));
        }
        first.close().await.map_err(fail("opening"))?;
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(30))
            // A full disk ends a transaction of SQLite's by itself, of which the connection is not aware: it would begin none any more.
            .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
            .connect_with(options)
            .await
            .map_err(fail("opening"))?;
        Ok(Registry { pool, path: path.to_owned(), faults })
    }
}

/// The end of the journal as the registry in this file noted it, read without writing anything, for a disk that cannot be written to.
pub(crate) async fn noted_head(path: &Path) -> Result<Option<Head>> {
    check_header(path)?;
    let mut side = path.as_os_str().to_owned();
    side.push("-wal");
    // Without a side file SQLite would make one to read this mode of file, unless it is told that nobody writes. With one it has to be
    // read: the newest changes are in it.
    let is_closed = std::fs::metadata(&side).map_or(0, |m| m.len()) == 0;
    let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(is_closed);
    let fail = |e: sqlx::Error| {
        failure(path, "reading", &e).with_remedy("copy the root folder to where it can be written to, and give the copy with --root DIR")
    };
    let mut db = SqliteConnection::connect_with(&options).await.map_err(fail)?;
    judge_inside(&mut db, path).await?;
    let row = sqlx::query("SELECT seq, hash FROM audit_head").fetch_optional(&mut db).await.map_err(fail)?;
    db.close().await.map_err(fail)?;
    Ok(row.map(|r| Head { seq: r.get::<i64, _>("seq") as u64, hash: r.get("hash") }))
}

/// Judges by the file's own header, before SQLite touches it: a refused file stays as it is, byte for byte.
fn check_header(path: &Path) -> Result<()> {
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(format_args!("opening the registry {}", path.display()), &e)),
    };
    let mut header = [0u8; 100];
    let mut read = 0;
    while read < header.len() {
        match file.read(&mut header[read..]).map_err(|e| Error::io(format_args!("reading the registry {}", path.display()), &e))? {
            0 => break,
            n => read += n,
        }
    }
    if read == 0 {
        // Created, and then the process died: nothing was ever in it.
        return Ok(());
    }
    if read < header.len() || &header[..16] != b"SQLite format 3\0" {
        return Err(Error::new(ErrorKind::Corrupt, format!("{} is not an Orlop registry: it is no SQLite file", path.display()))
            .with_remedy("restore it from a backup, or give another --root"));
    }
    let number = |at: usize| i64::from(u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes")));
    // In WAL mode the newest header may still lie in the side file; `migrate` looks again through SQLite.
    judge(path, number(68), number(60), true)
}

fn judge(path: &Path, application: i64, version: i64, may_be_new: bool) -> Result<()> {
    if application != APPLICATION_ID && !(may_be_new && application == 0 && version == 0) {
        return Err(Error::new(ErrorKind::Corrupt, format!("{} is not an Orlop registry: another program made it", path.display()))
            .with_remedy("give another --root, or move that file away"));
    }
    if version > MIGRATIONS.len() as i64 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the registry {} has schema {version}; this Orlop knows {} at most", path.display(), MIGRATIONS.len()),
        )
        .with_remedy("a newer Orlop wrote it: install that version again"));
    }
    Ok(())
}

/// Judges by what SQLite sees, side files included; gives the schema version.
async fn judge_inside(db: &mut SqliteConnection, path: &Path) -> Result<i64> {
    let fail = |e: sqlx::Error| failure(path, "opening", &e);
    let application: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *db).await.map_err(fail)?;
    let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *db).await.map_err(fail)?;
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master").fetch_one(&mut *db).await.map_err(fail)?;
    judge(path, application, version, tables == 0)?;
    Ok(version)
}

async fn migrate(db: &mut SqliteConnection, path: &Path) -> Result<()> {
    let fail = |e: sqlx::Error| failure(path, "migrating", &e);
    let version = judge_inside(db, path).await?;
    for (n, script) in MIGRATIONS.iter().enumerate().skip(version as usize) {
        // One transaction: after a crash the file has the old version or the new one.
        let mut tx = db.begin_with("BEGIN IMMEDIATE").await.map_err(fail)?;
        tx.execute(*script).await.map_err(fail)?;
        tx.execute(format!("PRAGMA application_id = {APPLICATION_ID}").as_str()).await.map_err(fail)?;
        tx.execute(format!("PRAGMA user_version = {}", n + 1).as_str()).await.map_err(fail)?;
        tx.commit().await.map_err(fail)?;
    }
    Ok(())
}
