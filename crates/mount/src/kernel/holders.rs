//! Which processes use a mounted file system, as far as /proc tells, so that "busy" can name somebody. Looks only
//! at /proc and never into the file system itself, which may not answer.

use super::asking;
use super::table::{self, Device};
use std::collections::HashSet;
use std::path::PathBuf;

/// The most processes that are named.
const MOST: usize = 5;

/// A process with its name.
pub(crate) fn describe(pid: u32) -> String {
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("{pid} ({})", name.trim_end()),
        Err(_) => pid.to_string(),
    }
}

fn has_open_file(pid: u32, ids: &HashSet<u64>) -> bool {
    let Ok(dir) = std::fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
    dir.flatten().any(|entry| {
        let Ok(text) = std::fs::read_to_string(entry.path()) else { return false };
        let id = text.lines().find_map(|l| l.strip_prefix("mnt_id:")?.trim().parse().ok());
        id.is_some_and(|id: u64| ids.contains(&id))
    })
}

fn works_in(pid: u32, points: &[PathBuf]) -> bool {
    ["cwd", "root"]
        .iter()
        .any(|link| std::fs::read_link(format!("/proc/{pid}/{link}")).is_ok_and(|path| points.iter().any(|p| path.starts_with(p))))
}

fn maps_file(pid: u32, device: Device) -> bool {
    let wanted = format!("{:02x}:{:02x}", device.major, device.minor);
    let Ok(text) = std::fs::read(format!("/proc/{pid}/maps")) else { return false };
    String::from_utf8_lossy(&text).lines().any(|l| l.split_ascii_whitespace().nth(3) == Some(wanted.as_str()))
}

/// Processes that have files of this file system open or mapped, or stand in one of its folders, in words. None if the kernel
/// does not tell.
pub(crate) fn of(device: Device) -> Vec<String> {
    asking::ask(move || look_for(device)).unwrap_or_default()
}

fn look_for(device: Device) -> Vec<String> {
    let mut found = Vec::new();
    let mut more = 0usize;
    for pid in table::processes() {
        let Ok(mounts) = table::of(pid) else { continue };
        let here: Vec<_> = mounts.iter().filter(|m| m.device == device).collect();
        if here.is_empty() {
            continue;
        }
        let ids = here.iter().map(|m| m.id).collect();
        let points: Vec<PathBuf> = here.iter().map(|m| m.point.clone()).collect();
        let how = if has_open_file(pid, &ids) {
            "has a file open"
        } else if works_in(pid, &points) {
            "works in a folder"
        } else if maps_file(pid, device) {
            "has a file mapped"
        } else {
            continue;
        };
        if found.len() < MOST {
            found.push(format!("process {} {how}", describe(pid)));
        } else {
            more += 1;
        }
    }
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    found
}
