//! Latencies of unary calls at a fixed rate, the same for both servers.

use super::{
    Figures, MAIN_SHAPE, Sizes,
    answers::Answer,
    keys::Questions,
    load,
    paced::{self, Pace, Paced},
    rounds::{Verdict, alternating, median},
    servers::Server,
};

pub fn figures(
    sizes: &Sizes,
    servers: [Server; 2],
    questions: &Questions,
    per_second: f64,
    verdict: &mut Verdict,
    figures: &mut Figures,
) {
    println!(
        "\nlatencies of unary calls in µs, {per_second:.0} calls a second on {} connections",
        MAIN_SHAPE.connections
    );
    println!("        claviger                                bare");
    println!("round   answered/s     p50     p99   p99.9   answered/s     p50     p99   p99.9");
    let pace = Pace { connections: MAIN_SHAPE.connections, per_second, warm_up: sizes.warm_up, round: sizes.round };
    let mut rounds = Vec::new();
    for round in 0..sizes.many_rounds {
        let pair = alternating(round, |server| {
            let paced = paced::run(servers[server], &questions.authorization, pace, || questions.next_framed());
            load(paced)
        });
        let told = pair.each_ref().map(|paced| {
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| paced.micros(quantile));
            format!("{:>12.0} {p50:>7.0} {p99:>7.0} {p999:>7.0}", paced.per_second)
        });
        println!("{:>5} {} {}", round + 1, told[0], told[1]);
        rounds.push(pair);
    }
    let tallies = rounds.iter().flatten().map(|paced| &paced.tally);
    verdict.look_at("paced calls", tallies, Answer::VALID);
    let of = |server: usize, quantile| {
        median(rounds.iter().map(|pair: &[Paced; 2]| pair[server].micros(quantile)).collect())
    };
    figures.extend([
        ("unary_p50_us", of(0, 0.5), 0),
        ("unary_p99_us", of(0, 0.99), 0),
        ("unary_p999_us", of(0, 0.999), 0),
        ("bare_p50_us", of(1, 0.5), 0),
        ("bare_p99_us", of(1, 0.99), 0),
        ("bare_p999_us", of(1, 0.999), 0),
    ]);
}
