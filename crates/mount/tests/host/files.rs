//! File operations through the kernel, on a volume mounted by the test's own process: strict and fast are one truth.

use crate::harness::{World, in_both_modes, need_fuse};
use crate::sys::{self, errno};
use nix::sys::stat::{Mode, SFlag, mknod, umask};
use orlop_model::CacheMode;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

in_both_modes!(names_links_and_folders);
fn names_links_and_folders(cache: CacheMode) {
    need_fuse!();
    let world = World::new();
    let volume = world.mounted("v", cache);
    let p = &volume.point;

    fs::write(p.join("a"), "one").expect("written");
    assert_eq!(errno(OpenOptions::new().write(true).create_new(true).open(p.join("a"))), libc::EEXIST);
    fs::hard_link(p.join("a"), p.join("b")).expect("linked");
    let (a, b) = (fs::metadata(p.join("a")).expect("a"), fs::metadata(p.join("b")).expect("b"));
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    symlink("a", p.join("s")).expect("link");
    assert_eq!(fs::read_link(p.join("s")).expect("target").to_str(), Some("a"));
    assert_eq!(fs::read_to_string(p.join("s")).expect("followed"), "one");

    fs::create_dir(p.join("d")).expect("folder");
    assert_eq!(errno(fs::create_dir(p.join("d"))), libc::EEXIST);
    assert_eq!(fs::metadata(p.join("d")).expect("d").nlink(), 2);
    fs::write(p.join("d/x"), "x").expect("written");
    assert_eq!(errno(fs::remove_dir(p.join("d"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_file(p.join("d"))), libc::EISDIR);
    assert_eq!(errno(fs::remove_dir(p.join("a"))), libc::ENOTDIR);
    assert_eq!(errno(fs::read(p.join("none"))), libc::ENOENT);

    assert_eq!(errno(sys::rename2(&p.join("a"), &p.join("d/x"), libc::RENAME_NOREPLACE)), libc::EEXIST);
    sys::rename2(&p.join("a"), &p.join("d/x"), libc::RENAME_EXCHANGE).expect("exchanged");
    assert_eq!(fs::read_to_string(p.join("a")).expect("a"), "x");
    assert_eq!(fs::read_to_string(p.join("d/x")).expect("x"), "one");
    fs::rename(p.join("d/x"), p.join("a")).expect("replaced");
    assert_eq!(fs::read_to_string(p.join("a")).expect("a"), "one");
    assert_eq!(errno(sys::rename2(&p.join("a"), &p.join("w"), libc::RENAME_WHITEOUT)), libc::EINVAL);

    let long = "n".repeat(255);
    fs::write(p.join(&long), "").expect("the longest name");
    assert_eq!(errno(fs::write(p.join("n".repeat(256)), "")), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::metadata(p.join("n".repeat(256)))), libc::ENAMETOOLONG);
    let odd = std::ffi::OsString::from_vec(vec![0xff, b' ', b'\n', 0x01]);
    fs::write(p.join(&odd), "odd").expect("any bytes are a name");
    let names: BTreeSet<_> = fs::read_dir(p).expect("lists").map(|e| e.expect("entry").file_name()).collect();
    assert!(names.contains(&odd) && names.contains(std::ffi::OsStr::new(&long)));

    // Without a name but open, a file is whole; afterwards it is gone, and so is what it took.
    let mut open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(p.join("t")).expect("opened");
    open.write_all(b"still here").expect("written");
    fs::remove_file(p.join("t")).expect("removed");
    let mut text = String::new();
    open.seek(SeekFrom::Start(0)).expect("seeks");
    open.read_to_string(&mut text).expect("read");
    assert_eq!((text.as_str(), open.metadata().expect("meta").nlink()), ("still here", 0));
    drop(open);
    // Refused: a file without a name from the start.
    let nameless = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(p);
    assert_eq!(errno(nameless), libc::EOPNOTSUPP);
    volume.end();
}

in_both_modes!(special_files_modes_and_owners);
fn special_files_modes_and_owners(cache: CacheMode) {
    need_fuse!();
    let world = World::new();
    let volume = world.mounted("v", cache);
    let p = &volume.point;
    umask(Mode::from_bits_truncate(0o022));
    let make = |name: &str, kind, device| mknod(&p.join(name), kind, Mode::from_bits_truncate(0o666), device).expect(name);
    make("fifo", SFlag::S_IFIFO, 0);
    make("socket", SFlag::S_IFSOCK, 0);
    make("char", SFlag::S_IFCHR, nix::sys::stat::makedev(1, 3));
    make("block", SFlag::S_IFBLK, nix::sys::stat::makedev(259, 70_000));
    make("file", SFlag::S_IFREG, 0);
    let meta = |name: &str| fs::symlink_metadata(p.join(name)).expect(name);
    assert!(meta("fifo").file_type().is_fifo() && meta("socket").file_type().is_socket() && meta("file").is_file());
    assert!(meta("char").file_type().is_char_device() && meta("block").file_type().is_block_device());
    assert_eq!((meta("char").rdev(), meta("block").rdev()), (nix::sys::stat::makedev(1, 3), nix::sys::stat::makedev(259, 70_000)));
    assert_eq!(meta("fifo").mode() & 0o7777, 0o644, "the umask is applied once");
    // A device in a volume is a device, as in Docker's own volumes.
    fs::write(p.join("char"), "to /dev/null").expect("writes to the device");

    fs::set_permissions(p.join("file"), fs::Permissions::from_mode(0o6755)).expect("chmod");
    assert_eq!(meta("file").mode() & 0o7777, 0o6755);
    std::os::unix::fs::chown(p.join("file"), Some(12), Some(34)).expect("chown");
    assert_eq!((meta("file").uid(), meta("file").gid()), (12, 34));
    assert_eq!(meta("file").mode() & 0o7777, 0o755, "a new owner gets no set-id program");

    fs::create_dir(p.join("shared")).expect("folder");
    std::os::unix::fs::chown(p.join("shared"), None, Some(77)).expect("chown");
    fs::set_permissions(p.join("shared"), fs::Permissions::from_mode(0o2775)).expect("chmod");
    fs::write(p.join("shared/f"), "").expect("written");
    fs::create_dir(p.join("shared/d")).expect("folder");
    assert_eq!((meta("shared/f").gid(), meta("shared/d").gid()), (77, 77));
    assert_eq!(meta("shared/d").mode() & 0o7777, 0o2755);
    volume.end();
}

in_both_modes!(times_to_the_nanosecond_also_before_1970);
fn times_to_the_nanosecond_also_before_1970(cache: CacheMode) {
    need_fuse!();
    let world = World::new();
    let volume = world.mounted("v", cache);
    let f = volume.point.join("f");
    fs::write(&f, "x").expect("written");
    for (sec, nsec) in
        [(0, 0), (1, 999_999_999), (-1, 0), (-2, 500_000_000), (-1_000_000_000, 1), (1 << 33, 7), (i64::MIN, 0), (i64::MAX, 0)]
    {
        sys::set_times(&f, (sec, nsec), (sec, nsec)).expect("set");
        let m = fs::metadata(&f).expect("meta");
        assert_eq!((m.atime(), m.atime_nsec(), m.mtime(), m.mtime_nsec()), (sec, nsec, sec, nsec));
    }
    let before = std::time::SystemTime::now();
    fs::write(&f, "y").expect("written");
    let changed = fs::metadata(&f).expect("meta").modified().expect("a time");
    assert!(changed >= before - std::time::Duration::from_secs(1), "{changed:?} {before:?}");
    volume.end();
}

in_both_modes!(data_of_every_size_holes_and_truncation);
fn data_of_every_size_holes_and_truncation(cache: CacheMode) {
    need_fuse!();
    let world = World::new();
    let volume = world.mounted("v", cache);
    let p = &volume.point;
    let pattern: Vec<u8> = (0..3_000_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(p.join("big"), &pattern).expect("written");
    assert!(fs::read(p.join("big")).expect("read") == pattern);
    let mut f = OpenOptions::new().read(true).write(true).open(p.join("big")).expect("opened");
    f.write_all_at(b"####", 1_048_574).expect("across a request's border");
    let mut some = [0u8; 8];
    f.read_exact_at(&mut some, 1_048_572).expect("read");
    assert_eq!(&some, &[pattern[1_048_572], pattern[1_048_573], b'#', b'#', b'#', b'#', pattern[1_048_578], pattern[1_048_579]]);
    f.set_len(10).expect("shorter");
    f.set_len(20).expect("longer");
    assert_eq!(fs::read(p.join("big")).expect("read"), [&pattern[..10], &[0; 10]].concat());
    f.set_len(0).expect("empty");
    f.write_all_at(b"x", 1 << 40).expect("far out");
    assert_eq!(f.metadata().expect("meta").size(), (1 << 40) + 1);
    f.seek(SeekFrom::Start((1 << 40) - 4)).expect("seeks");
    let mut tail = Vec::new();
    f.read_to_end(&mut tail).expect("read");
    assert_eq!(tail, b"\0\0\0\0x");
    drop(f);
    // A write-back cache counts the blocks of an open file when it is closed.
    assert_eq!(fs::metadata(p.join("big")).expect("meta").blocks(), 8);

    let mut a = OpenOptions::new().append(true).create(true).open(p.join("log")).expect("opened");
    let mut b = OpenOptions::new().append(true).open(p.join("log")).expect("opened");
    for i in 0..10 {
        writeln!(a, "a{i}").expect("appended");
        writeln!(b, "b{i}").expect("appended");
    }
    assert_eq!(fs::read_to_string(p.join("log")).expect("read").lines().count(), 20);
    let truncated = OpenOptions::new().write(true).truncate(true).open(p.join("log")).expect("opened");
    assert_eq!(truncated.metadata().expect("meta").size(), 0);
    drop((a, b, truncated));

    // Direct and synchronous I/O take the same way.
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT | libc::O_SYNC)
        .open(p.join("direct"));
    let direct = direct.expect("opened");
    direct.write_all_at(&pattern[..8192], 0).expect("written");
    let mut back = vec![0u8; 8192];
    direct.read_exact_at(&mut back, 0).expect("read");
    assert!(back == pattern[..8192]);
    direct.sync_all().expect("synced");
    File::open(p).expect("the folder").sync_all().expect("a folder can be synced");
    drop(direct);
    volume.end();
}

in_both_modes!(allocation_holes_and_zeros);
fn allocation_holes_and_zeros(cache: CacheMode) {
    need_fuse!();
    let world = World::new();
    let volume = world.mounted("v", cache);
    let path = volume.point.join("f");
    let f = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("opened");
    sys::fallocate(&f, 0, 0, 1 << 20).expect("reserved");
    assert_eq!((f.metadata().expect("meta").size(), f.metadata().expect("meta").blocks()), (1 << 20, 2048));
    sys::fallocate(&f, libc::FALLOC_FL_KEEP_SIZE, 1 << 20, 4096).expect("reserved behind the end");
    assert_eq!(f.metadata().expect("meta").size(), 1 << 20);
    f.write_all_at(&[7; 16384], 0).expect("written");
    sys::fallocate(&f, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 4096, 4096).expect("punched");
    sys::fallocate(&f, libc::FALLOC_FL_ZERO_RANGE, 8190, 4).expect("zeroed");
    let mut all = vec![0u8; 16384];
    f.read_exact_at(&mut all, 0).expect("read");
    let expected: Vec<u8> = (0..16384).map(|i| if (4096..8194).contains(&i) { 0 } else { 7 }).collect();
    assert!(all == expected);
    assert_eq!(errno(sys::fallocate(&f, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096)), libc::EOPNOTSUPP);
    drop(f);
    volume.end();
}

in_both_modes!(extended_attributes);
fn extended_attributes(cache: CacheMode) {
    need_fuse!();
    let world = World::new();
    let volume = world.mounted("v", cache);
    let f = volume.point.join("f");
    fs::write(&f, "").expect("written");
    sys::set_xattr(&f, "user.a", b"one", 0).expect("set");
    assert_eq!(errno(sys::set_xattr(&f, "user.a", b"two", libc::XATTR_CREATE)), libc::EEXIST);
    assert_eq!(errno(sys::set_xattr(&f, "user.b", b"two", libc::XATTR_REPLACE)), libc::ENODATA);
    sys::set_xattr(&f, "user.a", b"three", libc::XATTR_REPLACE).expect("replaced");
    assert_eq!(sys::get_xattr(&f, "user.a", 0).expect("size").0, 5);
    assert_eq!(sys::get_xattr(&f, "user.a", 64).expect("value").1, b"three");
    assert_eq!(errno(sys::get_xattr(&f, "user.a", 4)), libc::ERANGE);
    assert_eq!(errno(sys::get_xattr(&f, "user.none", 64)), libc::ENODATA);
    sys::set_xattr(&f, "trusted.overlay.opaque", b"y", 0).expect("set");
    sys::set_xattr(&f, "user.empty", b"", 0).expect("set");
    assert_eq!(sys::get_xattr(&f, "user.empty", 8).expect("value").0, 0);
    let mut names = sys::list_xattr(&f).expect("listed");
    names.sort();
    assert_eq!(names, ["trusted.overlay.opaque", "user.a", "user.empty"]);
    sys::remove_xattr(&f, "user.a").expect("removed");
    assert_eq!(errno(sys::remove_xattr(&f, "user.a")), libc::ENODATA);
    let largest = vec![9u8; 65_536];
    sys::set_xattr(&f, "user.large", &largest, 0).expect("the kernel's limit");
    assert!(sys::get_xattr(&f, "user.large", 65_536).expect("value").1 == largest);
    assert_eq!(errno(sys::set_xattr(&f, "user.large", &[9u8; 65_537], 0)), libc::E2BIG);
    // Nobody would enforce an access list here, so none is taken.
    assert_eq!(errno(sys::set_xattr(&f, "system.posix_acl_access", &[2, 0, 0, 0], 0)), libc::EOPNOTSUPP);
    volume.end();
}

in_both_modes!(a_large_folder_is_read_whole_while_it_changes);
fn a_large_folder_is_read_whole_while_it_changes(cache: CacheMode) {
    need_fuse!();
    const STAY: usize = 3000;
    let world = World::new();
    let volume = world.mounted("v", cache);
    let p = volume.point.join("d");
    fs::create_dir(&p).expect("folder");
    for i in 0..STAY {
        File::create(p.join(format!("stay{i}"))).expect("created");
        File::create(p.join(format!("go{i}"))).expect("created");
    }
    let mut names = Vec::new();
    for (n, entry) in fs::read_dir(&p).expect("lists").enumerate() {
        let name = entry.expect("entry").file_name().into_string().expect("plain");
        if n % 7 == 0 {
            let _ = fs::remove_file(p.join(format!("go{}", STAY - 1 - n / 7)));
            let _ = File::create(p.join(format!("new{n}")));
        }
        names.push(name);
    }
    let stayed: BTreeSet<_> = names.iter().filter(|n| n.starts_with("stay")).collect();
    assert_eq!(stayed.len(), STAY, "what is there the whole time is listed");
    let unique: BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len(), "and nothing is listed twice");

    // "." and ".." are entries too, with the right inodes.
    let listed = std::process::Command::new("ls").args(["-1fi"]).arg(&p).output().expect("ls runs");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let inode = |name: &str| {
        let line = listed.lines().find(|l| l.split_ascii_whitespace().nth(1) == Some(name)).expect(name);
        line.split_ascii_whitespace().next().and_then(|i| i.parse::<u64>().ok()).expect("an inode")
    };
    assert_eq!(inode("."), fs::metadata(&p).expect("meta").ino());
    assert_eq!(inode(".."), fs::metadata(&volume.point).expect("meta").ino());
    fs::remove_dir_all(&p).expect("removed");
    volume.end();
}

