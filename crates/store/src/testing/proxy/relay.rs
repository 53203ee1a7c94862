//! One connection: requests go to the server, answers come back, and each suffers what the rules say.

use super::Shared;
use super::rules::Fault;
use super::wire::{Framing, Head, Wire};
use crate::testing::{ACCESS_KEY, SECRET_KEY};
use object_store::HeaderMap;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpRequest, HttpRequestBody};
use std::collections::HashMap;
use std::io::Result;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::net::TcpStream;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// In order.
    Close,
    /// With a reset.
    Reset,
    /// Not yet.
    Open,
}

pub(super) async fn connection(shared: &Shared, stream: TcpStream) {
    let mut client = Wire::new(stream);
    let end = tokio::select! {
        end = talk(shared, &mut client) => end.unwrap_or(End::Reset),
        () = shared.goes_down() => End::Reset,
    };
    if end == End::Reset {
        // If it fails, the client sees an orderly end in the middle of an answer.
        let _ = client.stream.set_zero_linger();
    }
}

async fn talk(shared: &Shared, client: &mut Wire) -> Result<End> {
    let mut upstream = None;
    while let Some(head) = client.head().await? {
        match exchange(shared, client, &mut upstream, head).await? {
            End::Open => {}
            end => return Ok(end),
        }
    }
    Ok(End::Close)
}

/// What one request suffers.
struct Suffers {
    all: Vec<Fault>,
    chance: u64,
}

impl Suffers {
    fn has(&self, fault: Fault) -> bool {
        self.all.contains(&fault)
    }

    async fn pace(&self, bytes: usize) {
        for fault in &self.all {
            if let Fault::Bandwidth(per_second) = fault {
                tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / (*per_second).max(1) as f64)).await;
            }
        }
    }
}

