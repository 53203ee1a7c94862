//! The one audited way through the door: who may, the record before, the change, the record after.

use crate::audit::Draft;
use crate::inner::Inner;
use futures::FutureExt;
use orlop_model::{
    Actor, AttachmentKind, AuditPhase, DetachBy, Error, ErrorKind, FindingState, Intent, Outcome, Result, StoreSpec, VolumeId,
};
use serde_json::{Value, json};
use std::panic::AssertUnwindSafe;

/// What a change came to, and to which volume it was done.
pub(crate) type Changed = (Outcome, Option<VolumeId>);

/// What happens when the start of a change cannot be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unrecorded {
    /// It is refused.
    Refused,
    /// It is refused, but may use the space set aside for a full disk, since it frees some.
    RefusedWithReserve,
    /// It goes on and is recorded afterwards: nobody is kept from letting go.
    GoesOn,
}

impl Inner {
    pub(crate) async fn apply(&self, actor: &Actor, intent: Intent) -> Result<Outcome> {
        let (verb, target) = (intent.verb(), intent.target());
        let mut detail = serde_json::to_value(&intent).expect("an intent is plain data");
        if let Some(map) = detail.as_object_mut() {
            map.remove("verb");
        }
        let allowed = self.authorise(actor, &intent).and_then(|()| match &intent {
            // Before anything is written: the specification would be in the record.
            Intent::AddStore { spec, .. } => spec.check(),
            Intent::SetStore { update, .. } => update.applied_to(&StoreSpec::new("s3://any")).map(drop),
            _ => Ok(()),
        });
        if let Err(refused) = allowed {
            self.audit
                .end(Draft {
                    change: None,
                    phase: AuditPhase::Failed,
                    actor: actor.clone(),
                    verb: verb.to_owned(),
                    target,
                    detail: failure(&refused),
                })
                .await;
            return Err(refused);
        }
        let unrecorded = match &intent {
            Intent::Detach { .. } => Unrecorded::GoesOn,
            Intent::RemoveVolume { .. } | Intent::PurgeVolume { .. } => Unrecorded::RefusedWithReserve,
            _ => Unrecorded::Refused,
        };
        self.audited(actor, verb, &target, detail, unrecorded, self.run(actor, intent)).await
    }

