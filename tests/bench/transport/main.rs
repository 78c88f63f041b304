//! What our transport costs: `cargo bench --bench transport`, on Linux.
//!
//! Validate is compared with an empty unary call of a bare tonic server, `ValidateStream` with an empty stream of the
//! same messages. The bare server is this executable once more, in a process of its own: the same build, allocator and
//! runtime, the same generated code, no layer, and one constant answer, copied for each call, that the service itself
//! gave to one of the questions. One client, the same for both, asks both the same questions, and reads the status and
//! the decision of every answer.
//!
//! The service is the real binary on SQLite with metrics and one trace in a hundred, sent to a collector in this
//! process. The questions are full decisions on keys that are in memory: chosen by Zipf's law, two allowed blocks,
//! three scopes, two labels, two scopes required; the caller shows a key of its own.
//!
//! Client and servers share the machine, so that no absolute figure is worth much; the ratio within a round, where both
//! servers had the same neighbours, is. Rounds are short and alternate, and all are shown; figures are medians. Beside
//! throughput stands the processor time of the server, which does not depend on how fast the client is. Latencies are
//! taken at a fixed rate, the same for both, from when each call ought to have begun.
//!
//! It judges no speed, but an answer other than the wanted one makes it fail. `--quick` tries it with few keys; `--main`
//! leaves out what no figure is taken from, for whoever is at work on the path.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::explicit_write,
    clippy::zombie_processes,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    unreachable_pub,
    dead_code,
    unused_macros,
    reason = "it is a tool for developers, and shares the harness of the tests"
)]

mod answers;
mod bare;
mod connection;
mod flood;
#[path = "../../it/harness/mod.rs"]
#[macro_use]
mod harness;
mod keys;
mod latency;
mod paced;
mod rounds;
mod servers;
mod streamed;
mod unary;

use std::{
    hint::black_box,
    process::ExitCode,
    time::{Duration, Instant},
};

use claviger::grpc::proto;
use prost::Message;
use tokio::runtime::Builder;

use answers::Answer;
use flood::Flood;
use harness::{client_of, collector::Collector};
use keys::Questions;
use rounds::{Compared, HEADING, Shape, Verdict};
use servers::{Bare, Real, Server};

/// As the service's own, in both servers.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MAIN_SHAPE: Shape = Shape { connections: 4, in_flight: 16 };
/// No load takes longer, even where everything is slow.
const LONGEST: Duration = Duration::from_mins(2);
const COPIES: u32 = 100_000;

/// How much is done.
struct Sizes {
    keys: usize,
    connections: &'static [usize],
    calls_in_flight: &'static [usize],
    items_in_flight: &'static [usize],
    /// Rounds of the main shape, and of the latencies.
    many_rounds: usize,
    rounds: usize,
    warm_up: Duration,
    round: Duration,
    flood: Flood,
}

impl Sizes {
    fn full() -> Self {
        let (warm_up, round) = (Duration::from_millis(200), Duration::from_millis(1_500));
        let flood = Flood {
            rounds: 5,
            rightful_per_second: 2_000.0,
            forged_per_second: 8_000.0,
            connections: 4,
            warm_up,
            round: Duration::from_secs(3),
        };
        Self {
            keys: 10_000,
            connections: &[1, 4, 16],
            calls_in_flight: &[1, 4, 16, 64],
            items_in_flight: &[64, 256],
            many_rounds: 7,
            rounds: 3,
            warm_up,
            round,
            flood,
        }
    }

    /// The shapes alone that figures are taken from.
    fn main() -> Self {
        let (connections, calls_in_flight): (&[_], &[_]) = (&[MAIN_SHAPE.connections], &[MAIN_SHAPE.in_flight]);
        Self { connections, calls_in_flight, items_in_flight: &[256], ..Self::full() }
    }

    fn quick() -> Self {
        let (warm_up, round) = (Duration::from_millis(50), Duration::from_millis(200));
        let full = Self::full();
        let flood =
            Flood { rounds: 3, rightful_per_second: 200.0, forged_per_second: 500.0, warm_up, round, ..full.flood };
        Self { keys: 200, many_rounds: 3, rounds: 3, warm_up, round, flood, ..full }
    }

