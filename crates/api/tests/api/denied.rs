//! No call of the local API is open to somebody who may not use it.

use crate::world::World;
use axum::http::{Method, StatusCode};
use serde_json::Value;

/// Every call that the document describes; the router is made from the same table.
fn calls() -> Vec<(Method, String)> {
    let document = serde_json::to_value(orlop_api::rest::openapi()).expect("a document");
    let mut calls = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("calls").keys().filter(|k| *k != "parameters") {
            let method = method.to_uppercase().parse().expect("a method");
            calls.push((method, path.replace("{volume}", "db").replace("{store}", "default")));
        }
    }
    calls
}

#[tokio::test]
async fn every_call_is_refused_to_strangers_and_to_the_unknown() {
    let world = World::new().await;
    let calls = calls();
    assert!(calls.len() >= 21, "the document lists {} calls", calls.len());
    for (method, path) in &calls {
        for who in [Some(4242), None] {
            let (status, body) = world.call_as(who, method.clone(), path, "{}").await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path} by {who:?}");
            let error: Value = serde_json::from_slice(&body).expect("an error is JSON");
            assert_eq!(error["kind"], "denied", "{method} {path}");
            assert!(error["remedy"].is_string() || error["message"].is_string());
        }
        // The same call by root gets somewhere, so the refusal was about who asked.
        let (status, _) = world.call_as(Some(0), method.clone(), path, "{}").await;
        assert_ne!(status, StatusCode::FORBIDDEN, "{method} {path} by root");
    }
    assert!(world.control.volumes(Default::default()).await.expect("reads").is_empty(), "a refused call changed something");
}

#[tokio::test]
async fn a_path_that_does_not_exist_tells_a_stranger_nothing_else() {
    let world = World::new().await;
    assert_eq!(world.call_as(Some(4242), Method::GET, "/v1/nothing", "").await.0, StatusCode::FORBIDDEN);
    assert_eq!(world.call_as(Some(0), Method::GET, "/v1/nothing", "").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn who_is_refused_is_in_the_audit_with_the_call_and_its_volume_and_cannot_fill_it() {
    let world = World::new().await;
    world.call(Method::POST, "/v1/volumes", r#"{"name":"db"}"#).await;
    for _ in 0..20 {
        world.call_as(Some(4242), Method::DELETE, "/v1/volumes/db?now=true", "").await;
    }
    let (_, of_db) = world.call(Method::GET, "/v1/audit?volume=db&actor=uid:4242", "").await;
    assert_eq!(of_db.as_array().map(Vec::len), Some(1), "{of_db}");
    let record = &of_db[0];
    for (what, value) in [("verb", "api.call"), ("target", "db"), ("phase", "failed")] {
        assert_eq!(record[what], value, "{record}");
    }
    assert_eq!((&record["detail"]["kind"], &record["detail"]["call"]), (&"denied".into(), &"DELETE /v1/volumes/db".into()));
    assert_eq!(record["actor"]["uid"], 4242);
    for n in 0..200 {
        let path = format!("/v1/volumes/v{n}/{}", "x".repeat(5000));
        assert_eq!(world.call_as(Some(4242), Method::GET, &path, "").await.0, StatusCode::FORBIDDEN);
    }
    let (_, all) = world.call(Method::GET, "/v1/audit?actor=uid:4242", "").await;
    assert!(all.as_array().is_some_and(|all| all.len() < 20) && all.to_string().len() < 20_000, "{all}");
}
