//! Defects that were found, each as the shortest list of operations that showed it. One that is not mended yet is marked ignored.

use orlop_chunkfs::FileKind;
use orlop_sim::posix::op::{At, Op};
use orlop_sim::posix::run::run;

/// The namespace's database insists that the host's clock never steps back between two openings. After a minute
/// has passed in one life and the next life's clock is behind it, no fold succeeds and the volume never closes.
#[test]
fn regression_a_clock_that_steps_back_does_not_stop_folding() {
    let ops = [
        Op::Make { at: vec![0], kind: FileKind::File, perm: 0o644 },
        Op::Write { at: At::Path(vec![0]), offset: 0, len: 100, fill: 1 },
        Op::Idle,
        Op::Kill,
        Op::Write { at: At::Path(vec![0]), offset: 0, len: 100, fill: 2 },
        Op::Reopen,
    ];
    run(&ops, 1).expect("folds and closes");
}
