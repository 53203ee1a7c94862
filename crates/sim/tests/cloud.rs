//! The crash matrix of a volume whose home is the store: lost hosts, deaths, power failures and takeovers at every step,
//! and the proof that it would see a bug.

use orlop_sim::cloud::{Pause, Plant, Script, Strike, generated, mutations_of, scripts, steps_of, strike, take_over};
use orlop_sim::rng::Rng;
use orlop_sim::world::{Rule, Step, Verdict, watch};
use orlop_sim::{scale, seed};
use std::collections::BTreeSet;
use std::sync::Arc;

fn script(name: &str) -> Script {
    scripts().into_iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no script {name}"))
}

/// Every step in a long run; in a short one every other, and the seeds still differ from step to step.
fn stride() -> usize {
    1
}

fn strike_everywhere(name: &str) {
    let script = script(name);
    let steps = steps_of(&script, 1).unwrap_or_else(|why| panic!("{name}, undisturbed: {why}"));
    assert!(steps > 20, "{name} takes only {steps} steps");
    let (mut broken, mut cells, mut met) = (Vec::new(), 0, 0);
    for n in (1..=steps).step_by(stride()) {
        for round in 0..scale() {
            let seed = n * 1000 + round;
            cells += 1;
            match strike(&script, &Strike { at: Some(n), seed, ..Strike::default() }) {
                Ok(hit) => met += u64::from(hit),
                Err(why) => broken.push(format!("step {n}, seed {seed}: {why}")),
            }
        }
    }
    println!("{name}: {steps} steps, {cells} cells of three ends, {met} struck");
    assert!(broken.is_empty(), "{name}: {} of {cells} cells break a promise:\n{}", broken.len(), first(&broken));
    assert!(met * 10 >= cells * 7, "{name}: only {met} of {cells} were struck");
}

fn first(broken: &[String]) -> String {
    broken.iter().take(8).cloned().collect::<Vec<_>>().join("\n")
}

macro_rules! matrix {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            strike_everywhere(stringify!($name));
        })*

        #[test]
        fn every_script_has_its_test() {
            let tested = [$(stringify!($name)),*];
            for s in scripts() {
                assert!(tested.contains(&s.name), "{} is not tested", s.name);
            }
        }
    };
}

matrix![syncs_under_way_together, folds_between_syncs, opened_again_and_again, replaced_by_rename_and_removed, died_before_it_was_sent];

fn pauses(n: u64) -> [Pause; 2] {
    [Pause::Before(n), Pause::After(n)]
}

#[test]
fn a_writer_that_was_succeeded_does_no_harm_and_answers_no_fsync() {
    let (mut broken, mut cells, mut met) = (Vec::new(), 0, 0);
    for name in ["syncs_under_way_together", "folds_between_syncs", "replaced_by_rename_and_removed"] {
        let script = script(name);
        let mutations = mutations_of(&script, 1).unwrap_or_else(|why| panic!("{name}, undisturbed: {why}"));
        for n in (1..=mutations).step_by(stride()) {
            for pause in pauses(n) {
                cells += 1;
                match take_over(&script, pause, n * 1000, None, None) {
                    Ok(hit) => met += u64::from(hit),
                    Err(why) => broken.push(format!("{name}, {pause:?}, seed {}: {why}", n * 1000)),
                }
            }
        }
    }
    println!("{cells} takeovers, {met} met");
    assert!(broken.is_empty(), "{} of {cells} takeovers break a promise:\n{}", broken.len(), first(&broken));
    assert!(met * 2 >= cells, "only {met} of {cells} were met");
}

/// Scripts by chance in a part, and crash points and pauses by chance in each.
const SCRIPTS: u64 = 40;
const POINTS: u64 = 12;
const PAUSES: u64 = 4;

/// Kinds of files and objects that must have been struck, whatever was done to them.
const THINGS: &[&str] = &["journal", ".segment", "/log/", "/packs/", "owner.json", "meta/manifest", "meta/compacted"];

/// One crash point again: `ORLOP_CASE=SCRIPT,STEP,SEED`, as a failure names it.
#[test]
fn one_by_chance() {
    let Ok(case) = std::env::var("ORLOP_CASE") else { return };
    let numbers: Vec<u64> = case.split(',').map(|n| n.parse().expect("numbers")).collect();
    let [from, step, seed] = numbers[..] else { panic!("ORLOP_CASE=SCRIPT,STEP,SEED") };
    let script = generated(from);
    println!("{script:#?}");
    strike(&script, &Strike { at: Some(step), seed, ..Strike::default() }).expect("all promises are kept");
}

