//! The Docker plugin of the real daemon, spoken to byte for byte, and its name among several daemons.

use crate::world::{World, can_mount, socket_of};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

fn call(socket: &Path, call: &str, body: &Value) -> (u16, Value) {
    let mut stream = UnixStream::connect(socket).expect("connects");
    let body = if body.is_null() { String::new() } else { format!("{body}\n") };
    write!(stream, "POST /{call} HTTP/1.1\r\nHost: \r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("reads");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, serde_json::from_str(answer.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON"))
}

#[test]
fn a_container_finds_its_files_through_the_plugin() {
    if !can_mount("plugin") {
        return;
    }
    let (world, name) = World::up_with_plugin();
    let socket = socket_of(&name);
    assert_eq!(call(&socket, "Plugin.Activate", &Value::Null).1["Implements"], json!(["VolumeDriver"]));
    assert_eq!(call(&socket, "VolumeDriver.Create", &json!({ "Name": "db", "Opts": null })).0, 200);
    let (status, mounted) = call(&socket, "VolumeDriver.Mount", &json!({ "Name": "db", "ID": "one" }));
    assert_eq!(status, 200, "{mounted}");
    let point = mounted["Mountpoint"].as_str().expect("a folder").to_owned();
    std::fs::write(Path::new(&point).join("x"), "from a container").expect("writes");
    // The command line sees what the container wrote, and both see one volume.
    assert_eq!(world.run(&["cat", "db:/x"]).ok().out, "from a container");
    assert!(world.run(&["volume", "list"]).ok().out.contains("docker"));
    world.run(&["volume", "remove", "db"]).fails(5, "docker");
    world.run(&["down"]).fails(5, "docker");

    // The daemon dies; the id of before is still an id, and its unmount is not lost.
    world.kill_daemon();
    world.run(&["up", "--plugin-name", &name]).ok();
    assert_eq!(call(&socket, "VolumeDriver.Mount", &json!({ "Name": "db", "ID": "one" })).1["Mountpoint"], point.as_str());
    assert_eq!(std::fs::read_to_string(Path::new(&point).join("x")).expect("reads"), "from a container");
    assert_eq!(call(&socket, "VolumeDriver.Unmount", &json!({ "Name": "db", "ID": "one" })).0, 200);
    assert_eq!(world.mounts(), Vec::<std::path::PathBuf>::new());
    world.run(&["volume", "create", "other"]).ok();
    let listed = call(&socket, "VolumeDriver.List", &json!({})).1;
    assert_eq!(listed["Volumes"].as_array().map(Vec::len), Some(2), "{listed}");
}

#[test]
fn one_name_belongs_to_one_living_daemon() {
    if !can_mount("plugin name") {
        return;
    }
    let (first, name) = World::up_with_plugin();
    let second = World::new();
    let up = second.run(&["up", "--plugin-name", &name]).ok();
    assert!(up.err.contains("warning") && up.err.contains(first.root.to_str().expect("plain")), "{}{}", up.out, up.err);
    second.run(&["volume", "create", "of-the-second"]).ok();
    let listed = call(&socket_of(&name), "VolumeDriver.List", &json!({})).1;
    assert_eq!(listed["Volumes"], json!([]), "the socket is still the first one's");
    let doctor = second.run(&["doctor"]);
    assert_eq!(doctor.code, 1);
    assert!(doctor.out.contains(&name), "{}", doctor.out);
    // The name is free once its holder is gone.
    first.run(&["down"]).ok();
    second.run(&["down"]).ok();
    let again = second.run(&["up", "--plugin-name", &name]).ok();
    assert!(!again.err.contains("warning"), "{}", again.err);
    let listed = call(&socket_of(&name), "VolumeDriver.List", &json!({})).1;
    assert_eq!(listed["Volumes"].as_array().map(Vec::len), Some(1));
}

#[test]
fn the_socket_file_stays_while_there_is_a_name_to_protect() {
    if !can_mount("socket file") {
        return;
    }
    let (world, name) = World::up_with_plugin();
    let socket = socket_of(&name);
    world.run(&["volume", "create", "db"]).ok();
    let down = world.run(&["down"]).ok();
    assert!(socket.exists(), "Docker would silently make a local volume db");
    assert!(down.out.contains(socket.to_str().expect("plain")), "{}", down.out);
    // The stale file is no obstacle.
    world.run(&["up", "--plugin-name", &name]).ok();
    assert_eq!(call(&socket, "VolumeDriver.Get", &json!({ "Name": "db" })).0, 200);
    world.run(&["down", "--remove-plugin-socket"]).ok();
    assert!(!socket.exists());
    world.run(&["up", "--plugin-name", &name]).ok();
    world.run(&["volume", "remove", "--now", "db"]).ok();
    world.run(&["down"]).ok();
    assert!(!socket.exists(), "nothing to protect any more");
}

#[test]
fn somebody_elses_plugin_is_left_alone() {
    if !can_mount("foreign plugin") {
        return;
    }
    let (world, name) = World::up_with_plugin();
    world.run(&["down"]).ok();
    let socket = socket_of(&name);
    let foreign = UnixListener::bind(&socket).expect("listens");
    let up = world.run(&["up", "--plugin-name", &name]).ok();
    assert!(up.err.contains("another plugin"), "{}{}", up.out, up.err);
    UnixStream::connect(&socket).expect("the foreign socket is still there");
    drop(foreign);
    world.run(&["down"]).ok();
    let up = world.run(&["up", "--plugin-name", &name]).ok();
    assert!(!up.err.contains("warning"), "{}", up.err);
}
