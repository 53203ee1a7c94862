//! Drives the model and chunkfs through one list of operations and finds the first difference; shrinks the list.

use super::Out;
use super::model::Model;
use super::op::{NAMES, Op};
use super::real::Real;
use super::tree::{Same, Tree};
use crate::world::{Loss, World};
use orlop_chunkfs::{FileSystem, OpenConfig, format_volume};
use orlop_model::VolumeId;
use orlop_store::keys::HostKeys;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The volume that every simulation uses.
pub fn volume() -> VolumeId {
    VolumeId::from_bytes([0x5a; 16])
}

/// Where a volume's state is in a world.
pub const STATE: &str = "/state";

/// The volume's path in the store.
pub const PREFIX: &str = "volumes/sim";

/// A runtime of one life: one thread, and time that passes only when everybody waits.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .max_blocking_threads(1)
        .build()
        .expect("a runtime needs a thread")
}

/// A world with the volume's folder and its header in the store.
pub fn fresh_world(seed: u64) -> World {
    let world = World::new(seed).with_folder(Path::new(STATE));
    runtime().block_on(format_volume(&world.store(), PREFIX, volume())).expect("an empty store takes a header");
    world
}

/// Opens the volume in this life of the world.
pub async fn open(world: &World, fresh_kernel: bool) -> orlop_model::Result<Arc<FileSystem>> {
    let mut config = OpenConfig::new(volume(), world.store(), PREFIX, STATE);
    config.host = world.disk();
    config.clock = world.clock();
    config.fresh_kernel = fresh_kernel;
    if !fresh_kernel && (world.seed() / 2000 + world.seed()) % 2 == 1 {
        // In half of the worlds, whichever way they are counted, as where the disk is slow: served before what the killed process
        // left is durable.
        config.first_rest = Duration::ZERO;
    }
    FileSystem::open(config.sealed(keys(world))).await
}

/// What the volume's files on a world's host are sealed with, if they are.
pub(crate) fn keys(world: &World) -> Option<Arc<HostKeys>> {
    world.is_sealed().then(|| Arc::new(HostKeys::fixed()))
}

/// Longest that anything may take, in the world's time.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// One process: a runtime and what runs in it.
pub struct Life {
    /// What it has open.
    pub real: Real,
    runtime: tokio::runtime::Runtime,
}

impl Life {
    /// A name in the root folder that nothing has, or nothing has any more.
    pub(crate) fn free_name(&mut self) -> Result<Vec<u8>, String> {
        let mut at = vec![6];
        for n in 0..NAMES.len() as u8 {
            // A folder may have the name.
            let op = Op::Unlink { at: at.clone() };
            match self.run(async |real| tokio::time::timeout(PATIENCE, real.apply(&op)).await) {
                Ok(Out::Errno(libc::EISDIR)) => at = vec![n],
                Ok(Out::Errno(e)) if e != libc::ENOENT => return Err(format!("after the end {op:?} answers errno {e}")),
                Err(_) => return Err(format!("after the end {op:?} hangs")),
                Ok(_) => break,
            }
        }
        Ok(at)
    }

    /// Starts a process that opens the volume.
    pub fn start(world: &World, fresh_kernel: bool, first_request: u64) -> Result<Life, String> {
        let runtime = runtime();
        let opened = runtime.block_on(async { tokio::time::timeout(PATIENCE, open(world, fresh_kernel)).await });
        let fs = opened.map_err(|_| "opening the volume hangs".to_owned())?.map_err(|e| format!("the volume does not open: {e}"))?;
        Ok(Life { real: Real::new(fs, first_request), runtime })
    }

    /// Starts a process that opens the volume as it is told.
    pub fn start_with(config: OpenConfig, first_request: u64) -> Result<Life, String> {
        let runtime = runtime();
        let opened = runtime.block_on(async { tokio::time::timeout(PATIENCE, FileSystem::open(config)).await });
        let fs = opened.map_err(|_| "opening the volume hangs".to_owned())?.map_err(|e| format!("the volume does not open: {e}"))?;
        Ok(Life { real: Real::new(fs, first_request), runtime })
    }

    /// Runs to the end of a future.
    pub fn run<T>(&mut self, f: impl AsyncFnOnce(&mut Real) -> T) -> T {
        self.runtime.block_on(f(&mut self.real))
    }

    /// Ends it without a word.
    pub fn end(self) {
        drop(self.real);
        self.runtime.shutdown_background();
    }
}

