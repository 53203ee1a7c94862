//! `/v1/volumes/{volume}/files` and `content`: reading what is in a volume, mounted or not.
//!
//! Reading holds an internal attachment for as long as it lasts, so that it is audited like any other use and
//! a volume that nobody has mounted is mounted just for it.

use super::Rest;
use super::body::{Named, Params};
use super::error::Answer;
use super::peer::Caller;
use crate::wire::Listing;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Uri;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use orlop_control::Control;
use orlop_model::{Actor, AttachmentId, AttachmentKind, DetachBy, Error, ErrorKind, Intent, Outcome, Result, VolumeRef};
use serde::Deserialize;
use std::ffi::OsString;
use std::io::SeekFrom;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncSeekExt, Take};
use utoipa::IntoParams;

const READ: usize = 256 * 1024;
/// What the kernel says of a read that failed, whatever the reason: the number is the same on every Linux.
const EIO: i32 = 5;
/// How long the store may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where in the volume.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct At {
    /// The path from the volume's root folder, starting with `/`. A name in it that is not UTF-8 is given as its bytes, percent-encoded.
    #[serde(default = "root")]
    path: String,
}

/// Which file, and from where on.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Part {
    /// The path from the volume's root folder, starting with `/`. A name in it that is not UTF-8 is given as its bytes, percent-encoded.
    #[serde(default = "root")]
    path: String,
    /// How many of its first bytes to leave out.
    #[serde(default)]
    offset: u64,
}

fn root() -> String {
    "/".to_owned()
}

/// A path as it was sent. The names of files may be any bytes, and of what is no text the query's own decoding leaves nothing.
fn as_sent(text: String, uri: &Uri) -> Result<PathBuf> {
    let sent = if text.contains(char::REPLACEMENT_CHARACTER) {
        uri.query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("path="))).map(decoded)
    } else {
        None
    };
    let path = sent.unwrap_or_else(|| text.into_bytes());
    if path.starts_with(b"/") && !path.contains(&0) && path.len() < 4096 {
        return Ok(OsString::from_vec(path).into());
    }
    Err(Error::invalid(format!("{:?} is not a path in a volume", String::from_utf8_lossy(&path)))
        .with_remedy("write the path from the volume's root folder, such as /etc/hosts"))
}

/// The bytes that stand percent-encoded in a query.
fn decoded(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let coded = match bytes[at..] {
            [b'%', high, low, ..] => digit(high).zip(digit(low)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok()),
            _ => None,
        };
        out.push(coded.unwrap_or(if bytes[at] == b'+' { b' ' } else { bytes[at] }));
        at += if coded.is_some() { 3 } else { 1 };
    }
    out
}

/// An internal attachment that ends with its holder, also when a client goes away in the middle.
pub(super) struct Visit {
    control: Arc<Control>,
    actor: Actor,
    volume: VolumeRef,
    attachment: Option<AttachmentId>,
    mountpoint: String,
}

impl Visit {
    pub(super) async fn begin(rest: &Rest, actor: Actor, volume: VolumeRef, purpose: &str) -> Result<Visit> {
        // By id from here on: a name may be given to another volume meanwhile.
        let volume = VolumeRef::Id(rest.control.volume_brief(&volume).await?.id);
        let attachment = AttachmentKind::Internal { purpose: purpose.to_owned() };
        let intent = Intent::Attach { volume: volume.clone(), attachment, abandon_unsynced: false };
        match rest.control.apply(&actor, intent).await? {
            Outcome::Attached { attachment, mountpoint } => {
                Ok(Visit { control: rest.control.clone(), actor, volume, attachment: Some(attachment), mountpoint })
            }
            _ => Err(Error::internal("the volume was attached, but nobody said where")),
        }
    }

    fn leave(&mut self) -> Option<impl Future<Output = Result<Outcome>> + Send + 'static> {
        let id = self.attachment.take()?;
        let (control, actor, volume) = (self.control.clone(), self.actor.clone(), self.volume.clone());
        Some(async move { control.apply(&actor, Intent::Detach { volume, attachment: DetachBy::Id(id), force: false }).await })
    }

    /// Ends the visit now; a failure to unmount is not the reader's, and is left to the reconciler.
    pub(super) async fn end(mut self) {
        if let Some(leaving) = self.leave()
            && let Err(e) = leaving.await
        {
            tracing::warn!(error = %e, volume = %self.volume, "the volume stays mounted after a reading");
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(leaving) = self.leave() {
            tokio::spawn(async move {
                if let Err(e) = leaving.await {
                    tracing::warn!(error = %e, "a volume stays mounted after a reading that was broken off");
                }
            });
        }
    }
}

/// The host's error, with the volume that it is about and a way on.
fn explained(volume: &VolumeRef, e: Error) -> Error {
    let e = e.during(format_args!("volume {volume}"));
    if e.remedy.is_some() { e } else { e.with_remedy(format!("see what is there with: orlop ls {volume}:/")) }
}

async fn leave(visit: &mut Option<Visit>) {
    if let Some(visit) = visit.take() {
        visit.end().await;
    }
}

