//! Whole-system tests: models, fault worlds, crash matrix. Nothing depends on it.
//!
//! A [`world`] is a host's disk, a store and a clock in memory, that can fail, freeze, lose power and come back.
//! [`posix`] is a small model of what a file system owes, and the means to hold a real one against it. [`crash`]
//! runs scripted workloads through every fault at every moment and checks obligations 1 to 4 of the design.
//! [`cloud`] does the same for a volume whose home is the store, and plays what happens between two hosts.
//! Bugs that are planted in the world or in chunkfs prove that the matrix would see them.
pub mod cloud;
pub mod crash;
pub mod posix;
pub mod rng;
pub mod world;

/// What decides all that is left to chance: the variable `ORLOP_SEED`, 0 if absent.
pub fn seed() -> u64 {
    std::env::var("ORLOP_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0)
}

/// How much longer than in CI the simulations run: the variable `ORLOP_SIM_SCALE`, 1 if absent.
pub fn scale() -> u64 {
    std::env::var("ORLOP_SIM_SCALE").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}
