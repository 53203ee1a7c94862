//! The scripts: short lists of operations, each around one thing that could be done in a wrong order.

use crate::posix::op::{At, Op, Taste, generate};
use orlop_chunkfs::{Allocate, FileKind, RenameMode, XattrMode};

/// A named script.
#[derive(Debug, Clone)]
pub struct Workload {
    /// What it is about.
    pub name: &'static str,
    /// What is done.
    pub ops: Vec<Op>,
}

fn file(at: &[u8]) -> Op {
    Op::Make { at: at.to_vec(), kind: FileKind::File, perm: 0o644 }
}

fn dir(at: &[u8]) -> Op {
    Op::MakeDir { at: at.to_vec(), perm: 0o755 }
}

fn write(at: &[u8], offset: u64, len: usize, fill: u8) -> Op {
    Op::Write { at: At::Path(at.to_vec()), offset, len, fill }
}

fn fsync(at: &[u8]) -> Op {
    Op::Fsync { at: At::Path(at.to_vec()) }
}

fn rename(from: &[u8], to: &[u8]) -> Op {
    Op::Rename { from: from.to_vec(), to: to.to_vec(), mode: RenameMode::Replace }
}

fn unlink(at: &[u8]) -> Op {
    Op::Unlink { at: at.to_vec() }
}

fn truncate(at: &[u8], size: u64) -> Op {
    Op::Truncate { at: At::Path(at.to_vec()), size }
}

fn allocate(at: &[u8], offset: u64, len: u64, how: Allocate) -> Op {
    Op::Allocate { at: At::Path(at.to_vec()), offset, len, how }
}

/// All scripts.
pub fn workloads() -> Vec<Workload> {
    vec![
        Workload { name: "small_appends_synced_one_by_one", ops: appends() },
        Workload { name: "replace_by_rename", ops: replace_by_rename() },
        Workload { name: "overwrite_in_place", ops: overwrite_in_place() },
        Workload { name: "folded_and_reopened", ops: folded_and_reopened() },
        Workload { name: "names_of_every_kind", ops: names() },
        Workload { name: "holes_and_ends", ops: holes_and_ends() },
        Workload { name: "deleted_and_collected", ops: deleted_and_collected() },
        Workload { name: "died_between_two_folds", ops: died_between_two_folds() },
        Workload { name: "died_before_any_sync", ops: died_before_any_sync() },
        Workload { name: "trimmed_where_it_lies", ops: trimmed() },
        Workload { name: "a_database_of_pages", ops: database() },
        Workload { name: "generated", ops: generated(77).ops },
    ]
}

/// A log: short writes at the end, a sync after each third.
fn appends() -> Vec<Op> {
    let mut ops = vec![file(&[0]), fsync(&[0])];
    let mut at = 0;
    for i in 0..24u8 {
        let len = 100 + usize::from(i) * 397;
        ops.push(write(&[0], at, len, i + 1));
        at += len as u64;
        if i % 3 == 2 {
            ops.push(fsync(&[0]));
        }
    }
    ops
}

/// What editors and package managers do: write beside, sync, rename over.
fn replace_by_rename() -> Vec<Op> {
    let mut ops = vec![dir(&[3]), file(&[3, 0]), write(&[3, 0], 0, 9000, 1), Op::SyncAll];
    for i in 0..6u8 {
        ops.extend([file(&[3, 1]), write(&[3, 1], 0, 5000 + usize::from(i) * 1000, i + 10), fsync(&[3, 1]), rename(&[3, 1], &[3, 0])]);
        if i == 3 {
            ops.push(Op::Idle);
        }
    }
    ops.push(fsync(&[3]));
    ops
}

fn overwrite_in_place() -> Vec<Op> {
    let mut ops = vec![file(&[0]), write(&[0], 0, 40_960, 1), fsync(&[0]), Op::Idle];
    for i in 0..8u8 {
        ops.push(write(&[0], u64::from(i) * 4096, 8192, 20 + i));
        ops.push(write(&[0], u64::from(i) * 5000 + 17, 60, 40 + i));
        if i % 4 == 3 {
            ops.push(fsync(&[0]));
        }
    }
    ops.push(Op::Idle);
    ops.push(write(&[0], 1, 3, 99));
    ops
}

