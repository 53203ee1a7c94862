//! The journal under attack, under crashes and on a full disk.

use crate::world::*;
use orlop_control::faults::{Fate, Faults};
use orlop_control::{AuditFilter, Control, ControlConfig, VerifyReport, verify_file};
use orlop_model::{Actor, AuditEvent, AuditPhase, ErrorKind, Intent};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn files(site: &Site) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(site.dir.path().join("audit"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    found.sort();
    found
}

/// A root with nine changes, closed.
async fn written(segment_bytes: u64) -> Site {
    let site = Site::new();
    let control = Control::open(ControlConfig { audit_segment_bytes: segment_bytes, ..site.config() }).await.unwrap();
    for n in 0..9 {
        control.apply(&ROOT, create(&format!("v{n}"), &[])).await.unwrap();
    }
    control.close().await;
    site
}

async fn events(control: &Control) -> Vec<AuditEvent> {
    control.audit().list(&AuditFilter::default()).await.unwrap()
}

async fn verified(control: &Control) -> VerifyReport {
    control.audit().verify().await.unwrap()
}

#[tokio::test]
async fn an_untouched_journal_verifies_in_one_file_or_many() {
    for segment_bytes in [1 << 20, 2000, 1] {
        let site = written(segment_bytes).await;
        assert_eq!(
            files(&site).len(),
            match segment_bytes {
                1 => 18,
                2000 => files(&site).len().clamp(3, 10),
                _ => 1,
            }
        );
        let control = Control::open(ControlConfig { audit_segment_bytes: segment_bytes, ..site.config() }).await.unwrap();
        let report = verified(&control).await;
        assert!(report.is_intact(), "{report:?}");
        assert_eq!((report.events, report.first_seq, report.last_seq), (18, 1, 18));
        control.apply(&ROOT, create("more", &[])).await.unwrap();
        let report = verified(&control).await;
        assert_eq!((report.events, report.is_intact(), report.last_hash), (20, true, control.status().await.unwrap().audit.last_hash));
    }
}

/// What somebody does to the lines of the journal's only file, and which record the verification must name.
type Attack = (&'static str, fn(&mut Vec<String>), u64, usize);

const ATTACKS: &[Attack] = &[
    ("a word is altered", |l| l[4] = l[4].replace("v2", "vX"), 5, 5),
    ("the time is altered", |l| l[4] = l[4].replace("2027-", "2026-"), 5, 5),
    ("a record is taken out", |l| drop(l.remove(4)), 6, 5),
    ("several are taken out", |l| drop(l.drain(4..8)), 9, 5),
    ("the first is taken out", |l| drop(l.remove(0)), 2, 1),
    ("two are exchanged", |l| l.swap(4, 5), 6, 5),
    ("one is repeated", |l| l.insert(4, l[3].clone()), 4, 5),
    ("a space is put in", |l| l[4] = l[4].replacen(':', ": ", 1), 5, 5),
    ("a field is put in", |l| l[4] = l[4].replacen('{', "{\"note\":1,", 1), 5, 5),
    ("a line is emptied", |l| l[4].clear(), 5, 5),
    ("the end is cut", |l| l.truncate(10), 11, 10),
    ("all is cut", Vec::clear, 1, 0),
    ("a line is added", |l| l.push("{}".to_owned()), 19, 19),
];

#[tokio::test]
async fn every_alteration_is_named_with_number_and_line_while_running() {
    for (what, attack, seq, line) in ATTACKS {
        let site = written(1 << 20).await;
        let control = site.open().await;
        let file = files(&site).remove(0);
        let mut lines: Vec<String> = std::fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect();
        attack(&mut lines);
        std::fs::write(&file, lines.iter().map(|l| format!("{l}\n")).collect::<String>()).unwrap();
        let report = verified(&control).await;
        if *what == "a line is added" {
            // Behind the end, it is overwritten by the next record and means nothing.
            assert!(report.is_intact(), "{what}: {report:?}");
            continue;
        }
        let first = report.breaks.first().unwrap_or_else(|| panic!("{what} is not noticed"));
        assert_eq!((first.seq, first.line), (*seq, *line as u64), "{what}: {first:?}");
        assert!(first.file.ends_with(".jsonl"), "{first:?}");
    }
}

#[tokio::test]
async fn every_alteration_is_named_after_a_restart_too_and_orlop_goes_on() {
    for (what, attack, seq, line) in ATTACKS {
        let site = written(1 << 20).await;
        let file = files(&site).remove(0);
        let mut lines: Vec<String> = std::fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect();
        attack(&mut lines);
        std::fs::write(&file, lines.iter().map(|l| format!("{l}\n")).collect::<String>()).unwrap();
        for round in 0..2 {
            let control = site.open().await;
            control.apply(&ROOT, create(&format!("after{round}"), &[])).await.unwrap();
            let report = verified(&control).await;
            if *what == "a line is added" {
                assert!(report.is_intact(), "{what}: it was cut aside as torn: {report:?}");
            } else {
                let first = report.breaks.first().unwrap_or_else(|| panic!("{what} is forgotten in round {round}"));
                // Cutting everything leaves no line to name; then the record found next is named.
                let named = if *what == "all is cut" { report.first_seq } else { *seq };
                let place = if *what == "the end is cut" {
                    (19, 1)
                } else if *what == "all is cut" {
                    (named, 1)
                } else {
                    (named, *line as u64)
                };
                assert_eq!((first.seq, first.line), place, "{what}: {report:?}");
                assert_eq!(
                    report.breaks.len(),
                    if what.contains("exchanged") { report.breaks.len() } else { report.breaks.len().min(2) },
                    "{what}"
                );
                let found = events(&control).await.into_iter().filter(|e| e.verb == "audit.break").count();
                assert_eq!(found, 1, "{what}: what was found at the start is recorded, once");
            }
            control.close().await;
        }
    }
}

#[tokio::test]
async fn a_line_torn_by_a_crash_is_cut_aside_and_recorded() {
    for tail in [&b"{\"actor\":{\"kind\":\"sys"[..], b"\0\0\0\0\0\0\0\0", b"garbage\n", b"x"] {
        let site = written(1 << 20).await;
        let file = files(&site).remove(0);
        std::fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(tail).unwrap();
        for _ in 0..2 {
            let control = site.open().await;
            let report = verified(&control).await;
            assert!(report.is_intact(), "{report:?}");
            let repairs: Vec<AuditEvent> = events(&control).await.into_iter().filter(|e| e.verb == "audit.repair").collect();
            assert_eq!(repairs.len(), 1, "recorded once");
            assert_eq!((repairs[0].seq, &repairs[0].detail["line"], &repairs[0].detail["bytes"]), (19, &19.into(), &tail.len().into()));
            let aside = site.dir.path().join("audit").join(repairs[0].detail["moved_to"].as_str().unwrap());
            assert_eq!(std::fs::read(aside).unwrap(), tail, "nothing is destroyed");
            control.close().await;
        }
    }
}

#[tokio::test]
async fn a_last_record_that_was_acknowledged_and_is_torn_is_no_crash() {
    let site = written(1 << 20).await;
    let file = files(&site).remove(0);
    let len = std::fs::metadata(&file).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(len - 10).unwrap();
    let control = site.open().await;
    let report = verified(&control).await;
    assert!(!report.is_intact());
    assert_eq!((report.breaks[0].seq, report.breaks[0].line), (18, 18), "{report:?}");
    assert!(control.status().await.unwrap().audit.found_broken.is_some());
}

#[tokio::test]
async fn a_file_taken_away_under_the_running_daemon_is_noticed_and_nothing_is_lost_after_it() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("a", &[])).await.unwrap();
    std::fs::remove_file(files(&site).remove(0)).unwrap();
    control.apply(&ROOT, create("b", &[])).await.unwrap();
    let all = events(&control).await;
    assert_eq!(
        all.iter().map(|e| (e.seq, e.verb.as_str())).collect::<Vec<_>>(),
        [(3, "audit.break"), (4, "volume.create"), (5, "volume.create")]
    );
    let report = verified(&control).await;
    assert_eq!((report.breaks.len(), report.breaks[0].seq), (1, 3), "{report:?}");
    assert!(report.breaks[0].reason.contains("1 to 2 are missing"), "{report:?}");
}

