//! What a stranger may know of a volume in a store without opening it: whether it is one, and who has it.

use super::lease::{self, Look};
use crate::open::check_header;
use object_store::ObjectStore;
use orlop_model::{Error, Result, VolumeId};
use std::path::Path;
use std::sync::Arc;

/// The owner record of a volume, as it stands in its store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerFacts {
    /// The host that has the volume, or had it last.
    pub host: String,
    /// The id of the folder on that host which holds the volume's local state.
    pub holder: String,
    /// Whether it let go in an orderly way.
    pub released: bool,
    /// Whether it may hold acknowledged changes that it never sent.
    pub unsent: bool,
}

/// Reads a volume's header and owner record; fails if what is there is not this volume. `None`: nobody ever opened it
/// with its home in the store.
pub async fn owner_of(store: &Arc<dyn ObjectStore>, prefix: &str, volume: VolumeId) -> Result<Option<OwnerFacts>> {
    check_header(store, prefix, volume).await?;
    let path = lease::path(prefix);
    match lease::look(&**store, &path).await.map_err(|e| Error::unavailable(format!("{path}: {e}")))? {
        Look::Nothing => Ok(None),
        Look::Record(o, _) => Ok(Some(OwnerFacts { host: o.name, holder: o.holder, released: o.released, unsent: o.unsent })),
        Look::Damaged(why) => Err(lease::damaged(&path, &why)),
    }
}

/// The id of a state folder of this host, if a volume was ever opened there.
pub fn holder_of(state_dir: &Path) -> Option<String> {
    super::holder::parse(&std::fs::read(state_dir.join(super::holder::HOLDER)).ok()?)
}

/// Why a mount of this host cannot be gone on with, if that is so: another host has had the volume since. To be asked when an opening for it
/// was refused.
pub async fn lost(store: &Arc<dyn ObjectStore>, prefix: &str, volume: VolumeId, state_dir: &Path) -> Option<String> {
    let owner = owner_of(store, prefix, volume).await.ok()??;
    let here = holder_of(state_dir)?;
    (owner.holder != here).then(|| lease::lost_to(&owner.host))
}

/// The bytes of an owner record as if its writer had let go of the volume with everything sent; `None` if they are none.
/// For who looks at a copy, where nobody needs to be waited for.
pub fn as_if_released(record: &[u8]) -> Option<Vec<u8>> {
    lease::decode(record).ok().map(|owner| lease::encode(&owner.let_go()))
}
