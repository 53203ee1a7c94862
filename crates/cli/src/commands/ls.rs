//! `orlop ls`

use crate::args::Context;
use crate::ui::Table;
use orlop_api::wire::{EntryKind, FileEntry};
use orlop_model::{Result, VolumeRef};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Lists a folder of a volume, mounted or not.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The volume and the path in it.
    #[arg(value_name = "VOLUME[:/PATH]")]
    place: OsString,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let (volume, path) = place(&args.place)?;
    let listing = cx.client.list(&volume, &path).await?;
    cx.ui.show(&listing.entries, || {
        let mut table = Table::bare();
        for e in &listing.entries {
            table.row([
                mode(e),
                e.links.to_string(),
                e.uid.to_string(),
                e.gid.to_string(),
                format!("{:>10}", e.size),
                crate::ui::moment(e.modified).trim_end_matches(" UTC").to_owned(),
                match &e.target {
                    Some(target) => format!("{} -> {target}", e.name),
                    None => e.name.clone(),
                },
            ]);
        }
        table.text()
    })?;
    Ok(0)
}

/// Splits `VOLUME:/path`; without a path the volume's root folder is meant. A path may have any bytes in it.
pub(crate) fn place(given: &OsStr) -> Result<(VolumeRef, PathBuf)> {
    let bytes = given.as_bytes();
    let (volume, path) = match bytes.iter().position(|b| *b == b':') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &b"/"[..]),
    };
    let volume = String::from_utf8_lossy(volume).parse::<VolumeRef>();
    let volume = volume.map_err(|e| e.during(format_args!("{given:?} does not start with a volume")))?;
    let mut absolute = if path.starts_with(b"/") { Vec::new() } else { b"/".to_vec() };
    absolute.extend_from_slice(path);
    Ok((volume, OsString::from_vec(absolute).into()))
}

/// Kind and permission bits as `ls -l` writes them.
fn mode(e: &FileEntry) -> String {
    let mut text = String::with_capacity(10);
    text.push(match e.kind {
        EntryKind::File => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::Fifo => 'p',
        EntryKind::Socket => 's',
        EntryKind::Char => 'c',
        EntryKind::Block => 'b',
    });
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let bits = e.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (e.mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_name_a_volume_and_a_path() {
        let place = |bytes| place(OsStr::from_bytes(bytes));
        for (given, path) in
            [(&b"db"[..], &b"/"[..]), (b"db:", b"/"), (b"db:/etc/x:y", b"/etc/x:y"), (b"db:etc", b"/etc"), (b"db:/\xff", b"/\xff")]
        {
            let (volume, got) = place(given).expect("a place");
            assert_eq!((volume.to_string().as_str(), got.as_os_str().as_bytes()), ("db", path));
        }
        assert!(place(b":/x").expect_err("no volume").remedy.is_some());
        assert!(place(b"/x").is_err() && place(b"\xff:/x").is_err());
    }

    #[test]
    fn modes_are_written_as_ls_does() {
        let entry = |kind, mode| FileEntry {
            name: String::new(),
            kind,
            mode,
            links: 1,
            uid: 0,
            gid: 0,
            size: 0,
            modified: time::OffsetDateTime::UNIX_EPOCH,
            target: None,
        };
        assert_eq!(mode(&entry(EntryKind::Directory, 0o1777)), "drwxrwxrwt");
        assert_eq!(mode(&entry(EntryKind::File, 0o4640)), "-rwSr-----");
    }
}
