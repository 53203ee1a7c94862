//! Moves bytes with the `object_store` crate alone, many requests side by side: what a volume on S3 is measured against.
//!
//! ```text
//! transfer put --endpoint URL --bucket NAME --bytes N --object N --parallel N [--prefix P] [--region R]
//! transfer get --endpoint URL --bucket NAME --bytes N --object N --parallel N [--range N] ...
//! ```
//!
//! `put` makes objects of `--object` bytes until `--bytes` are there; `get` reads the same ones, each in ranges of
//! `--range` bytes. Prints one line of JSON. Credentials come from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. The
//! client has the options of the one in `src/s3`, so that what differs from a volume is not the client.

use bytes::Bytes;
use futures::StreamExt;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig};
use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is to be moved, and how.
struct Plan {
    prefix: String,
    bytes: u64,
    object: u64,
    range: u64,
    parallel: usize,
}

impl Plan {
    fn objects(&self) -> impl Iterator<Item = (Path, u64)> {
        let (prefix, bytes, object) = (self.prefix.clone(), self.bytes, self.object);
        (0..bytes.div_ceil(object)).map(move |n| (Path::from(format!("{prefix}/{n:08}")), object.min(bytes - n * object)))
    }

    fn ranges(&self) -> impl Iterator<Item = (Path, Range<u64>)> {
        let range = self.range;
        self.objects()
            .flat_map(move |(path, len)| (0..len.div_ceil(range)).map(move |n| (path.clone(), n * range..len.min((n + 1) * range))))
    }
}

/// The words after the first, as `--name value`.
fn options(mut words: impl Iterator<Item = String>) -> Result<HashMap<String, String>, Failure> {
    let mut found = HashMap::new();
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").ok_or_else(|| format!("{word} is not an option"))?;
        let value = words.next().ok_or_else(|| format!("--{name} has no value"))?;
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}

fn number(options: &HashMap<String, String>, name: &str, without: Option<u64>) -> Result<u64, Failure> {
    match (options.get(name), without) {
        (Some(text), _) => text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("--{name}: {text} is no number above zero").into()),
        (None, Some(without)) => Ok(without),
        (None, None) => Err(format!("--{name} is missing").into()),
    }
}

fn store(options: &HashMap<String, String>) -> Result<Arc<dyn ObjectStore>, Failure> {
    let given = |name: &str| options.get(name).ok_or_else(|| Failure::from(format!("--{name} is missing")));
    let endpoint = given("endpoint")?;
    let client = ClientOptions::new()
        .with_timeout(Duration::from_secs(30))
        .with_connect_timeout(Duration::from_secs(5))
        .with_allow_http(true)
        .with_pool_max_idle_per_host(16)
        .with_pool_idle_timeout(Duration::from_secs(20))
        .with_no_system_certificates(endpoint.starts_with("http://"));
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(2), base: 2.0 },
        max_retries: 3,
        retry_timeout: Duration::from_secs(10),
    };
    let built = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_bucket_name(given("bucket")?)
        .with_region(options.get("region").map_or("us-east-1", String::as_str))
        .with_access_key_id(std::env::var("AWS_ACCESS_KEY_ID")?)
        .with_secret_access_key(std::env::var("AWS_SECRET_ACCESS_KEY")?)
        .with_virtual_hosted_style_request(false)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(retry)
        .with_client_options(client)
        .build()?;
    Ok(Arc::new(built))
}

/// Bytes that no store can squeeze.
fn noise(len: u64) -> Bytes {
    let words = (0..len.div_ceil(8)).flat_map(|n| {
        let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)).to_le_bytes()
    });
    words.take(len as usize).collect()
}

/// Carries out jobs, so many at once, each as a task of its own; how many there were, and the bytes that they moved.
async fn side_by_side<J>(jobs: impl Iterator<Item = J>, parallel: usize) -> Result<(u64, u64), Failure>
where
    J: Future<Output = object_store::Result<u64>> + Send + 'static,
{
    let mut done = futures::stream::iter(jobs.map(tokio::spawn)).buffer_unordered(parallel);
    let (mut operations, mut bytes) = (0, 0);
    while let Some(one) = done.next().await {
        bytes += one??;
        operations += 1;
    }
    Ok((operations, bytes))
}

async fn put(store: &Arc<dyn ObjectStore>, plan: &Plan) -> Result<(f64, u64, u64), Failure> {
    let data = noise(plan.object.min(plan.bytes));
    let began = Instant::now();
    let jobs = plan.objects().map(|(path, len)| {
        let (store, body) = (Arc::clone(store), data.slice(..len as usize));
        async move {
            let options = PutOptions { mode: PutMode::Overwrite, ..PutOptions::default() };
            store.put_opts(&path, body.into(), options).await.map(|_| len)
        }
    });
    let (operations, bytes) = side_by_side(jobs, plan.parallel).await?;
    Ok((began.elapsed().as_secs_f64(), operations, bytes))
}

async fn get(store: &Arc<dyn ObjectStore>, plan: &Plan) -> Result<(f64, u64, u64), Failure> {
    let began = Instant::now();
    let jobs = plan.ranges().map(|(path, range)| {
        let store = Arc::clone(store);
        async move { store.get_range(&path, range).await.map(|got| got.len() as u64) }
    });
    let (operations, bytes) = side_by_side(jobs, plan.parallel).await?;
    if bytes != plan.bytes {
        return Err(format!("{bytes} of {} bytes came", plan.bytes).into());
    }
    Ok((began.elapsed().as_secs_f64(), operations, bytes))
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let what = words.next().unwrap_or_default();
    let options = options(words)?;
    let store = store(&options)?;
    let object = number(&options, "object", None)?;
    let plan = Plan {
        prefix: options.get("prefix").cloned().unwrap_or_else(|| "bare".to_owned()),
        bytes: number(&options, "bytes", None)?,
        object,
        range: number(&options, "range", Some(object))?,
        parallel: usize::try_from(number(&options, "parallel", None)?)?,
    };
    let (seconds, operations, bytes) = match what.as_str() {
        "put" => put(&store, &plan).await?,
        "get" => get(&store, &plan).await?,
        other => return Err(format!("put or get, not {other:?}").into()),
    };
    println!("{}", serde_json::json!({ "operations": operations, "bytes": bytes, "seconds": seconds }));
    Ok(())
}
