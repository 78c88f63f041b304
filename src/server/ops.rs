//! The ops port: plain HTTP for probes and metrics, on a listener of its own.
//!
//! `/livez` speaks of this process alone: a database that is away is no reason to restart it. `/readyz` says whether calls
//! should come here, and if not, why not. `/metrics` is the text format of Prometheus. The port is there before the
//! database is opened and until after the drain, so that both can be watched. Each connection carries one request.

mod connections;

use std::{
    convert::Infallible,
    fmt::Write as _,
    future::ready,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry::global;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{app::App, telemetry::Telemetry, trace::SCOPE};

/// Whether calls should come to this process.
#[derive(Default)]
pub struct Readiness {
    app: OnceLock<Arc<App>>,
    draining: AtomicBool,
    /// As it was found when somebody last asked.
    ready: AtomicBool,
}

impl Readiness {
    /// The database has answered, and the service was put together.
    pub fn begin_serving(&self, app: &Arc<App>) {
        // There is one service in a process; a second would change nothing.
        self.app.get_or_init(|| Arc::clone(app));
    }

    /// No further calls should come.
    pub fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// All that speaks against it, in words.
    fn why_not(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        match self.app.get() {
            None => reasons.push("starting: the database has not answered yet".to_owned()),
            Some(app) => {
                if !app.freshness().was_fresh() {
                    reasons.push("starting: the feed of changes has not been followed to its head yet".to_owned());
                }
                for root in app.roots_missing() {
                    reasons.push(format!("the root secret `{root}` is in use and not mounted here"));
                }
            }
        }
        if self.draining.load(Ordering::Relaxed) {
            reasons.push("draining: this process is about to end".to_owned());
        }
        self.ready.store(reasons.is_empty(), Ordering::Relaxed);
        reasons
    }
}

/// The ops port, as long as it is served.
pub struct Ops {
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Ops {
    /// Begins to serve on `listener`.
    pub fn start(listener: TcpListener, readiness: Arc<Readiness>, telemetry: Arc<Telemetry>) -> Self {
        let found = Arc::clone(&readiness);
        global::meter(SCOPE)
            .u64_observable_gauge("claviger.ready")
            .with_description("1 if calls should come here, 0 if not; /readyz says why not")
            .with_callback(move |observer| observer.observe(found.ready.load(Ordering::Relaxed).into(), &[]))
            .build();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, readiness, telemetry, stop.clone()));
        Self { stop, serving }
    }

    /// Ends it.
    pub async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "the ops port ended badly");
        }
    }
}

async fn serve(listener: TcpListener, readiness: Arc<Readiness>, telemetry: Arc<Telemetry>, stop: CancellationToken) {
    let accepting = connections::accept(listener, |stream| {
        let (readiness, telemetry) = (Arc::clone(&readiness), Arc::clone(&telemetry));
        async move {
            let answering = service_fn(|request| ready(Ok::<_, Infallible>(answer(&request, &readiness, &telemetry))));
            let connection = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), answering);
            // A prober that hangs up or sends no request is not worth a line.
            drop(connection.await);
        }
    });
    stop.run_until_cancelled(accepting).await;
}

fn answer(request: &Request<Incoming>, readiness: &Readiness, telemetry: &Telemetry) -> Response<String> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "alive\n".to_owned()),
        "/readyz" => {
            let reasons = readiness.why_not();
            if reasons.is_empty() {
                text(StatusCode::OK, "ready\n".to_owned())
            } else {
                let mut told = String::from("not ready\n");
                for reason in reasons {
                    // Writing to a string does not fail.
                    let _ = writeln!(told, "{reason}");
                }
                text(StatusCode::SERVICE_UNAVAILABLE, told)
            }
        }
        "/metrics" => {
            // So that the metric that says so is as it is now.
            readiness.why_not();
            metrics(telemetry)
        }
        _ => text(StatusCode::NOT_FOUND, "here are /livez, /readyz and /metrics\n".to_owned()),
    }
}

fn metrics(telemetry: &Telemetry) -> Response<String> {
    match telemetry.exposition() {
        Ok(metrics) => {
            let mut response = Response::new(metrics);
            let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written; the log tells why\n".to_owned())
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
