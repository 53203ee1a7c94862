//! The kernel's mount tables: what is mounted where, in this namespace and in every other one, and which of a
//! volume's mounts are not ours.

use super::asking;
use crate::kernel::mount::FSTYPE;
use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Number of a mounted file system: the same in every namespace, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Device {
    /// Its major part.
    pub(crate) major: u32,
    /// Its minor part.
    pub(crate) minor: u32,
}

/// One line of a mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Its number, unique among living mounts.
    pub(crate) id: u64,
    /// Which file system.
    pub(crate) device: Device,
    /// The folder of the file system that it shows: its root, or the source of a bind.
    pub(crate) root: PathBuf,
    /// Where, seen from the root of the table's reader.
    pub(crate) point: PathBuf,
    /// Whether it is read-only.
    pub(crate) read_only: bool,
    /// The groups by which mounts and unmounts spread: its own, and the one it follows.
    pub(crate) peers: Vec<u32>,
    /// Type of the file system.
    pub(crate) fstype: String,
}

/// The mounts of one namespace, as one of its processes sees them.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// A process in it.
    pub(crate) pid: u32,
    /// What it sees, oldest first.
    pub(crate) mounts: Vec<Mount>,
}

// The table writes space, tab, newline and backslash as a backslash with three octal digits.
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let digits = bytes.get(i + 1..i + 4).filter(|d| bytes[i] == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        if let Some(d) = digits {
            out.push((d[0] - b'0').wrapping_mul(64) + (d[1] - b'0') * 8 + (d[2] - b'0'));
            i += 4;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

fn parse_line(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ');
    let id = fields.next()?.parse().ok()?;
    let _parent = fields.next()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    let read_only = fields.next()?.split(',').any(|o| o == "ro");
    let mut peers = Vec::new();
    for field in fields.by_ref() {
        if field == "-" {
            break;
        }
        if let Some(n) = field.strip_prefix("shared:").or_else(|| field.strip_prefix("master:")) {
            peers.push(n.parse().ok()?);
        }
    }
    let fstype = fields.next()?.to_owned();
    let device = Device { major: major.parse().ok()?, minor: minor.parse().ok()? };
    Some(Mount { id, device, root, point, read_only, peers, fstype })
}

/// Reads a table; lines of an unknown form are left out.
pub(crate) fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_line).collect()
}

fn read(pid: &str) -> io::Result<Vec<Mount>> {
    // Mount points may hold any bytes; those that are not UTF-8 are none of ours.
    Ok(parse(&String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/mountinfo"))?)))
}

/// What is mounted in this process's namespace.
pub(crate) fn own() -> io::Result<Vec<Mount>> {
    read("self")
}

/// The mount table of a process.
pub(crate) fn of(pid: u32) -> io::Result<Vec<Mount>> {
    read(&pid.to_string())
}

/// Numbers of the living processes.
pub(crate) fn processes() -> Vec<u32> {
    let Ok(dir) = std::fs::read_dir("/proc") else { return Vec::new() };
    dir.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Every mount namespace that a living process is in, but this one. An error if the kernel does not tell.
pub(crate) fn others() -> io::Result<Vec<Namespace>> {
    asking::ask(look_for_others).ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "the kernel does not tell what some process uses"))
}

fn look_for_others() -> Vec<Namespace> {
    let name = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let mut seen: HashSet<PathBuf> = name("self").into_iter().collect();
    let mut all = Vec::new();
    for pid in processes() {
        let Some(ns) = name(&pid.to_string()) else { continue };
        if seen.contains(&ns) {
            continue;
        }
        // A process that is just ending has no table any more; the next one of its namespace will do.
        if let Ok(mounts) = of(pid).map_err(drop)
            && !mounts.is_empty()
        {
            seen.insert(ns);
            all.push(Namespace { pid, mounts });
        }
    }
    all
}

/// The mount that a path shows: the last one on it.
pub(crate) fn topmost<'a>(mounts: &'a [Mount], point: &Path) -> Option<&'a Mount> {
    mounts.iter().rfind(|m| m.point == point)
}

/// The mount that a path lies in.
pub(crate) fn containing<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts
        .iter()
        .enumerate()
        .filter(|(_, m)| path.starts_with(&m.point))
        .max_by_key(|(i, m)| (m.point.components().count(), *i))
        .map(|(_, m)| m)
}

/// Orlop's mounts.
pub(crate) fn orlops(mounts: &[Mount]) -> impl Iterator<Item = &Mount> {
    mounts.iter().filter(|m| m.fstype == FSTYPE)
}

/// Where a file system is mounted beyond `ours`, in words. Copies that other namespaces got of our own mounts by
/// propagation, and that go away with them, do not count.
pub(crate) fn elsewhere(device: Device, ours: &[PathBuf], own: &[Mount], others: &[Namespace]) -> Vec<String> {
    let mut found = Vec::new();
    let mut groups: HashSet<u32> = HashSet::new();
    for m in own.iter().filter(|m| m.device == device) {
        if ours.contains(&m.point) {
            groups.extend(&m.peers);
        } else {
            found.push(format!("mounted on {}", m.point.display()));
        }
    }
    for ns in others {
        for m in ns.mounts.iter().filter(|m| m.device == device) {
            let copy = ours.contains(&m.point) && m.peers.iter().any(|p| groups.contains(p));
            if !copy {
                found.push(format!("mounted on {} in the namespace of process {}", m.point.display(), super::holders::describe(ns.pid)));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
91 27 0:44 / /var/lib/orlop/mnt/a rw,relatime shared:7 - fuse.orlop orlop:a rw,user_id=0\n\
92 27 0:44 / /srv/my\\040data ro,relatime shared:7 - fuse.orlop orlop:a rw,user_id=0\n\
93 27 0:45 / /odd rw,relatime master:3 propagate_from:2 - tmpfs x rw\n";

    #[test]
    fn tables_are_read_with_their_escapes() {
        let m = parse(TABLE);
        assert_eq!(m.len(), 4);
        assert_eq!(m[2].point, PathBuf::from("/srv/my data"));
        assert!(m[2].read_only);
        assert_eq!(m[1].device, Device { major: 0, minor: 44 });
        assert_eq!(m[3].peers, vec![3]);
        assert_eq!(containing(&m, Path::new("/srv/my data/x")).map(|m| m.id), Some(92));
        assert_eq!(containing(&m, Path::new("/srv/my")).map(|m| m.id), Some(27));
    }

    #[test]
    fn copies_by_propagation_are_no_use_but_private_ones_are() {
        let own = parse(TABLE);
        let device = Device { major: 0, minor: 44 };
        let ours = [PathBuf::from("/var/lib/orlop/mnt/a")];
        assert_eq!(elsewhere(device, &ours, &own, &[]).len(), 1);
        let ours = [ours[0].clone(), PathBuf::from("/srv/my data")];
        assert!(elsewhere(device, &ours, &own, &[]).is_empty());
        let copy = "291 27 0:44 / /var/lib/orlop/mnt/a rw master:7 - fuse.orlop orlop:a rw\n";
        let private = "291 27 0:44 / /data rw - fuse.orlop orlop:a rw\n";
        let ns = |text| [Namespace { pid: 1, mounts: parse(text) }];
        assert!(elsewhere(device, &ours, &own, &ns(copy)).is_empty());
        assert_eq!(elsewhere(device, &ours, &own, &ns(private)).len(), 1);
        assert!(elsewhere(device, &ours, &own, &ns(private))[0].contains("/data"));
    }
}
