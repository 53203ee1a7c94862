//! The store of a world: every change of an object is a step like those of the disk. An acknowledged object is
//! durable, as every store promises; one whose put was under way when the world stopped may be there or not.

use super::{Fate, Shared, Step, gone};
use async_trait::async_trait;
use object_store::path::Path;
use object_store::{Error, Result};
use orlop_store::wrap::{Hook, Op};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

/// The hook that asks the world.
#[derive(Debug)]
pub(crate) struct Gate {
    shared: Arc<Mutex<Shared>>,
    life: u64,
}

fn error(source: io::Error) -> Error {
    Error::Generic { store: "world", source: Box::new(source) }
}

impl Gate {
    pub(crate) fn new(shared: Arc<Mutex<Shared>>) -> Self {
        let life = shared.lock().life;
        Gate { shared, life }
    }
}

#[async_trait]
impl Hook for Gate {
    async fn before(&self, op: &Op) -> Result<()> {
        let step = match op {
            Op::Put { at, .. } | Op::Complete { at, .. } => Step::Put(at.to_string()),
            Op::Delete { at } => Step::Delete(at.to_string()),
            Op::Copy { from, to, .. } | Op::Rename { from, to } => Step::Move(from.to_string(), to.to_string()),
            Op::Begin { .. } | Op::Part { .. } | Op::Get { .. } | Op::List { .. } => {
                return self.shared.lock().alive(self.life).map_err(error);
            }
        };
        let fate = self.shared.lock().step(self.life, step).map_err(error)?;
        match fate {
            // A store that is skipped would answer with an object that is not there: no planted bug does that.
            Fate::Do | Fate::Skip | Fate::Hold | Fate::Stop(true) => Ok(()),
            Fate::Fail(code) => Err(error(io::Error::from_raw_os_error(code))),
            Fate::Stop(false) => Err(error(gone())),
        }
    }

    async fn after(&self, op: &Op, _bytes: u64, ok: bool) -> Result<()> {
        if let (true, Op::Put { at, .. } | Op::Complete { at, .. }) = (ok, op) {
            self.shared.lock().stored.push(at.clone());
        }
        // A put that took effect as the world stopped is not acknowledged.
        self.shared.lock().alive(self.life).map_err(error)
    }

    fn change(&self, _at: &Path, _range: std::ops::Range<u64>, bytes: bytes::Bytes) -> Result<bytes::Bytes> {
        Ok(bytes)
    }
}
