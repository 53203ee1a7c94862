//! What no name leads to any more, of a volume whose names are damaged: it comes out in a folder of its own, by the numbers of its inodes.

use super::read::Walk;
use orlop_chunkfs::{Attr, FileKind, FsError, Ino, ROOT_INO, rescue};
use orlop_model::Result;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The folder, as in file systems that are repaired.
const FOLDER: &str = "lost+found";

impl<F: FnMut(&str, u64)> Walk<'_, F> {
    /// Gives all to the sink that has not come out: folders with what is in them.
    pub(super) async fn strays(&mut self) -> Result<()> {
        let (folders, others) = match self.unseen().await {
            Ok(unseen) => unseen,
            Err(e) => {
                self.damaged(Path::new(FOLDER), &e);
                return Ok(());
            }
        };
        if folders.is_empty() && others.is_empty() {
            return Ok(());
        }
        let below = self.free_name().await;
        let attr = self.fs.getattr(ROOT_INO).await.unwrap_or(Attr::BLANK);
        self.sink.folder(&below, &Attr { kind: FileKind::Directory, perm: 0o700, ..attr }, &Vec::new())?;
        // First those that lie in no other of them, so that the others come out in their places.
        let among: HashSet<Ino> = folders.iter().copied().collect();
        let mut inner = Vec::new();
        let mut found: u64 = 0;
        for ino in folders {
            if self.fs.parent_of(ino).await.is_ok_and(|above| above != ino && among.contains(&above)) {
                inner.push(ino);
            } else {
                found += self.stray_folder(&below, ino).await?;
            }
        }
        for ino in inner {
            found += self.stray_folder(&below, ino).await?;
        }
        for (ino, kind) in others {
            if self.has_come_out(ino) {
                continue;
            }
            let path = named(&below, ino);
            found += 1;
            self.one(&path, ino, kind).await?;
        }
        self.report.notes.push(format!("{found} folders and files to which no name leads any more came out below {}", below.display()));
        Ok(())
    }

    /// Tells how many came out: one, or none if it has before.
    async fn stray_folder(&mut self, below: &Path, ino: Ino) -> Result<u64> {
        if self.has_come_out(ino) {
            return Ok(0);
        }
        self.tree(named(below, ino), ino).await?;
        Ok(1)
    }

    fn has_come_out(&self, ino: Ino) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.contains(&ino))
    }

    /// Folders, and all else with its kind, that have not come out.
    async fn unseen(&self) -> std::result::Result<(Vec<Ino>, Vec<(Ino, FileKind)>), FsError> {
        let (mut folders, mut others) = (Vec::new(), Vec::new());
        let mut next = Some(0);
        while let Some(from) = next {
            let (some, more) = rescue::inodes(self.fs, from).await?;
            for attr in some.into_iter().filter(|attr| !self.has_come_out(attr.ino)) {
                match attr.kind {
                    FileKind::Directory => folders.push(attr.ino),
                    kind => others.push((attr.ino, kind)),
                }
            }
            next = more;
        }
        Ok((folders, others))
    }

    /// A name that nothing in the volume's root has.
    async fn free_name(&self) -> PathBuf {
        let mut name = FOLDER.to_owned();
        for n in 1..1000 {
            match self.fs.lookup(ROOT_INO, name.as_bytes()).await {
                Err(FsError::NotFound) => break,
                _ => name = format!("{FOLDER}-{n}"),
            }
        }
        name.into()
    }
}

fn named(below: &Path, ino: Ino) -> PathBuf {
    below.join(format!("inode-{ino}"))
}
