//! Spans: pieces of work that show in a trace, if the call they belong to is traced. A leaf, like the clock.
//!
//! A trace begins in `grpc::observed`, which decides whether it is recorded. Here nothing is decided: where no recorded
//! span is current, nothing is made, and an untraced call pays for one look into its thread's context.
//!
//! Names and attributes are words of this program. Nothing that came from outside may be put into them.

use std::future::Future;

use opentelemetry::{
    Context,
    context::FutureExt as _,
    global,
    trace::{Status, TraceContextExt as _, Tracer as _},
};
pub use opentelemetry::{KeyValue, trace::SpanKind};

/// The name under which this program's instruments and spans are known.
pub const SCOPE: &str = "claviger";

/// Runs `work` in a span of its own below the current one, and marks the span if `work` fails. The cause is not told: it
/// is in the log, under the ids of the span.
///
/// # Errors
/// Those of `work`.
pub async fn spanned<T, E>(
    name: &'static str,
    kind: SpanKind,
    attributes: impl FnOnce() -> Vec<KeyValue>,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    if !Context::map_current(|context| context.span().is_recording()) {
        return work.await;
    }
    let tracer = global::tracer(SCOPE);
    let span = tracer.span_builder(name).with_kind(kind).with_attributes(attributes()).start(&tracer);
    let context = Context::current_with_span(span);
    let outcome = work.with_context(context.clone()).await;
    if outcome.is_err() {
        context.span().set_status(Status::error(""));
    }
    context.span().end();
    outcome
}

/// Adds what was found out to the current span.
pub fn note(name: &'static str, value: &'static str) {
    Context::map_current(|context| context.span().set_attribute(KeyValue::new(name, value)));
}

/// Lets work that outlives its caller go on in the caller's trace.
pub fn following<F: Future>(work: F) -> impl Future<Output = F::Output> {
    work.with_current_context()
}

/// The ids of the trace and the span that are current, whether or not they are recorded here: a caller may record them.
pub fn current_ids() -> Option<(String, String)> {
    Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        span.is_valid().then(|| (span.trace_id().to_string(), span.span_id().to_string()))
    })
}
