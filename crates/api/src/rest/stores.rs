//! `/v1/stores`: add, list, inspect, set, test, remove; the volumes that lie in one, and adopting them.

use super::Rest;
use super::body::{NamedStore, decode};
use super::error::Answer;
use super::peer::Caller;
use super::volumes::the_volume;
use crate::wire::{AddStore, AdoptVolume};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use orlop_model::{Error, FoundVolume, Intent, Outcome, Store, StoreSpec, StoreTest, StoreUpdate, Volume, VolumeOptions};

fn said_nothing<T>() -> Answer<T> {
    Err(Error::internal("the change succeeded without saying what it changed").into())
}

/// Lists stores in the order of their names.
#[utoipa::path(get, path = "/v1/stores", tag = "stores",
    responses((status = 200, body = Vec<Store>), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn list(State(rest): State<Rest>) -> Answer<Json<Vec<Store>>> {
    Ok(Json(rest.control.stores().await?))
}

/// Adds a store after an examination. A name that exists is refused, unless everything asked for is as it stands.
/// Credentials are a reference (`env:PREFIX`, `file:/path`, `command:/program`, `instance`, ...), never the secret.
#[utoipa::path(post, path = "/v1/stores", tag = "stores", request_body = AddStore,
    responses((status = 201, body = Store), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn add(State(rest): State<Rest>, Caller(actor): Caller, body: Bytes) -> Answer<(StatusCode, Json<Store>)> {
    let request: AddStore = decode(&body)?;
    let credentials = request.credentials.map(|c| c.parse()).transpose()?;
    let spec = StoreSpec { url: request.url, settings: request.settings, credentials };
    match rest.control.apply(&actor, Intent::AddStore { name: request.name.parse()?, spec }).await? {
        Outcome::Store(store) => Ok((StatusCode::CREATED, Json(*store))),
        _ => said_nothing(),
    }
}

/// Shows one store with what it was found able to do.
#[utoipa::path(get, path = "/v1/stores/{store}", tag = "stores", params(("store" = String, Path, description = "Name")),
    responses((status = 200, body = Store), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn inspect(State(rest): State<Rest>, NamedStore(store): NamedStore) -> Answer<Json<Store>> {
    Ok(Json(rest.control.store(&store).await?))
}

/// Changes how a store is reached, after an examination: its credentials, its settings. Where it is stays: a change under
/// which the volumes that live there are not found is refused. Mounted volumes are told without being unmounted.
#[utoipa::path(patch, path = "/v1/stores/{store}", tag = "stores", params(("store" = String, Path, description = "Name")),
    request_body = StoreUpdate,
    responses((status = 200, body = Store), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn set(State(rest): State<Rest>, Caller(actor): Caller, NamedStore(name): NamedStore, body: Bytes) -> Answer<Json<Store>> {
    match rest.control.apply(&actor, Intent::SetStore { name, update: decode(&body)? }).await? {
        Outcome::Store(store) => Ok(Json(*store)),
        _ => said_nothing(),
    }
}

/// Examines a store again, keeps what was found, and measures how fast it is.
#[utoipa::path(post, path = "/v1/stores/{store}/test", tag = "stores", params(("store" = String, Path, description = "Name")),
    responses((status = 200, body = StoreTest), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn test(State(rest): State<Rest>, Caller(actor): Caller, NamedStore(name): NamedStore) -> Answer<Json<StoreTest>> {
    match rest.control.apply(&actor, Intent::TestStore { name }).await? {
        Outcome::Tested(test) => Ok(Json(*test)),
        _ => said_nothing(),
    }
}

/// Forgets a store in which no volume lives, removed ones that can be restored included. Nothing in it is touched.
#[utoipa::path(delete, path = "/v1/stores/{store}", tag = "stores", params(("store" = String, Path, description = "Name")),
    responses((status = 200, description = "Always null", body = Option<Store>),
        (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn remove(State(rest): State<Rest>, Caller(actor): Caller, NamedStore(name): NamedStore) -> Answer<Json<Option<Store>>> {
    rest.control.apply(&actor, Intent::RemoveStore { name }).await?;
    Ok(Json(None))
}

/// Lists the volumes that lie in a store, whoever made them.
#[utoipa::path(get, path = "/v1/stores/{store}/volumes", tag = "stores", params(("store" = String, Path, description = "Name")),
    responses((status = 200, body = Vec<FoundVolume>), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn found(State(rest): State<Rest>, NamedStore(name): NamedStore) -> Answer<Json<Vec<FoundVolume>>> {
    Ok(Json(rest.control.found_volumes(&name).await?))
}

/// Makes a volume known here that lies in a store already, made on another host. Adopting it again as it stands
/// changes nothing.
#[utoipa::path(post, path = "/v1/stores/{store}/volumes", tag = "stores", params(("store" = String, Path, description = "Name")),
    request_body = AdoptVolume,
    responses((status = 201, body = Volume), (status = "default", description = "What failed, why, and the remedy", body = Error)))]
pub(crate) async fn adopt(
    State(rest): State<Rest>,
    Caller(actor): Caller,
    NamedStore(store): NamedStore,
    body: Bytes,
) -> Answer<(StatusCode, Json<Volume>)> {
    let request: AdoptVolume = decode(&body)?;
    let intent = Intent::AdoptVolume {
        name: request.name.parse()?,
        store,
        volume: request.id.parse()?,
        options: VolumeOptions::parse(request.options.iter().map(|(k, v)| (k.as_str(), v.as_str())))?,
        labels: request.labels,
    };
    Ok((StatusCode::CREATED, Json(the_volume(rest.control.apply(&actor, intent).await?)?)))
}