/// Folds and openings between changes, so that every step of both is struck.
fn folded_and_reopened() -> Vec<Op> {
    let mut ops = vec![dir(&[3])];
    for i in 0..5u8 {
        ops.extend([file(&[3, i]), write(&[3, i], 0, 4096 * usize::from(i + 1) + 11, i + 1), write(&[3, 0], 3, 5, 60 + i)]);
        ops.push([Op::Reopen, Op::Idle, Op::SyncAll, Op::Reopen, Op::Kill][usize::from(i)].clone());
    }
    ops.extend([unlink(&[3, 1]), Op::Reopen, write(&[3, 2], 0, 100, 77), Op::Kill, write(&[3, 3], 0, 100, 78)]);
    ops
}

fn names() -> Vec<Op> {
    let mut ops = vec![dir(&[3]), dir(&[3, 4]), file(&[0]), Op::Symlink { at: vec![1], target: b"a/b".to_vec() }];
    ops.extend([
        Op::Make { at: vec![2], kind: FileKind::Fifo, perm: 0o600 },
        Op::Make { at: vec![4], kind: FileKind::CharDevice, perm: 0o600 },
        Op::Link { of: At::Path(vec![0]), at: vec![3, 0] },
        Op::SyncAll,
        Op::SetXattr { at: At::Path(vec![0]), name: 1, len: 3000, mode: XattrMode::Any },
        Op::Chmod { at: At::Path(vec![0]), perm: 0o4711 },
        Op::Rename { from: vec![3, 4], to: vec![5], mode: RenameMode::Replace },
        Op::Rename { from: vec![5], to: vec![0], mode: RenameMode::Exchange },
        fsync(&[3]),
        Op::Rename { from: vec![1], to: vec![2], mode: RenameMode::Replace },
        Op::RemoveDir { at: vec![0] },
        Op::Hold { at: vec![3, 0], slot: 0 },
        unlink(&[3, 0]),
        unlink(&[5]),
        Op::Write { at: At::Slot(0), offset: 0, len: 100, fill: 5 },
        Op::Drop { slot: 0 },
        Op::Idle,
        Op::RemoveXattr { at: At::Path(vec![2]), name: 1 },
        rename(&[2], &[3, 7]),
        Op::SyncAll,
        Op::Chown { at: At::Path(vec![3, 7]), uid: 7, gid: 8 },
    ]);
    ops
}

fn holes_and_ends() -> Vec<Op> {
    vec![
        file(&[0]),
        write(&[0], 10_000, 30_000, 1),
        fsync(&[0]),
        truncate(&[0], 20_001),
        truncate(&[0], 60_000),
        write(&[0], 59_000, 500, 2),
        Op::Idle,
        allocate(&[0], 12_000, 9000, Allocate::PunchHole),
        fsync(&[0]),
        allocate(&[0], 50_000, 40_000, Allocate::Reserve { keep_size: false }),
        write(&[0], 70_000, 100, 3),
        allocate(&[0], 69_000, 3000, Allocate::ZeroRange { keep_size: true }),
        write(&[0], 1 << 21, 6000, 4),
        truncate(&[0], 15_000),
        Op::Reopen,
        write(&[0], 14_999, 3, 5),
        truncate(&[0], 0),
        write(&[0], 4000, 200, 6),
        fsync(&[0]),
    ]
}

