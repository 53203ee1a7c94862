//! Generated operations on the model and on chunkfs: every answer, attribute and byte is compared, across lives.

use orlop_sim::posix::op::{Op, Taste, generate};
use orlop_sim::posix::run::{run, shrink};
use orlop_sim::scale;

fn search(seeds: std::ops::Range<u64>, taste: Taste) {
    for seed in seeds {
        let ops = generate(seed, taste);
        if let Err(failure) = run(&ops, seed) {
            let (least, failure) = shrink(&ops, seed, &failure);
            panic!("seed {seed}: {}\nafter these operations:\n{}", failure.why, literal(&least));
        }
    }
}

/// The list as it stands in a test.
fn literal(ops: &[Op]) -> String {
    ops.iter().map(|op| format!("    Op::{op:?},\n")).collect()
}

#[test]
fn generated_operations_answer_as_the_model_says() {
    search(0..400 * scale(), Taste { ops: 120, ends: false, reach: 40_000 });
}

#[test]
fn generated_operations_survive_reopening_killing_and_power_failure() {
    search(10_000..10_000 + 300 * scale(), Taste { ops: 120, ends: true, reach: 40_000 });
}

#[test]
fn generated_operations_on_large_sparse_files_agree() {
    search(20_000..20_000 + 120 * scale(), Taste { ops: 100, ends: true, reach: 3 << 20 });
}
