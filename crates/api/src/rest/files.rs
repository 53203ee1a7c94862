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
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::Response;
use bytes::BytesMut;
use orlop_control::Control;
use orlop_model::{Actor, AttachmentId, AttachmentKind, DetachBy, Error, Intent, Outcome, Result, VolumeRef};
use serde::Deserialize;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use utoipa::IntoParams;

const READ: usize = 256 * 1024;

/// Where in the volume.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct At {
    /// The path from the volume's root folder, starting with `/`.
    #[serde(default = "root")]
    path: String,
}

fn root() -> String {
    "/".to_owned()
}

impl At {
    fn checked(self) -> Result<String> {
        if self.path.starts_with('/') && !self.path.contains('\0') && self.path.len() < 4096 {
            return Ok(self.path);
        }
        Err(Error::invalid(format!("{:?} is not a path in a volume", self.path))
            .with_remedy("write the path from the volume's root folder, such as /etc/hosts"))
    }
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
    Params(at): Params<At>,
) -> Answer<Json<Listing>> {
    let path = at.checked()?;
    let visit = Visit::begin(&rest, actor, volume.clone(), "ls").await?;
    let listing = rest.host.list(&visit.mountpoint, &path).await.map_err(|e| explained(&volume, e));
    visit.end().await;
    Ok(Json(listing?))
}

/// Streams a file of a volume.
#[utoipa::path(get, path = "/v1/volumes/{volume}/content", tag = "files", params(("volume" = String, Path, description = "Name or id"), At),
    responses((status = 200, description = "The file's bytes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn content(
    State(rest): State<Rest>,
    Caller(actor): Caller,
    Named(volume): Named,
    Params(at): Params<At>,
) -> Answer<Response> {
    let path = at.checked()?;
    let visit = Visit::begin(&rest, actor, volume.clone(), "cat").await?;
    let opened = rest.host.open(&visit.mountpoint, &path).await.map_err(|e| explained(&volume, e));
    let file = match opened {
        Ok(file) => file,
        Err(e) => {
            visit.end().await;
            return Err(e.into());
        }
    };
    // A length lets the client tell a complete file from a broken stream. The file may grow meanwhile: `take`.
    let size = file.metadata().map_err(|e| Error::io(format_args!("volume {volume}: {path}"), &e))?.len();
    let mut visit = Some(visit);
    if size == 0 {
        // Nobody asks for the pieces of an empty body.
        drop(file);
        leave(&mut visit).await;
        return answer(size, Body::empty());
    }
    let file = tokio::fs::File::from_std(file).take(size);
    let stream = futures::stream::try_unfold(Some((file, visit)), async |reading| {
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
    answer(size, Body::from_stream(stream))
}

fn answer(size: u64, body: Body) -> Answer<Response> {
    let response = Response::builder().header(CONTENT_TYPE, "application/octet-stream").header(CONTENT_LENGTH, size);
    response.body(body).map_err(|e| Error::internal(format!("the answer could not be made: {e}")).into())
}
