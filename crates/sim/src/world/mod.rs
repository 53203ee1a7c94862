//! A host's disk, a store and a clock, all in memory, all going through one counter of steps.
//!
//! Every change that reaches the disk or the store, and every sync, is a step with a number. A [`Fault`] says what
//! happens at which step. [`World::kill`] is the death of the process: what was written so far stays.
//! [`World::cut_power`] is the death of the machine: what was synced stays, of the rest any part may.
//! Both end a life: handles of an earlier life answer only errors, as a dead process does nothing more.

mod disk;
mod image;
mod store;

pub use disk::SimDisk;
pub use image::Loss;

use crate::rng::Rng;
use image::Image;
use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt};
use orlop_chunkfs::{Clock, Time};
use orlop_store::wrap::Hooked;
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What goes wrong at which step. Steps count from 1 since the last [`World::arm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The step fails with this errno; what a failed write left on the disk is unknown.
    FailOnce(u64, i32),
    /// The first step fails with this errno, and at the second the world stops.
    FailThenFreeze(u64, i32, u64),
    /// From this step on every step fails with this errno.
    FailFrom(u64, i32),
    /// The world stops in the middle of this step: it may have taken effect or not.
    Freeze(u64),
}

/// What a step does, for rules and for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A file is created.
    Create(String),
    /// Bytes are written to a file.
    Write(String, u64, usize),
    /// A file is cut or extended.
    Resize(String, u64),
    /// A range of a file is given back to the disk.
    Punch(String, u64, u64),
    /// A file's bytes are made durable.
    SyncData(String),
    /// The names in a folder are made durable.
    SyncDir(String),
    /// A file gets another name.
    Rename(String, String),
    /// A file's name is removed.
    Remove(String),
    /// A folder is made.
    MakeDir(String),
    /// An object is written, or a multipart upload ended.
    Put(String),
    /// An object is deleted.
    Delete(String),
    /// An object is copied or renamed.
    Move(String, String),
}

/// What a [`Rule`] does to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Do,
    /// The step is not done, and success is reported.
    Skip,
    /// The bytes of a write stay in the process until the file is synced.
    Hold,
}

/// Bends steps: a planted bug.
pub type Rule = Arc<dyn Fn(&Step) -> Verdict + Send + Sync>;

/// A rule that changes nothing and remembers the step of this number, as it is shown.
pub fn watch(n: u64) -> (Rule, Arc<Mutex<Option<String>>>) {
    let (seen, shown) = (AtomicU64::new(0), Arc::new(Mutex::new(None)));
    let note = shown.clone();
    let rule: Rule = Arc::new(move |step: &Step| {
        if seen.fetch_add(1, Ordering::Relaxed) + 1 == n {
            *note.lock() = Some(format!("{step:?}"));
        }
        Verdict::Do
    });
    (rule, shown)
}

/// What happens to one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Do,
    Skip,
    Hold,
    /// Fails; of a write the first bytes may arrive.
    Fail(i32),
    /// The world stops; the flag says whether the step still takes effect.
    Stop(bool),
}

#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) image: Image,
    /// Which life the world is in; handles of another are dead.
    pub(crate) life: u64,
    frozen: bool,
    steps: u64,
    fault: Option<Fault>,
    hit: bool,
    seed: u64,
    sealed: bool,
    rng: Option<Rng>,
    rule: Option<Rule>,
    bent: u64,
    trace: Option<Vec<Step>>,
    clock: u64,
    /// Objects in the order in which they were acknowledged.
    pub(crate) stored: Vec<StorePath>,
    weak: Weak,
}

/// How the world itself breaks its promises: planted bugs that no single step can show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weak {
    /// After a failed sync the pages count as clean: a later sync says that all is well and writes nothing. That is
    /// no bug of ours but what Linux does; it is here since it is a matter of the host, not of a step.
    pub failed_syncs_lose_pages: bool,
    /// A failed write or sync is reported as done.
    pub errors_are_swallowed: bool,
    /// The store acknowledges objects that a power failure takes: the last ones are gone after it.
    pub store_forgets_at_power_loss: bool,
    /// The store acknowledges objects that the process still holds: the last ones are gone when it dies.
    pub store_forgets_at_death: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("life", &self.life).field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn rng(&mut self) -> &mut Rng {
        self.rng.get_or_insert_with(|| Rng::new(0))
    }

    /// Decides about the next step; an error if the life is over.
    pub(crate) fn step(&mut self, life: u64, step: Step) -> io::Result<Fate> {
        self.alive(life)?;
        self.steps += 1;
        let n = self.steps;
        let verdict = self.rule.as_ref().map_or(Verdict::Do, |rule| rule(&step));
        if let Some(trace) = &mut self.trace {
            trace.push(step);
        }
        match self.fault {
            Some(Fault::FailOnce(at, errno) | Fault::FailThenFreeze(at, errno, _)) if n == at => {
                self.hit = true;
                return Ok(Fate::Fail(errno));
            }
            Some(Fault::FailFrom(at, errno)) if n >= at => {
                self.hit = true;
                return Ok(Fate::Fail(errno));
            }
            Some(Fault::Freeze(at) | Fault::FailThenFreeze(_, _, at)) if n == at => {
                self.hit = true;
                self.frozen = true;
                let takes_effect = self.rng().one_in(2);
                return Ok(Fate::Stop(takes_effect && verdict == Verdict::Do));
            }
            _ => {}
        }
        Ok(match verdict {
            Verdict::Do => Fate::Do,
            Verdict::Skip => {
                self.bent += 1;
                Fate::Skip
            }
            Verdict::Hold => {
                self.bent += 1;
                Fate::Hold
            }
        })
    }

    pub(crate) fn swallows(&mut self) -> bool {
        self.bent += u64::from(self.weak.errors_are_swallowed);
        self.weak.errors_are_swallowed
    }

    pub(crate) fn loses_pages(&self) -> bool {
        self.weak.failed_syncs_lose_pages
    }

    pub(crate) fn alive(&self, life: u64) -> io::Result<()> {
        if self.frozen || life != self.life { Err(gone()) } else { Ok(()) }
    }
}

/// What a dead process gets, if anything still runs in it.
pub(crate) fn gone() -> io::Error {
    io::Error::other("this life is over")
}

/// The world. Clones are the same world.
#[derive(Debug, Clone)]
pub struct World {
    shared: Arc<Mutex<Shared>>,
    objects: Arc<InMemory>,
}

/// A quarter of all worlds, whichever way they are counted.
fn seals(seed: u64) -> bool {
    (seed / 2000 + seed / 2) % 4 == 1
}

impl World {
    /// An empty world; `seed` decides everything that is left to chance in it.
    pub fn new(seed: u64) -> Self {
        let mut shared = Shared { seed, sealed: seals(seed), rng: Some(Rng::new(seed)), ..Shared::default() };
        shared.image.boot = 1;
        World { shared: Arc::new(Mutex::new(shared)), objects: Arc::new(InMemory::new()) }
    }

    /// A folder that is there, durably, before anything starts.
    pub fn with_folder(self, dir: &Path) -> Self {
        self.shared.lock().image.found(dir);
        self
    }

    /// A copy of everything, disk and store. What happens in one is not seen in the other.
    pub fn fork(&self, seed: u64) -> World {
        let s = self.shared.lock();
        let (image, rng) = (s.image.clone(), Some(Rng::new(seed)));
        // One that was plain may be sealed from here on, as after an update.
        let sealed = s.sealed || seals(seed);
        let shared = Shared { image, life: s.life, clock: s.clock, seed, sealed, rng, ..Shared::default() };
        World { shared: Arc::new(Mutex::new(shared)), objects: Arc::new(self.objects.fork()) }
    }

    /// Another host with an empty disk and the same store.
    pub fn beside(&self, seed: u64) -> World {
        let clock = self.shared.lock().clock;
        let mut shared = Shared { seed, sealed: seals(seed), rng: Some(Rng::new(seed)), clock, ..Shared::default() };
        shared.image.boot = 1;
        World { shared: Arc::new(Mutex::new(shared)), objects: Arc::clone(&self.objects) }
    }

    /// What decides everything that is left to chance in it.
    pub fn seed(&self) -> u64 {
        self.shared.lock().seed
    }

    /// Whether the volume's files on this host are sealed.
    pub fn is_sealed(&self) -> bool {
        self.shared.lock().sealed
    }

    /// The disk, as a process of this life sees it.
    pub fn disk(&self) -> Arc<SimDisk> {
        Arc::new(SimDisk::new(Arc::clone(&self.shared)))
    }

    /// The store, as a process of this life sees it.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        let inner: Arc<dyn ObjectStore> = Arc::clone(&self.objects) as _;
        Hooked::new(inner, Arc::new(store::Gate::new(Arc::clone(&self.shared))))
    }

    /// The clock: stands still until it is told to go on.
    pub fn clock(&self) -> Arc<SimClock> {
        Arc::new(SimClock(Arc::clone(&self.shared)))
    }

    /// Counts steps from here; `fault` happens at its step.
    pub fn arm(&self, fault: Option<Fault>) {
        let mut s = self.shared.lock();
        s.steps = 0;
        s.fault = fault;
        s.hit = false;
    }

    /// Bends steps from here on.
    pub fn bend(&self, rule: Option<Rule>) {
        self.shared.lock().rule = rule;
    }

    /// Breaks the world's own promises from here on.
    pub fn weaken(&self, weak: Weak) {
        self.shared.lock().weak = weak;
    }

    /// Whether the armed fault has happened.
    pub fn hit(&self) -> bool {
        self.shared.lock().hit
    }

    /// Whether nothing can be written any more, not even what takes back a write that failed.
    pub fn fails_for_good(&self) -> bool {
        let s = self.shared.lock();
        s.hit && matches!(s.fault, Some(Fault::FailFrom(..)))
    }

    /// How many steps a rule has bent.
    pub fn bent(&self) -> u64 {
        self.shared.lock().bent
    }

    /// Whether the world stands still.
    pub fn frozen(&self) -> bool {
        self.shared.lock().frozen
    }

    /// Steps since the last [`World::arm`].
    pub fn steps(&self) -> u64 {
        self.shared.lock().steps
    }

    /// Keeps every step from here on.
    pub fn trace(&self) {
        self.shared.lock().trace = Some(Vec::new());
    }

    /// What was kept.
    pub fn take_trace(&self) -> Vec<Step> {
        self.shared.lock().trace.take().unwrap_or_default()
    }

    /// Lets a second pass.
    pub fn tick(&self) -> Time {
        let mut s = self.shared.lock();
        s.clock += 1;
        time_of(s.clock)
    }

    /// The process ended by itself; another may start. Faults and the count of steps go on.
    pub fn next_life(&self) {
        let mut s = self.shared.lock();
        s.life += 1;
        s.image.release();
    }

    /// The process dies. What it wrote stays; nothing more comes from it. Faults and the count of steps go on.
    pub fn die(&self) {
        self.next_life();
        let mut s = self.shared.lock();
        if s.weak.store_forgets_at_death {
            self.forget_objects(&mut s);
        }
    }

    /// The process dies for good: the world goes on after a freeze, and without faults.
    pub fn kill(&self) {
        self.die();
        let mut s = self.shared.lock();
        s.frozen = false;
        s.fault = None;
    }

    /// Takes the last acknowledged objects out of the store.
    fn forget_objects(&self, s: &mut Shared) {
        let n = 1 + s.rng().below(3) as usize;
        // The header was there before anything started.
        s.stored.retain(|at| at.as_ref().contains("/meta/"));
        let keep = s.stored.len().saturating_sub(n);
        for at in s.stored.split_off(keep) {
            s.bent += 1;
            // Memory answers at once; an object that is gone already is fine.
            let _ = futures::executor::block_on(self.objects.delete(&at));
        }
    }

    /// The machine loses power. Of what was not synced, `loss` says how much may stay.
    pub fn cut_power(&self, loss: Loss) {
        self.kill();
        let mut s = self.shared.lock();
        let mut rng = s.rng().clone();
        s.image.cut_power(loss, &mut rng);
        s.rng = Some(rng);
        if s.weak.store_forgets_at_power_loss {
            self.forget_objects(&mut s);
        }
    }

    /// Changes bytes of a file behind everybody's back. Returns whether there was such a file and byte.
    pub fn damage(&self, name_part: &str, offset: u64) -> bool {
        self.shared.lock().image.damage(name_part, offset)
    }

    /// The files that are there, with their sizes.
    pub fn files(&self) -> Vec<(String, u64)> {
        self.shared.lock().image.files()
    }

    /// The objects behind the store, without steps or faults.
    pub fn objects(&self) -> Arc<InMemory> {
        Arc::clone(&self.objects)
    }

    /// A number that differs if anything on the disk differs.
    pub fn digest(&self) -> u64 {
        self.shared.lock().image.digest()
    }
}

fn time_of(clock: u64) -> Time {
    Time { sec: 1_700_000_000 + clock as i64, nsec: (clock * 1_000_003 % 1_000_000_000) as u32 }
}

/// A world's clock.
#[derive(Debug)]
pub struct SimClock(Arc<Mutex<Shared>>);

impl Clock for SimClock {
    fn now(&self) -> Time {
        time_of(self.0.lock().clock)
    }
}
