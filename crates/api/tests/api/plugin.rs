//! The plugin protocol as dockerd speaks it, over a real socket: an empty Host header, no content type, `Opts`
//! that is null, ids that come twice or were never known.

use crate::world::World;
use orlop_model::{ErrorKind, VolumeRef};
use serde_json::{Value, json};
use std::path::PathBuf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

struct Dockerd {
    world: World,
    socket: PathBuf,
    server: tokio::task::JoinHandle<orlop_model::Result<()>>,
}

impl Dockerd {
    async fn new() -> Dockerd {
        let world = World::new().await;
        let socket = world.root.path().join("plugin.sock");
        let listener = UnixListener::bind(&socket).expect("listens");
        let server = tokio::spawn(orlop_api::serve(listener, world.docker.clone(), std::future::pending()));
        Dockerd { world, socket, server }
    }

    /// Byte for byte what dockerd writes.
    async fn raw(&self, call: &str, body: &str) -> (u16, Value) {
        let mut stream = UnixStream::connect(&self.socket).await.expect("connects");
        let request = format!(
            "POST /{call} HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {}\r\n\
             Accept: application/vnd.docker.plugins.v1.2+json\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status in {answer:?}"));
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{call}: {e} in {answer:?}")))
    }

    async fn ok(&self, call: &str, body: Value) -> Value {
        let (status, answer) = self.raw(call, &format!("{body}\n")).await;
        assert_eq!(status, 200, "{call} {body}: {answer}");
        assert!(answer["Err"].as_str().is_none_or(str::is_empty), "{call} {body}: {answer}");
        answer
    }

    async fn refused(&self, call: &str, body: Value) -> String {
        let (status, answer) = self.raw(call, &format!("{body}\n")).await;
        assert_eq!(status, 500, "{call} {body}: {answer}");
        answer["Err"].as_str().filter(|e| !e.is_empty()).unwrap_or_else(|| panic!("{call} {body}: {answer}")).to_owned()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handshake_takes_an_empty_body() {
    let d = Dockerd::new().await;
    assert_eq!(d.raw("Plugin.Activate", "").await, (200, json!({ "Implements": ["VolumeDriver"] })));
    assert_eq!(d.raw("VolumeDriver.Capabilities", "{}").await, (200, json!({ "Capabilities": { "Scope": "local" } })));
    assert_eq!(d.ok("VolumeDriver.List", json!({})).await["Volumes"], json!([]));
    assert_eq!(d.raw("VolumeDriver.Nothing", "{}").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_run_as_it_comes_over_the_wire() {
    let d = Dockerd::new().await;
    assert!(d.refused("VolumeDriver.Get", json!({ "Name": "mydata" })).await.contains("mydata"));
    d.ok("VolumeDriver.Create", json!({ "Name": "mydata", "Opts": null })).await;
    let before = d.ok("VolumeDriver.Get", json!({ "Name": "mydata" })).await;
    let point = before["Volume"]["Mountpoint"].as_str().filter(|p| !p.is_empty()).expect("a mountpoint before any mount").to_owned();
    assert_eq!(before["Volume"]["Status"]["State"], "unmounted");
    assert!(before["Volume"]["CreatedAt"].as_str().is_some_and(|t| t.contains('T')));

    // Copy-up with one id, the container with another; each id again, as after a kill -9 of dockerd.
    for id in ["copyup", "copyup", "run", "run"] {
        let mounted = d.ok("VolumeDriver.Mount", json!({ "Name": "mydata", "ID": id })).await;
        assert_eq!(mounted["Mountpoint"], point);
    }
    d.ok("VolumeDriver.Unmount", json!({ "Name": "mydata", "ID": "copyup" })).await;
    let during = d.ok("VolumeDriver.Get", json!({ "Name": "mydata" })).await;
    assert_eq!(during["Volume"]["Status"]["Attachments"].as_array().map(Vec::len), Some(1));
    assert_eq!(during["Volume"]["Status"]["State"], "mounted");
    assert_eq!(during["Volume"]["Status"]["Usage"]["used_bytes"], 4096);
    assert_eq!(d.ok("VolumeDriver.Path", json!({ "Name": "mydata" })).await["Mountpoint"], point);
    let refusal = d.refused("VolumeDriver.Remove", json!({ "Name": "mydata" })).await;
    assert!(refusal.contains("mydata"), "{refusal}");

    d.ok("VolumeDriver.Unmount", json!({ "Name": "mydata", "ID": "run" })).await;
    // Calls get lost and repeated; a container must be able to stop all the same.
    d.ok("VolumeDriver.Unmount", json!({ "Name": "mydata", "ID": "run" })).await;
    d.ok("VolumeDriver.Unmount", json!({ "Name": "never-was", "ID": "x" })).await;
    d.ok("VolumeDriver.Remove", json!({ "Name": "mydata" })).await;
    assert_eq!(d.ok("VolumeDriver.List", json!({})).await["Volumes"], json!([]));
    let gone = d.world.control.volume(&"mydata".parse::<VolumeRef>().expect("a name")).await.expect_err("removed");
    assert_eq!(gone.kind, ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_shows_the_true_options() {
    let d = Dockerd::new().await;
    let create = json!({ "Name": "db", "Opts": { "size": "10G", "uid": "999", "mode": "0700" } });
    d.ok("VolumeDriver.Create", create.clone()).await;
    // Two dockers at once, both after a Get that found nothing: the second is no failure.
    d.ok("VolumeDriver.Create", create).await;
    let refusal = d.refused("VolumeDriver.Create", json!({ "Name": "db", "Opts": { "size": "20G" } })).await;
    assert!(refusal.contains("db"), "{refusal}");
    let options = &d.ok("VolumeDriver.Get", json!({ "Name": "db" })).await["Volume"]["Status"]["Options"];
    assert_eq!(options, &json!({ "size": (10u64 << 30).to_string(), "uid": "999", "mode": "0700" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_the_thing_and_the_remedy() {
    let d = Dockerd::new().await;
    for (call, body, words) in [
        ("VolumeDriver.Create", json!({ "Name": "x", "Opts": { "sise": "1G" } }), ["sise", "known options"]),
        ("VolumeDriver.Create", json!({ "Name": "x", "Opts": { "size": "lots" } }), ["lots", "10G"]),
        ("VolumeDriver.Create", json!({ "Name": "../x", "Opts": {} }), ["../x", "letter or digit"]),
        ("VolumeDriver.Create", json!({ "Name": "x", "Opts": { "store": "nowhere" } }), ["nowhere", "("]),
        ("VolumeDriver.Mount", json!({ "Name": "absent", "ID": "1" }), ["absent", "("]),
        ("VolumeDriver.Mount", json!({ "Name": "absent" }), ["absent", "ID"]),
        ("VolumeDriver.Remove", json!({ "Name": "absent" }), ["absent", "("]),
    ] {
        let refusal = d.refused(call, body.clone()).await;
        for word in words {
            assert!(refusal.contains(word), "{call} {body}: {refusal}");
        }
    }
    assert_eq!(d.raw("VolumeDriver.Create", "not json").await.0, 500);
    assert_eq!(d.ok("VolumeDriver.List", json!({})).await["Volumes"], json!([]), "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_protected_by_its_owner_is_not_dockers_to_remove() {
    let d = Dockerd::new().await;
    d.ok("VolumeDriver.Create", json!({ "Name": "db", "Opts": { "protect": "on" } })).await;
    let refusal = d.refused("VolumeDriver.Remove", json!({ "Name": "db" })).await;
    assert!(refusal.contains("protect"), "{refusal}");
    assert_eq!(d.ok("VolumeDriver.Get", json!({ "Name": "db" })).await["Volume"]["Status"]["Protected"], true);
}
