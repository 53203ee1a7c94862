//! A sealed object sent in parts.
//!
//! The sealed object is one run of bytes that is cut into parts of equal size, as some stores ask for, wherever that
//! falls. A part is sealed from the plain frames it covers, by itself, so several are sealed at once; a frame that lies
//! across a cut is sealed for both parts, to the same bytes, since its key, place and text are the same. The last byte
//! is always held back: only the end of the upload knows which frame is the last.

use super::format::{Cipher, FRAME, HEADER, Plain, SEALED_FRAME, frame_at, frames, sealed_size};
use async_trait::async_trait;
use bytes::Bytes;
use object_store::{Error, MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::{Mutex, watch};
use tokio::task::AbortHandle;

/// Stores want at least this in every part but the last.
const SMALLEST_PART: u64 = 5 << 20;
/// The turn after which nobody's comes.
const NEVER: u64 = u64::MAX;

/// A multipart upload that seals what goes through it.
pub(super) struct SealedUpload {
    line: Arc<Line>,
    cipher: Arc<Cipher>,
    /// Plain bytes from the frame on in which the next part begins.
    plain: Plain,
    first_frame: u64,
    /// Plain bytes so far.
    total: u64,
    /// Sealed bytes that parts were cut from.
    cut: u64,
    /// Sealed bytes of a part; 0 until the first one tells what the caller likes.
    part: u64,
    parts: u64,
    running: Vec<AbortHandle>,
    done: bool,
}

impl std::fmt::Debug for SealedUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedUpload").field("total", &self.total).field("parts", &self.parts).finish_non_exhaustive()
    }
}

/// Parts are sealed in any order and handed to the store in theirs, which is what numbers them.
struct Line {
    inner: Mutex<Box<dyn MultipartUpload>>,
    turn: watch::Sender<u64>,
}

/// One part to be sealed.
struct Job {
    cipher: Arc<Cipher>,
    plain: Plain,
    first_frame: u64,
    frames: u64,
    /// Whether the last of them is the object's last.
    ends: bool,
    /// Which sealed bytes of the object it is.
    range: Range<u64>,
}

impl Job {
    fn seal(mut self) -> PutPayload {
        let mut pieces = Vec::with_capacity(self.frames as usize + 1);
        if self.range.start < HEADER {
            pieces.push((0, Bytes::copy_from_slice(self.cipher.header().bytes())));
        }
        for frame in self.first_frame..self.first_frame + self.frames {
            let last = self.ends && frame + 1 == self.first_frame + self.frames;
            pieces.push((frame_at(frame), self.cipher.seal_next(frame, last, &mut self.plain)));
        }
        let cut = |(at, piece): (u64, Bytes)| {
            let from = self.range.start.saturating_sub(at).min(piece.len() as u64) as usize;
            let to = self.range.end.saturating_sub(at).min(piece.len() as u64) as usize;
            piece.slice(from..to)
        };
        pieces.into_iter().map(cut).collect()
    }
}

impl Line {
    async fn send(self: Arc<Self>, number: u64, job: Job) -> Result<()> {
        let sealed = match tokio::task::spawn_blocking(move || job.seal()).await {
            Ok(sealed) => sealed,
            Err(source) => {
                self.turn.send_replace(NEVER);
                return Err(Error::JoinError { source });
            }
        };
        let came = self.turn.subscribe().wait_for(|turn| *turn == number || *turn == NEVER).await.map(|turn| *turn);
        if came.unwrap_or(NEVER) == NEVER {
            return Err(Error::Generic { store: "seal", source: "the upload was given up".into() });
        }
        let sent = self.inner.lock().await.put_part(sealed);
        // An upload given up meanwhile stays so.
        self.turn.send_if_modified(|turn| {
            let mine = *turn == number;
            *turn += u64::from(mine);
            mine
        });
        sent.await
    }
}

impl SealedUpload {
    pub(super) fn new(inner: Box<dyn MultipartUpload>, cipher: Cipher) -> SealedUpload {
        SealedUpload {
            line: Arc::new(Line { inner: Mutex::new(inner), turn: watch::Sender::new(0) }),
            cipher: Arc::new(cipher),
            plain: Plain::default(),
            first_frame: 0,
            total: 0,
            cut: 0,
            part: 0,
            parts: 0,
            running: Vec::new(),
            done: false,
        }
    }

    /// Cuts the next part off: up to sealed byte `end`, which lies in or right behind a frame that is there.
    fn next(&mut self, end: u64, ends: bool) -> (u64, Job) {
        let behind = if ends { frames(self.total) } else { end.saturating_sub(HEADER).div_ceil(SEALED_FRAME) };
        let job = Job {
            cipher: Arc::clone(&self.cipher),
            plain: self.plain.clone(),
            first_frame: self.first_frame,
            frames: behind - self.first_frame,
            ends,
            range: self.cut..end,
        };
        // The frame that the cut goes through is needed again.
        let next_first = end.saturating_sub(HEADER) / SEALED_FRAME;
        self.plain.skip(((next_first - self.first_frame) * FRAME).min(self.plain.len()));
        (self.first_frame, self.cut) = (next_first, end);
        let number = self.parts;
        self.parts += 1;
        (number, job)
    }

    fn start(&mut self, number: u64, job: Job) -> tokio::task::JoinHandle<Result<()>> {
        let task = tokio::spawn(Arc::clone(&self.line).send(number, job));
        self.running.retain(|t| !t.is_finished());
        self.running.push(task.abort_handle());
        task
    }
}

#[async_trait]
impl MultipartUpload for SealedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let len = data.content_length() as u64;
        self.total += len;
        self.plain.push(data);
        if self.part == 0 && len > 0 {
            self.part = len.max(SMALLEST_PART);
        }
        // Frames that have something behind them, and so are not the last.
        let whole = self.total.saturating_sub(1) / FRAME;
        let mut tasks = Vec::new();
        while self.part > 0 && whole > 0 && frame_at(whole) - self.cut >= self.part {
            let (number, job) = self.next(self.cut + self.part, false);
            tasks.push(self.start(number, job));
        }
        Box::pin(async move {
            for task in tasks {
                task.await.map_err(|source| Error::JoinError { source })??;
            }
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        // Asked again, the store below says what it thinks of that.
        if !self.done {
            let (number, job) = self.next(sealed_size(self.total), true);
            self.start(number, job).await.map_err(|source| Error::JoinError { source })??;
            self.done = true;
        }
        self.line.inner.lock().await.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.line.turn.send_replace(NEVER);
        for task in self.running.drain(..) {
            task.abort();
        }
        self.line.inner.lock().await.abort().await
    }
}
