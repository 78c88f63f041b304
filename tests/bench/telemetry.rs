//! What telemetry costs a warm Validate: `cargo bench --bench telemetry`.
//!
//! Four processes of the real binary, alike but for their telemetry: off altogether, metrics only, metrics and one trace in
//! a hundred, every trace. A collector runs in this process and receives what they send. The rounds alternate between
//! them; 4 connections with 16 calls in flight each ask for one key that was validated before. Every round is shown; the
//! figures are medians, and the ratios are taken within each round. No test: it judges nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::explicit_write,
    clippy::zombie_processes,
    clippy::cast_precision_loss,
    missing_docs,
    unreachable_pub,
    dead_code,
    unused_macros,
    reason = "it is a tool for developers, and shares the harness of the tests"
)]

#[path = "../it/harness/mod.rs"]
#[macro_use]
mod harness;

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use claviger::grpc::proto;
use harness::{
    collector::Collector,
    key_of,
    process::{Program, Serving, admin_key},
};

const ROUNDS: usize = 25;
/// Short, so that what else the machine does falls on all kinds alike.
const ROUND: Duration = Duration::from_millis(600);
const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 16;
const KINDS: [&str; 4] = ["off", "metrics", "metrics, 1 trace in 100", "metrics, every trace"];

struct Server {
    serving: Serving,
    admin: String,
    key: String,
    _folder: tempfile::TempDir,
}

#[tokio::main]
async fn main() {
    let (collector, address) = Collector::start().await;
    let mut servers = Vec::new();
    for kind in KINDS {
        servers.push(start(kind, address).await);
    }
    println!("calls a second, and µs of the server's CPU a call; {CONNECTIONS} connections with {IN_FLIGHT} in flight");
    println!("round  {}", KINDS.map(|kind| format!("{kind:>32}")).join(""));
    let mut rounds = Vec::new();
    for round in 0..=ROUNDS {
        let mut figures = Vec::new();
        for server in &servers {
            figures.push(measure(server).await);
        }
        // The first one warms up.
        if round > 0 {
            let told = figures.iter().map(|(rate, cpu)| format!("{:>32}", format!("{rate:.0}/s {cpu:.1} µs")));
            println!("{round:>5}  {}", told.collect::<String>());
            rounds.push(figures);
        }
    }
    println!("spans received by the collector: {}", collector.spans().len());
    let median = |mut values: Vec<f64>| {
        values.sort_unstable_by(f64::total_cmp);
        values[values.len() / 2]
    };
    for (kind, name) in ["off", "metrics", "sampled", "traced"].into_iter().enumerate() {
        println!("telemetry_{name}_per_second: {:.0}", median(rounds.iter().map(|round| round[kind].0).collect()));
    }
    for (kind, name) in ["metrics", "sampled", "traced"].into_iter().enumerate() {
        let ratios = rounds.iter().map(|round| round[kind + 1].0 / round[0].0).collect();
        println!("telemetry_{name}_ratio: {:.3}", median(ratios));
        let ratios = rounds.iter().map(|round| round[kind + 1].1 / round[0].1).collect();
        println!("telemetry_{name}_cpu_ratio: {:.3}", median(ratios));
    }
}

async fn start(kind: &str, collector: SocketAddr) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::new(folder.path());
    let to_collector = |program: Program| program.set("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}"));
    let program = match kind {
        "off" => program.set("OTEL_SDK_DISABLED", "true"),
        "metrics" => program,
        "metrics, every trace" => to_collector(program),
        _ => to_collector(program)
            .set("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
            .set("OTEL_TRACES_SAMPLER_ARG", "0.01"),
    };
    let serving = program.serve();
    let admin = admin_key(folder.path());
    let mut key = key_of("acme", &["charge:create", "charge:read", "refund:create"]);
    key.allowed_ips = vec!["192.0.2.0/24".into(), "2001:db8::/32".into()];
    let request = proto::CreateRequest { api_key: Some(key), ..Default::default() };
    let key = serving.client(&admin).create(request).await.unwrap().into_inner().key;
    Server { serving, admin, key, _folder: folder }
}

/// Calls a second, and microseconds of CPU that the server spent on each.
async fn measure(server: &Server) -> (f64, f64) {
    let (cpu, began) = (cpu_seconds(server.serving.running.pid()), Instant::now());
    let mut callers = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = server.serving.client(&server.admin);
        for _ in 0..IN_FLIGHT {
            let (mut client, key) = (client.clone(), server.key.clone());
            callers.push(tokio::spawn(async move {
                let mut calls = 0_u64;
                while began.elapsed() < ROUND {
                    let request = proto::ValidateRequest {
                        key: key.clone(),
                        caller_ip: "192.0.2.7".into(),
                        required_scopes: vec!["charge:create".into(), "charge:read".into()],
                        ..Default::default()
                    };
                    assert!(client.validate(request).await.unwrap().into_inner().valid);
                    calls += 1;
                }
                calls
            }));
        }
    }
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.unwrap();
    }
    let took = began.elapsed().as_secs_f64();
    let cpu = cpu_seconds(server.serving.running.pid()) - cpu;
    (calls as f64 / took, cpu * 1e6 / calls as f64)
}

/// User and system time of a process, in seconds: fields 14 and 15 of `/proc/PID/stat`, in hundredths.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    let fields: Vec<&str> = after_name.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / 100.0
}
