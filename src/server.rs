//! The server: services, layers, workers, and their end.

mod connection;
mod database_file;
pub mod descriptors;
mod door;
mod frames;
mod handshake;
mod listener;
pub mod ops;
mod renewal;
mod seldom;
mod sweep;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_reflection::server::Builder as Reflection;

pub use self::listener::{Limits, Listener};
use crate::{
    admission::{AnswerBudgets, CallBudgets, Connections},
    app::{
        App,
        alarms::Alarm,
        freshness::{Poller, State, keep_fresh},
    },
    grpc::{
        self, api_keys::ApiKeys, observed::ObservedLayer, open_calls::OpenCallsLayer, outer::OuterLayer, proto,
        screened::Screened, short_cut::ShortCutLayer, stream::Ends, unsent_answers::UnsentAnswersLayer,
    },
    telemetry::instruments,
};
use ops::Readiness;

/// How the server is to serve.
#[derive(Clone, Copy, Debug)]
pub struct ServerSettings {
    /// Calls worked on at once.
    pub max_calls: usize,
    /// How long a shutdown waits for what has begun.
    pub drain_timeout: Duration,
    /// Whether reflection is served.
    pub reflection: bool,
    /// How often upkeep is done, the first time after as long.
    pub upkeep_interval: Duration,
    /// How often the keys of each state are counted, the first time at once; none: never.
    pub census_interval: Option<Duration>,
    /// Whether calls are traced.
    pub traces: bool,
    /// Whether the hot calls take the short cuts, see `grpc::short_cut` and `grpc::items`; tests try both ways.
    pub short_cut: bool,
    /// How old a connection gets before its client is asked to make another; calls on it are finished.
    pub connection_age: Duration,
    /// How old a stream of validations gets before its client is asked to open another; give or take a tenth.
    pub stream_age: Duration,
}

/// Why the server stopped without having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport.
    #[error("the transport failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// Reflection could not be put together.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The file of the embedded database is not the one that was opened.
    #[error(
        "the database file changed under the running service: {0}. What was committed since may be lost; see the README on restores"
    )]
    DatabaseFile(String),
    /// Other replicas have begun to use the database in a way that this binary is too old for.
    #[error("the database now requires a Claviger that knows schema {0}; use a newer version")]
    BinaryOutdated(i64),
    /// A worker in the background ended.
    #[error("the worker for {0} died")]
    Worker(&'static str),
}

/// The name under which the health service tells whether answers come from memory.
pub const FRESHNESS: &str = "freshness";
/// Calls that a client may have open on one connection. As many may be reset before they are accepted, which clients with
/// short deadlines do when the service or the network stalls; with h2's own limit of 20 that would end the connection.
const MAX_STREAMS: u32 = 256;
/// Bytes of one request that a client may send before they are read.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Bytes of all requests on one connection that a client may send before they are read: more than all streams that carry
/// bodies usually need, so that no body holds up the others.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// How many late frames of ended calls one connection may receive in its life. Clients that gave up send them innocently, on
/// a proxy's connection those of many clients; h2's own limit is 1,024.
const MAX_LATE_FRAMES: usize = 65_536;
/// How often it is looked whether the service is ready, until it is.
const HEALTH_INTERVAL: Duration = Duration::from_millis(100);
/// How often it is written down when keys were last used.
const USAGE_INTERVAL: Duration = Duration::from_secs(60);
/// How long a change that has begun may take to its end: a few tries, each bounded by the database's time-outs.
const CHANGES_END: Duration = Duration::from_secs(12);
/// For how long watchers of the health service are left to read that the end is near.
const WATCHERS_TOLD: Duration = Duration::from_millis(500);

