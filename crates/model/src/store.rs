//! A store: a named place where bytes live, how it is reached, and what it was found able to do.
//!
//! Credentials are never here: only a reference that says where they are found when they are needed.

use crate::{Error, Result, StoreName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::str::FromStr;
use time::OffsetDateTime;

/// Where a store's credentials are found. Written `env:PREFIX`, `file:/path`, `command:/path and arguments`, `instance`,
/// `container` or `web-identity`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CredentialsRef {
    /// Variables of the process that opens the store, by their prefix: `AWS_` for `AWS_ACCESS_KEY_ID` and so on.
    Environment(String),
    /// A file that only its owner may read.
    File(String),
    /// A program that prints them.
    Command(String),
    /// The metadata service of the machine: those of its role.
    Instance,
    /// The service that the environment of a container names: those of its task or pod.
    Container,
    /// A token, in a file that the environment names, against which the cloud gives out those of a role.
    WebIdentity,
}

impl FromStr for CredentialsRef {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let bad = |why: &str| {
            Err(Error::invalid(format!("a credentials reference {why}")).with_remedy(
                "write env:PREFIX, file:/absolute/path, command:/absolute/program [arguments], instance, container or web-identity",
            ))
        };
        // What was given is not repeated: it may be a secret that was pasted by mistake.
        match s {
            "instance" => return Ok(CredentialsRef::Instance),
            "container" => return Ok(CredentialsRef::Container),
            "web-identity" => return Ok(CredentialsRef::WebIdentity),
            _ => {}
        }
        match s.split_once(':') {
            Some(("env", p)) if !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {
                Ok(CredentialsRef::Environment(p.to_owned()))
            }
            Some(("env", _)) => bad("by environment names a prefix of letters, digits and underscores"),
            Some(("file", p)) if p.starts_with('/') => Ok(CredentialsRef::File(p.to_owned())),
            Some(("file", _)) => bad("to a file needs an absolute path"),
            Some(("command", c)) if c.starts_with('/') => Ok(CredentialsRef::Command(c.to_owned())),
            Some(("command", _)) => bad("to a command needs an absolute path"),
            _ => bad("says how they are found, and holds no secret itself"),
        }
    }
}

impl TryFrom<String> for CredentialsRef {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<CredentialsRef> for String {
    fn from(c: CredentialsRef) -> String {
        c.to_string()
    }
}

impl std::fmt::Display for CredentialsRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CredentialsRef::Environment(p) => write!(f, "env:{p}"),
            CredentialsRef::File(p) => write!(f, "file:{p}"),
            CredentialsRef::Command(c) => write!(f, "command:{c}"),
            CredentialsRef::Instance => f.write_str("instance"),
            CredentialsRef::Container => f.write_str("container"),
            CredentialsRef::WebIdentity => f.write_str("web-identity"),
        }
    }
}

/// All that is needed to open a store: plain data, no secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StoreSpec {
    /// Its URL, without credentials.
    pub url: String,
    /// Settings by name, such as `endpoint` or `region`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// Where its credentials are found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub credentials: Option<CredentialsRef>,
}

impl StoreSpec {
    /// A store that needs nothing but its URL.
    pub fn new(url: impl Into<String>) -> Self {
        StoreSpec { url: url.into(), ..StoreSpec::default() }
    }

    /// Whether its bytes are on this host's own disk, so that an fsync to the disk and one to the store are the same.
    pub fn is_local(&self) -> bool {
        self.url.starts_with("file:") || self.url.starts_with("dir:") || self.url.starts_with("mem:")
    }

    /// Whether it holds plain volumes: ordinary folders, bind-mounted.
    pub fn is_plain(&self) -> bool {
        self.url.starts_with("dir:")
    }

