//! Encrypted volumes as a person uses them: nothing planted in one shows anywhere outside of the host's own state, and
//! their keys are backed up, rotated while in use, and missed by name.

use crate::cloud_outage::Cloud;
use crate::world::{World, can_mount, s3_words};
use orlop_store::testing::{Fault, Faults, S3Server};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

const MARKER: &str = "planted-marker-9c41";

/// Files below a folder that hold the marker, in their bytes or their names.
fn holding(folder: &Path, marker: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![folder.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = entry.file_type().expect("a type");
            if path.as_os_str().as_encoded_bytes().windows(marker.len()).any(|w| w == marker) {
                found.push(path.display().to_string());
            }
            if kind.is_dir() {
                todo.push(path);
            } else if kind.is_file() && std::fs::read(&path).is_ok_and(|b| b.windows(marker.len()).any(|w| w == marker)) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

fn plant(dir: &Path) {
    std::fs::create_dir(dir.join(format!("{MARKER}-folder"))).expect("folder");
    let file = dir.join(format!("{MARKER}-folder/{MARKER}-file"));
    std::fs::write(&file, format!("{MARKER} {}", format!("{MARKER}\n").repeat(40_000))).expect("writes");
    symlink(format!("/{MARKER}/target"), dir.join("link")).expect("link");
    let path = std::ffi::CString::new(file.to_str().expect("plain")).expect("no zero");
    let name = format!("user.{MARKER}");
    set_xattr(&path, &name, MARKER);
    std::fs::File::open(&file).expect("opens").sync_all().expect("syncs");
}

/// Through the tool that people use; the file system decides whether it is kept.
fn set_xattr(path: &std::ffi::CStr, name: &str, value: &str) {
    let path = path.to_str().expect("plain");
    let code = "import os,sys; os.setxattr(sys.argv[1], sys.argv[2], sys.argv[3].encode())";
    let done = std::process::Command::new("python3").args(["-c", code, path, name, value]).status().expect("python3 runs");
    assert!(done.success(), "setting an extended attribute failed");
}

#[test]
fn what_is_in_an_encrypted_volume_shows_nowhere_else() {
    if !can_mount("planted secret") {
        return;
    }
    let Some(server) = S3Server::start("bucket") else { return };
    let world = World::up();
    let credentials = format!("file:{}", server.credentials_file().display());
    let (url, endpoint) = ("s3://bucket/pre", format!("endpoint=http://{}", server.addr()));
    world.run(&["store", "add", "s3", url, "--credentials", &credentials, "--set", &endpoint, "--set", "region=us-east-1"]).ok();
    let volumes =
        [("local", "default", "on"), ("remote", "s3", "on"), ("bare", "s3", "off"), ("open", "default", "off"), ("held", "default", "on")];
    let id = |name: &str| world.json(&["volume", "inspect", name])[0]["id"].as_str().expect("an id").to_owned();
    // What a host has of them is sealed too: journal, staged files and copies.
    let nothing_on_the_host = |when: &str| {
        let found = holding(&world.root.join("state"), MARKER.as_bytes());
        let plain = [id("bare"), id("open")];
        assert!(found.iter().any(|f| f.contains(&plain[1])), "{when}: the search finds nothing at all");
        assert!(found.iter().all(|f| plain.iter().any(|id| f.contains(id))), "{when}: {found:?}");
    };
    for (name, store, encrypt) in volumes {
        world.run(&["volume", "create", name, "-o", &format!("store={store}"), "-o", &format!("encrypt={encrypt}")]).ok();
        let dir = world.dir(name);
        world.run(&["mount", name, &dir]).ok();
        plant(Path::new(&dir));
        if name == "held" {
            // Small writes that are in the journal alone.
            let small = std::fs::File::create(Path::new(&dir).join("small")).expect("made");
            for n in 0..20 {
                std::os::unix::fs::FileExt::write_all_at(&small, MARKER.as_bytes(), n * 100).expect("written");
                small.sync_all().expect("synced");
            }
            nothing_on_the_host("while it is mounted");
        }
        world.run(&["unmount", &dir]).ok();
    }
    nothing_on_the_host("at rest");
    // An error tells nothing either: bytes that are no longer what was sealed.
    let staged: Vec<_> = std::fs::read_dir(world.root.join("state").join(id("local")).join("staged")).expect("reads").flatten().collect();
    let whole: Vec<Vec<u8>> = staged.iter().map(|f| std::fs::read(f.path()).expect("reads")).collect();
    for (file, bytes) in staged.iter().zip(&whole) {
        let (head, rest) = bytes.split_at(4096);
        std::fs::write(file.path(), [head, &rest.iter().map(|b| b ^ 1).collect::<Vec<_>>()].concat()).expect("written");
    }
    let dir = world.dir("local");
    world.run(&["mount", "local", &dir]).ok();
    let path = Path::new(&dir).join(format!("{MARKER}-folder/{MARKER}-file"));
    assert_eq!(std::fs::read(&path).expect_err("damaged").raw_os_error(), Some(nix::libc::EIO));
    for pid in world.processes() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!line.windows(MARKER.len()).any(|w| w == MARKER.as_bytes()), "process {pid}");
    }
    world.run(&["unmount", &dir]).ok();
    for (file, bytes) in staged.iter().zip(&whole) {
        std::fs::write(file.path(), bytes).expect("written");
    }
    // The twin that is not encrypted shows that the search would find it.
    let found = holding(&server.folder(), MARKER.as_bytes());
    assert!(!found.is_empty() && found.iter().all(|f| f.contains(&id("bare"))), "{found:?}");
    for name in ["stores", "audit", "log", "run", "keys"] {
        assert_eq!(holding(&world.root.join(name), MARKER.as_bytes()), Vec::<String>::new(), "{name}");
    }
    for entry in std::fs::read_dir(&world.root).expect("reads").flatten().filter(|e| e.path().is_file()) {
        let bytes = std::fs::read(entry.path()).expect("reads");
        assert!(!bytes.windows(MARKER.len()).any(|w| w == MARKER.as_bytes()), "{:?}", entry.path());
    }
    // And comes back whole, after a restart too.
    world.run(&["down"]).ok();
    world.run(&["up", "--no-docker-plugin"]).ok();
    for name in ["local", "remote"] {
        let text = world.run(&["cat", &format!("{name}:/{MARKER}-folder/{MARKER}-file")]).ok().out;
        assert!(text.starts_with(MARKER) && text.len() > 40_000 * MARKER.len(), "{name}");
    }
    // The master key is in its file and nowhere else, the process list included.
    let key = std::fs::read_to_string(world.root.join("keys/master.key")).expect("reads");
    let secret = key.lines().find_map(|l| l.strip_prefix("key ")).expect("the key's line").to_owned();
    for folder in ["audit", "log", "run", "state", "stores"].map(|n| world.root.join(n)).into_iter().chain([server.folder()]) {
        assert_eq!(holding(&folder, secret.as_bytes()), Vec::<String>::new(), "the master key is in {}", folder.display());
    }
    for pid in world.processes() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!line.windows(secret.len()).any(|w| w == secret.as_bytes()), "process {pid}");
    }
    // Deleted for good, the rings are gone first of all.
    let rings = [
        world.root.join("stores/default/volumes").join(id("local")).join("keys.json"),
        server.folder().join("pre/volumes").join(id("remote")).join("keys.json"),
    ];
    assert!(rings.iter().all(|r| r.is_file()), "{rings:?}");
    world.run(&["volume", "remove", "--now", "local", "remote"]).ok();
    assert!(rings.iter().all(|r| !r.exists()), "{rings:?}");
}

