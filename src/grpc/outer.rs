//! Around every call: the caller's deadline, panics, the completion of errors that the
//! transport made, and one log line for each failure.

use std::{
    any::Any,
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt;
use tower::{Layer, Service};

use super::{SERVICE, auth::CalledBy, failure_log, proto::ErrorReason, status};
use crate::{admission::ConnectionHandle, domain::Error};

/// No call takes longer until its answer begins. The attempts of a change end before.
const LONGEST: Duration = Duration::from_secs(15);

/// How tonic's messages begin where the bytes of a request are at fault.
const UNREADABLE: [&str; 4] = [
    "failed to decode Protobuf message",
    "Missing request message",
    "Unexpected EOF decoding stream",
    "protocol error: received message with invalid compression flag",
];

/// Wraps a service in [`Outer`].
#[derive(Clone, Copy, Default)]
pub struct OuterLayer;

impl<S> Layer<S> for OuterLayer {
    type Service = Outer<S>;

    fn layer(&self, inner: S) -> Outer<S> {
        Outer { inner }
    }
}

/// See the module.
#[derive(Clone)]
pub struct Outer<S> {
    inner: S,
}

impl<S> Service<http::Request<Body>> for Outer<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let began = Instant::now();
            let call = Call::of(&request);
            if let Some(refused) = refused_at_once(&request) {
                call.log_failure(&refused, began.elapsed());
                return Ok(refused);
            }
            request.extensions_mut().insert(Deadline::after(call.deadline));
            let answer = AssertUnwindSafe(async { inner.call(request).await }).catch_unwind();
            let response = match tokio::time::timeout(call.deadline, answer).await {
                Ok(Ok(Ok(response))) => call.completed(response),
                Ok(Ok(Err(never))) => match never {},
                Ok(Err(panic)) => after_panic(panic.as_ref()).into_http(),
                Err(_late) => status::plain(
                    ErrorReason::DeadlinePassed,
                    "the deadline of the call passed; a change that had begun runs to its end",
                )
                .into_http(),
            };
            call.log_failure(&response, began.elapsed());
            Ok(response)
        })
    }
}

/// When a call will be cut off, for those who wait on its behalf.
#[derive(Clone, Copy)]
pub(super) struct Deadline(pub(super) tokio::time::Instant);

impl Deadline {
    /// A little before the call is cut off after `deadline`: the answer has to be made, too.
    fn after(deadline: Duration) -> Self {
        Self(tokio::time::Instant::now() + a_little_before(deadline))
    }
}

/// What is known of a call before it is made.
struct Call {
    uri: http::Uri,
    peer: Option<SocketAddr>,
    deadline: Duration,
}

impl Call {
    fn of(request: &http::Request<Body>) -> Self {
        let timeout = request.headers().get("grpc-timeout").and_then(|value| value.to_str().ok());
        Self {
            uri: request.uri().clone(),
            peer: request.extensions().get().map(ConnectionHandle::peer),
            deadline: timeout.and_then(grpc_timeout).map_or(LONGEST, a_little_before).min(LONGEST),
        }
    }

    /// The answer, with one `ErrorInfo` if it is an error that the transport made.
    fn completed(&self, response: http::Response<Body>) -> http::Response<Body> {
        let Some(found) = Status::from_header_map(response.headers()) else { return response };
        let ours = self.uri.path().strip_prefix('/').and_then(|path| path.strip_prefix(SERVICE)).is_some();
        let unknown = found.code() == Code::Unimplemented;
        if found.code() == Code::Ok || found.get_details_error_info().is_some() || !(ours || unknown) {
            return response;
        }
        let mut completed = explained(&found);
        completed.set_source(Arc::new(found));
        let mut answer = completed.into_http();
        if let Some(called_by) = response.extensions().get::<CalledBy>() {
            answer.extensions_mut().insert(*called_by);
        }
        answer
    }

    /// One line for each failed call, and none for the others. Those of unauthenticated calls are limited.
    fn log_failure(&self, response: &http::Response<Body>, took: Duration) {
        let Some(status) = response.extensions().get::<Status>().filter(|status| status.code() != Code::Ok) else {
            return;
        };
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        let caller = response.extensions().get::<CalledBy>().map(|called_by| called_by.0.to_string());
        if caller.is_none() && !failure_log::may_log(self.peer) {
            return;
        }
        let caller = caller.as_deref().unwrap_or_default();
        let peer = self.peer.map(|peer| peer.to_string()).unwrap_or_default();
        let cause = cause_of(status);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let (rpc, code) = (self.known_path(), status::code_name(status.code()));
        match status.code() {
            Code::Internal | Code::Unknown | Code::DataLoss => {
                tracing::error!(rpc, code, reason, caller, peer, took_ms, cause, "call failed");
            }
            Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => {
                tracing::warn!(rpc, code, reason, caller, peer, took_ms, cause, "call failed");
            }
            _ => tracing::info!(rpc, code, reason, caller, peer, took_ms, cause, "call failed"),
        }
    }