async fn exported(control: &Control, site: &Site) -> PathBuf {
    let path = site.dir.path().join("export.jsonl");
    let export = control.audit().export(&ROOT).await.unwrap();
    let (seq, hash) = (export.last_seq(), export.last_hash().to_owned());
    let bytes = export.write_to(&mut std::fs::File::create(&path).unwrap()).unwrap();
    assert_eq!(bytes, std::fs::metadata(&path).unwrap().len());
    let report = verify_file(&path).unwrap();
    assert_eq!((report.last_seq, report.last_hash), (seq, hash));
    path
}

#[tokio::test]
async fn an_export_verifies_offline_and_every_alteration_of_it_is_named() {
    let site = written(3000).await;
    let control = Control::open(ControlConfig { audit_segment_bytes: 3000, ..site.config() }).await.unwrap();
    let path = exported(&control, &site).await;
    control.apply(&ROOT, create("later", &[])).await.unwrap();
    let report = verify_file(&path).unwrap();
    assert!(report.is_intact(), "{report:?}");
    assert_eq!((report.events, report.first_seq, report.last_seq), (19, 1, 19));
    let text = std::fs::read_to_string(&path).unwrap();
    let last: AuditEvent = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((last.verb.as_str(), &last.actor), ("audit.export", &ROOT));
    for (what, attack, seq, line) in ATTACKS {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        attack(&mut lines);
        let file = site.dir.path().join("attacked.jsonl");
        std::fs::write(&file, lines.iter().map(|l| format!("{l}\n")).collect::<String>()).unwrap();
        let report = verify_file(&file).unwrap();
        let first = report.breaks.first().unwrap_or_else(|| panic!("{what} is not noticed"));
        let due = match *what {
            "a line is added" => (20, 20),
            _ => (*seq, *line as u64),
        };
        assert_eq!((first.seq, first.line), due, "{what}: {first:?}");
    }
    // Cut in the middle of the last line, and right before its end.
    for cut in [1, 40] {
        let file = site.dir.path().join("attacked.jsonl");
        std::fs::write(&file, &text.as_bytes()[..text.len() - cut]).unwrap();
        assert!(!verify_file(&file).unwrap().is_intact(), "cut by {cut}");
    }
    assert_eq!(verify_file(&site.dir.path().join("missing")).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(verify_file(site.dir.path()).unwrap_err().kind, ErrorKind::InvalidArgument);
    assert!(verified(&control).await.is_intact());
}

#[tokio::test]
async fn a_consistent_forgery_of_the_end_is_noticed_by_the_registry() {
    let site = written(1 << 20).await;
    // Somebody plays another history from record 17 on, with all hashes right.
    let other = Site::new();
    other.clock.forward(Duration::from_secs(5));
    let control = other.open().await;
    for n in 0..9 {
        control.apply(&ROOT, create(&format!("v{n}"), &[])).await.unwrap();
    }
    control.close().await;
    drop(control);
    std::fs::copy(files(&other).remove(0), files(&site).remove(0)).unwrap();
    let control = site.open().await;
    let report = verified(&control).await;
    assert!(!report.is_intact(), "{report:?}");
    assert!(events(&control).await.iter().any(|e| e.verb == "audit.break"));
}

#[tokio::test]
async fn a_change_that_cannot_be_recorded_is_refused_but_letting_go_is_not() {
    let site = Site::new();
    let full = Arc::new(AtomicBool::new(false));
    let judge = full.clone();
    let faults = Faults::new(move |point| if point == "audit.append" && judge.load(Ordering::SeqCst) { Fate::Fail } else { Fate::Go });
    let control = site.open_with(faults).await;
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    control.apply(&Actor::Docker, docker("v", "m")).await.unwrap();
    control.apply(&ROOT, folder("v", "/srv/x", false)).await.unwrap();
    full.store(true, Ordering::SeqCst);
    let before = picture(&control).await;
    for intent in
        [create("w", &[]), set("v", &[("size", "1G")]), protect("v", true), remove("v", false), docker("v", "n"), restore("v", None)]
    {
        let e = refused(control.apply(&ROOT, intent).await, ErrorKind::Unavailable);
        assert!(e.message.contains("cannot be recorded"), "{e}");
    }
    assert_eq!(picture(&control).await, before);
    control.apply(&Actor::Docker, undocker("v", "m")).await.unwrap();
    control.apply(&ROOT, unfolder("v", "/srv/x")).await.unwrap();
    assert!(site.world.0.lock().mounted.is_empty());
    let status = control.status().await.unwrap().audit;
    assert_eq!(status.owed, 2);
    assert!(status.error.is_some());
    full.store(false, Ordering::SeqCst);
    control.reconcile().await;
    let status = control.status().await.unwrap().audit;
    assert_eq!((status.owed, status.error), (0, None));
    let late: Vec<AuditEvent> = events(&control).await.into_iter().filter(|e| e.detail["recorded_late"] == true).collect();
    assert_eq!(late.len(), 2);
    assert_eq!((late[0].verb.as_str(), late[0].phase, &late[0].actor), ("volume.detach", AuditPhase::Done, &Actor::Docker));
    assert!(verified(&control).await.is_intact());
}

#[tokio::test]
async fn a_change_cut_short_is_closed_as_interrupted() {
    let site = Site::new();
    let died = Arc::new(AtomicBool::new(false));
    let saw = died.clone();
    let faults = Faults::new(move |point| {
        if point == "worker.format" {
            saw.store(true, Ordering::SeqCst);
            Fate::Die
        } else {
            Fate::Go
        }
    });
    let dead = std::thread::scope(|s| {
        s.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let control = site.open_with(faults).await;
                let _ = tokio::time::timeout(Duration::from_millis(300), control.apply(&ROOT, create("v", &[]))).await;
            });
        })
        .join()
    });
    dead.unwrap();
    assert!(died.load(Ordering::SeqCst));
    let control = site.open().await;
    let all = events(&control).await;
    assert_eq!(
        all.iter().map(|e| (e.seq, e.change, e.phase)).collect::<Vec<_>>(),
        [(1, 1, AuditPhase::Start), (2, 1, AuditPhase::Interrupted)]
    );
    assert_eq!((&all[1].actor, all[1].verb.as_str(), all[1].target.as_str()), (&ROOT, "volume.create", "v"));
    control.close().await;
    drop(control);
    assert_eq!(events(&*site.open().await).await.len(), 2, "once");
}

