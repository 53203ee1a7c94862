//! `orlop store add`

use crate::args::Context;
use crate::commands::pairs;
use orlop_api::wire::AddStore;
use orlop_model::{CredentialsRef, Result, Store, StoreName, StoreSpec};

const HELP: &str = "\
URLs:
  s3://BUCKET[/PREFIX]  any S3 server
  file:///FOLDER        a folder of this host, as an object store
  dir:///FOLDER         plain volumes: folders below it, bind-mounted as they are

Settings of an s3 store (--set KEY=VALUE):
  endpoint           URL of the server; Amazon's own if absent
  region             the region that requests are signed for; us-east-1 if absent
  path_style         true: the bucket is in the path, the default with an endpoint; false: in the host name
  allow_http         true: requests may travel unencrypted; implied by an http:// endpoint
  timeout            how long one request may take, such as 30s
  connect_timeout    how long a connection may take, such as 5s
  ca_file            a PEM file of certificates to trust besides the system's
  instance_metadata  on: credentials come from this host's metadata service
  bulk_delete        off: for servers that cannot delete many objects in one request

Credentials are references, read when they are needed and never kept:
  env:PREFIX             variables of the daemon's environment, such as AWS_ for AWS_ACCESS_KEY_ID
  file:/PATH             a file that only its owner may read
  command:/PROGRAM ARGS  a program that prints them
";

/// Adds a store: tries out what it can do, then keeps how it is reached.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Its name: a letter or digit, then letters, digits, '_', '.' and '-'.
    name: String,
    /// Its URL, without credentials.
    url: String,
    /// Where its credentials are found.
    #[arg(long, value_name = "REF")]
    credentials: Option<String>,
    /// A setting; may be given several times.
    #[arg(short, long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    // Checked here too, so that a secret given by mistake goes no further, and a mistake is told without a daemon.
    args.name.parse::<StoreName>()?;
    let credentials = args.credentials.as_deref().map(str::parse::<CredentialsRef>).transpose()?;
    let spec = StoreSpec { url: args.url.clone(), settings: settings(&args.settings)?, credentials };
    spec.check()?;
    let request =
        AddStore { name: args.name.clone(), url: spec.url, settings: spec.settings, credentials: spec.credentials.map(|c| c.to_string()) };
    let store = cx.client.add_store(&request).await?;
    cx.ui.show(&store, || format!("{}\n", store.name))?;
    warn(&store, cx);
    Ok(0)
}

/// What the owner should know of a store that works in part.
pub(super) fn warn(store: &Store, cx: &Context) {
    if let Some(reason) = &store.refusal {
        cx.ui.note(&format!(
            "warning: store {} takes no volumes: {reason}\nhint: once the server is mended, look again with: orlop store test {}{}",
            store.name,
            store.name,
            cx.root_flag()
        ));
    }
    if let Some(ms) = store.capabilities.and_then(|c| c.clock_skew_ms).filter(|ms| ms.abs() > 60_000) {
        cx.ui.note(&format!("warning: the clock of store {} is {} s off this host's", store.name, ms / 1000));
    }
}

/// As other `KEY=VALUE` arguments, but without repeating what was given: it may hold a secret.
fn settings(given: &[String]) -> Result<std::collections::BTreeMap<String, String>> {
    if given.iter().any(|text| text.split_once('=').is_none_or(|(key, _)| key.is_empty())) {
        return Err(
            orlop_model::Error::invalid("a setting is not of the form KEY=VALUE").with_remedy("write --set endpoint=http://host:9000")
        );
    }
    pairs::read("--set", given)
}
