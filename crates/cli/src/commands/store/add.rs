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
  allow_http         true: requests may travel unencrypted; implied by an http:// endpoint, and spares the warning
  timeout            how long one request may take, such as 30s
  connect_timeout    how long a connection may take, such as 5s
  ca_file            a PEM file of certificates to trust besides the system's
  metadata_endpoint  where instance credentials are asked for, if not at the usual address
  instance_metadata  on: the same as --credentials instance
  bulk_delete        off: for servers that cannot delete many objects in one request

Credentials are references, read when they are needed and never kept:
  env:PREFIX             variables of the daemon's environment, such as AWS_ for AWS_ACCESS_KEY_ID
  file:/PATH             a file that only its owner may read
  command:/PROGRAM ARGS  a program that prints them
  instance               those of the machine's role, from its metadata service
  container              those of the task or pod, from the service that AWS_CONTAINER_CREDENTIALS_... name
  web-identity           those of the role AWS_ROLE_ARN for the token in AWS_WEB_IDENTITY_TOKEN_FILE
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
    if store.refusal.is_none() && store.capabilities.is_some_and(|c| !c.atomic_conditions) {
        cx.ui.note(&format!(
            "warning: of two requests at the same moment store {} let both win\nhint: one host is safe, and several are as long as no two \
             take the same volume over within milliseconds of each other",
            store.name
        ));
    }
    if let Some(host) = in_the_open(&store.spec) {
        cx.ui.note(&format!(
            "warning: what store {} is sent travels unencrypted to {host}\nhint: use an https:// endpoint (with ca_file for a private \
             certificate), or say that it is meant: orlop store set {} --set allow_http=true{}",
            store.name,
            store.name,
            cx.root_flag()
        ));
    }
    if let Some(ms) = store.capabilities.and_then(|c| c.clock_skew_ms).filter(|ms| ms.abs() > 60_000) {
        cx.ui.note(&format!("warning: the clock of store {} is {} s off this host's", store.name, ms / 1000));
    }
}

/// The other host to which requests go unencrypted, though nobody said that this is meant.
fn in_the_open(spec: &StoreSpec) -> Option<&str> {
    let host = spec.settings.get("endpoint")?.strip_prefix("http://")?.split('/').next()?;
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host });
    let address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    let here = name == "localhost" || name.ends_with(".localhost") || address.is_ok_and(|a| a.is_loopback());
    (!here && !spec.settings.contains_key("allow_http")).then_some(name)
}

/// As other `KEY=VALUE` arguments, but without repeating what was given: it may hold a secret.
pub(crate) fn settings(given: &[String]) -> Result<std::collections::BTreeMap<String, String>> {
    if given.iter().any(|text| text.split_once('=').is_none_or(|(key, _)| key.is_empty())) {
        return Err(
            orlop_model::Error::invalid("a setting is not of the form KEY=VALUE").with_remedy("write --set endpoint=http://host:9000")
        );
    }
    pairs::read("--set", given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_to_other_hosts_in_the_open_are_told_of() {
        let of = |endpoint: &str, allowed: bool| {
            let mut spec = StoreSpec::new("s3://b");
            spec.settings.insert("endpoint".into(), endpoint.into());
            spec.settings.extend(allowed.then(|| ("allow_http".to_owned(), "true".to_owned())));
            in_the_open(&spec).map(str::to_owned)
        };
        for (endpoint, host) in [("http://minio:9000", "minio"), ("http://10.0.0.7", "10.0.0.7"), ("http://[fd00::1]:9000/", "[fd00::1]")] {
            assert_eq!(of(endpoint, false).as_deref(), Some(host), "{endpoint}");
            assert_eq!(of(endpoint, true), None, "{endpoint}: it is meant");
        }
        for endpoint in ["https://minio:9000", "http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9000", "http://b.localhost"]
        {
            assert_eq!(of(endpoint, false), None, "{endpoint}");
        }
        assert_eq!(in_the_open(&StoreSpec::new("s3://b")), None);
    }
}
