//! The metrics of our own: what the service counts by itself, observed when somebody looks. Nothing is recorded on the
//! way of a call for them.

mod freshness;

use std::sync::{Arc, Weak};

use opentelemetry::{KeyValue, global, metrics::Meter};

use crate::{
    admission::{CloseReason, Connections},
    app::{App, alarms::Alarm},
    store::Pool,
    tls::Certificates,
    trace::SCOPE,
};

const MICROS_PER_DAY: f64 = 86_400e6;

/// Shows what `app` counts, with the meter that is set, for as long as `app` is there.
pub fn observe(app: &Arc<App>) {
    let meter = global::meter(SCOPE);
    counters(&meter, app);
    hashing(&meter, app);
    pools(&meter, app);
    keys(&meter, app);
    freshness::observe(&meter, app);
}

/// Exports the number of `connections` and how many were closed by this process.
pub fn observe_connections(connections: &Connections) {
    let meter = global::meter(SCOPE);
    let observed = connections.weak();
    meter
        .u64_observable_gauge("claviger.connections")
        .with_description("Connections of clients, by whether they ever carried an authenticated call")
        .with_callback(move |observer| {
            let Some((anonymous, authenticated)) = observed().map(|connections| connections.count()) else { return };
            for (authenticated, count) in [(false, anonymous), (true, authenticated)] {
                observer.observe(count as u64, &[KeyValue::new("authenticated", authenticated)]);
            }
        })
        .build();
    let observed = connections.weak();
    meter
        .u64_observable_counter("claviger.connections.closed")
        .with_description("Connections that the service closed before their client did, by reason")
        .with_callback(move |observer| {
            let Some(connections) = observed() else { return };
            for reason in CloseReason::ALL {
                observer.observe(connections.closed(reason), &[KeyValue::new("reason", reason.name())]);
            }
        })
        .build();
}

/// Shows how the certificate that is served stands, by the clock of `app`.
pub fn observe_certificate(certificates: &Arc<Certificates>, app: &Arc<App>) {
    let meter = global::meter(SCOPE);
    let (served, service) = (Arc::downgrade(certificates), Arc::downgrade(app));
    meter
        .f64_observable_gauge("claviger.certificate.days_left")
        .with_description("Days until the certificate that is served expires; below zero once it has")
        .with_callback(move |observer| {
            let (Some(served), Some(app)) = (served.upgrade(), there(&service)) else { return };
            let Some(expiry) = served.expiry() else { return };
            // The difference in microseconds of a few centuries at most: a double is exact to the second.
            #[expect(clippy::cast_precision_loss, reason = "days are not told to the microsecond")]
            let days = (expiry.micros().saturating_sub(app.now().micros())) as f64 / MICROS_PER_DAY;
            observer.observe(days, &[]);
        })
        .build();
    let served = Arc::downgrade(certificates);
    meter
        .u64_observable_counter("claviger.certificate.reloads")
        .with_description("Certificates taken in place of the one before")
        .with_callback(move |observer| {
            let Some(served) = served.upgrade() else { return };
            observer.observe(served.reloads(), &[]);
        })
        .build();
}

fn counters(meter: &Meter, app: &Arc<App>) {
    let service = Arc::downgrade(app);
    meter
        .u64_observable_counter("claviger.decisions")
        .with_description("Answers of Validate, by code")
        .with_callback(move |observer| {
            for (code, count) in there(&service).iter().flat_map(|app| app.counts().decisions()) {
                observer.observe(count, &[KeyValue::new("code", code)]);
            }
        })
        .build();
    let service = Arc::downgrade(app);
    meter
        .u64_observable_counter("claviger.proofs")
        .with_description("Proofs of a secret against its hash: remembered, or missed and so made by a run of argon2")
        .with_callback(move |observer| {
            let Some(app) = there(&service) else { return };
            let counts = app.counts();
            observer.observe(counts.proofs_remembered(), &[KeyValue::new("outcome", "remembered")]);
            observer.observe(counts.proofs_missed(), &[KeyValue::new("outcome", "missed")]);
        })
        .build();
    let service = Arc::downgrade(app);
    meter
        .u64_observable_counter("claviger.alarms")
        .with_description("What an operator has to look at, by kind; the log tells each with the field `alarm`")
        .with_callback(move |observer| {
            let Some(app) = there(&service) else { return };
            for alarm in Alarm::ALL {
                observer.observe(app.alarms().raised(alarm), &[KeyValue::new("kind", alarm.name())]);
            }
        })
        .build();
}

fn hashing(meter: &Meter, app: &Arc<App>) {
    let service = Arc::downgrade(app);
    meter
        .u64_observable_counter("claviger.hashes")
        .with_description("Runs of argon2")
        .with_callback(move |observer| {
            let Some(app) = there(&service) else { return };
            observer.observe(app.hasher().runs(), &[]);
        })
        .build();
    let service = Arc::downgrade(app);
    meter
        .u64_observable_counter("claviger.hashes.shed")
        .with_description("Hashes refused because too many waited")
        .with_callback(move |observer| {
            let Some(app) = there(&service) else { return };
            observer.observe(app.hashes_shed(), &[]);
        })
        .build();
    let service = Arc::downgrade(app);
    meter
        .u64_observable_gauge("claviger.hashes.waiting")
        .with_description("Hashes that wait for a thread")
        .with_callback(move |observer| {
            let Some(app) = there(&service) else { return };
            observer.observe(app.hashes_waiting() as u64, &[]);
        })
        .build();
}

/// The conventions' own name ends in `count`, which in Prometheus is the end of a histogram's. How long calls took is the
/// store's histogram.
fn pools(meter: &Meter, app: &Arc<App>) {
    let name = |pool: &Pool| KeyValue::new("pool", pool.name);
    let service = Arc::downgrade(app);
    meter
        .u64_observable_gauge("claviger.database.connections")
        .with_description("Connections of each pool to the database, idle and used")
        .with_callback(move |observer| {
            for pool in there(&service).iter().flat_map(|app| app.store().pools()) {
                for (state, count) in [("idle", pool.idle), ("used", pool.used)] {
                    let state = KeyValue::new("state", state);
                    observer.observe(count.into(), &[name(&pool), state]);
                }
            }
        })
        .build();
    let service = Arc::downgrade(app);
    meter
        .u64_observable_gauge("claviger.database.connections.max")
        .with_description("Connections that each pool may hold at most")
        .with_callback(move |observer| {
            for pool in there(&service).iter().flat_map(|app| app.store().pools()) {
                observer.observe(pool.most.into(), &[name(&pool)]);
            }
        })
        .build();
}

fn keys(meter: &Meter, app: &Arc<App>) {
    let service = Arc::downgrade(app);
    meter
        .u64_observable_gauge("claviger.keys")
        .with_description("Keys in the database, by state, counted once a minute")
        .with_callback(move |observer| {
            let Some(app) = there(&service) else { return };
            for (state, count) in app.census().counts() {
                observer.observe(count, &[KeyValue::new("state", state.name())]);
            }
        })
        .build();
}

fn there(service: &Weak<App>) -> Option<Arc<App>> {
    service.upgrade()
}