#[tokio::test]
async fn records_are_found_by_what_they_are_about() {
    let site = written(1500).await;
    site.clock.forward(Duration::from_secs(60));
    let control = site.open().await;
    control.apply(&Actor::Docker, remove("v3", false)).await.unwrap();
    let list = async |filter: AuditFilter| -> Vec<u64> { control.audit().list(&filter).await.unwrap().iter().map(|e| e.seq).collect() };
    let all = AuditFilter::default;
    assert_eq!(list(all()).await, (1..=20).collect::<Vec<_>>());
    assert_eq!(list(AuditFilter { target: Some("v3".to_owned()), ..all() }).await, [7, 8, 19, 20]);
    assert_eq!(list(AuditFilter { verb: Some("volume.remove".to_owned()), ..all() }).await, [19, 20]);
    assert_eq!(list(AuditFilter { actor: Some("docker".to_owned()), ..all() }).await, [19, 20]);
    assert_eq!(list(AuditFilter { actor: Some("uid:0".to_owned()), limit: Some(3), ..all() }).await, [16, 17, 18]);
    assert_eq!(list(AuditFilter { after_seq: Some(17), ..all() }).await, [18, 19, 20]);
    let minute_ago = control.audit().list(&all()).await.unwrap()[19].at - time::Duration::seconds(30);
    assert_eq!(list(AuditFilter { since: Some(minute_ago), ..all() }).await, [19, 20]);
    assert_eq!(list(AuditFilter { until: Some(minute_ago), limit: Some(1), ..all() }).await, [18]);
    assert_eq!(list(AuditFilter { limit: Some(0), ..all() }).await, [0u64; 0]);
}