/// Whoever made a volume decides which key wraps its ring: a rotation elsewhere would lock its maker out.
#[test]
fn rotating_on_a_second_host_leaves_the_first_one_its_volume() {
    if !can_mount("keys of two hosts") {
        return;
    }
    let Some(server) = S3Server::start("bucket") else { return };
    let how = s3_words(&server, server.addr());
    let [maker, other] = [(); 2].map(|()| {
        let world = World::up();
        let mut words = vec!["store", "add", "s3", "s3://bucket/pre"];
        words.extend(how.iter().map(String::as_str));
        world.run(&words).ok();
        world
    });
    maker.run(&["volume", "create", "db", "-o", "store=s3", "-o", "encrypt=on"]).ok();
    let id = maker.json(&["volume", "inspect", "db"])[0]["id"].as_str().expect("an id").to_owned();
    let writes = |world: &World, name: &str| {
        let dir = world.dir("m");
        world.run(&["mount", "db", &dir]).ok();
        std::fs::write(Path::new(&dir).join(name), name).expect("writes");
        let names = std::fs::read_dir(&dir).expect("lists").count();
        world.run(&["unmount", &dir]).ok();
        names
    };
    assert_eq!(writes(&maker, "first"), 1);

    let key = maker.json(&["key", "list"])["masters"][0]["id"].as_str().expect("an id").to_owned();
    let brought = other.root.join(format!("keys/other-{key}.key"));
    std::fs::copy(maker.root.join("keys/master.key"), &brought).expect("copies");
    other.run(&["volume", "adopt", "db", "--store", "s3", "--id", &id]).ok();
    assert_eq!(writes(&other, "second"), 2);
    let list = other.run(&["key", "list"]).ok();
    assert!(!list.err.contains("rotation"), "{}", list.err);
    for words in [&["key", "rotate"][..], &["key", "rotate", "db"], &["key", "rotate"]] {
        other.run(words).ok();
        assert!(brought.exists(), "a person's key went with {words:?}");
    }
    assert_eq!(writes(&other, "third"), 3);
    assert_eq!(writes(&maker, "fourth"), 4);
    // The maker's own rotation is the one that counts.
    maker.run(&["key", "rotate"]).ok();
    assert_eq!(writes(&maker, "fifth"), 5);
    let new = maker.json(&["key", "list"])["masters"][0]["id"].as_str().expect("an id").to_owned();
    let refused = other.run(&["mount", "db", &other.dir("m")]);
    assert!(refused.code == 7 && refused.err.contains(&new), "{}: {}", refused.code, refused.err);
    std::fs::copy(maker.root.join("keys/master.key"), other.root.join(format!("keys/other-{new}.key"))).expect("copies");
    assert_eq!(writes(&other, "sixth"), 6);
}

