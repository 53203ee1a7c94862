//! The living journal: begins and ends records of changes, and remembers what it could not write yet.

use super::export::AuditExport;
use super::record::Draft;
use super::refusals::Refusals;
use super::segment::segments;
use super::tail::{self, Tail};
use super::writer::{Writer, cut_aside};
use super::{AuditFilter, EXPORT_VERB, VerifyReport, list, verify};
use crate::faults::Faults;
use crate::ports::Clock;
use crate::registry::{Head, OpenChange, Registry};
use crate::status::AuditStatus;
use orlop_model::{Actor, AuditEvent, AuditPhase, Error, ErrorKind, Result, VolumeRef};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// More owed records than this are not kept; the oldest are given up, with a line in the log.
const OWED_MAX: usize = 10_000;

/// The journal of one root.
pub struct AuditJournal {
    dir: PathBuf,
    registry: Registry,
    clock: Arc<dyn Clock>,
    faults: Faults,
    /// Held over an append and its note in the registry, so that the noted end never goes back.
    order: tokio::sync::Mutex<()>,
    writer: Arc<Mutex<Writer>>,
    debts: Mutex<Debts>,
    refusals: Mutex<Refusals>,
    /// Keeps a second process from writing to the same journal.
    _lock: File,
}

#[derive(Default)]
struct Debts {
    /// Records to be written as soon as that is possible.
    records: VecDeque<Draft>,
    /// Changes whose end is in the journal but not in the registry.
    unclosed: Vec<u64>,
    error: Option<String>,
    found_broken: Option<String>,
}

/// Whether there is a record in this audit folder.
pub(crate) fn has_records(dir: &Path) -> Result<bool> {
    if !dir.exists() {
        return Ok(false);
    }
    Ok(segments(dir)?.iter().any(|s| std::fs::metadata(&s.path).is_ok_and(|m| m.len() > 0)))
}