    /// Runs a change between its two records.
    pub(crate) async fn audited(
        &self,
        actor: &Actor,
        verb: &str,
        target: &str,
        detail: Value,
        unrecorded: Unrecorded,
        change: impl Future<Output = Result<Changed>>,
    ) -> Result<Outcome> {
        let number = match self.audit.start(actor, verb, target, detail.clone(), unrecorded != Unrecorded::Refused).await {
            Ok(number) => Some(number),
            Err(e) if unrecorded == Unrecorded::GoesOn => {
                tracing::warn!(verb, target, "goes on unrecorded for now: {e}");
                None
            }
            Err(e) => {
                let kind = if e.kind == ErrorKind::NoSpace { e.kind } else { ErrorKind::Unavailable };
                let remedy = e.remedy.unwrap_or_else(|| "orlop status tells the state of the journal".to_owned());
                return Err(
                    Error::new(kind, format!("{verb} {target} is refused, since it cannot be recorded: {}", e.message)).with_remedy(remedy)
                );
            }
        };
        // A defect in a rule must leave neither an open record nor a held lock.
        let outcome = AssertUnwindSafe(change).catch_unwind().await.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(Error::internal(format!("{verb} {target} met a defect of Orlop: {}", said.unwrap_or_default())))
        });
        let (phase, mut about) = match &outcome {
            Ok((outcome, volume)) => (AuditPhase::Done, success(outcome, *volume)),
            Err(e) => (AuditPhase::Failed, failure(e)),
        };
        if number.is_none() {
            about = json!({ "recorded_late": true, "request": detail, "outcome": about });
        }
        self.audit
            .end(Draft { change: number, phase, actor: actor.clone(), verb: verb.to_owned(), target: target.to_owned(), detail: about })
            .await;
        outcome.map(|(outcome, _)| outcome)
    }

    async fn run(&self, actor: &Actor, intent: Intent) -> Result<Changed> {
        match intent {
            Intent::CreateVolume { name, options, labels } => self.create(name, options, labels).await,
            Intent::AdoptVolume { name, store, volume, options, labels } => self.adopt(name, store, volume, options, labels).await,
            Intent::SetVolume { volume, update } => self.set(&volume, &update).await,
            Intent::ProtectVolume { volume, protected } => self.protect(&volume, protected).await,
            Intent::RemoveVolume { volume, now } => self.remove(actor, &volume, now).await,
            Intent::RestoreVolume { volume, rename } => self.restore(&volume, rename).await,
            Intent::Attach { volume, attachment, abandon_unsynced } => self.attach(&volume, attachment, abandon_unsynced).await,
            Intent::Detach { volume, attachment, force } => self.detach(actor, &volume, &attachment, force).await,
            Intent::RepairVolume { volume } => self.repair(&volume).await,
            Intent::CollectVolume { volume } => self.collect(&volume).await,
            Intent::PurgeVolume { volume } => self.purge_due(volume).await,
            Intent::RotateKeys { volume } => self.rotate_keys(volume).await,
            Intent::AddStore { name, spec } => self.add_store(name, spec).await,
            Intent::SetStore { name, update } => self.set_store(&name, &update).await,
            Intent::TestStore { name } => self.test_store(&name).await,
            Intent::RemoveStore { name } => self.remove_store(&name).await,
        }
    }

    /// Deny by default: root and the owner of the root folder may do everything, Docker what its protocol has.
    fn authorise(&self, actor: &Actor, intent: &Intent) -> Result<()> {
        match actor {
            Actor::System => Ok(()),
            Actor::Local { uid, .. } if *uid == 0 || *uid == self.owner => Ok(()),
            Actor::Local { .. } => Err(self.denied(actor, intent.verb())),
            Actor::Docker => match intent {
                Intent::CreateVolume { .. }
                | Intent::RemoveVolume { now: false, .. }
                | Intent::Attach { attachment: AttachmentKind::Docker { .. }, abandon_unsynced: false, .. }
                | Intent::Detach { attachment: DetachBy::DockerMountId(_), .. } => Ok(()),
                _ => Err(self.denied(actor, intent.verb())),
            },
        }
    }

    pub(crate) fn authorise_read(&self, actor: &Actor) -> Result<()> {
        match actor {
            Actor::Local { uid, .. } if *uid != 0 && *uid != self.owner => Err(self.denied(actor, "look at volumes")),
            Actor::Local { .. } | Actor::Docker | Actor::System => Ok(()),
        }
    }

    fn denied(&self, actor: &Actor, what: &str) -> Error {
        let remedy = match (actor, self.owner) {
            (Actor::Local { .. }, 0) => "run it as root".to_owned(),
            (Actor::Local { .. }, owner) => format!("run it as root or as uid {owner}, who owns {}", self.config.root.display()),
            _ => "use the orlop command for it".to_owned(),
        };
        Error::new(ErrorKind::Denied, format!("{actor} may not {what}")).with_remedy(remedy)
    }
}

fn success(outcome: &Outcome, volume: Option<VolumeId>) -> Value {
    let mut about = match outcome {
        Outcome::Volume(_) | Outcome::Done => json!({}),
        Outcome::Store(s) => json!({ "refusal": s.refusal, "capabilities": s.capabilities }),
        Outcome::Tested(t) => json!({ "refusal": t.store.refusal, "capabilities": t.store.capabilities }),
        Outcome::Checked(report) => {
            let of = |state| report.findings.iter().filter(|f| f.state == state).count();
            json!({ "repaired": of(FindingState::Repaired), "left": of(FindingState::Left) })
        }
        Outcome::Collected(report) => json!({ "deleted": report.deleted, "marked": report.marked.len() }),
        Outcome::Attached { attachment, mountpoint } => json!({ "attachment": attachment, "mountpoint": mountpoint }),
    };
    if let (Some(map), Some(id)) = (about.as_object_mut(), volume) {
        map.insert("volume".to_owned(), json!(id));
    }
    about
}

fn failure(e: &Error) -> Value {
    json!({ "kind": e.kind, "message": e.message })
}
