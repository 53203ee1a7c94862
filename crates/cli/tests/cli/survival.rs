//! The daemon dies; its mounts do not.

use crate::world::{World, alive, can_mount, kill, wait};
use std::io::{Read, Seek, Write};

#[test]
fn open_files_live_through_the_daemons_death_and_return() {
    if !can_mount("daemon killed") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    let mut file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(world.path("m/x")).expect("opens");
    file.write_all(b"before ").expect("writes");
    world.kill_daemon();
    file.write_all(b"during ").expect("writes without a daemon");
    world.run(&["up", "--no-docker-plugin"]).ok();
    file.write_all(b"after").expect("writes");
    file.sync_all().expect("syncs");
    file.rewind().expect("seeks");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("reads");
    assert_eq!(text, "before during after");
    drop(file);
    let inspected = world.json(&["volume", "inspect", "db"]);
    assert_eq!(inspected[0]["attachments"][0]["path"], dir.as_str(), "the new daemon knows the old one's mounts");
    world.run(&["unmount", &dir]).ok();
    assert_eq!(world.mounts(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn after_everything_was_killed_the_data_is_there() {
    if !can_mount("everything killed") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    std::fs::write(world.path("m/x"), "written").expect("writes");
    let pids = world.processes();
    assert!(pids.len() >= 3, "daemon, keeper and worker: {pids:?}");
    for pid in &pids {
        kill(*pid);
    }
    wait("all are gone", || world.processes().is_empty());
    world.run(&["up", "--no-docker-plugin"]).ok();
    wait("the volume can be read", || world.run(&["cat", "db:/x"]).out == "written");
    let dead = std::fs::metadata(world.path("m"));
    assert!(dead.is_ok(), "the folder is a dead mount: {dead:?}");
    world.run(&["down", "--force"]).ok();
    assert_eq!(world.mounts(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_keeper_that_dies_is_followed_by_another_at_once() {
    if !can_mount("keeper killed") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    world.run(&["mount", "db", &world.dir("m")]).ok();
    let mut file = std::fs::File::create(world.path("m/x")).expect("opens");
    for round in 0..3 {
        let (keeper, worker) = (world.keeper_pid(), world.worker_pid());
        let began = std::time::Instant::now();
        kill(keeper);
        writeln!(file, "without a keeper").expect("writes");
        wait("another keeper has the mount", || world.keeper_pid() != keeper && world.worker_pid() == worker);
        assert!(began.elapsed() < std::time::Duration::from_secs(2), "round {round}: {:?}", began.elapsed());
        // It has the descriptor: the mount lives through the worker's death as well.
        kill(worker);
        writeln!(file, "and another worker").expect("writes");
        wait("another worker serves", || ![0, worker].contains(&world.worker_pid()));
    }
    drop(file);
    assert_eq!(std::fs::read_to_string(world.path("m/x")).expect("reads"), "without a keeper\nand another worker\n".repeat(3));
    world.run(&["unmount", &world.dir("m")]).ok();
    let last = world.keeper_pid();
    world.run(&["down"]).ok();
    wait("nothing is left, and no keeper comes back", || world.processes().is_empty());
    assert!(!alive(last));
}

/// Their mount is lost with them. It is made anew at once, whoever is first to want it; and what programs write meanwhile is refused, or is in
/// the volume: never on the host's own disk, where it would be hidden later.
#[test]
fn what_loses_worker_and_keeper_at_once_is_mounted_again_with_its_folder() {
    if !can_mount("keeper and worker killed") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    world.run(&["mount", "db", &world.dir("m")]).ok();
    std::fs::write(world.path("m/before"), "before").expect("written");
    std::fs::File::open(world.path("m/before")).and_then(|f| f.sync_all()).expect("synced");
    for round in 0..4 {
        let (keeper, worker) = (world.keeper_pid(), world.worker_pid());
        kill(keeper);
        kill(worker);
        let began = std::time::Instant::now();
        let mut written = Vec::new();
        while std::fs::read_to_string(world.path("m/before")).ok().as_deref() != Some("before") {
            assert!(began.elapsed() < std::time::Duration::from_secs(10), "round {round}: it is not mounted again");
            let path = world.path(&format!("m/{round}-{}", written.len()));
            if std::fs::write(&path, "meanwhile").is_ok() {
                written.push(path);
            }
            if round % 2 == 1 {
                // Somebody else mounts it for a moment, and must not be alone with that.
                world.run(&["ls", "db"]);
            }
        }
        println!("round {round}: mounted again after {:?}, {} files written meanwhile", began.elapsed(), written.len());
        for path in written {
            assert_eq!(
                std::fs::read_to_string(&path).ok().as_deref(),
                Some("meanwhile"),
                "round {round}: {} went elsewhere",
                path.display()
            );
        }
        wait("both are there again", || ![0, worker].contains(&world.worker_pid()) && world.keeper_pid() != keeper);
        let held = &world.json(&["volume", "inspect", "db"])[0]["attachments"];
        assert_eq!(held.as_array().map(Vec::len), Some(1), "round {round}: {held}");
    }
    world.run(&["unmount", &world.dir("m")]).ok();
    assert!(std::fs::read_dir(world.path("m")).expect("the folder").next().is_none(), "nothing was written below the mount");
    assert_eq!(world.run(&["cat", "db:/before"]).ok().out, "before");
}

/// A mount that was lost and is not made anew goes with its attachment.
#[test]
fn a_dead_mount_is_taken_away_by_its_unmount() {
    if !can_mount("dead mount") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    world.run(&["mount", "db", &world.dir("m")]).ok();
    std::fs::write(world.path("m/x"), "x").expect("written");
    world.kill_everything();
    // Its journal cannot be read, so the volume stays closed; the folder says so to who writes there.
    let journal = std::fs::read_dir(world.root.join("state")).expect("reads").flatten().next().expect("a volume").path().join("journal");
    std::fs::rename(&journal, world.path("kept")).expect("moved");
    std::fs::write(&journal, "in its place").expect("written");
    world.run(&["up", "--no-docker-plugin"]).ok();
    let refused = std::fs::write(world.path("m/y"), "y").expect_err("no file system answers");
    assert_eq!(refused.raw_os_error(), Some(nix::libc::ENOTCONN), "{refused}");
    // It goes with Orlop, and is mounted again with it: nobody has let go of it.
    world.run(&["down"]).ok();
    assert_eq!(world.mounts(), Vec::<std::path::PathBuf>::new());
    world.run(&["up", "--no-docker-plugin"]).ok();
    assert_eq!(world.json(&["volume", "inspect", "db"])[0]["attachments"].as_array().map(Vec::len), Some(1));
    world.run(&["unmount", world.path("m").to_str().expect("plain")]).ok();
    assert!(world.mounts().iter().all(|m| !m.ends_with("m")), "{:?}", world.mounts());
    std::fs::write(world.path("m/y"), "y").expect("an ordinary folder again");
    std::fs::remove_file(world.path("m/y")).expect("removed");
    std::fs::remove_file(&journal).expect("removed");
    std::fs::rename(world.path("kept"), &journal).expect("moved back");
    world.run(&["mount", "db", &world.dir("m")]).ok();
    assert_eq!(std::fs::read_to_string(world.path("m/x")).expect("reads"), "x");
}

#[test]
fn a_log_that_cannot_be_opened_keeps_no_volume_from_being_served() {
    if !can_mount("a log that cannot be opened") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    let id = world.json(&["volume", "inspect", "db"])[0]["id"].as_str().expect("an id").to_owned();
    let log = world.root.join(format!("log/worker-{id}.log"));
    std::fs::create_dir_all(&log).expect("in its place");
    world.run(&["mount", "db", &world.dir("m")]).ok();
    let mut file = std::fs::File::create(world.path("m/x")).expect("opens");
    kill(world.worker_pid());
    writeln!(file, "written").expect("writes");
    drop(file);
    assert_eq!(std::fs::read_to_string(world.path("m/x")).expect("reads"), "written\n");
    let said = std::fs::read_to_string(world.root.join("log/keeper.log")).expect("reads");
    assert!(said.contains("a log could not be opened"), "{said}");
    world.run(&["unmount", &world.dir("m")]).ok();
    std::fs::remove_dir(log).expect("removed");
}

#[test]
fn a_keeper_that_is_told_to_end_waits_for_a_worker_that_is_being_replaced() {
    if !can_mount("keeper told to end") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    world.run(&["mount", "db", &world.dir("m")]).ok();
    let (keeper, worker) = (world.keeper_pid(), world.worker_pid());
    // No worker serves a volume whose lock cannot be opened. Nothing of the volume is open here and no program is started meanwhile: to
    // start one closes what is open, which waits for a worker, and /proc waits for that.
    let lock = world.root.join(format!("state/{}/lock", world.keeper_record()["volumes"][0]["plan"]["volume"].as_str().expect("an id")));
    std::fs::remove_file(&lock).expect("removes");
    std::fs::create_dir(&lock).expect("in its way");
    kill(worker);
    let keeper_log = || std::fs::read_to_string(world.root.join("log/keeper.log")).expect("a log");
    wait("the keeper knows", || keeper_log().contains("no other worker yet"));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(keeper), nix::sys::signal::Signal::SIGTERM).expect("sent");
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(alive(keeper), "it waits");
    std::fs::remove_dir(&lock).expect("removes");
    wait("it ends when a worker has the mount", || !alive(keeper));
    std::fs::write(world.path("m/x"), "went on").expect("the mount lives");
    wait("the next keeper has it", || world.run(&["status"]).out.contains("serving"));
    world.run(&["unmount", &world.dir("m")]).ok();
}

#[test]
fn down_ends_what_was_left_without_daemon_and_keeper() {
    if !can_mount("down without a daemon and a keeper") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    world.run(&["mount", "db", &world.dir("m")]).ok();
    std::fs::write(world.path("m/x"), "written").expect("writes");
    let (keeper, worker) = (world.keeper_pid(), world.worker_pid());
    // A daemon that lives would start another keeper.
    world.kill_daemon();
    kill(keeper);
    wait("the worker is alone", || world.processes() == [worker]);
    assert_eq!(std::fs::read_to_string(world.path("m/x")).expect("it serves"), "written");
    world.run(&["down", "--force"]).ok();
    assert_eq!(world.mounts(), Vec::<std::path::PathBuf>::new());
    assert_eq!(world.processes(), Vec::<i32>::new());
}

#[test]
fn a_keeper_whose_socket_was_removed_makes_it_anew_and_down_does_not_take_it_for_none() {
    use nix::sys::signal::Signal;
    use std::os::unix::fs::PermissionsExt;
    if !can_mount("keeper's socket removed") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    let (keeper, worker, socket) = (world.keeper_pid(), world.worker_pid(), world.root.join("run/keeper.sock"));
    let answers = || world.json(&["status"])["keeper"]["workers"].as_array().is_some_and(|w| w.len() == 1 && w[0]["state"] == "serving");
    std::fs::remove_file(&socket).expect("removed");
    wait("it answers again", answers);
    assert_eq!(std::fs::metadata(&socket).expect("there again").permissions().mode() & 0o777, 0o600);
    std::fs::remove_file(&socket).expect("removed");
    std::fs::write(&socket, "in its place").expect("written");
    wait("it answers again", answers);
    assert_eq!((world.keeper_pid(), world.worker_pid()), (keeper, worker));
    world.run(&["unmount", &dir]).ok();
    world.run(&["mount", "db", &dir]).ok();

    // One that lives and makes no socket: it is not left behind in silence.
    let send = |signal: Signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(keeper), signal).expect("signalled");
    send(Signal::SIGSTOP);
    std::fs::remove_file(&socket).expect("removed");
    world.run(&["down", "--force"]).fails(9, "lives and does not answer");
    send(Signal::SIGCONT);
    wait("it answers again", answers);

    std::fs::remove_file(&socket).expect("removed");
    world.run(&["down", "--force"]).ok();
    assert_eq!((world.processes(), world.mounts()), (Vec::new(), Vec::new()));

    // Nor when it holds nothing and the daemon is gone.
    world.run(&["up", "--no-docker-plugin"]).ok();
    world.kill_daemon();
    std::fs::remove_file(&socket).expect("removed");
    world.run(&["down", "--force"]).ok();
    assert_eq!(world.processes(), Vec::<i32>::new());
}

/// Neither is mounted for the keeper, and both are served: going down says so, and takes them away only by force.
#[test]
fn down_leaves_nothing_behind_whose_worker_cannot_be_reached() {
    use nix::sys::signal::{Signal, kill as send};
    use nix::unistd::Pid;
    if !can_mount("down with workers that cannot be reached") {
        return;
    }
    let world = World::up();
    for name in ["a", "b"] {
        world.run(&["volume", "create", name]).ok();
        world.run(&["mount", name, &world.dir(name)]).ok();
        std::fs::write(world.path(&format!("{name}/x")), name).expect("writes");
        std::fs::File::open(world.path(&format!("{name}/x"))).and_then(|f| f.sync_all()).expect("synced");
    }
    let workers: Vec<(String, i32)> = world.keeper_record()["volumes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|v| (v["plan"]["name"].as_str().expect("a name").to_owned(), v["worker_pid"].as_i64().expect("a number") as i32))
        .collect();
    let worker = |name: &str| workers.iter().find(|(of, _)| of == name).expect("recorded").1;
    // Both stand still; of one the socket is gone too, and it cannot make it anew.
    let id = world.json(&["volume", "inspect", "b"])[0]["id"].as_str().expect("an id").to_owned();
    let socket = world.root.join(format!("run/worker-{id}.sock"));
    // While it runs it makes it anew.
    std::fs::remove_file(&socket).expect("removed");
    wait("its socket is there again", || socket.exists());
    for name in ["a", "b"] {
        send(Pid::from_raw(worker(name)), Signal::SIGSTOP).expect("stopped");
    }
    std::fs::remove_file(&socket).expect("removed");
    let keeper = world.keeper_pid();
    kill(keeper);
    wait("the next keeper has looked for them", || {
        world.keeper_pid() != keeper && world.keeper_record()["unreached"].as_array().is_some_and(|u| u.len() == 2)
    });

    let refused = world.run(&["down"]).fails(5, "cannot be reached");
    for name in ["a", "b"] {
        assert!(refused.err.contains(&format!("volume {name} is served")), "{}", refused.err);
        assert!(refused.err.contains(&format!("(process {})", worker(name))), "{}", refused.err);
    }
    let status = world.json(&["status"]);
    let shown: Vec<_> = status["keeper"]["workers"].as_array().expect("a list").iter().map(|w| &w["volume"]).collect();
    assert_eq!(shown, ["a", "b"], "{status}");

    let forced = world.run(&["down", "--force"]).ok();
    assert!(forced.out.contains("unmounted a") && forced.out.contains("unmounted b"), "{}", forced.out);
    assert_eq!((world.mounts(), world.processes()), (Vec::new(), Vec::new()));
    world.run(&["up", "--no-docker-plugin"]).ok();
    for name in ["a", "b"] {
        assert_eq!(world.run(&["cat", &format!("{name}:/x")]).ok().out, name, "what was synced is there");
    }
}