    /// Refuses a specification that holds a secret where a reference belongs, or text that no line could show.
    ///
    /// To be asked before it is written anywhere, the record of the attempt included. What is wrong is not repeated:
    /// it may be the secret.
    pub fn check(&self) -> Result<()> {
        let reference = "credentials are given as a reference: --credentials env:PREFIX, file:/path or command:/program";
        let bad = |what: &str, remedy: &str| Err(Error::invalid(what.to_owned()).with_remedy(remedy.to_owned()));
        if self.url.len() > URL_MAX || self.url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return bad("the store's URL is too long, or has spaces or control characters in it", "write a space as %20");
        }
        let Some((scheme, rest)) = self.url.split_once("://").filter(|(s, _)| !s.is_empty()) else {
            return bad("the store's URL has no scheme", "write it as s3://bucket/prefix, file:///folder or dir:///folder");
        };
        let is_local = matches!(scheme, "file" | "dir" | "mem");
        // A secret key may hold a slash, so the whole of a remote URL is looked at; a local one names a folder.
        let suspect = if is_local { rest.split('/').next().unwrap_or_default() } else { rest };
        if suspect.contains('@') {
            return bad(
                "the store's URL carries credentials",
                &format!("take them out of it; {reference}. An @ in a prefix is written %40"),
            );
        }
        if rest.contains(['?', '#']) {
            return bad(
                "the store's URL has a query or fragment",
                "remove everything from ? or # on; settings are given as --set KEY=VALUE, and # in a folder's name is written %23",
            );
        }
        // Who reads a URL resolves them, or leaves them out, without a word: the store would be at another place than was written.
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        let mut parts = path.strip_suffix('/').unwrap_or(path).split('/');
        if parts.clone().any(|part| matches!(part.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")) {
            return bad(
                "the store's URL has '.' or '..' in its path",
                "write the place itself, such as s3://bucket/prefix or file:///folder",
            );
        }
        if !is_local && !path.is_empty() && parts.any(str::is_empty) {
            return bad("the store's URL has an empty part in its path", "write one slash between parts: s3://bucket/prefix");
        }
        if self.settings.len() > SETTINGS_MAX {
            return bad("the store has too many settings", "leave out those that are the default");
        }
        for (key, value) in &self.settings {
            if key.is_empty() || key.len() > 64 || !key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
                return bad("a setting's name is made of small letters, digits and underscores", "write --set KEY=VALUE");
            }
            if ["secret", "password", "token", "access_key", "credential"].iter().any(|word| key.contains(word)) {
                return bad(&format!("setting {key} is a secret, or part of one"), reference);
            }
            if value.len() > URL_MAX || value.chars().any(char::is_control) {
                return bad(&format!("the value of setting {key} is too long or has control characters"), "write --set KEY=VALUE");
            }
            if value.split_once("://").is_some_and(|(_, rest)| rest.contains(['@', '?'])) {
                return bad(&format!("the URL of setting {key} carries credentials"), &format!("take them out of it; {reference}"));
            }
        }
        Ok(())
    }
}

/// What `orlop store set` changes: how a store is reached, never where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreUpdate {
    /// Where its credentials are found from now on, as for a new store. Those that it has stay
    /// if this is absent; the empty text leaves it without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// Settings by name; the empty value resets one to its default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

impl StoreUpdate {
    /// The specification after the change. Refuses secrets as [`StoreSpec::check`] does, without repeating them.
    pub fn applied_to(&self, spec: &StoreSpec) -> Result<StoreSpec> {
        let mut new = spec.clone();
        for (key, value) in &self.settings {
            new.settings.insert(key.clone(), value.clone());
        }
        new.check()?;
        new.settings.retain(|key, value| !value.is_empty() || !self.settings.contains_key(key));
        if let Some(reference) = &self.credentials {
            new.credentials = if reference.is_empty() { None } else { Some(reference.parse()?) };
        }
        Ok(new)
    }
}

const URL_MAX: usize = 2048;
const SETTINGS_MAX: usize = 64;

/// What a store can do beyond put, get, list and delete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Capabilities {
    /// Of two that create the same object, one is told that it lost. Chunked volumes need it: fencing rests on it.
    pub conditional_create: bool,
    /// An object is replaced only if it is still the one that was read.
    pub conditional_replace: bool,
    /// Both conditions were kept too when two requests came at the same moment, in a few tries. A store that fails
    /// this is safe for one host, and for several unless they take a volume over within milliseconds of each other.
    #[serde(default)]
    pub atomic_conditions: bool,
    /// Parts of an object can be read.
    pub ranged_get: bool,
    /// Objects can be sent in parts, and appear whole at the end.
    pub multipart: bool,
    /// Objects can be copied within the store.
    pub copy: bool,
    /// A listing shows what was written just before it, and no longer what was deleted.
    pub strong_list: bool,
    /// A listing by folder tells folders from objects.
    pub list_by_folder: bool,
    /// Deleting what is absent succeeds, as it must for a deletion that is repeated.
    pub idempotent_delete: bool,
    /// How far the store's clock is ahead of this host's, in milliseconds; absent if it could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_skew_ms: Option<i64>,
}

impl Capabilities {
    /// Why chunked volumes cannot live there; `None` if they can.
    pub fn refusal(&self) -> Option<String> {
        let mut missing = Vec::new();
        for (there, what) in [
            (self.conditional_create, "it does not refuse to create an object that exists"),
            (self.conditional_replace, "it does not refuse to replace an object that has changed"),
            (self.ranged_get, "it does not read parts of an object"),
            (self.multipart, "it does not take an object in parts"),
            (self.strong_list, "its listings lag behind what was written"),
        ] {
            if !there {
                missing.push(what);
            }
        }
        if missing.is_empty() { None } else { Some(missing.join("; ")) }
    }
}

/// A store as the registry knows it and every front door shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Store {
    /// What people call it.
    pub name: StoreName,
    /// How it is reached.
    #[serde(flatten)]
    pub spec: StoreSpec,
    /// Volumes that live there, removed ones that can still be restored included.
    pub volumes: u64,
    /// What it was found able to do; absent if it was never examined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// Why chunked volumes are refused there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// When it was added.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// When it was last examined.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub examined_at: Option<OffsetDateTime>,
}

/// What an examination of a store found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// What it can do; absent for plain folders, which are no object store.
    pub capabilities: Option<Capabilities>,
    /// How long a small object takes to be written, in microseconds: the median of a few.
    pub put_micros: Option<u64>,
    /// How long it takes to be read.
    pub get_micros: Option<u64>,
}

