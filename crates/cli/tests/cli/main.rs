//! The real binary on real roots: every command as a person runs it.

mod audit;
mod bad_input;
mod care;
mod cloud;
mod cloud_long;
mod cloud_net;
mod cloud_outage;
mod completion;
mod doctor;
mod full;
mod keys;
mod life;
mod mounts;
mod plain;
mod plugin;
mod stores;
mod survival;
mod upgrade;
mod volumes;
mod world;
