//! Named points before and after every durable step, at which a test can let the step fail or the process "die".
//!
//! A real run has none: [`Faults::default`] lets everything go on. Dying means never to go on from there, which,
//! with the task dropped afterwards, leaves exactly what a kill -9 would have left.

use orlop_model::{Error, Result};
use std::sync::Arc;

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing special.
    Go,
    /// The step reports an error; at a point after the step it has taken effect nevertheless.
    Fail,
    /// Nothing happens any more.
    Die,
}

type Judge = dyn Fn(&str) -> Fate + Send + Sync;

/// Who decides at each point.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Judge>>);

impl Faults {
    /// Asks this function at every point.
    pub fn new(judge: impl Fn(&str) -> Fate + Send + Sync + 'static) -> Self {
        Faults(Some(Arc::new(judge)))
    }

    pub(crate) async fn at(&self, point: &str) -> Result<()> {
        let Some(judge) = &self.0 else { return Ok(()) };
        match judge(point) {
            Fate::Go => Ok(()),
            Fate::Fail => Err(Error::unavailable(format!("injected failure at {point}"))),
            Fate::Die => futures::future::pending().await,
        }
    }
}