// Served by another process: a fault of this one on its own mount could wait for itself, address space in hand.
in_both_modes!(locks_and_shared_mappings);
fn locks_and_shared_mappings(cache: CacheMode) {
    need_fuse!();
    let world = World::new();
    let keeper = world.keeper();
    let mut plan = world.volume("v");
    plan.options.cache = Some(cache);
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    let path = Path::new(&plan.mountpoint).join("f");
    fs::write(&path, vec![0u8; 8192]).expect("written");
    let f = OpenOptions::new().read(true).write(true).open(&path).expect("opened");
    let other = OpenOptions::new().read(true).write(true).open(&path).expect("opened");
    f.lock().expect("locked");
    assert!(matches!(other.try_lock(), Err(fs::TryLockError::WouldBlock)));
    f.unlock().expect("unlocked");
    other.try_lock().expect("free now");
    other.unlock().expect("unlocked");

    let mut map = sys::Map::new(&f, 8192).expect("mapped");
    map.write(4094, b"across");
    let mut seen = [0u8; 6];
    other.read_exact_at(&mut seen, 4094).expect("read");
    assert_eq!(&seen, b"across", "seen by reads at once");
    drop((map, f, other));
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
    world.runtime.block_on(keeper.attach(&plan)).expect("attached");
    assert_eq!(&fs::read(&path).expect("read")[4094..4100], b"across", "and in the volume after it was unmapped");
    world.runtime.block_on(keeper.detach(plan.volume, false)).expect("detached");
}

