//! One cell of the matrix: a script on a volume whose home is the store, struck at a step, and three questions after it.

use super::scripts::{Line, Script};
use super::weather::{At, Plant, Weather};
use crate::crash::{History, judge};
use crate::posix::Out;
use crate::posix::model::Model;
use crate::posix::op::{At as Where, Op};
use crate::posix::run::{Life, PATIENCE, PREFIX, STATE, fresh_world, keys, volume};
use crate::posix::tree::{Same, Tree};
use crate::world::{Fault, Loss, Rule, World};
use futures::FutureExt;
use object_store::{ObjectStore, ObjectStoreExt};
use orlop_chunkfs::{FsResult, OpenConfig, Remote};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// One cell.
#[derive(Clone, Default)]
pub struct Strike {
    /// At which step everything stops; the script runs to its end if absent.
    pub at: Option<u64>,
    /// Decides all that is left to chance.
    pub seed: u64,
    /// A planted bug on the way to the store.
    pub plant: Option<Plant>,
    /// A planted bug in what is done to the host's disk.
    pub rule: Option<Rule>,
}

/// A writer on a host, with what it was told and answered.
pub(super) struct Writer {
    pub(super) world: World,
    pub(super) weather: Arc<Weather>,
    pub(super) life: Option<Life>,
    pub(super) history: History,
    model: Model,
    requests: u64,
    seed: u64,
    plant: Option<Plant>,
    /// Fsyncs under way, with the state that each is to keep.
    under_way: Vec<(usize, JoinHandle<FsResult<()>>)>,
}

/// How a volume is opened on a host of the cloud.
pub(super) fn config(world: &World, store: Arc<dyn ObjectStore>, holder: &str, fresh_kernel: bool) -> OpenConfig {
    let remote = Remote { lease: Duration::from_secs(3600), holder: holder.to_owned(), cache_bytes: 8 << 20, ..Remote::default() };
    let config = OpenConfig {
        host: world.disk(),
        clock: world.clock(),
        fresh_kernel,
        remote: Some(remote),
        ..OpenConfig::new(volume(), store, PREFIX, STATE)
    };
    config.sealed(keys(world))
}

impl Writer {
    pub(super) fn new(world: World, seed: u64, plant: Option<Plant>, pause: Option<At>) -> Writer {
        let model = Model::new(orlop_chunkfs::Clock::now(&*world.clock()));
        let weather = Weather::new(world.store(), seed, plant, pause);
        Writer { weather, life: None, history: History::new(model.clone()), model, world, requests: 0, seed, plant, under_way: Vec::new() }
    }

    pub(super) fn start(&mut self, fresh_kernel: bool) -> Result<bool, String> {
        match Life::start_with(config(&self.world, self.weather.clone(), "a", fresh_kernel), self.requests) {
            Ok(life) => {
                self.life = Some(life);
                Ok(true)
            }
            Err(_) if self.world.frozen() => Ok(false),
            Err(why) => Err(why),
        }
    }

    fn end_life(&mut self) {
        self.collect();
        self.under_way.clear();
        if let Some(life) = self.life.take() {
            self.requests = life.real.next_request();
            life.end();
        }
    }

    /// Fsyncs that were answered meanwhile; returns the newest state that was promised by those.
    pub(super) fn collect(&mut self) -> Option<usize> {
        let mut newest = None;
        self.under_way.retain_mut(|(state, task)| {
            if !task.is_finished() {
                return true;
            }
            if let Some(Ok(Ok(()))) = task.now_or_never() {
                newest = newest.max(Some(*state));
            }
            false
        });
        if let Some(n) = newest {
            self.history.synced = self.history.synced.max(n);
        }
        newest
    }

