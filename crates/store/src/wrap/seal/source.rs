//! Sealed bytes as they come from the store, taken in the amounts in which they can be opened.

use super::error::disturbed;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{Error, GetResult, GetResultPayload, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// How much is read of a file at once.
const READ: u64 = 1 << 20;

/// The body of an answer.
pub(super) struct Source {
    from: From,
    at: u64,
    end: u64,
    buffer: BytesMut,
}

enum From {
    File(Arc<File>),
    Stream(BoxStream<'static, Result<Bytes>>),
}

impl Source {
    pub(super) fn new(got: GetResult) -> Source {
        let from = match got.payload {
            GetResultPayload::File(file, _) => From::File(Arc::new(file)),
            GetResultPayload::Stream(stream) => From::Stream(stream),
        };
        Source { from, at: got.range.start, end: got.range.end, buffer: BytesMut::new() }
    }

    /// The next `n` bytes, exactly. An end before that is no verdict on the object: a connection may break.
    pub(super) async fn take(&mut self, path: &Path, n: u64) -> Result<BytesMut> {
        while (self.buffer.len() as u64) < n {
            match &mut self.from {
                From::File(file) => {
                    let len = (self.end - self.at).min(READ.max(n));
                    if len == 0 {
                        return Err(disturbed(path, "it is shorter than it was said to be"));
                    }
                    let (file, at) = (Arc::clone(file), self.at);
                    let more = tokio::task::spawn_blocking(move || {
                        let mut more = BytesMut::zeroed(len as usize);
                        file.read_exact_at(&mut more, at).map(|()| more)
                    })
                    .await
                    .map_err(|source| Error::JoinError { source })?
                    .map_err(|source| Error::Generic { store: "seal", source: Box::new(source) })?;
                    self.at += len;
                    self.append(more);
                }
                From::Stream(stream) => match stream.next().await {
                    Some(more) => {
                        // Not copied if nobody else has it.
                        let more = more?.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                        self.append(more);
                    }
                    None => return Err(disturbed(path, "the answer ended early")),
                },
            }
        }
        Ok(self.buffer.split_to(n as usize))
    }

    fn append(&mut self, more: BytesMut) {
        if self.buffer.is_empty() {
            self.buffer = more;
        } else {
            self.buffer.extend_from_slice(&more);
        }
    }

    /// Passes over bytes that were fetched and are not needed.
    pub(super) async fn skip(&mut self, path: &Path, mut n: u64) -> Result<()> {
        if let From::File(_) = self.from {
            self.at += n;
            return Ok(());
        }
        while n > 0 {
            let now = n.min(READ);
            self.take(path, now).await?;
            n -= now;
        }
        Ok(())
    }
}
