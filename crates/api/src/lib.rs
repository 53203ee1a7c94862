//! Front doors, translation only: the Docker plugin, the local REST API, and the typed client of the latter.
//!
//! A front door decodes a request, calls `control`, maps the error and encodes the answer. It decides nothing
//! and must never know about `mount` or `chunkfs`: what only the host can do stands behind [`Host`].

pub mod client;
pub mod docker;
#[doc(hidden)]
pub mod fuzz;
mod host;
pub mod rest;
mod serve;
pub mod wire;

pub use client::Client;
pub use host::Host;
pub use serve::serve;
