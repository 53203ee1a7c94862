//! Tests of the file system through its public API, on the host's real disk in temporary folders.

mod basic;
mod disk;
mod durable;
mod flip;
mod full;
mod idle;
mod mend;
mod packs;
mod remote;
mod remote_flip;
mod salvage;
mod sync;
mod trim;
mod world;
