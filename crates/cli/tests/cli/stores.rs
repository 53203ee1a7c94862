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
        (add("bad", "s3://bucket/../p", &credentials, &endpoint), "'..'"),
        (add("bad", "s3://bucket//p", &credentials, &endpoint), "empty"),
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
fn a_servers_wrong_clock_is_told_and_does_no_harm() {
    let Some(server) = S3Server::start("bucket") else { return };
    if !can_mount("a wrong clock") {
        return;
    }
    let proxy = FaultProxy::start(server.addr());
    let world = World::up();
    let (credentials, endpoint) = (file_ref(&server), format!("endpoint=http://{}", proxy.addr()));
    for (name, seconds) in [("early", 86_400), ("late", -86_400)] {
        proxy.set(Faults::only(Fault::Ahead(seconds)));
        let added = world.run(&add(name, &format!("s3://bucket/{name}"), &credentials, &endpoint)).ok();
        assert!(added.err.contains(&format!("the clock of store {name} is ")), "{}", added.err);
        let seen = &world.json(&["store", "inspect", name])[0]["capabilities"]["clock_skew_ms"];
        assert!(seen.as_i64().is_some_and(|ms| (ms - seconds * 1000).abs() < 10_000), "{seen}");
        // Whose clock is right does not matter to a volume, nor that it is set while the volume is in use.
        world.run(&["volume", "create", name, "-o", &format!("store={name}")]).ok();
        let dir = world.dir(name);
        for (file, ahead) in [("a", seconds), ("b", -seconds)] {
            proxy.set(Faults::only(Fault::Ahead(ahead)));
            world.run(&["mount", name, &dir]).ok();
            let path = Path::new(&dir).join(file);
            std::fs::write(&path, file).expect("writes");
            std::fs::File::open(&path).and_then(|f| f.sync_all()).expect("syncs");
            world.run(&["unmount", &dir]).ok();
        }
        for file in ["a", "b"] {
            assert_eq!(world.run(&["cat", &format!("{name}:/{file}")]).ok().out, file);
        }
    }
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
        vec!["export", "--store", &format!("s3://AKIA:{planted}/x@bucket")],
        vec!["export", "--store", &format!("s3://bucket/x?secret={planted}")],
        vec!["export", "--store", "s3://bucket", "--set", planted],
        vec!["export", "--store", "s3://bucket", "--set", &format!("secret_access_key={planted}")],
        vec!["export", "--store", "s3://bucket", "--credentials", planted],
    ] {
        let refused = world.run(&words).fails(2, "");
        said.push_str(&refused.out);
        said.push_str(&refused.err);
    }
    let refused = world.run(&["export", "--store", "s3://bucket", "--credentials", planted, "--output", "json"]);
    assert_eq!(refused.code, 2, "{}", refused.err);
    said.push_str(&refused.err);
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

