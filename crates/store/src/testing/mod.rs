//! What every backend owes: one suite of named cases, run by each backend's test, and by whoever writes another.
//!
//! A case gets an empty store and returns what it saw wrong. `orlop_store::testing::run(make).await` runs them all,
//! each on a store of its own, and panics with the names of those that failed.
//!
//! [`S3Server`] is a real server to run it on, [`FaultProxy`] stands between a client and a server and breaks things.

mod cases;
mod proxy;
mod server;

pub use proxy::{Fault, FaultProxy, Faults, Rule, Seen};
pub use server::{ACCESS_KEY, S3Server, SECRET_KEY};

use futures::future::BoxFuture;
use object_store::ObjectStore;
use std::sync::Arc;

/// What a case found: nothing, or what was wrong.
pub type Verdict = Result<(), String>;

type Body = fn(Arc<dyn ObjectStore>) -> BoxFuture<'static, Verdict>;

/// The suite: each case's name, which is the property it checks, and its body.
pub fn cases() -> Vec<(&'static str, Body)> {
    cases::all()
}

/// Runs the suite; `make` gives an empty store each time. Panics with every failure.
pub async fn run(make: impl FnMut() -> Arc<dyn ObjectStore>) {
    run_without(&[], make).await;
}

/// Runs the suite but for these cases, each with the reason why a backend is excused, which is printed.
///
/// # Panics
/// With every failure, and if there is no case of a name.
pub async fn run_without(excused: &[(&str, &str)], mut make: impl FnMut() -> Arc<dyn ObjectStore>) {
    let all = cases();
    for (name, _) in excused {
        assert!(all.iter().any(|(n, _)| n == name), "there is no case {name}");
    }
    let (mut ran, mut failures) = (0, Vec::new());
    for (name, body) in all {
        if let Some((_, why)) = excused.iter().find(|(n, _)| *n == name) {
            println!("skipped {name}: {why}");
            continue;
        }
        ran += 1;
        if let Err(why) = body(make()).await {
            failures.push(format!("{name}: {why}"));
        }
    }
    assert!(failures.is_empty(), "{} of {ran} cases failed:\n{}", failures.len(), failures.join("\n"));
}
