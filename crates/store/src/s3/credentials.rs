//! From a reference to the credentials it names: an environment, a file or a command, read when they are needed.
//!
//! Nothing read here is ever part of an error: neither a secret, nor a line that could not be understood, nor what a
//! command said on its standard error.

use orlop_model::{CredentialsRef, Error, ErrorKind, Result};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How much of a file or of a command's output is read: credentials are short.
const LIMIT: u64 = 64 << 10;

/// Text that cannot be printed and does not stay in memory.
pub(super) struct Secret(Zeroizing<String>);

impl Secret {
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Credentials of an S3 store.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) key_id: Secret,
    pub(super) secret_key: Secret,
    pub(super) token: Option<Secret>,
}

impl Credentials {
    /// Reads what the reference names. A command may take as long as `patience`.
    pub(super) fn read(reference: &CredentialsRef, patience: Duration) -> Result<Self> {
        let found = match reference {
            CredentialsRef::Environment(prefix) => environment(prefix),
            CredentialsRef::File(path) => file(path).and_then(|text| parse(&text)),
            CredentialsRef::Command(line) => command(line, patience).and_then(|text| parse(&text)),
            CredentialsRef::Instance | CredentialsRef::Container | CredentialsRef::WebIdentity => {
                Err(Error::internal("they are asked for by the client, not read"))
            }
        };
        // A command's arguments may be secret, though they should not be.
        let shown = match reference {
            CredentialsRef::Command(line) => format!("command:{}", line.split_whitespace().next().unwrap_or_default()),
            other => other.to_string(),
        };
        found.map_err(|e| e.during(format_args!("credentials {shown}")))
    }

    fn new(key_id: Option<String>, secret_key: Option<String>, token: Option<String>, names: [&str; 2]) -> Result<Self> {
        let present =
            |value: Option<String>, name: &str| match value.filter(|v| !v.is_empty()) {
                Some(v) => usable(v, name),
                None => Err(Error::new(ErrorKind::Denied, format!("{name} is missing"))
                    .with_remedy(format!("provide {} and {}", names[0], names[1]))),
            };
        Ok(Credentials {
            key_id: present(key_id, names[0])?,
            secret_key: present(secret_key, names[1])?,
            token: token.filter(|t| !t.is_empty()).map(|t| usable(t, "the session token")).transpose()?,
        })
    }
}

/// Credentials travel in headers: whatever cannot be there was mangled on its way to us.
fn usable(value: String, name: &str) -> Result<Secret> {
    let value = Zeroizing::new(value);
    if value.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(Secret(value))
    } else {
        Err(Error::new(ErrorKind::Denied, format!("{name} holds a blank or a character that no credential has"))
            .with_remedy("look for a line break or a quotation mark that was copied along"))
    }
}

fn environment(prefix: &str) -> Result<Credentials> {
    // AWS and AWS_ name the same variables.
    let prefix = if prefix.ends_with('_') { prefix.to_owned() } else { format!("{prefix}_") };
    let names = ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"].map(|n| format!("{prefix}{n}"));
    let [key_id, secret_key, token] = names.each_ref().map(|n| std::env::var(n).ok());
    Credentials::new(key_id, secret_key, token, [&names[0], &names[1]])
        .map_err(|e| e.during("in the environment of the process that opens the store"))
}

