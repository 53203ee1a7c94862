//! Credentials that a service gives out for a while. The services are small ones on loopback that speak as the cloud's do; no
//! cloud was reached from here.

use crate::testing::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::{ObjectStore, ObjectStoreExt, open_spec};
use object_store::path::Path;
use orlop_model::{CredentialsRef, ErrorKind, StoreSpec};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the service gives out, and how often it did.
struct Given {
    secret: String,
    valid: Duration,
    times: usize,
    without_token: usize,
}

/// A metadata service: a token for a PUT, then the role's name, then its credentials. Ends with the test process.
fn metadata_service(given: &Arc<Mutex<Given>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    let given = Arc::clone(given);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) <= 2 {
                    break;
                }
                lines.push(line.trim().to_ascii_lowercase());
            }
            let length = lines.iter().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            // A body is of no interest, and must be out of the way before the answer.
            let _ = reader.take(length).read_to_end(&mut Vec::new());
            let first = lines.first().cloned().unwrap_or_default();
            let (status, body) = answer(&first, &lines, &given);
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    addr
}

fn answer(first: &str, lines: &[String], given: &Mutex<Given>) -> (&'static str, String) {
    if first.starts_with("put /latest/api/token ") {
        return ("200 OK", "a-session".into());
    }
    let mut given = given.lock().expect("no panics while it is held");
    if !lines.iter().any(|l| l == "x-aws-ec2-metadata-token: a-session") {
        given.without_token += 1;
        return ("401 Unauthorized", String::new());
    }
    if first.starts_with("get /latest/meta-data/iam/security-credentials/ ") {
        return ("200 OK", "a-role".into());
    }
    if !first.starts_with("get /latest/meta-data/iam/security-credentials/a-role ") {
        return ("404 Not Found", String::new());
    }
    given.times += 1;
    let end = time::OffsetDateTime::now_utc() + given.valid;
    let end = end.format(&time::format_description::well_known::Rfc3339).expect("a time");
    let body = serde_json::json!({
        "AccessKeyId": ACCESS_KEY, "SecretAccessKey": given.secret, "Token": "a-token", "Expiration": end, "Code": "Success",
    });
    ("200 OK", body.to_string())
}

fn given(valid: Duration) -> Arc<Mutex<Given>> {
    Arc::new(Mutex::new(Given { secret: SECRET_KEY.to_owned(), valid, times: 0, without_token: 0 }))
}

fn store_of(server: &S3Server, service: SocketAddr) -> Arc<dyn ObjectStore> {
    let mut spec = StoreSpec { credentials: Some(CredentialsRef::Instance), ..server.spec("p") };
    spec.settings.insert("metadata_endpoint".into(), format!("http://{service}"));
    open_spec(&spec).expect("opens")
}

#[tokio::test]
async fn a_machines_role_gives_credentials_and_they_are_kept_while_they_last() {
    let Some(server) = S3Server::start("instance") else { return };
    let given = given(Duration::from_secs(3600));
    let store = store_of(&server, metadata_service(&given));
    for n in 0..5 {
        store.put(&Path::from(format!("x{n}")), "1".into()).await.expect("puts");
    }
    assert_eq!(store.get(&Path::from("x4")).await.expect("gets").bytes().await.expect("reads"), "1");
    let given = given.lock().expect("no panics while it is held");
    assert_eq!((given.times, given.without_token), (1, 0));
}

#[tokio::test]
async fn credentials_that_end_are_asked_for_again() {
    let Some(server) = S3Server::start("ending") else { return };
    // Within five minutes of their end others are asked for, at most ten times a second.
    let given = given(Duration::from_secs(60));
    let store = store_of(&server, metadata_service(&given));
    let at = Path::from("x");
    store.put(&at, "1".into()).await.expect("the first ones");
    for (secret, fits) in [("revoked-planted-9d", false), (SECRET_KEY, true)] {
        given.lock().expect("no panics while it is held").secret = secret.to_owned();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let put = store.put(&at, "2".into()).await;
        assert_eq!(put.is_ok(), fits, "{put:?}");
        if let Err(e) = put {
            let e = crate::error("here", &e);
            assert_eq!(e.kind, ErrorKind::Denied, "{e}");
            assert!(!format!("{e:?}").contains("planted"), "{e:?}");
        }
    }
    assert!(given.lock().expect("no panics while it is held").times >= 3);
}

#[tokio::test]
async fn nobody_is_asked_who_was_not_named() {
    let Some(server) = S3Server::start("unasked") else { return };
    let given = given(Duration::from_secs(3600));
    let service = metadata_service(&given);
    // Without a word about credentials requests go unsigned, and are denied; the service is of no use then, and that is said.
    let mut spec = StoreSpec { credentials: None, ..server.spec("") };
    let denied = open_spec(&spec).expect("opens").put(&Path::from("x"), "1".into()).await.expect_err("unsigned");
    assert_eq!(crate::error("here", &denied).kind, ErrorKind::Denied, "{denied}");
    spec.settings.insert("metadata_endpoint".into(), format!("http://{service}"));
    let e = open_spec(&spec).expect_err("nobody would ask there");
    assert!(e.message.contains("metadata_endpoint") && e.remedy.is_some(), "{e}");
    assert_eq!(given.lock().expect("no panics while it is held").times, 0);
}

#[test]
fn what_the_environment_must_name_is_told_and_used() {
    use object_store::aws::AmazonS3Builder;
    let settings = super::Settings::parse(&Default::default()).expect("nothing is needed");
    let with = |reference: CredentialsRef, vars: &[(&str, &str)]| {
        let vars: HashMap<String, String> = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        super::asking(AmazonS3Builder::new().with_bucket_name("b"), &reference, &settings, |name| vars.get(name).cloned())
    };
    let token = ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token");
    let full = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/v1/credentials");
    for (reference, vars, named) in [
        (CredentialsRef::WebIdentity, &[][..], "AWS_WEB_IDENTITY_TOKEN_FILE"),
        (CredentialsRef::WebIdentity, &[token], "AWS_ROLE_ARN"),
        (CredentialsRef::WebIdentity, &[token, ("AWS_ROLE_ARN", "")], "AWS_ROLE_ARN"),
        (CredentialsRef::Container, &[], "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
        (CredentialsRef::Container, &[full], "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
    ] {
        let e = with(reference, vars).expect_err(named);
        assert!(e.message.contains(named) && e.remedy.is_some(), "{e}");
    }
    for (reference, vars, provider) in [
        (CredentialsRef::WebIdentity, &[token, ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r")][..], "TokenCredentialProvider"),
        (CredentialsRef::Container, &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")], "TaskCredentialProvider"),
        (CredentialsRef::Container, &[full, ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/t")], "EKSPodCredentialProvider"),
        (CredentialsRef::Instance, &[], "TokenCredentialProvider"),
    ] {
        let built = with(reference.clone(), vars).expect("enough").build().expect("builds");
        assert!(format!("{built:?}").contains(provider), "{reference}: {built:?}");
    }
}
