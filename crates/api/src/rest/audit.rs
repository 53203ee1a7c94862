//! `/v1/audit`: the record of every change, listed, exported and verified.

use super::Rest;
use super::body::Params;
use super::error::Answer;
use super::peer::Caller;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use orlop_control::{AuditFilter, VerifyReport};
use orlop_model::{AuditEvent, Error};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use utoipa::IntoParams;

/// Which records a list shows.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Of this target: a name or id as it was given.
    target: Option<String>,
    /// Of this volume, by name or id, whichever its records have; by name: of every volume that ever had it.
    volume: Option<String>,
    /// Of this verb, such as `volume.create`.
    verb: Option<String>,
    /// Of this actor: `uid:0`, `docker` or `system`.
    actor: Option<String>,
    /// Not before this time (RFC 3339).
    since: Option<String>,
    /// Not after this time (RFC 3339).
    until: Option<String>,
    /// Only with a greater number.
    after_seq: Option<u64>,
    /// At most so many, the newest; 1000 if absent.
    limit: Option<usize>,
}

fn instant(what: &str, text: Option<String>) -> Result<Option<OffsetDateTime>, Error> {
    text.map(|t| {
        OffsetDateTime::parse(&t, &Rfc3339)
            .map_err(|_| Error::invalid(format!("{what}={t}: not a time")).with_remedy("write it as 2026-01-31T12:00:00Z"))
    })
    .transpose()
}

/// Lists records, oldest first.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(Which),
    responses((status = 200, body = Vec<AuditEvent>), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn list(State(rest): State<Rest>, Params(which): Params<Which>) -> Answer<Json<Vec<AuditEvent>>> {
    let filter = AuditFilter {
        target: which.target,
        volume: which.volume,
        verb: which.verb,
        actor: which.actor,
        since: instant("since", which.since)?,
        until: instant("until", which.until)?,
        after_seq: which.after_seq,
        limit: which.limit,
    };
    Ok(Json(rest.control.audit().list(&filter).await?))
}

/// Hands each piece that an export writes to the body of the answer.
struct Pipe(mpsc::Sender<std::io::Result<Bytes>>);

impl std::io::Write for Pipe {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.blocking_send(Ok(Bytes::copy_from_slice(data))).map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(data.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Streams the whole journal in the form that `orlop audit verify --file` checks without a daemon.
#[utoipa::path(get, path = "/v1/audit/export", tag = "audit",
    responses((status = 200, description = "One JSON record a line", body = String, content_type = "application/x-ndjson"),
        (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn export(State(rest): State<Rest>, Caller(actor): Caller) -> Answer<Response> {
    let export = rest.control.audit().export(&actor).await?;
    let (sender, receiver) = mpsc::channel(16);
    tokio::task::spawn_blocking(move || {
        let mut out = std::io::BufWriter::with_capacity(256 * 1024, Pipe(sender.clone()));
        let written = export.write_to(&mut out).map_err(|e| e.to_string());
        let written = written.and_then(|_| std::io::Write::flush(&mut out).map_err(|e| e.to_string()));
        // The body breaks off, so the client sees that its file is not whole.
        if let Err(e) = written {
            let _ = sender.blocking_send(Err(std::io::Error::other(e)));
        }
    });
    let stream = futures::stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|piece| (piece, receiver)));
    let response = Response::builder().header(CONTENT_TYPE, "application/x-ndjson");
    response.body(Body::from_stream(stream)).map_err(|e| Error::internal(format!("the answer could not be made: {e}")).into())
}

/// Reads the whole journal and checks every link.
#[utoipa::path(get, path = "/v1/audit/verify", tag = "audit",
    responses((status = 200, body = VerifyReport), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn verify(State(rest): State<Rest>) -> Answer<Json<VerifyReport>> {
    Ok(Json(rest.control.audit().verify().await?))
}
