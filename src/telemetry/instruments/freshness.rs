//! How answers from memory stand: the state, the lease, the feed, and what is held.

use std::sync::Arc;

use opentelemetry::{KeyValue, metrics::Meter};

use super::there;
use crate::app::{App, freshness::State};

pub(super) fn observe(meter: &Meter, app: &Arc<App>) {
    let service = Arc::downgrade(app);
    meter
        .u64_observable_gauge("claviger.freshness")
        .with_description(
            "1 at the state that answers are in: fresh (from memory), reread (each from the database), blind",
        )
        .with_callback(move |observer| {
            let Some(app) = there(&service) else { return };
            let now = app.freshness_state();
            for state in [State::Fresh, State::Reread, State::Blind] {
                observer.observe((state == now).into(), &[KeyValue::new("state", state.name())]);
            }
        })
        .build();
    let service = Arc::downgrade(app);
    meter
        .f64_observable_gauge("claviger.lease.left")
        .with_unit("s")
        .with_description("For how long memory may still be believed, were no further poll to succeed")
        .with_callback(move |observer| {
            let Some(app) = there(&service) else { return };
            observer.observe(app.lease_left().as_secs_f64(), &[]);
        })
        .build();
    let service = Arc::downgrade(app);
    meter
        .u64_observable_gauge("claviger.feed.lag")
        .with_description("Changes that were committed and not applied here as of the last poll")
        .with_callback(move |observer| {
            let Some(app) = there(&service) else { return };
            observer.observe(app.freshness().feed_lag(), &[]);
        })
        .build();
    polls_and_reads(meter, app);
    let service = Arc::downgrade(app);
    meter
        .u64_observable_gauge("claviger.remembered")
        .with_description("Keys that are held in memory, and credentials that are known not to exist")
        .with_callback(move |observer| {
            let Some(app) = there(&service) else { return };
            let freshness = app.freshness();
            observer.observe(freshness.keys_held() as u64, &[KeyValue::new("what", "key")]);
            observer.observe(freshness.absent_held() as u64, &[KeyValue::new("what", "absence")]);
        })
        .build();
}

fn polls_and_reads(meter: &Meter, app: &Arc<App>) {
    let service = Arc::downgrade(app);
    meter
        .u64_observable_counter("claviger.feed.polls")
        .with_description("Polls of the feed, by outcome")
        .with_callback(move |observer| {
            let Some(app) = there(&service) else { return };
            let (begun, failed) = app.freshness().polls();
            observer.observe(begun.saturating_sub(failed), &[KeyValue::new("outcome", "ok")]);
            observer.observe(failed, &[KeyValue::new("outcome", "failed")]);
        })
        .build();
    let service = Arc::downgrade(app);
    meter
        .u64_observable_counter("claviger.lookups")
        .with_description(
            "Where rows came from: memory; a fill, because memory did not know; a reread, because it could not be \
             believed; or nowhere, for calls that waited in vain",
        )
        .with_callback(move |observer| {
            let Some(app) = there(&service) else { return };
            let freshness = app.freshness();
            for (source, count) in [
                ("memory", freshness.from_memory()),
                ("fill", freshness.fills()),
                ("reread", freshness.rereads()),
                ("shed", freshness.shed()),
            ] {
                observer.observe(count, &[KeyValue::new("source", source)]);
            }
        })
        .build();
}
