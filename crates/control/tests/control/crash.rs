//! kill -9 and failures between any two steps of every change.
//!
//! Each scenario runs once to count its steps. Then, for every step, a fresh root is set up and the process "dies" there;
//! another process opens the root, reconciles, and the result must be the state before or the state after, with the host
//! in accord, the journal intact and every record ended. The second matrix lets the recovering process die as well, at
//! each of its own steps. The third lets each step report an error instead, in a process that goes on.

use crate::world::*;
use orlop_control::faults::{Fate, Faults};
use orlop_control::{AuditFilter, Control, VolumeFilter};
use orlop_model::{Actor, AttachmentKind, AuditPhase, Intent, Outcome, Result, VolumeKind, VolumeState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

struct Scenario {
    name: &'static str,
    setup: Vec<Intent>,
    /// How far the clock goes after the setup.
    wait: Duration,
    actor: Actor,
    change: Change,
}

enum Change {
    Apply(Box<Intent>),
    Reconcile,
}

impl Scenario {
    fn new(name: &'static str, setup: Vec<Intent>, change: Intent) -> Scenario {
        Scenario { name, setup, wait: Duration::ZERO, actor: ROOT, change: Change::Apply(Box::new(change)) }
    }

    async fn run(&self, control: &Control) -> Result<Outcome> {
        match &self.change {
            Change::Apply(intent) => control.apply(&self.actor, Intent::clone(intent)).await,
            Change::Reconcile => {
                control.reconcile().await;
                Ok(Outcome::Done)
            }
        }
    }
}

fn scenarios() -> Vec<Scenario> {
    let old = || create("old", &[]);
    let week = Duration::from_secs(8 * 86400);
    let plain = || add_store("plain", "dir:///plain");
    let folder_of = |name: &str| create(name, &[("store", "plain")]);
    vec![
        Scenario::new("add a store", vec![], add_store("spare", "mem://spare")),
        Scenario::new("test a store", vec![add_store("spare", "mem://spare")], test_store("spare")),
        Scenario::new("change a store", vec![add_store("spare", "s3://spare")], set_store("spare", Some("file:/new"), &[("region", "x")])),
        Scenario::new("remove a store", vec![add_store("spare", "mem://spare")], remove_store("spare")),
        Scenario::new("create elsewhere", vec![add_store("spare", "mem://spare")], create("new", &[("store", "spare")])),
        Scenario::new("plain create", vec![plain()], folder_of("new")),
        Scenario::new("plain adopt", vec![plain()], folder_of("there")),
        Scenario::new("plain create beside trash", vec![plain(), folder_of("new"), remove("new", false)], folder_of("new")),
        Scenario::new("plain attach", vec![plain(), folder_of("new")], folder("new", "/x/y", false)),
        Scenario::new("plain remove", vec![plain(), folder_of("new")], remove("new", false)),
        Scenario::new("plain remove now", vec![plain(), folder_of("new")], remove("new", true)),
        Scenario::new("plain forget", vec![plain(), folder_of("there")], remove("there", false)),
        Scenario::new("plain restore", vec![plain(), folder_of("new"), remove("new", false)], restore("new", None)),
        Scenario::new(
            "plain restore as",
            vec![plain(), folder_of("new"), remove("new", false), folder_of("new")],
            restore("new", Some("other")),
        ),
        Scenario::new("shrink", vec![create("old", &[("size", "2G")])], set("old", &[("size", "1G")])),
        Scenario::new("create", vec![], create("new", &[("size", "1G"), ("protect", "on")])),
        Scenario::new("create beside trash", vec![old(), remove("old", false)], create("old", &[])),
        Scenario::new("set", vec![old()], set("old", &[("size", "2G")])),
        Scenario::new("set while mounted", vec![old(), docker("old", "m1")], set("old", &[("size", "2G")])),
        Scenario::new("protect", vec![old()], protect("old", true)),
        Scenario::new("remove", vec![old()], remove("old", false)),
        Scenario::new("remove now", vec![old()], remove("old", true)),
        Scenario { actor: Actor::Docker, ..Scenario::new("remove by Docker", vec![old()], remove("old", false)) },
        Scenario::new("restore", vec![old(), remove("old", false)], restore("old", None)),
        Scenario::new("restore as", vec![old(), remove("old", false), old()], restore("old", Some("other"))),
        Scenario { actor: Actor::Docker, ..Scenario::new("attach docker", vec![old()], docker("old", "m1")) },
        Scenario { actor: Actor::Docker, ..Scenario::new("attach second", vec![old(), docker("old", "m1")], docker("old", "m2")) },
        Scenario::new("attach folder", vec![old()], folder("old", "/x/y", true)),
        Scenario::new("attach folder beside docker", vec![old(), docker("old", "m1")], folder("old", "/x/y", false)),
        Scenario { actor: Actor::Docker, ..Scenario::new("detach last", vec![old(), docker("old", "m1")], undocker("old", "m1")) },
        Scenario {
            actor: Actor::Docker,
            ..Scenario::new("detach one of two", vec![old(), docker("old", "m1"), docker("old", "m2")], undocker("old", "m1"))
        },
        Scenario::new("detach folder", vec![old(), folder("old", "/x/y", false)], unfolder("old", "/x/y")),
        Scenario {
            wait: week,
            change: Change::Reconcile,
            ..Scenario::new("purge what is due", vec![old(), remove("old", false), old()], remove("unused", false))
        },
    ]
}

/// Lets everything go on up to a step, and there, once, something else happen.
struct Counter {
    seen: Arc<AtomicUsize>,
    hit: Arc<AtomicBool>,
}

impl Counter {
    fn at(step: usize, fate: Fate) -> (Counter, Faults) {
        let counter = Counter { seen: Arc::default(), hit: Arc::default() };
        let (seen, hit) = (counter.seen.clone(), counter.hit.clone());
        let faults = Faults::new(move |_| {
            if seen.fetch_add(1, Ordering::SeqCst) == step {
                hit.store(true, Ordering::SeqCst);
                fate
            } else {
                Fate::Go
            }
        });
        (counter, faults)
    }

    async fn dead(&self) {
        while !self.hit.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A process: all that it started ends with it, wherever it was.
fn process<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(work)
}

fn prepared(scenario: &Scenario) -> (Site, Vec<String>) {
    let site = Site::new();
    site.world.0.lock().folders.insert("/plain/there".to_owned(), (None, "somebody's".to_owned()));
    let before = process(async {
        let control = site.open().await;
        for intent in &scenario.setup {
            let actor =
                if matches!(intent, Intent::Attach { attachment: AttachmentKind::Docker { .. }, .. }) { Actor::Docker } else { ROOT };
            control.apply(&actor, intent.clone()).await.unwrap_or_else(|e| panic!("{}: setup: {e}", scenario.name));
        }
        let mut before = picture(&control).await;
        if matches!(scenario.change, Change::Reconcile) {
            // Its effect does not depend on who runs it, so the recovery has it too: only the state after is right.
            before.clear();
        }
        control.close().await;
        before
    });
    site.clock.forward(scenario.wait);
    (site, before)
}

/// How many steps the scenario has, and what it comes to.
fn rehearse(scenario: &Scenario) -> (usize, Vec<String>) {
    let (site, _) = prepared(scenario);
    process(async {
        let (counter, faults) = Counter::at(usize::MAX, Fate::Go);
        let control = site.open_with(faults).await;
        let opening = counter.seen.load(Ordering::SeqCst);
        scenario.run(&control).await.unwrap_or_else(|e| panic!("{}: {e}", scenario.name));
        let steps = counter.seen.load(Ordering::SeqCst);
        assert!(steps > opening + 1, "{}: a change has steps", scenario.name);
        let after = picture(&control).await;
        in_accord(&site, &control, scenario.name).await;
        (steps, after)
    })
}

/// How many steps there are before the change begins.
fn opening_steps(scenario: &Scenario) -> usize {
    let (site, _) = prepared(scenario);
    process(async {
        let (counter, faults) = Counter::at(usize::MAX, Fate::Go);
        let control = site.open_with(faults).await;
        let steps = counter.seen.load(Ordering::SeqCst);
        control.close().await;
        steps
    })
}

/// Dies at a step of opening or of the change. Gives whether it lived to the end.
fn die_at(site: &Site, scenario: &Scenario, step: usize) {
    process(async {
        let (counter, faults) = Counter::at(step, Fate::Die);
        tokio::select! {
            () = counter.dead() => {}
            _ = async { let control = site.open_with(faults).await; scenario.run(&control).await } => {
                panic!("{}: step {step} was not reached", scenario.name)
            }
        }
    });
}

async fn in_accord(site: &Site, control: &Control, context: &str) {
    let volumes = control.volumes(VolumeFilter { include_removed: true, with_usage: false }).await.unwrap();
    site.world.assert_respected();
    let status = control.status().await.unwrap();
    assert_eq!(status.volumes.purging, 0, "{context}: half deleted");
    {
        let state = site.world.0.lock();
        let with_bytes: BTreeSet<_> = state.bytes.keys().copied().collect();
        let known: BTreeSet<_> = volumes.iter().filter(|v| v.kind == VolumeKind::Chunked).map(|v| v.id).collect();
        assert_eq!(state.folders.get("/plain/there"), Some(&(None, "somebody's".to_owned())), "{context}: not Orlop's to touch");
        let made: BTreeSet<_> = state.folders.values().filter_map(|(maker, _)| *maker).collect();
        let plain = |s| volumes.iter().filter(move |v| v.kind == VolumeKind::Plain && !v.adopted && v.state == s).map(|v| v.id);
        assert_eq!(made, plain(VolumeState::Active).collect(), "{context}: a folder without a volume, or a volume without a folder");
        assert_eq!(state.trash.keys().copied().collect::<BTreeSet<_>>(), plain(VolumeState::Removed).collect(), "{context}: trash");
        for v in volumes.iter().filter(|v| v.kind == VolumeKind::Plain && v.state == VolumeState::Active) {
            assert!(v.folder.as_ref().is_some_and(|f| f.ends_with(v.name.as_str()) && state.folders.contains_key(f)), "{context}: {v:?}");
        }
        assert_eq!(with_bytes, known, "{context}: bytes without a volume, or a volume without bytes");
        for v in &volumes {
            assert_ne!(v.state, VolumeState::Purging);
            let mounted = state.mounted.get(&v.id);
            assert_eq!(mounted.is_some(), !v.attachments.is_empty(), "{context}: {} mounted for nobody, or held and not mounted", v.name);
            let Some(mounted) = mounted else { continue };
            let binds: BTreeMap<_, _> = mounted.binds.iter().map(|b| (b.path.clone(), b.read_only)).collect();
            let wanted: BTreeMap<_, _> = v
                .attachments
                .iter()
                .filter_map(|a| match &a.kind {
                    AttachmentKind::Directory { path, read_only } => Some((path.clone(), *read_only)),
                    _ => None,
                })
                .collect();
            assert_eq!(binds, wanted, "{context}: binds");
            assert_eq!(state.quotas[&v.id], v.options.size.map(|s| s.0), "{context}: the worker has another quota");
        }
    }
    let report = control.audit().verify().await.unwrap();
    assert!(report.is_intact(), "{context}: {:?}", report.breaks);
    let events = control.audit().list(&AuditFilter { limit: Some(usize::MAX), ..AuditFilter::default() }).await.unwrap();
    let mut ends: BTreeMap<u64, usize> = BTreeMap::new();
    for e in &events {
        *ends.entry(e.change).or_default() += usize::from(e.phase != AuditPhase::Start);
    }
    for (change, ends) in ends {
        assert_eq!(ends, 1, "{context}: change {change} has {ends} ends: {events:#?}");
    }
}

/// What a new process makes of what the dead one left.
fn recovered(site: &Site, context: &str, before: &[String], after: &[String]) {
    process(async {
        let control = site.open().await;
        let report = control.reconcile().await;
        assert_eq!(report.failed, Vec::<String>::new(), "{context}");
        in_accord(site, &control, context).await;
        let now = picture(&control).await;
        assert!(now == before || now == after, "{context}: neither before nor after:\n{now:#?}\nbefore {before:#?}\nafter {after:#?}");
        let again = control.reconcile().await;
        assert_eq!((again.done, again.failed), (vec![], vec![]), "{context}: a second reconciliation has nothing to do");
    });
}

#[test]
fn a_kill_at_any_step_is_finished_or_undone() {
    for scenario in scenarios() {
        let (steps, after) = rehearse(&scenario);
        for step in 0..steps {
            let (site, before) = prepared(&scenario);
            die_at(&site, &scenario, step);
            let context = format!("{}, killed at step {step} of {steps}", scenario.name);
            recovered(&site, &context, &before, &after);
            // The one who asked got no answer and asks again.
            process(async {
                let control = site.open().await;
                let again = scenario.run(&control).await;
                let now = picture(&control).await;
                assert!(again.is_err() || now == after, "{context}, asked again: {again:?} {now:#?}");
                assert!(again.is_ok() || now == after, "{context}, asked again: it is refused, but was not done: {again:?}");
                in_accord(&site, &control, &context).await;
            });
        }
    }
}

#[test]
fn a_kill_at_any_step_of_the_recovery_is_recovered_too() {
    // Those whose recovery has most to do.
    for scenario in scenarios().into_iter().filter(|s| {
        [
            "create",
            "attach folder",
            "detach folder",
            "remove now",
            "set while mounted",
            "plain create",
            "plain remove",
            "plain restore",
            "shrink",
        ]
        .contains(&s.name)
    }) {
        let (steps, after) = rehearse(&scenario);
        for step in opening_steps(&scenario)..steps {
            for second in 0.. {
                let (site, before) = prepared(&scenario);
                die_at(&site, &scenario, step);
                let died = process(async {
                    let (counter, faults) = Counter::at(second, Fate::Die);
                    tokio::select! {
                        biased;
                        () = counter.dead() => true,
                        _ = async { let control = site.open_with(faults).await; control.reconcile().await } => false,
                    }
                });
                let context = format!("{}, killed at step {step}, then at step {second} of the recovery", scenario.name);
                recovered(&site, &context, &before, &after);
                if !died {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_failure_at_any_step_leaves_the_state_before_or_after() {
    for scenario in scenarios() {
        let (steps, after) = rehearse(&scenario);
        for step in opening_steps(&scenario)..steps {
            let (site, before) = prepared(&scenario);
            process(async {
                let (counter, faults) = Counter::at(step, Fate::Fail);
                let control = site.open_with(faults).await;
                let outcome = scenario.run(&control).await;
                assert!(counter.hit.load(Ordering::SeqCst), "{}: step {step} was not reached", scenario.name);
                let context = format!("{}, failing at step {step} of {steps}, which gave {outcome:?}", scenario.name);
                if outcome.is_err() && scenario.name.starts_with("attach") {
                    assert_eq!(picture(&control).await, before, "{context}: a failed attach leaves nothing behind");
                }
                // Past the patience with what failed once.
                site.clock.forward(Duration::from_secs(20));
                let report = control.reconcile().await;
                assert_eq!(report.failed, Vec::<String>::new(), "{context}");
                in_accord(&site, &control, &context).await;
                let now = picture(&control).await;
                assert!(now == before || now == after, "{context}: neither before nor after:\n{now:#?}");
                assert!(outcome.is_err() || now == after, "{context}: told that it is done, but it is not");
            });
        }
    }
}
