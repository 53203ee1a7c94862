//! Coming up, being up, going down.

use crate::world::{World, alive, can_mount, wait};
use std::time::{Duration, Instant};

#[test]
fn up_comes_up_quickly_says_so_and_a_second_up_says_it_runs() {
    if !can_mount("up") {
        return;
    }
    let world = World::new();
    let start = Instant::now();
    let first = world.run(&["up", "--no-docker-plugin"]).ok();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(first.out.contains("is up on"), "{}", first.out);
    let pid = world.daemon_pid();
    let second = world.run(&["up", "--no-docker-plugin"]).ok();
    assert!(second.out.contains("already running"), "{}", second.out);
    assert_eq!(world.daemon_pid(), pid);
    let status = world.json(&["status"]);
    assert_eq!((&status["pid"], &status["root"]), (&pid.into(), &world.root.to_str().expect("plain").into()));
    assert!(status["keeper"]["workers"].is_array(), "{status}");
    let down = world.run(&["down"]).ok();
    assert!(down.out.contains("is down"), "{}", down.out);
    assert_eq!(world.processes(), Vec::<i32>::new());
    assert!(!world.root.join("run/orlop.sock").exists());
}

#[test]
fn of_two_at_once_one_wins_and_the_other_says_so() {
    if !can_mount("two ups") {
        return;
    }
    let world = World::new();
    let children: Vec<_> = (0..4)
        .map(|_| {
            let mut command = world.command(&["up", "--no-docker-plugin"]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("starts")
        })
        .collect();
    let mut said = Vec::new();
    for child in children {
        let output = child.wait_with_output().expect("ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        said.push(text);
    }
    assert_eq!(said.iter().filter(|t| t.contains("is up on")).count(), 1, "{said:?}");
    assert_eq!(said.iter().filter(|t| t.contains("already running")).count(), 3, "{said:?}");
    let daemons = world.processes().into_iter().filter(|pid| *pid == world.daemon_pid()).count();
    assert_eq!(daemons, 1);
    // In the foreground there is nobody to hand over to, so it is an error.
    world.run(&["up", "--foreground", "--no-docker-plugin"]).fails(5, "already running");
}

#[test]
fn without_a_daemon_every_command_names_the_one_that_starts_it() {
    let world = World::new();
    for words in [
        &["status"][..],
        &["volume", "list"],
        &["volume", "create", "db"],
        &["volume", "inspect", "db"],
        &["volume", "remove", "db"],
        &["ls", "db:/"],
        &["cat", "db:/x"],
        &["audit", "list"],
    ] {
        world.run(words).fails(9, "orlop up");
    }
    let json = world.run(&["status", "--output", "json"]);
    let error: serde_json::Value = serde_json::from_str(&json.err).expect("an error as JSON");
    assert_eq!((json.code, error["kind"].as_str()), (9, Some("unavailable")));
    assert!(error["remedy"].as_str().is_some_and(|r| r.contains("orlop up")));
    let down = world.run(&["down"]).ok();
    assert!(down.out.contains("not running"), "{}", down.out);
    assert!(!world.root.exists(), "looking made something");
}

#[test]
fn sigterm_ends_the_daemon_alone_and_the_foreground_serves() {
    if !can_mount("foreground") {
        return;
    }
    let world = World::new();
    let mut child = world
        .command(&["up", "--foreground", "--no-docker-plugin"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("starts");
    wait("the daemon answers", || world.run(&["status"]).code == 0);
    assert_eq!(world.daemon_pid(), child.id() as i32);
    world.run(&["volume", "create", "db"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGTERM).expect("signalled");
    assert!(child.wait().expect("ends").success());
    std::fs::write(world.path("m/x"), "still there").expect("the mount outlives the daemon");
    assert!(!world.processes().is_empty());
    // The daemon is gone, its mounts are not: down still takes all of it away, or refuses for the same reasons.
    world.run(&["down"]).fails(5, &dir);
    world.run(&["unmount", &dir]).ok();
    world.run(&["down"]).ok();
    assert_eq!((world.processes(), world.mounts()), (Vec::new(), Vec::new()));
}

#[test]
fn a_root_moved_by_its_links_is_the_same_root() {
    if !can_mount("links") {
        return;
    }
    let world = World::up();
    let link = world.path("link");
    std::os::unix::fs::symlink(&world.root, &link).expect("link");
    let status = world.run(&["status", "--root", link.to_str().expect("plain")]).ok();
    assert!(status.out.contains(world.root.to_str().expect("plain")), "{}", status.out);
}

#[test]
fn a_long_root_works_although_socket_paths_are_short() {
    if !can_mount("long root") {
        return;
    }
    let mut world = World::new();
    world.root = world.path(&"x".repeat(120)).join("root");
    world.run(&["up", "--no-docker-plugin"]).ok();
    world.run(&["volume", "create", "db"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    world.run(&["ls", "db"]).ok();
    world.run(&["unmount", "db"]).ok();
    world.run(&["down"]).ok();
}

#[test]
fn other_users_are_denied_with_the_remedy() {
    if !can_mount("other users") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    for words in [&["volume", "list"][..], &["volume", "create", "x"], &["status"], &["cat", "db:/x"], &["down", "--force"]] {
        let ended = world.run_as(65534, words);
        assert_eq!(ended.code, 7, "{words:?}: {}{}", ended.out, ended.err);
        assert!(ended.err.contains("hint: "), "{}", ended.err);
    }
    let names = world.json(&["volume", "list", "--quiet"]);
    assert_eq!(names, serde_json::json!(["db"]));
    let tried = world.json(&["audit", "list", "--volume", "db", "--actor", "uid:65534"]);
    assert_eq!((&tried[0]["verb"], &tried[0]["detail"]["kind"]), (&"api.call".into(), &"denied".into()), "{tried}");
    assert_eq!(tried[0]["detail"]["call"], "GET /v1/volumes/db/content", "{tried}");
    // Nor can they start one in a folder of their own: it would fail at the first mount.
    let ended = world.run_as(65534, &["up", "--root", "/tmp/orlop-of-nobody", "--no-docker-plugin"]);
    assert_eq!(ended.code, 7, "{}{}", ended.out, ended.err);
    assert!(!std::path::Path::new("/tmp/orlop-of-nobody").exists());
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    if !can_mount("closed pipe") {
        return;
    }
    let world = World::up();
    for i in 0..30 {
        world.run(&["volume", "create", &format!("v{i}")]).ok();
    }
    for words in [
        &["completion", "bash"][..],
        &["--help"],
        &["volume", "list"],
        &["audit", "list"],
        &["status"],
        &["volume", "list", "--output", "json"],
    ] {
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        let output = world.command(words).stdout(writer).stderr(std::process::Stdio::piped()).output().expect("runs");
        assert!(output.status.success(), "{words:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn completions_are_there_for_each_shell() {
    let world = World::new();
    for (shell, word) in [("bash", "complete -F _orlop"), ("zsh", "#compdef orlop"), ("fish", "complete -c orlop")] {
        let script = world.run(&["completion", shell]).ok().out;
        assert!(script.contains(word), "{shell}");
        assert!(script.contains("restore") && !script.contains("Serves one volume"), "{shell}");
        assert!(script.contains("no-credentials") && script.contains("unset"), "{shell}: store set with its options");
    }
    assert!(world.run(&["version"]).ok().out.starts_with("orlop "));
    assert_eq!(world.json(&["version"])["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_killed_daemon_leaves_no_obstacle() {
    if !can_mount("killed daemon") {
        return;
    }
    let world = World::up();
    let before = world.daemon_pid();
    world.run(&["volume", "create", "db"]).ok();
    world.kill_daemon();
    assert!(!alive(before));
    world.run(&["status"]).fails(9, "orlop up");
    let again = world.run(&["up", "--no-docker-plugin"]).ok();
    assert!(again.out.contains("is up on"), "{}", again.out);
    assert_eq!(world.json(&["volume", "list", "--quiet"]), serde_json::json!(["db"]));
}

#[test]
fn a_daemon_whose_socket_was_removed_makes_it_anew_and_no_command_takes_it_for_none() {
    use std::os::unix::fs::PermissionsExt;
    if !can_mount("daemon's socket removed") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    world.run(&["mount", "db", &world.dir("m")]).ok();
    let (pid, socket) = (world.daemon_pid(), world.root.join("run/orlop.sock"));
    let all = [&["status"][..], &["up", "--no-docker-plugin"], &["upgrade"], &["ls", "db"], &["down", "--force"]];
    for (round, words) in all.into_iter().enumerate() {
        std::fs::remove_file(&socket).expect("removed");
        if round % 2 == 1 {
            std::fs::write(&socket, "in its place").expect("written");
        }
        let ended = world.run(words).ok();
        assert!(!ended.out.contains("not running"), "{words:?}: {}", ended.out);
        if words[0] != "down" {
            assert_eq!(std::fs::metadata(&socket).expect("there again").permissions().mode() & 0o777, 0o666);
            assert_eq!(world.daemon_pid(), pid, "{words:?}");
        }
    }
    assert_eq!((world.processes(), world.mounts()), (Vec::new(), Vec::new()));
    assert!(!socket.exists());
}

#[test]
fn a_start_that_fails_leaves_no_process_and_ends_no_mount() {
    if !can_mount("failed start") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    world.run(&["down"]).ok();
    let (registry, kept, socket) = (world.root.join("orlop.db"), world.path("kept"), world.root.join("run/orlop.sock"));
    std::fs::rename(&registry, &kept).expect("moved");
    world.run(&["up", "--no-docker-plugin"]).fails(10, "orlop.db");
    wait("nothing of a start without a registry runs", || world.processes().is_empty());
    std::fs::write(&registry, vec![b'x'; 8192]).expect("written");
    world.run(&["up", "--no-docker-plugin"]).fails(10, "orlop.db");
    wait("nothing of a start with a damaged registry runs", || world.processes().is_empty());
    std::fs::rename(&kept, &registry).expect("moved back");
    std::fs::create_dir_all(socket.join("in the way")).expect("folders");
    assert_ne!(world.run(&["up", "--no-docker-plugin"]).code, 0);
    wait("nothing of a start without a socket runs", || world.processes().is_empty());
    std::fs::remove_dir_all(&socket).expect("removed");

    // What holds mounts goes on.
    world.run(&["up", "--no-docker-plugin"]).ok();
    world.run(&["mount", "db", &world.dir("m")]).ok();
    let keeper = world.keeper_pid();
    world.kill_daemon();
    std::fs::rename(&registry, &kept).expect("moved");
    world.run(&["up", "--no-docker-plugin"]).fails(10, "orlop.db");
    std::fs::write(world.path("m/x"), "served").expect("the mount lives");
    assert!(alive(keeper));
    std::fs::rename(&kept, &registry).expect("moved back");
    world.run(&["up", "--no-docker-plugin"]).ok();
    assert_eq!((world.keeper_pid(), world.run(&["cat", "db:/x"]).ok().out.as_str()), (keeper, "served"));
}

#[test]
fn a_run_folder_that_was_removed_is_made_anew_with_all_that_finds_the_living() {
    use std::os::unix::fs::PermissionsExt;
    if !can_mount("run folder removed") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    let (daemon, keeper, run) = (world.daemon_pid(), world.keeper_pid(), world.root.join("run"));
    let worker = format!("worker-{}.sock", world.json(&["volume", "inspect", "db"])[0]["id"].as_str().expect("an id"));
    let mode = || std::fs::metadata(&run).expect("there").permissions().mode() & 0o777;
    let before = mode();
    for words in [&["status"][..], &["up", "--no-docker-plugin"]] {
        std::fs::remove_dir_all(&run).expect("removed");
        let ended = world.run(words).ok();
        assert!(!ended.out.contains("is up on"), "{words:?}: {}", ended.out);
        let files = ["orlop.sock", "keeper.sock", "daemon.lock", "keeper.lock", "daemon.pid", "keeper.json", worker.as_str()];
        wait("all of it is there again", || files.iter().all(|file| run.join(file).exists()));
        assert_eq!((world.daemon_pid(), world.keeper_pid(), mode()), (daemon, keeper, before), "{words:?}");
    }
    std::fs::write(world.path("m/x"), "served").expect("the mount lives");
    assert!(world.json(&["volume", "inspect", "db"])[0]["usage"]["inodes"].as_u64().is_some_and(|n| n >= 2), "its worker is asked");
    // A start that finds the living one only by its journal says which it is, and leaves nothing in its way.
    let send = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon), signal).expect("signalled");
    send(nix::sys::signal::Signal::SIGSTOP);
    std::fs::remove_dir_all(&run).expect("removed");
    let refused = world.run(&["up", "--no-docker-plugin"]).fails(5, &format!("process {daemon}"));
    assert!(refused.err.contains(&format!("kill {daemon}")), "{}", refused.err);
    assert!(!run.join("daemon.lock").exists());
    send(nix::sys::signal::Signal::SIGCONT);
    wait("it answers again", || world.run(&["status"]).code == 0);
    world.run(&["down", "--force"]).ok();
    assert_eq!((world.processes(), world.mounts()), (Vec::new(), Vec::new()));
}

#[test]
fn a_folder_in_the_place_of_the_keepers_socket_is_named() {
    if !can_mount("folder for a socket") {
        return;
    }
    let world = World::up();
    let socket = world.root.join("run/keeper.sock");
    let named = format!("rm -r {}", socket.display());
    std::fs::remove_file(&socket).expect("removed");
    // The keeper may make it anew first, which takes the place of anything but a folder.
    wait("a folder is in its place", || {
        let _ = std::fs::remove_file(&socket);
        let _ = std::fs::create_dir(&socket);
        socket.is_dir()
    });
    let began = Instant::now();
    let up = world.run(&["up", "--no-docker-plugin"]).ok();
    assert!(up.err.contains(&named), "{}", up.err);
    world.run(&["down"]).fails(9, &named);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    std::thread::sleep(Duration::from_secs(2));
    let left: Vec<_> = std::fs::read_dir(world.root.join("run")).expect("reads").flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("keeper.sock.")), "{left:?}");
    std::fs::remove_dir(&socket).expect("removed");
    wait("the keeper answers again", || world.json(&["status"])["keeper"]["workers"].is_array());
    world.run(&["down"]).ok();
}
