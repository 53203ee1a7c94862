//! The OpenAPI document that is kept in the repository is the one that the daemon answers.

use crate::world::World;
use axum::http::Method;
use std::path::Path;

#[test]
fn the_document_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let made = serde_json::to_string_pretty(&orlop_api::rest::openapi()).expect("a document") + "\n";
    if std::env::var_os("ORLOP_WRITE_DOCS").is_some() {
        std::fs::write(&path, &made).expect("docs/openapi.json can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == made, "docs/openapi.json is stale; write it with: ORLOP_WRITE_DOCS=1 cargo test -p orlop-api document");
}

#[tokio::test]
async fn the_daemon_answers_the_document() {
    let (status, body) = World::new().await.call(Method::GET, "/v1/openapi.json", "").await;
    assert!(status.is_success());
    assert_eq!(body["openapi"], "3.1.0");
    assert_eq!(body, serde_json::to_value(orlop_api::rest::openapi()).expect("a document"));
}

#[test]
fn every_call_says_what_it_is_for_and_how_it_fails() {
    let document = serde_json::to_value(orlop_api::rest::openapi()).expect("a document");
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, call) in item.as_object().expect("calls") {
            assert!(call["summary"].as_str().is_some_and(|s| s.len() > 10), "{method} {path} has no summary");
            let failure = &call["responses"]["default"]["content"]["application/json"]["schema"]["$ref"];
            assert_eq!(failure, "#/components/schemas/Error", "{method} {path} does not describe its errors");
        }
    }
}
