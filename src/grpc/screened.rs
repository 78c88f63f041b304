//! Reflection behind a screen for key strings.
//!
//! tonic-reflection repeats the request in its answer, and an unknown symbol in its error. A request that contains a key
//! string, whole or cut, never reaches it: the bytes are looked through as they arrive, before the message is complete.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use http_body::{Frame, SizeHint};
use prost::bytes::{Buf as _, Bytes};
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;

use super::status;
use crate::domain::{Error, fields::KEY_STRING_FOUND, key_string::KeyFormat};

/// A service that never sees a key string.
#[derive(Clone)]
pub struct Screened<S> {
    format: Arc<KeyFormat>,
    inner: S,
}

impl<S> Screened<S> {
    /// Puts the screen in front of `inner`. `format` says what a key string of this deployment looks like.
    pub fn new(format: Arc<KeyFormat>, inner: S) -> Self {
        Self { format, inner }
    }
}

impl<S: NamedService> NamedService for Screened<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Screened<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let found = Arc::new(AtomicBool::new(false));
        let (format, seen) = (Arc::clone(&self.format), Arc::clone(&found));
        let request = request.map(|body| Body::new(Incoming { body, format, found: seen, tail: Vec::new() }));
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Body::new(Outgoing { body, found }))) })
    }
}

fn refusal() -> Status {
    status::of(Error::field("message_request", KEY_STRING_FOUND))
}

/// The request, which ends where a key string begins.
struct Incoming {
    body: Body,
    format: Arc<KeyFormat>,
    found: Arc<AtomicBool>,
    /// The end of what came before, as a key string may be spread over frames.
    tail: Vec<u8>,
}

impl Incoming {
    fn holds_key_string(&mut self, data: &[u8]) -> bool {
        self.tail.extend_from_slice(data);
        let found = self.format.occurs_in(&self.tail);
        self.tail.drain(..self.tail.len().saturating_sub(KeyFormat::LONGEST_TRACE));
        found
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && self.holds_key_string(data.chunk())
        {
            self.found.store(true, Ordering::Release);
            return Poll::Ready(Some(Err(refusal())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The answer, whose status says so if the request contained a key string: tonic-reflection ends as if all were well.
struct Outgoing {
    body: Body,
    found: Arc<AtomicBool>,
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let ends = matches!(&frame, Some(Ok(frame)) if frame.is_trailers());
        if ends && self.found.load(Ordering::Acquire) {
            let mut trailers = http::HeaderMap::new();
            return Poll::Ready(Some(refusal().add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
