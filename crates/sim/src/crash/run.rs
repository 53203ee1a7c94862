//! One cell of the matrix: run a script in a world with a fault, end it, open again, and judge.

use super::oracle::{History, judge, mixed, same_but_for_space};
use super::workload::Workload;
use crate::posix::model::Model;
use crate::posix::op::{At, Op};
use crate::posix::run::{Life, PATIENCE, fresh_world};
use crate::posix::tree::{Same, Tree};
use crate::posix::{Facts, Out};
use crate::world::{Fault, Loss, Rule, Weak, World};

/// How the world ends after the script, or at the freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process dies.
    Kill,
    /// Power fails.
    Power(Loss),
}

/// One cell.
#[derive(Clone)]
pub struct Plan {
    /// What goes wrong.
    pub fault: Option<Fault>,
    /// How it ends.
    pub end: End,
    /// Decides all that is left to chance.
    pub seed: u64,
    /// A planted bug.
    pub rule: Option<Rule>,
    /// Another kind of planted bug.
    pub weak: Weak,
    /// The opening after the end is struck too, at this step, and is then done again.
    pub strike_recovery: Option<u64>,
}

impl Plan {
    /// No bug, no second strike.
    pub fn new(fault: Option<Fault>, end: End, seed: u64) -> Self {
        Plan { fault, end, seed, rule: None, weak: Weak::default(), strike_recovery: None }
    }
}

/// What a cell came to, if nothing was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Steps of the script until its end.
    pub steps: u64,
    /// Whether the fault was met.
    pub hit: bool,
    /// How many operations were acknowledged.
    pub acknowledged: usize,
    /// Which state was found.
    pub state: usize,
    /// How often a planted bug changed anything.
    pub bent: u64,
}

/// How many steps a script takes when nothing goes wrong.
pub fn steps_of(workload: &Workload) -> Result<u64, String> {
    examine(workload, &Plan::new(None, End::Kill, 0)).map(|o| o.steps)
}

struct Cell {
    world: World,
    life: Option<Life>,
    history: History,
    model: Model,
    requests: u64,
}

/// Runs a cell; the error says what promise was broken.
pub fn examine(workload: &Workload, plan: &Plan) -> Result<Outcome, String> {
    let world = fresh_world(plan.seed);
    world.bend(plan.rule.clone());
    world.weaken(plan.weak);
    world.arm(plan.fault);
    let model = Model::new(orlop_chunkfs::Clock::now(&*world.clock()));
    let mut cell = Cell { life: None, history: History::new(model.clone()), model, world, requests: 0 };
    cell.play(workload)?;
    let (steps, hit) = (cell.world.steps(), cell.world.hit());
    cell.stop(plan.end);
    cell.world.arm(plan.strike_recovery.map(Fault::Freeze));
    let state = cell.aftermath(plan)?;
    Ok(Outcome { steps, hit, acknowledged: cell.history.acknowledged, state, bent: cell.world.bent() })
}

impl Cell {
    /// Runs the script to its end, or to the freeze, or to where the volume does not open any more.
    fn play(&mut self, workload: &Workload) -> Result<(), String> {
        if !self.start(true)? {
            return Ok(());
        }
        for (n, op) in workload.ops.iter().enumerate() {
            let now = self.world.tick();
            let mut after = self.model.clone();
            let expected = after.apply(op, now);
            let goes_on = match op {
                Op::Reopen => self.reopen(after)?,
                Op::Kill => {
                    self.world.die();
                    let slots = self.life.as_ref().map(|l| l.real.slots.clone()).unwrap_or_default();
                    self.end_life();
                    self.model = after;
                    let goes_on = self.start(false)?;
                    if let Some(life) = &mut self.life {
                        life.real.slots = slots;
                    }
                    goes_on
                }
                _ => self.one(op, after, &expected).map_err(|why| format!("operation {n}: {why}"))?,
            };
            if !goes_on || self.world.frozen() {
                break;
            }
        }
        Ok(())
    }

    fn start(&mut self, fresh_kernel: bool) -> Result<bool, String> {
        // A fault may strike the opening itself: then it is tried again, as a keeper would, unless the world stopped.
        for _ in 0..3 {
            match Life::start(&self.world, fresh_kernel, self.requests) {
                Ok(life) => {
                    self.life = Some(life);
                    return Ok(true);
                }
                Err(why) => {
                    if self.world.frozen() || self.world.hit() {
                        let frozen = self.world.frozen();
                        if frozen {
                            return Ok(false);
                        }
                        self.world.next_life();
                        continue;
                    }
                    return Err(why);
                }
            }
        }
        Ok(false)
    }

