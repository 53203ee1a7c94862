//! Between the client and the wire: a refusal keeps its code and message and nothing else, and new credentials are tried.
//!
//! A server that refuses a signature answers with the headers it signed, the key's id and the signature it expected. The
//! client would put all of it into its error, so the answer is cut down here, before the client sees it. Answers whose
//! status says too little, or the wrong thing, become a [`Refusal`] that [`crate::error`] finds.

use super::keys::Keys;
use super::pace::{LARGE, MOST, Pace};
use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector};
use orlop_model::ErrorKind;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A store's refusal that its HTTP status alone does not tell.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refusal {
    text: String,
    /// What it means to the caller.
    pub(crate) kind: ErrorKind,
    /// What to do about it.
    pub(crate) remedy: &'static str,
}

impl Refusal {
    /// The refusal at the bottom of an error, if there is one.
    pub(crate) fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Refusal> {
        let mut next = Some(error);
        while let Some(e) = next {
            if let Some(found) = e.downcast_ref::<Refusal>() {
                return Some(found);
            }
            next = e.source();
        }
        None
    }
}

/// Makes the client's connection to the world.
#[derive(Debug)]
pub(super) struct Connector {
    keys: Option<Arc<Keys>>,
    region: String,
    timeout: Duration,
}

impl Connector {
    /// `timeout` is that of the client's options, which do not tell it.
    pub(super) fn new(keys: Option<Arc<Keys>>, region: &str, timeout: Duration) -> Self {
        Connector { keys, region: region.to_owned(), timeout }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let wire = ReqwestConnector::default().connect(options)?;
        let patient = options.clone().with_timeout(self.timeout.saturating_mul(MOST));
        Ok(HttpClient::new(Service {
            wire,
            patient,
            patient_wire: OnceLock::new(),
            pace: Pace::new(self.timeout),
            keys: self.keys.clone(),
            region: self.region.clone(),
        }))
    }
}

#[derive(Debug)]
struct Service {
    wire: HttpClient,
    /// For large bodies on a slow line, made when it is found to be one.
    patient: ClientOptions,
    patient_wire: OnceLock<HttpClient>,
    pace: Pace,
    keys: Option<Arc<Keys>>,
    region: String,
}

impl Service {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if request.body().content_length() < LARGE {
            return self.wire.execute(request).await.inspect(|_| self.pace.answered());
        }
        let (times, limit, began) = (self.pace.times(), self.pace.limit(), Instant::now());
        let sent = match times {
            1 => self.wire.execute(request).await,
            _ => match tokio::time::timeout(limit, self.patient_wire()?.execute(request)).await {
                Ok(done) => done,
                Err(late) => Err(HttpError::new(HttpErrorKind::Timeout, late)),
            },
        };
        match &sent {
            Ok(_) => self.pace.took(began.elapsed()),
            Err(_) if began.elapsed() >= limit.mul_f32(0.9) => self.pace.ran_out(times),
            Err(_) => {}
        }
        sent
    }

    fn patient_wire(&self) -> Result<&HttpClient, HttpError> {
        if let Some(wire) = self.patient_wire.get() {
            return Ok(wire);
        }
        let made = ReqwestConnector::default().connect(&self.patient).map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        Ok(self.patient_wire.get_or_init(|| made))
    }
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // Its body is shared, not copied.
        let again = self.keys.is_some().then(|| request.clone());
        let signed_with = self.keys.as_ref().map(|k| k.current());
        let tells_version = tells_version(&request);
        let answer = cut(self.send(request).await?, tells_version).await?;
        let (Some(keys), Some(mut request), Some(refused)) = (&self.keys, again, signed_with) else { return Ok(answer) };
        if !matches!(answer.status().as_u16(), 401 | 403) {
            return Ok(answer);
        }
        let Some(fresh) = keys.renewed(&refused).await else { return Ok(answer) };
        // The store did nothing: it refused. So the same request may be sent once more under the new credentials.
        let digest = request.headers().get("x-amz-content-sha256").and_then(|v| v.to_str().ok()).and_then(crate::keys::unhex::<32>);
        request.headers_mut().remove("x-amz-security-token");
        let signer = AwsAuthorizer::new(&fresh, "s3", &self.region);
        if signer.try_authorize(&mut request, digest.as_ref().map(|d| d.as_slice())).is_err() {
            return Ok(answer);
        }
        cut(self.send(request).await?, tells_version).await
    }
}

/// Whether the head of the answer has to tell which version was written. That to a copy tells it in its body; and who is asked without a
/// signature is the service that gives credentials.
fn tells_version(request: &HttpRequest) -> bool {
    let headers = request.headers();
    request.method().as_str() == "PUT" && headers.contains_key("authorization") && !headers.contains_key("x-amz-copy-source")
}