#[tokio::test]
async fn all_records_of_a_volume_are_found_by_its_name_and_by_its_id() {
    let site = Site::new();
    let control = site.open().await;
    let made = async |intent: Intent| volume_of(control.apply(&ROOT, intent).await.unwrap()).id.to_string();
    // A store has the same name, which makes it nobody's volume.
    control.apply(&ROOT, add_store("db", "s3://bucket")).await.unwrap();
    made(create("other", &[])).await;
    let first = made(create("db", &[])).await; // 5, 6
    control.apply(&ROOT, docker("db", "m")).await.unwrap();
    control.apply(&ROOT, undocker(&first, "m")).await.unwrap(); // 9, 10
    control.apply(&ROOT, remove(&first, false)).await.unwrap();
    made(restore(&first, Some("new"))).await; // 13, 14
    let second = made(create("db", &[])).await;
    made(set("new", &[("size", "1G")])).await; // 17, 18
    refused(control.apply(&ROOT, remove("absent", false)).await, ErrorKind::NotFound);
    refused(control.apply(&ROOT, create("db", &[("size", "1G")])).await, ErrorKind::AlreadyExists); // 21, 22
    control.apply(&ROOT, remove("new", true)).await.unwrap();
    let list = async |volume: &str, limit: Option<usize>| -> Vec<u64> {
        let filter = AuditFilter { volume: Some(volume.to_owned()), limit, ..AuditFilter::default() };
        control.audit().list(&filter).await.unwrap().iter().map(|e| e.seq).collect()
    };
    let of_first: Vec<u64> = (5..=14).chain([17, 18, 23, 24]).collect();
    assert_eq!(list(&first, None).await, of_first, "also when it is gone for good");
    assert_eq!(list("new", None).await, of_first, "what it did under another name is its own");
    assert_eq!(list(&second, None).await, [15, 16, 21, 22]);
    assert_eq!(list("db", None).await, (5..=18).chain(21..=24).collect::<Vec<_>>(), "each that ever had the name");
    assert_eq!(list("absent", None).await, [19, 20], "a mistake has its record too");
    assert_eq!(list("nobody", None).await, [0u64; 0]);
    assert_eq!(list(&first, Some(3)).await, [18, 23, 24]);
}