    fn end_life(&mut self) {
        if let Some(life) = self.life.take() {
            self.requests = life.real.next_request();
            life.end();
        }
    }

    fn reopen(&mut self, after: Model) -> Result<bool, String> {
        let life = self.life.as_mut().expect("a life goes on between operations");
        let closed = life.run(async |real| tokio::time::timeout(PATIENCE, real.fs.close()).await);
        if matches!(closed, Ok(Ok(()))) {
            self.history.done(after.clone(), true, false);
        } else if !self.world.frozen() {
            self.history.left(after.clone());
        }
        if self.world.frozen() {
            return Ok(false);
        }
        self.model = after;
        self.end_life();
        self.world.next_life();
        self.start(true)
    }

    /// One operation; tells whether the script goes on.
    fn one(&mut self, op: &Op, after: Model, expected: &Out) -> Result<bool, String> {
        let life = self.life.as_mut().expect("a life goes on between operations");
        let got = life.run(async |real| tokio::time::timeout(PATIENCE, real.apply(op)).await.ok());
        let in_steps = matches!(op, Op::Allocate { .. } | Op::Truncate { .. });
        if got.as_ref() == Some(expected) || (self.world.hit() && got.as_ref().is_some_and(|got| same_but_for_blocks(got, expected))) {
            // A sync that was rightly refused promises nothing.
            self.history.done(after.clone(), op.syncs() && *expected == Out::Unit, in_steps);
            self.model = after;
            return Ok(true);
        }
        if self.world.frozen() {
            self.history.under_way(after, in_steps);
            return Ok(false);
        }
        if !self.world.hit() {
            return Err(format!("{op:?} should answer {expected:?}, answers {got:?}, and nothing had gone wrong"));
        }
        let refused = match &got {
            // A fault that was met earlier makes the volume refuse what comes later; only these may be told.
            Some(Out::Errno(e)) => [libc::EIO, libc::ENOSPC, libc::EROFS].contains(e),
            None => true,
            Some(_) => false,
        };
        if !refused {
            return Err(format!("{op:?} should answer {expected:?} or an error of the disk, answers {got:?}"));
        }
        self.settle(op, after, in_steps)
    }

    /// An operation was refused: it must have done nothing, or all, or a part that is allowed.
    fn settle(&mut self, op: &Op, after: Model, in_steps: bool) -> Result<bool, String> {
        let life = self.life.as_mut().expect("a life goes on between operations");
        let read = life.run(async |real| tokio::time::timeout(PATIENCE, Tree::of(&real.fs)).await);
        if self.world.frozen() {
            self.history.under_way(after, in_steps);
            return Ok(false);
        }
        let found = match read {
            Ok(Ok(tree)) => tree,
            Ok(Err(e)) => return Err(format!("after {op:?} was refused nothing can be read: {e}")),
            Err(_) => return Err(format!("after {op:?} was refused reading hangs")),
        };
        if same_but_for_space(&Tree::of_model(&self.model), &found).is_none() {
            self.history.refused(after, self.world.fails_for_good());
            return Ok(true);
        }
        if same_but_for_space(&Tree::of_model(&after), &found).is_none() {
            // It took effect without being acknowledged: that is allowed.
            self.history.left(after.clone());
            self.model = after;
            return Ok(true);
        }
        let partly = in_steps && mixed(&self.model, &after, &found).is_none();
        if partly && let (Op::Allocate { at, .. } | Op::Truncate { at, .. }, Some(part)) = (op, self.adopt(&after, op, &found)) {
            let _: &At = at;
            self.history.left(part.clone());
            self.model = part;
            return Ok(true);
        }
        let why = same_but_for_space(&Tree::of_model(&self.model), &found).unwrap_or_default();
        Err(format!("{op:?} was refused and left something between: {why}"))
    }

    /// The model with one file as it was found.
    fn adopt(&self, after: &Model, op: &Op, found: &Tree) -> Option<Model> {
        let (Op::Allocate { at, .. } | Op::Truncate { at, .. }) = op else { return None };
        let mut part = self.model.clone();
        let ino = after.at(at).ok()?;
        let (name, _) = Tree::of_model(after).0.into_iter().find(|(_, e)| e.ino == ino)?;
        part.replace_contents(ino, &found.0.get(&name)?.pages, &found.0.get(&name)?.facts);
        Some(part)
    }