    /// The path, if it is one of ours: others could say anything.
    fn known_path(&self) -> &str {
        // Anyone can ask for any path, and one could hold a key string.
        let path = self.uri.path();
        let known = path.starts_with("/claviger.v1.") || path.starts_with("/grpc.");
        let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._".contains(&b)) && path.len() < 64;
        if known && plain { path } else { "(unknown)" }
    }
}

/// A status in our words for one that the transport made.
pub(super) fn explained(found: &Status) -> Status {
    if found.get_details_error_info().is_some() {
        return found.clone();
    }
    let (reason, message) = match found.code() {
        Code::Internal if UNREADABLE.iter().any(|begin| found.message().starts_with(begin)) => {
            (ErrorReason::RequestUnreadable, "the bytes of the request are no message of the type that this RPC takes")
        }
        Code::OutOfRange => (ErrorReason::RequestTooLarge, "the request is larger than 256 KiB"),
        Code::Unimplemented => (
            ErrorReason::MethodUnknown,
            "there is no such RPC, or the request is compressed, which is not supported; `grpcurl list` shows what \
             there is",
        ),
        _ => (ErrorReason::InternalFault, "a fault inside Claviger; its log tells more"),
    };
    status::plain(reason, message)
}

/// The causes below the public text of a status, for the log.
pub(super) fn cause_of(status: &Status) -> String {
    let mut causes = Vec::new();
    let mut next = std::error::Error::source(status).and_then(std::error::Error::source);
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes.join(": ")
}

/// The hook of `main` has logged where it was; what a panic says could hold anything and goes nowhere.
pub(super) fn after_panic(_panic: &(dyn Any + Send)) -> Status {
    status::of(Error::fault("a handler panicked"))
}

/// The answer to what is no gRPC call, or is one whose time was over before it came: no work is done for it.
fn refused_at_once(request: &http::Request<Body>) -> Option<http::Response<Body>> {
    let with = |code, message| {
        let mut response = status::plain(ErrorReason::MethodUnknown, message).into_http();
        *response.status_mut() = code;
        Some(response)
    };
    let kind = request.headers().get(http::header::CONTENT_TYPE);
    if request.method() != http::Method::POST {
        return with(http::StatusCode::METHOD_NOT_ALLOWED, "a gRPC call is a POST");
    }
    if kind.is_none_or(|kind| kind != "application/grpc" && kind != "application/grpc+proto") {
        let message = "the content-type of a call must be application/grpc or application/grpc+proto";
        return with(http::StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    }
    has_no_time(request.headers()).then(|| {
        let message = "the deadline of the call had passed when it came; nothing was done";
        status::plain(ErrorReason::DeadlinePassed, message).into_http()
    })
}

/// Whether the deadline of a call has passed already.
pub(super) fn has_no_time(headers: &http::HeaderMap) -> bool {
    let timeout = headers.get("grpc-timeout").and_then(|value| value.to_str().ok());
    timeout.and_then(grpc_timeout).is_some_and(|timeout| timeout.is_zero())
}

/// Reads the header `grpc-timeout`: up to eight digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// tonic's own timer outside this layer, and often the caller's, would answer CANCELLED at the deadline; to be heard, this
/// one has to come before them.
fn a_little_before(deadline: Duration) -> Duration {
    deadline.saturating_sub(Duration::from_millis(20).min(deadline / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_header_is_read_as_the_specification_says() {
        assert_eq!(grpc_timeout("1H"), Some(Duration::from_secs(3_600)));
        assert_eq!(grpc_timeout("99999999n"), Some(Duration::from_nanos(99_999_999)));
        assert_eq!(grpc_timeout("250m"), Some(Duration::from_millis(250)));
        for text in ["", "m", "1", "1x", "-1S", "+1S", "123456789S", "1é"] {
            assert_eq!(grpc_timeout(text), None, "{text}");
        }
    }
}
