//! The journal's files: `<number of its first record, 20 digits>.jsonl`, one record a line, each ended by a newline.

use orlop_model::{Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// A file of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Number of its first record, as its name says.
    pub(super) first: u64,
    pub(super) path: PathBuf,
}

impl Segment {
    pub(super) fn at(dir: &Path, first: u64) -> Segment {
        Segment { first, path: dir.join(format!("{first:020}.jsonl")) }
    }

    /// Its name, for messages.
    pub(super) fn name(&self) -> String {
        self.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// All files of the journal in this folder, in order.
pub(super) fn segments(dir: &Path) -> Result<Vec<Segment>> {
    let fail = |e: std::io::Error| Error::io(format_args!("reading the audit folder {}", dir.display()), &e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let first = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_suffix(".jsonl"))
            .filter(|n| n.len() == 20 && n.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|n| n.parse().ok());
        if let Some(first) = first {
            found.push(Segment { first, path });
        }
    }
    found.sort_by_key(|s| s.first);
    Ok(found)
}

/// A line as it lies in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: u64,
    /// Where it begins.
    pub(super) offset: u64,
    /// Without the newline.
    pub(super) bytes: Vec<u8>,
    /// Whether the newline was there.
    pub(super) ended: bool,
}

/// The lines of a file, up to `limit` bytes.
pub(super) fn lines(path: &Path, limit: u64) -> Result<impl Iterator<Item = Result<Line>>> {
    let shown = path.display().to_string();
    let file = File::open(path).map_err(|e| Error::io(format_args!("opening {shown}"), &e))?;
    let mut reader = BufReader::with_capacity(256 << 10, std::io::Read::take(file, limit));
    let (mut number, mut offset) = (0, 0);
    Ok(std::iter::from_fn(move || {
        let mut bytes = Vec::new();
        match reader.read_until(b'\n', &mut bytes) {
            Ok(0) => None,
            Ok(n) => {
                let ended = bytes.last() == Some(&b'\n');
                if ended {
                    bytes.pop();
                }
                number += 1;
                let line = Line { number, offset, bytes, ended };
                offset += n as u64;
                Some(Ok(line))
            }
            Err(e) => Some(Err(Error::io(format_args!("reading {shown}"), &e))),
        }
    }))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}
