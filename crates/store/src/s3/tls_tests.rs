//! S3 over TLS, with the certificates that people have: one of their own authority, and ones that signed themselves.

use crate::testing::S3Server;
use crate::{ObjectStore, ObjectStoreExt, open_spec, probe};
use object_store::path::Path;
use orlop_model::{ErrorKind, StoreSpec};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

fn openssl(dir: &std::path::Path, words: &[&str]) -> Option<()> {
    let done = Command::new("openssl").args(words).current_dir(dir).stdin(Stdio::null()).output();
    let Ok(done) = done else {
        println!("skipped: openssl is not installed");
        return None;
    };
    assert!(done.status.success(), "openssl {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    Some(())
}

const KEY: &[&str] = &["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
const NAMES: &str = "subjectAltName=IP:127.0.0.1,DNS:localhost";

/// A certificate that signed itself, as servers at home have it.
fn self_signed(dir: &std::path::Path, authority: &str) -> Option<()> {
    let constraint = format!("basicConstraints=critical,CA:{authority}");
    let rest = ["-subj", "/CN=localhost", "-addext", NAMES, "-addext", &constraint, "-keyout", "key.pem", "-out", "cert.pem"];
    openssl(dir, &[KEY, &rest].concat())
}

/// A certificate of an authority of its own, which is in `ca.pem`.
fn signed_for(dir: &std::path::Path, names: &str) -> Option<()> {
    openssl(dir, &[KEY, &["-subj", "/CN=Orlop test authority", "-keyout", "ca.key", "-out", "ca.pem"]].concat())?;
    std::fs::write(dir.join("names"), names).expect("written");
    let request = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost"];
    openssl(dir, &[&request[..], &["-keyout", "key.pem", "-out", "request.pem"]].concat())?;
    let sign = ["x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
    openssl(dir, &[&sign[..], &["-days", "2", "-extfile", "names", "-out", "cert.pem"]].concat())
}

/// Ends TLS before a server, with `cert.pem` and `key.pem` of a folder. Ends with the runtime.
async fn terminate(dir: &std::path::Path, upstream: SocketAddr) -> SocketAddr {
    let pem = std::fs::read(dir.join("cert.pem")).expect("a certificate");
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(&std::fs::read(dir.join("key.pem")).expect("a key")).expect("PEM");
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate and its key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not like the certificate goes away: nothing to relay.
                let Ok(mut inner) = acceptor.accept(stream).await else { return };
                let Ok(mut outer) = tokio::net::TcpStream::connect(upstream).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
            });
        }
    });
    addr
}

fn spec(server: &S3Server, endpoint: String, ca: Option<std::path::PathBuf>) -> StoreSpec {
    let mut spec = server.spec("p");
    spec.settings.insert("endpoint".into(), endpoint);
    spec.settings.extend(ca.map(|p| ("ca_file".to_owned(), p.display().to_string())));
    spec
}

async fn refused(store: &dyn ObjectStore) -> orlop_model::Error {
    crate::error("here", &store.put(&Path::from("x"), "1".into()).await.expect_err("refused"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_private_certificate_is_trusted_by_its_ca_file_and_by_nothing_else() {
    type Make = fn(&std::path::Path) -> Option<()>;
    let kinds: [(&str, Make, &str); 2] =
        [("of an authority", |d| signed_for(d, NAMES), "ca.pem"), ("signed itself", |d| self_signed(d, "FALSE"), "cert.pem")];
    let Some(server) = S3Server::start("tls") else { return };
    let other = tempfile::tempdir().expect("temp folder");
    if signed_for(other.path(), NAMES).is_none() {
        return;
    }
    for (what, make, ca) in kinds {
        let dir = tempfile::tempdir().expect("temp folder");
        make(dir.path()).expect("made");
        let addr = terminate(dir.path(), server.addr()).await;
        let trusting = open_spec(&spec(&server, format!("https://{addr}"), Some(dir.path().join(ca)))).expect("opens");
        let put = trusting.put(&Path::from("x"), "sealed on the way".into()).await;
        if let Err(e) = put {
            panic!("{what}: {}", crate::error("here", &e));
        }
        assert_eq!(trusting.get(&Path::from("x")).await.expect(what).bytes().await.expect(what), "sealed on the way", "{what}");
        let found = probe(trusting.as_ref()).await.expect(what);
        assert!(found.conditional_create && found.conditional_replace && found.multipart && found.ranged_get, "{what}: {found:?}");

        // Neither without it nor with that of somebody else is anything sent.
        for ca in [None, Some(other.path().join("ca.pem"))] {
            let e = refused(&*open_spec(&spec(&server, format!("https://{addr}"), ca)).expect("opens")).await;
            assert_eq!(e.kind, ErrorKind::Unavailable, "{what}: {e}");
            assert!(e.message.contains("certificate"), "{what}: {e}");
            assert!(e.remedy.as_ref().is_some_and(|r| r.contains("ca_file")), "{what}: {e}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_signed_itself_as_an_authority_is_refused_with_the_way_out() {
    let Some(server) = S3Server::start("tls") else { return };
    let dir = tempfile::tempdir().expect("temp folder");
    if self_signed(dir.path(), "TRUE").is_none() {
        return;
    }
    let addr = terminate(dir.path(), server.addr()).await;
    let trusting = open_spec(&spec(&server, format!("https://{addr}"), Some(dir.path().join("cert.pem")))).expect("opens");
    let e = refused(&*trusting).await;
    assert!(e.kind == ErrorKind::Unavailable && e.message.contains("certificate"), "{e}");
    assert!(e.remedy.as_ref().is_some_and(|r| r.contains("CA:FALSE") && r.contains("ca_file")), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_name_is_refused_though_its_authority_is_trusted() {
    let Some(server) = S3Server::start("tls") else { return };
    let dir = tempfile::tempdir().expect("temp folder");
    if signed_for(dir.path(), "subjectAltName=DNS:localhost").is_none() {
        return;
    }
    let addr = terminate(dir.path(), server.addr()).await;
    let ca = || Some(dir.path().join("ca.pem"));
    let by_name = open_spec(&spec(&server, format!("https://localhost:{}", addr.port()), ca())).expect("opens");
    by_name.put(&Path::from("x"), "1".into()).await.expect("it is a name of the certificate");
    // The same server under an address that is not in its certificate.
    let wrong = open_spec(&spec(&server, format!("https://127.0.0.1:{}", addr.port()), ca())).expect("opens");
    let e = refused(&*wrong).await;
    assert!(e.kind == ErrorKind::Unavailable && e.message.contains("certificate") && e.remedy.is_some(), "{e}");
    // An endpoint that speaks no TLS.
    let plain = open_spec(&spec(&server, format!("https://{}", server.addr()), ca())).expect("opens");
    let e = refused(&*plain).await;
    assert_eq!(e.kind, ErrorKind::Unavailable, "{e}");
}
