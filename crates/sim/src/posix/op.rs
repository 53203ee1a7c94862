//! Operations, and how they are generated: few names, so that they meet; sizes around the edges of blocks and chunks.
//!
//! An operation names its file by path or by a slot of held inodes, so that any operation can be left out of a list
//! and the rest still makes sense. That is what shrinking needs.

use crate::rng::Rng;
use orlop_chunkfs::{Allocate, FileKind, RenameMode, Seek, XattrMode};

/// A path from the root: indexes into [`NAMES`].
pub type Path = Vec<u8>;

/// The names that are used.
pub const NAMES: &[&[u8]] = &[b"a", b"b", b"c", b"d", b"e", b"name with space", b"\xff\xfe", b"long"];

/// Bytes of the name with this number; the last is as long as a name can be.
pub fn name(n: u8) -> Vec<u8> {
    let n = usize::from(n) % NAMES.len();
    if n == NAMES.len() - 1 { vec![b'x'; 255] } else { NAMES[n].to_vec() }
}

/// Which file: by path, or held in a slot whatever its name is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// By path.
    Path(Path),
    /// By slot.
    Slot(u8),
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    Make {
        at: Path,
        kind: FileKind,
        perm: u32,
    },
    MakeDir {
        at: Path,
        perm: u32,
    },
    Symlink {
        at: Path,
        target: Vec<u8>,
    },
    Link {
        of: At,
        at: Path,
    },
    Unlink {
        at: Path,
    },
    RemoveDir {
        at: Path,
    },
    Rename {
        from: Path,
        to: Path,
        mode: RenameMode,
    },
    /// Holds an inode in a slot, as an open file does.
    Hold {
        at: Path,
        slot: u8,
    },
    Drop {
        slot: u8,
    },
    Write {
        at: At,
        offset: u64,
        len: usize,
        fill: u8,
    },
    Read {
        at: At,
        offset: u64,
        len: usize,
    },
    Truncate {
        at: At,
        size: u64,
    },
    Chmod {
        at: At,
        perm: u32,
    },
    Chown {
        at: At,
        uid: u32,
        gid: u32,
    },
    Touch {
        at: At,
        sec: i64,
        nsec: u32,
    },
    Allocate {
        at: At,
        offset: u64,
        len: u64,
        how: Allocate,
    },
    SeekTo {
        at: At,
        offset: u64,
        what: Seek,
    },
    SetXattr {
        at: At,
        name: u8,
        len: usize,
        mode: XattrMode,
    },
    GetXattr {
        at: At,
        name: u8,
    },
    ListXattr {
        at: At,
    },
    RemoveXattr {
        at: At,
        name: u8,
    },
    ReadLink {
        at: At,
    },
    Attr {
        at: At,
    },
    List {
        at: At,
        page: usize,
    },
    Fsync {
        at: At,
    },
    Totals,
    /// Everything is made durable.
    SyncAll,
    /// A minute passes: what is done in the background is done.
    Idle,
    /// Segments with garbage are emptied.
    Compact,
    /// Garbage goes back to the host's disk where it lies.
    Trim,
    /// Closed and opened again; nothing is held any more.
    Reopen,
    /// The process dies and another takes over from the same kernel: what is held stays held.
    Kill,
    /// Everything is made durable, then power fails; nothing is held any more.
    SyncAndCutPower,
}

impl Op {
    /// Whether it asks for durability.
    pub fn syncs(&self) -> bool {
        matches!(self, Op::Fsync { .. } | Op::SyncAll | Op::Reopen | Op::SyncAndCutPower)
    }
}

/// Bytes of a write: its fill and the place, so that a block in a wrong place or of another write is seen.
pub fn contents(offset: u64, len: usize, fill: u8) -> Vec<u8> {
    (offset..offset + len as u64)
        .map(|p| if fill == 0 { 0 } else { fill.wrapping_add((p / 512) as u8).wrapping_mul(31) ^ (p as u8) })
        .collect()
}

/// Bytes of an extended attribute's value.
pub fn value(name: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| name.wrapping_mul(17).wrapping_add(i as u8)).collect()
}

/// What a generated list is like.
#[derive(Debug, Clone, Copy)]
pub struct Taste {
    /// How many operations.
    pub ops: usize,
    /// Whether lives end: reopening, killing, power failures.
    pub ends: bool,
    /// Largest offset of data.
    pub reach: u64,
}

/// A list of operations.
pub fn generate(seed: u64, taste: Taste) -> Vec<Op> {
    let mut g = Gen { rng: Rng::new(seed), taste };
    // Some folders and files first, so that later paths are often there.
    let mut ops = vec![
        Op::MakeDir { at: vec![3], perm: 0o755 },
        Op::MakeDir { at: vec![3, 4], perm: 0o700 },
        Op::Make { at: vec![0], kind: FileKind::File, perm: 0o644 },
        Op::Make { at: vec![3, 1], kind: FileKind::File, perm: 0o600 },
    ];
    while ops.len() < taste.ops {
        ops.push(g.op());
    }
    ops
}

struct Gen {
    rng: Rng,
    taste: Taste,
}

impl Gen {
    fn path(&mut self) -> Path {
        let leaf = self.rng.below(NAMES.len() as u64) as u8;
        match self.rng.below(8) {
            0..=2 => vec![leaf],
            3..=5 => vec![3, leaf],
            6 => vec![3, 4, leaf],
            _ => (0..=self.rng.below(3)).map(|_| self.rng.below(6) as u8).collect(),
        }
    }

