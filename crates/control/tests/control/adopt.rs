//! Volumes that lie in a store and were made elsewhere: adopted by id, forgotten and never deleted from here.

use super::world::*;
use orlop_model::{ErrorKind, FoundVolume, Intent, Outcome, Volume, VolumeId, VolumeState};

fn there(id: VolumeId, encrypted: bool) -> FoundVolume {
    FoundVolume {
        id,
        name: None,
        made_at: None,
        encrypted,
        last_host: Some("one".to_owned()),
        released: true,
        problem: None,
        known_as: None,
    }
}

fn the(outcome: Outcome) -> Volume {
    match outcome {
        Outcome::Volume(v) => *v,
        other => panic!("no volume in {other:?}"),
    }
}

#[tokio::test]
async fn a_volume_of_another_host_is_adopted_used_and_forgotten() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, add_store("cloud", "s3://bucket")).await.unwrap();
    let (id, sealed) = (VolumeId::random(), VolumeId::random());
    for v in [there(id, false), there(sealed, true)] {
        let mut world = site.world.0.lock();
        world.bytes.insert(v.id, "made elsewhere".to_owned());
        world.elsewhere.insert(v.id, v);
    }
    assert_eq!(control.found_volumes(&"cloud".parse().unwrap()).await.unwrap().len(), 2);

    let absent = control.apply(&ROOT, adopt("db", "cloud", VolumeId::random(), &[])).await.unwrap_err();
    assert_eq!(absent.kind, ErrorKind::NotFound, "{absent}");
    let local = control.apply(&ROOT, adopt("db", "default", id, &[])).await.unwrap_err();
    assert!(local.kind == ErrorKind::Unsupported && local.remedy.is_some(), "{local}");

    let volume = the(control.apply(&ROOT, adopt("db", "cloud", id, &[("size", "1G")])).await.unwrap());
    assert!(volume.adopted && volume.id == id && volume.store.as_str() == "cloud", "{volume:?}");
    // As it stands: nothing changes. Otherwise it is refused.
    control.apply(&ROOT, adopt("db", "cloud", id, &[("size", "1G")])).await.unwrap();
    for (name, options) in [("db", vec![("size", "2G")]), ("other", vec![("size", "1G")])] {
        let e = control.apply(&ROOT, adopt(name, "cloud", id, &options)).await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::AlreadyExists, "{e}");
    }
    let known = control.found_volumes(&"cloud".parse().unwrap()).await.unwrap();
    assert_eq!(known.iter().filter(|f| f.known_as.is_some()).map(|f| f.id).collect::<Vec<_>>(), [id]);
    let taken = control.apply(&ROOT, adopt("db", "cloud", sealed, &[])).await.unwrap_err();
    assert_eq!(taken.kind, ErrorKind::AlreadyExists, "{taken}");

    // Whether it is encrypted is a fact.
    let plain = control.apply(&ROOT, adopt("secret", "cloud", sealed, &[("encrypt", "off")])).await.unwrap_err();
    assert_eq!(plain.kind, ErrorKind::InvalidArgument, "{plain}");
    let secret = the(control.apply(&ROOT, adopt("secret", "cloud", sealed, &[])).await.unwrap());
    assert_eq!(secret.options.encrypt, Some(true));

    // It is mounted as any, and removed to the trash as any.
    control.apply(&ROOT, docker("db", "m")).await.unwrap();
    control.apply(&ROOT, undocker("db", "m")).await.unwrap();
    let removed = the(control.apply(&ROOT, remove("db", false)).await.unwrap());
    assert_eq!(removed.state, VolumeState::Removed);
    control.apply(&ROOT, restore("db", None)).await.unwrap();
    assert_eq!(control.apply(&ROOT, remove("db", true)).await.unwrap(), Outcome::Done);
    let calls = site.world.0.lock().calls.clone();
    assert!(calls.iter().any(|c| c.starts_with("forget")) && !calls.iter().any(|c| c.starts_with("destroy")), "{calls:?}");
    site.world.assert_respected();
}

#[tokio::test]
async fn what_is_to_be_given_up_is_said_in_the_plan_and_in_the_journal() {
    let site = Site::new();
    let control = site.open().await;
    control.apply(&ROOT, create("v", &[])).await.unwrap();
    let Intent::Attach { volume, attachment, .. } = folder("v", "/x", false) else { unreachable!() };
    control.apply(&ROOT, Intent::Attach { volume, attachment, abandon_unsynced: true }).await.unwrap();
    let plans: Vec<bool> = site.world.0.lock().mounted.values().map(|m| m.plan.abandon_unsynced).collect();
    assert_eq!(plans, [true]);
    let filter = orlop_control::AuditFilter { verb: Some("volume.attach".to_owned()), ..Default::default() };
    let events = control.audit().list(&filter).await.unwrap();
    assert!(events.iter().any(|e| e.detail["abandon_unsynced"] == true), "{events:?}");
    // Docker's protocol has no word for it.
    let Intent::Attach { volume, attachment, .. } = docker("v", "m") else { unreachable!() };
    let denied =
        control.apply(&orlop_model::Actor::Docker, Intent::Attach { volume, attachment, abandon_unsynced: true }).await.unwrap_err();
    assert_eq!(denied.kind, ErrorKind::Denied, "{denied}");
}