/// Lists a folder of a volume, or shows one file. Links are followed inside the volume only.
#[utoipa::path(get, path = "/v1/volumes/{volume}/files", tag = "files", params(("volume" = String, Path, description = "Name or id"), At),
    responses((status = 200, body = Listing), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn list(
    State(rest): State<Rest>,
    Caller(actor): Caller,
    Named(volume): Named,
    uri: Uri,
    Params(at): Params<At>,
) -> Answer<Json<Listing>> {
    let path = as_sent(at.path, &uri)?;
    let visit = Visit::begin(&rest, actor, volume.clone(), "ls").await?;
    let listing = rest.host.list(&visit.mountpoint, &path).await.map_err(|e| explained(&volume, e));
    visit.end().await;
    Ok(Json(listing?))
}

/// Streams a file of a volume, or what is behind an offset in it. Where the stream breaks off, a call for what is behind that place
/// answers why.
#[utoipa::path(get, path = "/v1/volumes/{volume}/content", tag = "files", params(("volume" = String, Path, description = "Name or id"), Part),
    responses((status = 200, description = "The file's bytes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn content(
    State(rest): State<Rest>,
    Caller(actor): Caller,
    Named(volume): Named,
    uri: Uri,
    Params(part): Params<Part>,
) -> Answer<Response> {
    let path = as_sent(part.path, &uri)?;
    let visit = Visit::begin(&rest, actor, volume.clone(), "cat").await?;
    let begun = begin_reading(&rest, &visit.mountpoint, &volume, &path, part.offset).await;
    let Reading { length, first, file } = match begun {
        Ok(reading) => reading,
        Err(e) => {
            visit.end().await;
            return Err(e.into());
        }
    };
    let mut visit = Some(visit);
    if file.limit() == 0 {
        // There is nothing more to ask for.
        drop(file);
        leave(&mut visit).await;
        return answer(length, Body::from(first));
    }
    let behind = futures::stream::try_unfold(Some((file, visit)), async |reading| {
        let Some((mut file, mut visit)) = reading else { return Ok::<_, std::io::Error>(None) };
        let mut buffer = BytesMut::with_capacity(READ);
        let read = file.read_buf(&mut buffer).await?;
        if read > 0 && file.limit() > 0 {
            return Ok(Some((buffer.freeze(), Some((file, visit)))));
        }
        // Before the last piece, so that the volume is let go of when the reader has all; and the file before
        // the volume, which could not be unmounted under it.
        drop(file);
        leave(&mut visit).await;
        Ok((read > 0).then(|| (buffer.freeze(), None)))
    });
    let all = futures::stream::once(async move { Ok::<_, std::io::Error>(first) }).chain(behind);
    answer(length, Body::from_stream(all))
}

/// A file that is being read: how many bytes are asked for, the first of them, and where the others come from.
struct Reading {
    length: u64,
    first: Bytes,
    file: Take<tokio::fs::File>,
}

/// Opens a file and reads its first piece, so that what can be told of a failure is the answer and no stream that breaks off.
async fn begin_reading(rest: &Rest, mountpoint: &str, volume: &VolumeRef, path: &Path, offset: u64) -> Result<Reading> {
    let shown = path.display();
    let failed = |e: std::io::Error| Error::io(format_args!("volume {volume}: {shown}"), &e);
    let file = rest.host.open(mountpoint, path).await.map_err(|e| explained(volume, e))?;
    // A length lets the client tell a complete file from a broken stream. The file may grow meanwhile: `take`.
    let size = file.metadata().map_err(failed)?.len();
    let Some(length) = size.checked_sub(offset) else {
        return Err(Error::invalid(format!("volume {volume}: {shown} has {size} bytes, and nothing behind byte {offset}"))
            .with_remedy("if it was cut while it was read, read it again"));
    };
    let mut file = tokio::fs::File::from_std(file);
    if offset > 0 {
        file.seek(SeekFrom::Start(offset)).await.map_err(failed)?;
    }
    let mut file = file.take(length);
    let mut first = BytesMut::with_capacity(READ);
    match file.read_buf(&mut first).await {
        Ok(0) if length > 0 => {
            Err(Error::new(ErrorKind::Busy, format!("volume {volume}: {shown} was cut while it was read")).with_remedy("read it again"))
        }
        Ok(_) => Ok(Reading { length, first: first.freeze(), file }),
        Err(e) => Err(unreadable(rest, volume, path, offset, &e).await),
    }
}

/// Why a file cannot be read from an offset on. The kernel has one word for bytes that are not what was written and for a store that is
/// away, so the store is asked.
async fn unreadable(rest: &Rest, volume: &VolumeRef, path: &Path, offset: u64, e: &std::io::Error) -> Error {
    let path = path.display();
    let what = format!("volume {volume}: {path} cannot be read from byte {offset} on");
    if e.raw_os_error() != Some(EIO) {
        return explained(volume, Error::io(format_args!("{path} cannot be read from byte {offset} on"), e));
    }
    if let Ok(Err(away)) = tokio::time::timeout(PATIENCE, rest.control.space(volume)).await
        && away.kind == ErrorKind::Unavailable
    {
        return away.during(what);
    }
    Error::new(ErrorKind::Corrupt, format!("{what}: {e}"))
        .with_remedy(format!("orlop check {volume} names what is damaged, and which files are; the rest is read out by: orlop export"))
}

fn answer(size: u64, body: Body) -> Answer<Response> {
    let response = Response::builder().header(CONTENT_TYPE, "application/octet-stream").header(CONTENT_LENGTH, size);
    response.body(body).map_err(|e| Error::internal(format!("the answer could not be made: {e}")).into())
}