async fn exchange(shared: &Shared, client: &mut Wire, upstream: &mut Option<Wire>, mut head: Head) -> Result<End> {
    let (method, target) = (head.word(0).to_owned(), head.word(1).to_owned());
    // Asked before the request counts: whoever changes the faults upon seeing it shall reach it.
    let changed = shared.generation();
    let (all, chance) = shared.arrives(&method, &target);
    let suffers = Suffers { all, chance };
    if suffers.has(Fault::Reset) {
        return Ok(End::Reset);
    }
    if suffers.has(Fault::Hang) {
        shared.changes(changed).await;
        return Ok(End::Reset);
    }

    if head.get("expect").is_some() {
        // The proxy wants the body in any case; the server need not be asked.
        head.remove("expect");
        client.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let framing = head.framing(Framing::Done)?;
    let (mut left, mut body) = (framing, Vec::new());
    while let Some(piece) = client.piece(&mut left).await? {
        suffers.pace(piece.len()).await;
        body.extend_from_slice(&piece);
    }
    shared.moved(body.len() as u64, 0);
    for fault in &suffers.all {
        if let Fault::Latency(time) = fault {
            tokio::time::sleep(*time).await;
        }
    }
    if let Some(status) = suffers.all.iter().find_map(|f| if let Fault::Status(s) = f { Some(*s) } else { None }) {
        client.send(refusal(status, method == "HEAD").as_bytes()).await?;
        return Ok(if head.closes() { End::Close } else { End::Open });
    }
    if suffers.has(Fault::StripConditions) {
        strip(&mut head);
    }

    let one_at_a_time = suffers.has(Fault::OneAtATime);
    let reads = method == "GET" || method == "HEAD";
    let _write = if one_at_a_time && !reads { Some(shared.turn.write().await) } else { None };
    let _read = if one_at_a_time && reads { Some(shared.turn.read().await) } else { None };
    let (mut server, answer) = ask(shared, upstream.take(), &head, framing, &body).await?;
    let end = answer_back(shared, client, &mut server, answer, &method, &suffers).await?;
    if end == End::Open {
        *upstream = Some(server);
        if head.closes() {
            return Ok(End::Close);
        }
    }
    Ok(end)
}

/// Sends the request and reads the head of its answer, on a new connection if the old one turns out to be dead.
async fn ask(shared: &Shared, old: Option<Wire>, head: &Head, framing: Framing, body: &[u8]) -> Result<(Wire, Head)> {
    if let Some(mut old) = old.filter(|w| !w.stale())
        && let Ok(answer) = ask_on(&mut old, head, framing, body).await
    {
        return Ok((old, answer));
    }
    let mut new = Wire::new(TcpStream::connect(shared.upstream).await?);
    let answer = ask_on(&mut new, head, framing, body).await?;
    Ok((new, answer))
}

async fn ask_on(server: &mut Wire, head: &Head, framing: Framing, body: &[u8]) -> Result<Head> {
    let sent = async {
        server.send(&head.bytes()).await?;
        if !body.is_empty() {
            server.send_piece(framing, body).await?;
        }
        server.send_end(framing).await
    }
    .await;
    loop {
        // A server that refuses before it has read the body answers, and then resets what is still on its way.
        let Ok(Some(answer)) = server.head().await else {
            sent?;
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        };
        // 100 and its like come before the answer.
        if !answer.word(1).starts_with('1') {
            return Ok(answer);
        }
    }
}

async fn answer_back(
    shared: &Shared,
    client: &mut Wire,
    server: &mut Wire,
    mut answer: Head,
    method: &str,
    suffers: &Suffers,
) -> Result<End> {
    let status = answer.word(1);
    let good = status.starts_with('2');
    let framing = if method == "HEAD" || status == "204" || status == "304" { Framing::Done } else { answer.framing(Framing::Close)? };
    let mut left = framing;
    if suffers.has(Fault::LoseAnswer) {
        while server.piece(&mut left).await?.is_some() {}
        return Ok(End::Reset);
    }
    if let Some(seconds) = suffers.all.iter().find_map(|f| if let Fault::Ahead(s) = f { Some(*s) } else { None }) {
        shift_times(&mut answer, seconds);
    }
    if suffers.has(Fault::StripVersion) {
        answer.remove("etag");
    }
    client.send(&answer.bytes()).await?;
    let half = if let Framing::Length(n) = framing { n / 2 } else { 0 };
    // Of a body whose length nobody knows, a bit of the first piece is wrong.
    let mut wrong =
        (good && suffers.has(Fault::Flip)).then(|| if let Framing::Length(n) = framing { suffers.chance % n.max(1) } else { 0 });
    let mut sent = 0;
    while let Some(mut piece) = server.piece(&mut left).await? {
        suffers.pace(piece.len()).await;
        let len = piece.len() as u64;
        if let Some(at) = wrong.filter(|at| (sent..sent + len).contains(at)) {
            piece[usize::try_from(at - sent).expect("it is within the piece")] ^= 1 << (suffers.chance >> 60 & 7);
            wrong = None;
        }
        if suffers.has(Fault::Truncate) && sent + len > half {
            let fits = usize::try_from(half - sent).expect("it is within the piece");
            client.send_piece(framing, &piece[..fits.max(usize::from(framing == Framing::Chunked))]).await?;
            return Ok(End::Close);
        }
        client.send_piece(framing, &piece).await?;
        shared.moved(0, len);
        sent += len;
    }
    client.send_end(framing).await?;
    Ok(if framing == Framing::Close || answer.closes() { End::Close } else { End::Open })
}

/// As a server whose clock is that many seconds ahead would date it.
fn shift_times(answer: &mut Head, seconds: i64) {
    for (name, value) in &mut answer.headers {
        if (name.eq_ignore_ascii_case("date") || name.eq_ignore_ascii_case("last-modified"))
            && let Ok(told) = OffsetDateTime::parse(value, &Rfc2822)
            && let Ok(shifted) = (told + time::Duration::seconds(seconds)).format(&Rfc2822)
        {
            *value = shifted.replace("+0000", "GMT");
        }
    }
}

fn refusal(status: u16, head_only: bool) -> String {
    let code = match status {
        429 | 503 => "SlowDown",
        403 => "AccessDenied",
        404 => "NoSuchKey",
        _ => "InternalError",
    };
    let body = format!("<Error><Code>{code}</Code><Message>made by the fault proxy</Message></Error>");
    let length = if head_only { 0 } else { body.len() };
    let head = format!("HTTP/1.1 {status} Fault\r\ncontent-type: application/xml\r\ncontent-length: {length}\r\n\r\n");
    if head_only { head } else { head + &body }
}

/// Removes the conditions, and signs anew what was signed: the conditions were part of it.
fn strip(head: &mut Head) {
    let before = head.headers.len();
    head.remove("if-match");
    head.remove("if-none-match");
    let signed = head.get("authorization").and_then(|a| a.split_once("SignedHeaders=")?.1.split(',').next().map(str::to_owned));
    let (Some(signed), true) = (signed, head.headers.len() < before) else { return };

    let names: Vec<&str> = signed.split(';').filter(|n| !matches!(*n, "host" | "if-match" | "if-none-match")).collect();
    let kept: HashMap<String, String> = names.iter().filter_map(|n| Some(((*n).to_owned(), head.get(n)?.to_owned()))).collect();
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    *request.headers_mut() = HeaderMap::try_from(&kept).expect("headers that arrived are headers");
    *request.method_mut() = head.word(0).parse().expect("a method that arrived is a method");
    let host = head.get("host").expect("an HTTP/1.1 request names its host").to_owned();
    *request.uri_mut() = format!("http://{host}{}", head.word(1)).parse().expect("a target that arrived is a target");

    let credential = AwsCredential { key_id: ACCESS_KEY.to_owned(), secret_key: SECRET_KEY.to_owned(), token: None };
    let digest = head.get("x-amz-content-sha256").and_then(crate::keys::unhex::<32>);
    AwsAuthorizer::new(&credential, "s3", "us-east-1")
        .try_authorize(&mut request, digest.as_ref().map(|d| d.as_slice()))
        .expect("signing needs nothing from outside");
    for name in ["authorization", "x-amz-date", "x-amz-content-sha256"] {
        let value = request.headers().get(name).and_then(|v| v.to_str().ok()).expect("signing sets it").to_owned();
        head.remove(name);
        head.headers.push((name.to_owned(), value));
    }
}
