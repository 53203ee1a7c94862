//! An S3 store: from a specification to a client that gives up early, renews its credentials and tells no secrets.
//!
//! The client underneath is `object_store`'s. What is decided here: which settings there are ([`settings`]), where
//! credentials come from ([`credentials`], [`keys`]), what of a server's answer reaches an error ([`http`]), and that a
//! request is given up after about ten seconds of trying: how long to wait for a store is the volume's policy, above.

mod cloud;
mod credentials;
mod http;
mod keys;
mod pace;
mod settings;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;

pub(crate) use credentials::reads as reads_credentials;
pub(crate) use http::Refusal;
pub(crate) use settings::{SETTINGS, reads as reads_settings};

use self::http::Connector;
use self::keys::Keys;
use self::settings::Settings;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut, S3CopyIfNotExists};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, RetryConfig,
};
use orlop_model::{CredentialsRef, Error, StoreSpec};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// The bucket and prefix of an `s3://` URL as a store.
#[derive(Debug)]
pub(crate) struct S3Store {
    inner: PrefixStore<AmazonS3>,
    name: String,
}

/// Opens the store. No request is made; credentials are read, and settings are checked.
pub(crate) fn open(spec: &StoreSpec, url: &Url) -> orlop_model::Result<S3Store> {
    let remedy = "write s3://bucket or s3://bucket/prefix, and name the server with the setting endpoint";
    let bucket = url
        .host_str()
        .filter(|b| !b.is_empty())
        .ok_or_else(|| Error::invalid(format!("store URL {:?}: no bucket", spec.url)).with_remedy(remedy))?;
    if url.port().is_some() {
        return Err(Error::invalid(format!("store URL {:?}: a bucket has no port", spec.url)).with_remedy(remedy));
    }
    let prefix = Path::from_url_path(url.path())
        .map_err(|e| Error::invalid(format!("store URL {:?}: the prefix is no path: {e}", spec.url)).with_remedy(remedy))?;
    let settings = Settings::parse(&spec.settings)?;
    let name = if prefix.as_ref().is_empty() { format!("s3://{bucket}") } else { format!("s3://{bucket}/{prefix}") };
    let inner = client(bucket, &settings, spec).map_err(|e| e.during(format_args!("store {name}")))?;
    Ok(S3Store { inner: PrefixStore::new(inner, prefix), name })
}

fn client(bucket: &str, settings: &Settings, spec: &StoreSpec) -> orlop_model::Result<AmazonS3> {
    let mut options = ClientOptions::new()
        .with_timeout(settings.timeout)
        .with_connect_timeout(settings.connect_timeout)
        .with_allow_http(settings.allow_http)
        .with_pool_max_idle_per_host(16)
        .with_pool_idle_timeout(Duration::from_secs(20));
    if settings.endpoint.as_ref().is_some_and(|e| e.scheme() == "http") {
        // The system's certificates take a megabyte of memory for each store.
        options = options.with_no_system_certificates(true);
    }
    if let Some(path) = &settings.ca_file {
        let say = |why: String| {
            Error::invalid(format!("setting ca_file: {}: {why}", path.display())).with_remedy("name a file of certificates in PEM form")
        };
        let pem = std::fs::read(path).map_err(|e| say(e.to_string()))?;
        let found = Certificate::from_pem_bundle(&pem).map_err(|e| say(e.to_string()))?;
        if found.is_empty() {
            return Err(say("holds no certificate".into()));
        }
        for certificate in found {
            options = options.with_root_certificate(certificate);
        }
    }

    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&settings.region)
        .with_virtual_hosted_style_request(!settings.path_style)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_copy_if_not_exists(S3CopyIfNotExists::Multipart)
        .with_disable_bulk_delete(!settings.bulk_delete)
        .with_retry(RetryConfig {
            backoff: BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(2), base: 2.0 },
            max_retries: 3,
            retry_timeout: Duration::from_secs(10),
        });
    if let Some(endpoint) = settings.endpoint_for(bucket)? {
        builder = builder.with_endpoint(endpoint);
    }
    let asked = spec.credentials.as_ref().filter(|c| cloud::gives_out(c));
    let asked = asked.cloned().or(settings.instance_metadata.then_some(CredentialsRef::Instance));
    if settings.metadata_endpoint.is_some() && asked != Some(CredentialsRef::Instance) {
        return Err(Error::invalid("setting metadata_endpoint: nobody asks there").with_remedy("give --credentials instance as well"));
    }
    let keys = match &spec.credentials {
        Some(CredentialsRef::Instance) => None,
        Some(_) if settings.instance_metadata => {
            return Err(Error::invalid("both credentials and the setting instance_metadata are given").with_remedy("give one of them"));
        }
        Some(reference) if cloud::gives_out(reference) => None,
        Some(reference) => Some(Arc::new(Keys::read(reference.clone())?)),
        None => None,
    };
    builder = match (&keys, &asked) {
        (Some(keys), _) => builder.with_credentials(Arc::clone(keys) as _),
        // The one way to ask a service for them: never by surprise.
        (None, Some(reference)) => cloud::asking(builder, reference, settings, |name| std::env::var(name).ok())?,
        (None, None) => builder.with_skip_signature(true),
    };
    builder
        .with_http_connector(Connector::new(keys, &settings.region, settings.timeout))
        .with_client_options(options)
        .build()
        .map_err(|e| Error::invalid(format!("its settings do not fit together: {e}")))
}

impl std::fmt::Display for S3Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let asked = options.clone();
        let got = self.inner.get_opts(location, options).await?;
        // Some servers keep conditions on writes and answer conditional reads as if nothing had been asked.
        asked.check_preconditions(&got.meta)?;
        Ok(got)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}
