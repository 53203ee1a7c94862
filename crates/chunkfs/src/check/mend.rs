//! Mending damaged copies from whole ones: a staged file that its pack can stand in for, a pack that the staged file can
//! be made into again.
//!
//! There is no moment at which less is there than before. A damaged staged file is moved aside. A pack is copied aside, made
//! again and checked in memory, and takes the place of the damaged object in one request: a store that goes away and a host
//! that dies leave either the damaged one or the whole one, never none.

use super::blocks::{Named, differing};
use super::{Damage, Gathered};
use crate::blocking::blocking;
use crate::change::{Change, Record};
use crate::fs::FileSystem;
use crate::host::HostFile;
use crate::key::Key;
use crate::pack::{self, Of};
use crate::remote::{PackAt, Source};
use crate::row::{Pack, Row};
use crate::state::{Bases, host_error};
use crate::types::{FsError, FsResult};
use bytes::Bytes;
use object_store::path::Path as StorePath;
use object_store::{Error, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};
use orlop_model::{Compression, FindingKind};
use orlop_store::wrap::BrokenSeal;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The end of the name of what was moved aside.
pub(super) const ASIDE: &str = ".damaged";

impl FileSystem {
    /// Mends what has another copy, and says of each whether it is mended.
    pub(super) async fn mend(&self, g: &mut Gathered) {
        let of = |kind| g.damage.iter().filter(move |((k, _), _)| *k == kind).filter_map(|(_, d)| d.other_copy).collect::<BTreeSet<u64>>();
        let (bad_staged, bad_packs) = (of(FindingKind::Staged), of(FindingKind::Object));
        for ((kind, at), d) in &mut g.damage {
            let Some(segment) = d.other_copy else { continue };
            let mended = match kind {
                FindingKind::Staged if !bad_packs.contains(&segment) => self.set_staged_aside(segment).await,
                FindingKind::Object if !bad_staged.contains(&segment) => self.pack_again(segment, at, std::mem::take(&mut d.named)).await,
                // Both are damaged; which blocks of which is told, and neither is touched.
                _ => continue,
            };
            match mended {
                Ok(how) => note(d, how),
                Err(e) => {
                    tracing::warn!(at, error = %e, "a damaged copy could not be mended");
                    d.failed = Some(e.to_string());
                }
            }
        }
    }

    async fn set_staged_aside(&self, segment: u64) -> FsResult<&'static str> {
        let path = self.disown_staged(segment).ok_or_else(|| FsError::Io("a recovery may still need it; try again later".to_owned()))?;
        let mut aside = path.clone().into_os_string();
        aside.push(ASIDE);
        self.disk.rename(&path, aside.as_ref()).map_err(|e| host_error("moving a staged file aside", &e))?;
        Ok("its blocks are read from the store; the damaged file is kept beside it as .damaged")
    }

    async fn pack_again(&self, segment: u64, at: &str, named: Vec<Named>) -> FsResult<&'static str> {
        let (source, id) = {
            let mut st = self.lock();
            let id = st.segments.get(&segment).map(|s| s.id).ok_or(FsError::NotFound)?;
            (st.source(segment)?, id)
        };
        let Source::Staged(file, Some(PackAt { pack: old, .. })) = source else {
            return Err(FsError::Io("this host has no staged file of it".to_owned()));
        };
        let (Some(shipping), Some(packs)) = (&self.shipping, self.packs()) else {
            return Err(FsError::Io("the volume has no home in the store".to_owned()));
        };
        let of = Of { volume: *self.volume.as_bytes(), segment, id, blocks: old.blocks };
        let good = blocking(move || made_again(&of, &*file, &old, &named)).await?;
        shipping.lease.renew(None).await?;
        self.put_in_place(&StorePath::from(at), &good).await?;
        packs.forget_cached(segment);
        let new = Pack { bytes: good.len() as u64, ..old };
        if new != old {
            let mut st = self.lock();
            let mut row = st.segments.get(&segment).cloned().ok_or(FsError::NotFound)?;
            row.pack = Some(new);
            let changes = vec![Change::Put(Key::Segment(segment), Row::Segment(row))];
            st.commit(Record { changes, ..Record::default() }, &Bases::new())?;
        }
        Ok("made anew from this host's staged file; the damaged object is kept beside it as .damaged")
    }

    /// Puts a whole object where a damaged one is, or none. What was there is kept under another name, and stays where it is
    /// until the whole one has taken its place.
    async fn put_in_place(&self, at: &StorePath, good: &Bytes) -> FsResult<()> {
        let store = self.ns.raw();
        let failed = |e: Error| FsError::Io(format!("{at}: {e}"));
        let mode = match store.head(at).await {
            Ok(meta) => match meta.e_tag {
                Some(tag) => PutMode::Update(UpdateVersion { e_tag: Some(tag), version: meta.version }),
                None => PutMode::Overwrite,
            },
            Err(Error::NotFound { .. }) => PutMode::Create,
            // So damaged that it cannot say which version it is.
            Err(e) if BrokenSeal::find(&e).is_some() => PutMode::Overwrite,
            Err(e) => return Err(failed(e)),
        };
        if mode != PutMode::Create {
            store.copy(at, &StorePath::from(format!("{at}{ASIDE}"))).await.map_err(failed)?;
        }
        let put = store.put_opts(at, good.clone().into(), PutOptions { mode, ..PutOptions::default() }).await;
        // Answers get lost: what is there now counts.
        match (async { store.get(at).await?.bytes().await }.await, put) {
            (Ok(there), _) if there == *good => Ok(()),
            (_, Err(e)) | (Err(e), Ok(_)) => Err(failed(e)),
            (Ok(_), Ok(_)) => Err(FsError::Io(format!("{at}: the store took it and returns something else"))),
        }
    }
}

/// A pack as it was, from a staged file, with every block that is referred to compared with its checksum.
fn made_again(of: &Of, file: &dyn HostFile, old: &Pack, named: &[Named]) -> FsResult<Bytes> {
    // In its old form, whatever the volume is set to now: then it has its old length too, and reads as soon as it is there.
    let form = if pack::is_raw(old) { Compression::None } else { Compression::Zstd };
    let bytes: Bytes = pack::encode(of, file, form, &Arc::default()).map_err(|e| host_error("reading a segment", &e))?.into();
    let whole = pack::verify_whole(&bytes).map_err(|e| FsError::Corrupt(format!("the pack made again: {e}")))?;
    match differing(&whole, named).first() {
        None => Ok(bytes),
        Some(n) => Err(FsError::Corrupt(format!("block {} of this host's staged file is not what was written", n.at))),
    }
}

fn note(d: &mut Damage, how: &str) {
    d.repaired = Some(how.to_owned());
}
