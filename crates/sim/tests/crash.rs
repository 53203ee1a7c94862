//! The crash matrix: every script, struck at every step, in every way; and the proof that it would see a bug.

use orlop_sim::crash::{End, Plan, Workload, examine, steps_of, workloads};
use orlop_sim::scale;
use orlop_sim::world::{Fault, Loss};

fn script(name: &str) -> Workload {
    workloads().into_iter().find(|w| w.name == name).unwrap_or_else(|| panic!("no script {name}"))
}

/// Strikes a script at every step in every way; panics with all broken promises.
fn strike(name: &str) {
    let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_writer(std::io::stderr).try_init();
    let workload = script(name);
    let steps = steps_of(&workload).unwrap_or_else(|why| panic!("{name}, undisturbed: {why}"));
    assert!(steps > 20, "{name} takes only {steps} steps");
    let (mut broken, mut cells, mut met) = (Vec::new(), 0u64, 0u64);
    for n in 1..=steps {
        for round in 0..scale() {
            let seed = n * 1000 + round;
            for plan in plans(n, steps, seed) {
                cells += 1;
                match examine(&workload, &plan) {
                    Ok(outcome) => met += u64::from(outcome.hit),
                    Err(why) => {
                        broken.push(format!("{:?} {:?} seed {seed} recovery {:?}: {why}", plan.fault, plan.end, plan.strike_recovery))
                    }
                }
            }
        }
    }
    println!("{name}: {steps} steps, {cells} cells, {met} struck");
    let shown: Vec<&String> = broken.iter().take(12).collect();
    assert!(
        broken.is_empty(),
        "{name}: {} of {cells} cells break a promise:\n{}",
        broken.len(),
        shown.iter().map(|s| s.as_str()).collect::<Vec<_>>().join("\n")
    );
    assert!(met * 10 >= cells * 8, "{name}: only {met} of {cells} faults were met");
}

fn plans(n: u64, steps: u64, seed: u64) -> Vec<Plan> {
    let later = n + 1 + seed % 7;
    let struck = |plan: Plan, at: u64| Plan { strike_recovery: Some(at), ..plan };
    let mut all = vec![
        Plan::new(Some(Fault::Freeze(n)), End::Kill, seed),
        Plan::new(Some(Fault::Freeze(n)), End::Power(Loss::Everything), seed),
        Plan::new(Some(Fault::Freeze(n)), End::Power(Loss::Any), seed),
        Plan::new(Some(Fault::Freeze(n)), End::Power(Loss::Tail), seed),
        Plan::new(Some(Fault::FailOnce(n, libc::EIO)), End::Kill, seed),
        Plan::new(Some(Fault::FailOnce(n, libc::ENOSPC)), End::Power(Loss::Any), seed),
        Plan::new(Some(Fault::FailFrom(n, libc::ENOSPC)), End::Kill, seed),
    ];
    if later <= steps {
        all.push(Plan::new(Some(Fault::FailThenFreeze(n, libc::ENOSPC, later)), End::Kill, seed));
        all.push(Plan::new(Some(Fault::FailThenFreeze(n, libc::EIO, later)), End::Power(Loss::Any), seed));
    }
    all.push(match n % 2 {
        0 => struck(Plan::new(Some(Fault::Freeze(n)), End::Kill, seed), 1 + seed % 9),
        _ => struck(Plan::new(Some(Fault::Freeze(n)), End::Power(Loss::Any), seed), 1 + seed % 9),
    });
    all
}

macro_rules! matrix {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            strike(stringify!($name));
        })*

        #[test]
        fn every_script_has_its_test() {
            let tested = [$(stringify!($name)),*];
            for w in workloads() {
                assert!(tested.contains(&w.name), "{} is not tested", w.name);
            }
        }
    };
}

matrix![
    small_appends_synced_one_by_one,
    replace_by_rename,
    overwrite_in_place,
    folded_and_reopened,
    names_of_every_kind,
    holes_and_ends,
    deleted_and_collected,
    a_database_of_pages,
    generated,
];
