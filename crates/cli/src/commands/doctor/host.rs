//! Checks of the host itself: FUSE, kernel, disk space, dead mounts. They need no daemon; what one says of its mounts is said elsewhere.

use super::Finding;
use crate::args::Context;
use orlop_api::wire::Status;
use orlop_model::ByteSize;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// Everything about the host.
pub(crate) fn check(cx: &Context, status: Option<&Status>) -> Vec<Finding> {
    let mut findings = vec![fuse(), kernel(&std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default())];
    findings.extend(space(&cx.root));
    findings.extend(mounts(&cx.root, &told_of(status)));
    findings
}

fn fuse() -> Finding {
    let path = "/dev/fuse";
    match std::fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Finding::ok("fuse", format!("{path} can be opened")),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Finding::problem(
            "fuse",
            format!("{path} cannot be opened: {e}"),
            "run orlop doctor as root; in a container pass --device /dev/fuse",
        ),
        Err(e) => Finding::problem(
            "fuse",
            format!("{path} cannot be opened: {e}; no volume can be mounted"),
            "load the kernel module with: modprobe fuse; in a container pass --device /dev/fuse and --cap-add SYS_ADMIN",
        ),
    }
}

fn kernel(release: &str) -> Finding {
    let release = release.trim();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (5, 6) {
        return Finding::problem(
            "kernel",
            format!("Linux {release} lacks openat2, which Orlop needs to read volumes safely"),
            "run a kernel from 5.6 on; 6.9 or later is best",
        );
    }
    if version < (6, 9) {
        return Finding::note(
            "kernel",
            format!(
                "Linux {release} cannot send a request again (FUSE_NOTIFY_RESEND): when a worker dies, the requests in flight fail with an error"
            ),
            "run a kernel from 6.9 on",
        );
    }
    Finding::ok("kernel", format!("Linux {release} has every FUSE feature that Orlop uses"))
}

fn space(root: &Path) -> Option<Finding> {
    let there = root.ancestors().find(|p| p.exists())?;
    let stat = nix::sys::statvfs::statvfs(there).ok()?;
    let unit = stat.fragment_size();
    let (free, all) = (stat.blocks_available() * unit, stat.blocks() * unit);
    let text = format!("{} of {} are free on the disk of {}", ByteSize(free), ByteSize(all), root.display());
    let remedy = "delete removed volumes for good with: orlop volume remove --now ID, or give the folder a larger disk";
    Some(if free < 256 << 20 {
        Finding::problem("space", text + "; writes will soon be refused", remedy)
    } else if free < 2 << 30 && free < all / 20 {
        Finding::note("space", text, remedy)
    } else if stat.files() > 0 && stat.files_available() < 1000 {
        Finding::problem("space", format!("only {} inodes are free on the disk of {}", stat.files_available(), root.display()), remedy)
    } else {
        Finding::ok("space", text)
    })
}

/// Where volumes are mounted whose workers do not serve: they answer with errors or not at all and are not dead, and the check of the workers
/// has their remedy.
fn told_of(status: Option<&Status>) -> Vec<PathBuf> {
    let workers = status.and_then(|s| s.host.keeper.as_ref()).map(|k| k.workers.as_slice()).unwrap_or_default();
    let troubled = workers.iter().filter(|w| w.state != "serving");
    troubled.flat_map(|w| std::iter::once(&w.mountpoint).chain(&w.binds)).map(PathBuf::from).collect()
}

fn mounts(root: &Path, told_of: &[PathBuf]) -> Vec<Finding> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let ours = fuse_mounts(&table).filter(|(point, source)| is_ours(root, point, source)).map(|(point, _)| point);
    let ours: Vec<PathBuf> = ours.filter(|point| !told_of.contains(point)).collect();
    let count = ours.len();
    let mut findings: Vec<Finding> = ours.into_iter().filter_map(|point| alive(&point).err().map(|why| dead(&point, &why))).collect();
    if findings.is_empty() {
        findings.push(Finding::ok("mounts", format!("{count} mounts of this root, none of them dead")));
    }
    findings
}

fn is_ours(root: &Path, point: &Path, source: &str) -> bool {
    point.starts_with(root.join("mnt")) || source.starts_with(&format!("orlop:{}", root.display()))
}

fn dead(point: &Path, why: &str) -> Finding {
    let point = point.display();
    Finding::problem(
        "mounts",
        format!("the mount {point} is dead: {why}"),
        format!("orlop up mounts it anew; to only take it away: umount -l {point}"),
    )
}

/// FUSE mounts of Orlop in a mountinfo table: where, and their source.
fn fuse_mounts(table: &str) -> impl Iterator<Item = (PathBuf, String)> + '_ {
    table.lines().filter_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut back = back.split(' ');
        let (kind, source) = (back.next()?, back.next()?);
        if !kind.starts_with("fuse") || !(kind.contains("orlop") || source.starts_with("orlop")) {
            return None;
        }
        Some((PathBuf::from(unescape(front.split(' ').nth(4)?)), unescape(source)))
    })
}

/// mountinfo writes blanks and the like as backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte as char);
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

/// Whether a mount answers; a hung one would hang whoever looks, so a thread looks.
fn alive(point: &Path) -> Result<(), String> {
    let (sender, receiver) = mpsc::channel();
    let path = point.to_owned();
    std::thread::spawn(move || {
        let _ = sender.send(std::fs::metadata(path).map(|_| ()).map_err(|e| e.to_string()));
    });
    receiver.recv_timeout(Duration::from_secs(3)).unwrap_or_else(|_| Err("it does not answer within 3 s".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use orlop_api::wire::{HostFacts, KeeperFacts, WorkerFacts};
    use orlop_control::ControlStatus;
    use orlop_model::Usage;

    #[test]
    fn kernels_are_judged_by_what_they_lack() {
        assert_eq!(kernel("5.4.0-1").level, Level::Problem);
        assert_eq!(kernel("6.1.0-18-amd64\n").level, Level::Note);
        assert_eq!(kernel("6.9.0").level, Level::Ok);
        assert_eq!(kernel("7.0-rc1").level, Level::Ok);
    }

    #[test]
    fn what_the_daemon_says_of_a_mount_is_not_said_again() {
        let worker = |name: &str, state: &str| WorkerFacts {
            volume: name.parse().expect("a name"),
            pid: 7,
            state: state.to_owned(),
            mountpoint: format!("/root/mnt/{name}"),
            binds: vec![format!("/srv/{name}")],
            in_use_elsewhere: false,
        };
        let workers = vec![worker("good", "serving"), worker("gone", "taking no changes: another host has it")];
        let host = HostFacts { keeper: Some(KeeperFacts { workers }), ..HostFacts::default() };
        let status = Status { host, usage: Usage::default(), control: ControlStatus::default() };
        assert_eq!(told_of(Some(&status)), [PathBuf::from("/root/mnt/gone"), PathBuf::from("/srv/gone")]);
        assert_eq!(told_of(None), Vec::<PathBuf>::new());
    }

    #[test]
    fn our_mounts_are_found_in_the_table() {
        let table = "36 35 98:0 / /mnt rw,noatime shared:1 - ext4 /dev/root rw\n\
                     40 35 0:50 / /var/lib/or\\040lop/mnt/x rw shared:2 - fuse.orlop orlop rw,user_id=0\n";
        let found: Vec<_> = fuse_mounts(table).collect();
        assert_eq!(found, [(PathBuf::from("/var/lib/or lop/mnt/x"), "orlop".to_owned())]);
        assert!(is_ours(Path::new("/var/lib/or lop"), &found[0].0, &found[0].1));
    }
}
