//! The one log of a volume under durability `local`: records appended before they are answered.
//!
//! A folder of files, each named by the number of its first record. What makes a record durable is `sync`
//! in sync.rs; here is only what the bytes are. A marker says that every record up to a number, and the data
//! it names, was durable before the marker was written: so a break below a marker is damage, and a break
//! above the last marker is the torn end that a power failure leaves. Zeros up to a file's end are neither: a file
//! that is synced often is filled with them ahead of its frames, so that syncing it need not make its new length durable too.
//!
//! In a file of a sealed volume each record is sealed within its frame; number, kind and markers are plain.

use crate::change::Record;
use crate::codec::Reader;
use crate::host::{HostDisk, HostFile};
use crate::sealing::RecordSeal;
use orlop_store::keys::{HostKeys, KeyId};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"ORLOPJ01";
/// Of a file whose records are sealed.
const SEALED_MAGIC: &[u8; 8] = b"ORLOPJ02";
const HEADER: u64 = 64;
const FRAME: usize = 8;
/// Number and kind, at the front of what a frame holds.
const HEAD: usize = 9;
const MAX_FRAME: usize = 256 << 20;
const RECORD: u8 = 0;
const MARKER: u8 = 1;
const SEALED: u8 = 2;
/// Syncs of a file that somebody waited for, after which more are expected.
const OFTEN: u32 = 8;
/// Zeros ahead of the frames of a file that is synced often, and how few of them are left when more are written.
const AHEAD: u64 = 256 << 10;
const AHEAD_LEFT: u64 = 64 << 10;

/// An open journal: appends to its newest file.
#[derive(Debug)]
pub(crate) struct Journal {
    disk: Arc<dyn HostDisk>,
    dir: PathBuf,
    volume: [u8; 16],
    file: Arc<dyn HostFile>,
    /// What the newest file's records are sealed with.
    seal: Option<RecordSeal>,
    /// Number of the newest file's first record.
    first: u64,
    /// Where the next frame goes.
    end: u64,
    /// Up to where the newest file is filled with zeros; not behind `end` if it is not.
    filled: u64,
    /// How often somebody waited for a sync of the newest file.
    syncs: u32,
    /// Number of the last record.
    seq: u64,
    /// Finished files that are not removed yet: first record, last record, path.
    finished: Vec<(u64, u64, PathBuf)>,
    /// Files with frames that no sync has covered.
    unsynced: Vec<Arc<dyn HostFile>>,
    /// Whether a file was created since the folder's last sync.
    dir_unsynced: bool,
    scratch: Vec<u8>,
    /// The sealed frame of what is in the scratch.
    sealed: Vec<u8>,
}

fn file_name(first: u64) -> String {
    format!("{first:016x}.journal")
}

fn frame(out: &mut Vec<u8>, seq: u64, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME]);
    out.extend_from_slice(&seq.to_le_bytes());
    out.push(kind);
    body(out);
    let len = (out.len() - start - FRAME) as u32;
    let crc = crc32c::crc32c(&out[start + FRAME..]);
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

impl Journal {
    /// Starts a new file whose first record will be `seq + 1`; `finished` are the older files.
    pub(crate) fn start(
        disk: Arc<dyn HostDisk>,
        dir: PathBuf,
        volume: [u8; 16],
        seq: u64,
        finished: Vec<(u64, u64, PathBuf)>,
    ) -> io::Result<Journal> {
        let (file, seal) = create(&*disk, &dir, volume, seq + 1)?;
        Ok(Journal {
            disk,
            dir,
            volume,
            unsynced: vec![file.clone()],
            file,
            seal,
            first: seq + 1,
            end: HEADER,
            filled: 0,
            syncs: 0,
            seq,
            finished,
            dir_unsynced: true,
            scratch: Vec::new(),
            sealed: Vec::new(),
        })
    }

    /// Number of the last record.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// The newest file: number of its first record, bytes that count, number of its last record.
    pub(crate) fn place(&self) -> (u64, u64, u64) {
        (self.first, self.end, self.seq)
    }

    /// Bytes in the newest file.
    pub(crate) fn len(&self) -> u64 {
        self.end
    }

    /// Records in the older files, which are read again at the next start.
    pub(crate) fn older_records(&self) -> u64 {
        self.finished.iter().map(|(first, last, _)| (last + 1).saturating_sub(*first)).sum()
    }