    /// Runs a script from a line on, to its end or to where the world stops; returns the line where a pause began.
    pub(super) fn play(&mut self, script: &Script, from: usize) -> Result<Option<usize>, String> {
        for (n, line) in script.lines.iter().enumerate().skip(from) {
            let goes_on = match line {
                Line::SyncMeanwhile => {
                    self.sync_meanwhile();
                    true
                }
                Line::Do(op) => self.one(op).map_err(|why| format!("line {n}: {why}"))?,
            };
            if self.weather.is_paused() {
                return Ok(Some(n));
            }
            if !goes_on || self.world.frozen() {
                break;
            }
            self.collect();
        }
        Ok(None)
    }

    fn sync_meanwhile(&mut self) {
        let state = self.history.acknowledged;
        let life = self.life.as_mut().expect("a life goes on between lines");
        #[allow(clippy::async_yields_async, reason = "it is waited for later: that is the point")]
        let task = life.run(async |real| {
            let fs = real.fs.clone();
            let task = tokio::spawn(async move { fs.sync_all().await });
            // Long enough to be taken up and sent, mostly not to be answered.
            tokio::time::sleep(Duration::from_millis(20)).await;
            task
        });
        self.under_way.push((state, task));
    }

    /// One operation; tells whether the script goes on.
    fn one(&mut self, op: &Op) -> Result<bool, String> {
        let now = self.world.tick();
        let mut after = self.model.clone();
        let expected = after.apply(op, now);
        match op {
            Op::Kill => {
                self.world.die();
                self.model = after;
                let slots = self.life.as_ref().map(|l| l.real.slots.clone()).unwrap_or_default();
                self.end_life();
                self.weather = Weather::new(self.world.store(), self.seed + 1, self.plant, None);
                let goes_on = self.start(false)?;
                if let Some(life) = &mut self.life {
                    life.real.slots = slots;
                }
                return Ok(goes_on);
            }
            Op::Reopen => {
                let life = self.life.as_mut().expect("a life goes on between lines");
                let closed = life.run(async |real| tokio::time::timeout(PATIENCE, real.fs.close()).await);
                // What is held up on its way to the store keeps it from closing.
                if self.world.frozen() || (self.weather.is_paused() && !matches!(closed, Ok(Ok(())))) {
                    return Ok(false);
                }
                if !matches!(closed, Ok(Ok(()))) {
                    return Err(format!("it does not close: {closed:?}"));
                }
                self.history.done(after.clone(), true, false);
                self.model = after;
                self.end_life();
                self.world.next_life();
                self.weather = Weather::new(self.world.store(), self.seed + 2, self.plant, None);
                return self.start(true);
            }
            _ => {}
        }
        let in_steps = matches!(op, Op::Allocate { .. } | Op::Truncate { .. });
        let (life, weather) = (self.life.as_mut().expect("a life goes on between lines"), self.weather.clone());
        let got = life.run(async |real| {
            tokio::select! {
                biased;
                () = weather.paused() => None,
                got = tokio::time::timeout(PATIENCE, real.apply(op)) => got.ok(),
            }
        });
        if got.as_ref() == Some(&expected) {
            self.history.done(after.clone(), op.syncs() && expected == Out::Unit, in_steps);
            self.model = after;
            return Ok(true);
        }
        if self.world.frozen() || weather.is_paused() {
            self.history.under_way(after, in_steps);
            return Ok(false);
        }
        Err(format!("{op:?} should answer {expected:?}, answers {got:?}, and nothing had gone wrong"))
    }
}

/// How many steps a script takes when nothing strikes.
pub fn steps_of(script: &Script, seed: u64) -> Result<u64, String> {
    let (steps, _) = examine(script, &Strike { seed, ..Strike::default() })?;
    Ok(steps)
}

/// Runs a cell; the error says what promise was broken. Returns whether the strike was met.
pub fn strike(script: &Script, plan: &Strike) -> Result<bool, String> {
    examine(script, plan).map(|(_, hit)| hit)
}