/// Crash points and takeovers that no script has thought of; with another `ORLOP_SEED` others.
fn strike_by_chance(part: u64) {
    let mut rng = Rng::new(seed() * 2 + part + 77);
    let (mut broken, mut cells, mut met, mut taken) = (Vec::new(), 0u64, 0u64, 0u64);
    let mut struck: BTreeSet<&str> = BTreeSet::new();
    for _ in 0..SCRIPTS * scale() {
        let from = rng.below(u64::MAX);
        let script = generated(from);
        let steps = steps_of(&script, 1).unwrap_or_else(|why| panic!("script {from}, undisturbed: {why}"));
        for _ in 0..POINTS {
            let (n, seed) = (1 + rng.below(steps), rng.below(1 << 40));
            let (rule, shown) = watch(n);
            cells += 1;
            match strike(&script, &Strike { at: Some(n), seed, rule: Some(rule), ..Strike::default() }) {
                Ok(hit) => met += u64::from(hit),
                Err(why) => broken.push(format!("script {from}, step {n}, seed {seed}: {why}")),
            }
            let shown = shown.lock().take().unwrap_or_default();
            struck.extend(THINGS.iter().copied().filter(|thing| shown.contains(*thing)));
        }
        let mutations = mutations_of(&script, 1).unwrap_or_else(|why| panic!("script {from}, undisturbed: {why}"));
        for _ in 0..PAUSES {
            let (n, seed) = (1 + rng.below(mutations), rng.below(1 << 40));
            let pause = pauses(n)[rng.below(2) as usize];
            taken += 1;
            if let Err(why) = take_over(&script, pause, seed, None, None) {
                broken.push(format!("script {from}, {pause:?}, seed {seed}: {why}"));
            }
        }
    }
    println!("{cells} cells of three ends, {met} struck, {taken} takeovers; struck at {struck:?}");
    assert!(broken.is_empty(), "{} of {} break a promise:\n{}", broken.len(), cells + taken, first(&broken));
    assert!(met * 10 >= cells * 7, "only {met} of {cells} were struck");
    assert_eq!(struck.len(), THINGS.len(), "steps on some of {THINGS:?} were never struck: {struck:?}");
}

#[test]
fn by_chance_1() {
    strike_by_chance(1);
}

#[test]
fn by_chance_2() {
    strike_by_chance(2);
}

/// How a planted bug is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Strikes,
    Takeovers,
}

fn caught(by: By, plant: Option<Plant>, rule: Option<Rule>) -> Option<String> {
    for script in scripts() {
        if by == By::Strikes {
            let steps = steps_of(&script, 1).expect("undisturbed");
            // Undisturbed too: then only what comes after the end can tell.
            let cells = std::iter::once(None).chain((1..=steps).rev().step_by(3).map(Some));
            let found = cells.into_iter().find_map(|at| {
                let plan = Strike { at, seed: at.unwrap_or(0) * 1000, plant, rule: rule.clone() };
                strike(&script, &plan).err()
            });
            if let Some(why) = found {
                return Some(format!("{}: {why}", script.name));
            }
        } else if script.name != "opened_again_and_again" {
            let mutations = mutations_of(&script, 1).expect("undisturbed");
            let mut cells = (1..=mutations).rev().flat_map(pauses);
            if let Some(why) = cells.find_map(|p| take_over(&script, p, 5, plant, rule.clone()).err()) {
                return Some(format!("{}: {why}", script.name));
            }
        }
    }
    None
}

/// Bugs planted around chunkfs, each as if it had forgotten, misordered or dropped a step. All must be caught.
#[test]
fn planted_bugs_are_caught() {
    let skip = |matches: fn(&Step) -> bool| -> Option<Rule> {
        Some(Arc::new(move |step: &Step| if matches(step) { Verdict::Skip } else { Verdict::Do }))
    };
    let planted: Vec<(&str, By, Option<Plant>, Option<Rule>)> = vec![
        ("a log object counts before it arrived", By::Strikes, Some(Plant::AnsweredBeforeArrival), None),
        ("log objects count out of order", By::Strikes, Some(Plant::AnsweredOutOfOrder), None),
        ("recovery starts after objects that are not folded", By::Strikes, Some(Plant::LogStartsTooLate), None),
        ("rows name a pack before it is there", By::Strikes, Some(Plant::RowsBeforePack), None),
        ("the log is cut before the rows are there", By::Strikes, Some(Plant::LogCutBeforeRows), None),
        ("records travel without their data", By::Strikes, Some(Plant::DataLeftOut), None),
        ("the fence does not hold", By::Takeovers, Some(Plant::FenceDoesNotHold), None),
        ("nobody is asked who owns the volume", By::Takeovers, Some(Plant::NobodyIsAsked), None),
        (
            "the journal of a host that was succeeded still counts",
            By::Takeovers,
            None,
            skip(|s| matches!(s, Step::Rename(_, to) if to.contains(".superseded"))),
        ),
        (
            "the journal's records are not written",
            By::Strikes,
            None,
            skip(|s| matches!(s, Step::Write(p, at, _) if p.ends_with(".journal") && *at > 0)),
        ),
    ];
    let mut missed = Vec::new();
    for (name, by, plant, rule) in planted {
        match caught(by, plant, rule) {
            Some(why) => println!("{name}: caught by {}", why.chars().take(160).collect::<String>()),
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "not caught: {}", missed.join(", "));
}

/// Equal seeds give equal runs.
#[test]
fn equal_seeds_give_equal_runs() {
    for s in scripts() {
        let plan = Strike { at: Some(31), seed: 9, ..Strike::default() };
        assert_eq!(steps_of(&s, 4), steps_of(&s, 4), "{}", s.name);
        assert_eq!(strike(&s, &plan), strike(&s, &plan), "{}", s.name);
    }
}