#[test]
fn a_store_in_use_gets_other_credentials_and_settings_under_mounted_volumes() {
    let Some(server) = S3Server::start("bucket") else { return };
    let Some(other) = S3Server::start("bucket") else { return };
    if !can_mount("store set") {
        return;
    }
    let world = World::up();
    let first = world.path("first");
    std::fs::copy(server.credentials_file(), &first).expect("copies with its mode");
    let (credentials, endpoint) = (format!("file:{}", first.display()), format!("endpoint=http://{}", server.addr()));
    world.run(&add("cloud", "s3://bucket", &credentials, &endpoint)).ok();
    world.run(&["volume", "create", "db", "-o", "store=cloud"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    std::fs::write(world.path("m/x"), "before").expect("writes");

    // Another way to the same place: through a proxy, with credentials from another file. The first file goes.
    let proxy = FaultProxy::start(server.addr());
    let (by_proxy, second) = (format!("endpoint=http://{}", proxy.addr()), file_ref(&server));
    let said = world.run(&["store", "set", "cloud", "--credentials", &second, "--set", &by_proxy, "-s", "timeout=9s"]).ok();
    assert_eq!(said.out, "cloud\n");
    std::fs::remove_file(&first).expect("removed");
    let shown = &world.json(&["store", "inspect", "cloud"])[0];
    assert_eq!((&shown["credentials"], &shown["settings"]["timeout"]), (&json!(second), &json!("9s")), "{shown}");
    proxy.forget();
    let mut file = std::fs::File::create(world.path("m/y")).expect("creates");
    std::io::Write::write_all(&mut file, b"after").expect("writes");
    file.sync_all().expect("the store has it");
    drop(file);
    assert!(proxy.seen().of("PUT", "/log/") > 0, "the mounted volume goes the new way: {:?}", proxy.seen());
    assert_eq!(std::fs::read_to_string(world.path("m/x")).expect("reads"), "before");

    // A worker that is killed is followed by one that goes the new way.
    let volumes = world.json(&["status"]);
    let pid = volumes["keeper"]["workers"][0]["pid"].as_i64().expect("a worker");
    crate::world::kill(i32::try_from(pid).expect("a process"));
    assert_eq!(std::fs::read_to_string(world.path("m/y")).expect("reads"), "after");
    proxy.forget();
    std::fs::write(world.path("m/z"), "again").expect("writes");
    std::fs::File::open(world.path("m/z")).and_then(|f| f.sync_all()).expect("the store has it");
    assert!(proxy.seen().of("PUT", "/log/") > 0, "{:?}", proxy.seen());

    // What would be another place, or does not work, or changes nothing, is refused and changes nothing.
    let elsewhere = format!("endpoint=http://{}", other.addr());
    let e = world.run(&["store", "set", "cloud", "--set", &elsewhere]).fails(2, "another place");
    assert!(e.err.contains("db"), "{}", e.err);
    assert!(objects(&other, "").is_empty(), "the attempt leaves nothing there");
    let copied = Command::new("cp").arg("-a").arg(server.folder().join(".")).arg(other.folder()).status().expect("cp runs");
    assert!(copied.success());
    let held = objects(&other, "").len();
    let e = world.run(&["store", "set", "cloud", "--set", &elsewhere]).fails(2, "a copy");
    assert!(e.err.contains("another place"), "{}", e.err);
    assert_eq!(objects(&other, "").len(), held, "the attempt leaves nothing there");
    std::fs::write(world.path("wrong"), "[default]\naws_access_key_id = orlop-test-key\naws_secret_access_key = planted-77\n")
        .expect("file");
    Command::new("chmod").arg("600").arg(world.path("wrong")).status().expect("chmod");
    let wrong = format!("file:{}", world.path("wrong").display());
    let e = world.run(&["store", "set", "cloud", "--credentials", &wrong]).fails(7, "not changed");
    assert!(!e.err.contains("planted-77"), "{}", e.err);
    world.run(&["store", "set", "cloud", "--set", "endpiont=x"]).fails(2, "endpiont");
    world.run(&["store", "set", "cloud", "--credentials", "planted-77"]).fails(2, "reference");
    world.run(&["store", "set", "cloud"]).fails(2, "nothing");
    world.run(&["store", "set", "absent", "--unset", "region"]).fails(3, "absent");
    assert!(world.run(&["store", "set", "cloud", "--unset", "nosuch"]).fails(2, "nosuch").err.contains("path_style"));
    world.run(&["store", "set", "default", "--set", "region=x"]).fails(2, "region");
    let same = &world.json(&["store", "inspect", "cloud"])[0];
    for field in ["url", "settings", "credentials", "capabilities"] {
        assert_eq!(same[field], shown[field], "{field}");
    }

    world.run(&["store", "set", "cloud", "--unset", "timeout", "--set", &endpoint]).ok();
    let back = &world.json(&["store", "inspect", "cloud"])[0];
    assert!(back["settings"].get("timeout").is_none(), "{back}");
    world.run(&["unmount", "db"]).ok();
    assert_eq!(world.run(&["cat", "db:/z"]).ok().out, "again");
    let events = world.json(&["audit", "list"]);
    assert!(events.as_array().expect("records").iter().any(|e| e["verb"] == "store.set" && e["target"] == "cloud"));
    assert_eq!(holding(&world.root, "planted-77"), Vec::<String>::new());
}

#[test]
fn with_virtual_hosts_the_bucket_is_in_the_host_name() {
    let Some(server) = S3Server::start_hosted("bucket", "s3.orlop.test") else { return };
    if !can_mount("virtual hosts") {
        return;
    }
    // No name of the domain can be looked up: requests reach the server through a proxy that the environment names.
    let proxy = FaultProxy::start(server.addr());
    let world = World::new();
    let mut up = world.command(&["up", "--no-docker-plugin"]);
    up.env("http_proxy", format!("http://{}", proxy.addr())).env_remove("no_proxy").env_remove("NO_PROXY");
    assert!(up.status().expect("the binary runs").success());
    let credentials = file_ref(&server);
    let style = |name: &'static str, style: &'static str| {
        let url = format!("s3://bucket/{name}");
        let mut words = add(name, &url, &credentials, "endpoint=http://s3.orlop.test");
        words.extend(["-s", style]);
        world.run(&words).ok();
        let seen = proxy.seen();
        proxy.forget();
        seen
    };
    for (name, path_style, starts) in
        [("hosted", "path_style=false", "http://bucket.s3.orlop.test/"), ("pathed", "path_style=true", "http://s3.orlop.test/bucket")]
    {
        let seen = style(name, path_style);
        assert!(seen.count > 10 && seen.requests.iter().all(|(_, target)| target.starts_with(starts)), "{seen:?}");
    }

    world.run(&["volume", "create", "db", "-o", "store=hosted"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    std::fs::write(world.path("m/x"), "hosted").expect("writes");
    world.run(&["unmount", "db"]).ok();
    assert!(objects(&server, "hosted/volumes").len() > 2, "the server took the bucket from the host name");
    assert_eq!(world.run(&["cat", "db:/x"]).ok().out, "hosted");
}