fn examine(script: &Script, plan: &Strike) -> Result<(u64, bool), String> {
    let world = fresh_world(plan.seed);
    world.bend(plan.rule.clone());
    world.arm(plan.at.map(Fault::Freeze));
    let mut writer = Writer::new(world, plan.seed, plan.plant, None);
    if writer.start(true)? {
        writer.play(script, 0)?;
    }
    let (steps, hit) = (writer.world.steps(), writer.world.hit());
    writer.end_life();
    let (world, history) = (&writer.world, &writer.history);

    let lost = world.fork(plan.seed + 1).beside(plan.seed + 2).with_folder(Path::new(STATE));
    afterwards(&lost, history, true).map_err(|why| format!("the host is lost: {why}"))?;
    let same = world.fork(plan.seed + 3);
    same.kill();
    afterwards(&same, history, false).map_err(|why| format!("the process died: {why}"))?;
    let power = world.fork(plan.seed + 4);
    power.cut_power(Loss::Any);
    afterwards(&power, history, true).map_err(|why| format!("power failed: {why}"))?;
    Ok((steps, hit))
}

/// As if the lease of whoever had the volume had passed.
pub(super) fn lease_passes(world: &World) -> Result<(), String> {
    let at = object_store::path::Path::from(format!("{PREFIX}/owner.json"));
    let objects = world.objects();
    let edit = async {
        let bytes = match objects.get(&at).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(()),
            got => got?.bytes().await?,
        };
        let Some(released) = orlop_chunkfs::as_if_released(&bytes) else {
            return Err(object_store::Error::Generic { store: "sim", source: "it is damaged".into() });
        };
        objects.put(&at, released.into()).await.map(drop)
    };
    futures::executor::block_on(edit).map_err(|e: object_store::Error| format!("the owner record: {e}"))
}

/// Opens on a host after the end, judges, writes on, and loses that host too.
fn afterwards(world: &World, history: &History, lost: bool) -> Result<(), String> {
    let mut life = open(world, "b")?;
    let found = whole(&mut life)?;
    judge(history, &found, lost)?;
    checked(&mut life)?;
    let before = write_on(&mut life)?;
    life.end();
    // Whoever comes then finds exactly that.
    let next = world.beside(7).with_folder(Path::new(STATE));
    let mut life = open(&next, "c")?;
    let again = whole(&mut life)?;
    if let Some(why) = before.difference(&again, &mut Same::default()) {
        return Err(format!("written, synced, host lost: {why}"));
    }
    checked(&mut life)?;
    life.end();
    Ok(())
}

pub(super) fn open(world: &World, holder: &str) -> Result<Life, String> {
    lease_passes(world)?;
    Life::start_with(config(world, world.store(), holder, true), 10_000)
}

/// A file is made, written and synced.
pub(super) fn write_on(life: &mut Life) -> Result<Tree, String> {
    let at = life.free_name()?;
    for op in [
        Op::Make { at: at.clone(), kind: orlop_chunkfs::FileKind::File, perm: 0o600 },
        Op::Write { at: Where::Path(at.clone()), offset: 100, len: 10_000, fill: 123 },
        Op::Fsync { at: Where::Path(at.clone()) },
    ] {
        match life.run(async |real| tokio::time::timeout(PATIENCE, real.apply(&op)).await) {
            Ok(Out::Errno(e)) => return Err(format!("after the end {op:?} answers errno {e}")),
            Err(_) => return Err(format!("after the end {op:?} hangs")),
            Ok(_) => {}
        }
    }
    whole(life)
}

pub(super) fn whole(life: &mut Life) -> Result<Tree, String> {
    match life.run(async |real| tokio::time::timeout(PATIENCE, Tree::of(&real.fs)).await) {
        Ok(Ok(tree)) => Ok(tree),
        Ok(Err(e)) => Err(format!("something cannot be read: {e}")),
        Err(_) => Err("reading hangs".to_owned()),
    }
}

pub(super) fn checked(life: &mut Life) -> Result<(), String> {
    match life.run(async |real| real.fs.check(true).await) {
        Ok(report) if report.problems.is_empty() => Ok(()),
        Ok(report) => Err(format!("the check finds: {}", report.problems.join("; "))),
        Err(e) => Err(format!("the check fails: {e}")),
    }
}