#[test]
fn an_outage_tells_nothing_of_an_encrypted_volume() {
    let Some(cloud) = Cloud::new("a planted secret in an outage", &["encrypt=on"]) else { return };
    plant(&cloud.path(""));
    let file = format!("{MARKER}-during");
    let mut told = Vec::new();
    for fault in [Fault::Status(503), Fault::Flip, Fault::Truncate] {
        cloud.proxy.set(Faults::only(fault));
        std::fs::write(cloud.path(&file), MARKER.repeat(50_000)).expect("written");
        std::thread::sleep(Duration::from_secs(2));
        for words in [&["volume", "inspect", "db"][..], &["check", "db"], &["gc", "db", "--dry-run"], &["volume", "du", "db", "--explain"]]
        {
            told.push(cloud.world.run(words));
        }
    }
    cloud.proxy.set(Faults::only(Fault::Status(503)));
    let refused = cloud.world.run(&["unmount", "db"]);
    assert_ne!(refused.code, 0, "{}{}", refused.out, refused.err);
    told.extend([refused, cloud.world.run(&["status"]), cloud.world.run(&["doctor"])]);
    for ended in told {
        assert!(!ended.out.contains(MARKER) && !ended.err.contains(MARKER), "{}: {}{}", ended.words, ended.out, ended.err);
    }
    cloud.proxy.heal();
    for name in ["stores", "audit", "log", "run", "keys"] {
        assert_eq!(holding(&cloud.world.root.join(name), MARKER.as_bytes()), Vec::<String>::new(), "{name}");
    }
    let end = Instant::now() + Duration::from_secs(60);
    let read = loop {
        let read = cloud.world.run(&["cat", &format!("db:/{file}")]);
        if read.code == 0 || Instant::now() > end {
            break read.ok();
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    assert_eq!(read.out, MARKER.repeat(50_000));
}

#[test]
fn the_first_start_warns_until_the_key_is_backed_up() {
    if !can_mount("key backup") {
        return;
    }
    let world = World::new();
    let first = world.run(&["up", "--no-docker-plugin"]).ok();
    assert!(first.err.contains("orlop key export"), "{}", first.err);
    assert!(world.run(&["doctor"]).out.contains("never backed up"));
    let file = world.path("backup.key");
    let shown = file.to_str().expect("plain");
    world.run(&["key", "export", "--output-file", shown]).ok();
    assert_eq!(std::fs::metadata(&file).expect("is there").permissions().mode() & 0o777, 0o600);
    world.run(&["key", "export", "--output-file", shown]).fails(4, "exists");
    let text = std::fs::read_to_string(&file).expect("reads");
    assert_eq!(world.run(&["key", "export", "--output-file", "-"]).ok().out, text);
    let second = world.run(&["up", "--no-docker-plugin"]).ok();
    assert!(!second.err.contains("orlop key export"), "{}", second.err);
    assert!(!world.run(&["doctor"]).out.contains("never backed up"));
}

#[test]
fn keys_are_rotated_while_a_volume_is_in_use_and_missed_by_name() {
    if !can_mount("key rotation") {
        return;
    }
    let world = World::up();
    world.run(&["volume", "create", "db", "-o", "encrypt=on"]).ok();
    let dir = world.dir("m");
    world.run(&["mount", "db", &dir]).ok();
    std::fs::write(world.path("m/x"), "before").expect("writes");
    let old = std::fs::read(world.root.join("keys/master.key")).expect("reads");
    let plan = world.json(&["key", "rotate", "--dry-run"]);
    assert_eq!((&plan["rings"], &plan["resume"]), (&1.into(), &false.into()));
    assert_eq!(std::fs::read(world.root.join("keys/master.key")).expect("reads"), old, "a dry run changed something");
    let before = world.json(&["key", "list"]);
    let after = world.json(&["key", "rotate"]);
    assert_ne!(before["masters"][0]["id"], after["masters"][0]["id"]);
    assert_eq!(after["volumes"][0]["keys"][0]["master"], after["masters"][0]["id"]);
    assert_eq!(after["masters"].as_array().expect("a list").len(), 1);
    std::fs::write(world.path("m/y"), "during").expect("writes");
    world.run(&["key", "rotate", "db"]).ok();
    world.run(&["unmount", &dir]).ok();
    for (name, text) in [("x", "before"), ("y", "during")] {
        assert_eq!(world.run(&["cat", &format!("db:/{name}")]).ok().out, text);
    }
    let verbs = world.json(&["audit", "list", "--verb", "key.rotate"]);
    assert_eq!(verbs.as_array().expect("a list").len(), 4, "{verbs}");
    // With the wrong key it says which one it wants, and with that one put back it opens.
    let current = world.root.join("keys/master.key");
    let right = std::fs::read(&current).expect("reads");
    std::fs::write(&current, &old).expect("writes");
    let id = after["masters"][0]["id"].as_str().expect("a name").to_owned();
    let e = world.run(&["cat", "db:/x"]);
    assert!(e.code != 0 && e.err.contains(&id) && e.err.contains("hint: "), "{}", e.err);
    // Nor is a rotation begun, after which there would be one more key that opens nothing.
    let files = || {
        let mut all: Vec<_> = std::fs::read_dir(world.root.join("keys")).expect("reads").flatten().map(|f| f.file_name()).collect();
        all.sort();
        all
    };
    let before = files();
    let e = world.run(&["key", "rotate"]);
    assert!(e.code != 0 && e.err.contains(&id) && e.err.contains("nothing was changed"), "{}", e.err);
    assert_eq!((files(), std::fs::read(&current).expect("reads")), (before, old.clone()));
    assert!(world.run(&["key", "list"]).ok().err.contains(&id));
    let back = world.root.join(format!("keys/old-{id}.key"));
    std::fs::write(&back, &right).expect("writes");
    std::fs::set_permissions(&back, std::fs::Permissions::from_mode(0o600)).expect("sets");
    assert_eq!(world.run(&["cat", "db:/x"]).ok().out, "before");
    // Gone, it is not made anew: that would only hide that it is lost.
    world.run(&["down"]).ok();
    std::fs::remove_file(&current).expect("removes");
    let up = world.run(&["up", "--no-docker-plugin"]).ok();
    assert!(up.err.contains("there is no master key") && up.err.contains("backup") && !current.exists(), "{}", up.err);
    world.run(&["volume", "create", "sealed", "-o", "encrypt=on"]).fails(3, "there is no master key");
    // Which one is to be looked for can still be asked.
    let listed = world.json(&["key", "list"]);
    assert_eq!((&listed["masters"], &listed["volumes"][0]["keys"][0]["master"]), (&serde_json::json!([]), &serde_json::json!(id)));
    world.run(&["volume", "create", "bare"]).ok();
    world.run(&["down"]).ok();
    std::fs::write(&current, &right).expect("writes");
    std::fs::set_permissions(&current, std::fs::Permissions::from_mode(0o600)).expect("sets");
    std::fs::remove_file(&back).expect("removes");
    let up = world.run(&["up", "--no-docker-plugin"]).ok();
    assert!(!up.err.contains("master key"), "{}", up.err);
    assert_eq!(world.run(&["cat", "db:/x"]).ok().out, "before");
    // Damaged, it is named too, and nothing else is in the way of what is not encrypted.
    std::fs::write(&current, "orlop-master-key 1\n").expect("writes");
    world.run(&["key", "list"]).fails(10, "master.key");
    world.run(&["volume", "create", "open"]).ok();
}