/// Segments that die and are emptied while new ones are written.
fn deleted_and_collected() -> Vec<Op> {
    let mut ops = Vec::new();
    for i in 0..4u8 {
        ops.extend([file(&[i]), write(&[i], 0, 50_000, i + 1)]);
    }
    ops.extend([Op::Reopen, unlink(&[0]), unlink(&[1]), write(&[2], 8192, 4096, 9), Op::Compact]);
    ops.extend([file(&[0]), write(&[0], 0, 20_000, 10), fsync(&[0]), Op::Reopen, Op::Compact, unlink(&[3]), Op::Idle]);
    ops.extend([write(&[0], 4096, 12_288, 11), Op::Reopen, write(&[2], 0, 10, 12), Op::Compact, Op::Idle]);
    ops
}

/// Segments that are made and die before a fold knows of them, with small writes to what they held: until one is done, every opening
/// needs them.
fn died_between_two_folds() -> Vec<Op> {
    let mut ops = vec![file(&[0]), Op::Idle];
    for i in 0..3u8 {
        ops.extend([write(&[0], 0, 12_288, i + 1), write(&[0], 100, 50, i + 11), Op::Kill]);
        ops.extend([write(&[0], 0, 12_288, i + 21), write(&[0], 9000, 50, i + 31), Op::SyncAll, Op::Kill]);
        ops.extend([write(&[0], 0, 12_288, i + 41), Op::Idle, write(&[0], 5000, 50, i + 51)]);
    }
    ops
}

/// The same without any sync from their making to their end: what is made durable reads from them all the same.
fn died_before_any_sync() -> Vec<Op> {
    let mut ops = vec![file(&[0]), Op::Idle];
    for i in 0..3u8 {
        ops.extend([file(&[1]), write(&[1], 0, 12_288, i + 11), write(&[1], 100, 50, i + 21), truncate(&[1], 0), unlink(&[1])]);
        ops.extend([file(&[2]), Op::Idle, unlink(&[2])]);
        ops.push([fsync(&[0]), Op::Kill, Op::Idle][usize::from(i)].clone());
    }
    ops
}

/// Garbage that goes back to the disk between blocks that stay, some of it only just made.
fn trimmed() -> Vec<Op> {
    let mut ops = Vec::new();
    for i in 0..4u8 {
        ops.extend([file(&[i]), write(&[i], 0, 50_000, i + 1)]);
    }
    ops.extend([Op::Reopen, write(&[0], 4096, 12_288, 5), unlink(&[1]), truncate(&[2], 20_001), write(&[3], 9000, 100, 6), Op::Trim]);
    ops.extend([write(&[0], 30_000, 8192, 7), write(&[3], 9050, 100, 8), fsync(&[3]), write(&[2], 4096, 4096, 9), Op::Trim, Op::SyncAll]);
    ops.extend([write(&[0], 0, 4096, 10), unlink(&[3]), Op::Reopen, write(&[0], 5, 4, 11), Op::Trim, write(&[2], 0, 8192, 12), Op::Trim]);
    ops.extend([file(&[1]), write(&[1], 0, 20_000, 13), fsync(&[1]), write(&[0], 8192, 4096, 14), Op::Idle, Op::Trim]);
    ops
}

/// Pages of 8 KiB at random places and a log that is synced before them.
fn database() -> Vec<Op> {
    let mut ops = vec![file(&[0]), file(&[1]), write(&[0], 0, 65_536, 1), Op::SyncAll];
    for i in 0..7u8 {
        ops.extend([
            write(&[1], u64::from(i) * 512, 512, 100 + i),
            fsync(&[1]),
            write(&[0], u64::from(i * 3 % 8) * 8192, 8192, 30 + i),
            write(&[0], u64::from(i * 5 % 8) * 8192, 8192, 50 + i),
        ]);
    }
    ops.extend([fsync(&[0]), truncate(&[1], 0), fsync(&[1]), write(&[1], 0, 512, 200)]);
    ops
}

/// One that nobody wrote: another for each seed.
pub fn generated(seed: u64) -> Workload {
    let mut ops = generate(seed, Taste { ops: 70, ends: true, reach: 30_000 });
    ops.retain(|op| !matches!(op, Op::SyncAndCutPower | Op::Totals | Op::Read { .. } | Op::Attr { .. } | Op::List { .. }));
    Workload { name: "generated", ops }
}