#[tokio::test]
async fn refusals_at_the_door_are_recorded_and_a_flood_of_them_is_counted() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("db", &[])).await.unwrap(); // 1, 2
    let stranger = |uid| Actor::Local { uid, gid: uid, pid: 9 };
    let refuse = async |uid: u32, call: &str, volume: Option<&str>| {
        let e = control.admit(&stranger(uid), call, volume.map(named).as_ref()).await.unwrap_err();
        assert!(e.kind == ErrorKind::Denied && e.remedy.is_some(), "{e}");
    };
    control.admit(&ROOT, "GET /v1/volumes", None).await.unwrap();
    for _ in 0..50 {
        refuse(4711, "DELETE /v1/volumes/db", Some("db")).await;
    }
    for n in 0..50 {
        refuse(4711, &format!("GET /v1/volumes/v{n}"), None).await;
    }
    // Whoever floods the journal hides nobody else.
    refuse(4712, "POST /v1/shutdown", None).await;
    let seen = events(&control).await;
    assert_eq!(seen.len(), 2 + 8 + 1);
    let first = &seen[2];
    assert_eq!((first.verb.as_str(), first.target.as_str(), first.phase), ("api.call", "db", AuditPhase::Failed));
    assert_eq!((&first.actor, &first.detail["call"]), (&stranger(4711), &"DELETE /v1/volumes/db".into()));
    assert_eq!((&first.detail["kind"], &seen[10].target), (&"denied".into(), &"api".to_owned()));
    let filter = AuditFilter { volume: Some("db".to_owned()), ..AuditFilter::default() };
    let of_db: Vec<u64> = control.audit().list(&filter).await.unwrap().iter().map(|e| e.seq).collect();
    assert_eq!(of_db, [1, 2, 3], "it is about the volume that the call names");

    site.clock.forward(Duration::from_secs(61));
    control.reconcile().await;
    let seen = events(&control).await;
    assert_eq!((seen.len(), &seen[11].detail["times"], &seen[11].actor), (12, &92.into(), &stranger(4711)));
    control.reconcile().await;
    assert_eq!(events(&control).await.len(), 12, "told once");
    refuse(4711, "DELETE /v1/volumes/db", Some("db")).await;
    assert_eq!(events(&control).await.len(), 13, "a minute later it is news again");
    for uid in 5000..6000 {
        refuse(uid, "GET /v1/volumes", None).await;
    }
    let before = events(&control).await.len();
    assert_eq!(before, 13 + 7, "many users make no flood either");
    control.close().await;
    drop(control);
    let control = site.open().await;
    let last = events(&control).await.pop().unwrap();
    assert_eq!((last.seq, &last.actor, &last.detail["times"]), (21, &Actor::System, &993.into()));
    assert!(verified(&control).await.is_intact());
}

#[tokio::test]
async fn refusals_that_cannot_be_written_take_nobody_elses_place() {
    let site = Site::new();
    let full = Arc::new(AtomicBool::new(true));
    let judge = full.clone();
    let faults = Faults::new(move |point| if point == "audit.append" && judge.load(Ordering::SeqCst) { Fate::Fail } else { Fate::Go });
    let control = site.open_with(faults).await;
    let stranger = Actor::Local { uid: 4711, gid: 4711, pid: 9 };
    for n in 0..20 {
        control.admit(&stranger, &format!("GET /v1/volumes/v{n}"), None).await.unwrap_err();
    }
    assert_eq!(control.status().await.unwrap().audit.owed, 0);
    full.store(false, Ordering::SeqCst);
    site.clock.forward(Duration::from_secs(61));
    control.reconcile().await;
    let seen = events(&control).await;
    assert_eq!((seen.len(), &seen[0].detail["times"]), (1, &20.into()), "but they are told in the end");
}

#[tokio::test]
async fn requests_at_once_make_one_chain() {
    let site = Site::new();
    let control = site.open().await;
    let names: Vec<String> = (0..40).map(|n| format!("v{n}")).collect();
    let made = futures::future::join_all(names.iter().map(|n| control.apply(&ROOT, create(n, &[])))).await;
    assert!(made.iter().all(Result::is_ok));
    let report = verified(&control).await;
    assert_eq!((report.events, report.is_intact()), (80, true), "{report:?}");
}
