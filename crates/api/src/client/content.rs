//! A file of a volume as it comes. A stream cannot say why it breaks off; an answer can, so what is behind that place is asked for.

use super::{Body, Client};
use bytes::Bytes;
use orlop_model::{Result, VolumeRef};
use std::path::PathBuf;

/// The contents of a file, piece by piece.
#[derive(Debug)]
pub struct Content {
    client: Client,
    volume: VolumeRef,
    path: PathBuf,
    body: Body,
    /// How much of the file came.
    offset: u64,
    /// How much had come when the stream broke off last.
    broke_at: Option<u64>,
}

impl Content {
    pub(super) fn new(client: Client, volume: VolumeRef, path: PathBuf, body: Body) -> Content {
        Content { client, volume, path, body, offset: 0, broke_at: None }
    }

    /// The next piece; `None` at the end. What keeps the file from being read on is the daemon's own error.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.body.next().await {
                Ok(piece) => {
                    self.offset += piece.as_ref().map_or(0, |p| p.len() as u64);
                    return Ok(piece);
                }
                // Once more at the same place: the daemon has no other word for it.
                Err(e) if self.broke_at == Some(self.offset) => return Err(e),
                Err(_) => {
                    self.broke_at = Some(self.offset);
                    self.body = self.client.content_from(&self.volume, &self.path, self.offset).await?;
                }
            }
        }
    }
}
