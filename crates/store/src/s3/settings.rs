//! The settings of an S3 store: their names, their forms, and what goes without saying.

use orlop_model::{Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

/// Every setting, with what it means.
pub(crate) const SETTINGS: &[(&str, &str)] = &[
    ("endpoint", "the server, such as https://minio.example:9000; Amazon's own if absent"),
    ("region", "the region that requests are signed for; us-east-1 if absent"),
    ("path_style", "true: the bucket is in the path, as most servers want; false: in the host name"),
    ("allow_http", "true: requests may travel unencrypted; implied by an http:// endpoint"),
    ("timeout", "how long one request may take, such as 30s"),
    ("connect_timeout", "how long a connection may take, such as 5s"),
    ("ca_file", "a PEM file of certificates to trust besides the system's"),
    ("instance_metadata", "on: the same as --credentials instance"),
    ("metadata_endpoint", "where --credentials instance are asked for, if not at the usual address"),
    ("bulk_delete", "off: for servers that cannot delete many objects in one request"),
];

/// Checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) endpoint: Option<Url>,
    pub(super) region: String,
    pub(super) path_style: bool,
    pub(super) allow_http: bool,
    pub(super) timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) instance_metadata: bool,
    pub(super) metadata_endpoint: Option<Url>,
    pub(super) bulk_delete: bool,
}

/// Whether these are settings of an S3 store, for the fuzz targets.
pub(crate) fn reads(given: &BTreeMap<String, String>) -> bool {
    Settings::parse(given).is_ok()
}

impl Settings {
    pub(super) fn parse(given: &BTreeMap<String, String>) -> Result<Self> {
        crate::open::known_settings(given, SETTINGS, "an s3:// store")?;
        let of = |name: &str| given.get(name).map(String::as_str);
        let endpoint = of("endpoint").map(|v| address("endpoint", v)).transpose()?;
        let plain = endpoint.as_ref().is_some_and(|e| e.scheme() == "http");
        let allow_http = of("allow_http").map(|v| switch("allow_http", v)).transpose()?;
        if plain && allow_http == Some(false) {
            return Err(Error::invalid("setting allow_http is false, but the endpoint is http://")
                .with_remedy("use an https:// endpoint, or leave allow_http out"));
        }
        let region = of("region").unwrap_or("us-east-1").to_owned();
        if region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return Err(Error::invalid(format!("setting region: {region:?} is no region")).with_remedy("write it as eu-central-1"));
        }
        let ca_file = of("ca_file").map(PathBuf::from);
        if ca_file.as_ref().is_some_and(|p| !p.is_absolute()) {
            return Err(Error::invalid("setting ca_file: not an absolute path").with_remedy("write the whole path, from /"));
        }
        Ok(Settings {
            path_style: of("path_style").map(|v| switch("path_style", v)).transpose()?.unwrap_or(endpoint.is_some()),
            allow_http: allow_http.unwrap_or(plain),
            region,
            timeout: of("timeout").map(|v| span("timeout", v)).transpose()?.unwrap_or(Duration::from_secs(30)),
            connect_timeout: of("connect_timeout").map(|v| span("connect_timeout", v)).transpose()?.unwrap_or(Duration::from_secs(5)),
            ca_file,
            instance_metadata: of("instance_metadata").map(|v| switch("instance_metadata", v)).transpose()?.unwrap_or(false),
            metadata_endpoint: of("metadata_endpoint").map(|v| address("metadata_endpoint", v)).transpose()?,
            bulk_delete: of("bulk_delete").map(|v| switch("bulk_delete", v)).transpose()?.unwrap_or(true),
            endpoint,
        })
    }

    /// The endpoint as the client wants it: with the bucket in its host name if that is the style.
    pub(super) fn endpoint_for(&self, bucket: &str) -> Result<Option<String>> {
        let Some(endpoint) = &self.endpoint else { return Ok(None) };
        if self.path_style {
            return Ok(Some(endpoint.as_str().trim_end_matches('/').to_owned()));
        }
        let host = match endpoint.host() {
            Some(url::Host::Domain(host)) => format!("{bucket}.{host}"),
            _ => {
                return Err(Error::invalid("setting path_style is false, but the endpoint is an address and can have no bucket before it")
                    .with_remedy("set path_style=true, or name the server by its host name"));
            }
        };
        let mut with_bucket = endpoint.clone();
        with_bucket.set_host(Some(&host)).map_err(|e| {
            Error::invalid(format!("bucket {bucket:?} cannot be part of a host name: {e}")).with_remedy("set path_style=true")
        })?;
        Ok(Some(with_bucket.as_str().trim_end_matches('/').to_owned()))
    }
}

