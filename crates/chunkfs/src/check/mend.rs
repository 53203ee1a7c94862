//! Mending damaged copies from whole ones: a staged file that its pack can stand in for, a pack that the staged file can
//! be made into again. The damaged one is moved aside first, never written over.

use super::{Damage, Gathered};
use crate::change::{Change, Record};
use crate::fs::FileSystem;
use crate::key::Key;
use crate::pack;
use crate::remote::{PackAt, Source};
use crate::row::Row;
use crate::state::{Bases, host_error};
use crate::types::{FsError, FsResult};
use object_store::ObjectStoreExt;
use object_store::path::Path as StorePath;
use orlop_model::FindingKind;
use std::collections::BTreeSet;

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
                FindingKind::Object if !bad_staged.contains(&segment) => self.pack_again(segment, at).await,
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

    async fn pack_again(&self, segment: u64, at: &str) -> FsResult<&'static str> {
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
        shipping.lease.renew(None).await?;
        let store = self.ns.raw();
        let (from, to) = (StorePath::from(at), StorePath::from(format!("{at}{ASIDE}")));
        let failed = |e: object_store::Error| FsError::Io(format!("{from}: {e}"));
        match store.copy(&from, &to).await {
            Ok(()) => store.delete(&from).await.map_err(failed)?,
            // It is missing: nothing to keep.
            Err(object_store::Error::NotFound { .. }) => {}
            Err(e) => return Err(failed(e)),
        }
        let target = pack::Target { store, prefix: self.ns.prefix(), volume: *self.volume.as_bytes() };
        let new = pack::upload(packs.patience(), &target, segment, &id, file, old.blocks, shipping.config.compression).await?;
        packs.forget_cached(segment);
        if new != old {
            let mut st = self.lock();
            let mut row = st.segments.get(&segment).cloned().ok_or(FsError::NotFound)?;
            row.pack = Some(new);
            let changes = vec![Change::Put(Key::Segment(segment), Row::Segment(row))];
            st.commit(Record { changes, ..Record::default() }, &Bases::new())?;
        }
        Ok("made anew from this host's staged file; the damaged object is kept beside it as .damaged")
    }
}

fn note(d: &mut Damage, how: &str) {
    d.repaired = Some(how.to_owned());
}
