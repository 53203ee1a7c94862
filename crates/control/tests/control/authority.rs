//! Who may do what, and that nothing goes past the journal.

use crate::world::*;
use orlop_control::{AuditFilter, Control};
use orlop_model::{Actor, AttachmentId, AttachmentKind, AuditPhase, DetachBy, ErrorKind, Intent, VolumeId};

/// One of every verb. The match makes sure that a new verb is added here.
fn every_intent() -> Vec<Intent> {
    let all = vec![
        create("v", &[]),
        adopt("v", "s", VolumeId::random(), &[]),
        set("v", &[("size", "1G")]),
        protect("v", true),
        remove("v", false),
        remove("v", true),
        restore("v", None),
        docker("v", "m"),
        folder("v", "/x", false),
        Intent::Attach { volume: named("v"), attachment: AttachmentKind::Internal { purpose: "ls".to_owned() }, abandon_unsynced: false },
        undocker("v", "m"),
        unfolder("v", "/x"),
        Intent::Detach { volume: named("v"), attachment: DetachBy::Id(AttachmentId::random()), force: false },
        Intent::PurgeVolume { volume: VolumeId::random() },
        Intent::RotateKeys { volume: None },
        Intent::RotateKeys { volume: Some(named("v")) },
        Intent::AdoptVolume {
            name: "w".parse().unwrap(),
            store: "default".parse().unwrap(),
            volume: VolumeId::random(),
            options: opts(&[]),
            labels: Default::default(),
        },
        Intent::RepairVolume { volume: named("v") },
        Intent::CollectVolume { volume: named("v") },
        add_store("s", "mem://authority"),
        set_store("s", None, &[("region", "x")]),
        test_store("s"),
        remove_store("s"),
    ];
    let mut verbs: Vec<&str> = all
        .iter()
        .map(|i| match i {
            Intent::CreateVolume { .. }
            | Intent::SetVolume { .. }
            | Intent::ProtectVolume { .. }
            | Intent::RemoveVolume { .. }
            | Intent::RestoreVolume { .. }
            | Intent::Attach { .. }
            | Intent::Detach { .. }
            | Intent::PurgeVolume { .. }
            | Intent::RotateKeys { .. }
            | Intent::AdoptVolume { .. }
            | Intent::RepairVolume { .. }
            | Intent::CollectVolume { .. }
            | Intent::AddStore { .. }
            | Intent::SetStore { .. }
            | Intent::TestStore { .. }
            | Intent::RemoveStore { .. } => i.verb(),
        })
        .collect();
    verbs.sort_unstable();
    verbs.dedup();
    assert_eq!(verbs.len(), 16, "every verb has a case");
    all
}

async fn events(control: &Control) -> Vec<orlop_model::AuditEvent> {
    control.audit().list(&AuditFilter::default()).await.unwrap()
}

#[tokio::test]
async fn a_stranger_may_do_nothing_and_each_try_is_recorded() {
    let site = Site::new();
    let control = site.open().await;
    let stranger = Actor::Local { uid: 4711, gid: 4711, pid: 9 };
    for intent in every_intent() {
        let before = events(&control).await.len();
        let e = refused(control.apply(&stranger, intent.clone()).await, ErrorKind::Denied);
        assert!(e.message.contains("4711") && e.message.contains(intent.verb()), "{e}");
        let all = events(&control).await;
        assert_eq!(all.len(), before + 1, "{intent:?}");
        let last = all.last().unwrap();
        assert_eq!((last.phase, last.verb.as_str(), &last.actor), (AuditPhase::Failed, intent.verb(), &stranger));
    }
    assert!(control.authorise_read(&stranger).is_err());
    assert!(picture(&control).await.is_empty());
    assert_eq!(site.world.0.lock().calls, Vec::<String>::new(), "nothing reached the host");
}

#[tokio::test]
async fn docker_may_do_what_its_protocol_has_and_no_more() {
    let site = Site::new();
    let control = site.open().await;
    for intent in every_intent() {
        let allowed = match &intent {
            Intent::CreateVolume { .. } | Intent::RemoveVolume { now: false, .. } => true,
            Intent::Attach { attachment, .. } => matches!(attachment, AttachmentKind::Docker { .. }),
            Intent::Detach { attachment, .. } => matches!(attachment, DetachBy::DockerMountId(_)),
            _ => false,
        };
        let outcome = control.apply(&Actor::Docker, intent.clone()).await;
        let denied = outcome.as_ref().is_err_and(|e| e.kind == ErrorKind::Denied);
        assert_eq!(denied, !allowed, "{intent:?}: {outcome:?}");
    }
    assert!(control.authorise_read(&Actor::Docker).is_ok());
}

#[tokio::test]
async fn the_owner_of_the_root_may_do_everything() {
    let site = Site::new();
    // Only root can give a folder away; without that the owner is this very user, which is the same rule.
    let given = std::os::unix::fs::chown(site.dir.path(), Some(1234), None).is_ok();
    let owner = if given { 1234 } else { std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(site.dir.path()).unwrap()) };
    let control = site.open().await;
    let actor = Actor::Local { uid: owner, gid: 0, pid: 1 };
    control.apply(&actor, create("v", &[])).await.unwrap();
    assert!(control.authorise_read(&actor).is_ok());
    if given {
        let e = refused(control.apply(&Actor::Local { uid: 1235, gid: 0, pid: 1 }, remove("v", false)).await, ErrorKind::Denied);
        assert!(e.remedy.unwrap().contains("1234"), "the remedy says who may");
    }
}

#[tokio::test]
async fn every_change_has_a_record_before_and_one_after() {
    let site = Site::new();
    let control = site.open().await;
    let id = volume_of(control.apply(&ROOT, create("v", &[("size", "1G")])).await.unwrap()).id;
    let e = refused(control.apply(&ROOT, create("v", &[("size", "2G")])).await, ErrorKind::AlreadyExists);
    let all = events(&control).await;
    let shape: Vec<_> = all.iter().map(|e| (e.seq, e.change, e.phase)).collect();
    assert_eq!(shape, [(1, 1, AuditPhase::Start), (2, 1, AuditPhase::Done), (3, 3, AuditPhase::Start), (4, 3, AuditPhase::Failed)]);
    assert_eq!(all[0].detail["options"]["size"], 1 << 30);
    assert_eq!(all[1].detail["volume"], id.to_string());
    assert_eq!(all[3].detail["message"], e.message);
    assert!(all.iter().all(|e| e.verb == "volume.create" && e.target == "v" && e.actor == ROOT));
}