/// A store that was just examined, with the times that were measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StoreTest {
    /// The store as it is known now.
    #[serde(flatten)]
    pub store: Store,
    /// How long a small object takes to be written, in microseconds: the median of a few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub put_micros: Option<u64>,
    /// How long it takes to be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub get_micros: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_a_specification_is_refused_and_not_repeated() {
        let with = |key: &str, value: &str| StoreSpec {
            settings: BTreeMap::from([(key.to_owned(), value.to_owned())]),
            ..StoreSpec::new("s3://bucket")
        };
        for spec in [
            StoreSpec::new("s3://AKIA:plantedsecret@bucket/x"),
            StoreSpec::new("s3://AKIA:planted/secret@bucket"),
            StoreSpec::new("https://host/bucket?sig=plantedsecret"),
            StoreSpec::new("s3://bucket#plantedsecret"),
            StoreSpec::new("plantedsecret"),
            StoreSpec::new("s3://planted secret"),
            StoreSpec::new("dir://u:plantedsecret@host/x"),
            with("secret_access_key", "plantedsecret"),
            with("access_key_id", "plantedsecret"),
            with("endpoint", "http://u:plantedsecret@127.0.0.1:1"),
            with("PLANTEDSECRET=x", "y"),
        ] {
            let e = spec.check().expect_err(&spec.url);
            assert!(e.remedy.is_some(), "{e}");
            let said = format!("{e} {e:?}").to_lowercase();
            assert!(!said.contains("planted"), "{said}");
        }
        for url in ["file:///srv/@home", "dir:///srv/a%20b", "s3://bucket/a/b", "mem://x"] {
            StoreSpec::new(url).check().expect(url);
        }
        with("endpoint", "http://127.0.0.1:9000").check().expect("an endpoint");
    }

    #[test]
    fn a_path_that_a_reader_would_change_is_refused() {
        for (url, word) in [
            ("s3://bucket/../p", "'..'"),
            ("s3://bucket/a/./b", "'.'"),
            ("s3://bucket/a/%2E%2e/", "'..'"),
            ("s3://bucket/..", "'..'"),
            ("file:///srv/../x", "'..'"),
            ("s3://bucket//p", "empty"),
            ("s3://bucket/a//b", "empty"),
            ("s3://bucket/p//", "empty"),
        ] {
            let e = StoreSpec::new(url).check().expect_err(url);
            assert!(e.message.contains(word) && e.remedy.is_some(), "{url}: {e}");
        }
        for url in ["s3://bucket", "s3://bucket/", "s3://bucket/p/", "s3://bucket/.p/a..b/...", "file:///", "file:///srv//x", "mem://"] {
            StoreSpec::new(url).check().expect(url);
        }
    }

    #[test]
    fn an_update_changes_how_a_store_is_reached_and_takes_no_secret() {
        let before = StoreSpec {
            settings: BTreeMap::from([("region".to_owned(), "eu".to_owned()), ("timeout".to_owned(), "9s".to_owned())]),
            credentials: Some(CredentialsRef::Environment("OLD_".to_owned())),
            ..StoreSpec::new("s3://bucket/a")
        };
        let update = |credentials: Option<&str>, settings: &[(&str, &str)]| StoreUpdate {
            credentials: credentials.map(str::to_owned),
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        assert_eq!(update(None, &[]).applied_to(&before).expect("nothing"), before);
        let new = update(Some("file:/new"), &[("region", "us"), ("timeout", ""), ("never_set", "")]).applied_to(&before).expect("fits");
        assert_eq!(new.url, before.url);
        assert_eq!(new.credentials, Some(CredentialsRef::File("/new".to_owned())));
        assert_eq!(new.settings, BTreeMap::from([("region".to_owned(), "us".to_owned())]));
        assert_eq!(update(Some(""), &[]).applied_to(&before).expect("fits").credentials, None);
        for bad in [update(Some("plantedsecret"), &[]), update(None, &[("secret_key", "plantedsecret")])] {
            let e = bad.applied_to(&before).expect_err("a secret");
            assert!(e.remedy.is_some() && !format!("{e} {e:?}").contains("planted"), "{e}");
        }
    }

    #[test]
    fn references_survive_the_round_trip_and_secrets_are_not_repeated() {
        for text in ["env:AWS_", "file:/etc/orlop/s3.json", "command:/usr/bin/vault read s3", "instance", "container", "web-identity"] {
            assert_eq!(text.parse::<CredentialsRef>().expect(text).to_string(), text);
        }
        for text in ["Instance", "instance:", "web-identity:/x"] {
            assert!(text.parse::<CredentialsRef>().is_err(), "{text}");
        }
        for text in ["", "AKIAPLANTED", "env:", "env:A-B", "file:relative", "command:sh -c x", "secret:planted"] {
            let e = text.parse::<CredentialsRef>().expect_err(text);
            assert!(e.remedy.is_some(), "{e}");
            assert!(text.len() < 8 || !format!("{e} {e:?}").contains(&text[text.len() - 7..]), "{e}");
        }
    }
}