    /// Appends a record and returns its number; `written` sees its bytes, not sealed. On an error nothing was appended.
    pub(crate) fn append(&mut self, record: &Record, written: impl FnOnce(u64, &[u8])) -> io::Result<u64> {
        let seq = self.seq + 1;
        self.write(seq, RECORD, |out| record.encode(out), written)?;
        self.seq = seq;
        Ok(seq)
    }

    /// Notes that everything up to `seq` is durable.
    pub(crate) fn mark(&mut self, seq: u64) -> io::Result<()> {
        self.write(seq, MARKER, |_| {}, |_, _| {})
    }

    fn write(&mut self, seq: u64, kind: u8, body: impl FnOnce(&mut Vec<u8>), written: impl FnOnce(u64, &[u8])) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        frame(&mut bytes, seq, kind, body);
        let mut sealed = std::mem::take(&mut self.sealed);
        sealed.clear();
        let on_disk = match &self.seal {
            Some(seal) if kind == RECORD => {
                seal_record(&mut sealed, seal, seq, &bytes[FRAME + HEAD..]);
                &sealed
            }
            _ => &bytes,
        };
        let done = self.file.write_at(on_disk, self.end);
        if done.is_ok() {
            self.end += on_disk.len() as u64;
            if kind == RECORD && !self.unsynced.iter().any(|f| Arc::ptr_eq(f, &self.file)) {
                self.unsynced.push(self.file.clone());
            }
            written(seq, &bytes);
        }
        if done.is_err() {
            // What did reach the file must not be taken for a record: nobody was told that it counts.
            self.cut_at_end();
        }
        if bytes.capacity() <= 1 << 20 {
            (self.scratch, self.sealed) = (bytes, sealed);
        }
        done
    }

    /// Goes on in a new file, so that the older ones can be removed when they are folded.
    pub(crate) fn rotate(&mut self) -> io::Result<()> {
        if self.seq < self.first {
            return Ok(());
        }
        let (file, seal) = create(&*self.disk, &self.dir, self.volume, self.seq + 1)?;
        self.finished.push((self.first, self.seq, self.dir.join(file_name(self.first))));
        if self.filled > self.end {
            self.cut_at_end();
        }
        (self.file, self.seal) = (file, seal);
        self.first = self.seq + 1;
        self.end = HEADER;
        (self.filled, self.syncs) = (0, 0);
        self.dir_unsynced = true;
        Ok(())
    }

    fn cut_at_end(&mut self) {
        let _ = self.file.set_size(self.end);
        self.filled = self.end;
    }

    /// Notes that somebody waits for a sync. Those that go by the clock do not make the next one likely.
    pub(crate) fn note_waiting(&mut self) {
        self.syncs = self.syncs.saturating_add(1);
    }

    /// Takes what has to be synced for everything so far to be durable: files, and whether the folder too.
    pub(crate) fn take_unsynced(&mut self) -> (Vec<Arc<dyn HostFile>>, bool) {
        if self.syncs >= OFTEN && self.end + AHEAD_LEFT > self.filled {
            self.fill_ahead();
        }
        (std::mem::take(&mut self.unsynced), std::mem::take(&mut self.dir_unsynced))
    }

    /// It only spares time: a disk without room for it goes without.
    fn fill_ahead(&mut self) {
        let from = self.end.max(self.filled);
        let zeros = vec![0; (self.end + AHEAD - from) as usize];
        match self.file.write_at(&zeros, from) {
            Ok(()) => self.filled = self.end + AHEAD,
            Err(e) => {
                tracing::debug!(error = %e, "no zeros ahead of the journal");
                self.cut_at_end();
                self.syncs = 0;
            }
        }
    }

    /// The folder of the files.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes the paths of files that hold no record above `seq`, for removal.
    pub(crate) fn take_folded(&mut self, seq: u64) -> Vec<PathBuf> {
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.finished).into_iter().partition(|(_, last, _)| *last <= seq);
        self.finished = kept;
        gone.into_iter().map(|(_, _, path)| path).collect()
    }

    /// Adds files found at the opening to those that the next sync covers.
    pub(crate) fn sync_too(&mut self, files: Vec<Arc<dyn HostFile>>) {
        self.unsynced.extend(files);
        self.dir_unsynced = true;
    }
}

/// Where a sealed file's header names its key, and behind it what tells the file from others that begin alike.
const KEY_AT: usize = 48;
const SALT_AT: usize = 56;
/// How much of a header its checksum is over.
const CHECKED: usize = 60;

