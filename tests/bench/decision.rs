//! What one decision costs in process, from the text of a key to the answer: `cargo bench --bench decision`.
//!
//! The caller is known and the transport left out. The service holds 10,000 keys on SQLite, asked for by Zipf's law, each
//! with three scopes of which two are required, two labels, and no, two or a hundred blocks of addresses: for each of
//! these there is a service of its own. Forged is a key string of the right form, with the right checksum, whose tag
//! another root secret made; mistyped one with a wrong character; absent one that this deployment could have made and did
//! not, and that it remembers not to know. Five rounds alternate the kinds; each figure is the mean of a round, and in
//! the end the median of the rounds.
//!
//! Allocations are counted on the thread that asks, in a round of their own; while time is taken, nothing is counted.
//! The allocator is the system's. No test: it judges nothing but whether the answers are right. `--quick` asks for less.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::explicit_write,
    clippy::zombie_processes,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub,
    dead_code,
    unused_macros,
    reason = "it is a tool for developers, and shares the harness of the tests"
)]

mod asking;
#[path = "../rig/dice.rs"]
mod dice;
mod figures;
#[path = "../it/harness/mod.rs"]
#[macro_use]
mod harness;
mod population;
mod zipf;

use std::{hint::black_box, time::Instant};

use asking::{Ask, Code, InProcess, Wrong};
use figures::{all, median};
use harness::{Engine, TestDatabase};
use population::{Mint, Shape};
use zipf::Zipf;

const ROUNDS: usize = 5;
/// Key strings that are refused, of each kind.
const REFUSED: u64 = 1_000;

/// One kind of call.
struct Kind<'a> {
    name: &'static str,
    service: &'a InProcess,
    texts: &'a [String],
    right: Code,
}

/// What one call of a kind cost.
struct Cost {
    nanoseconds: Vec<f64>,
    allocations: f64,
    reads: f64,
    hashes: f64,
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (keys, calls) = if quick { (200, 2_000) } else { (10_000, 200_000) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mint = Mint::new();
    let texts: Vec<String> = (0..keys).map(|number| mint.text(number)).collect();
    let (forged, mistyped, absent) = refused(&mint, keys);
    let services = runtime.block_on(async {
        let mut services = Vec::new();
        for blocks in [2, 0, 100] {
            let database = asking::database(Engine::Sqlite, keys, Shape::Client { blocks }).await.unwrap();
            let service = InProcess::start(&database, asking::settings(200_000)).await;
            service.warm(&texts, Code::Valid).await;
            services.push((service, database));
        }
        services[0].0.warm(&absent, Code::NotFound).await;
        services
    });
    let kind = |name, service: usize, texts, right| {
        let (service, _): &(InProcess, TestDatabase) = &services[service];
        Kind { name, service, texts, right }
    };
    let kinds = [
        kind("decision", 0, &texts[..], Code::Valid),
        kind("decision_no_rules", 1, &texts[..], Code::Valid),
        kind("decision_100_blocks", 2, &texts[..], Code::Valid),
        kind("forged", 0, &forged[..], Code::Malformed),
        kind("mistyped", 0, &mistyped[..], Code::Malformed),
        kind("absent", 0, &absent[..], Code::NotFound),
    ];
    // The runtime's threads poll the feed, while this one, which is none of them, asks.
    let _runtime = runtime.enter();
    measure(&kinds, calls);
}

/// Key strings that open nothing: forged, mistyped, and of numbers that were never made.
fn refused(mint: &Mint, keys: u64) -> (Vec<String>, Vec<String>, Vec<String>) {
    let forged = (0..REFUSED).map(|number| Mint::forger().text(number)).collect();
    let mistyped = (0..REFUSED).map(|number| mistype(&mint.text(number))).collect();
    let absent = (keys..keys + REFUSED).map(|number| mint.text(number)).collect();
    (forged, mistyped, absent)
}

/// One wrong character in the secret.
fn mistype(text: &str) -> String {
    let at = text.len() - 30;
    let wrong = if text.as_bytes()[at] == b'7' { "8" } else { "7" };
    format!("{}{wrong}{}", &text[..at], &text[at + 1..])
}

fn measure(kinds: &[Kind], calls: usize) {
    let mut wrong = Wrong::default();
    let mut costs: Vec<Cost> = kinds.iter().map(|kind| count(kind, calls, &mut wrong)).collect();
    for round in 0..=ROUNDS {
        for (kind, cost) in kinds.iter().zip(&mut costs) {
            let nanoseconds = time(kind, calls, round as u64, &mut wrong);
            // The first one warms up.
            if round > 0 {
                cost.nanoseconds.push(nanoseconds);
            }
        }
    }
    println!("in process, {calls} calls a round; ns a call in each of {ROUNDS} rounds");
    println!("{:<22}{:>width$}{:>10}{:>8}{:>8}", "kind", "rounds", "allocs", "reads", "hashes", width = ROUNDS * 10);
    for (kind, cost) in kinds.iter().zip(&costs) {
        let Cost { nanoseconds, allocations, reads, hashes } = cost;
        println!("{:<22}{}{allocations:>10.2}{reads:>8.3}{hashes:>8.3}", kind.name, all(nanoseconds, 0));
    }
    wrong.judge();
    for (kind, cost) in kinds.iter().zip(costs) {
        println!("{}_ns: {:.0}", kind.name, median(cost.nanoseconds));
        println!("{}_allocations: {:.2}", kind.name, cost.allocations);
        if kind.right != Code::Valid {
            println!("{}_reads: {:.3}", kind.name, cost.reads);
            println!("{}_hashes: {:.3}", kind.name, cost.hashes);
        }
    }
}

/// Nanoseconds a call.
fn time(kind: &Kind, calls: usize, seed: u64, wrong: &mut Wrong) -> f64 {
    let (ask, ranks) = (Ask::new(), Zipf::new(kind.texts.len()).calls(calls, seed));
    let mut others = Vec::new();
    let mut took = 0.0;
    // Counting would cost a few nanoseconds for each allocation.
    allocation_counter::opt_out(|| {
        let began = Instant::now();
        for rank in ranks {
            let answer = ask.decide_once(kind.service, black_box(&kind.texts[rank]));
            if answer != kind.right {
                others.push(answer);
            }
        }
        took = began.elapsed().as_secs_f64();
    });
    wrong.note_all(kind.name, others, kind.right);
    took * 1e9 / calls as f64
}

/// Allocations and work a call.
fn count(kind: &Kind, calls: usize, wrong: &mut Wrong) -> Cost {
    let (ask, ranks) = (Ask::new(), Zipf::new(kind.texts.len()).calls(calls, 0));
    let mut answers = Vec::with_capacity(calls);
    let before = kind.service.work();
    let counted = allocation_counter::measure(|| {
        for rank in &ranks {
            answers.push(ask.decide_once(kind.service, &kind.texts[*rank]));
        }
    });
    let after = kind.service.work();
    wrong.note_all(kind.name, answers, kind.right);
    let each = |count: u64| count as f64 / calls as f64;
    Cost {
        nanoseconds: Vec::new(),
        allocations: each(counted.count_total),
        reads: each(after.0 - before.0),
        hashes: each(after.1 - before.1),
    }
}