/// Serves `app` on `listener` until `shutdown`, then drains: no new connections, calls and mutations that have begun are
/// finished, in bounded time: that of the settings for connections, and then a few seconds for changes.
///
/// # Errors
/// If it stopped without having been asked to.
pub async fn serve(
    listener: impl Into<Listener>,
    app: Arc<App>,
    settings: ServerSettings,
    readiness: Arc<Readiness>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let listener = listener.into();
    let stop = CancellationToken::new();
    let (mut health, health_service) = tonic_health::server::health_reporter();
    let mut poller = app.poller();
    app.poll(&mut poller).await;
    tell_health(&health, app.freshness().was_fresh()).await;
    tell_freshness(&health, app.freshness_state() == State::Fresh).await;

    let mut workers = JoinSet::new();
    workers.spawn(renewal::watch(listener.certificates.clone(), Arc::clone(&app), stop.clone()));
    workers.spawn(poll_feed(Arc::clone(&app), poller, stop.clone()));
    workers.spawn(watch_freshness(Arc::clone(&app), health.clone(), stop.clone()));
    workers.spawn(flush_usage(Arc::clone(&app), stop.clone()));
    workers.spawn(do_upkeep(Arc::clone(&app), settings.upkeep_interval, stop.clone()));
    if let Some(interval) = settings.census_interval {
        workers.spawn(take_census(Arc::clone(&app), interval, stop.clone()));
    }
    instruments::observe(&app);
    if let Some(certificates) = &listener.certificates {
        instruments::observe_certificate(certificates, &app);
    }

    let most = grpc::MAX_REQUEST;
    let v1 = settings.reflection.then(|| reflection().build_v1()).transpose()?;
    let v1alpha = settings.reflection.then(|| reflection().build_v1alpha()).transpose()?;
    let reflection_v1 = v1.map(|service| service.max_decoding_message_size(most));
    let reflection_v1alpha = v1alpha.map(|service| service.max_decoding_message_size(most));
    let format = Arc::new(app.key_format().clone());
    let budgets = CallBudgets::new(settings.max_calls);
    let ends = Ends { stop: stop.clone(), age: settings.stream_age };
    let answers = Arc::new(AnswerBudgets::new(listener.limits.answers));
    let router = transport(settings.connection_age)
        .layer(UnsentAnswersLayer::new(Arc::clone(&answers)))
        .layer(ObservedLayer::new(settings.traces))
        .layer(ShortCutLayer::new(settings.short_cut.then(|| Arc::clone(&app))))
        .layer(OuterLayer)
        .layer(OpenCallsLayer::new(budgets.clone()))
        .add_service(health_service.max_decoding_message_size(grpc::MAX_REQUEST))
        .add_optional_service(reflection_v1.map(|service| Screened::new(Arc::clone(&format), service)))
        .add_optional_service(reflection_v1alpha.map(|service| Screened::new(format, service)))
        .add_service(ApiKeys::server(&app, budgets, ends, settings.short_cut));
    let connections = Connections::new(listener.limits.connections);
    instruments::observe_connections(&connections);
    workers.spawn(sweep::close_unresponsive(connections.clone(), answers, listener.limits, stop.clone()));
    let incoming = listener.incoming(connections);
    let mut transport = tokio::spawn(router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned()));

    let mut transport_ended = false;
    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        ended = &mut transport => {
            transport_ended = true;
            ended.unwrap_or(Ok(())).map_err(ServeError::from).and(Err(ServeError::Worker("connections")))
        }
        schema = app.freshness().outdated() => Err(ServeError::BinaryOutdated(schema)),
        reason = database_file::changed(&app) => Err(ServeError::DatabaseFile(reason)),
        ended = workers.join_next() => Err(ServeError::Worker(match ended {
            Some(Ok(name)) => name,
            Some(Err(_)) | None => "the background",
        })),
    };

    tracing::info!("shutting down");
    readiness.begin_draining();
    stop.cancel();
    let served = tokio::time::timeout(settings.drain_timeout, async {
        tell_health(&health, false).await;
        tell_freshness(&health, false).await;
        if transport_ended {
            return;
        }
        if tokio::time::timeout(WATCHERS_TOLD, &mut transport).await.is_err() {
            // A watcher of the health service stays for ever; its stream ends when its service is forgotten.
            for service in ["", grpc::SERVICE, FRESHNESS] {
                health.clear_service_status(service).await;
            }
            if let Ok(Err(error)) = (&mut transport).await {
                tracing::warn!(%error, "the transport ended badly");
            }
        }
    });
    if served.await.is_err() {
        tracing::warn!(seconds = settings.drain_timeout.as_secs(), "not all connections ended in time; leaving them");
        transport.abort();
    }
    // A connection that hangs must not cost the end of a change that has begun.
    if tokio::time::timeout(CHANGES_END, app.drain()).await.is_err() {
        app.alarms().count(Alarm::ChangeCutOff);
        tracing::error!(
            alarm = Alarm::ChangeCutOff.name(),
            "a change did not end in time; whether it was made is not known"
        );
    }
    if let Err(error) = app.flush_usage().await {
        tracing::warn!(?error, "when keys were last used could not be written down");
    }
    if let Err(error) = app.store().close().await {
        tracing::warn!(?error, "the database could not be closed");
    }
    grpc::failure_log::summarise();
    tracing::info!("stopped");
    outcome
}