in_both_modes!(the_kernel_enforces_permissions_for_other_users);
fn the_kernel_enforces_permissions_for_other_users(cache: CacheMode) {
    need_fuse!();
    let world = World::new();
    let volume = world.mounted("v", cache);
    fs::set_permissions(world.folder("."), fs::Permissions::from_mode(0o755)).expect("chmod");
    let p = &volume.point;
    fs::write(p.join("secret"), "s").expect("written");
    fs::set_permissions(p.join("secret"), fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::create_dir(p.join("open")).expect("folder");
    fs::set_permissions(p.join("open"), fs::Permissions::from_mode(0o1777)).expect("chmod");
    let as_nobody = |script: &str| {
        std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script])
            .current_dir(p)
            .output()
            .expect("setpriv runs")
    };
    assert!(!as_nobody("cat secret").status.success());
    assert!(!as_nobody("touch here").status.success());
    let made = as_nobody("echo mine > open/f && stat -c %u:%g open/f");
    assert_eq!(String::from_utf8_lossy(&made.stdout), "65534:65534\n", "{}", String::from_utf8_lossy(&made.stderr));
    fs::write(p.join("open/root"), "r").expect("written");
    assert!(!as_nobody("rm -f open/root").status.success(), "the sticky bit holds");
    volume.end();
}

