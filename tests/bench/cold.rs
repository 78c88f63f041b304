//! What the first validation of many keys costs, and what it does to those that are warm: `cargo bench --bench cold`.
//!
//! In process, on SQLite and on PostgreSQL, with 10,000 and with 100,000 keys. In each of three rounds a service starts
//! with an empty memory, and 64 callers validate each key once. Reads and hashes are counted where they happen, by the
//! driver and by argon2; the caller was judged before, and nothing else runs that reads or hashes. What is refused
//! because too many hashes wait is counted, and asked again after the time that the service names.
//!
//! Meanwhile, and for a while before, a thread hands the service a call for a warm key every two milliseconds, as a
//! connection would, and waits for the answer; its time includes the wait for one of the runtime's two threads. The keys,
//! their order and the rounds are the same for both engines, which alternate. No test: it judges nothing but whether the
//! answers are right. `--quick` takes fewer keys.
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

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use asking::{Ask, Code, InProcess, Wrong, pause};
use figures::{median, percentile};
use harness::{Engine, TestDatabase};
use population::{Mint, Shape};
use tokio::{runtime::Handle, task::JoinSet};

const ROUNDS: usize = 3;
const IN_FLIGHT: usize = 64;
/// How often a warm key is asked for.
const WARM_EVERY: Duration = Duration::from_millis(2);
/// How long it is asked for before the others come.
const BEFORE: Duration = Duration::from_secs(2);

/// One engine with so many keys, and what was measured there.
struct Place {
    engine: Engine,
    keys: u64,
    database: TestDatabase,
    rounds: Vec<Round>,
}

/// What came of validating each key once.
struct Round {
    reads: f64,
    hashes: f64,
    keys_per_second: f64,
    overloaded: u64,
    /// Microseconds: the median and the 99th percentile of warm calls, before the others came and while they were there.
    before: (f64, f64),
    meanwhile: (f64, f64),
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let sizes: [u64; 2] = if quick { [500, 1_000] } else { [10_000, 100_000] };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut wrong = Wrong::default();
    let mut places = Vec::new();
    runtime.block_on(async {
        for keys in sizes {
            for engine in [Engine::Sqlite, Engine::Postgres] {
                // One more, which is the warm one.
                match asking::database(engine, keys + 1, Shape::Client { blocks: 2 }).await {
                    Some(database) => places.push(Place { engine, keys, database, rounds: Vec::new() }),
                    None => wrong.add(format!("{engine:?}: not on this machine"), 1),
                }
            }
        }
    });
    println!(
        "engine        keys  round     keys/s  reads/key  hashes/key  overloaded  warm µs before (p50, p99)   meanwhile"
    );
    for round in 1..=ROUNDS {
        for place in &mut places {
            let measured = runtime.block_on(measure(place, &mut wrong));
            println!("{:<9} {:>8}  {round:>5}  {}", format!("{:?}", place.engine), place.keys, measured.told());
            place.rounds.push(measured);
        }
    }
    wrong.judge();
    tell(&places, sizes[1]);
}

/// The figures; a speed is that of the larger number of keys.
fn tell(places: &[Place], larger: u64) {
    let middle = |place: &Place, of: fn(&Round) -> f64| median(place.rounds.iter().map(of).collect());
    let worst = |of: fn(&Round) -> f64| places.iter().map(|place| middle(place, of)).fold(0.0, f64::max);
    let p99_ratio = |round: &Round| round.meanwhile.1 / round.before.1;
    for place in places {
        let name = format!("{:?}", place.engine).to_lowercase();
        let (keys, rate) = (place.keys, middle(place, |round| round.keys_per_second));
        println!("cold_keys_per_second_{name}_{keys}: {rate:.0}");
        println!("cold_warm_p99_us_before_{name}_{keys}: {:.0}", middle(place, |round| round.before.1));
        println!("cold_warm_p99_us_meanwhile_{name}_{keys}: {:.0}", middle(place, |round| round.meanwhile.1));
        if keys == larger {
            println!("cold_keys_per_second_{name}: {rate:.0}");
        }
    }
    println!("cold_reads_per_key: {:.4}", worst(|round| round.reads));
    println!("cold_hashes_per_key: {:.4}", worst(|round| round.hashes));
    println!("cold_warm_p99_ratio: {:.2}", worst(p99_ratio));
}

