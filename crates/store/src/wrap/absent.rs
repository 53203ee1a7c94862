//! A store of which it is known that some objects are never there: nobody has to ask for them.

use super::{Hook, Hooked, Op};
use async_trait::async_trait;
use object_store::path::Path;
use object_store::{Error, ObjectStore, Result};
use std::sync::Arc;

/// The hook that answers reads of objects that are never written with [`Error::NotFound`].
#[derive(Debug)]
pub struct Absent {
    is_absent: fn(&Path) -> bool,
}

impl Absent {
    /// `is_absent` says of which objects it is known. Writing one all the same is refused: it could not be read again.
    pub fn wrap(inner: Arc<dyn ObjectStore>, is_absent: fn(&Path) -> bool) -> Arc<Hooked<Absent>> {
        Hooked::new(inner, Arc::new(Absent { is_absent }))
    }

    fn look(&self, at: &Path) -> Result<()> {
        if (self.is_absent)(at) {
            return Err(Error::NotFound { path: at.to_string(), source: "such an object is never written".into() });
        }
        Ok(())
    }

    fn write(&self, at: &Path) -> Result<()> {
        self.look(at).map_err(|e| Error::PermissionDenied { path: at.to_string(), source: Box::new(e) })
    }
}

#[async_trait]
impl Hook for Absent {
    async fn before(&self, op: &Op) -> Result<()> {
        match op {
            Op::Put { at, .. } | Op::Begin { at } => self.write(at),
            Op::Get { at, .. } => self.look(at),
            Op::Copy { from, to, .. } | Op::Rename { from, to } => {
                self.look(from)?;
                self.write(to)
            }
            Op::Part { .. } | Op::Complete { .. } | Op::List { .. } | Op::Delete { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrap::Meter;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn it_is_a_store_like_any_other() {
        crate::testing::run(|| Absent::wrap(Arc::new(InMemory::new()), |_| false) as Arc<dyn ObjectStore>).await;
    }

    #[tokio::test]
    async fn what_is_never_there_costs_no_request_and_is_not_written() {
        let meter = Meter::wrap(Arc::new(InMemory::new()));
        let store = Absent::wrap(meter.clone(), |at| at.as_ref().ends_with(".boundary"));
        let (at, other) = (Path::from("meta/gc/manifest.boundary"), Path::from("meta/gc/other"));
        assert!(matches!(store.get(&at).await, Err(Error::NotFound { .. })));
        assert!(matches!(store.head(&at).await, Err(Error::NotFound { .. })));
        assert!(matches!(store.put(&at, "x".into()).await, Err(Error::PermissionDenied { .. })));
        assert_eq!(meter.hook().counts(), Default::default());
        store.put(&other, "x".into()).await.expect("put");
        assert_eq!(store.get(&other).await.expect("there").bytes().await.expect("bytes"), "x");
        let counts = meter.hook().counts();
        assert_eq!((counts.writes, counts.reads, counts.failed), (1, 1, 0));
    }
}
