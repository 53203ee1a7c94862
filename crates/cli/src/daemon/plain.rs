//! Plain volumes on this host: folders below the folder of their store, made or adopted, moved to a trash beside them.
//!
//! Two notes below the root make it safe to be killed anywhere: `plain/<id>.made` holds the inode of the folder that
//! Orlop made, so that no other is ever moved or deleted; `plain/<id>.json` holds the plan and the binds while the
//! volume is attached. Neither counts for a folder that merely has the same name.

use orlop_control::{AttachedVolume, BoundDirectory, Formatted, Mounted};
use orlop_model::{Error, ErrorKind, MountPlan, Result, VolumeId};
use orlop_mount::{Bound, plain};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind as Io, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder beside the volumes where removed ones wait. No volume can have this name.
const TRASH: &str = ".orlop-trash";

/// The plain volumes of one root.
#[derive(Clone)]
pub(crate) struct Plain {
    notes: PathBuf,
    /// Binds and notes change together.
    turn: Arc<std::sync::Mutex<()>>,
}

#[derive(Serialize, Deserialize)]
struct Note {
    /// The boot in which it was attached: binds do not outlive it.
    boot: String,
    plan: MountPlan,
    binds: Vec<Bound>,
}

impl Plain {
    pub(crate) fn new(root: &Path) -> Plain {
        Plain { notes: root.join("plain"), turn: Arc::default() }
    }