in_both_modes!(many_threads_at_once);
fn many_threads_at_once(cache: CacheMode) {
    need_fuse!();
    let world = World::new();
    let volume = world.mounted("v", cache);
    std::thread::scope(|scope| {
        for t in 0..8 {
            let p = &volume.point;
            scope.spawn(move || {
                let dir = p.join(format!("t{t}"));
                fs::create_dir(&dir).expect("folder");
                for i in 0..100 {
                    let (new, done) = (dir.join("new"), dir.join(format!("f{i}")));
                    fs::write(&new, vec![t as u8; 100 * i]).expect("written");
                    fs::rename(&new, &done).expect("renamed");
                    assert!(fs::read(&done).expect("read") == vec![t as u8; 100 * i]);
                }
            });
        }
    });
    for t in 0..8 {
        assert_eq!(fs::read_dir(volume.point.join(format!("t{t}"))).expect("lists").count(), 100);
    }
    volume.end();
}

in_both_modes!(changes_by_others_than_root_take_set_id_bits_off);
fn changes_by_others_than_root_take_set_id_bits_off(cache: CacheMode) {
    need_fuse!();
    let world = World::new();
    let volume = world.mounted("v", cache);
    fs::set_permissions(world.folder("."), fs::Permissions::from_mode(0o755)).expect("chmod");
    let path = volume.point.join("f");
    let mode = |want: u32, after: &str| {
        let got = fs::metadata(&path).expect("meta").mode() & 0o7777;
        assert_eq!(got, want, "after {after} it is {got:o}");
    };
    for script in [
        "echo more >> f",
        "truncate -s 100 f",
        "fallocate -l 9000 f",
        "printf x | dd of=f conv=notrunc oflag=direct bs=1 2>/dev/null || printf x | dd of=f conv=notrunc 2>/dev/null",
    ] {
        for (set, want) in [(0o6777, 0o777), (0o2767, 0o2767), (0o4666, 0o666)] {
            fs::write(&path, "long enough to be changed").expect("written");
            std::os::unix::fs::chown(&path, Some(65534), Some(65534)).expect("chown");
            fs::set_permissions(&path, fs::Permissions::from_mode(set)).expect("chmod");
            let done = std::process::Command::new("setpriv")
                .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "sh", "-c", script])
                .current_dir(&volume.point)
                .output()
                .expect("setpriv runs");
            assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
            mode(want, script);
            // What was told to the kernel is what was kept.
            nix::unistd::sync();
            let attr = volume.attr("f");
            assert_eq!(attr & 0o7777, want, "{script}: kept as {attr:o}");
        }
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).expect("chmod");
    fs::OpenOptions::new().append(true).open(&path).expect("opened").write_all(b"root").expect("written");
    mode(0o6755, "a write of root's");
    std::os::unix::fs::chown(&path, Some(1), Some(2)).expect("chown");
    mode(0o755, "a change of owner by root");
    fs::create_dir(volume.point.join("d")).expect("folder");
    fs::set_permissions(volume.point.join("d"), fs::Permissions::from_mode(0o2775)).expect("chmod");
    std::os::unix::fs::chown(volume.point.join("d"), Some(1), Some(2)).expect("chown");
    assert_eq!(fs::metadata(volume.point.join("d")).expect("meta").mode() & 0o7777, 0o2775, "a folder keeps it");
    volume.end();
}
