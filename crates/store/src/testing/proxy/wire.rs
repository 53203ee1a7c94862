//! HTTP/1.1 on a socket, as much as a proxy needs: heads, and bodies of every framing, in pieces.

use std::io::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A head longer than this is nothing that S3 sends.
const HEAD_LIMIT: usize = 256 << 10;
/// The most of a body that is handed over at once.
const PIECE: usize = 16 << 10;

/// The first line and the headers of a request or an answer.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) first: String,
    pub(super) headers: Vec<(String, String)>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Head> {
        let bad = || Error::new(ErrorKind::InvalidData, "not HTTP/1.1");
        // Every byte as a character, and back: no header is changed, whatever its encoding.
        let text: String = bytes.iter().map(|b| char::from(*b)).collect();
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next().filter(|l| !l.is_empty()).ok_or_else(bad)?.to_owned();
        let headers =
            lines.map(|l| l.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned())).ok_or_else(bad)).collect::<Result<_>>()?;
        Ok(Head { first, headers })
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
    }

    /// The n-th word of the first line.
    pub(super) fn word(&self, n: usize) -> &str {
        self.first.split(' ').nth(n).unwrap_or_default()
    }

    pub(super) fn closes(&self) -> bool {
        self.get("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")) || self.first.contains("HTTP/1.0")
    }

    /// How its body is framed if nothing but its headers decides.
    pub(super) fn framing(&self, otherwise: Framing) -> Result<Framing> {
        if self.get("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked")) {
            return Ok(Framing::Chunked);
        }
        match self.get("content-length") {
            Some(n) => n.parse().map(Framing::Length).map_err(|_| Error::new(ErrorKind::InvalidData, "no content length")),
            None => Ok(otherwise),
        }
    }
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// This many bytes more.
    Length(u64),
    /// Chunks with their lengths; the end is an empty one.
    Chunked,
    /// When the connection ends.
    Close,
    /// It has ended.
    Done,
}

/// A socket with what was read from it and not yet used.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) stream: TcpStream,
    held: Vec<u8>,
    /// Of the chunk that is being read.
    chunk_left: u64,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        // Without it small answers wait; if it fails they do.
        let _ = stream.set_nodelay(true);
        Wire { stream, held: Vec::new(), chunk_left: 0 }
    }

    /// Whether the other side has closed it, as far as can be told without waiting. Nobody speaks between requests.
    pub(super) fn stale(&self) -> bool {
        let mut byte = [0];
        !matches!(self.stream.try_read(&mut byte), Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    async fn fill(&mut self) -> Result<usize> {
        let mut piece = [0; PIECE];
        let n = self.stream.read(&mut piece).await?;
        self.held.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    async fn fill_or_fail(&mut self) -> Result<()> {
        if self.fill().await? == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// The next head; none if the connection ends before it begins.
    pub(super) async fn head(&mut self) -> Result<Option<Head>> {
        loop {
            if let Some(end) = self.held.windows(4).position(|w| w == b"\r\n\r\n") {
                let rest = self.held.split_off(end + 4);
                let head = std::mem::replace(&mut self.held, rest);
                return Head::parse(&head).map(Some);
            }
            if self.held.len() > HEAD_LIMIT {
                return Err(Error::new(ErrorKind::InvalidData, "the head is too long"));
            }
            if self.fill().await? == 0 {
                return if self.held.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.held.windows(2).position(|w| w == b"\r\n") {
                let rest = self.held.split_off(end + 2);
                let line = std::mem::replace(&mut self.held, rest);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill_or_fail().await?;
        }
    }

    /// The next piece of a body, `framing` remembering how far it is; none at its end.
    pub(super) async fn piece(&mut self, framing: &mut Framing) -> Result<Option<Vec<u8>>> {
        match framing {
            Framing::Done | Framing::Length(0) => Ok(None),
            Framing::Length(left) => {
                let piece = self.up_to(*left).await?;
                *left -= piece.len() as u64;
                Ok(Some(piece))
            }
            Framing::Close => {
                if self.held.is_empty() && self.fill().await? == 0 {
                    *framing = Framing::Done;
                    return Ok(None);
                }
                self.up_to(u64::MAX).await.map(Some)
            }
            Framing::Chunked => {
                if self.chunk_left == 0 {
                    let line = self.line().await?;
                    let digits = line.split(';').next().unwrap_or_default().trim();
                    self.chunk_left = u64::from_str_radix(digits, 16).map_err(|_| Error::new(ErrorKind::InvalidData, "no chunk length"))?;
                    if self.chunk_left == 0 {
                        while !self.line().await?.is_empty() {}
                        *framing = Framing::Done;
                        return Ok(None);
                    }
                }
                let piece = self.up_to(self.chunk_left).await?;
                self.chunk_left -= piece.len() as u64;
                if self.chunk_left == 0 {
                    self.line().await?;
                }
                Ok(Some(piece))
            }
        }
    }

    async fn up_to(&mut self, most: u64) -> Result<Vec<u8>> {
        if self.held.is_empty() {
            self.fill_or_fail().await?;
        }
        let n = self.held.len().min(PIECE).min(usize::try_from(most).unwrap_or(usize::MAX));
        let rest = self.held.split_off(n);
        Ok(std::mem::replace(&mut self.held, rest))
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await
    }

    /// A piece of a body in the framing that its head announced.
    pub(super) async fn send_piece(&mut self, framing: Framing, piece: &[u8]) -> Result<()> {
        if framing == Framing::Chunked {
            self.send(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            self.send(piece).await?;
            self.send(b"\r\n").await
        } else {
            self.send(piece).await
        }
    }

    /// The end of a body in that framing.
    pub(super) async fn send_end(&mut self, framing: Framing) -> Result<()> {
        if framing == Framing::Chunked { self.send(b"0\r\n\r\n").await } else { Ok(()) }
    }
}
