//! Control as a whole: a real registry and a real journal in a temporary root, with a strict fake host behind the ports.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod adopt;
mod attachments;
mod audit;
mod authority;
mod crash;
mod keys;
mod lifecycle;
mod options;
mod plain;
mod reconcile;
mod registry;
mod stores;
mod world;

/// A file that nobody registered above would never be run.
#[test]
fn every_test_file_is_registered() {
    let main = include_str!("main.rs");
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/control");
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let stem = name.trim_end_matches(".rs");
        assert!(stem == "main" || main.contains(&format!("mod {stem};")), "{name} is not registered in main.rs");
    }
}
