//! Stores through the real binary, against a real S3 server: what is probed, what is refused, what is never written down.

use crate::world::{World, can_mount};
use orlop_store::testing::{Fault, FaultProxy, Faults, S3Server, SECRET_KEY};
use serde_json::json;
use std::path::Path;
use std::process::Command;

/// The arguments that add the server's store.
fn add<'a>(name: &'a str, url: &'a str, credentials: &'a str, endpoint: &'a str) -> Vec<&'a str> {
    vec!["store", "add", name, url, "--credentials", credentials, "--set", endpoint, "-s", "region=us-east-1"]
}

fn file_ref(server: &S3Server) -> String {
    format!("file:{}", server.credentials_file().display())
}

/// Every file below a folder that holds the text.
fn holding(folder: &Path, text: &str) -> Vec<String> {
    let output = Command::new("grep").args(["-rlaF", text]).arg(folder).output().expect("grep runs");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn objects(server: &S3Server, prefix: &str) -> Vec<String> {
    let output = Command::new("find").arg(server.folder().join(prefix)).args(["-type", "f"]).output().expect("find runs");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn an_s3_store_is_added_shown_tested_lived_in_and_removed() {
    let Some(server) = S3Server::start("bucket") else { return };
    if !can_mount("an S3 store") {
        return;
    }
    let world = World::up();
    let (credentials, endpoint) = (file_ref(&server), format!("endpoint=http://{}", server.addr()));
    let words = add("cloud", "s3://bucket/pre/fix", &credentials, &endpoint);
    assert_eq!(world.run(&words).ok().out, "cloud\n");
    let seen = &world.json(&["store", "inspect", "cloud"])[0];
    for what in ["conditional_create", "conditional_replace"] {
        assert_eq!(seen["capabilities"][what], true, "{seen}");
    }
    assert_eq!((&seen["url"], &seen["credentials"]), (&json!("s3://bucket/pre/fix"), &json!(credentials)));
    assert!(seen.get("refusal").is_none(), "{seen}");
    let default = &world.json(&["store", "inspect", "default"])[0];
    assert_eq!(default["capabilities"]["conditional_replace"], true, "{default}");
    assert_eq!(world.json(&["store", "ls", "--quiet"]), json!(["cloud", "default"]));
    let table = world.run(&["store", "list"]).ok().out;
    assert!(table.contains("s3://bucket/pre/fix") && table.contains("default"), "{table}");
    assert!(objects(&server, "").is_empty(), "the probe cleans up");

    // As it stands: nothing changes. Otherwise it is refused.
    world.run(&words).ok();
    world.run(&["store", "add", "cloud", "s3://bucket/other"]).fails(4, "URL");
    let test = world.run(&["store", "test", "cloud"]).ok().out;
    assert!(test.contains("put takes") && test.contains("ms (median)") && test.contains("conditional create"), "{test}");
    let test = world.json(&["store", "test", "cloud"]);
    assert!(test["put_micros"].as_u64().is_some_and(|n| n > 0) && test["name"] == "cloud", "{test}");

    world.run(&["volume", "create", "db", "-o", "store=cloud"]).ok();
    assert_eq!(world.json(&["volume", "inspect", "db"])[0]["store"], "cloud");
    assert!(!objects(&server, "pre/fix/volumes").is_empty(), "the volume is in the store");
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    std::fs::write(world.path("m/x"), "precious").expect("writes");
    world.run(&["unmount", "db"]).ok();
    assert_eq!(world.run(&["cat", "db:/x"]).ok().out, "precious");

    world.run(&["store", "remove", "cloud"]).fails(5, "db");
    world.run(&["store", "remove", "--dry-run", "cloud"]).fails(5, "cloud");
    let id = world.json(&["volume", "inspect", "db"])[0]["id"].as_str().expect("an id").to_owned();
    world.run(&["volume", "remove", "db"]).ok();
    world.run(&["store", "remove", "cloud"]).fails(5, "can be restored");
    world.run(&["volume", "restore", "db"]).ok();
    assert_eq!(world.run(&["cat", "db:/x"]).ok().out, "precious");
    world.run(&["volume", "remove", "db"]).ok();
    world.run(&["volume", "remove", "--now", &id]).ok();
    assert_eq!(objects(&server, "pre/fix"), Vec::<String>::new(), "deleted for good means in the store too");
    let would = world.run(&["store", "rm", "-n", "cloud"]).ok().out;
    assert!(would.contains("would remove cloud"), "{would}");
    world.run(&["store", "rm", "cloud"]).ok();
    world.run(&["store", "inspect", "cloud"]).fails(3, "cloud");
    world.run(&["store", "remove", "default"]).fails(2, "default");
    world.run(&["audit", "verify"]).ok();
    let events = world.json(&["audit", "list"]);
    let of_cloud = events.as_array().expect("records").iter().filter(|e| e["target"] == "cloud");
    let verbs: Vec<&str> = of_cloud.filter_map(|e| e["verb"].as_str()).collect();
    for verb in ["store.add", "store.test", "store.remove"] {
        assert!(verbs.contains(&verb), "{verbs:?}");
    }
}

#[test]
fn a_store_that_cannot_be_used_is_refused_with_cause_and_remedy() {
    let Some(server) = S3Server::start("bucket") else { return };
    if !can_mount("bad stores") {
        return;
    }
    let world = World::up();
    let (credentials, endpoint) = (file_ref(&server), format!("endpoint=http://{}", server.addr()));
    let closed = format!("endpoint=http://{}", std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port"));
    std::fs::write(world.path("wrong"), "[default]\naws_access_key_id = orlop-test-key\naws_secret_access_key = wrong\n").expect("file");
    Command::new("chmod").arg("600").arg(world.path("wrong")).status().expect("chmod");
    let wrong = format!("file:{}", world.path("wrong").display());
    let began = std::time::Instant::now();
    for (words, word) in [
        (add("bad", "s3://bucket", &credentials, &closed), "not added"),
        (add("bad", "s3://bucket", &wrong, &endpoint), "not added"),
        (add("bad", "s3://bucket", "file:/nonexistent/credentials", &endpoint), "/nonexistent/credentials"),
        (add("bad", "s3://bucket", &credentials, "endpiont=http://x"), "endpiont"),
        (vec!["store", "add", "bad", "gopher://x"], "gopher"),
        (vec!["store", "add", "bad", "/srv/data"], "scheme"),
        (vec!["store", "add", "bad", "dir:///nonexistent/folder"], "/nonexistent/folder"),
        (vec!["store", "add", "a/b", "s3://bucket"], "a/b"),
        (vec!["store", "add", "bad", "s3://bucket", "--credentials", "planted"], "reference"),
        (vec!["store", "test", "absent"], "absent"),
        (vec!["store", "inspect", "absent"], "absent"),
        (vec!["store", "remove", "absent"], "absent"),
    ] {
        let ended = world.run(&words);
        let code = ended.code;
        assert!(code > 1, "{words:?} ended with {code}");
        ended.fails(code, word);
    }
    assert!(began.elapsed().as_secs() < 120, "nobody waits for ever: {:?}", began.elapsed());
    assert_eq!(world.json(&["store", "list", "--quiet"]), json!(["default"]));
}

#[test]
fn a_server_that_ignores_conditions_holds_no_chunked_volume() {
    let Some(server) = S3Server::start("bucket") else { return };
    if !can_mount("a careless server") {
        return;
    }
    let proxy = FaultProxy::start(server.addr());
    proxy.set(Faults::only(Fault::StripConditions));
    let world = World::up();
    let (credentials, endpoint) = (file_ref(&server), format!("endpoint=http://{}", proxy.addr()));
    let added = world.run(&add("careless", "s3://bucket", &credentials, &endpoint)).ok();
    assert!(added.err.contains("takes no volumes"), "{}", added.err);
    let seen = &world.json(&["store", "inspect", "careless"])[0];
    for what in ["conditional_create", "conditional_replace"] {
        assert_eq!(seen["capabilities"][what], false, "{seen}");
    }
    assert!(seen["refusal"].is_string(), "{seen}");
    let refused = world.run(&["volume", "create", "db", "-o", "store=careless"]).fails(11, "does not refuse to create");
    assert!(refused.err.contains("careless"), "{}", refused.err);
    assert_eq!(world.json(&["volume", "list", "--all"]), json!([]));
    assert!(objects(&server, "").is_empty());
    // The server is mended, and looked at again.
    proxy.heal();
    world.run(&["store", "test", "careless"]).ok();
    let seen = &world.json(&["store", "inspect", "careless"])[0];
    assert_eq!(seen["capabilities"]["conditional_create"], true, "{seen}");
}

#[test]
fn a_secret_is_in_no_file_no_answer_and_no_process() {
    let Some(server) = S3Server::start("bucket") else { return };
    if !can_mount("a planted secret") {
        return;
    }
    let world = World::up();
    let (credentials, endpoint) = (file_ref(&server), format!("endpoint=http://{}", server.addr()));
    let planted = "planted-in-the-url-7c1e";
    let mut said = String::new();
    for words in [
        vec!["store", "add", "bad", &format!("s3://AKIA:{planted}@bucket/x")],
        vec!["store", "add", "bad", &format!("s3://bucket/x?secret={planted}")],
        vec!["store", "add", "bad", "s3://bucket", "--set", &format!("secret_access_key={planted}")],
        vec!["store", "add", "bad", "s3://bucket", "--set", planted],
        vec!["store", "add", "bad", "s3://bucket", "--set", &format!("endpoint=http://a:{planted}@127.0.0.1:1")],
        vec!["store", "add", "bad", "s3://bucket", "--credentials", planted],
    ] {
        let refused = world.run(&words).fails(2, "error");
        said.push_str(&refused.err);
    }
    for words in [
        add("cloud", "s3://bucket/p", &credentials, &endpoint),
        vec!["store", "inspect", "cloud", "--output", "json"],
        vec!["store", "test", "cloud", "--output", "yaml"],
        vec!["volume", "create", "db", "-o", "store=cloud"],
        vec!["volume", "inspect", "db", "--output", "json"],
        vec!["status", "--output", "json"],
        vec!["doctor"],
        vec!["audit", "list", "--output", "json"],
    ] {
        let ended = world.run(&words);
        said.push_str(&ended.out);
        said.push_str(&ended.err);
    }
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    std::fs::write(world.path("m/x"), "x").expect("writes");
    for secret in [planted, SECRET_KEY] {
        assert!(!said.contains(secret), "{said}");
        assert_eq!(holding(&world.root, secret), Vec::<String>::new());
        for pid in world.processes() {
            for file in ["cmdline", "environ"] {
                let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                assert!(!String::from_utf8_lossy(&text).contains(secret), "process {pid}: {file}");
            }
        }
    }
    assert!(said.contains("cloud"), "{said}");
}