    fn shapes(&self, in_flight: &'static [usize]) -> impl Iterator<Item = Shape> {
        self.connections
            .iter()
            .flat_map(move |&connections| in_flight.iter().map(move |&in_flight| Shape { connections, in_flight }))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |wanted: &str| arguments.iter().any(|argument| argument == wanted);
    if has("bare") {
        // The runtime that the service has.
        Builder::new_multi_thread().enable_all().build().unwrap().block_on(bare::serve());
        return ExitCode::SUCCESS;
    }
    let sizes = match () {
        () if has("--quick") => Sizes::quick(),
        () if has("--main") => Sizes::main(),
        () => Sizes::full(),
    };
    let (mut verdict, mut figures) = (Verdict::default(), Vec::new());
    measure(&sizes, &mut verdict, &mut figures);
    println!();
    for (name, figure, decimals) in figures {
        println!("{name}: {figure:.decimals$}");
    }
    if verdict.wrong() > 0 {
        println!("wrong answers: {}", verdict.wrong());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Names, values and decimals.
type Figures = Vec<(&'static str, f64, usize)>;

fn measure(sizes: &Sizes, verdict: &mut Verdict, figures: &mut Figures) {
    // The collector, and the making of keys: idle while anything is measured, but for spans.
    let household = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (collector, collecting) = household.block_on(Collector::start());
    let real = Real::start(collecting);
    let questions = household.block_on(Questions::make(&real, sizes.keys));
    let caller = questions.authorization.trim_start_matches("Bearer ");
    let mut client = household.block_on(async { client_of(real.serving.channel(), caller) });
    let answer = household.block_on(client.validate(questions.any().clone())).unwrap().into_inner();
    let bare = Bare::start(&answer);
    let servers = [real.server(), bare.server()];
    println!(
        "{} keys; a question has {} bytes, an answer {}",
        sizes.keys,
        questions.any().encoded_len(),
        answer.encoded_len()
    );
    // A read that a poll of the feed overtakes is not remembered, so twice.
    let warmed = [(); 2].map(|()| load(unary::once_each(servers[0], &questions)));
    verdict.look_at("the first calls", &warmed, Answer::VALID);

    unary_figures(sizes, servers, &questions, verdict, figures);
    stream_figures(sizes, servers, &questions, verdict, figures);
    let ratio = flood::latency_ratio(servers[0], &questions, sizes.flood, verdict);
    figures.push(("flood_latency_ratio", ratio, 3));
    figures.push(("bare_copy_us", copying(&answer), 3));
    println!("spans received by the collector: {}", collector.spans().len());
}

fn unary_figures(
    sizes: &Sizes,
    servers: [Server; 2],
    questions: &Questions,
    verdict: &mut Verdict,
    figures: &mut Figures,
) {
    println!("\nunary calls\n{}", HEADING.join("\n"));
    let compare = |shape: Shape, rounds| {
        let of = |server: usize| unary::run(servers[server], questions, shape, sizes.warm_up, sizes.round);
        Compared::by(shape, rounds, |server| load(of(server)))
    };
    let main = compare(MAIN_SHAPE, sizes.many_rounds);
    let others = sizes.shapes(sizes.calls_in_flight).filter(|shape| *shape != MAIN_SHAPE);
    let others: Vec<_> = others.map(|shape| compare(shape, sizes.rounds)).collect();
    let all = others.iter().chain([&main]);
    verdict.look_at("unary calls", all.flat_map(Compared::tallies), Answer::VALID);
    figures.extend([
        ("unary_ratio", main.throughput_ratio(), 3),
        ("unary_cpu_ratio", main.cpu_ratio(), 3),
        ("unary_per_second", main.ours_per_second(), 0),
        ("bare_per_second", main.bare_per_second(), 0),
        ("unary_cpu_us", main.median(|ours, _| ours.cpu), 2),
        ("bare_cpu_us", main.median(|_, bare| bare.cpu), 2),
    ]);
    // Half of what the slower one can do.
    let per_second = main.ours_per_second().min(main.bare_per_second()) / 2.0;
    latency::figures(sizes, servers, questions, per_second, verdict, figures);
}

fn stream_figures(
    sizes: &Sizes,
    servers: [Server; 2],
    questions: &Questions,
    verdict: &mut Verdict,
    figures: &mut Figures,
) {
    println!("\nstreams, one a connection\n{}", HEADING.join("\n"));
    let compare = |shape: Shape| {
        let of = |server: usize| streamed::run(servers[server], questions, shape, sizes.warm_up, sizes.round);
        Compared::by(shape, sizes.rounds, |server| load(of(server)))
    };
    let all: Vec<_> = sizes.shapes(sizes.items_in_flight).map(compare).collect();
    verdict.look_at("items of streams", all.iter().flat_map(Compared::tallies), Answer::VALID);
    let best = all.iter().max_by(|one, other| one.ours_per_second().total_cmp(&other.ours_per_second())).unwrap();
    println!("figures of streams: {} connections with {} open", best.shape.connections, best.shape.in_flight);
    figures.extend([
        ("stream_ratio", best.throughput_ratio(), 3),
        ("stream_cpu_ratio", best.cpu_ratio(), 3),
        ("stream_per_second", best.ours_per_second(), 0),
        ("bare_stream_per_second", best.bare_per_second(), 0),
        ("stream_cpu_us", best.median(|ours, _| ours.cpu), 3),
        ("bare_stream_cpu_us", best.median(|_, bare| bare.cpu), 3),
    ]);
}

/// Runs a load on one thread, see `connection.rs`. A call that is never answered is an answer that was not wanted.
fn load<T>(work: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LONGEST, work).await.expect("each call is answered") })
}

/// Microseconds that the bare service spends on a copy of its answer, which its figures contain.
fn copying(answer: &proto::ValidateResponse) -> f64 {
    let began = Instant::now();
    for _ in 0..COPIES {
        drop(black_box(black_box(answer).clone()));
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(COPIES)
}
