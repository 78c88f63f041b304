//! How long one Validate takes, cold and warm, beside an empty unary call of the same server: `cargo bench --bench
//! validate`.
//!
//! Client and server share the machine and one connection; one call is in flight at a time. Three rounds alternate the
//! kinds of call, and every round is shown. No test: it judges nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::explicit_write,
    clippy::zombie_processes,
    missing_docs,
    unreachable_pub,
    dead_code,
    unused_macros,
    reason = "it is a tool for developers, and shares the harness of the tests"
)]

#[path = "../it/harness/mod.rs"]
#[macro_use]
mod harness;

use std::time::{Duration, Instant};

use claviger::grpc::proto;
use harness::{Engine, Service, key_of};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const ROUNDS: usize = 3;
const CALLS: usize = 2_000;
const COLD_KEYS: usize = 500;

#[tokio::main]
async fn main() {
    println!("engine    call                 round   median µs      p99 µs  statements/call  argon2/call");
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let Some(service) = Service::start(engine).await else {
            println!("{engine:?}: not on this machine");
            continue;
        };
        measure(engine, &service).await;
    }
}

async fn measure(engine: Engine, service: &Service) {
    let mut keys = Vec::new();
    for number in 0..COLD_KEYS * ROUNDS {
        let mut key = key_of("acme", &["charge:create", "charge:read", "refund:create"]);
        key.allowed_ips = vec!["192.0.2.0/24".into(), "2001:db8::/32".into()];
        key.labels = [("shop".to_owned(), number.to_string()), ("till".to_owned(), "4".to_owned())].into();
        keys.push(service.make(key).await.key);
    }
    let mut health = HealthClient::new(service.channel());
    for (round, cold) in keys.chunks(COLD_KEYS).enumerate() {
        let mut empty = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let begun = Instant::now();
            health.check(HealthCheckRequest { service: String::new() }).await.unwrap();
            empty.push(begun.elapsed());
        }
        report(engine, "empty unary call", round, empty, (0, 0), CALLS);

        let mut client = service.admin();
        let mut validate = async |key: &str| {
            let request = proto::ValidateRequest {
                key: key.to_owned(),
                caller_ip: "192.0.2.7".into(),
                required_scopes: vec!["charge:create".into(), "charge:read".into()],
                ..Default::default()
            };
            let begun = Instant::now();
            let answer = client.validate(request).await.unwrap().into_inner();
            let took = begun.elapsed();
            assert!(answer.valid);
            took
        };
        let before = service.work();
        let mut times = Vec::with_capacity(COLD_KEYS);
        for key in cold {
            times.push(validate(key).await);
        }
        report(engine, "Validate, cold key", round, times, difference(service, before), COLD_KEYS);

        let before = service.work();
        let mut times = Vec::with_capacity(CALLS);
        for call in 0..CALLS {
            times.push(validate(&cold[call % COLD_KEYS]).await);
        }
        report(engine, "Validate, warm key", round, times, difference(service, before), CALLS);
    }
}

fn difference(service: &Service, before: (u64, u64)) -> (u64, u64) {
    let after = service.work();
    (after.0 - before.0, after.1 - before.1)
}

#[expect(clippy::cast_precision_loss, reason = "counts of a few thousand")]
fn report(engine: Engine, call: &str, round: usize, mut times: Vec<Duration>, work: (u64, u64), calls: usize) {
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e6;
    let each = |count: u64| count as f64 / calls as f64;
    println!(
        "{:<9} {call:<20} {:>5} {:>11.0} {:>11.0} {:>16.2} {:>12.2}",
        format!("{engine:?}"),
        round + 1,
        at(50),
        at(99),
        each(work.0),
        each(work.1)
    );
}