    /// Runs what may wait for a disk, or for a server behind a folder.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Plain) -> Result<T> + Send + 'static) -> Result<T> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || work(&this)).await.map_err(|e| Error::internal(format!("work on a folder died: {e}")))?
    }

    fn made(&self, volume: VolumeId) -> PathBuf {
        self.notes.join(format!("{volume}.made"))
    }

    fn note(&self, volume: VolumeId) -> PathBuf {
        self.notes.join(format!("{volume}.json"))
    }

    /// Whether the folder at the plan's place is the one that was made for this volume.
    fn is_ours(&self, plan: &MountPlan) -> bool {
        let noted = fs::read_to_string(self.made(plan.volume)).ok().and_then(|t| t.trim().parse::<u64>().ok());
        noted.is_some() && fs::symlink_metadata(&plan.mountpoint).ok().map(|m| m.ino()) == noted
    }

    /// Makes the folder, or adopts the one that is there.
    pub(crate) fn format(&self, plan: &MountPlan) -> Result<Formatted> {
        let folder = Path::new(&plan.mountpoint);
        if self.is_ours(plan) {
            return Ok(Formatted::Fresh);
        }
        check_store(store_folder(plan)?)?;
        match fs::symlink_metadata(folder) {
            Ok(m) if m.is_dir() => return Ok(Formatted::Adopted),
            Ok(_) => {
                return Err(Error::new(ErrorKind::AlreadyExists, format!("{} is in the way: it is not a folder", folder.display()))
                    .with_remedy("move it away, or choose another name"));
            }
            Err(e) if e.kind() == Io::NotFound => {}
            Err(e) => return Err(Error::io(format_args!("looking at {}", folder.display()), &e)),
        }
        let fresh = trash_place(plan)?;
        self.build(plan, &fresh).map_err(|e| Error::io(format_args!("making {}", folder.display()), &e))?;
        match rename_new(&fresh, folder) {
            Ok(()) => {
                sync_folder(folder.parent());
                Ok(Formatted::Fresh)
            }
            Err(e) if e.kind() == Io::AlreadyExists => {
                // Somebody was faster: theirs is adopted.
                let _ = fs::remove_dir(&fresh);
                remove_file(&self.made(plan.volume))?;
                self.format(plan)
            }
            Err(e) => Err(Error::io(format_args!("making {}", folder.display()), &e)),
        }
    }

    /// Made aside and noted before it is seen, so that it is known for ours whatever happens.
    fn build(&self, plan: &MountPlan, fresh: &Path) -> std::io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(fresh)?;
        std::os::unix::fs::chown(fresh, Some(plan.options.uid.unwrap_or(0)), Some(plan.options.gid.unwrap_or(0)))?;
        fs::set_permissions(fresh, fs::Permissions::from_mode(plan.options.mode.unwrap_or(0o755)))?;
        let inode = fs::symlink_metadata(fresh)?.ino();
        self.write(&self.made(plan.volume), inode.to_string().as_bytes())
    }

    /// Deletes what is in the trash, and the made folder if nothing was ever put into it.
    pub(crate) fn destroy(&self, plan: &MountPlan) -> Result<()> {
        if self.is_ours(plan) {
            match fs::remove_dir(&plan.mountpoint) {
                // With something in it, it is left to whoever put that there.
                Err(e) if !matches!(e.kind(), Io::NotFound | Io::DirectoryNotEmpty) => {
                    return Err(Error::io(format_args!("removing {}", plan.mountpoint), &e));
                }
                _ => {}
            }
        }
        let trash = trash_place(plan)?;
        match fs::remove_dir_all(&trash) {
            Err(e) if e.kind() != Io::NotFound => return Err(Error::io(format_args!("deleting {}", trash.display()), &e)),
            _ => {}
        }
        // Gone with the last one.
        let _ = trash.parent().map(fs::remove_dir);
        remove_file(&self.note(plan.volume))?;
        remove_file(&self.made(plan.volume))
    }

    /// Moves the made folder to the trash.
    pub(crate) fn discard(&self, plan: &MountPlan) -> Result<()> {
        let trash = trash_place(plan)?;
        if !self.is_ours(plan) || fs::symlink_metadata(&trash).is_ok() {
            return Ok(());
        }
        let place = trash.parent().unwrap_or(&trash);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(place)
            .map_err(|e| Error::io(format_args!("making {}", place.display()), &e))?;
        move_folder(Path::new(&plan.mountpoint), &trash)
    }

    /// Takes the folder back from the trash.
    pub(crate) fn recover(&self, plan: &MountPlan) -> Result<()> {
        let trash = trash_place(plan)?;
        if fs::symlink_metadata(&trash).is_err_and(|e| e.kind() == Io::NotFound) {
            return Ok(());
        }
        move_folder(&trash, Path::new(&plan.mountpoint))
    }

    /// Notes that the volume is attached. There is nothing to mount.
    pub(crate) fn attach(&self, plan: &MountPlan) -> Result<Mounted> {
        let _turn = self.turn.lock().expect("no code panics while it holds this lock");
        let folder = &plan.mountpoint;
        let there = fs::metadata(folder).map_err(|e| match e.kind() {
            Io::NotFound => Error::not_found(format!("the folder {folder} of volume {} is not there", plan.name))
                .with_remedy("bring it back, or mount the file system that it is on"),
            _ => Error::io(format_args!("looking at {folder}"), &e),
        })?;
        if !there.is_dir() {
            return Err(Error::invalid(format!("{folder} is not a folder any more")).with_remedy("bring the folder back"));
        }
        if self.read(plan.volume)?.is_none() {
            self.save(&Note { boot: this_boot()?, plan: plan.clone(), binds: Vec::new() })?;
        }
        Ok(Mounted { mountpoint: folder.clone(), worker_pid: 0 })
    }

    /// Whether a volume is a plain one that is attached now.
    pub(crate) fn has(&self, volume: VolumeId) -> bool {
        self.note(volume).exists()
    }

    pub(crate) fn detach(&self, volume: VolumeId, force: bool) -> Result<()> {
        let _turn = self.turn.lock().expect("no code panics while it holds this lock");
        if let Some(note) = self.read(volume)? {
            let folder = Path::new(&note.plan.mountpoint);
            for bound in plain::existing(folder, &note.binds)? {
                if !force {
                    return Err(Error::new(ErrorKind::Busy, format!("volume {} is mounted on {}", note.plan.name, bound.dir))
                        .with_remedy(format!("orlop unmount {}", bound.dir)));
                }
                plain::unbind(folder, &bound.dir, true)?;
            }
        }
        remove_file(&self.note(volume))
    }

    pub(crate) fn bind(&self, volume: VolumeId, dir: &str, read_only: bool) -> Result<()> {
        let _turn = self.turn.lock().expect("no code panics while it holds this lock");
        let mut note = self.read(volume)?.ok_or_else(|| Error::not_found(format!("volume {volume} is not attached")))?;
        let bound = plain::bind(Path::new(&note.plan.mountpoint), dir, read_only)?;
        note.binds.retain(|b| b.dir != bound.dir);
        note.binds.push(bound);
        self.save(&note)
    }

    /// Undoes a bind of a plain volume. Gives whether the folder was one.
    pub(crate) fn unbind(&self, dir: &str) -> Result<bool> {
        let _turn = self.turn.lock().expect("no code panics while it holds this lock");
        for mut note in self.notes()? {
            if note.binds.iter().any(|b| b.dir == dir) {
                plain::unbind(Path::new(&note.plan.mountpoint), dir, false)?;
                note.binds.retain(|b| b.dir != dir);
                self.save(&note)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The plain volumes that are attached now.
    pub(crate) fn attached(&self) -> Result<Vec<AttachedVolume>> {
        let seen = |note: Note| {
            let folder = PathBuf::from(&note.plan.mountpoint);
            let binds = plain::existing(&folder, &note.binds)?;
            Ok(AttachedVolume {
                in_use_elsewhere: plain::used_elsewhere(&folder, &binds),
                worker_pid: 0,
                serving: true,
                binds: binds.into_iter().map(|b| BoundDirectory { path: b.dir, read_only: b.read_only }).collect(),
                plan: note.plan,
            })
        };
        self.notes()?.into_iter().map(seen).collect()
    }

    /// The note of a volume that is attached in this boot.
    fn read(&self, volume: VolumeId) -> Result<Option<Note>> {
        let path = self.note(volume);
        let note: Note = match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(note) => note,
                // Written whole or not at all; whatever else it is, the volume counts as not attached.
                Err(e) => {
                    tracing::warn!("{} cannot be read and is left aside: {e}", path.display());
                    return Ok(None);
                }
            },
            Err(e) if e.kind() == Io::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(format_args!("reading {}", path.display()), &e)),
        };
        Ok((note.boot == this_boot()?).then_some(note))
    }

    fn notes(&self) -> Result<Vec<Note>> {
        let folder = match fs::read_dir(&self.notes) {
            Err(e) if e.kind() == Io::NotFound => return Ok(Vec::new()),
            other => other.map_err(|e| Error::io(format_args!("reading {}", self.notes.display()), &e))?,
        };
        let ids = folder.filter_map(|e| e.ok()?.file_name().to_str()?.strip_suffix(".json")?.parse::<VolumeId>().ok());
        ids.filter_map(|id| self.read(id).transpose()).collect()
    }

    fn save(&self, note: &Note) -> Result<()> {
        let bytes = serde_json::to_vec(note).map_err(|e| Error::internal(format!("a note cannot be written: {e}")))?;
        let path = self.note(note.plan.volume);
        self.write(&path, &bytes).map_err(|e| Error::io(format_args!("writing {}", path.display()), &e))
    }

    /// Whole or not at all, and durable.
    fn write(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.notes)?;
        let aside = path.with_extension("new");
        let mut file = File::create(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        sync_folder(path.parent());
        Ok(())
    }
}

