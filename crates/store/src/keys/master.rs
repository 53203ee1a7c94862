//! Master keys: files of this host, one current, older ones only while a rotation is under way.
//!
//! `master.key` is the current one; `next.key` one that is about to be; `old-<id>.key` one that some ring may still need; `other-<id>.key` one of another host.
//! No file is ever overwritten with other contents but `master.key`, by a rename, and only after its key stands as an
//! old one beside it: killed at any moment, every key that a ring may name is there.

use super::secret::{KEY_BYTES, KeyId, Secret, hex, unhex};
use orlop_model::{Error, ErrorKind, Result};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const CURRENT: &str = "master.key";
const NEXT: &str = "next.key";
/// How the files of keys begin that a rotation leaves behind, and of keys of other hosts, put there by a person.
const OLD: &str = "old-";
const OTHER: &str = "other-";
const EXPORTED: &str = "exported";
const FIRST_LINE: &str = "orlop-master-key 1";
/// A file of keys is short; anything longer is not one.
const LONGEST: u64 = 64 << 10;

/// One master key.
#[derive(Debug)]
pub struct MasterKey {
    id: KeyId,
    pub(super) secret: Secret,
}

impl MasterKey {
    fn random() -> MasterKey {
        MasterKey { id: KeyId::random(), secret: Secret::random() }
    }

    /// Its name.
    pub fn id(&self) -> KeyId {
        self.id
    }

    fn check(&self) -> String {
        let text = [&self.id.0[..], &self.secret.expose()[..]].concat();
        let text = Zeroizing::new(text);
        hex(&aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text).as_ref()[..4])
    }

    /// As it stands in a file.
    fn text(&self) -> Zeroizing<String> {
        let key = Zeroizing::new(hex(self.secret.expose()));
        Zeroizing::new(format!("{FIRST_LINE}\nid {}\nkey {}\ncheck {}\n", self.id, *key, self.check()))
    }

    /// All keys of a text. Errors name the line, and nothing that stands in it.
    fn parse(text: &str) -> Result<Vec<MasterKey>, String> {
        let mut keys = Vec::new();
        let mut lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'));
        while let Some((at, first)) = lines.next() {
            if first.trim() != FIRST_LINE {
                return Err(format!("line {} is not \"{FIRST_LINE}\"", at + 1));
            }
            let mut field = |name: &str| {
                let (at, line) = lines.next().ok_or_else(|| format!("it ends before its line \"{name}\""))?;
                let value = line.strip_prefix(name).and_then(|l| l.strip_prefix(' '));
                value.map(|v| (at + 1, v.trim())).ok_or_else(|| format!("line {} does not begin with \"{name}\"", at + 1))
            };
            let (at, id) = field("id")?;
            let id = KeyId(unhex(id).ok_or_else(|| format!("line {at} has not 16 hexadecimal digits"))?);
            let (at, key) = field("key")?;
            let key = unhex::<KEY_BYTES>(key).map(Zeroizing::new).ok_or_else(|| format!("line {at} has not 64 hexadecimal digits"))?;
            let (at, check) = field("check")?;
            let key = MasterKey { id, secret: Secret::from_bytes(key) };
            if key.check() != check {
                return Err(format!("the check in line {at} does not fit: a digit above it is wrong"));
            }
            keys.push(key);
        }
        if keys.is_empty() { Err("it holds no key".to_owned()) } else { Ok(keys) }
    }
}

/// How a rotation began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// With a new key.
    Started,
    /// An earlier one was not finished, and goes on.
    Resumed,
}

/// The master keys at hand.
#[derive(Debug)]
pub struct MasterKeys {
    /// Where they are, for messages.
    place: PathBuf,
    current: MasterKey,
    others: Vec<MasterKey>,
    /// Whether one of the others is left of a rotation that is not finished.
    left: bool,
}

