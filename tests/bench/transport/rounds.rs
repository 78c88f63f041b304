//! Rounds that alternate between the two servers, their table, and the figures at the end.

use std::time::Instant;

use super::{
    answers::{Answer, Tally},
    servers::{Cpu, Server},
};

/// How a load is spread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub connections: usize,
    /// On each connection: calls, or items of its stream.
    pub in_flight: usize,
}

/// What a run of one server told.
pub struct Run {
    pub tally: Tally,
    pub per_second: f64,
    /// Microseconds of the server's processor time a call.
    pub cpu: f64,
    /// How much of one processor the client took: at 1 it would be the client that is measured.
    pub client: f64,
}

/// Runs `load`, and looks what it takes.
pub async fn measured(server: Server, load: impl AsyncFnOnce() -> Tally) -> Run {
    let client = std::process::id();
    let (server_before, client_before, began) = (Cpu::of(server.pid), Cpu::of(client), Instant::now());
    let tally = load().await;
    let seconds = began.elapsed().as_secs_f64();
    let (server_after, client_after) = (Cpu::of(server.pid), Cpu::of(client));
    let calls = tally.total() as f64;
    Run {
        per_second: calls / seconds,
        cpu: server_before.seconds_until(&server_after) * 1e6 / calls,
        client: client_before.seconds_until(&client_after) / seconds,
        tally,
    }
}

/// The runs of both servers with one shape.
pub struct Compared {
    pub shape: Shape,
    rounds: Vec<[Run; 2]>,
}

pub const HEADING: [&str; 2] = [
    "                                 claviger             bare           ratio of         client's CPUs",
    "connections x open   round    per s  µs CPU    per s  µs CPU  throughput    CPU  claviger  bare",
];

impl Compared {
    /// Alternates so often; each server begins every other round, and each round is shown.
    pub fn by(shape: Shape, rounds: usize, mut run: impl FnMut(usize) -> Run) -> Self {
        let mut all = Vec::with_capacity(rounds);
        for round in 0..rounds {
            let pair = alternating(round, &mut run);
            let [ours, bare] = &pair;
            println!(
                "{:>11} x {:<6} {:>5} {:>8.0} {:>7.2} {:>8.0} {:>7.2} {:>11.3} {:>6.3} {:>8.2} {:>5.2}",
                shape.connections,
                shape.in_flight,
                round + 1,
                ours.per_second,
                ours.cpu,
                bare.per_second,
                bare.cpu,
                ours.per_second / bare.per_second,
                ours.cpu / bare.cpu,
                ours.client,
                bare.client,
            );
            all.push(pair);
        }
        Self { shape, rounds: all }
    }

    /// The median over the rounds of what `figure` makes of ours and the bare one's run.
    pub fn median(&self, figure: impl Fn(&Run, &Run) -> f64) -> f64 {
        median(self.rounds.iter().map(|[ours, bare]| figure(ours, bare)).collect())
    }

    pub fn throughput_ratio(&self) -> f64 {
        self.median(|ours, bare| ours.per_second / bare.per_second)
    }

    pub fn cpu_ratio(&self) -> f64 {
        self.median(|ours, bare| ours.cpu / bare.cpu)
    }

    pub fn ours_per_second(&self) -> f64 {
        self.median(|ours, _| ours.per_second)
    }

    pub fn bare_per_second(&self) -> f64 {
        self.median(|_, bare| bare.per_second)
    }

    pub fn tallies(&self) -> impl Iterator<Item = &Tally> {
        self.rounds.iter().flatten().map(|run| &run.tally)
    }
}

/// Asks for both of a pair; in every other round for the second first.
pub fn alternating<T>(round: usize, mut run: impl FnMut(usize) -> T) -> [T; 2] {
    if round.is_multiple_of(2) {
        let first = run(0);
        [first, run(1)]
    } else {
        let second = run(1);
        [run(0), second]
    }
}

/// The middle one; of an even number the upper of the two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// All answers so far, and whether they were what was wanted.
#[derive(Default)]
pub struct Verdict {
    wrong: u64,
}

impl Verdict {
    /// Shows what came, and keeps in mind what should not have.
    pub fn look_at<'a>(&mut self, what: &str, tallies: impl IntoIterator<Item = &'a Tally>, wanted: Answer) {
        let mut all = Tally::default();
        tallies.into_iter().for_each(|tally| all.add(tally));
        println!("answers to {what}: {all}");
        self.wrong += all.other_than(wanted);
    }

    pub fn wrong(&self) -> u64 {
        self.wrong
    }
}