impl Round {
    fn told(&self) -> String {
        let Self { reads, hashes, keys_per_second, overloaded, before, meanwhile } = self;
        format!(
            "{keys_per_second:>9.0}  {reads:>9.4}  {hashes:>10.4}  {overloaded:>10}  {:>17.0}, {:>7.0}  {:>7.0}, {:>7.0}",
            before.0, before.1, meanwhile.0, meanwhile.1
        )
    }
}

async fn measure(place: &Place, wrong: &mut Wrong) -> Round {
    let keys = place.keys;
    let service = Arc::new(InProcess::start(&place.database, asking::settings(200_000)).await);
    let warm = Mint::new().text(keys);
    service.warm(std::slice::from_ref(&warm), Code::Valid).await;

    let asking = AskingOn::begin(&service, warm.clone());
    pause(BEFORE).await;
    let before = asking.end(wrong).await;

    let work = service.work();
    let asking = AskingOn::begin(&service, warm);
    let began = Instant::now();
    let overloaded = validate_each(&service, keys, wrong).await;
    let took = began.elapsed().as_secs_f64();
    let meanwhile = asking.end(wrong).await;
    let (reads, hashes) = service.work();

    let each = |count: u64| count as f64 / keys as f64;
    let round = Round {
        reads: each(reads - work.0),
        hashes: each(hashes - work.1),
        keys_per_second: keys as f64 / took,
        overloaded,
        before,
        meanwhile,
    };
    service.stop().await;
    round
}

/// Validates each key once, and tells how often one had to be asked again.
async fn validate_each(service: &Arc<InProcess>, keys: u64, wrong: &mut Wrong) -> u64 {
    let next = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (service, next) = (Arc::clone(service), Arc::clone(&next));
        callers.spawn(async move {
            let (ask, mint) = (Ask::new(), Mint::new());
            let (mut others, mut overloaded) = (Vec::new(), 0);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= keys {
                    return (others, overloaded);
                }
                let text = mint.text(number);
                let mut answer = ask.decide(&service, &text).await;
                while let Code::Overloaded(retry_after) = answer {
                    overloaded += 1;
                    pause(retry_after).await;
                    answer = ask.decide(&service, &text).await;
                }
                if answer != Code::Valid {
                    others.push(answer);
                }
            }
        });
    }
    let mut overloaded = 0;
    while let Some(ended) = callers.join_next().await {
        let (others, more) = ended.unwrap();
        overloaded += more;
        wrong.note_all("a cold key", others, Code::Valid);
    }
    overloaded
}

/// A thread that asks for a warm key over and over.
struct AskingOn {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<Vec<(Code, Duration)>>,
}

impl AskingOn {
    fn begin(service: &Arc<InProcess>, key: String) -> Self {
        let (stop, stopped) = mpsc::channel();
        let (service, runtime, key) = (Arc::clone(service), Handle::current(), Arc::new(key));
        let thread = thread::spawn(move || {
            let mut times = Vec::new();
            while stopped.recv_timeout(WARM_EVERY) == Err(RecvTimeoutError::Timeout) {
                let (tell, told) = mpsc::channel();
                let (service, key) = (Arc::clone(&service), Arc::clone(&key));
                let began = Instant::now();
                runtime.spawn(async move { tell.send(Ask::new().decide(&service, &key).await) });
                times.push((told.recv().unwrap_or(Code::Failed), began.elapsed()));
            }
            times
        });
        Self { stop, thread }
    }

    /// The median and the 99th percentile, in microseconds.
    async fn end(self, wrong: &mut Wrong) -> (f64, f64) {
        drop(self.stop);
        let measured = tokio::task::spawn_blocking(move || self.thread.join().unwrap()).await.unwrap();
        let (answers, times): (Vec<Code>, Vec<Duration>) = measured.into_iter().unzip();
        wrong.note_all("a warm key", answers, Code::Valid);
        (percentile(&times, 50), percentile(&times, 99))
    }
}
