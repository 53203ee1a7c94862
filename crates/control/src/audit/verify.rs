//! Verification: of the living journal against the registry, and of an exported file by itself.

use super::chain::Chain;
use super::segment::{lines, segments};
use super::{EXPORT_VERB, VerifyReport, tail};
use crate::registry::{Head, noted_head};
use orlop_model::{Error, Result};
use std::path::Path;

/// Checks every file of the journal, and that it ends where `head` says. Blocking.
pub(super) fn verify_folder(dir: &Path, head: &Head) -> Result<VerifyReport> {
    let mut chain = Chain::from_the_start();
    let mut last = (dir.display().to_string(), 0);
    'files: for segment in segments(dir)? {
        let name = segment.path.display().to_string();
        last = (name.clone(), 0);
        for line in lines(&segment.path, u64::MAX)? {
            let line = line?;
            if chain.report().last_seq >= head.seq && head.seq > 0 && line.ended {
                // Written after the verification began.
                break 'files;
            }
            last.1 = line.number;
            if line.ended || line.bytes.is_empty() {
                chain.line(&name, line.number, &line.bytes);
            } else if chain.report().last_seq < head.seq {
                chain.broken(chain.report().last_seq + 1, &name, line.number, "the line is cut off".to_owned());
            }
        }
    }
    let (seq, hash) = (chain.report().last_seq, chain.report().last_hash.clone());
    if seq < head.seq {
        chain.broken(seq + 1, &last.0, last.1, format!("the journal ends here, but records up to {} were written", head.seq));
    } else if seq == head.seq && seq > 0 && hash != head.hash {
        chain.broken(seq, &last.0, last.1, "the last record is not the one that was written".to_owned());
    }
    Ok(chain.into_report())
}

/// Checks the journal of a root without writing anything there, not even a lock: for a disk that cannot be written to. It ends where
/// a daemon that opens it would go on. Who calls it makes sure that no daemon does.
pub async fn verify_root(root: &Path) -> Result<VerifyReport> {
    let noted = noted_head(&root.join("orlop.db")).await?;
    let dir = root.join("audit");
    let verify = move || {
        let tail = tail::inspect(&dir, noted.as_ref())?;
        let head = match (tail.broken, noted) {
            // What the registry saw counts, and not what lies there.
            (Some(_), Some(noted)) => Head { seq: tail.seq.max(noted.seq), hash: noted.hash },
            _ => Head { seq: tail.seq, hash: tail.hash },
        };
        verify_folder(&dir, &head)
    };
    tokio::task::spawn_blocking(verify).await.map_err(|e| Error::internal(format!("reading the audit journal: {e}")))?
}

/// Checks an exported file, without any daemon or root: that every record follows from the one before, from the first
/// one on, and that the file ends with the record of its own export.
pub fn verify_file(path: &Path) -> Result<VerifyReport> {
    if path.is_dir() {
        return Err(Error::invalid(format!("{} is a folder", path.display()))
            .with_remedy("give a file that `orlop audit export --file FILE` wrote"));
    }
    let name = path.display().to_string();
    let mut chain = Chain::from_the_start();
    let mut last = (0, true, String::new());
    for line in lines(path, u64::MAX)? {
        let line = line?;
        let event = chain.line(&name, line.number, &line.bytes);
        last = (line.number, line.ended, event.map(|e| e.verb).unwrap_or_default());
    }
    let due = chain.report().last_seq + 1;
    if last.0 == 0 {
        chain.broken(1, &name, 0, "the file is empty: an export has one record at least, its own".to_owned());
    } else if !last.1 {
        chain.broken(due, &name, last.0, "the last line is cut off".to_owned());
    } else if last.2 != EXPORT_VERB {
        chain.broken(due, &name, last.0, "the file does not end with the record of its export: its end is missing".to_owned());
    }
    Ok(chain.into_report())
}
