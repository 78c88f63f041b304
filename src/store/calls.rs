//! Around every call of the database: a time-out, a span, and the histogram of how long it took.
//!
//! A call is named after the method of the store that makes it. SQL is in neither the span nor the histogram: it would
//! carry key material.

use std::{
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use opentelemetry::{global, metrics::Histogram};
use sea_orm::DbErr;

use super::{Engine, failure};
use crate::{
    domain::{
        Result,
        error::{Error, Unavailable},
    },
    trace::{self, KeyValue, SCOPE, SpanKind},
};

/// Upper bounds of the histogram, in seconds: a read by primary key takes 50 µs embedded, and no call over 4 s.
const BOUNDS: [f64; 14] =
    [0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 4.0];

/// Makes calls of one database and watches them.
pub(super) struct Calls {
    system: KeyValue,
    duration: Histogram<f64>,
}

impl Calls {
    /// The instruments are made with the meter that is set when the database is opened.
    pub(super) fn new(engine: Engine) -> Self {
        let system = match engine {
            Engine::Sqlite => "sqlite",
            Engine::Postgres => "postgresql",
        };
        let duration = global::meter(SCOPE)
            .f64_histogram("db.client.operation.duration")
            .with_unit("s")
            .with_description("How long a call of the database took, by the store's own name for it")
            .with_boundaries(BOUNDS.to_vec())
            .build();
        Self { system: KeyValue::new("db.system.name", system), duration }
    }

    /// Waits for `work` no longer than `timeout`. The work is boxed: the driver's futures are large, and each layer around
    /// them would hold them once more.
    pub(super) async fn call<T, W: Future<Output = Result<T, DbErr>>>(
        &self,
        name: &'static str,
        timeout: Duration,
        work: Pin<Box<W>>,
    ) -> Result<T> {
        let work = async {
            match tokio::time::timeout(timeout, work).await {
                Ok(outcome) => outcome.map_err(failure::of),
                Err(late) => Err(Error::Unavailable(Unavailable::Database(late.into()))),
            }
        };
        self.watch(name, Box::pin(work)).await
    }

    /// Watches `work`, which sees to its own time-out and the meaning of its errors.
    pub(super) async fn watch<T, W: Future<Output = Result<T>>>(
        &self,
        name: &'static str,
        work: Pin<Box<W>>,
    ) -> Result<T> {
        let began = Instant::now();
        let attributes = || vec![self.system.clone(), operation(name)];
        let outcome = trace::spanned(name, SpanKind::Client, attributes, work).await;
        let took = began.elapsed().as_secs_f64();
        match &outcome {
            Ok(_) => self.duration.record(took, &[self.system.clone(), operation(name)]),
            Err(error) => {
                let kind = KeyValue::new("error.type", kind(error));
                self.duration.record(took, &[self.system.clone(), operation(name), kind]);
            }
        }
        outcome
    }
}

fn operation(name: &'static str) -> KeyValue {
    KeyValue::new("db.operation.name", name)
}

/// The few kinds of failure that an operator tells apart.
fn kind(error: &Error) -> &'static str {
    match error {
        Error::Unavailable(Unavailable::Contended(_)) => "contended",
        Error::Unavailable(_) => "unavailable",
        Error::CommitOutcomeUnknown(_) => "commit_outcome_unknown",
        _ => "fault",
    }
}