    fn stop(&mut self, end: End) {
        match end {
            End::Kill => self.world.kill(),
            End::Power(loss) => self.world.cut_power(loss),
        }
        self.end_life();
    }

    /// Opens again and judges; returns which state was found.
    fn aftermath(&mut self, plan: &Plan) -> Result<usize, String> {
        let power = matches!(plan.end, End::Power(_));
        if plan.strike_recovery.is_some() {
            if let Ok(life) = Life::start(&self.world, true, self.requests) {
                life.end();
            }
            // Whatever the first opening did, it owes what the end left.
            if power {
                self.world.cut_power(Loss::Any);
            } else {
                self.world.kill();
            }
        }
        self.world.bend(None);
        self.world.weaken(Weak::default());
        self.world.arm(None);
        let mut life = Life::start(&self.world, true, self.requests).map_err(|e| format!("after the end: {e}"))?;
        let found = whole(&mut life)?;
        let state = judge(&self.history, &found, power)?;
        checked(&mut life)?;

        // What was found is found again after a power failure right after the opening.
        life.end();
        self.world.cut_power(Loss::Everything);
        let mut life = Life::start(&self.world, true, self.requests + 1000).map_err(|e| format!("after opening and losing power: {e}"))?;
        let again = whole(&mut life)?;
        if let Some(why) = found.difference(&again, &mut Same::default()) {
            return Err(format!("opened, lost power, opened: {why}"));
        }

        // And it works: a file is made, written, synced, and there after a clean close and after the next failure.
        let at = life.free_name()?;
        let make = Op::Make { at: at.clone(), kind: orlop_chunkfs::FileKind::File, perm: 0o600 };
        let write = Op::Write { at: At::Path(at.clone()), offset: 100, len: 10_000, fill: 123 };
        for op in [make, write.clone(), Op::Fsync { at: At::Path(at.clone()) }] {
            let got = life.run(async |real| tokio::time::timeout(PATIENCE, real.apply(&op)).await);
            match got {
                Ok(Out::Errno(e)) if !matches!(op, Op::Make { .. } if e == libc::EEXIST) => {
                    return Err(format!("after the end {op:?} answers errno {e}"));
                }
                Err(_) => return Err(format!("after the end {op:?} hangs")),
                Ok(_) => {}
            }
        }
        let before = whole(&mut life)?;
        life.end();
        self.world.cut_power(Loss::Everything);
        let mut life = Life::start(&self.world, true, self.requests + 2000).map_err(|e| format!("after a sync and losing power: {e}"))?;
        let synced = whole(&mut life)?;
        if let Some(why) = before.difference(&synced, &mut Same::default()) {
            return Err(format!("written, synced, lost power, opened: {why}"));
        }
        let closed = life.run(async |real| tokio::time::timeout(PATIENCE, real.fs.close()).await);
        if !matches!(closed, Ok(Ok(()))) {
            return Err(format!("after the end it does not close: {closed:?}"));
        }
        life.end();
        self.world.cut_power(Loss::Everything);
        let mut life = Life::start(&self.world, true, self.requests + 3000).map_err(|e| format!("after closing: {e}"))?;
        let last = whole(&mut life)?;
        if let Some(why) = before.difference(&last, &mut Same::default()) {
            return Err(format!("closed, lost power, opened: {why}"));
        }
        checked(&mut life)?;
        life.end();
        Ok(state)
    }
}

/// What was refused may have taken room.
fn same_but_for_blocks(a: &Out, b: &Out) -> bool {
    matches!((a, b), (Out::Attr(a), Out::Attr(b)) if Facts { blocks: b.blocks, ..a.clone() } == *b)
}

fn whole(life: &mut Life) -> Result<Tree, String> {
    match life.run(async |real| tokio::time::timeout(PATIENCE, Tree::of(&real.fs)).await) {
        Ok(Ok(tree)) => Ok(tree),
        Ok(Err(e)) => Err(format!("after the end something cannot be read: {e}")),
        Err(_) => Err("after the end reading hangs".to_owned()),
    }
}

fn checked(life: &mut Life) -> Result<(), String> {
    match life.run(async |real| real.fs.check(true).await) {
        Ok(report) if report.problems.is_empty() => Ok(()),
        Ok(report) => Err(format!("the check finds: {}", report.problems.join("; "))),
        Err(e) => Err(format!("the check fails: {e}")),
    }
}
