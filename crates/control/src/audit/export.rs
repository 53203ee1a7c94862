//! Exporting: a cut through the journal's files, copied as they are, so that whatever is wrong in them is exported too.

use super::segment::Segment;
use orlop_model::{Error, Result};
use std::io::{Read, Write};

/// A cut through the journal, to be written out with blocking reads. Its last record is that of the export itself.
#[derive(Debug)]
pub struct AuditExport {
    pub(super) parts: Vec<(Segment, u64)>,
    pub(super) last_seq: u64,
    pub(super) last_hash: String,
}

impl AuditExport {
    /// Number of the last record in it.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Hash of the last record in it; note it elsewhere to notice later that a whole file was replaced.
    pub fn last_hash(&self) -> &str {
        &self.last_hash
    }

    /// Writes all of it and tells how many bytes that were.
    pub fn write_to(self, out: &mut dyn Write) -> Result<u64> {
        let mut total = 0;
        for (segment, len) in self.parts {
            let fail = |e: std::io::Error| Error::io(format_args!("exporting {}", segment.path.display()), &e);
            let file = std::fs::File::open(&segment.path).map_err(fail)?;
            total += std::io::copy(&mut file.take(len), out).map_err(fail)?;
        }
        out.flush().map_err(|e| Error::io("writing the export", &e))?;
        Ok(total)
    }
}