/// An answer of success as it is; one of failure with nothing but its code and message.
async fn cut(answer: HttpResponse, tells_version: bool) -> Result<HttpResponse, HttpError> {
    let status = answer.status();
    if status.is_success() && tells_version && !answer.headers().contains_key("etag") {
        return Err(HttpError::new(
            HttpErrorKind::Unknown,
            Refusal {
                text: "the server's answer has no ETag, which says what was written".to_owned(),
                kind: ErrorKind::Unsupported,
                remedy: "reach the server itself, not something before it that drops the header ETag; a server without ETags holds no volumes",
            },
        ));
    }
    if status.is_success() || status.is_informational() || status == 304 {
        return Ok(answer);
    }
    let (mut parts, body) = answer.into_parts();
    // The length that was announced is that of another body.
    parts.headers.remove("content-length");
    parts.headers.remove("transfer-encoding");
    // Of an answer that breaks off, the status is what counts.
    let body = body.bytes().await.unwrap_or_default();
    let body = String::from_utf8_lossy(&body[..body.len().min(64 << 10)]).into_owned();
    let (code, message) = (tag(&body, "Code"), tag(&body, "Message"));
    let text = match (&code, &message) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) => String::new(),
    };
    let code = code.as_deref().unwrap_or_default();
    let refused = |kind, remedy| {
        let shown = if text.is_empty() { status.to_string() } else { format!("{text} ({status})") };
        Err(HttpError::new(HttpErrorKind::Unknown, Refusal { text: shown, kind, remedy }))
    };
    match (status.as_u16(), code) {
        // As "not found" it would say that an object is absent, which nobody knows.
        (_, "NoSuchBucket") => {
            return refused(ErrorKind::NotFound, "make the bucket, or correct its name in the store's URL");
        }
        (_, "InvalidBucketName") => {
            return refused(
                ErrorKind::InvalidArgument,
                "correct the bucket's name in the store's URL: most servers take 3 to 63 small letters, digits, dots and hyphens",
            );
        }
        (
            301 | 307 | 400,
            "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException",
        ) => {
            return refused(ErrorKind::InvalidArgument, "set the store's region (and endpoint) to the bucket's own");
        }
        (_, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" | "InvalidAccessKeyId" | "InvalidSecurity") => {
            // Some servers say 400, as of a request that is wrong in itself.
            parts.status = 403u16.try_into().expect("403 is a status");
        }
        (507, _) | (_, "XMinioStorageFull" | "QuotaExceeded" | "EntityTooLarge" | "InsufficientStorage") => {
            return refused(ErrorKind::NoSpace, "free space in the store or raise its quota");
        }
        (405 | 501, _) => return refused(ErrorKind::Unsupported, "orlop store test shows what this store can do"),
        _ => {}
    }
    Ok(HttpResponse::from_parts(parts, text.into()))
}

/// What stands between `<name>` and `</name>`, if it is short enough to be shown.
fn tag(body: &str, name: &str) -> Option<String> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let plain: String = text.trim().chars().filter(|c| !c.is_control()).take(300).collect();
    (!plain.is_empty()).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> HttpResponse {
        let mut answer = HttpResponse::new(body.to_owned().into());
        *answer.status_mut() = status.try_into().expect("a status");
        answer
    }

    #[tokio::test]
    async fn of_a_refusal_only_code_and_message_are_left() {
        let body = "<Error><Code>SignatureDoesNotMatch</Code><Message>It does not match.</Message>\
                    <AWSAccessKeyId>planted-id</AWSAccessKeyId><StringToSign>planted-string</StringToSign></Error>";
        let left = cut(answer(403, body), true).await.expect("an answer");
        assert_eq!(left.status(), 403);
        assert_eq!(left.into_body().bytes().await.expect("bytes"), "SignatureDoesNotMatch: It does not match.");
        let odd = cut(answer(500, "<html>planted-page</html>"), true).await.expect("an answer");
        assert!(odd.into_body().bytes().await.expect("bytes").is_empty());
    }

    #[tokio::test]
    async fn a_status_that_says_the_wrong_thing_is_corrected() {
        for (status, code, kind) in [
            (404, "NoSuchBucket", ErrorKind::NotFound),
            (507, "", ErrorKind::NoSpace),
            (500, "XMinioStorageFull", ErrorKind::NoSpace),
            (501, "NotImplemented", ErrorKind::Unsupported),
            (400, "AuthorizationHeaderMalformed", ErrorKind::InvalidArgument),
            (400, "InvalidBucketName", ErrorKind::InvalidArgument),
        ] {
            let e = cut(answer(status, &format!("<Error><Code>{code}</Code></Error>")), false).await.expect_err(code);
            assert_eq!(Refusal::find(&e).expect("a refusal").kind, kind, "{code}");
        }
        let expired = cut(answer(400, "<Error><Code>ExpiredToken</Code></Error>"), false).await.expect("an answer");
        assert_eq!(expired.status(), 403);
        let absent = cut(answer(404, "<Error><Code>NoSuchKey</Code></Error>"), false).await.expect("an answer");
        assert_eq!(absent.status(), 404);
    }

    #[tokio::test]
    async fn an_answer_that_does_not_tell_what_was_written_is_a_refusal() {
        let e = cut(answer(200, ""), true).await.expect_err("no ETag");
        assert_eq!(Refusal::find(&e).expect("a refusal").kind, ErrorKind::Unsupported);
        cut(answer(200, ""), false).await.expect("nobody needs it");
        let mut told = answer(200, "");
        told.headers_mut().insert("etag", "\"x\"".parse().expect("a value"));
        cut(told, true).await.expect("told");
    }
}
