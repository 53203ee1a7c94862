//! `/v1/volumes/{volume}/check`, `space` and `gc`: looking after what a volume is made of, mounted or not.
//!
//! A check takes long, so its answer is a stream of lines: progress every now and then, the report last.

use super::Rest;
use super::body::{Named, decode};
use super::error::Answer;
use super::files::Visit;
use super::peer::Caller;
use crate::wire::{Check, CheckEvent, Collect};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use orlop_model::{
    Actor, CheckReport, Error, ErrorKind, Finding, FindingKind, FindingState, GcReport, Intent, Outcome, Result, Space, VolumeRef,
};
use std::time::Duration;

/// How often a check tells how far it is.
const TELL: Duration = Duration::from_millis(500);

/// Reads every byte that a volume is made of and tells what is not as it should be; with `repair` sets right what can be.
/// The answer is lines of JSON: `progress` any number of times, then `report`, or `error`.
#[utoipa::path(post, path = "/v1/volumes/{volume}/check", tag = "care", params(("volume" = String, Path, description = "Name or id")),
    request_body = Check,
    responses((status = 200, description = "Lines of JSON", body = CheckEvent, content_type = "application/x-ndjson"),
        (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn check(State(rest): State<Rest>, Caller(actor): Caller, Named(volume): Named, body: Bytes) -> Answer<Response> {
    let request: Check = decode(&body)?;
    // What is wrong with the request itself is answered as an error, not as a stream.
    let volume_id = rest.control.volume_brief(&volume).await?.id;
    let volume = VolumeRef::Id(volume_id);
    let (control, named) = (rest.control.clone(), volume.clone());
    let work = tokio::spawn(async move { checked(&rest, actor, named, request.repair).await });
    let stream = futures::stream::unfold(Some(work), move |work| {
        let control = control.clone();
        async move {
            let mut work = work?;
            match tokio::time::timeout(TELL, &mut work).await {
                Ok(ended) => {
                    let ended = ended.unwrap_or_else(|e| Err(Error::internal(format!("the check ended early: {e}"))));
                    let event = match ended {
                        Ok(report) => CheckEvent::Report(Box::new(report)),
                        Err(e) => CheckEvent::Error(e),
                    };
                    Some((line(&event), None))
                }
                Err(_) => {
                    let progress = control.check_progress(volume_id).await.unwrap_or_default();
                    Some((line(&CheckEvent::Progress(progress)), Some(work)))
                }
            }
        }
    });
    let response = Response::builder().header(CONTENT_TYPE, "application/x-ndjson");
    response.body(Body::from_stream(stream)).map_err(|e| Error::internal(format!("the answer could not be made: {e}")).into())
}

fn line(event: &CheckEvent) -> std::result::Result<Bytes, std::io::Error> {
    let mut text = serde_json::to_vec(event).map_err(std::io::Error::other)?;
    text.push(b'\n');
    Ok(text.into())
}

async fn checked(rest: &Rest, actor: Actor, volume: VolumeRef, repair: bool) -> Result<CheckReport> {
    let visit = match Visit::begin(rest, actor.clone(), volume.clone(), "check").await {
        Ok(visit) => visit,
        // What keeps it from being opened is what is looked for.
        Err(e) if matches!(e.kind, ErrorKind::Corrupt | ErrorKind::Unsupported) => return unopened(rest, &volume, e).await,
        Err(e) => return Err(e),
    };
    let done = if repair {
        rest.control.apply(&actor, Intent::RepairVolume { volume }).await.and_then(|outcome| match outcome {
            Outcome::Checked(report) => Ok(*report),
            _ => Err(Error::internal("the volume was checked, but nobody said what was found")),
        })
    } else {
        rest.control.check(&volume).await
    };
    visit.end().await;
    done
}

/// The report on a volume that cannot be opened: why, and which of its parts are damaged.
async fn unopened(rest: &Rest, volume: &VolumeRef, why: Error) -> Result<CheckReport> {
    let mut report = match rest.control.examine(volume).await {
        Ok(report) => report,
        Err(e) => {
            tracing::warn!(error = %e, "a volume that cannot be opened could not be examined either");
            CheckReport::default()
        }
    };
    let remedy = why.remedy.clone().unwrap_or_else(|| "orlop export reads out what is whole; then restore the rest from a copy".to_owned());
    report.findings.insert(
        0,
        Finding {
            kind: FindingKind::Structure,
            at: volume.to_string(),
            what: format!("the volume cannot be opened: {}", why.message),
            paths: Vec::new(),
            state: FindingState::Left,
            remedy: Some(remedy),
        },
    );
    report.conclude();
    Ok(report)
}

/// Tells where the bytes of a volume are, on the host and in the store.
#[utoipa::path(get, path = "/v1/volumes/{volume}/space", tag = "care", params(("volume" = String, Path, description = "Name or id")),
    responses((status = 200, body = Space), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn space(State(rest): State<Rest>, Caller(actor): Caller, Named(volume): Named) -> Answer<Json<Space>> {
    let visit = Visit::begin(&rest, actor, volume.clone(), "du").await?;
    let space = rest.control.space(&volume).await;
    visit.end().await;
    Ok(Json(space?))
}

/// Deletes what lies in a volume's places and nothing refers to. What is found first is only marked; a later run deletes it.
#[utoipa::path(post, path = "/v1/volumes/{volume}/gc", tag = "care", params(("volume" = String, Path, description = "Name or id")),
    request_body = Collect,
    responses((status = 200, body = GcReport), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn gc(State(rest): State<Rest>, Caller(actor): Caller, Named(volume): Named, body: Bytes) -> Answer<Json<GcReport>> {
    let request: Collect = decode(&body)?;
    let visit = Visit::begin(&rest, actor.clone(), volume.clone(), "gc").await?;
    let done = if request.dry_run {
        rest.control.rehearse_collection(&volume).await
    } else {
        rest.control.apply(&actor, Intent::CollectVolume { volume }).await.and_then(|outcome| match outcome {
            Outcome::Collected(report) => Ok(*report),
            _ => Err(Error::internal("the volume was collected, but nobody said what went")),
        })
    };
    visit.end().await;
    Ok(Json(done?))
}
