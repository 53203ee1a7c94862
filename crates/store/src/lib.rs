//! URL to object store: capability probe, wrappers, and the behaviour suite that every backend passes.
//!
//! A store is an [`object_store::ObjectStore`]: one existing trait, no second one on top. This crate decides how a
//! URL becomes one ([`open`]), what the thing behind it can really do ([`probe`]), what can be put around it
//! ([`wrap`]), and what every backend owes ([`testing`]). It knows nothing of volumes.

mod error;
#[doc(hidden)]
pub mod fuzz;
mod local;
mod open;
mod probe;
mod s3;

pub mod keys;
pub mod testing;
pub mod wrap;

pub use error::{error, is_unreachable};
pub use keys::{VolumeStore, create_volume_store, volume_store};
pub use local::{LocalStore, sweep_unfinished};
pub use open::{SCHEMES, check_setting_names, folder_of, make_folder, open, open_spec};
pub use orlop_model::Capabilities;
pub use probe::{is_same_place, probe};

pub use object_store::path::Path;
pub use object_store::{self, ObjectStore, ObjectStoreExt};
