//! `orlop ls`

use crate::args::Context;
use crate::ui::Table;
use orlop_api::wire::{EntryKind, FileEntry};
use orlop_model::{Error, Result, VolumeRef};

/// Lists a folder of a volume, mounted or not.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The volume and the path in it.
    #[arg(value_name = "VOLUME[:/PATH]")]
    place: String,
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

/// Splits `VOLUME:/path`; without a path the volume's root folder is meant.
pub(crate) fn place(text: &str) -> Result<(VolumeRef, String)> {
    let (volume, path) = text.split_once(':').unwrap_or((text, "/"));
    let volume = volume.parse().map_err(|e: Error| e.during(format_args!("{text:?} does not start with a volume")))?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok((volume, path))
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
        for (text, path) in [("db", "/"), ("db:", "/"), ("db:/etc/x:y", "/etc/x:y"), ("db:etc", "/etc")] {
            let (volume, got) = place(text).expect(text);
            assert_eq!((volume.to_string().as_str(), got.as_str()), ("db", path));
        }
        assert!(place(":/x").expect_err("no volume").remedy.is_some());
        assert!(place("/x").is_err());
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
