//! A small model of what a POSIX file system owes, and the means to hold the real one against it.
//!
//! [`op`] are the operations and their generator; [`model`] is the reference; [`real`] runs an operation on
//! chunkfs; [`tree`] is the whole of a file system as plain data; [`run`] drives both and finds the first difference.

pub mod model;
pub mod op;
pub mod real;
pub mod run;
pub mod tree;

use orlop_chunkfs::{FileKind, Time};

/// Attributes that both sides must agree on. Numbers of inodes are compared elsewhere, as a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub perm: u32,
    /// Names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u32,
    /// Bytes; 0 for folders, whose size is the file system's own business.
    pub size: u64,
    /// 512-byte units; 0 for all but files.
    pub blocks: u64,
    /// Contents changed.
    pub mtime: Time,
    /// Attributes changed.
    pub ctime: Time,
    /// Made.
    pub crtime: Time,
}

/// What an operation answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Out {
    /// Done.
    Unit,
    /// Attributes.
    Attr(Facts),
    /// Contents, or a target, or a value.
    Bytes(Vec<u8>),
    /// How many bytes were taken.
    Count(usize),
    /// Names, sorted.
    Names(Vec<(Vec<u8>, Option<FileKind>)>),
    /// A position in a file.
    Position(u64),
    /// Blocks and inodes in use.
    Totals(u64, u64),
    /// Refused.
    Errno(i32),
}