/// What a file begins with.
fn new_header(volume: [u8; 16], first: u64, boot: [u8; 16], key: Option<KeyId>) -> [u8; HEADER as usize] {
    let mut header = [0u8; HEADER as usize];
    header[..8].copy_from_slice(if key.is_some() { SEALED_MAGIC } else { MAGIC });
    header[8..24].copy_from_slice(&volume);
    header[24..32].copy_from_slice(&first.to_le_bytes());
    header[32..48].copy_from_slice(&boot);
    if let Some(key) = key {
        header[KEY_AT..SALT_AT].copy_from_slice(&key.0);
        header[SALT_AT..CHECKED].copy_from_slice(&rand::random::<[u8; CHECKED - SALT_AT]>());
    }
    let crc = crc32c::crc32c(&header[..CHECKED]);
    header[CHECKED..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// How a file begins, and what its records are sealed with if the volume has keys.
fn begin(volume: [u8; 16], first: u64, boot: [u8; 16], keys: Option<&Arc<HostKeys>>) -> ([u8; HEADER as usize], Option<RecordSeal>) {
    let head = new_header(volume, first, boot, keys.map(|keys| keys.current()));
    let seal = |keys: &Arc<HostKeys>| RecordSeal::of(keys, keys.current(), &head[..CHECKED]).expect("the ring has its current key");
    (head, keys.map(seal))
}

/// Appends the frame of a sealed record.
fn seal_record(out: &mut Vec<u8>, seal: &RecordSeal, seq: u64, record: &[u8]) {
    frame(out, seq, SEALED, |out| seal.seal(seq, record, out));
}

fn create(disk: &dyn HostDisk, dir: &Path, volume: [u8; 16], first: u64) -> io::Result<(Arc<dyn HostFile>, Option<RecordSeal>)> {
    let path = dir.join(file_name(first));
    let (head, seal) = begin(volume, first, disk.boot_id(), disk.keys());
    let file = disk.create(&path)?;
    if let Err(e) = file.write_at(&head, 0) {
        // A file without its header would stop the next opening from creating its own.
        let _ = disk.remove(&path);
        return Err(e);
    }
    Ok((file, seal))
}

/// One record as found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) seq: u64,
    pub(crate) record: Record,
    /// Where its frame starts in its file.
    pub(crate) offset: u64,
}

/// One file as found.
#[derive(Debug)]
pub(crate) struct FoundFile {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn HostFile>,
    pub(crate) first: u64,
    pub(crate) records: Vec<Found>,
    /// Where its last good frame ends.
    pub(crate) end: u64,
    /// Its length without zeros that fill it; what is behind the end is the rest of a write that was torn, or damage.
    pub(crate) size: u64,
    /// Whether later records stand behind the end: nothing loses one in the middle but a power failure.
    pub(crate) damaged: bool,
    /// Whether it was written since the host's last boot, so that nothing in it can be torn by a power failure.
    pub(crate) same_boot: bool,
}

/// What a journal's folder holds.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Readable files in order.
    pub(crate) files: Vec<FoundFile>,
    /// Files whose header cannot be read: torn at creation, or damaged.
    pub(crate) headless: Vec<PathBuf>,
    /// The greatest number that a marker, anywhere, says was durable.
    pub(crate) durable: u64,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0} belongs to another volume")]
    Foreign(PathBuf),
    #[error("{0} is of a newer format")]
    Newer(PathBuf),
    #[error("{0} is sealed with a key that is not at hand")]
    Locked(PathBuf),
}

