//! The host's disk is full: a root on a small file system of its own. Writers get ENOSPC or wait, nobody hangs, and whatever
//! was acknowledged reads back; with a store behind it what the store takes makes room again.

use crate::world::{World, can_mount, kill, s3_words, wait};
use orlop_store::testing::S3Server;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// A world whose root is alone on a disk of this size. Its end unmounts it.
fn small(mib: usize) -> World {
    let world = World::new();
    std::fs::create_dir_all(&world.root).expect("folder");
    let image = world.path("disk");
    File::create(&image).and_then(|f| f.set_len((mib * MIB) as u64)).expect("an image");
    let run = |program: &str, words: &[&str]| {
        let done = Command::new(program).args(words).output().expect("it runs");
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let (image, root) = (image.to_str().expect("plain"), world.root.to_str().expect("plain"));
    run("mkfs.ext4", &["-q", "-m", "0", image]);
    run("mount", &["-o", "loop", image, root]);
    world.run(&["up", "--no-docker-plugin"]).ok();
    world
}

/// Takes the rest of the disk under a root, to its last byte.
fn take_rest(w: &World) -> PathBuf {
    let path = w.root.join("rest");
    let mut rest = File::create(&path).expect("a file");
    for size in [MIB, 4096, 1] {
        while rest.write_all(&vec![7; size]).is_ok() {}
        let _ = rest.sync_all();
    }
    path
}

fn content(n: usize, seed: usize) -> Vec<u8> {
    (0..n).map(|i| (i / 7 * 31 + i / 4096 + seed * 131) as u8).collect()
}

/// Files of one MiB, each synced, until there is no room: which of them were acknowledged, and whether it was full.
fn fill(dir: &Path, writer: usize, most: usize) -> (Vec<(PathBuf, usize)>, bool) {
    let mut done = Vec::new();
    for n in 0..most {
        let (path, seed) = (dir.join(format!("{writer}-{n}")), writer * 1000 + n);
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(&content(MIB, seed))?;
            file.sync_all()
        };
        match write() {
            Ok(()) => done.push((path, seed)),
            Err(e) if e.kind() == ErrorKind::StorageFull => return (done, true),
            Err(e) => panic!("{}: {e}", path.display()),
        }
    }
    (done, false)
}

fn fill_side_by_side(dir: &Path, writers: usize, most: usize) -> (BTreeMap<PathBuf, usize>, usize) {
    let threads: Vec<_> = (0..writers)
        .map(|w| {
            let dir = dir.to_owned();
            std::thread::spawn(move || fill(&dir, w, most))
        })
        .collect();
    let mut all = BTreeMap::new();
    let mut full = 0;
    for t in threads {
        let (done, was_full) = t.join().expect("no panic");
        all.extend(done);
        full += usize::from(was_full);
    }
    (all, full)
}

