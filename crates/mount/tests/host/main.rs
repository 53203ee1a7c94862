//! Real mounts through the real kernel: files in a process of its own, then keeper and workers as processes that are
//! killed. Every test is root's, makes its own root folder, and leaves no mount, process or file behind.

mod attach;
mod away;
mod binds;
mod busy;
mod fast;
mod files;
mod harness;
mod keeper_killed;
mod quiet;
mod seek;
mod stuck;
mod sys;
mod worker_killed;

/// Not a test: the keeper process that the tests start, this very program with another entry.
#[test]
#[ignore = "the keeper of the other tests, which start it"]
fn keeper_process() {
    harness::be_keeper();
}

/// Not a test: the worker process that the keeper starts.
#[test]
#[ignore = "the worker of the other tests, which their keeper starts"]
fn worker_process() {
    harness::be_worker();
}

/// A test file that is not named above would never run.
#[test]
fn every_file_of_tests_is_part_of_this_program() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host");
    let text = std::fs::read_to_string(dir.join("main.rs")).expect("this file");
    for entry in std::fs::read_dir(dir).expect("lists") {
        let name = entry.expect("entry").file_name().into_string().expect("a plain name");
        let module = name.trim_end_matches(".rs");
        assert!(module == "main" || text.contains(&format!("mod {module};")), "{name} is not part of main.rs");
    }
}