impl MasterKeys {
    /// Makes the folder and its key if there is none. True: a key was made just now.
    pub fn ensure(dir: &Path) -> Result<bool> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| Error::io(format_args!("making {}", dir.display()), &e))?;
        let current = dir.join(CURRENT);
        if current.exists() {
            return MasterKeys::load(dir).map(|_| false);
        }
        let made = write_new(&current, &MasterKey::random().text())?;
        MasterKeys::load(dir).map(|_| made)
    }

    /// A key that is always the same and in no folder, for the fuzz targets.
    pub(crate) fn fixed() -> MasterKeys {
        let current = MasterKey { id: KeyId([4; 8]), secret: Secret::from_bytes(Zeroizing::new([5; KEY_BYTES])) };
        MasterKeys { place: PathBuf::new(), current, others: Vec::new(), left: false }
    }

    /// The current one's file, for the fuzz targets.
    pub(crate) fn file(&self) -> String {
        self.current.text().to_string()
    }

    /// Whether a text is read as keys, for the fuzz targets.
    pub(crate) fn reads(text: &str) -> bool {
        MasterKey::parse(text).is_ok()
    }

    /// The keys of a folder.
    pub fn load(dir: &Path) -> Result<MasterKeys> {
        let path = dir.join(CURRENT);
        let current = match read(&path) {
            Err(e) if e.kind == ErrorKind::NotFound => {
                return Err(Error::not_found(format!("there is no master key {}", path.display())).with_remedy(
                    "put a backup of it there, mode 0600; orlop up makes one where no volume is encrypted under another: if that is lost, and \
                     no other host has it, delete what cannot be read any more with orlop volume remove --now",
                ));
            }
            other => one(&path, other?)?,
        };
        let mut keys = MasterKeys { place: dir.to_owned(), current, others: Vec::new(), left: false };
        for (begins, is_left) in [(OLD, true), (OTHER, false)] {
            for path in key_files(dir, begins)? {
                let key = one(&path, read(&path)?)?;
                keys.left |= is_left && key.id != keys.current.id;
                if keys.all().all(|k| k.id != key.id) {
                    keys.others.push(key);
                }
            }
        }
        Ok(keys)
    }

    /// The keys of one file, such as `orlop key export` writes. The first is the current one.
    pub fn from_file(path: &Path) -> Result<MasterKeys> {
        let mut keys = read(path)?.into_iter();
        let current = keys.next().expect("a file without keys was refused");
        Ok(MasterKeys { place: path.to_owned(), current, others: keys.collect(), left: false })
    }

    /// The one that wraps from now on.
    pub fn current(&self) -> &MasterKey {
        &self.current
    }

    /// All of them, the current one first.
    pub fn all(&self) -> impl Iterator<Item = &MasterKey> {
        std::iter::once(&self.current).chain(&self.others)
    }

    /// The one of this name; the error says where it was looked for and what to do.
    pub fn get(&self, id: KeyId, volume: &str) -> Result<&MasterKey> {
        self.all().find(|key| key.id == id).ok_or_else(|| {
            let remedy = if self.place.is_dir() {
                format!("put the backup of that key there as {} (mode 0600)", self.place.join(format!("{OTHER}{id}.key")).display())
            } else {
                "give the file that holds that key".to_owned()
            };
            Error::new(ErrorKind::Denied, format!("{volume} is sealed under master key {id}, which is not in {}", self.place.display()))
                .with_remedy(remedy)
        })
    }

    /// All keys as text, for a backup.
    pub fn export(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::from(
            "# Master keys of Orlop. Whoever has this and the stores can read all sealed volumes;\n\
             # without it nobody can. Keep it away from the host and from the stores.\n",
        ));
        for key in self.all() {
            text.push_str(&key.text());
        }
        text
    }

    /// Writes a backup, for its owner only. A file that exists is left as it is.
    pub fn export_to(&self, path: &Path) -> Result<()> {
        if write_new(path, &self.export())? {
            return Ok(());
        }
        Err(Error::new(ErrorKind::AlreadyExists, format!("{} exists", path.display())).with_remedy("give the name of a new file"))
    }

    /// Remembers that a backup of the current key was made.
    pub fn note_export(&self, dir: &Path) -> Result<()> {
        let path = dir.join(EXPORTED);
        let mut file = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| Error::io(format_args!("writing {}", path.display()), &e))?;
        writeln!(file, "{}", self.current.id).map_err(|e| Error::io(format_args!("writing {}", path.display()), &e))
    }

    /// Whether a backup of the current key was ever made with [`note_export`](MasterKeys::note_export).
    pub fn was_exported(&self, dir: &Path) -> bool {
        let id = self.current.id.to_string();
        fs::read_to_string(dir.join(EXPORTED)).is_ok_and(|text| text.lines().any(|line| line.trim() == id))
    }

    /// Whether a rotation was begun and not finished.
    pub fn rotation_is_open(dir: &Path) -> bool {
        dir.join(NEXT).exists() || MasterKeys::load(dir).is_ok_and(|keys| keys.left)
    }

    /// Makes a new current key; the one before stays beside it until [`retire`](MasterKeys::retire). Goes on with a
    /// rotation that was not finished instead of beginning another one.
    pub fn rotate(dir: &Path) -> Result<(MasterKeys, Rotation)> {
        let before = MasterKeys::load(dir)?;
        let next = dir.join(NEXT);
        let open = next.exists();
        if !open {
            if before.left {
                return Ok((before, Rotation::Resumed));
            }
            write_new(&next, &MasterKey::random().text())?;
        }
        // Read back: a key that cannot be read must not replace one that can.
        one(&next, read(&next)?)?;
        let (current, old) = (dir.join(CURRENT), dir.join(format!("{OLD}{}.key", before.current.id)));
        let failed = |e: std::io::Error| Error::io(format_args!("exchanging the master key in {}", dir.display()), &e);
        match fs::hard_link(&current, &old) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && one(&old, read(&old)?)?.id == before.current.id => {}
            other => other.map_err(failed)?,
        }
        sync(dir).map_err(failed)?;
        fs::rename(&next, &current).map_err(failed)?;
        sync(dir).map_err(failed)?;
        Ok((MasterKeys::load(dir)?, if open { Rotation::Resumed } else { Rotation::Started }))
    }

    /// Removes the keys before the current one that no ring needs; `needed` are those that some ring names. Keys of other hosts stay.
    /// Returns what went.
    pub fn retire(dir: &Path, needed: &BTreeSet<KeyId>) -> Result<Vec<KeyId>> {
        let current = MasterKeys::load(dir)?.current.id;
        let mut gone = Vec::new();
        for old in key_files(dir, OLD)? {
            let id = one(&old, read(&old)?)?.id;
            if id != current && needed.contains(&id) {
                continue;
            }
            fs::remove_file(&old).map_err(|e| Error::io(format_args!("removing {}", old.display()), &e))?;
            gone.push(id);
        }
        sync(dir).map_err(|e| Error::io(dir.display(), &e))?;
        Ok(gone)
    }
}

