//! What size costs: memory for each key, calls among a million keys, and the time to start: `cargo bench --bench size`.
//!
//! All on PostgreSQL, but for the start, which has the embedded database. Two databases, with 10,000 and with a million
//! keys; the hashes of the first 10,000 are true ones, and only those are validated cold. Those of the others cost a
//! hundredth to run (see `population::Hashes`), or making and proving them would take a quarter of an hour; what is
//! remembered of a key is the same.
//!
//! `memory` validates each of the million once and looks at what the process holds; `scale` compares the two databases;
//! `start` runs the real binary. No test: it judges nothing but whether the answers are right. `--quick` takes fewer.
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

#[path = "../transport/answers.rs"]
mod answers;
#[path = "../asking.rs"]
mod asking;
#[path = "../transport/connection.rs"]
mod connection;
#[path = "../../rig/dice.rs"]
mod dice;
#[path = "../figures.rs"]
mod figures;
#[path = "../../it/harness/mod.rs"]
#[macro_use]
mod harness;
mod memory;
#[path = "../population.rs"]
mod population;
mod scale;
mod start;
mod wire;
#[path = "../zipf.rs"]
mod zipf;

use std::time::Instant;

use asking::Wrong;
use harness::{Engine, TestDatabase};
use population::{Hashes, Shape};

/// As the service's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How much of everything.
#[derive(Clone, Copy)]
struct Sizes {
    small: u64,
    /// Keys held when memory is looked at for the first time.
    middling: u64,
    large: u64,
    warm_calls: usize,
    cold_calls: u64,
    pages: usize,
}

const FULL: Sizes =
    Sizes { small: 10_000, middling: 100_000, large: 1_000_000, warm_calls: 100_000, cold_calls: 1_000, pages: 200 };
const QUICK: Sizes = Sizes { small: 500, middling: 1_500, large: 4_000, warm_calls: 2_000, cold_calls: 50, pages: 10 };
const SHAPE: Shape = Shape::Client { blocks: 2 };

/// The two databases.
struct Databases {
    small: TestDatabase,
    large: TestDatabase,
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let sizes = if quick { QUICK } else { FULL };
    let mut wrong = Wrong::default();
    let starts = start::measure().await;
    let began = Instant::now();
    let Some(databases) = Databases::fill(sizes).await else {
        wrong.add("PostgreSQL: not on this machine".to_owned(), 1);
        return wrong.judge();
    };
    println!("filling the databases took {:.0} s", began.elapsed().as_secs_f64());
    let unwarmed = scale::unwarmed(&databases, sizes, &mut wrong).await;
    let (held, full) = memory::measure(&databases.large, sizes, &mut wrong).await;
    let warm = scale::warm(&databases.small, &full, sizes, &mut wrong).await;
    full.stop().await;
    let ratios = unwarmed.ratios();
    wrong.judge();
    starts.tell();
    held.tell();
    unwarmed.tell(&warm, &ratios);
}

impl Databases {
    async fn fill(sizes: Sizes) -> Option<Self> {
        let small = asking::database(Engine::Postgres, sizes.small, SHAPE).await?;
        let large = asking::database(Engine::Postgres, sizes.small, SHAPE).await?;
        population::fill(&large, sizes.small..sizes.large, SHAPE, Hashes::Cheap).await;
        Some(Self { small, large })
    }
}