    fn at(&mut self) -> At {
        match self.rng.below(10) {
            0..=2 => At::Slot(self.rng.below(3) as u8),
            3..=5 => At::Path(vec![0]),
            6 => At::Path(vec![3, 1]),
            _ => At::Path(self.path()),
        }
    }

    /// A place in a file, near an edge more often than not.
    fn place(&mut self) -> u64 {
        let reach = self.taste.reach;
        let edge = match self.rng.below(6) {
            0 => 0,
            1 => 4096 * self.rng.below(8),
            2 => 4096 * 256 * self.rng.below(3),
            3 => self.rng.below(20_000),
            _ => self.rng.below(reach),
        };
        let near = self.rng.below(5) as i64 - 2;
        edge.saturating_add_signed(if self.rng.one_in(2) { near } else { 0 }).min(reach)
    }

    fn length(&mut self) -> u64 {
        match self.rng.below(8) {
            0 => self.rng.below(4),
            1 => 4096,
            2 => 4096 * (1 + self.rng.below(5)),
            3 => 4095 + self.rng.below(3),
            4 => self.rng.below(300),
            5 => self.rng.below(70_000),
            6 => self.rng.below(5000),
            _ => self.rng.below(12_000),
        }
    }

    fn op(&mut self) -> Op {
        match self.rng.below(100) {
            0..=6 => {
                let kinds = [FileKind::File, FileKind::File, FileKind::File, FileKind::Fifo, FileKind::Socket, FileKind::CharDevice];
                Op::Make { at: self.path(), kind: *self.rng.pick(&kinds), perm: self.rng.below(0o10000) as u32 }
            }
            7..=10 => Op::MakeDir { at: self.path(), perm: 0o755 },
            11..=12 => {
                let len = [1, 10, 59, 60, 61, 4095][self.rng.below(6) as usize];
                Op::Symlink { at: self.path(), target: vec![b't'; len] }
            }
            13..=16 => Op::Link { of: self.at(), at: self.path() },
            17..=21 => Op::Unlink { at: self.path() },
            22..=23 => Op::RemoveDir { at: self.path() },
            24..=30 => {
                let modes = [RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
                Op::Rename { from: self.path(), to: self.path(), mode: *self.rng.pick(&modes) }
            }
            31..=33 => Op::Hold { at: self.path(), slot: self.rng.below(3) as u8 },
            34..=35 => Op::Drop { slot: self.rng.below(3) as u8 },
            36..=53 => Op::Write { at: self.at(), offset: self.place(), len: self.length() as usize, fill: self.rng.below(200) as u8 },
            54..=63 => Op::Read { at: self.at(), offset: self.place(), len: self.length() as usize },
            64..=69 => Op::Truncate { at: self.at(), size: self.place() },
            70 => Op::Chmod { at: self.at(), perm: self.rng.below(0o10000) as u32 },
            71 => Op::Chown { at: self.at(), uid: self.rng.below(3) as u32, gid: self.rng.below(3) as u32 },
            72 => Op::Touch { at: self.at(), sec: self.rng.below(1 << 33) as i64 - (1 << 31), nsec: self.rng.below(1_000_000_000) as u32 },
            73..=77 => {
                let how = [
                    Allocate::PunchHole,
                    Allocate::PunchHole,
                    Allocate::ZeroRange { keep_size: false },
                    Allocate::ZeroRange { keep_size: true },
                    Allocate::Reserve { keep_size: false },
                    Allocate::Reserve { keep_size: true },
                ];
                Op::Allocate { at: self.at(), offset: self.place(), len: self.length() + 1, how: *self.rng.pick(&how) }
            }
            78..=79 => {
                let what = if self.rng.one_in(2) { Seek::Data } else { Seek::Hole };
                Op::SeekTo { at: self.at(), offset: self.place(), what }
            }
            80..=82 => {
                let mode = *self.rng.pick(&[XattrMode::Any, XattrMode::Any, XattrMode::Create, XattrMode::Replace]);
                let len = [0, 1, 100, 5000][self.rng.below(4) as usize];
                Op::SetXattr { at: self.at(), name: self.rng.below(3) as u8, len, mode }
            }
            83 => Op::GetXattr { at: self.at(), name: self.rng.below(3) as u8 },
            84 => Op::ListXattr { at: self.at() },
            85 => Op::RemoveXattr { at: self.at(), name: self.rng.below(3) as u8 },
            86 => Op::ReadLink { at: self.at() },
            87..=88 => Op::Attr { at: self.at() },
            89 => Op::List {
                at: At::Path([vec![], vec![3], vec![3, 4]][self.rng.below(3) as usize].clone()),
                page: 1 + self.rng.below(5) as usize,
            },
            90..=92 => Op::Fsync { at: self.at() },
            93 => Op::SyncAll,
            94 => Op::Totals,
            _ if !self.taste.ends => Op::Attr { at: self.at() },
            95 => [Op::Reopen, Op::Idle, Op::Compact, Op::Trim][self.rng.below(4) as usize].clone(),
            96 => Op::Reopen,
            97..=98 => Op::Kill,
            _ => Op::SyncAndCutPower,
        }
    }
}
