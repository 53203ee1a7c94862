//! Extended attributes: all of an inode in one row, so that a change is one step.

use crate::fs::FileSystem;
use crate::key::Key;
use crate::row::Row;
use crate::state::Step;
use crate::tx::Tx;
use crate::types::{Caller, FsError, FsResult, Ino, XattrMode};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest name, as the kernel has it.
const NAME_MAX: usize = 255;
/// Longest value, as the kernel has it.
const VALUE_MAX: usize = 65536;
/// Bytes of names and values of one inode.
const TOTAL_MAX: usize = 128 << 10;

type Xattrs = Arc<BTreeMap<Bytes, Bytes>>;

fn all(tx: &mut Tx<'_>, ino: Ino) -> Step<Xattrs> {
    if !tx.inode(ino)?.has_xattrs {
        return Ok(Arc::default());
    }
    match tx.row(Key::Xattrs(ino))? {
        Some(Row::Xattrs(x)) => Ok(x),
        None => Ok(Arc::default()),
        Some(_) => Err(FsError::Corrupt(format!("row of extended attributes of inode {ino}")).into()),
    }
}

fn store(mut tx: Tx<'_>, ino: Ino, attrs: BTreeMap<Bytes, Bytes>) -> Step<()> {
    let now = tx.now;
    let some = !attrs.is_empty();
    tx.change_inode(ino, |i| {
        i.ctime = now;
        i.has_xattrs = some;
    })?;
    if some {
        tx.put(Key::Xattrs(ino), Row::Xattrs(Arc::new(attrs)));
    } else {
        tx.delete(Key::Xattrs(ino));
    }
    tx.commit()?;
    Ok(())
}

impl FileSystem {
    /// Sets an extended attribute.
    pub async fn setxattr(&self, cx: &Caller, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> FsResult<()> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(FsError::Range);
        }
        if value.len() > VALUE_MAX {
            return Err(FsError::NoSpace);
        }
        self.grow(cx, name.len() + value.len(), |st| {
            let mut tx = Tx::of(st, cx);
            if tx.answered().is_some() {
                return Ok(());
            }
            let mut attrs = (*all(&mut tx, ino)?).clone();
            match (mode, attrs.contains_key(name)) {
                (XattrMode::Create, true) => return Err(FsError::Exists.into()),
                (XattrMode::Replace, false) => return Err(FsError::NoData.into()),
                _ => {}
            }
            attrs.insert(Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
            if attrs.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > TOTAL_MAX {
                return Err(FsError::NoSpace.into());
            }
            store(tx, ino, attrs)
        })
        .await
    }

    /// The value of an extended attribute.
    pub async fn getxattr(&self, ino: Ino, name: &[u8]) -> FsResult<Bytes> {
        self.run(|st| all(&mut Tx::new(st), ino)?.get(name).cloned().ok_or_else(|| FsError::NoData.into())).await
    }

    /// Names of an inode's extended attributes.
    pub async fn listxattr(&self, ino: Ino) -> FsResult<Vec<Bytes>> {
        self.run(|st| Ok(all(&mut Tx::new(st), ino)?.keys().cloned().collect())).await
    }

    /// Takes an extended attribute away.
    pub async fn removexattr(&self, cx: &Caller, ino: Ino, name: &[u8]) -> FsResult<()> {
        self.change(|st| {
            let mut tx = Tx::of(st, cx);
            if tx.answered().is_some() {
                return Ok(());
            }
            let mut attrs = (*all(&mut tx, ino)?).clone();
            if attrs.remove(name).is_none() {
                return Err(FsError::NoData.into());
            }
            store(tx, ino, attrs)
        })
        .await
    }
}
