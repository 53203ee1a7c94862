//! Where the data of segments is whose rows are lost: their packs, and their files on the host, say themselves whose they are.

use super::Rescue;
use crate::pack::{HEADER, parse_header};
use crate::row::{Pack, Segment};
use crate::segment::parse_name;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as StorePath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use orlop_model::Result;
use std::collections::{BTreeMap, BTreeSet};

/// Heads of packs that are read side by side.
const TOGETHER: usize = 16;

/// Rows of the segments that are `wanted`, as far as their data can be found. Live blocks are counted by who knows them. What is read
/// of a wrong one is found by the checksums that are with those who refer to blocks.
pub(super) async fn find(rescue: &Rescue, wanted: &BTreeSet<u64>) -> Result<BTreeMap<u64, Segment>> {
    let mut found = BTreeMap::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    let staged = rescue.state_dir.as_ref().and_then(|dir| std::fs::read_dir(dir.join("staged")).ok());
    for entry in staged.into_iter().flatten().flatten() {
        if let Some((number, id)) = parse_name(&entry.file_name().to_string_lossy())
            && wanted.contains(&number)
        {
            found.insert(number, Segment { id, live: 0, pack: None });
        }
    }
    if !rescue.remote {
        return Ok(found);
    }
    let folder = StorePath::from(format!("{}/packs", rescue.prefix));
    let listed: Vec<ObjectMeta> =
        rescue.of.store.list(Some(&folder)).try_collect().await.map_err(|e| orlop_store::error(format_args!("listing {folder}"), &e))?;
    let mut packs = futures::stream::iter(listed).map(|meta| head(rescue, meta)).buffer_unordered(TOGETHER);
    while let Some(pack) = packs.next().await {
        // A pack is whole, and what the host has of it a copy.
        if let Some((number, segment)) = pack.filter(|(number, _)| wanted.contains(number)) {
            found.insert(number, segment);
        }
    }
    Ok(found)
}

/// The segment that a pack is of; none if its first bytes do not say so.
async fn head(rescue: &Rescue, meta: ObjectMeta) -> Option<(u64, Segment)> {
    let id = u128::from_str_radix(meta.location.filename()?, 16).ok()?.to_be_bytes();
    let bytes = rescue.of.store.get_range(&meta.location, 0..HEADER as u64).await.ok()?;
    let of = parse_header(&bytes).ok()?;
    let is_it = of.volume == *rescue.volume.as_bytes() && of.id == id;
    let pack = Pack { blocks: of.blocks, bytes: meta.size };
    is_it.then_some((of.segment, Segment { id, live: 0, pack: Some(pack) }))
}
