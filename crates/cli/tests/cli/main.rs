//! The real binary on real roots: every command as a person runs it.

mod audit;
mod bad_input;
mod care;
mod doctor;
mod life;
mod mounts;
mod plain;
mod plugin;
mod stores;
mod survival;
mod volumes;
mod world;