/// Reads a journal's folder, up to its first break in each file. To `salvage`, plain records behind a header that cannot be read
/// count too.
pub(crate) fn scan(disk: &dyn HostDisk, dir: &Path, volume: [u8; 16], salvage: bool) -> Result<Scan, ScanError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| ScanError::Io { path, source }
    };
    let mut names: Vec<(u64, String)> = disk
        .list(dir)
        .map_err(at(dir))?
        .into_iter()
        .filter_map(|n| Some((u64::from_str_radix(n.strip_suffix(".journal")?, 16).ok()?, n)))
        .collect();
    names.sort();
    let boot = disk.boot_id();
    let mut scan = Scan::default();
    for (first, name) in names {
        let path = dir.join(name);
        let file = disk.open(&path).map_err(at(&path))?;
        let size = file.size().map_err(at(&path))?;
        let mut bytes = vec![0; usize::try_from(size).expect("a file that fits the address space")];
        let got = file.read_at(&mut bytes, 0).map_err(at(&path))?;
        bytes.truncate(got);
        let Some(head) = header(&bytes, volume, first, &path)? else {
            // Nothing that was synced is without its head: then a marker tells that this is damage.
            let Frames { records, durable, end, .. } = frames(&bytes, first, &Reading::Plain);
            scan.durable = scan.durable.max(durable);
            if salvage && !records.is_empty() {
                scan.files.push(FoundFile { path, file, first, records, same_boot: false, end, size, damaged: true });
            } else {
                scan.headless.push(path);
            }
            continue;
        };
        let (file_boot, reading) = (head.boot, head.reading(disk.keys()).ok_or_else(|| ScanError::Locked(path.clone()))?);
        let Frames { records, durable, end, damaged } = frames(&bytes, first, &reading);
        scan.durable = scan.durable.max(durable);
        let size = if is_filling(&bytes, end as usize) { end } else { size };
        let same_boot = file_boot == boot && boot != [0; 16];
        scan.files.push(FoundFile { path, file, first, records, same_boot, end, size, damaged });
    }
    Ok(scan)
}

/// What a header says.
struct Head {
    boot: [u8; 16],
    /// The checked bytes of a sealed file's.
    sealed: Option<[u8; CHECKED]>,
}

/// How a file's records are read.
enum Reading {
    Plain,
    Sealed(RecordSeal),
}

impl Head {
    /// `None` if the key is not at hand.
    fn reading(&self, keys: Option<&Arc<HostKeys>>) -> Option<Reading> {
        let Some(head) = &self.sealed else { return Some(Reading::Plain) };
        let key = KeyId(head[KEY_AT..SALT_AT].try_into().expect("eight bytes"));
        RecordSeal::of(keys?, key, head).map(Reading::Sealed)
    }
}

impl Reading {
    /// A record as it stands in a frame of this file; `None` if it cannot have been written there.
    fn record(&self, seq: u64, kind: u8, body: &[u8]) -> Option<Record> {
        match (self, kind) {
            (Reading::Plain, RECORD) => Record::decode(body).ok(),
            (Reading::Sealed(seal), SEALED) => Record::decode(&seal.open(seq, body)?).ok(),
            _ => None,
        }
    }
}

/// Checks a header; `None` if it is torn.
fn header(bytes: &[u8], volume: [u8; 16], first: u64, path: &Path) -> Result<Option<Head>, ScanError> {
    let Some(h) = bytes.get(..HEADER as usize) else { return Ok(None) };
    if crc32c::crc32c(&h[..CHECKED]) != u32::from_le_bytes(h[CHECKED..].try_into().expect("four bytes")) {
        return Ok(None);
    }
    let is_sealed = &h[..8] == SEALED_MAGIC;
    if !is_sealed && &h[..8] != MAGIC {
        return Err(ScanError::Newer(path.to_owned()));
    }
    if h[8..24] != volume {
        return Err(ScanError::Foreign(path.to_owned()));
    }
    if h[24..32] != first.to_le_bytes() {
        return Ok(None);
    }
    let boot = h[32..48].try_into().expect("sixteen bytes");
    Ok(Some(Head { boot, sealed: is_sealed.then(|| h[..CHECKED].try_into().expect("as long as it is cut")) }))
}

/// Looks at one file whole: the number of its last record, and what is wrong with it, if anything. Without the key of a sealed
/// file its frames are looked at, and not what they hold.
pub(crate) fn inspect(bytes: &[u8], volume: [u8; 16], first: u64, keys: Option<&Arc<HostKeys>>) -> (Option<u64>, Option<String>) {
    let read = match header(bytes, volume, first, Path::new("")) {
        Ok(Some(head)) => head.reading(keys),
        Ok(None) => return (None, Some("its header is damaged".to_owned())),
        Err(ScanError::Foreign(_)) => return (None, Some("it belongs to another volume".to_owned())),
        Err(e) => return (None, Some(e.to_string())),
    };
    let is_record = |seq, kind, body: &[u8]| match &read {
        Some(read) => read.record(seq, kind, body).is_some(),
        None => kind == SEALED,
    };
    let (mut last, mut pos) = (first - 1, HEADER as usize);
    while let Some((seq, kind, body, end)) = frame_at(bytes, pos) {
        match kind {
            MARKER if body.is_empty() => {}
            _ if seq == last + 1 && is_record(seq, kind, body) => last = seq,
            _ => break,
        }
        pos = end;
    }
    let wrong = (!is_filling(bytes, pos))
        .then(|| format!("byte {pos}, behind record {last}: what follows is no record; {} bytes", bytes.len() - pos));
    (Some(last), wrong)
}

