//! Credentials over time: kept for a few minutes, read again when they are old or when the store refuses them.

use super::credentials::Credentials;
use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use orlop_model::{CredentialsRef, Error, ErrorKind, Result};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long credentials are used before their source is asked again.
const KEEP: Duration = Duration::from_secs(300);
/// A store that refuses every request does not make a command run for each of them.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The credentials of one store.
#[derive(Debug)]
pub(super) struct Keys {
    reference: CredentialsRef,
    held: Mutex<Held>,
    /// One reader at a time.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
struct Held {
    read: Instant,
    tried: Instant,
    credential: Arc<AwsCredential>,
}

fn credential(found: &Credentials) -> Arc<AwsCredential> {
    Arc::new(AwsCredential {
        key_id: found.key_id.expose().to_owned(),
        secret_key: found.secret_key.expose().to_owned(),
        token: found.token.as_ref().map(|t| t.expose().to_owned()),
    })
}

impl Keys {
    /// Reads them for the first time, so that a wrong reference is told when the store is opened.
    pub(super) fn read(reference: CredentialsRef) -> Result<Self> {
        let found = Credentials::read(&reference, PATIENCE)?;
        let now = Instant::now();
        Ok(Keys {
            held: Mutex::new(Held { read: now, tried: now, credential: credential(&found) }),
            reference,
            reading: Default::default(),
        })
    }

    fn held(&self) -> Held {
        self.held.lock().expect("no code panics while it holds this lock").clone()
    }

    async fn again(&self) -> Result<Arc<AwsCredential>> {
        self.held.lock().expect("no code panics while it holds this lock").tried = Instant::now();
        let reference = self.reference.clone();
        let found = tokio::task::spawn_blocking(move || Credentials::read(&reference, PATIENCE))
            .await
            .map_err(|e| Error::internal(format!("reading credentials: {e}")))??;
        let (now, fresh) = (Instant::now(), credential(&found));
        *self.held.lock().expect("no code panics while it holds this lock") =
            Held { read: now, tried: now, credential: Arc::clone(&fresh) };
        Ok(fresh)
    }

    /// After the store refused a request that was signed with the credentials held now: other ones, if there are any.
    pub(super) async fn renewed(&self, refused: &AwsCredential) -> Option<Arc<AwsCredential>> {
        let _one = self.reading.lock().await;
        let held = self.held();
        if *held.credential != *refused {
            return Some(held.credential);
        }
        // A file and an environment cost nothing to look at.
        if matches!(self.reference, CredentialsRef::Command(_)) && held.tried.elapsed() < PAUSE {
            return None;
        }
        self.again().await.ok().filter(|fresh| **fresh != *refused)
    }

    pub(super) fn current(&self) -> Arc<AwsCredential> {
        self.held().credential
    }
}

#[async_trait]
impl CredentialProvider for Keys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let held = self.held();
        if held.read.elapsed() < KEEP || held.tried.elapsed() < PAUSE {
            return Ok(held.credential);
        }
        let Ok(_one) = self.reading.try_lock() else { return Ok(held.credential) };
        match self.again().await {
            Ok(fresh) => Ok(fresh),
            // The old ones may still be good; if not, the store says so.
            Err(e) if e.kind != ErrorKind::Internal => {
                tracing::warn!("{e}; the credentials read before are used on");
                Ok(held.credential)
            }
            Err(e) => Err(object_store::Error::Generic { store: "S3", source: Box::new(e) }),
        }
    }
}
