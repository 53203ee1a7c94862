//! Keeps every mutation in order, so that the store can be had as it was after any of them.

use super::{Hook, Hooked, Op};
use async_trait::async_trait;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, Result};
use std::sync::{Arc, Mutex};

/// A change that was made.
#[derive(Debug, Clone)]
pub enum Mutation {
    /// The object holds these bytes now.
    Put {
        /// Which.
        at: Path,
        /// Its bytes.
        payload: PutPayload,
    },
    /// The object is gone.
    Delete {
        /// Which.
        at: Path,
    },
    /// The object is a copy of another.
    Copy {
        /// Of which.
        from: Path,
        /// Which.
        to: Path,
    },
    /// The object has another name.
    Rename {
        /// The old one.
        from: Path,
        /// The new one.
        to: Path,
    },
}

/// The hook that records what succeeded, in the order in which it was acknowledged.
#[derive(Debug, Default)]
pub struct Record {
    log: Mutex<Vec<Mutation>>,
}

impl Record {
    /// Puts a recorder around a store, which should be empty.
    pub fn wrap(store: Arc<dyn ObjectStore>) -> Arc<Hooked<Record>> {
        Hooked::new(store, Arc::new(Record::default()))
    }

    /// Everything so far.
    pub fn log(&self) -> Vec<Mutation> {
        self.log.lock().expect("no code panics while it holds this lock").clone()
    }

    /// The store as it was after the first `n` mutations.
    pub async fn image(&self, n: usize) -> Result<Arc<InMemory>> {
        let store = InMemory::new();
        for mutation in self.log().iter().take(n) {
            match mutation {
                Mutation::Put { at, payload } => drop(store.put(at, payload.clone()).await?),
                Mutation::Delete { at } => store.delete(at).await?,
                Mutation::Copy { from, to } => store.copy(from, to).await?,
                Mutation::Rename { from, to } => store.rename(from, to).await?,
            }
        }
        Ok(Arc::new(store))
    }
}

#[async_trait]
impl Hook for Record {
    fn keeps_parts(&self) -> bool {
        true
    }

    async fn after(&self, op: &Op, _bytes: u64, ok: bool) -> Result<()> {
        let mutation = match op.clone() {
            Op::Put { at, payload, .. } | Op::Complete { at, payload } => Mutation::Put { at, payload },
            Op::Delete { at } => Mutation::Delete { at },
            Op::Copy { from, to, .. } => Mutation::Copy { from, to },
            Op::Rename { from, to } => Mutation::Rename { from, to },
            Op::Begin { .. } | Op::Part { .. } | Op::Get { .. } | Op::List { .. } => return Ok(()),
        };
        if ok {
            self.log.lock().expect("no code panics while it holds this lock").push(mutation);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use object_store::PutMode;

    #[tokio::test]
    async fn every_moment_can_be_had_again() {
        let store = Record::wrap(Arc::new(InMemory::new()));
        let (a, b) = (Path::from("a"), Path::from("b"));
        store.put(&a, "1".into()).await.expect("puts");
        assert!(store.put_opts(&a, "no".into(), PutMode::Create.into()).await.is_err());
        let mut upload = store.put_multipart(&b).await.expect("begins");
        upload.put_part("2".into()).await.expect("sends");
        upload.put_part("3".into()).await.expect("sends");
        upload.complete().await.expect("ends");
        store.rename(&b, &a).await.expect("renames");
        store.delete(&a).await.expect("deletes");
        let mut moments = Vec::new();
        for n in 0..=store.hook().log().len() {
            let image = store.hook().image(n).await.expect("replays");
            let mut text = String::new();
            let mut names: Vec<Path> = image.list(None).map_ok(|m| m.location).try_collect().await.expect("lists");
            names.sort();
            for name in names {
                let bytes = image.get(&name).await.expect("is there").bytes().await.expect("reads");
                text += &format!("{name}={} ", String::from_utf8_lossy(&bytes));
            }
            moments.push(text);
        }
        assert_eq!(moments, ["", "a=1 ", "a=1 b=23 ", "a=23 ", ""]);
    }
}