fn address(name: &str, text: &str) -> Result<Url> {
    let bad = |why: &str| {
        // What was given is not repeated: it may hold a password.
        Err(Error::invalid(format!("setting {name}: {why}")).with_remedy("write it as https://host or https://host:port"))
    };
    let Ok(url) = Url::parse(text) else { return bad("not a URL") };
    if !matches!(url.scheme(), "http" | "https") {
        return bad("neither https:// nor http://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return bad("carries credentials; a store's credentials are references (a file, a variable, a command)");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return bad("has a query or fragment");
    }
    if url.host_str().is_none_or(str::is_empty) { bad("names no host") } else { Ok(url) }
}

fn switch(name: &str, text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err(Error::invalid(format!("setting {name}: {text:?} is neither true nor false")).with_remedy("write true or false")),
    }
}

fn span(name: &str, text: &str) -> Result<Duration> {
    let bad =
        || Error::invalid(format!("setting {name}: {text:?} is no time between 100ms and 10m")).with_remedy("write it as 500ms, 30s or 2m");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let n: u64 = text[..digits].parse().map_err(|_| bad())?;
    let ms = match &text[digits..] {
        "ms" => Some(n),
        "" | "s" => n.checked_mul(1000),
        "m" => n.checked_mul(60_000),
        _ => None,
    };
    ms.filter(|ms| (100..=600_000).contains(ms)).map(Duration::from_millis).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Settings> {
        Settings::parse(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn what_is_not_said_follows_from_what_is() {
        let amazon = parse(&[]).expect("nothing is needed");
        assert!(!amazon.path_style && !amazon.allow_http && amazon.region == "us-east-1");
        assert_eq!(amazon.endpoint_for("b").expect("fits"), None);
        let own = parse(&[("endpoint", "http://127.0.0.1:9000/")]).expect("fits");
        assert!(own.path_style && own.allow_http);
        assert_eq!(own.endpoint_for("b").expect("fits").as_deref(), Some("http://127.0.0.1:9000"));
        let hosted = parse(&[("endpoint", "https://s3.example:8443"), ("path_style", "false")]).expect("fits");
        assert!(!hosted.allow_http);
        assert_eq!(hosted.endpoint_for("b").expect("fits").as_deref(), Some("https://b.s3.example:8443"));
    }

    #[test]
    fn wrong_settings_are_refused_by_name_with_a_remedy() {
        for (pairs, named) in [
            (&[("endpont", "x")][..], "endpont"),
            (&[("endpoint", "minio:9000")], "endpoint"),
            (&[("endpoint", "ftp://minio")], "endpoint"),
            (&[("endpoint", "http://a"), ("allow_http", "false")], "allow_http"),
            (&[("region", "")], "region"),
            (&[("region", "eu central")], "region"),
            (&[("path_style", "maybe")], "path_style"),
            (&[("timeout", "soon")], "timeout"),
            (&[("timeout", "0")], "timeout"),
            (&[("timeout", "99999999999999999999s")], "timeout"),
            (&[("connect_timeout", "18446744073709551615m")], "connect_timeout"),
            (&[("ca_file", "ca.pem")], "ca_file"),
        ] {
            let e = parse(pairs).expect_err(named);
            assert!(e.message.contains(named) && e.remedy.is_some(), "{pairs:?}: {e}");
        }
        let e = parse(&[("endpont", "x")]).expect_err("unknown");
        assert!(e.to_string().contains("endpoint") && e.to_string().contains("region"), "{e}");
        let e = parse(&[("endpoint", "https://key:planted-secret@host")]).expect_err("credentials");
        assert!(!format!("{e} {e:?}").contains("planted-secret"), "{e}");
        let address = parse(&[("endpoint", "http://127.0.0.1:9000"), ("path_style", "false")]).expect("each alone is right");
        assert!(address.endpoint_for("b").expect_err("no host name").message.contains("path_style"));
    }

    #[test]
    fn times_are_read_in_every_form() {
        for (text, ms) in [("30", 30_000), ("30s", 30_000), ("500ms", 500), ("2m", 120_000)] {
            assert_eq!(span("timeout", text).expect(text), Duration::from_millis(ms));
        }
    }
}
