//! The scripts: what a writer does while its log is under way.

use crate::crash;
use crate::posix::op::{At, Op};
use crate::rng::Rng;
use orlop_chunkfs::{FileKind, RenameMode};

/// One line of a script.
#[derive(Debug, Clone)]
pub(super) enum Line {
    /// Done, and its answer awaited.
    Do(Op),
    /// An fsync that nobody waits for yet: the next lines go on while it is under way.
    SyncMeanwhile,
}

/// A named script.
#[derive(Debug, Clone)]
pub struct Script {
    /// What it is about.
    pub name: &'static str,
    pub(super) lines: Vec<Line>,
}

fn file(at: &[u8]) -> Line {
    Line::Do(Op::Make { at: at.to_vec(), kind: FileKind::File, perm: 0o644 })
}

fn dir(at: &[u8]) -> Line {
    Line::Do(Op::MakeDir { at: at.to_vec(), perm: 0o755 })
}

fn write(at: &[u8], offset: u64, len: usize, fill: u8) -> Line {
    Line::Do(Op::Write { at: At::Path(at.to_vec()), offset, len, fill })
}

fn fsync(at: &[u8]) -> Line {
    Line::Do(Op::Fsync { at: At::Path(at.to_vec()) })
}

fn rename(from: &[u8], to: &[u8]) -> Line {
    Line::Do(Op::Rename { from: from.to_vec(), to: to.to_vec(), mode: RenameMode::Replace })
}

fn unlink(at: &[u8]) -> Line {
    Line::Do(Op::Unlink { at: at.to_vec() })
}

/// All scripts.
pub fn scripts() -> Vec<Script> {
    vec![
        Script { name: "syncs_under_way_together", lines: together() },
        Script { name: "folds_between_syncs", lines: folds() },
        Script { name: "opened_again_and_again", lines: reopened() },
        Script { name: "replaced_by_rename_and_removed", lines: replaced() },
        Script { name: "died_before_it_was_sent", lines: died_unsent() },
    ]
}

/// A script by chance: operations of every kind, with fsyncs that are under way while others go on.
pub fn generated(seed: u64) -> Script {
    let mut rng = Rng::new(seed);
    let mut lines = Vec::new();
    for op in crash::generated(seed).ops {
        match op {
            Op::Fsync { .. } | Op::SyncAll if rng.below(2) == 0 => lines.push(Line::SyncMeanwhile),
            op => lines.push(Line::Do(op)),
        }
        match rng.below(20) {
            0 | 1 => lines.push(Line::SyncMeanwhile),
            2 => lines.push(Line::Do(Op::Compact)),
            _ => {}
        }
    }
    Script { name: "generated", lines }
}

/// Several log objects under way at once.
fn together() -> Vec<Line> {
    let mut lines = vec![file(&[0]), write(&[0], 0, 5000, 1), Line::SyncMeanwhile];
    for i in 0..6u8 {
        lines.extend([write(&[0], u64::from(i) * 3000, 3500, 10 + i), Line::SyncMeanwhile]);
        if i == 2 {
            lines.extend([file(&[1]), write(&[1], 0, 9000, 3), fsync(&[1])]);
        }
    }
    lines.extend([write(&[1], 4096, 100, 77), fsync(&[0]), write(&[0], 1, 1, 99)]);
    lines
}

/// Rows and packs go while records are under way, small writes into what is packed follow.
fn folds() -> Vec<Line> {
    let mut lines = vec![dir(&[3]), file(&[3, 0]), write(&[3, 0], 0, 40_000, 1), Line::SyncMeanwhile];
    for i in 1..4u8 {
        lines.extend([
            file(&[3, i]),
            write(&[3, i], 0, 4096 * usize::from(i) + 11, i),
            Line::SyncMeanwhile,
            Line::Do(Op::Compact),
            write(&[3, 0], u64::from(i) * 5000, 600, 40 + i),
            fsync(&[3, 0]),
        ]);
    }
    lines.extend([Line::Do(Op::Idle), write(&[3, 0], 3, 5, 60)]);
    lines
}

/// Openings on the same host, after a death and after a clean end.
fn reopened() -> Vec<Line> {
    let mut lines = vec![file(&[0]), write(&[0], 0, 20_000, 1)];
    for (i, end) in [Op::Kill, Op::Reopen, Op::Kill].into_iter().enumerate() {
        let fill = 10 + i as u8;
        lines.extend([write(&[0], 100, 5000, fill), fsync(&[0]), write(&[0], 6000, 200, fill + 40), Line::Do(end)]);
    }
    lines.extend([write(&[0], 30_000, 10, 5), fsync(&[0])]);
    lines
}

/// Segments that are made and die before anything of them is sent, with small writes to what they held.
fn died_unsent() -> Vec<Line> {
    let mut lines = vec![file(&[0]), write(&[0], 0, 5000, 1), fsync(&[0]), Line::Do(Op::Idle)];
    for i in 0..3u8 {
        lines.extend([file(&[1]), write(&[1], 0, 12_288, 10 + i), write(&[1], 100, 50, 20 + i)]);
        lines.extend([Line::Do(Op::Truncate { at: At::Path(vec![1]), size: 0 }), file(&[2])]);
        lines.push(Line::Do([Op::Compact, Op::Idle, Op::Compact][usize::from(i)].clone()));
        lines.extend([write(&[0], 0, 50, 30 + i), fsync(&[0]), unlink(&[1]), unlink(&[2])]);
    }
    lines
}

fn replaced() -> Vec<Line> {
    let mut lines = vec![dir(&[3]), file(&[3, 0]), write(&[3, 0], 0, 9000, 1), Line::Do(Op::SyncAll)];
    for i in 0..4u8 {
        lines.extend([
            file(&[3, 1]),
            write(&[3, 1], 0, 5000 + usize::from(i) * 1000, i + 10),
            Line::SyncMeanwhile,
            rename(&[3, 1], &[3, 0]),
        ]);
        if i % 2 == 1 {
            lines.extend([Line::Do(Op::Idle), fsync(&[3])]);
        }
    }
    lines.extend([unlink(&[3, 0]), fsync(&[3]), file(&[0]), write(&[0], 0, 100, 9)]);
    lines
}