fn all_there(files: &BTreeMap<PathBuf, usize>) {
    for (path, seed) in files {
        let mut got = Vec::new();
        File::open(path).and_then(|mut f| f.read_to_end(&mut got)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(got == content(MIB, *seed), "{} reads otherwise than it was written", path.display());
    }
}

fn drop_caches() {
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
}

#[test]
fn a_full_disk_refuses_data_and_loses_none() {
    if !can_mount("a_full_disk_refuses_data_and_loses_none") {
        return;
    }
    let began = Instant::now();
    let w = small(200);
    w.run(&["volume", "create", "db"]).ok();
    let dir = PathBuf::from(w.dir("m"));
    w.run(&["mount", "db", dir.to_str().expect("plain")]).ok();
    let (files, full) = fill_side_by_side(&dir, 8, 1000);
    assert!(full == 8 && files.len() > 100, "{full} of 8 were told, after {} files", files.len());
    drop_caches();
    all_there(&files);
    // Names go on, and removing does.
    std::fs::create_dir(dir.join("a folder")).expect("a name");
    // With no byte left, not even for the log, nobody ends.
    let ballast = w.root.join("ballast");
    let mut file = File::create(&ballast).expect("created");
    while file.write_all(&[0; 4096]).is_ok() {}
    let workers = || w.json(&["status"])["keeper"]["workers"].clone();
    let before = workers();
    for n in 0..300 {
        let _ = std::fs::write(dir.join(format!("refused-{n}")), content(MIB, n));
    }
    all_there(&files);
    assert_eq!(workers(), before);
    drop(file);
    std::fs::remove_file(ballast).expect("removed");
    let mut files = files;
    for path in files.keys().take(40).cloned().collect::<Vec<_>>() {
        std::fs::remove_file(&path).expect("removed");
        files.remove(&path);
    }
    all_there(&files);
    assert!(began.elapsed() < Duration::from_secs(150), "{:?}", began.elapsed());
}

/// Nobody syncs, and nobody looks at what a close says: a program learns it from its write or never.
#[test]
fn a_full_disk_is_told_to_who_writes_and_not_first_to_who_closes() {
    if !can_mount("a_full_disk_is_told_to_who_writes_and_not_first_to_who_closes") {
        return;
    }
    let w = small(300);
    w.run(&["volume", "create", "db"]).ok();
    assert_eq!(w.json(&["volume", "inspect", "db"])[0]["effective"]["cache"], "fast");
    let dir = PathBuf::from(w.dir("m"));
    w.run(&["mount", "db", dir.to_str().expect("plain")]).ok();

    // One large file, and small ones beside it by others, until all are told.
    let large = {
        let path = dir.join("large");
        std::thread::spawn(move || {
            let mut file = File::create(path).expect("created");
            let mut n = 0;
            loop {
                match file.write_all(&content(MIB / 4, n)) {
                    Ok(()) => n += 1,
                    Err(e) => return (n, e.kind()),
                }
                assert!(n < 4 * 400, "nobody is told");
            }
        })
    };
    let small: Vec<_> = (0..4)
        .map(|t| {
            let dir = dir.clone();
            std::thread::spawn(move || {
                let mut done = Vec::new();
                let kind = loop {
                    let seed = 5000 + t * 1000 + done.len();
                    let path = dir.join(format!("small-{t}-{}", done.len()));
                    match File::create(&path).and_then(|mut f| f.write_all(&content(50_000, seed))) {
                        Ok(()) => done.push((path, seed)),
                        Err(e) => break e.kind(),
                    }
                    assert!(done.len() < 8000, "nobody is told");
                };
                (done, kind)
            })
        })
        .collect();
    let (pieces, kind) = large.join().expect("no panic");
    assert_eq!(kind, ErrorKind::StorageFull);
    let mut files = Vec::new();
    for one in small {
        let (done, kind) = one.join().expect("no panic");
        assert_eq!(kind, ErrorKind::StorageFull);
        files.extend(done);
    }
    let taken = pieces * MIB / 4 + files.len() * 50_000;
    assert!(taken > 150 * MIB, "only {taken} bytes were taken");
    // Line by line in a file that is there, and in a new one: what was garbage may have gone meanwhile. One looks at it each time.
    let append = |name: &str, looks: bool| {
        let mut file = File::options().create(true).append(true).open(dir.join(name)).expect("names go on");
        let mut write = || {
            if looks {
                file.metadata()?;
            }
            file.write_all(&[b'.'; 4096])
        };
        let told = (0..25_000).find_map(|_| write().err()).expect("told by the write");
        assert_eq!(told.kind(), ErrorKind::StorageFull, "{name}");
    };
    append("large", false);
    append("new", true);
    // Whoever reads is not refused, nor whoever copies away, though the kernel knows nothing of the files any more.
    drop_caches();
    let copy = w.path("copied");
    for (path, seed) in files.iter().step_by(10) {
        assert!(std::fs::read(path).expect("reads") == content(50_000, *seed));
        assert_eq!(std::fs::copy(path, &copy).expect("copied away"), 50_000);
        let said = Command::new("tail").args(["-c", "10"]).arg(path).output().expect("tail runs");
        assert!(said.status.success() && said.stdout.len() == 10, "{said:?}");
    }
    let pid = w.json(&["status"])["keeper"]["workers"][0]["pid"].as_i64().expect("a worker");
    crate::world::kill(i32::try_from(pid).expect("a process"));
    append("large", true);
    append("new", false);

    // What was taken is there.
    w.run(&["unmount", "db"]).ok();
    w.run(&["mount", "db", dir.to_str().expect("plain")]).ok();
    append("new", false);
    let mut got = Vec::new();
    File::open(dir.join("large")).and_then(|mut f| f.read_to_end(&mut got)).expect("reads");
    assert!(got.len() >= pieces * MIB / 4, "{} bytes of {pieces} pieces", got.len());
    for (n, piece) in got.chunks(MIB / 4).take(pieces).enumerate() {
        assert!(piece == content(MIB / 4, n), "piece {n} of {pieces} reads otherwise than it was written");
    }
    let differing: Vec<String> = files
        .iter()
        .filter_map(|(path, seed)| {
            let (got, want) = (std::fs::read(path).expect("reads"), content(50_000, *seed));
            let at = got.iter().zip(&want).position(|(a, b)| a != b);
            (got != want).then(|| format!("{}: {} bytes, another at {at:?}, {:?}", path.display(), got.len(), at.map(|at| got[at])))
        })
        .collect();
    assert!(
        differing.is_empty(),
        "{} of {} read otherwise than they were written:\n{}",
        differing.len(),
        files.len(),
        differing.join("\n")
    );
    // Room that is made can be used, at once.
    std::fs::remove_file(dir.join("large")).expect("removed");
    std::fs::write(dir.join("again"), content(20 * MIB, 9)).expect("there is room again");
    w.run(&["unmount", "db"]).ok();
    assert_eq!(w.json(&["check", "db"])["clean"], true);
}

/// Whoever removes every fifth file gets a fifth of the disk, though no segment of the volume is empty and none can be moved.
#[test]
fn what_is_removed_here_and_there_makes_room() {
    if !can_mount("what_is_removed_here_and_there_makes_room") {
        return;
    }
    let w = small(300);
    w.run(&["volume", "create", "db"]).ok();
    let dir = PathBuf::from(w.dir("m"));
    w.run(&["mount", "db", dir.to_str().expect("plain")]).ok();
    let (mut files, full) = fill_side_by_side(&dir, 4, 1000);
    assert_eq!(full, 4, "after {} files", files.len());
    for round in 0..3 {
        let gone: Vec<PathBuf> = files.keys().skip(round).step_by(5).cloned().collect();
        for path in &gone {
            std::fs::remove_file(path).expect("removed");
            files.remove(path);
        }
        let into = dir.join(format!("again-{round}"));
        std::fs::create_dir(&into).expect("a name");
        let (more, _) = fill(&into, round + 10, gone.len());
        assert!(more.len() * 10 >= gone.len() * 8, "{} of {} files found room again", more.len(), gone.len());
        files.extend(more);
    }
    drop_caches();
    all_there(&files);
    let pid = w.json(&["status"])["keeper"]["workers"][0]["pid"].as_i64().expect("a worker");
    crate::world::kill(i32::try_from(pid).expect("a process"));
    all_there(&files);
    w.run(&["unmount", "db"]).ok();
    assert_eq!(w.json(&["check", "db"])["clean"], true);
}

#[test]
fn a_small_disk_before_a_store_holds_nobody_up_for_good() {
    if !can_mount("a_small_disk_before_a_store_holds_nobody_up_for_good") {
        return;
    }
    let Some(server) = S3Server::start("bucket") else { return };
    let began = Instant::now();
    let w = small(400);
    let how = s3_words(&server, server.addr());
    w.run(&[&["store", "add", "cloud", "s3://bucket/p"], &how.each_ref().map(String::as_str)[..]].concat()).ok();
    w.run(&["volume", "create", "db", "-o", "store=cloud"]).ok();
    let dir = PathBuf::from(w.dir("m"));
    w.run(&["mount", "db", dir.to_str().expect("plain")]).ok();
    // Twice what the disk holds. Whoever is told that it is full comes again when the store has taken some.
    let mut files = BTreeMap::new();
    let mut refused = 0;
    while files.len() < 800 {
        assert!(began.elapsed() < Duration::from_secs(240), "{} files, refused {refused} times", files.len());
        let folder = dir.join(format!("turn-{}", files.len()));
        std::fs::create_dir(&folder).expect("a name");
        let (more, full) = fill_side_by_side(&folder, 8, 12);
        refused += full;
        files.extend(more);
        if full > 0 {
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    drop_caches();
    all_there(&files);
    w.run(&["unmount", "db"]).ok();
    assert_eq!(w.json(&["check", "db"])["clean"], true);
    eprintln!("{} MiB through a disk of 400 MiB, refused {refused} times, {:?}", files.len(), began.elapsed());
}

#[test]
fn a_thousand_open_files_and_sixty_four_threads() {
    if !can_mount("a_thousand_open_files_and_sixty_four_threads") {
        return;
    }
    let w = World::up();
    w.run(&["volume", "create", "db"]).ok();
    let dir = PathBuf::from(w.dir("m"));
    w.run(&["mount", "db", dir.to_str().expect("plain")]).ok();
    let make = |n: usize| File::options().read(true).write(true).create_new(true).open(dir.join(format!("f{n}"))).expect("opens");
    let open: Vec<File> = (0..960).map(make).collect();
    let each = open.len() / 64;
    std::thread::scope(|s| {
        for (t, part) in open.chunks(each).enumerate() {
            s.spawn(move || {
                use std::os::unix::fs::FileExt;
                for round in 0..4usize {
                    for (i, file) in part.iter().enumerate() {
                        let mine = content(20_000, t * 1000 + i + round);
                        file.write_all_at(&mine, (round * 20_000) as u64).expect("written");
                    }
                    part[round % part.len()].sync_all().expect("synced");
                }
                for (i, file) in part.iter().enumerate() {
                    for round in 0..4usize {
                        let mut got = vec![0; 20_000];
                        file.read_exact_at(&mut got, (round * 20_000) as u64).expect("read");
                        assert!(got == content(20_000, t * 1000 + i + round));
                    }
                }
            });
        }
    });
    // Unlinked while they are open, they stay readable.
    for n in 0..open.len() {
        std::fs::remove_file(dir.join(format!("f{n}"))).expect("removed");
    }
    assert_eq!(open[17].metadata().expect("open").len(), 80_000);
    drop(open);
    w.run(&["unmount", "db"]).ok();
    assert_eq!(w.json(&["check", "db"])["clean"], true);
}

#[test]
fn a_full_disk_keeps_no_daemon_from_starting() {
    if !can_mount("a_full_disk_keeps_no_daemon_from_starting") {
        return;
    }
    let w = small(64);
    w.kill_daemon();
    let rest = take_rest(&w);
    w.run(&["up", "--no-docker-plugin"]).ok();
    assert!(w.run(&["status"]).ok().out.contains("keeper"));
    std::fs::remove_file(rest).expect("removed");
}

/// What a full disk refuses is refused while it is full, and not until the daemon is started again.
#[test]
fn a_daemon_that_met_a_full_disk_goes_on_when_there_is_room() {
    if !can_mount("a_daemon_that_met_a_full_disk_goes_on_when_there_is_room") {
        return;
    }
    let w = small(64);
    w.run(&["volume", "create", "db"]).ok();
    let rest = take_rest(&w);
    let mut refused = 0;
    for n in 0..12 {
        refused += u32::from(w.run(&["volume", "create", &format!("full-{n}")]).code != 0);
    }
    assert!(refused > 4, "the disk was not full: {refused}");
    std::fs::remove_file(rest).expect("removed");
    for n in 0..12 {
        w.run(&["volume", "create", &format!("after-{n}")]).ok();
    }
    w.run(&["audit", "verify"]).ok();
}

/// A worker that is killed while there is no free byte has a successor all the same, from a little that is kept for that.
#[test]
fn a_worker_that_dies_on_a_disk_without_a_free_byte_is_replaced() {
    if !can_mount("a_worker_that_dies_on_a_disk_without_a_free_byte_is_replaced") {
        return;
    }
    let w = small(150);
    w.run(&["volume", "create", "db"]).ok();
    let dir = PathBuf::from(w.dir("m"));
    w.run(&["mount", "db", dir.to_str().expect("plain")]).ok();
    std::fs::write(dir.join("kept"), content(200_000, 3)).expect("written");
    File::open(dir.join("kept")).and_then(|file| file.sync_all()).expect("synced");
    for round in 0..2 {
        let reserve = || std::fs::read_dir(w.root.join("state")).expect("reads").flatten().any(|d| d.path().join("reserve").exists());
        wait("a little is kept", reserve);
        let rest = take_rest(&w);
        kill(w.worker_pid());
        let began = Instant::now();
        // Past the page cache: it has to be answered by the next worker.
        let names = std::fs::read_dir(&dir).expect("lists").count();
        assert!(names >= 1 && began.elapsed() < Duration::from_secs(20), "{names} after {:?}", began.elapsed());
        assert!(std::fs::read(dir.join("kept")).expect("reads") == content(200_000, 3));
        std::fs::remove_file(rest).expect("removed");
        std::fs::write(dir.join(format!("after-{round}")), "after").expect("there is room again");
    }
    w.run(&["unmount", "db"]).ok();
    assert_eq!(w.json(&["check", "db"])["clean"], true);
}

fn free(w: &World) -> u64 {
    let s = nix::sys::statvfs::statvfs(&w.root).expect("statvfs");
    s.blocks_available() * s.fragment_size()
}

/// Links with long targets, since those are in no data block, until there is no room.
fn link(dir: &Path, most: usize) -> (Vec<PathBuf>, Option<std::io::Error>) {
    let began = Instant::now();
    let target = "y".repeat(4000);
    let mut links = Vec::new();
    while links.len() < most {
        let path = dir.join(format!("link-{}", links.len()));
        match std::os::unix::fs::symlink(&target, &path) {
            Ok(()) => links.push(path),
            Err(e) => return (links, Some(e)),
        }
        assert!(began.elapsed() < Duration::from_secs(120), "{} links, and no end", links.len());
    }
    (links, None)
}

/// What the names of removed files took, of the namespace's tables, is merged away and collected, and needs room for that.
#[test]
fn what_names_took_comes_back_when_they_are_gone() {
    if !can_mount("what_names_took_comes_back_when_they_are_gone") {
        return;
    }
    let w = small(250);
    w.run(&["volume", "create", "db"]).ok();
    let dir = PathBuf::from(w.dir("db"));
    w.run(&["mount", "db", dir.to_str().expect("plain")]).ok();
    let before = free(&w);
    for round in 0..2 {
        let (links, refused) = link(&dir, usize::MAX);
        let refused = refused.expect("it ended");
        assert_eq!(refused.kind(), ErrorKind::StorageFull, "{refused}");
        println!("{} links, {} MiB free", links.len(), free(&w) >> 20);
        assert!(links.len() > 5_000, "{}", links.len());
        for path in &links {
            std::fs::remove_file(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        let began = Instant::now();
        while free(&w) + (40 << 20) < before {
            assert!(began.elapsed() < Duration::from_secs(120), "round {round}: {} of {} MiB free", free(&w) >> 20, before >> 20);
            std::thread::sleep(Duration::from_millis(500));
        }
        println!("{} MiB free after {:?}", free(&w) >> 20, began.elapsed());
    }
    assert_eq!(w.json(&["check", "db"])["clean"], true);
}

/// Names and attributes take what is kept from data for them, and no more: the rest is for removing them.
#[test]
fn a_disk_that_is_full_of_names_is_emptied_again() {
    if !can_mount("a_disk_that_is_full_of_names_is_emptied_again") {
        return;
    }
    let w = small(300);
    let dirs = ["db", "beside"].map(|name| {
        w.run(&["volume", "create", name]).ok();
        let dir = PathBuf::from(w.dir(name));
        w.run(&["mount", name, dir.to_str().expect("plain")]).ok();
        dir
    });
    std::fs::write(dirs[1].join("keep"), "kept").expect("written");
    let (files, full) = fill(&dirs[0], 0, 1000);
    assert!(full && files.len() > 100, "{} files", files.len());
    let began = Instant::now();
    let (links, last) = link(&dirs[0], usize::MAX);
    let refused = last.expect("it ended");
    assert_eq!(refused.kind(), ErrorKind::StorageFull, "{refused}");
    let free = || free(&w);
    println!("{} links after {:?}, {} bytes free", links.len(), began.elapsed(), free());
    // A merge of the namespace that was under way when it became scarce takes more for a moment.
    let settled = Instant::now() + Duration::from_secs(5);
    while free() <= 4 << 20 && Instant::now() < settled {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!links.is_empty() && free() > 4 << 20, "{} links, {} bytes free", links.len(), free());

    // A successor finds the room that an opening takes.
    let worker = w.json(&["status"])["keeper"]["workers"][0]["pid"].as_i64().expect("a worker") as i32;
    crate::world::kill(worker);
    let began = Instant::now();
    assert!(std::fs::symlink_metadata(&links[0]).is_ok());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // All of it can be removed, here and in the volume beside, and comes back.
    std::fs::remove_file(dirs[1].join("keep")).expect("removed");
    for path in links.iter().chain(files.iter().map(|(path, _)| path)) {
        std::fs::remove_file(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    crate::world::wait("there is room again", || free() > 150 << 20);
    let (again, _) = fill(&dirs[0], 1, 100);
    assert_eq!(again.len(), 100);
    for name in ["db", "beside"] {
        assert_eq!(w.json(&["check", name])["clean"], true, "{name}");
    }
}