fn file(path: &str) -> Result<Zeroizing<String>> {
    let say = |e: &std::io::Error| Error::io("cannot be read", e).with_remedy("name a file that exists and that the daemon may read");
    let file = std::fs::File::open(path).map_err(|e| say(&e))?;
    // Of the open file, so that it is the one that is read.
    let meta = file.metadata().map_err(|e| say(&e))?;
    if !meta.is_file() {
        return Err(Error::invalid("not a regular file").with_remedy("name a file"));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(Error::new(
            ErrorKind::Denied,
            format!("others than its owner may use it (mode {:o})", meta.permissions().mode() & 0o777),
        )
        .with_remedy(format!("chmod 600 {path}")));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(LIMIT)
        .read_to_string(&mut text)
        .map_err(|_| Error::invalid("not text").with_remedy("write [default] with aws_access_key_id and aws_secret_access_key, or JSON"))?;
    Ok(text)
}

fn command(line: &str, patience: Duration) -> Result<Zeroizing<String>> {
    let argv = words(line)?;
    let (program, arguments) = argv.split_first().ok_or_else(|| Error::invalid("names no program"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // It may print secrets when it fails.
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| Error::io("cannot be run", &e).with_remedy("name a program that exists and is executable"))?;
    let out = child.stdout.take().expect("it is piped above");
    let (send, receive) = std::sync::mpsc::channel();
    // Not joined: a grandchild may keep the pipe open for ever.
    std::thread::spawn(move || {
        let mut text = Zeroizing::new(String::new());
        let read = out.take(LIMIT).read_to_string(&mut text).map(|_| text);
        // Nobody listens any more if it took too long.
        let _ = send.send(read);
    });
    let end = Instant::now() + patience;
    let status = loop {
        match child.try_wait().map_err(|e| Error::io("cannot be waited for", &e))? {
            Some(status) => break status,
            None if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            None => {
                // It is ours and still runs; if it ends this moment, there is nothing to kill.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::unavailable(format!("gave no answer within {} s", patience.as_secs_f32()))
                    .with_remedy("run it by hand and see what it waits for; it has no terminal here"));
            }
        }
    };
    if !status.success() {
        return Err(Error::new(ErrorKind::Denied, format!("failed ({status}); what it printed is not shown, since it may hold secrets"))
            .with_remedy("run it by hand as the daemon's user"));
    }
    let left = end.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    let text = receive.recv_timeout(left).map_err(|_| Error::unavailable("ended, but something it started holds its output open"))?;
    text.map_err(|_| Error::new(ErrorKind::Denied, "did not print text"))
}

/// The words of a command line: split at blanks, with quotation marks and backslashes as everywhere, and no shell.
fn words(line: &str) -> Result<Vec<String>> {
    let (mut all, mut word, mut open) = (Vec::new(), None::<String>, None);
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match (open, c) {
            (Some(q), c) if c == q => open = None,
            (None, '"' | '\'') => {
                open = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(rest.next()),
            (None, c) if c.is_whitespace() => all.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if open.is_some() {
        return Err(Error::invalid("a quotation mark is not closed"));
    }
    all.extend(word);
    Ok(all)
}

/// Whether a text is read as credentials, for the fuzz targets.
pub(crate) fn reads(text: &str) -> bool {
    parse(text).is_ok()
}

/// Credentials from text: JSON, or the ini form of Amazon's tools, or lines of `NAME=value`.
fn parse(text: &str) -> Result<Credentials> {
    let mut found: [Option<String>; 3] = [None, None, None];
    let mut note = |name: &str, value: &str| {
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
        let slot = match plain.strip_prefix("aws").unwrap_or(&plain) {
            "accesskeyid" => 0,
            "secretaccesskey" => 1,
            "sessiontoken" => 2,
            _ => return,
        };
        found[slot].get_or_insert_with(|| value.to_owned());
    };
    if text.trim_start().starts_with('{') {
        let unknown =
            || Error::new(ErrorKind::Denied, "not the JSON of credentials").with_remedy("provide access_key_id and secret_access_key");
        let json: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).map_err(|_| unknown())?;
        for (name, value) in &json {
            if let Some(value) = value.as_str() {
                note(name, value);
            }
        }
    } else {
        let lines = || text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with(['#', ';']));
        let sections: Vec<&str> = lines().filter(|l| l.starts_with('[')).collect();
        let is_default = |l: &str| l.trim_matches(['[', ']']).trim() == "default";
        if sections.len() > 1 && !sections.iter().any(|s| is_default(s)) {
            return Err(Error::new(ErrorKind::Denied, "several sections, none of them [default]")
                .with_remedy("name one of them [default], or keep it in a file of its own"));
        }
        let mut wanted = true;
        for line in lines() {
            if line.starts_with('[') {
                wanted = sections.len() == 1 || is_default(line);
            } else if let Some((name, value)) = line.split_once('=').filter(|_| wanted) {
                note(name.trim_start_matches("export ").trim(), value.trim().trim_matches('"'));
            }
        }
    }
    let [key_id, secret_key, token] = found;
    Credentials::new(key_id, secret_key, token, ["access_key_id", "secret_access_key"])
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
