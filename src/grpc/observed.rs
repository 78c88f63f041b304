//! Around every call, outside all else: its server span, continued from the caller's W3C context, and the histogram of how
//! long it took, both as OpenTelemetry's semantic conventions for gRPC have them.
//!
//! A call ends with its status, be it in the headers or in the trailers of the answer. One whose answer was not read to
//! its end was cancelled, wherever that happened: there is one place that records, and it runs when a call is dropped, too.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use http::HeaderMap;
use opentelemetry::{
    Context as TraceContext, KeyValue,
    global::{self, BoxedTracer},
    metrics::Histogram,
    propagation::Extractor,
    trace::{Span as _, SpanKind, Status as SpanStatus, TraceContextExt as _, Tracer as _},
};
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;
use tower::{Layer, Service};

mod methods;

use self::methods::{Method, OTHER, STATUS_CODE, is_error, known_methods};
use super::status;
use crate::{admission::ConnectionHandle, trace::SCOPE};

/// Upper bounds of the histogram, in seconds. The conventions begin at 5 ms, which most calls here stay under.
const BOUNDS: [f64; 17] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 10.0];

/// Wraps a service in [`Observed`].
#[derive(Clone)]
pub struct ObservedLayer(Arc<Instruments>);

struct Instruments {
    /// By path.
    methods: HashMap<String, Arc<Method>>,
    other: Arc<Method>,
    duration: Histogram<f64>,
    /// None if no traces are wanted.
    tracer: Option<BoxedTracer>,
}

impl ObservedLayer {
    /// With the meter and the tracer that are set. Unless `with_spans` none is made, and the caller's context is only
    /// carried on to the log.
    pub fn new(with_spans: bool) -> Self {
        let duration = global::meter(SCOPE)
            .f64_histogram("rpc.server.call.duration")
            .with_unit("s")
            .with_description("How long calls took until their answer was sent")
            .with_boundaries(BOUNDS.to_vec())
            .build();
        let tracer = with_spans.then(|| global::tracer(SCOPE));
        let methods = known_methods().map(|name| (format!("/{name}"), Arc::new(Method::new(&name)))).collect();
        Self(Arc::new(Instruments { methods, other: Arc::new(Method::new(OTHER)), duration, tracer }))
    }
}

impl<S> Layer<S> for ObservedLayer {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { instruments: Arc::clone(&self.0), inner }
    }
}

/// See the module.
#[derive(Clone)]
pub struct Observed<S> {
    instruments: Arc<Instruments>,
    inner: S,
}

impl<S> Service<http::Request<Body>> for Observed<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Observing<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = Call::begin(&self.instruments, &request);
        Observing { answer: self.inner.call(request), call: Some(call) }
    }
}

/// An answer that is waited for under the span of its call.
pub struct Observing<F> {
    answer: F,
    /// None once it was handed on.
    call: Option<Call>,
}

impl<F> Future for Observing<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = {
            let span = self.call.as_ref().and_then(|call| call.context.clone());
            let _current = span.map(TraceContext::attach);
            Pin::new(&mut self.answer).poll(context)
        };
        polled.map_ok(|response| {
            let Some(mut call) = self.call.take() else { return response };
            match code_in(response.headers()) {
                Some(code) => {
                    call.end(code, response.extensions().get::<Status>());
                    response
                }
                None => response.map(|inner| Body::new(Watched { inner, call })),
            }
        })
    }
}

/// A call that has begun and is to be told of once.
struct Call {
    instruments: Arc<Instruments>,
    method: Arc<Method>,
    began: Instant,
    context: Option<TraceContext>,
    ended: bool,
}

impl Call {
    fn begin(instruments: &Arc<Instruments>, request: &http::Request<Body>) -> Self {
        let method = instruments.methods.get(request.uri().path()).unwrap_or(&instruments.other);
        let caller_s = request.headers().contains_key("traceparent").then(|| {
            let headers = Headers(request.headers());
            global::get_text_map_propagator(|propagator| {
                propagator.extract_with_context(&TraceContext::new(), &headers)
            })
        });
        let context = match &instruments.tracer {
            None => caller_s,
            Some(tracer) => {
                let parent = caller_s.unwrap_or_default();
                let mut span = tracer
                    .span_builder(method.name.to_string())
                    .with_kind(SpanKind::Server)
                    .start_with_context(tracer, &parent);
                // No sampler that can be set looks at attributes, and 99 in 100 calls are not recorded.
                if span.is_recording() {
                    span.set_attributes(Method::named(&method.name));
                    let peer = request.extensions().get().map(ConnectionHandle::peer);
                    if let Some(peer) = peer {
                        span.set_attribute(KeyValue::new("network.peer.address", peer.ip().to_string()));
                    }
                }
                Some(parent.with_span(span))
            }
        };
        Self {
            instruments: Arc::clone(instruments),
            method: Arc::clone(method),
            began: Instant::now(),
            context,
            ended: false,
        }
    }

    /// Tells how the call ended, the first time it is asked to.
    fn end(&mut self, code: Code, status: Option<&Status>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let attributes = &self.method.attributes[code as usize];
        self.instruments.duration.record(self.began.elapsed().as_secs_f64(), attributes);
        let Some(context) = self.context.as_ref().filter(|_| self.instruments.tracer.is_some()) else { return };
        let span = context.span();
        if span.is_recording() {
            span.set_attribute(KeyValue::new(STATUS_CODE, status::code_name(code)));
            if let Some(info) = status.and_then(Status::get_details_error_info) {
                span.set_attribute(KeyValue::new("claviger.error.reason", info.reason));
            }
            if is_error(code) {
                span.set_attribute(KeyValue::new("error.type", status::code_name(code)));
                span.set_status(SpanStatus::error(""));
            }
        }
        span.end();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled, None);
    }
}

/// An answer that tells of its call when its trailers are sent.
struct Watched {
    inner: Body,
    call: Call,
}

impl http_body::Body for Watched {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(frame) = &polled {
            match frame {
                Some(Ok(frame)) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        self.call.end(code_in(trailers).unwrap_or(Code::Unknown), None);
                    }
                }
                Some(Err(status)) => self.call.end(status.code(), Some(status)),
                None => self.call.end(Code::Unknown, None),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
}

/// Where the propagator looks for the caller's context.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
