//! Appends records to the journal's last file: written whole and synced, or not there.
//!
//! Blocking; the journal calls it off the async threads, one append at a time.

use super::record::{Draft, encode};
use super::segment::{Segment, sync_folder};
use orlop_model::{AuditEvent, Error, ErrorKind, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// Set aside so that on a full disk things can still be let go and deleted, and that be recorded.
const RESERVE_BYTES: usize = 256 << 10;

pub(super) struct Writer {
    dir: PathBuf,
    limit: u64,
    current: Option<Current>,
    seq: u64,
    hash: String,
}

struct Current {
    segment: Segment,
    file: File,
    /// Bytes of whole, synced records; what lies behind them is cut before the next append.
    len: u64,
    /// Whether something may lie behind them.
    dirty: bool,
}

impl Writer {
    /// Goes on after record `seq` with this hash, in `segment` (of that length) or, without one, in a new file.
    pub(super) fn resume(dir: &Path, limit: u64, segment: Option<(Segment, u64)>, seq: u64, hash: String) -> Result<Writer> {
        let mut writer = Writer { dir: dir.to_owned(), limit, current: None, seq, hash };
        if let Some((segment, len)) = segment {
            writer.current = Some(open_segment(segment, len).map_err(|e| writer.fail(&e))?);
        }
        writer.keep_reserve();
        Ok(writer)
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    /// Appends a record. On an error it is not in the journal. `use_reserve`: may take the space set aside.
    pub(super) fn append(&mut self, draft: &Draft, at: OffsetDateTime, use_reserve: bool) -> Result<AuditEvent> {
        let event = draft.seal(self.seq + 1, &self.hash, at);
        let mut line = encode(&event);
        line.push('\n');
        let mut written = self.write(line.as_bytes());
        if use_reserve && written.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::StorageFull) && self.spend_reserve() {
            written = self.write(line.as_bytes());
        }
        written.map_err(|e| self.fail(&e))?;
        self.seq = event.seq;
        self.hash.clone_from(&event.hash);
        Ok(event)
    }

    fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.current.as_ref().is_some_and(|c| c.len > 0 && c.len + line.len() as u64 > self.limit) {
            self.current = None;
        }
        if self.current.is_none() {
            let current = open_segment(Segment::at(&self.dir, self.seq + 1), 0)?;
            sync_folder(&self.dir)?;
            self.current = Some(current);
        }
        let current = self.current.as_mut().expect("opened above");
        if current.dirty {
            // An earlier append failed half-way: nobody was told that it is there.
            current.file.set_len(current.len)?;
            current.dirty = false;
        }
        current.dirty = true;
        current.file.write_all_at(line, current.len)?;
        current.file.sync_data()?;
        current.len += line.len() as u64;
        current.dirty = false;
        Ok(())
    }

    /// Whether the last file is still the one that is being written, and as long as it should be.
    /// If not, somebody took or cut it: the journal must go on elsewhere, and say so.
    pub(super) fn displaced(&self) -> Option<String> {
        let current = self.current.as_ref()?;
        let here = current.file.metadata().ok()?;
        match std::fs::metadata(&current.segment.path) {
            Ok(there) if there.ino() != here.ino() || there.dev() != here.dev() => {
                Some(format!("{} was replaced by another file", current.segment.name()))
            }
            Ok(there) if there.len() < current.len => Some(format!("{} was shortened", current.segment.name())),
            Ok(_) => None,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Some(format!("{} was deleted", current.segment.name())),
            // The next write tells more.
            Err(_) => None,
        }
    }

    /// Begins a new file with the next record.
    pub(super) fn leave_segment(&mut self) {
        self.current = None;
    }

    /// Sets space aside again, if there is any.
    pub(super) fn keep_reserve(&self) {
        let path = self.reserve();
        if std::fs::metadata(&path).is_ok_and(|m| m.len() == RESERVE_BYTES as u64) {
            return;
        }
        let made = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path).and_then(|mut file| {
            // Written, not only sized: a hole would set nothing aside.
            file.write_all(&vec![0x5a; RESERVE_BYTES])?;
            file.sync_all()
        });
        if made.is_err() {
            let _ = std::fs::remove_file(&path);
        }
    }

    fn spend_reserve(&self) -> bool {
        std::fs::remove_file(self.reserve()).is_ok()
    }

    fn reserve(&self) -> PathBuf {
        self.dir.join("reserve")
    }

    fn fail(&self, e: &std::io::Error) -> Error {
        let error = Error::io(format_args!("writing the audit journal in {}", self.dir.display()), e);
        if error.kind == ErrorKind::NoSpace { error.with_remedy("free space on the disk of Orlop's root") } else { error }
    }
}

fn open_segment(segment: Segment, len: u64) -> std::io::Result<Current> {
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&segment.path)?;
    let dirty = file.metadata()?.len() != len;
    Ok(Current { segment, file, len, dirty })
}

/// Moves the bytes from `offset` on into a file of their own, so that a torn line is cut without being destroyed.
pub(super) fn cut_aside(segment: &Segment, offset: u64) -> Result<(String, u64)> {
    let name = format!("{}-at-{offset}.torn", segment.name().trim_end_matches(".jsonl"));
    let dir = segment.path.parent().expect("a segment lies in the audit folder");
    let run = || -> std::io::Result<u64> {
        let file = OpenOptions::new().read(true).write(true).open(&segment.path)?;
        let mut bytes = vec![0; (file.metadata()?.len().saturating_sub(offset)) as usize];
        file.read_exact_at(&mut bytes, offset)?;
        let mut aside = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(dir.join(&name))?;
        aside.write_all(&bytes)?;
        aside.sync_all()?;
        sync_folder(dir)?;
        file.set_len(offset)?;
        file.sync_all()?;
        Ok(bytes.len() as u64)
    };
    run().map(|n| (name.clone(), n)).map_err(|e| Error::io(format_args!("repairing the audit journal {}", segment.path.display()), &e))
}
