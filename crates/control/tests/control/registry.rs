//! The registry's file: whose it is, which version, and what happens when it is not as it should be.

use crate::world::*;
use orlop_control::Control;
use orlop_model::{Error, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

async fn refuses(site: &Site, kind: ErrorKind) -> Error {
    let e = Control::open(site.config()).await.err().expect("must be refused");
    assert_eq!(e.kind, kind, "{e}");
    assert!(e.remedy.is_some(), "{e}");
    assert!(e.message.contains("orlop.db"), "{e}");
    e
}

async fn sql(path: &Path, statement: &str) {
    use sqlx::{Connection, Executor};
    let mut db = sqlx::SqliteConnection::connect(&format!("sqlite://{}?mode=rwc", path.display())).await.unwrap();
    db.execute(statement).await.unwrap();
    db.close().await.unwrap();
    // A pool that is closed may still have a thread that lets go of the file; the last one moves the log into it.
    let log = PathBuf::from(format!("{}-wal", path.display()));
    for _ in 0..1000 {
        if !log.exists() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("somebody has the registry open");
}

#[tokio::test]
async fn volumes_outlive_the_process_with_every_field() {
    let site = Site::new();
    let control = site.open().await;
    let pairs = [("size", "1G"), ("uid", "5"), ("mode", "0700"), ("retention", "3h"), ("protect", "on"), ("cache", "strict")];
    let v = volume_of(control.apply(&ROOT, create("v", &pairs)).await.unwrap());
    control.apply(&ROOT, folder("v", "/srv/x", true)).await.unwrap();
    let before = control.volume_brief(&named("v")).await.unwrap();
    assert_eq!((before.created_at, &before.options), (v.created_at, &v.options), "what create answered is what is kept");
    control.close().await;
    drop(control);
    assert_eq!(site.open().await.volume_brief(&named("v")).await.unwrap(), before);
}

#[tokio::test]
async fn only_root_can_read_it() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    let mode = |name: &str| std::fs::metadata(site.dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    for name in ["orlop.db", "orlop.db-wal", "orlop.db-shm"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    assert_eq!(mode("audit"), 0o700);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_not_touched() {
    let site = Site::new();
    let db = site.dir.path().join("orlop.db");
    let control = site.open().await;
    control.close().await;
    drop(control);
    sql(&db, "PRAGMA user_version = 99").await;
    let bytes = std::fs::read(&db).unwrap();
    let e = refuses(&site, ErrorKind::Unsupported).await;
    assert!(e.message.contains("99"), "{e}");
    assert!(std::fs::read(&db).unwrap() == bytes, "touched");
}

#[tokio::test]
async fn another_programs_file_is_refused_and_not_touched() {
    for statement in ["CREATE TABLE recipes (name TEXT)", "PRAGMA application_id = 77; CREATE TABLE x (y TEXT)", "PRAGMA user_version = 1"]
    {
        let site = Site::new();
        let db = site.dir.path().join("orlop.db");
        sql(&db, statement).await;
        let bytes = std::fs::read(&db).unwrap();
        refuses(&site, ErrorKind::Corrupt).await;
        assert!(std::fs::read(&db).unwrap() == bytes, "touched: {statement}");
    }
    let site = Site::new();
    std::fs::write(site.dir.path().join("orlop.db"), "not a database at all").unwrap();
    refuses(&site, ErrorKind::Corrupt).await;
}

#[tokio::test]
async fn broken_pages_are_noticed_at_the_start() {
    let site = Site::new();
    let db = site.dir.path().join("orlop.db");
    let control = site.open().await;
    for n in 0..20 {
        control.apply(&ROOT, create(&format!("v{n}"), &[])).await.unwrap();
    }
    control.close().await;
    drop(control);
    let mut bytes = std::fs::read(&db).unwrap();
    assert!(bytes.len() > 8192);
    for byte in &mut bytes[4096..] {
        *byte = 0xa5;
    }
    std::fs::write(&db, bytes).unwrap();
    refuses(&site, ErrorKind::Corrupt).await;
}

#[tokio::test]
async fn a_missing_registry_is_not_replaced_by_an_empty_one() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    control.close().await;
    drop(control);
    let (db, aside) = (site.dir.path().join("orlop.db"), site.dir.path().join("aside"));
    std::fs::rename(&db, &aside).unwrap();
    refuses(&site, ErrorKind::Corrupt).await;
    std::fs::File::create(&db).unwrap();
    refuses(&site, ErrorKind::Corrupt).await;
    std::fs::rename(&aside, &db).unwrap();
    assert_eq!(picture(&*site.open().await).await.len(), 1);
}

#[tokio::test]
async fn a_first_start_that_died_at_once_is_no_obstacle() {
    let site = Site::new();
    std::fs::File::create(site.dir.path().join("orlop.db")).unwrap();
    std::fs::create_dir(site.dir.path().join("audit")).unwrap();
    std::fs::File::create(site.dir.path().join("audit/00000000000000000001.jsonl")).unwrap();
    let control = site.open().await;
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    assert!(control.audit().verify().await.unwrap().is_intact());
}

#[tokio::test]
async fn two_daemons_on_one_root_are_refused() {
    let site = Site::new();
    let control = site.open().await;
    let e = Control::open(site.config()).await.err().expect("the second is refused");
    assert_eq!(e.kind, ErrorKind::Busy);
    assert!(e.remedy.is_some());
    control.apply(&ROOT, create("v", &[])).await.unwrap();
}

#[tokio::test]
async fn a_root_that_is_not_there_is_named() {
    let site = Site::new();
    let config = orlop_control::ControlConfig { root: site.dir.path().join("missing"), ..site.config() };
    let e = Control::open(config).await.err().expect("no root");
    assert_eq!(e.kind, ErrorKind::NotFound);
    assert!(e.message.contains("missing"));
}
