//! From inodes to paths: which files of the volume a finding hits. One more walk over the names, only if it is needed.

use super::Gathered;
use crate::fs::FileSystem;
use crate::key::Key;
use crate::row::Row;
use crate::types::{FileKind, Ino, ROOT_INO};
use crate::view::View;
use std::collections::{BTreeSet, HashMap};

/// Paths that one finding lists at most.
const PATHS: usize = 1000;

impl FileSystem {
    pub(super) async fn name_files(&self, view: &View, g: &mut Gathered) {
        let wanted: BTreeSet<Ino> = g.drafts.iter().flat_map(|d| d.inos.iter().copied()).collect();
        if wanted.is_empty() {
            return;
        }
        let names = names_of(view, &wanted).await;
        for d in &mut g.drafts {
            let mut paths: Vec<String> = d.inos.iter().flat_map(|ino| paths_of(*ino, &names)).collect();
            let more = paths.len().saturating_sub(PATHS);
            paths.truncate(PATHS);
            if more > 0 {
                paths.push(format!("... and {more} more"));
            }
            d.finding.paths = paths;
        }
    }
}

type Names = HashMap<Ino, Vec<(Ino, String)>>;

/// Names of the wanted inodes, and of all folders.
async fn names_of(view: &View, wanted: &BTreeSet<Ino>) -> Names {
    let mut names = Names::new();
    let mut from = Some(Key::Dirent(0, 0));
    while let Some(start) = from {
        // What cannot be read is a finding already; here it only costs a name.
        let Ok((rows, next)) = view.scan(start, Key::Chunk(0, 0), 1024).await else { break };
        for (key, row) in rows {
            if let (Key::Dirent(parent, _), Row::Dirent(d)) = (key, row)
                && (d.kind == FileKind::Directory || wanted.contains(&d.ino))
            {
                names.entry(d.ino).or_default().push((parent, String::from_utf8_lossy(&d.name).into_owned()));
            }
        }
        from = next;
    }
    names
}

/// Every path of an inode; of one that has none a word for it.
fn paths_of(ino: Ino, names: &Names) -> Vec<String> {
    if ino == ROOT_INO {
        return vec!["/".to_owned()];
    }
    let Some(own) = names.get(&ino) else { return vec![format!("(inode {ino}, without a name)")] };
    own.iter()
        .map(|(parent, name)| {
            let mut path = name.clone();
            let mut at = *parent;
            // A loop among damaged folders must end.
            for _ in 0..4096 {
                if at == ROOT_INO {
                    return format!("/{path}");
                }
                match names.get(&at).and_then(|n| n.first()) {
                    Some((above, name)) => {
                        path = format!("{name}/{path}");
                        at = *above;
                    }
                    None => return format!("(inode {at})/{path}"),
                }
            }
            format!(".../{path}")
        })
        .collect()
}