/// HTTP/2 with the limits of a connection and of the calls on it.
fn transport(connection_age: Duration) -> Server {
    Server::builder()
        // Without a grace: with one, calls in flight are cut, and the client is not even told (tonic 0.14).
        .max_connection_age(connection_age)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(16 * 1024)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_pending_accept_reset_streams(Some(MAX_STREAMS as usize))
        .http2_max_local_error_reset_streams(Some(MAX_LATE_FRAMES))
}

fn reflection() -> Reflection<'static> {
    Reflection::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // Without these, clients show error details as base64.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

async fn tell_health(health: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in ["", grpc::SERVICE] {
        health.set_service_status(service, status).await;
    }
}

/// Tells the health service what state the memory is in. A replica that can decide nothing stays where it is, and says
/// so: to take it away would not bring the database back.
async fn watch_freshness(app: Arc<App>, health: HealthReporter, stop: CancellationToken) -> &'static str {
    let mut states = app.freshness().states();
    let mut was_ready = app.freshness().was_fresh();
    loop {
        let state = *states.borrow_and_update();
        // After the end has begun the drain alone speaks. Watchers are told with every word, so none is said without news.
        if !stop.is_cancelled() {
            tell_freshness(&health, state == State::Fresh && app.freshness().was_fresh()).await;
            let is_ready = app.freshness().was_fresh();
            if is_ready != was_ready {
                was_ready = is_ready;
                tell_health(&health, is_ready).await;
            }
        }
        let changed = async { if was_ready { states.changed().await.is_ok() } else { first_fresh(&app).await } };
        match stop.run_until_cancelled(changed).await {
            Some(true) => {}
            Some(false) | None => return "health",
        }
    }
}

/// Waits until it has been fresh once.
async fn first_fresh(app: &App) -> bool {
    let mut ticks = tokio::time::interval(HEALTH_INTERVAL);
    while !app.freshness().was_fresh() {
        ticks.tick().await;
    }
    true
}

async fn tell_freshness(health: &HealthReporter, fresh: bool) {
    let status = if fresh { ServingStatus::Serving } else { ServingStatus::NotServing };
    health.set_service_status(FRESHNESS, status).await;
}

async fn poll_feed(app: Arc<App>, poller: Poller, stop: CancellationToken) -> &'static str {
    // Ends only by being stopped.
    stop.run_until_cancelled(Box::pin(keep_fresh(app, poller))).await;
    "freshness"
}

async fn flush_usage(app: Arc<App>, stop: CancellationToken) -> &'static str {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + USAGE_INTERVAL, USAGE_INTERVAL);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = app.flush_usage().await {
            tracing::warn!(?error, "when keys were last used could not be written down; the next round tries again");
        }
    }
    "usage"
}

async fn do_upkeep(app: Arc<App>, interval: Duration, stop: CancellationToken) -> &'static str {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = app.upkeep().await {
            tracing::warn!(?error, "a round of upkeep failed; the next one tries again");
        }
    }
    "upkeep"
}

async fn take_census(app: Arc<App>, interval: Duration, stop: CancellationToken) -> &'static str {
    let mut ticks = tokio::time::interval(interval);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = app.take_census().await {
            tracing::warn!(?error, "the keys could not be counted; the metric shows the last count");
        }
    }
    "the census"
}
