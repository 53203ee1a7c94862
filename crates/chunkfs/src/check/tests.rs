//! What a repair sets right, and that a check of a busy volume cries no wolf.

use crate::change::{Change, Record};
use crate::fs::FileSystem;
use crate::key::Key;
use crate::row::Row;
use crate::state::Bases;
use crate::testing::{CX, volume};
use crate::types::{FileKind, ROOT_INO};
use orlop_model::{FindingKind, FindingState};
use std::sync::Arc;

async fn make(fs: &FileSystem, name: &str, bytes: usize) -> u64 {
    let f = fs.mknod(&CX, ROOT_INO, name.as_bytes(), FileKind::File, 0o644, 0).await.expect("made");
    fs.write(&CX, f.ino, 0, &vec![7; bytes]).await.expect("written");
    f.ino
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_counts_are_named_and_set_right_and_stay_right() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let fs = volume(dir.path()).await;
    let ino = make(&fs, "f", 20_000).await;
    fs.mkdir(&CX, ROOT_INO, b"d", 0o755).await.expect("made");
    {
        let mut st = fs.lock();
        let mut changes = Vec::new();
        for (ino, f) in [(ino, 0), (ROOT_INO, 1)] {
            let Ok(Some(Row::Inode(i))) = st.row(Key::Inode(ino)) else { panic!("inode {ino} is in memory") };
            let mut i = (*i).clone();
            match f {
                0 => (i.nlink, i.blocks) = (5, 1),
                _ => (i.nlink, i.size) = (7, 40),
            }
            changes.push(Change::Put(Key::Inode(ino), Row::Inode(Arc::new(i))));
        }
        let mut sb = st.sb.clone();
        (sb.used_blocks, sb.inodes) = (3, 90);
        changes.push(Change::Put(Key::Super, Row::Super(sb)));
        let (n, s) = st.segments.iter().next().map(|(n, s)| (*n, s.clone())).expect("one segment");
        changes.push(Change::Put(Key::Segment(n), Row::Segment(crate::row::Segment { live: 1, ..s })));
        st.commit(Record { changes, ..Record::default() }, &Bases::new()).expect("written");
    }
    let report = fs.examine(false).await.expect("checked");
    assert!(!report.clean);
    assert_eq!(report.findings.iter().filter(|f| f.kind == FindingKind::Count && f.state == FindingState::Left).count(), 7, "{report:#?}");
    assert!(report.findings.iter().any(|f| f.paths == ["/f"]), "{report:#?}");
    let repaired = fs.examine(true).await.expect("repaired");
    assert!(repaired.clean && repaired.findings.len() == 7, "{repaired:#?}");
    assert!(fs.examine(false).await.expect("checked").findings.is_empty());
    assert_eq!(fs.getattr(ino).await.expect("there").nlink, 1);
    fs.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_busy_volume_checks_clean() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let fs = volume(dir.path()).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let busy = {
        let (fs, stop) = (fs.clone(), stop.clone());
        tokio::spawn(async move {
            let mut n = 0u32;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                n += 1;
                let name = format!("f{}", n % 50);
                if let Ok(a) = fs.lookup(ROOT_INO, name.as_bytes()).await {
                    fs.unlink(&CX, ROOT_INO, name.as_bytes()).await.expect("removed");
                    fs.forget(a.ino, 2);
                }
                let ino = make(&fs, &name, 9000 + n as usize % 7 * 4096).await;
                fs.write(&CX, ino, 100, b"small").await.expect("written");
                if n.is_multiple_of(40) {
                    fs.fold().await.expect("folded");
                }
                if n.is_multiple_of(130) {
                    fs.compact_all().await.expect("compacted");
                }
            }
            n
        })
    };
    for _ in 0..40 {
        let report = fs.examine(false).await.expect("checked");
        assert!(report.clean && report.findings.is_empty(), "{report:#?}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(busy.await.expect("no panic") > 100, "it was busy");
    fs.close().await.expect("closed");
}
