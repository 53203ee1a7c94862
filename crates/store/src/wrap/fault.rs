//! Makes a store misbehave, the same way for the same seed.

use super::{Hook, Hooked, Op};
use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectStore, Result};
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// What goes wrong, and how often. Numbers count from 1; what is absent does not happen.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Equal seeds and equal calls give equal faults.
    pub seed: u64,
    /// This mutation fails and is not made.
    pub fail_mutation: Option<u64>,
    /// This mutation is made, but the caller is told that it failed: an answer lost on the way.
    pub lose_answer: Option<u64>,
    /// From this mutation on nothing answers but with an error, until [`Fault::heal`].
    pub outage_from: Option<u64>,
    /// One call in this many fails, of any kind.
    pub fail_one_in: Option<u64>,
    /// One read in this many returns wrong bytes.
    pub damage_one_in: Option<(u64, Damage)>,
    /// Each call takes up to this much longer.
    pub latency: Option<Duration>,
    /// The operating system's error at the bottom of a failure; a plain "connection lost" if absent.
    pub errno: Option<i32>,
}

/// How a read is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// One bit differs.
    Flip,
    /// The end is missing.
    Truncate,
    /// The right length, all zeros.
    Zero,
}

/// The hook that makes faults.
#[derive(Debug)]
pub struct Fault {
    plan: Mutex<Plan>,
    state: Mutex<u64>,
    mutations: AtomicU64,
    calls: AtomicU64,
    injected: AtomicU64,
}

impl Fault {
    /// Puts faults around a store.
    pub fn wrap(store: Arc<dyn ObjectStore>, plan: Plan) -> Arc<Hooked<Fault>> {
        let fault = Fault {
            // SplitMix64 wants no special seed, 0 included.
            state: Mutex::new(plan.seed),
            plan: Mutex::new(plan),
            mutations: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            injected: AtomicU64::new(0),
        };
        Hooked::new(store, Arc::new(fault))
    }

    /// How many mutations were asked for so far.
    pub fn mutations(&self) -> u64 {
        self.mutations.load(SeqCst)
    }

    /// How many calls of any kind.
    pub fn calls(&self) -> u64 {
        self.calls.load(SeqCst)
    }

    /// How many faults were made. A test that expects some checks that this is not 0.
    pub fn injected(&self) -> u64 {
        self.injected.load(SeqCst)
    }

    /// Nothing goes wrong from here on.
    pub fn heal(&self) {
        *self.locked() = Plan::default();
    }

    /// Other faults from here on; the counts go on.
    pub fn set(&self, plan: Plan) {
        *self.locked() = plan;
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().expect("no code panics while it holds this lock")
    }

    fn roll(&self, below: u64) -> u64 {
        let mut state = self.state.lock().expect("no code panics while it holds this lock");
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn failure(&self, plan: &Plan, op: &Op) -> Error {
        self.injected.fetch_add(1, SeqCst);
        let source: Box<dyn std::error::Error + Send + Sync> = match plan.errno {
            Some(code) => Box::new(std::io::Error::from_raw_os_error(code)),
            None => format!("connection lost ({})", op.path()).into(),
        };
        Error::Generic { store: "fault", source }
    }
}

#[async_trait]
impl Hook for Fault {
    async fn before(&self, op: &Op) -> Result<()> {
        let plan = self.locked().clone();
        self.calls.fetch_add(1, SeqCst);
        let n = if op.mutates() { self.mutations.fetch_add(1, SeqCst) + 1 } else { self.mutations.load(SeqCst) };
        if let Some(most) = plan.latency {
            tokio::time::sleep(Duration::from_micros(self.roll(most.as_micros() as u64 + 1))).await;
        }
        let out = plan.outage_from.is_some_and(|from| n >= from);
        let this = op.mutates() && plan.fail_mutation == Some(n);
        let some = plan.fail_one_in.is_some_and(|k| self.roll(k) == 0);
        if out || this || some { Err(self.failure(&plan, op)) } else { Ok(()) }
    }

    async fn after(&self, op: &Op, _bytes: u64, ok: bool) -> Result<()> {
        let plan = self.locked().clone();
        if ok && op.mutates() && plan.lose_answer == Some(self.mutations.load(SeqCst)) { Err(self.failure(&plan, op)) } else { Ok(()) }
    }

    fn reads(&self) -> bool {
        self.locked().damage_one_in.is_some()
    }

    fn change(&self, _at: &Path, _range: Range<u64>, bytes: Bytes) -> Result<Bytes> {
        let Some((k, damage)) = self.locked().damage_one_in else { return Ok(bytes) };
        if bytes.is_empty() || self.roll(k) != 0 {
            return Ok(bytes);
        }
        self.injected.fetch_add(1, SeqCst);
        let mut wrong = bytes.to_vec();
        let at = self.roll(wrong.len() as u64) as usize;
        match damage {
            Damage::Flip => wrong[at] ^= 1 << self.roll(8),
            Damage::Truncate => wrong.truncate(at),
            Damage::Zero => wrong.fill(0),
        }
        Ok(wrong.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    fn wrap(plan: Plan) -> Arc<Hooked<Fault>> {
        Fault::wrap(Arc::new(InMemory::new()), plan)
    }

    #[tokio::test]
    async fn the_named_mutation_fails_and_no_other() {
        let store = wrap(Plan { fail_mutation: Some(2), errno: Some(28), ..Plan::default() });
        for (name, works) in [("a", true), ("b", false), ("c", true)] {
            let put = store.put(&Path::from(name), "x".into()).await;
            assert_eq!(put.is_ok(), works, "{name}");
            if let Err(e) = put {
                assert_eq!(crate::error("put", &e).kind, orlop_model::ErrorKind::NoSpace);
            }
            assert_eq!(store.head(&Path::from(name)).await.is_ok(), works, "{name}");
        }
        assert_eq!(store.hook().injected(), 1);
    }

    #[tokio::test]
    async fn a_lost_answer_leaves_the_object() {
        let store = wrap(Plan { lose_answer: Some(1), ..Plan::default() });
        assert!(store.put(&Path::from("a"), "x".into()).await.is_err());
        assert!(store.head(&Path::from("a")).await.is_ok());
    }

    #[tokio::test]
    async fn an_outage_lasts_until_it_is_healed() {
        let store = wrap(Plan { outage_from: Some(2), ..Plan::default() });
        let at = Path::from("a");
        store.put(&at, "x".into()).await.expect("before the outage");
        assert!(store.put(&at, "y".into()).await.is_err());
        assert!(store.get(&at).await.is_err());
        store.hook().heal();
        assert_eq!(store.get(&at).await.expect("healed").bytes().await.expect("reads"), "x");
    }

    #[tokio::test]
    async fn equal_seeds_damage_equally() {
        let mut seen = Vec::new();
        for seed in [1, 1, 2] {
            let store = wrap(Plan { seed, damage_one_in: Some((2, Damage::Flip)), ..Plan::default() });
            let at = Path::from("a");
            store.put(&at, vec![0; 64].into()).await.expect("puts");
            let mut reads = Vec::new();
            for _ in 0..20 {
                reads.push(store.get(&at).await.expect("answers").bytes().await.expect("reads"));
            }
            assert!(store.hook().injected() > 0 && store.hook().injected() < 20);
            seen.push(reads);
        }
        assert_eq!(seen[0], seen[1]);
        assert_ne!(seen[0], seen[2]);
    }
}