/// A record as its frame's bytes, for the log on the store.
pub(crate) fn encode_frame(out: &mut Vec<u8>, seq: u64, record: &Record) {
    frame(out, seq, RECORD, |out| record.encode(out));
}

/// Records of frames that must be whole and in order, the first of them number `first`.
pub(crate) fn parse_frames(bytes: &[u8], first: u64) -> Option<Vec<(u64, Record)>> {
    let mut records = Vec::new();
    let mut pos = 0;
    while pos < bytes.len() {
        let (seq, kind, body, end) = frame_at(bytes, pos)?;
        if kind != RECORD || seq != first + records.len() as u64 {
            return None;
        }
        records.push((seq, Record::decode(body).ok()?));
        pos = end;
    }
    Some(records)
}

/// A file as the journal writes it, for the fuzz targets.
pub(crate) fn sample_file(volume: [u8; 16], first: u64, records: &[Record], keys: Option<&Arc<HostKeys>>) -> Vec<u8> {
    let (head, seal) = begin(volume, first, [0; 16], keys);
    let mut out = head.to_vec();
    for (seq, record) in (first..).zip(records) {
        let Some(seal) = &seal else {
            encode_frame(&mut out, seq, record);
            continue;
        };
        let mut plain = Vec::new();
        record.encode(&mut plain);
        seal_record(&mut out, seal, seq, &plain);
    }
    out
}

/// The numbers of the records that a recovery would find in a file's bytes, for the fuzz targets.
pub(crate) fn sample_scan(bytes: &[u8], volume: [u8; 16], first: u64, keys: Option<&Arc<HostKeys>>) -> Vec<u64> {
    let Ok(Some(head)) = header(bytes, volume, first, Path::new("")) else { return Vec::new() };
    let Some(reading) = head.reading(keys) else { return Vec::new() };
    frames(bytes, first, &reading).records.iter().map(|r| r.seq).collect()
}

/// Whether all that is behind the last frame are zeros.
fn is_filling(bytes: &[u8], end: usize) -> bool {
    bytes.get(end..).is_some_and(|rest| rest.iter().all(|b| *b == 0))
}

/// What a file's bytes are.
struct Frames {
    records: Vec<Found>,
    durable: u64,
    end: u64,
    damaged: bool,
}

/// Frames from the front up to the first bad one; then any marker behind it.
fn frames(bytes: &[u8], first: u64, read: &Reading) -> Frames {
    let mut records: Vec<Found> = Vec::new();
    let mut durable = 0;
    let mut pos = HEADER as usize;
    while let Some((seq, kind, body, end)) = frame_at(bytes, pos) {
        match kind {
            MARKER => durable = durable.max(seq),
            _ => {
                if seq != records.last().map_or(first, |r| r.seq + 1) {
                    break;
                }
                let Some(record) = read.record(seq, kind, body) else { break };
                records.push(Found { seq, record, offset: pos as u64 });
            }
        }
        pos = end;
    }
    let (end, mut damaged) = (pos as u64, false);
    // A marker or a later record beyond a break tells that the break is damage: look at every byte, a frame may start anywhere.
    for at in pos..bytes.len() {
        match frame_at(bytes, at) {
            Some((seq, MARKER, [], _)) => durable = durable.max(seq),
            Some((seq, RECORD | SEALED, _, _)) => damaged |= seq > records.last().map_or(first, |r| r.seq),
            _ => {}
        }
    }
    Frames { records, durable, end, damaged }
}

fn frame_at(bytes: &[u8], pos: usize) -> Option<(u64, u8, &[u8], usize)> {
    let head = bytes.get(pos..pos + FRAME)?;
    let len = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    if !(HEAD..=MAX_FRAME).contains(&len) {
        return None;
    }
    let body = bytes.get(pos + FRAME..pos + FRAME + len)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(head[4..].try_into().ok()?) {
        return None;
    }
    let mut r = Reader::new(body);
    let (seq, kind) = (r.u64().ok()?, r.u8().ok()?);
    Some((seq, kind, &body[HEAD..], pos + FRAME + len))
}
