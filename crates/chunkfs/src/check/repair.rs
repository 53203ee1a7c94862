//! Setting counts right, through the journal like any other change.
//!
//! A count that was off by some number at the instant of the view is off by the same number now, since every change
//! moves it relatively. So the difference is added to what it is now, and nobody has to stop for it.

use super::Gathered;
use crate::change::{Change, Record};
use crate::fs::FileSystem;
use crate::key::Key;
use crate::row::Row;
use crate::state::Bases;
use crate::tx::Tx;
use crate::types::{FsError, FsResult, Ino};
use orlop_model::FindingState;

/// What sets a finding right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fix {
    /// Adds to the links of an inode.
    Links(Ino, i64),
    /// Adds to the entries of a folder.
    Entries(Ino, i64),
    /// Adds to the blocks of an inode.
    Blocks(Ino, i64),
    /// Adds to the inodes of the volume.
    Inodes(i64),
    /// Adds to the blocks in use of the volume.
    Used(i64),
    /// Adds to the live blocks of a segment.
    Live(u64, i64),
    /// Has a nameless inode deleted at the next opening.
    Orphan(Ino),
    /// Nothing is to be deleted there.
    NoOrphan(Ino),
}

impl FileSystem {
    /// Sets right what has a fix.
    pub(super) async fn repair(&self, g: &mut Gathered) -> FsResult<()> {
        let mut any = false;
        for d in &mut g.drafts {
            let Some(fix) = d.fix else { continue };
            match self.apply_fix(fix).await {
                Ok(()) => {
                    any = true;
                    d.finding.state = FindingState::Repaired;
                    d.finding.remedy = Some("set right".to_owned());
                }
                // It went meanwhile, and its count with it.
                Err(FsError::NotFound) => d.finding.state = FindingState::Harmless,
                Err(e) => d.finding.remedy = Some(format!("it could not be set right: {e}")),
            }
        }
        if any { self.sync_all().await } else { Ok(()) }
    }

    async fn apply_fix(&self, fix: Fix) -> FsResult<()> {
        self.admit().await?;
        match fix {
            Fix::Links(ino, by) => {
                self.fix_inode(ino, move |i| match i.nlink {
                    // It lost its last name meanwhile.
                    0 => false,
                    n => {
                        i.nlink = (i64::from(n) + by).clamp(1, i64::from(u32::MAX)) as u32;
                        true
                    }
                })
                .await
            }
            Fix::Entries(ino, by) => self.fix_inode(ino, move |i| add(&mut i.size, by)).await,
            Fix::Blocks(ino, by) => self.fix_inode(ino, move |i| add(&mut i.blocks, by)).await,
            Fix::Inodes(by) => self.fix_super(|s| add(&mut s.inodes, by)),
            Fix::Used(by) => self.fix_super(|s| add(&mut s.used_blocks, by)),
            Fix::Live(n, by) => {
                let mut st = self.lock();
                let mut row = st.segments.get(&n).cloned().ok_or(FsError::NotFound)?;
                add(&mut row.live, by);
                let changes = vec![Change::Put(Key::Segment(n), Row::Segment(row))];
                st.commit(Record { changes, ..Record::default() }, &Bases::new()).map(drop)
            }
            Fix::Orphan(ino) => {
                self.run(|st| {
                    let mut tx = Tx::new(st);
                    if tx.inode(ino)?.nlink > 0 {
                        return Err(FsError::NotFound.into());
                    }
                    tx.orphan(ino)?;
                    tx.commit()?;
                    Ok(())
                })
                .await
            }
            Fix::NoOrphan(ino) => {
                self.run(|st| {
                    let mut tx = Tx::new(st);
                    if tx.row(Key::Inode(ino))?.is_some() {
                        return Err(FsError::NotFound.into());
                    }
                    tx.delete(Key::Orphan(ino));
                    tx.commit()?;
                    Ok(())
                })
                .await
            }
        }
    }

    /// Changes an inode unless `f` says that there is nothing to change.
    async fn fix_inode(&self, ino: Ino, f: impl Fn(&mut crate::row::Inode) -> bool) -> FsResult<()> {
        self.run(|st| {
            let mut tx = Tx::new(st);
            if !tx.change_inode(ino, &f)? {
                return Err(FsError::NotFound.into());
            }
            tx.unbounded();
            tx.commit()?;
            Ok(())
        })
        .await
    }

    fn fix_super(&self, f: impl FnOnce(&mut crate::row::Super) -> bool) -> FsResult<()> {
        let mut st = self.lock();
        let mut sb = st.sb.clone();
        f(&mut sb);
        let changes = vec![Change::Put(Key::Super, Row::Super(sb))];
        st.commit(Record { changes, ..Record::default() }, &Bases::new()).map(drop)
    }
}

fn add(count: &mut u64, by: i64) -> bool {
    *count = count.saturating_add_signed(by);
    true
}
