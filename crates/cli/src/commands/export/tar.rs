//! A tar file as the place that a volume is read out to: POSIX pax headers for what ustar cannot say, and GNU's sparse
//! format 1.0 for files with holes, as GNU tar and bsdtar read them.
//!
//! A file is first written beside the tar file, since only then is known what of it can be read. The tar file has its name
//! when it is whole.

use super::read::{Content, Sink, Xattrs};
use orlop_chunkfs::{Attr, FileKind, Time};
use orlop_model::{Error, ErrorKind, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const RECORD: u64 = 512;

pub(super) struct TarFile {
    at: PathBuf,
    /// Where it is until then.
    partial: PathBuf,
    out: BufWriter<File>,
    spool: PathBuf,
    sockets: u64,
}

impl TarFile {
    pub(super) fn create(at: &Path, scratch: &Path) -> Result<TarFile> {
        if at.symlink_metadata().is_ok() {
            return Err(exists(at));
        }
        let partial = at.with_extension("tar.partial");
        let file = File::options().write(true).create_new(true).open(&partial).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Error::new(ErrorKind::AlreadyExists, format!("{} exists", partial.display()))
                .with_remedy("another export writes it, or one that was ended left it: remove it then"),
            _ => Error::io(format_args!("making {}", partial.display()), &e),
        })?;
        Ok(TarFile { at: at.to_owned(), partial, out: BufWriter::with_capacity(1 << 20, file), spool: scratch.join("spool"), sockets: 0 })
    }

    fn failed(&self, e: &std::io::Error) -> Error {
        Error::io(format_args!("writing {}", self.partial.display()), e)
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        let bytes = entry.encode();
        self.out.write_all(&bytes).map_err(|e| self.failed(&e))
    }

    /// Fills up to a whole record.
    fn pad(&mut self, written: u64) -> Result<()> {
        let rest = written.next_multiple_of(RECORD) - written;
        self.out.write_all(&[0; RECORD as usize][..rest as usize]).map_err(|e| self.failed(&e))
    }

    fn copy(&mut self, from: &File, stretches: &[(u64, u64)]) -> Result<()> {
        let mut buffer = vec![0; 1 << 18];
        for (start, end) in stretches {
            let mut at = *start;
            while at < *end {
                let n = buffer.len().min((end - at) as usize);
                from.read_exact_at(&mut buffer[..n], at).and_then(|()| self.out.write_all(&buffer[..n])).map_err(|e| self.failed(&e))?;
                at += n as u64;
            }
        }
        Ok(())
    }
}

fn exists(at: &Path) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("{} exists", at.display())).with_remedy("give a file that does not exist yet")
}

/// One header, with what goes before it.
struct Entry<'a> {
    name: Vec<u8>,
    link: &'a [u8],
    kind: u8,
    attr: &'a Attr,
    size: u64,
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Entry<'a> {
    fn new(path: &Path, kind: u8, attr: &'a Attr, xattrs: &Xattrs) -> Entry<'a> {
        let mut name = path.as_os_str().as_bytes().to_vec();
        if kind == b'5' {
            if name.is_empty() {
                name.push(b'.');
            }
            name.push(b'/');
        }
        let records = xattrs.iter().map(|(k, v)| ([b"SCHILY.xattr.", &k[..]].concat(), v.clone())).collect();
        Entry { name, link: b"", kind, attr, size: 0, records }
    }

    fn encode(&self) -> Vec<u8> {
        let mut pax = Vec::new();
        if self.name.len() > 100 || !self.name.is_ascii() {
            record(&mut pax, b"path", &self.name);
        }
        if self.link.len() > 100 || !self.link.is_ascii() {
            record(&mut pax, b"linkpath", self.link);
        }
        if self.size >= 1 << 33 {
            record(&mut pax, b"size", self.size.to_string().as_bytes());
        }
        for (key, id) in [(&b"uid"[..], self.attr.uid), (&b"gid"[..], self.attr.gid)] {
            if id >= 1 << 21 {
                record(&mut pax, key, id.to_string().as_bytes());
            }
        }
        record(&mut pax, b"mtime", moment(self.attr.mtime).as_bytes());
        record(&mut pax, b"atime", moment(self.attr.atime).as_bytes());
        for (key, value) in &self.records {
            record(&mut pax, key, value);
        }
        let mut out = header(b"././@PaxHeader", b"", b'x', self.attr, pax.len() as u64).to_vec();
        out.extend_from_slice(&pax);
        out.resize(out.len().next_multiple_of(RECORD as usize), 0);
        out.extend_from_slice(&header(&self.name, self.link, self.kind, self.attr, self.size));
        out
    }
}

