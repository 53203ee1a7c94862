//! The local API from call to answer: what is created is listed, changed, removed and restored, and every
//! mistake is named.

use crate::world::World;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request, StatusCode};
use orlop_api::rest::Peer;
use orlop_model::Actor;
use serde_json::json;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use tower::ServiceExt;

#[tokio::test]
async fn a_volume_lives_through_all_its_calls() {
    let world = World::new().await;
    let (status, made) = world.call(Method::POST, "/v1/volumes", r#"{"name":"db","options":{"size":"1G"},"labels":{"a":"b"}}"#).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!((&made["name"], &made["labels"]["a"], &made["options"]["size"]), (&json!("db"), &json!("b"), &json!(1 << 30)));

    let id = made["id"].as_str().expect("an id").to_owned();
    for reference in ["db", id.as_str()] {
        let (status, seen) = world.call(Method::GET, &format!("/v1/volumes/{reference}"), "").await;
        assert_eq!((status, &seen["id"]), (StatusCode::OK, &made["id"]));
    }
    let (_, changed) = world.call(Method::PATCH, "/v1/volumes/db", r#"{"options":{"size":"2G"},"labels":{"a":""}}"#).await;
    assert_eq!(changed["options"]["size"], json!(2u64 << 30));
    assert_eq!(changed["labels"], json!({}));

    let (_, protected) = world.call(Method::POST, "/v1/volumes/db/protect", r#"{"protected":true}"#).await;
    assert_eq!(protected["protected"], true);
    let (status, refusal) = world.call(Method::DELETE, "/v1/volumes/db", "").await;
    assert_eq!((status, &refusal["kind"]), (StatusCode::CONFLICT, &json!("protected")));
    assert!(refusal["remedy"].is_string());
    world.call(Method::POST, "/v1/volumes/db/protect", r#"{"protected":false}"#).await;

    let (status, removed) = world.call(Method::DELETE, "/v1/volumes/db", "").await;
    assert_eq!((status, &removed["state"]), (StatusCode::OK, &json!("removed")));
    assert!(removed["purge_at"].is_string());
    assert_eq!(world.call(Method::GET, "/v1/volumes", "").await.1, json!([]));
    assert_eq!(world.call(Method::GET, "/v1/volumes?all=true", "").await.1[0]["name"], "db");

    let (status, back) = world.call(Method::POST, "/v1/volumes/db/restore", r#"{"name":"db2"}"#).await;
    assert_eq!((status, &back["name"], &back["id"]), (StatusCode::OK, &json!("db2"), &made["id"]));
    let (status, gone) = world.call(Method::DELETE, "/v1/volumes/db2?now=true", "").await;
    assert_eq!((status, gone.is_null()), (StatusCode::OK, true));
    assert_eq!(world.call(Method::GET, "/v1/volumes?all=true", "").await.1, json!([]));

    let (_, events) = world.call(Method::GET, "/v1/audit?verb=volume.create", "").await;
    assert_eq!(events.as_array().map(Vec::len), Some(2), "{events}");
    let (_, report) = world.call(Method::GET, "/v1/audit/verify", "").await;
    assert_eq!(report["breaks"], json!([]));
}

#[tokio::test]
async fn a_folder_is_attached_and_given_back() {
    let world = World::new().await;
    world.call(Method::POST, "/v1/volumes", r#"{"name":"db"}"#).await;
    let dir = tempfile::tempdir().expect("folder");
    let dir = dir.path();
    let body = json!({ "directory": dir, "read_only": true }).to_string();
    let (status, first) = world.call(Method::POST, "/v1/volumes/db/attach", &body).await;
    assert_eq!(status, StatusCode::OK, "{first}");
    let (_, again) = world.call(Method::POST, "/v1/volumes/db/attach", &body).await;
    assert_eq!(first["attachment"], again["attachment"], "the same folder twice is one attachment");
    let (_, status) = world.call(Method::GET, "/v1/status", "").await;
    assert_eq!((&status["control"]["volumes"]["attached"], &status["usage"]["used_bytes"]), (&json!(1), &json!(4096)));
    let (status, seen) = world.call(Method::POST, "/v1/volumes/db/detach", &json!({ "directory": dir }).to_string()).await;
    assert_eq!((status, &seen["attachments"]), (StatusCode::OK, &json!([])));
}

#[tokio::test]
async fn reading_holds_the_volume_only_as_long_as_it_lasts() {
    let world = World::new().await;
    world.call(Method::POST, "/v1/volumes", r#"{"name":"db"}"#).await;
    let file = world.root.path().join("file");
    // More than one piece, so that the stream is one.
    let content = vec![7u8; 3 << 20];
    std::fs::write(&file, &content).expect("file");
    for (path, expected) in [(file.display().to_string(), content.as_slice()), ("/dev/null".to_owned(), &[])] {
        let (status, body) = world.call_as(Some(0), Method::GET, &format!("/v1/volumes/db/content?path={path}"), "").await;
        assert_eq!((status, body == expected), (StatusCode::OK, true), "{path}");
        assert_eq!(world.call(Method::GET, "/v1/volumes/db", "").await.1["attachments"], json!([]), "{path}");
    }
    let at = |offset: usize| format!("/v1/volumes/db/content?path={}&offset={offset}", file.display());
    for (offset, left) in [(5, content.len() - 5), (content.len() - 1, 1), (content.len(), 0)] {
        let (status, body) = world.call_as(Some(0), Method::GET, &at(offset), "").await;
        assert_eq!((status, body.len()), (StatusCode::OK, left), "{offset}");
    }
    assert_eq!(world.call(Method::GET, &at(content.len() + 1), "").await.0, StatusCode::BAD_REQUEST);
    // What cannot be read is an answer with its reason, and not a stream that breaks off.
    let (status, error) = world.call(Method::GET, &format!("/v1/volumes/db/content?path={}", world.root.path().display()), "").await;
    assert!(!status.is_success() && error["message"].as_str().is_some_and(|m| m.contains("byte 0")), "{status} {error}");
    assert_eq!(world.call(Method::GET, "/v1/volumes/db", "").await.1["attachments"], json!([]));
    let (status, _) = world.call(Method::GET, "/v1/volumes/db/content?path=/absent", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, listing) = world.call(Method::GET, "/v1/volumes/db/files", "").await;
    assert_eq!((status, listing), (StatusCode::OK, json!({ "entries": [] })));
    let (status, _) = world.call(Method::GET, "/v1/volumes/db/files?path=/absent", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(world.call(Method::GET, "/v1/volumes/db", "").await.1["attachments"], json!([]));
}

#[tokio::test]
async fn a_name_that_is_no_text_is_asked_for_by_its_bytes() {
    let world = World::new().await;
    world.call(Method::POST, "/v1/volumes", r#"{"name":"db"}"#).await;
    for (name, sent) in [(&b"n\xffm+e %"[..], "n%ffm%2Be+%25"), ("\u{fffd}ä".as_bytes(), "%EF%BF%BD%c3%a4")] {
        std::fs::write(world.root.path().join(OsStr::from_bytes(name)), name).expect("file");
        for query in ["path={}", "offset=0&path={}", "path={}&offset=0"] {
            let query = query.replace("{}", &format!("{}/{sent}", world.root.path().display()));
            let (status, body) = world.call_as(Some(0), Method::GET, &format!("/v1/volumes/db/content?{query}"), "").await;
            assert_eq!((status, body.as_slice()), (StatusCode::OK, name), "{query}");
        }
        let (status, error) = world.call(Method::GET, &format!("/v1/volumes/db/files?path=/{sent}"), "").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(error["message"].as_str().is_some_and(|m| m.contains("\u{fffd}")), "{error}");
    }
    assert_eq!(world.call(Method::GET, "/v1/volumes/db/files?path=%ff", "").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(world.call(Method::GET, "/v1/volumes/db/files?path=/%ff%00", "").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn mistakes_are_named_and_change_nothing() {
    let world = World::new().await;
    world.call(Method::POST, "/v1/volumes", r#"{"name":"db"}"#).await;
    let before = world.call(Method::GET, "/v1/volumes?all=true", "").await.1;
    let post = Method::POST;
    for (method, path, body, status, word) in [
        (post.clone(), "/v1/volumes", "", 400, "name"),
        (post.clone(), "/v1/volumes", "{", 400, "body"),
        (post.clone(), "/v1/volumes", r#"{"name":"a/b"}"#, 400, "a/b"),
        (post.clone(), "/v1/volumes", r#"{"name":"x","sise":1}"#, 400, "sise"),
        (post.clone(), "/v1/volumes", r#"{"name":"x","options":{"size":"big"}}"#, 400, "size"),
        (post.clone(), "/v1/volumes", r#"{"name":"x","options":{"store":"nowhere"}}"#, 404, "nowhere"),
        (post.clone(), "/v1/volumes", r#"{"name":"db","options":{"size":"1G"}}"#, 409, "db"),
        (Method::GET, "/v1/volumes/absent", "", 404, "absent"),
        (Method::GET, "/v1/volumes/-x", "", 400, "-x"),
        (Method::PATCH, "/v1/volumes/db", r#"{"options":{"uid":"7"}}"#, 400, "uid"),
        (Method::DELETE, "/v1/volumes/absent", "", 404, "absent"),
        (post.clone(), "/v1/volumes/absent/restore", "", 404, "absent"),
        (post.clone(), "/v1/volumes/db/attach", r#"{"directory":"relative"}"#, 400, "relative"),
        (post.clone(), "/v1/volumes/db/detach", "{}", 400, "exactly one"),
        (Method::GET, "/v1/volumes/db/files?path=relative", "", 400, "relative"),
        (Method::GET, "/v1/audit?since=yesterday", "", 400, "yesterday"),
        (Method::GET, "/v1/volumes?all=maybe", "", 400, "all"),
        (Method::GET, "/v1/volumes?al=true", "", 400, "al"),
        (Method::GET, "/v1/volumes/%ff", "", 400, "volume"),
        (Method::PUT, "/v1/volumes", "", 405, "PUT"),
    ] {
        let (got, error) = world.call(method.clone(), path, body).await;
        assert_eq!(got.as_u16(), status, "{method} {path} {body}: {error}");
        assert!(error["message"].as_str().is_some_and(|m| m.contains(word)), "{method} {path} {body}: {error}");
        assert!(error["remedy"].is_string(), "{method} {path} {body}: {error}");
    }
    assert_eq!(world.call(Method::GET, "/v1/volumes?all=true", "").await.1, before);
}

#[tokio::test]
async fn a_wrong_method_is_told_with_those_that_are_taken() {
    let world = World::new().await;
    for (method, path, taken) in [(Method::PUT, "/v1/volumes", ["GET", "POST"]), (Method::POST, "/v1/volumes/db", ["PATCH", "DELETE"])] {
        let mut request = Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
        request.extensions_mut().insert(ConnectInfo(Peer(Some(Actor::Local { uid: 0, gid: 0, pid: 1 }))));
        let response = world.rest.clone().oneshot(request).await.expect("a router always answers");
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allow = response.headers()["allow"].to_str().expect("plain text");
        assert!(taken.iter().all(|m| allow.split(',').any(|a| a.trim() == *m)), "{path}: {allow}");
    }
}

#[tokio::test]
async fn the_way_down_is_asked_of_the_host() {
    let world = World::new().await;
    let (status, _) = world.call(Method::POST, "/v1/shutdown", r#"{"force":true}"#).await;
    assert_eq!(status, StatusCode::OK);
    let shutdowns = world.host.shutdowns.lock().expect("whole");
    assert_eq!((shutdowns.len(), shutdowns[0].force, shutdowns[0].keep_mounts), (1, true, false));
}

#[tokio::test]
async fn an_export_is_what_verify_takes() {
    let world = World::new().await;
    world.call(Method::POST, "/v1/volumes", r#"{"name":"db"}"#).await;
    let (status, body) = world.call_as(Some(0), Method::GET, "/v1/audit/export", "").await;
    assert_eq!(status, StatusCode::OK);
    let file = world.root.path().join("export");
    std::fs::write(&file, body).expect("file");
    let report = orlop_control::verify_file(&file).expect("readable");
    assert!(report.is_intact() && report.events >= 3, "{report:?}");
}

#[tokio::test]
async fn a_store_lives_through_all_its_calls() {
    let world = World::new().await;
    let body = json!({ "name": "cloud", "url": "s3://bucket/p", "settings": { "region": "x" }, "credentials": "env:AWS_" }).to_string();
    let (status, made) = world.call(Method::POST, "/v1/stores", &body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!((&made["credentials"], &made["capabilities"]["conditional_create"]), (&json!("env:AWS_"), &json!(true)));
    assert_eq!(world.call(Method::POST, "/v1/stores", &body).await, (StatusCode::CREATED, made.clone()), "the same again");
    let (_, all) = world.call(Method::GET, "/v1/stores", "").await;
    assert_eq!((&all[0]["name"], &all[1]["name"]), (&json!("cloud"), &json!("default")));
    assert_eq!(world.call(Method::GET, "/v1/stores/cloud", "").await.1, made);
    let (_, tested) = world.call(Method::POST, "/v1/stores/cloud/test", "").await;
    assert_eq!((&tested["name"], &tested["put_micros"]), (&json!("cloud"), &json!(1200)));
    let (status, _) = world.call(Method::POST, "/v1/volumes", r#"{"name":"db","options":{"store":"cloud"}}"#).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, refused) = world.call(Method::DELETE, "/v1/stores/cloud", "").await;
    assert_eq!((status, &refused["kind"]), (StatusCode::CONFLICT, &json!("busy")), "{refused}");
    world.call(Method::DELETE, "/v1/volumes/db?now=true", "").await;
    assert_eq!(world.call(Method::DELETE, "/v1/stores/cloud", "").await, (StatusCode::OK, json!(null)));
    assert_eq!(world.call(Method::GET, "/v1/stores/cloud", "").await.0, StatusCode::NOT_FOUND);
    let careless = r#"{"name":"careless","url":"s3://careless"}"#;
    let (_, made) = world.call(Method::POST, "/v1/stores", careless).await;
    assert!(made["refusal"].is_string() && made["capabilities"]["conditional_replace"] == false, "{made}");
    for (body, code) in [
        (r#"{"name":"a/b","url":"s3://x"}"#, StatusCode::BAD_REQUEST),
        (r#"{"name":"x","url":"s3://unreachable"}"#, StatusCode::SERVICE_UNAVAILABLE),
        (r#"{"name":"x","url":"s3://AK:planted@x"}"#, StatusCode::BAD_REQUEST),
        (r#"{"name":"x","url":"s3://x","credentials":"planted"}"#, StatusCode::BAD_REQUEST),
        (r#"{"name":"x","url":"s3://x","settings":{"secret_key":"planted"}}"#, StatusCode::BAD_REQUEST),
        (r#"{"name":"careless","url":"s3://other"}"#, StatusCode::CONFLICT),
        (r#"{"name":"x","url":"s3://x","sise":1}"#, StatusCode::BAD_REQUEST),
    ] {
        let (status, refused) = world.call(Method::POST, "/v1/stores", body).await;
        assert_eq!(status, code, "{body}: {refused}");
        assert!(refused["remedy"].is_string() && !refused.to_string().contains("planted"), "{refused}");
    }
}
