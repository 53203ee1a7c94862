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