impl AuditJournal {
    /// Opens the journal in `dir`, repairs what a crash tore, and ends the records of changes that a crash cut short.
    pub(crate) async fn open(dir: &Path, limit: u64, registry: Registry, clock: Arc<dyn Clock>, faults: Faults) -> Result<AuditJournal> {
        let fail = |e: std::io::Error| Error::io(format_args!("opening the audit folder {}", dir.display()), &e);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
        let lock = std::fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(dir.join("lock")).map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(Error::new(ErrorKind::Busy, format!("another process has {} open", dir.display()))
                    .with_remedy("only one daemon may run on a root: orlop status shows it, orlop down ends it"));
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(fail(e)),
        }
        let head = registry.audit_head().await?;
        let tail = tail::inspect(dir, head.as_ref())?;
        let mut cut = None;
        if let (Some(torn), Some((segment, _))) = (&tail.torn, &tail.segment) {
            let (aside, bytes) = cut_aside(segment, torn.offset)?;
            cut = Some(json!({ "file": segment.name(), "line": torn.line, "bytes": bytes, "moved_to": aside }));
        }
        let Tail { mut segment, mut seq, mut hash, broken, unseen, .. } = tail;
        if broken.is_some() {
            // What is there stays there. The chain goes on behind the highest number that anybody knows.
            segment = None;
            // It follows what the registry saw, not what lies there, so that a replaced end stays visible.
            if let Some(head) = head {
                (seq, hash) = (seq.max(head.seq), head.hash);
            }
        }
        let journal = AuditJournal {
            writer: Arc::new(Mutex::new(Writer::resume(dir, limit, segment, seq, hash)?)),
            dir: dir.to_owned(),
            registry,
            clock,
            faults,
            order: tokio::sync::Mutex::default(),
            debts: Mutex::new(Debts { found_broken: broken.clone(), ..Debts::default() }),
            refusals: Mutex::default(),
            _lock: lock,
        };
        if let Some(found) = broken {
            tracing::error!(dir = %dir.display(), "the audit journal is broken: {found}");
            journal.owe(Draft::note("audit.break", json!({ "found": found })));
        }
        if let Some(cut) = cut {
            tracing::warn!(dir = %dir.display(), "a torn line at the end of the audit journal was cut aside: {cut}");
            journal.owe(Draft::note("audit.repair", cut));
        }
        journal.interrupt(unseen).await?;
        // A full disk must not keep the daemon down: containers need their volumes. It is tried again later.
        if let Err(e) = journal.pay().await {
            tracing::warn!("the audit journal cannot be written: {e}");
        }
        Ok(journal)
    }

    /// Owes an end to every change that was begun and never ended.
    async fn interrupt(&self, unseen: Vec<AuditEvent>) -> Result<()> {
        let mut open = self.registry.audit_open_changes().await?;
        let mut ended = Vec::new();
        for event in unseen {
            if event.phase == AuditPhase::Start {
                open.push(OpenChange { change: event.change, actor: event.actor, verb: event.verb, target: event.target });
            } else {
                open.retain(|o| o.change != event.change);
                ended.push(event.change);
            }
        }
        self.debts.lock().unclosed = ended;
        for change in open {
            self.owe(Draft {
                change: Some(change.change),
                phase: AuditPhase::Interrupted,
                actor: change.actor,
                verb: change.verb,
                target: change.target,
                detail: json!({ "message": "Orlop ended before the change did; what was left of it is finished or undone" }),
            });
        }
        Ok(())
    }

    /// Records that a change begins. On an error it must not. `use_reserve`: may use the space set aside on a full disk.
    pub(crate) async fn start(&self, actor: &Actor, verb: &str, target: &str, detail: Value, use_reserve: bool) -> Result<u64> {
        let draft = Draft {
            change: None,
            phase: AuditPhase::Start,
            actor: actor.clone(),
            verb: verb.to_owned(),
            target: target.to_owned(),
            detail,
        };
        let _order = self.order.lock().await;
        let outcome = match self.pay_in_order(use_reserve).await {
            Ok(()) => self.append(&draft, use_reserve).await,
            Err(e) => Err((e, None)),
        };
        match outcome {
            Ok(event) => Ok(event.seq),
            Err((e, written)) => {
                if let Some(event) = written {
                    // It is in the journal, but the registry does not know: the change does not happen.
                    let detail = json!({ "kind": e.kind, "message": e.message });
                    self.owe(Draft { change: Some(event.seq), phase: AuditPhase::Failed, detail, ..draft });
                }
                Err(e)
            }
        }
    }

    /// Records how a change ended; later, if that cannot be done now.
    pub(crate) async fn end(&self, record: Draft) {
        self.owe(record);
        if let Err(e) = self.pay().await {
            tracing::warn!("an audit record will be written later: {e}");
        }
    }

    /// Records that a call was refused before it was looked at. One of many is only counted.
    pub(crate) async fn refused(&self, actor: &Actor, call: &str, volume: Option<&VolumeRef>, message: &str) {
        let due = self.refusals.lock().note(actor, call, volume, message, crate::now(&*self.clock));
        self.write_refusals(due).await;
    }

    /// Never owed, and without the space set aside: who may do nothing keeps nobody else's records from being written.
    async fn write_refusals(&self, due: Vec<Draft>) {
        for draft in due {
            let _order = self.order.lock().await;
            let written = match self.pay_in_order(false).await {
                Ok(()) => self.append(&draft, false).await,
                Err(e) => Err((e, None)),
            };
            if let Err((e, None)) = written {
                tracing::warn!(actor = %draft.actor, "a refused call is counted, and recorded later: {e}");
                self.refusals.lock().unwritten(&draft, crate::now(&*self.clock));
            }
        }
    }

    /// Writes all that there is to write, for an end in good order.
    pub(crate) async fn finish(&self) -> Result<()> {
        let due = self.refusals.lock().end();
        self.write_refusals(due).await;
        self.pay().await
    }

    /// Writes what is owed.
    pub(crate) async fn pay(&self) -> Result<()> {
        let _order = self.order.lock().await;
        self.pay_in_order(true).await
    }

    fn owe(&self, record: Draft) {
        let mut debts = self.debts.lock();
        if debts.records.len() >= OWED_MAX {
            let lost = debts.records.pop_front();
            tracing::error!(?lost, "too many audit records wait to be written; the oldest is given up");
        }
        debts.records.push_back(record);
    }

    async fn pay_in_order(&self, use_reserve: bool) -> Result<()> {
        self.keep_place();
        loop {
            let Some(record) = self.debts.lock().records.front().cloned() else { return Ok(()) };
            match self.append(&record, use_reserve).await {
                // With the registry failing, the record is written nevertheless.
                Ok(_) | Err((_, Some(_))) => {
                    self.debts.lock().records.pop_front();
                }
                Err((e, None)) => return Err(e),
            }
        }
    }

    /// Goes on in a new file, saying so first, if somebody took the last one away.
    fn keep_place(&self) {
        let mut writer = self.writer.lock();
        if let Some(found) = writer.displaced() {
            tracing::error!(dir = %self.dir.display(), "the audit journal is broken: {found}");
            writer.leave_segment();
            let mut debts = self.debts.lock();
            debts.records.push_front(Draft::note("audit.break", json!({ "found": found })));
            debts.found_broken = Some(found);
        }
    }

    /// Appends and notes the new end. An error with a record: the record is written, its note is not.
    async fn append(&self, draft: &Draft, use_reserve: bool) -> Result<AuditEvent, (Error, Option<Box<AuditEvent>>)> {
        let appended = self.append_line(draft, use_reserve).await;
        self.debts.lock().error = appended.as_ref().err().map(|e| e.message.clone());
        let event = appended.map_err(|e| (e, None))?;
        let head = Head { seq: event.seq, hash: event.hash.clone() };
        let mut closed = self.debts.lock().unclosed.clone();
        let opened = (event.phase == AuditPhase::Start).then(|| OpenChange {
            change: event.change,
            actor: event.actor.clone(),
            verb: event.verb.clone(),
            target: event.target.clone(),
        });
        if opened.is_none() {
            closed.push(event.change);
        }
        let noted = match self.faults.at("audit.append.after").await {
            Ok(()) => self.registry.audit_advance(&head, opened.as_ref(), &closed).await,
            Err(e) => Err(e),
        };
        match noted {
            Ok(()) => {
                self.debts.lock().unclosed.clear();
                Ok(event)
            }
            Err(e) => {
                let mut debts = self.debts.lock();
                debts.error = Some(e.message.clone());
                debts.unclosed = closed;
                Err((e, Some(Box::new(event))))
            }
        }
    }

    async fn append_line(&self, draft: &Draft, use_reserve: bool) -> Result<AuditEvent> {
        self.faults.at("audit.append").await?;
        let (writer, draft, at) = (self.writer.clone(), draft.clone(), crate::now(&*self.clock));
        tokio::task::spawn_blocking(move || writer.lock().append(&draft, at, use_reserve))
            .await
            .map_err(|e| Error::internal(format!("writing the audit journal: {e}")))?
    }

    /// Sets space aside again for a full disk, and writes what is owed and what was only counted.
    pub(crate) async fn tend(&self) -> Result<()> {
        let due = self.refusals.lock().due(crate::now(&*self.clock));
        self.write_refusals(due).await;
        self.pay().await?;
        let writer = self.writer.clone();
        let _ = tokio::task::spawn_blocking(move || writer.lock().keep_reserve()).await;
        Ok(())
    }

    /// The records that match, oldest first.
    pub async fn list(&self, filter: &AuditFilter) -> Result<Vec<AuditEvent>> {
        let (dir, filter) = (self.dir.clone(), filter.clone());
        blocking(move || list::list(&dir, &filter)).await
    }

    /// A cut to be verified elsewhere. It ends with the record of its own export, so that a shortened file is noticed.
    pub async fn export(&self, actor: &Actor) -> Result<AuditExport> {
        let _order = self.order.lock().await;
        self.pay_in_order(true).await?;
        let draft = Draft {
            change: None,
            phase: AuditPhase::Done,
            actor: actor.clone(),
            verb: EXPORT_VERB.to_owned(),
            target: "audit".to_owned(),
            detail: json!({}),
        };
        let event = match self.append(&draft, true).await {
            Ok(event) => event,
            Err((_, Some(event))) => *event,
            Err((e, None)) => return Err(e),
        };
        // Under the lock nothing is appended, so the files end with that record.
        let mut parts = Vec::new();
        for segment in segments(&self.dir)? {
            let len =
                std::fs::metadata(&segment.path).map_err(|e| Error::io(format_args!("exporting {}", segment.path.display()), &e))?.len();
            parts.push((segment, len));
        }
        Ok(AuditExport { parts, last_seq: event.seq, last_hash: event.hash })
    }

    /// Reads the whole journal and checks every link, and its end against what was written.
    pub async fn verify(&self) -> Result<VerifyReport> {
        let head = {
            let _order = self.order.lock().await;
            let writer = self.writer.lock();
            Head { seq: writer.seq(), hash: writer.hash().to_owned() }
        };
        let dir = self.dir.clone();
        blocking(move || verify::verify_folder(&dir, &head)).await
    }

    pub(crate) fn status(&self) -> AuditStatus {
        let (last_seq, last_hash) = {
            let writer = self.writer.lock();
            (writer.seq(), writer.hash().to_owned())
        };
        let debts = self.debts.lock();
        AuditStatus {
            last_seq,
            last_hash,
            owed: debts.records.len() as u64,
            error: debts.error.clone(),
            found_broken: debts.found_broken.clone(),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("reading the audit journal: {e}")))?
}