fn one(path: &Path, mut keys: Vec<MasterKey>) -> Result<MasterKey> {
    match (keys.pop(), keys.is_empty()) {
        (Some(key), true) => Ok(key),
        _ => Err(damaged(path, "it holds more than one key")),
    }
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the key file {} cannot be used: {why}", path.display()))
        .with_remedy("put a backup of it in its place; it was left as it is")
}

fn key_files(dir: &Path, begins: &str) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| Error::io(format_args!("reading {}", dir.display()), &e);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with(begins) && name.ends_with(".key") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A file that others may read is refused: what they have read cannot be taken back by keeping quiet.
fn read(path: &Path) -> Result<Vec<MasterKey>> {
    let failed = |e: std::io::Error| Error::io(format_args!("reading the key file {}", path.display()), &e);
    // Looked at before it is opened: opening a pipe would wait for its other end.
    let meta = fs::metadata(path).map_err(failed)?;
    if !meta.is_file() || meta.len() > LONGEST {
        return Err(damaged(path, "it is not a file of keys"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(Error::new(ErrorKind::Denied, format!("the key file {} can be read by others", path.display()))
            .with_remedy(format!("chmod 600 {}; if it is not clear who has read it: orlop key rotate", path.display())));
    }
    let file = File::open(path).map_err(failed)?;
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST).read_to_string(&mut text).map_err(|_| damaged(path, "it is not text"))?;
    MasterKey::parse(&text).map_err(|why| damaged(path, &why))
}

/// Makes a file that is whole or not there at all, for its owner only. False: there is one of that name already.
fn write_new(path: &Path, text: &str) -> Result<bool> {
    let failed = |e: std::io::Error| Error::io(format_args!("writing {}", path.display()), &e);
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = dir.join(format!(".orlop-key-{}", KeyId::random()));
    let result = (|| {
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            other => other.map(|()| true),
        }
    })();
    // The draft is a second name of the file, or of nothing that is needed.
    let _ = fs::remove_file(&draft);
    let made = result.map_err(failed)?;
    sync(dir).map_err(failed)?;
    Ok(made)
}

fn sync(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}