/// A pax record: its own length in decimal, a space, key, "=", value, newline.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len.to_string().len() + rest != len {
        len = len.to_string().len() + rest;
    }
    out.extend_from_slice(format!("{len} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn moment(t: Time) -> String {
    // Before 1970 the fraction counts towards zero in this notation.
    match (t.sec, t.nsec) {
        (sec, 0) => sec.to_string(),
        (sec, nsec) if sec >= 0 => format!("{sec}.{nsec:09}"),
        (-1, nsec) => format!("-0.{:09}", 1_000_000_000 - nsec),
        (sec, nsec) => format!("{}.{:09}", sec + 1, 1_000_000_000 - nsec),
    }
}

fn header(name: &[u8], link: &[u8], kind: u8, attr: &Attr, size: u64) -> [u8; RECORD as usize] {
    let mut h = [0; RECORD as usize];
    fn text(h: &mut [u8], at: usize, width: usize, value: &[u8]) {
        let n = value.len().min(width);
        h[at..at + n].copy_from_slice(&value[..n]);
    }
    fn octal(h: &mut [u8], at: usize, width: usize, value: u64) {
        let most = (1u64 << (3 * (width - 1))) - 1;
        text(h, at, width - 1, format!("{:0w$o}", value.min(most), w = width - 1).as_bytes());
    }
    text(&mut h, 0, 100, name);
    octal(&mut h, 100, 8, u64::from(attr.perm & 0o7777));
    octal(&mut h, 108, 8, u64::from(attr.uid));
    octal(&mut h, 116, 8, u64::from(attr.gid));
    octal(&mut h, 124, 12, size);
    octal(&mut h, 136, 12, attr.mtime.sec.max(0) as u64);
    h[156] = kind;
    text(&mut h, 157, 100, link);
    text(&mut h, 257, 8, b"ustar\x0000");
    if matches!(kind, b'3' | b'4') {
        octal(&mut h, 329, 8, u64::from((attr.rdev & 0xf_ff00) >> 8));
        octal(&mut h, 337, 8, u64::from((attr.rdev & 0xff) | ((attr.rdev >> 12) & 0xf_ff00)));
    }
    h[148..156].fill(b' ');
    let sum: u64 = h.iter().map(|b| u64::from(*b)).sum();
    text(&mut h, 148, 7, format!("{sum:06o}\0").as_bytes());
    h
}

impl Sink for TarFile {
    fn folder(&mut self, path: &Path, attr: &Attr, xattrs: &Xattrs) -> Result<()> {
        self.entry(&Entry::new(path, b'5', attr, xattrs))
    }

    fn begin_file(&mut self, _path: &Path) -> Result<File> {
        let spool = File::options().read(true).write(true).create(true).truncate(true).open(&self.spool);
        spool.map_err(|e| Error::io(format_args!("making {}", self.spool.display()), &e))
    }

    fn end_file(&mut self, path: &Path, file: File, attr: &Attr, xattrs: &Xattrs, content: &Content) -> Result<()> {
        let mut entry = Entry::new(path, b'0', attr, xattrs);
        let whole = content.data == [(0, attr.size)] || attr.size == 0;
        let data: u64 = content.data.iter().map(|(from, to)| to - from).sum();
        if whole {
            entry.size = attr.size;
            self.entry(&entry)?;
        } else {
            let mut map = format!("{}\n", content.data.len() + 1);
            for (from, to) in &content.data {
                map.push_str(&format!("{from}\n{}\n", to - from));
            }
            map.push_str(&format!("{}\n0\n", attr.size));
            let mut map = map.into_bytes();
            map.resize(map.len().next_multiple_of(RECORD as usize), 0);
            let sparse = [("major", "1".to_owned()), ("minor", "0".to_owned()), ("realsize", attr.size.to_string())];
            entry.records.extend(sparse.map(|(k, v)| (format!("GNU.sparse.{k}").into_bytes(), v.into_bytes())));
            entry.records.push((b"GNU.sparse.name".to_vec(), path.as_os_str().as_bytes().to_vec()));
            // What a reader that does not know the format would make of it.
            entry.name = [b"GNUSparseFile.0/", path.file_name().unwrap_or_default().as_bytes()].concat();
            entry.size = map.len() as u64 + data;
            self.entry(&entry)?;
            self.out.write_all(&map).map_err(|e| self.failed(&e))?;
        }
        self.copy(&file, &content.data)?;
        self.pad(data)
    }

    fn link(&mut self, path: &Path, first: &Path, attr: &Attr) -> Result<()> {
        // Some readers give the file what the entry of its last name says.
        let mut entry = Entry::new(path, b'1', attr, &Vec::new());
        entry.link = first.as_os_str().as_bytes();
        self.entry(&entry)
    }

    fn symlink(&mut self, path: &Path, target: &[u8], attr: &Attr, xattrs: &Xattrs) -> Result<()> {
        let mut entry = Entry::new(path, b'2', attr, xattrs);
        entry.link = target;
        self.entry(&entry)
    }

    fn node(&mut self, path: &Path, attr: &Attr, xattrs: &Xattrs) -> Result<bool> {
        let kind = match attr.kind {
            FileKind::Fifo => b'6',
            FileKind::CharDevice => b'3',
            FileKind::BlockDevice => b'4',
            _ => {
                self.sockets += 1;
                return Ok(false);
            }
        };
        self.entry(&Entry::new(path, kind, attr, xattrs)).map(|()| true)
    }

    fn finish(&mut self) -> Result<Vec<String>> {
        let done =
            self.out.write_all(&[0; 2 * RECORD as usize]).and_then(|()| self.out.flush()).and_then(|()| self.out.get_ref().sync_all());
        done.map_err(|e| self.failed(&e))?;
        match renameat_with(CWD, &self.partial, CWD, &self.at, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => return Err(exists(&self.at)),
            // A file system that knows no such renaming.
            Err(Errno::INVAL | Errno::NOSYS) => std::fs::rename(&self.partial, &self.at).map_err(|e| self.failed(&e))?,
            done => done.map_err(|e| self.failed(&e.into()))?,
        }
        let dir = self.at.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| self.failed(&e))?;
        Ok(if self.sockets > 0 { vec![format!("{} sockets left out: a tar file cannot hold them", self.sockets)] } else { Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_themselves() {
        for n in [1, 5, 80, 87, 88, 89, 90, 980, 990, 991, 992] {
            let mut out = Vec::new();
            record(&mut out, b"path", &vec![b'x'; n]);
            let said: usize = String::from_utf8_lossy(&out).split(' ').next().expect("a number").parse().expect("a number");
            assert_eq!(said, out.len());
        }
    }

    #[test]
    fn times_before_1970_are_written_towards_zero() {
        assert_eq!(moment(Time { sec: 5, nsec: 7 }), "5.000000007");
        assert_eq!(moment(Time { sec: -1, nsec: 750_000_000 }), "-0.250000000");
        assert_eq!(moment(Time { sec: -3, nsec: 500_000_000 }), "-2.500000000");
        assert_eq!(moment(Time { sec: -3, nsec: 0 }), "-3");
    }
}