/// The first difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// After which operation, counted from 0.
    pub at: usize,
    /// What differs.
    pub why: String,
}

/// Runs a list on both sides.
pub fn run(ops: &[Op], seed: u64) -> Result<(), Failure> {
    let world = fresh_world(seed);
    let fail = |at: usize| move |why: String| Failure { at, why };
    let mut life = Life::start(&world, true, 0).map_err(fail(0))?;
    let mut model = Model::new(orlop_chunkfs::Clock::now(&*world.clock()));
    let mut same = Same::default();
    // After a takeover, the kernel's counts of older inodes are not known, so what has no name may stay.
    let mut exact = true;
    for (n, op) in ops.iter().enumerate() {
        let now = world.tick();
        let expected = model.apply(op, now);
        match op {
            Op::Reopen => {
                let closed = life.run(async |real| tokio::time::timeout(PATIENCE, real.fs.close()).await);
                closed.map_err(|_| fail(n)("closing hangs".to_owned()))?.map_err(|e| fail(n)(format!("close: {e}")))?;
                let next = life.real.next_request();
                life.end();
                world.kill();
                life = Life::start(&world, true, next).map_err(fail(n))?;
                exact = true;
            }
            Op::Kill => {
                world.kill();
                let (slots, next) = (life.real.slots.clone(), life.real.next_request());
                life.end();
                life = Life::start(&world, false, next).map_err(fail(n))?;
                life.real.slots = slots;
                exact = false;
            }
            Op::SyncAndCutPower => {
                life.run(async |real| real.fs.sync_all().await).map_err(|e| fail(n)(format!("sync: {e}")))?;
                world.cut_power([Loss::Any, Loss::Everything, Loss::Tail, Loss::Nothing][n % 4]);
                let next = life.real.next_request();
                life.end();
                life = Life::start(&world, true, next).map_err(fail(n))?;
                exact = true;
            }
            Op::Totals => {
                let got = life.run(async |real| settled(real, &expected).await);
                if exact && got != expected {
                    return Err(fail(n)(format!("{op:?} should answer {expected:?}, answers {got:?}")));
                }
                continue;
            }
            _ => {
                let got = life.run(async |real| real.apply(op).await);
                if got != expected {
                    return Err(fail(n)(format!("{op:?} should answer {}, answers {}", brief(&expected), brief(&got))));
                }
            }
        }
        if op.syncs() || n % 16 == 15 || n + 1 == ops.len() || matches!(op, Op::Kill) {
            let tree = life.run(async |real| Tree::of(&real.fs).await).map_err(|e| fail(n)(format!("after {op:?}: reading all: {e}")))?;
            if let Some(why) = Tree::of_model(&model).difference(&tree, &mut same) {
                return Err(fail(n)(format!("after {op:?}: {why}")));
            }
        }
    }
    let closed = life.run(async |real| real.fs.close().await);
    life.end();
    closed.map_err(|e| fail(ops.len())(format!("close: {e}")))
}

/// What has no name goes in the background: waits for it, within reason.
async fn settled(real: &mut Real, expected: &Out) -> Out {
    let mut got = real.apply(&Op::Totals).await;
    for _ in 0..100 {
        if got == *expected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        got = real.apply(&Op::Totals).await;
    }
    got
}

fn brief(out: &Out) -> String {
    match out {
        Out::Bytes(b) if b.len() > 32 => {
            let sum = b.iter().fold(7u32, |h, x| h.wrapping_mul(31).wrapping_add(u32::from(*x)));
            format!("{} bytes {:02x?}.. ({sum:08x})", b.len(), &b[..16])
        }
        other => format!("{other:?}"),
    }
}

/// The shortest list that was found to fail, by leaving operations out.
pub fn shrink(ops: &[Op], seed: u64, first: &Failure) -> (Vec<Op>, Failure) {
    let mut best = ops[..ops.len().min(first.at + 1)].to_vec();
    let mut failure = first.clone();
    let mut size = best.len().div_ceil(2);
    while size > 0 {
        let mut from = 0;
        while from < best.len() {
            let mut shorter = best.clone();
            shorter.drain(from..(from + size).min(shorter.len()));
            match run(&shorter, seed) {
                Err(f) => {
                    best = shorter;
                    best.truncate(f.at + 1);
                    failure = f;
                }
                Ok(()) => from += size,
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    (best, failure)
}
