//! What rightful callers feel of a flood of forged key strings: their latencies with and without it.
//!
//! Rightful calls come at a fixed rate on one connection. The flood comes on others, at a fixed rate that the machine
//! can hold, by unary calls: so each forged string costs the server all that a call costs. A thread of its own sends
//! it, on the same machine: what that takes from the rightful client and the server is in the figure, too.

use std::{cell::Cell, thread, time::Duration};

use prost::bytes::Bytes;

use super::{
    answers::{Answer, Tally},
    keys::{Questions, forged},
    load,
    paced::{self, Pace, Paced},
    rounds::{Verdict, alternating, median},
    servers::Server,
};

/// What is measured, and for how long.
#[derive(Clone, Copy)]
pub struct Flood {
    pub rounds: usize,
    pub rightful_per_second: f64,
    pub forged_per_second: f64,
    pub connections: usize,
    pub warm_up: Duration,
    pub round: Duration,
}

impl Flood {
    fn rightful(&self) -> Pace {
        Pace { connections: 1, per_second: self.rightful_per_second, warm_up: self.warm_up, round: self.round }
    }

    fn forged(&self) -> Pace {
        Pace { connections: self.connections, per_second: self.forged_per_second, ..self.rightful() }
    }

    fn strings(&self) -> usize {
        ((self.warm_up + self.round).as_secs_f64() * self.forged_per_second) as usize
    }
}

/// The median of the ratios of the 99th percentiles, with the flood to without it.
pub fn latency_ratio(server: Server, questions: &Questions, flood: Flood, verdict: &mut Verdict) -> f64 {
    println!();
    println!(
        "{:.0} rightful calls a second on 1 connection; the flood: {:.0} forged ones on {}, no two alike",
        flood.rightful_per_second, flood.forged_per_second, flood.connections
    );
    println!("round   without: p50 µs   p99 µs   with: p50 µs   p99 µs   forged/s   ratio of p99");
    let strings = forged(questions, flood.strings() * flood.rounds);
    let (mut rightful, mut refused, mut ratios) = (Vec::new(), Vec::<Tally>::new(), Vec::new());
    for (round, strings) in strings.chunks(flood.strings()).enumerate() {
        let mut forged_per_second = 0.0;
        let pair = alternating(round, |with| {
            if with == 0 {
                return quiet(server, questions, flood);
            }
            let authorization = &questions.authorization;
            let (felt, flooded) = thread::scope(|scope| {
                let flooding = scope.spawn(|| forge(server, authorization, flood, strings));
                (quiet(server, questions, flood), flooding.join().unwrap())
            });
            forged_per_second = flooded.per_second;
            refused.push(flooded.tally);
            felt
        });
        let [without, with] = &pair;
        let ratio = with.micros(0.99) / without.micros(0.99);
        println!(
            "{:>5} {:>17.0} {:>8.0} {:>14.0} {:>8.0} {forged_per_second:>10.0} {ratio:>14.3}",
            round + 1,
            without.micros(0.5),
            without.micros(0.99),
            with.micros(0.5),
            with.micros(0.99),
        );
        ratios.push(ratio);
        rightful.extend(pair.map(|paced| paced.tally));
    }
    verdict.look_at("rightful calls", &rightful, Answer::VALID);
    verdict.look_at("the flood", &refused, Answer::MALFORMED);
    median(ratios)
}

fn quiet(server: Server, questions: &Questions, flood: Flood) -> Paced {
    let authorization = &questions.authorization;
    load(paced::run(server, authorization, flood.rightful(), || questions.next_framed()))
}

fn forge(server: Server, authorization: &str, flood: Flood, strings: &[Bytes]) -> Paced {
    let next = Cell::new(0);
    load(paced::run(server, authorization, flood.forged(), || {
        let at = next.replace(next.get() + 1);
        strings[at % strings.len()].clone()
    }))
}