/// Whether a store's folder can hold plain volumes, tried out.
pub(crate) fn examine(folder: &Path) -> Result<()> {
    check_store(folder)?;
    let trial = folder.join(format!("{TRASH}-{}", std::process::id()));
    let tried = fs::create_dir(&trial).and_then(|()| fs::remove_dir(&trial));
    tried.map_err(|e| {
        let e = Error::io(format_args!("making a folder in {}", folder.display()), &e);
        e.with_remedy("give a folder of a file system that can be written to")
    })
}

fn check_store(folder: &Path) -> Result<()> {
    let shown = folder.display();
    let there = fs::metadata(folder).map_err(|e| match e.kind() {
        Io::NotFound => Error::not_found(format!("the folder {shown} does not exist"))
            .with_remedy(format!("mount the file system that it is on, or make it: mkdir -p {shown}")),
        _ => Error::io(format_args!("looking at {shown}"), &e),
    })?;
    if there.is_dir() {
        return Ok(());
    }
    Err(Error::invalid(format!("{shown} is not a folder")).with_remedy("give an existing folder"))
}

/// The folder that holds this volume's folder; refuses a plan whose folder is not named like its volume.
fn store_folder(plan: &MountPlan) -> Result<&Path> {
    let folder = Path::new(&plan.mountpoint);
    match folder.parent() {
        Some(parent) if plan.store.is_plain() && folder.is_absolute() && folder.file_name().is_some_and(|n| n != TRASH) => Ok(parent),
        _ => Err(Error::internal(format!("the plan of volume {} names no folder of its own", plan.name))),
    }
}

/// Where this volume's folder waits while it is removed.
fn trash_place(plan: &MountPlan) -> Result<PathBuf> {
    Ok(store_folder(plan)?.join(TRASH).join(plan.volume.to_string()))
}

fn move_folder(from: &Path, to: &Path) -> Result<()> {
    rename_new(from, to).map_err(|e| match e.kind() {
        Io::AlreadyExists | Io::DirectoryNotEmpty => {
            Error::new(ErrorKind::AlreadyExists, format!("{} is in the way", to.display())).with_remedy("move it away")
        }
        Io::ResourceBusy => Error::new(ErrorKind::Busy, format!("{} is in use: something is mounted on it", from.display()))
            .with_remedy("unmount that first"),
        _ => Error::io(format_args!("moving {} to {}", from.display(), to.display()), &e),
    })?;
    sync_folder(to.parent());
    sync_folder(from.parent());
    Ok(())
}

/// A rename that never takes the place of anything.
fn rename_new(from: &Path, to: &Path) -> std::io::Result<()> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        // Some network file systems cannot say so; there the look before has to do.
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOSYS) if fs::symlink_metadata(to).is_err() => fs::rename(from, to),
        done => done.map_err(Into::into),
    }
}

/// Best effort: where a folder cannot be synced, the file system does what it can.
fn sync_folder(folder: Option<&Path>) {
    if let Some(Ok(folder)) = folder.map(File::open) {
        let _ = folder.sync_all();
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != Io::NotFound => Err(Error::io(format_args!("removing {}", path.display()), &e)),
        _ => Ok(()),
    }
}

fn this_boot() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(path).map(|t| t.trim().to_owned()).map_err(|e| Error::io(format_args!("reading {path}"), &e))
}
